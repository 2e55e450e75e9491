/**
 * Two domains: one grants a page, withdraws it and gives the frame back to the heap, again and again; the other maps
 * and unmaps it on one vCPU while a second vCPU loads and stores through the mapping. Raw programs, no kernels.
 */

import {
  type Cpu,
  compareExchangeWord,
  GuestFault,
  loadWord,
  readBytes,
  storeWord,
  writeBytes,
} from "../../domains/memory.ts";
import type { Machine, Part } from "../../explore/state.ts";
import type { Xen } from "../../hypervisor/xen.ts";
import {
  GNTMAP_host_map,
  GNTTABOP_map_grant_ref,
  GNTTABOP_unmap_grant_ref,
  GTF_permit_access,
  GTF_reading,
  GTF_writing,
  MAP_SIZE,
  UNMAP_SIZE,
} from "../../shared/abi/grant.ts";
import {
  RESERVATION_SIZE,
  XENMEM_decrease_reservation,
  XENMEM_populate_physmap,
} from "../../shared/abi/memory.ts";
import {
  DOMID_SELF,
  HYPERVISOR_grant_table_op,
  HYPERVISOR_memory_op,
} from "../../shared/abi/xen.ts";
import { DOM, domainOf } from "../../shared/layout.ts";
import type { MachineModel } from "../../shared/machine.ts";
import { Mmu } from "../../shared/mmu.ts";
import { hypercallTrap, type Program, setRecord } from "../../shared/trap.ts";
import { testDom0, testDomain, testModel } from "../hypervisor/harness.ts";

const GRANTER = 1;
const MAPPER = 2;
const REF = 8;
const ROUNDS = 3;
const RAM = 0x40000;
const HOLE = 0x60000;
/** Where the granter's own grant frame is mapped, and where arguments lie. */
const GRANT_GFN = 0x38000;
const ARGUMENTS = (RAM + 40) * 4096;
const SMALL = { memoryPages: 64, maxGrantFrames: 1, maxMaptrackFrames: 1 };

export const revokeModel = (): MachineModel =>
  testModel(
    [
      testDom0({
        ...SMALL,
        runs: false,
        staticMemory: [{ base: 0x4010_0000, size: 64 * 4096 }],
      }),
      testDomain("granter", SMALL),
      testDomain("mapper", { ...SMALL, vcpus: 2 }),
    ],
    {
      banks: [{ base: 0x4000_0000, size: 2 * 1024 ** 2 }],
      limits: {
        domains: 4,
        slots: 8,
        grantFrames: 1,
        maptrackFrames: 1,
        ports: 64,
        xenHeapPages: 160,
        traceRecords: 16,
      },
    },
  );

/** What runs on each vCPU; `points` off makes every program atomic between its hypercalls. */
export function revokePart(machine: Machine, slot: number): Part | undefined {
  const name = [GRANTER, MAPPER].flatMap((domid) =>
    [0, 1]
      .filter((vcpu) => slotOf(machine, domid, vcpu) === slot)
      .map((vcpu) => `${domid}v${vcpu}`),
  )[0];
  const cpu = (): Cpu => ({
    mmu: new Mmu(machine.words, machine.memory, machine.layout, slot),
    words: machine.words,
    layout: machine.layout,
    slot,
    points: true,
    boot: {
      arch: "arm64",
      domid: 0,
      name: "raw",
      ram: [],
      grantTableGfn: 0,
      extendedRegions: [],
      devices: [],
      virtio: [],
      kernel: machine.model.domains[0]?.kernel ?? testDom0().kernel,
    },
  });
  if (name === `${GRANTER}v0`) return part("granter", granter(cpu()));
  if (name === `${MAPPER}v0`) return part("mapper", mapper(cpu()));
  if (name === `${MAPPER}v1`) return part("toucher", toucher(cpu()));
  return undefined;
}

const part = (name: string, program: Program<unknown>): Part => ({
  name,
  program,
  mustFinish: true,
});

