/**
 * The smallest race between two domains: one shared word, granted by one and mapped by the other, that both
 * increment by a load and a store instead of one atomic operation. Raw programs, no kernels.
 */
import { mapGrantRefs, mapOp } from "../../domains/grant-calls.ts";
import { addToPhysmap } from "../../domains/hypercalls.ts";
import { createCaller } from "../../domains/kernel.ts";
import { type Cpu, compareExchangeWord, loadWord, storeWord } from "../../domains/memory.ts";
import type { MachineImage } from "../../explore/image.ts";
import { buildMachine } from "../../explore/machine.ts";
import { type Outcome, run, runPart } from "../../explore/run.ts";
import type { Scheduler } from "../../explore/scheduler.ts";
import type { Machine, Part } from "../../explore/state.ts";
import { GNTMAP_host_map, GTF_permit_access } from "../../shared/abi/grant.ts";
import { XENMAPSPACE_grant_table } from "../../shared/abi/memory.ts";
import { bootInfoOf } from "../../shared/boot-info.ts";
import { DOM, domainOf } from "../../shared/layout.ts";
import type { MachineModel } from "../../shared/machine.ts";
import { Mmu } from "../../shared/mmu.ts";
import { type Program, TRAP_SLEEP } from "../../shared/trap.ts";
import { testDom0, testDomain, testModel } from "../hypervisor/harness.ts";

const GRANTER = 1;
const MAPPER = 2;
const REF = 8;
const RAM = 0x40000;
const SHARED = (RAM + 16) * 4096;
const ARGUMENTS = (RAM + 32) * 4096;
const GRANT_GFN = 0x38000;
const HOLE = 0x60000 * 4096;

/** Increments that each domain makes. */
export const INCREMENTS = 4;

/** How a word is incremented: `racy` is the planted bug. */
export type Increment = "racy" | "atomic";

export const lostUpdateModel = (): MachineModel =>
  testModel(
    [
      testDom0({
        runs: false,
        memoryPages: 16,
        staticMemory: [{ base: 0x4020_0000, size: 0x10000 }],
      }),
      testDomain("granter", { memoryPages: 64, maxGrantFrames: 1 }),
      testDomain("mapper", { memoryPages: 64, maxGrantFrames: 1, maxMaptrackFrames: 1 }),
    ],
    {
      banks: [{ base: 0x4000_0000, size: 4 * 2 ** 20 }],
      limits: {
        domains: 3,
        slots: 8,
        grantFrames: 1,
        maptrackFrames: 1,
        ports: 64,
        xenHeapPages: 160,
        traceRecords: 8,
      },
    },
  );

const slotOf = (machine: Machine, domid: number): number =>
  machine.words[domainOf(machine.layout, domid) + DOM.SLOT] ?? -1;

export function cpuOf(machine: Machine, domid: number, points: boolean): Cpu {
  const slot = slotOf(machine, domid);
  return {
    mmu: new Mmu(machine.words, machine.memory, machine.layout, slot),
    words: machine.words,
    layout: machine.layout,
    slot,
    points,
    boot: bootInfoOf(machine.model, domid, domid),
  };
}

function* increment(cpu: Cpu, address: number, how: Increment): Program {
  for (let i = 0; i < INCREMENTS; i++) {
    let seen = yield* loadWord(cpu, address);
    if (how === "racy") {
      yield* storeWord(cpu, address, seen + 1);
      continue;
    }
    for (let tries = 0; tries < 1000; tries++) {
      const found = yield* compareExchangeWord(cpu, address, seen, seen + 1);
      if (found === seen) break;
      seen = found;
    }
  }
}

function* granter(cpu: Cpu, how: Increment): Program {
  const caller = createCaller(cpu, ARGUMENTS);
  yield* addToPhysmap(caller, XENMAPSPACE_grant_table, 0, GRANT_GFN);
  const entry = GRANT_GFN * 4096 + REF * 8;
  yield* storeWord(cpu, entry + 4, SHARED / 4096);
  yield* storeWord(cpu, entry, MAPPER * 65536 + GTF_permit_access);
  yield* increment(cpu, SHARED, how);
}

function* mapper(cpu: Cpu, how: Increment): Program {
  const caller = createCaller(cpu, ARGUMENTS);
  const map = mapOp(HOLE, GNTMAP_host_map, REF, GRANTER);
  // The grant may not be there yet; on a real machine the frontend says so through the store.
  for (let tries = 0; tries < 100; tries++) {
    yield* mapGrantRefs(caller, [map]);
    if (map.status === 0) break;
    yield { kind: TRAP_SLEEP, timeMs: 1 };
  }
  yield* increment(cpu, HOLE, how);
}

/** Runs both domains under a scheduler. */
export function runLostUpdate(
  how: Increment,
  scheduler: Scheduler,
  seed: number,
  image?: MachineImage,
): { readonly outcome: Outcome; readonly sum: number } {
  const partOf = (machine: Machine, slot: number): Part | undefined => {
    if (slot === slotOf(machine, GRANTER)) {
      return {
        name: "granter",
        program: granter(cpuOf(machine, GRANTER, true), how),
        mustFinish: true,
      };
    }
    if (slot !== slotOf(machine, MAPPER)) return undefined;
    return { name: "mapper", program: mapper(cpuOf(machine, MAPPER, true), how), mustFinish: true };
  };
  const machine = buildMachine(image ?? lostUpdateModel(), {
    seed,
    scheduler,
    points: true,
    partOf,
  });
  const outcome = run(machine, { command: "run lost-update --engine explore", maxSteps: 10_000 });
  const cpu = cpuOf(machine, GRANTER, false);
  const part = { name: "reader", program: loadWord(cpu, SHARED), mustFinish: true };
  const { schedule } = outcome;
  const kept = { ...outcome, schedule: [...schedule] };
  return { outcome: kept, sum: Number(runPart(machine, cpu.slot, part)) };
}
