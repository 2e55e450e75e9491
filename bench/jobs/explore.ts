/**
 * The one-thread engine: a step on its own, steps of two domains that map and look on, a fresh machine, and
 * yardstick G, a closure chosen by the seeded generator.
 */
import { loadWord, POINT, readBytes, writeBytes } from "../../domains/memory.ts";
import { type MachineImage, machineImage } from "../../explore/image.ts";
import { buildMachine, step } from "../../explore/machine.ts";
import { randomScheduler } from "../../explore/random.ts";
import type { Machine, Part } from "../../explore/state.ts";
import { step as stepHypervisor } from "../../hypervisor/main.ts";
import { MAP_HANDLE, UNMAP_HANDLE } from "../../shared/abi/grant.ts";
import { assert, at } from "../../shared/assert.ts";
import { bootInfoOf } from "../../shared/boot-info.ts";
import { LINE, lineOf, SLOT_KIND_VCPU } from "../../shared/layout.ts";
import { GRANT_ENTRY_BYTES, PAGE_SIZE } from "../../shared/limits.ts";
import type { MachineModel } from "../../shared/machine.ts";
import { Mmu } from "../../shared/mmu.ts";
import { type HypercallTrap, type Program, TRAP_HYPERCALL } from "../../shared/trap.ts";
import { type GrantBatch, grantBatch, grantPages, refOf } from "../grant-batch.ts";
import { GRANTER, MAPPER, smallModel } from "../machine.ts";
import { type RawGuest, rawGuest } from "../raw-guest.ts";
import type { Job } from "../worker-api.ts";

const SEED = 7;
const ACTORS = 3;
const ELEMENTS = 2;
const RUN_STEPS = 100;

/** G. */
export function chosenClosure(): Job {
  const scheduler = randomScheduler();
  scheduler.begin(SEED);
  let calls = 0;
  const closures = Array.from({ length: ACTORS }, (_, i) => () => {
    calls = (calls + i) | 0;
  });
  return {
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) closures[scheduler.number(ACTORS)]?.();
    },
  };
}

function* forever(): Program {
  for (;;) yield POINT;
}

const partOf = (program: Program): Part => ({ name: "bench", program, mustFinish: false });

const domainOfSlot = (machine: Machine, slot: number): number => {
  const line = lineOf(machine.layout, slot);
  if (at(machine.words, line + LINE.KIND) !== SLOT_KIND_VCPU) return -1;
  return at(machine.words, line + LINE.DOMAIN);
};

function machineOf(
  program: (machine: Machine, domid: number) => Program,
  from: MachineModel | MachineImage = smallModel(),
): Machine {
  return buildMachine(from, {
    seed: SEED,
    scheduler: randomScheduler(),
    points: true,
    partOf: (machine, slot) => {
      const domid = domainOfSlot(machine, slot);
      return domid < 0 ? undefined : partOf(program(machine, domid));
    },
  });
}

/** Steps `machine`; what it remembers of its schedule would otherwise grow for ever. */
function stepJob(machine: Machine, stepsPerTurn: number): Job {
  return {
    run: (turns) => {
      for (let i = 0; i < turns * stepsPerTurn; i++) step(machine);
      machine.schedule.length = 0;
    },
    end: () => {
      assert(machine.findings.length === 0, "the machine is sound");
      assert(machine.deaths.length === 0, "every program still runs");
    },
  };
}

/** Choose, resume, return: three programs that do nothing but let others go first. */
export const points = (): Job => stepJob(machineOf(forever), 1);

/** dom0 rests, one domain maps and unmaps, the other looks at its own entry. */
function grantMachine(from?: MachineImage): Machine {
  return machineOf(function* (machine, domid) {
    if (domid === MAPPER) yield* mapForever(machine);
    if (domid === GRANTER) yield* lookForever(machine);
  }, from);
}

const cpuOf = (machine: Machine, index: number, slot: number) => ({
  mmu: new Mmu(machine.words, machine.memory, machine.layout, slot),
  words: machine.words,
  layout: machine.layout,
  slot,
  points: true,
  boot: bootInfoOf(machine.model, index, index),
});

function* mapForever(machine: Machine): Program {
  const answered = ({ channel }: RawGuest): void => {
    while (!channel.idle) assert(stepHypervisor(machine.xen), "the hypervisor owes an answer");
  };
  const mapper = rawGuest(machine, MAPPER, answered);
  const granter = rawGuest(machine, GRANTER, answered);
  grantPages(granter, mapper.domid, ELEMENTS);
  yield* mapSteps(machine, grantBatch(mapper, granter, ELEMENTS));
}

function* mapSteps(machine: Machine, batch: GrantBatch): Program {
  const { mapBytes, mapWords, unmapBytes, unmapWords, mapAt, unmapAt } = batch;
  const cpu = cpuOf(machine, MAPPER, batch.mapper.slot);
  const map: HypercallTrap = { kind: TRAP_HYPERCALL, record: batch.mapCall };
  const unmap: HypercallTrap = { kind: TRAP_HYPERCALL, record: batch.unmapCall };
  for (;;) {
    yield* writeBytes(cpu, mapAt, mapBytes, 0, mapBytes.length);
    yield map;
    yield* readBytes(cpu, mapAt, mapBytes, 0, mapBytes.length);
    for (let i = 0; i < batch.count; i++) {
      const handle = at(mapWords, i * 8 + MAP_HANDLE / 4);
      unmapWords[i * 6 + UNMAP_HANDLE / 4] = handle;
    }
    yield* loadWord(cpu, batch.gfn * PAGE_SIZE);
    yield* writeBytes(cpu, unmapAt, unmapBytes, 0, unmapBytes.length);
    yield unmap;
  }
}

function* lookForever(machine: Machine): Program {
  const { slot, domain } = rawGuest(machine, GRANTER, () => {});
  const cpu = cpuOf(machine, GRANTER, slot);
  const entry = domain.grantTableGfn * PAGE_SIZE + refOf(0) * GRANT_ENTRY_BYTES;
  // The table is placed by the mapper's first step.
  while (cpu.mmu.open(domain.grantTableGfn, 1) !== 0) yield POINT;
  cpu.mmu.close();
  for (;;) yield* loadWord(cpu, entry);
}

/** One operation is one step. */
export const grantSteps = (): Job => stepJob(grantMachine(), 1);

/** One operation is a run of a hundred steps. */
export const hundredSteps = (): Job => stepJob(grantMachine(), RUN_STEPS);

/** One operation is a machine as it was booted, where a run of a hundred steps has written. */
export function freshMachines(): Job {
  const image = machineImage(smallModel());
  const first = grantMachine(image);
  for (let i = 0; i < RUN_STEPS; i++) step(first);
  const written = [...image.memory.dirty];
  return {
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) {
        for (const frame of written) image.memory.zero(frame);
        grantMachine(image);
      }
    },
  };
}