const slotOf = (machine: Machine, domid: number, vcpu: number): number =>
  machine.words[domainOf(machine.layout, domid) + DOM.SLOT + vcpu] ?? -1;

function* hypercall(op: number, ...args: readonly number[]): Program<number> {
  const trap = hypercallTrap();
  setRecord(trap.record, op, args);
  return yield trap;
}

function* granter(cpu: Cpu): Program {
  yield* addGrantFrame(cpu);
  const entry = GRANT_GFN * 4096 + REF * 8;
  for (let round = 0; round < ROUNDS; round++) {
    const gfn = RAM + 10 + round;
    yield* storeWord(cpu, entry + 4, gfn);
    yield* storeWord(cpu, entry, GTF_permit_access | (MAPPER << 16));
    // Withdraw: never while a usage bit is set, and only with the word that was judged.
    for (;;) {
      const header = yield* loadWord(cpu, entry);
      if ((header & (GTF_reading | GTF_writing)) !== 0) continue;
      if ((yield* compareExchangeWord(cpu, entry, header, 0)) === header) break;
    }
    // Nobody can reach the frame any more, so it may go and come back as another one.
    yield* reservation(cpu, XENMEM_decrease_reservation, gfn);
    yield* reservation(cpu, XENMEM_populate_physmap, gfn);
  }
}

function* addGrantFrame(cpu: Cpu): Program {
  const bytes = new Uint8Array(24);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, DOMID_SELF, true);
  view.setUint32(4, 1, true);
  view.setBigUint64(16, BigInt(GRANT_GFN), true);
  yield* writeBytes(cpu, ARGUMENTS, bytes, 0, 24);
  yield* hypercall(HYPERVISOR_memory_op, 7, ARGUMENTS);
}

function* reservation(cpu: Cpu, op: number, gfn: number): Program {
  const bytes = new Uint8Array(RESERVATION_SIZE + 8);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(ARGUMENTS + RESERVATION_SIZE), true);
  view.setBigUint64(8, 1n, true);
  view.setUint16(24, DOMID_SELF, true);
  view.setBigUint64(RESERVATION_SIZE, BigInt(gfn), true);
  yield* writeBytes(cpu, ARGUMENTS, bytes, 0, bytes.length);
  yield* hypercall(HYPERVISOR_memory_op, op, ARGUMENTS);
}

function* mapper(cpu: Cpu): Program {
  for (let attempt = 0; attempt < 2 * ROUNDS; attempt++) {
    const bytes = new Uint8Array(MAP_SIZE);
    const view = new DataView(bytes.buffer);
    view.setBigUint64(0, BigInt(HOLE) * 4096n, true);
    view.setUint32(8, GNTMAP_host_map, true);
    view.setUint32(12, REF, true);
    view.setUint16(16, GRANTER, true);
    yield* writeBytes(cpu, ARGUMENTS, bytes, 0, MAP_SIZE);
    yield* hypercall(HYPERVISOR_grant_table_op, GNTTABOP_map_grant_ref, ARGUMENTS, 1);
    yield* readBytes(cpu, ARGUMENTS, bytes, 0, MAP_SIZE);
    if (view.getInt16(18, true) !== 0) continue;
    yield* unmapHandle(cpu, view.getUint32(20, true));
  }
}

function* unmapHandle(cpu: Cpu, handle: number): Program {
  const bytes = new Uint8Array(UNMAP_SIZE);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(HOLE) * 4096n, true);
  view.setUint32(16, handle, true);
  yield* writeBytes(cpu, ARGUMENTS, bytes, 0, UNMAP_SIZE);
  yield* hypercall(HYPERVISOR_grant_table_op, GNTTABOP_unmap_grant_ref, ARGUMENTS, 1);
}

function* toucher(cpu: Cpu): Program {
  for (let i = 0; i < 12; i++) {
    try {
      yield* storeWord(cpu, HOLE * 4096, i);
    } catch (error) {
      // Nothing is mapped there at the moment: a value to a raw program.
      if (!(error instanceof GuestFault)) throw error;
    }
  }
}

export type Audit = (xen: Xen) => readonly string[];
