/** Domain life as a test drives it: the toolstack's control slot, and a machine with room for newcomers. */
import type { Xen } from "../../hypervisor/xen.ts";
import { DOM, domainOf, LINE, lineOf, SLOT_LIVE } from "../../shared/layout.ts";
import type { DeviceModel, MachineModel } from "../../shared/machine.ts";
import { leaveForDead } from "../../shared/mmu.ts";
import {
  CONTROL_CREATE,
  CONTROL_DOMCTL,
  CONTROL_VCPU_DIED,
  hypercallTrap,
  setRecord,
} from "../../shared/trap.ts";
import {
  type Actor,
  bootTestMachine,
  pushAndRun,
  type TestMachine,
  testDom0,
  testDomain,
  testModel,
} from "./harness.ts";

export const CONTROL_SLOT = 0;

/** Pushes one record of the toolstack and steps until it is answered. */
export function control(machine: TestMachine, op: number, ...args: readonly number[]): number {
  const { record } = hypercallTrap();
  setRecord(record, op, args);
  const channel = machine.xen.channels[CONTROL_SLOT];
  if (channel === undefined) throw new Error("slot 0 is the toolstack's");
  return pushAndRun(machine.xen, channel, record);
}

export const create = (machine: TestMachine, modelIndex: number): number =>
  control(machine, CONTROL_CREATE, modelIndex);
export const domctl = (machine: TestMachine, cmd: number, domid: number, argument = 0): number =>
  control(machine, CONTROL_DOMCTL, cmd, domid, argument);

export const field = (xen: Xen, domid: number, column: number): number =>
  xen.words[domainOf(xen.layout, domid) + column] ?? Number.NaN;
export const lineWord = (xen: Xen, slot: number, column: number): number =>
  xen.words[lineOf(xen.layout, slot) + column] ?? Number.NaN;
export const slotOf = (xen: Xen, domid: number): number => field(xen, domid, DOM.SLOT);

/** What a runner does when its worker has ended: the slot is evened, then the hypervisor is told. */
export function workerEnds(machine: TestMachine, slot: number): number {
  leaveForDead(machine.xen.words, machine.xen.layout, slot);
  return control(machine, CONTROL_VCPU_DIED, slot);
}

/** What every runner does when it sees that its slot is dead. */
export function leaveDeadSlots(xen: Xen): void {
  for (let slot = 1; slot < xen.model.limits.slots; slot++) {
    if (lineWord(xen, slot, LINE.STATE) !== SLOT_LIVE) leaveForDead(xen.words, xen.layout, slot);
  }
}

export const testDevice = (owner: string, overrides: Partial<DeviceModel> = {}): DeviceModel => ({
  name: "disk",
  kind: "disk",
  registers: 0x0a00_0000,
  dmaRanges: [],
  addressWidth: 64,
  behindIommu: true,
  streamId: 1,
  coherent: true,
  line: 3,
  owner,
  ...overrides,
});

export interface Trio {
  readonly machine: TestMachine;
  readonly dom0: Actor;
  readonly granter: Actor;
  readonly mapper: Actor;
}

/** dom0, a granter (1), a mapper (2), and a fourth domain that is created when somebody asks. */
export function trio(overrides: Partial<MachineModel> = {}): Trio {
  const domains = [
    testDom0(),
    testDomain("G"),
    testDomain("M"),
    testDomain("late", { atBoot: false }),
  ];
  const machine = bootTestMachine(testModel(domains, overrides));
  const [dom0, granter, mapper] = machine.actors;
  if (dom0 === undefined || granter === undefined || mapper === undefined) {
    throw new Error("three domains boot");
  }
  return { machine, dom0, granter, mapper };
}
