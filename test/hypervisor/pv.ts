/** Paravirtualised domains as a test drives them: pages are virtual, frames are machine frames. */
import { expect } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import {
  GNTTABOP_transfer,
  GNTTABOP_unmap_and_replace,
  GNTTABOP_unmap_grant_ref,
  TRANSFER_SIZE,
  UNMAP_SIZE,
} from "../../shared/abi/grant.ts";
import { MMU_UPDATE_SIZE, MMUEXT_OP_SIZE, UVMF_NONE } from "../../shared/abi/mmu.ts";
import {
  DOMID_SELF,
  HYPERVISOR_grant_table_op,
  HYPERVISOR_mmu_update,
  HYPERVISOR_mmuext_op,
  HYPERVISOR_update_va_mapping,
} from "../../shared/abi/xen.ts";
import { DOM, domainOf, indexOf, LINE, lineOf, mfnAt } from "../../shared/layout.ts";
import type { DomainModel, MachineModel } from "../../shared/machine.ts";
import { walkPv } from "../../shared/mmu.ts";
import { levelSlot, upperBits } from "../../shared/pte.ts";
import { mfnOfX86 } from "../../shared/pte-x86.ts";
import { FrameIndex } from "../../shared/units.ts";
import { argumentAddress } from "./grants.ts";
import {
  type Actor,
  bootTestMachine,
  call,
  readGuest,
  type TestMachine,
  testDom0,
  testDomain,
  testModel,
  writeGuest,
} from "./harness.ts";

/** Virtual page behind the RAM, with a level 1 table and nothing in it. */
export const V0 = 1024;
export const P = 1;
export const RW = 3;

export const pvDomain = (name: string, overrides: Partial<DomainModel> = {}): DomainModel =>
  testDomain(name, { guest: "pv", ramGfn: 0, p2mPoolPages: 0, ...overrides });

export interface PvPair {
  readonly machine: TestMachine;
  readonly dom0: Actor;
  readonly a: Actor;
  readonly b: Actor;
}

/** A translated dom0, and two PV domains of 256 pages: 1 and 2. */
export function pvPair(
  overrides: Partial<MachineModel> = {},
  domain: Partial<DomainModel> = {},
): PvPair {
  const his = { directMapped: false, staticMemory: [], ramGfn: 0x40000 };
  const domains = [testDom0(his), pvDomain("A", domain), pvDomain("B", domain)];
  const machine = bootTestMachine(testModel(domains, { arch: "x86", ...overrides }));
  const [dom0, a, b] = machine.actors;
  if (dom0 === undefined || a === undefined || b === undefined) throw new Error("three boot");
  return { machine, dom0, a, b };
}

/** The whole machine is as it should be. */
export const sound = ({ xen }: TestMachine): void => expect(audit(xen)).toEqual([]);

export const slotOf = ({ xen }: TestMachine, { domid }: Actor): number =>
  xen.words[domainOf(xen.layout, domid) + DOM.SLOT] ?? -1;

const rootOf = (machine: TestMachine, actor: Actor): number =>
  machine.xen.words[lineOf(machine.xen.layout, slotOf(machine, actor)) + LINE.ROOT] ?? -1;

/** Frame index behind a virtual page, or -1. */
export function frameOf(machine: TestMachine, actor: Actor, page: number): FrameIndex {
  const { layout, words, memory } = machine.xen;
  const found = walkPv(layout, words, memory, rootOf(machine, actor), page);
  return FrameIndex(found < 0 ? -1 : found >>> 3);
}

/** Machine frame behind a virtual page. */
export const mfnOf = (machine: TestMachine, actor: Actor, page: number): number =>
  mfnAt(machine.xen.layout, frameOf(machine, actor, page));

/** Machine frame of the table of a level (1 to 4) on the way to a virtual page, and the number of its entry. */
export function tableOf(
  machine: TestMachine,
  actor: Actor,
  page: number,
  level: number,
): { readonly mfn: number; readonly slot: number } {
  const { layout, words, memory } = machine.xen;
  let frame = rootOf(machine, actor);
  for (let step = 0; ; step++) {
    const slot = levelSlot(page, upperBits(page), step);
    if (4 - step === level) return { mfn: mfnAt(layout, frame), slot };
    const low = memory.peek(FrameIndex(frame), slot * 8);
    const high = memory.peek(FrameIndex(frame), slot * 8 + 4);
    frame = indexOf(layout, words, mfnOfX86({ low, high }));
  }
}

/** Machine address of the level 1 entry of a virtual page. */
export function pteAddress(machine: TestMachine, actor: Actor, page: number): number {
  const { mfn, slot } = tableOf(machine, actor, page, 1);
  return mfn * 4096 + slot * 8;
}

/** Enters a machine frame at a virtual page, or nothing; the answer of the call. */
export const updateVa = (
  machine: TestMachine,
  actor: Actor,
  page: number,
  mfn: number | undefined,
  bits = RW,
  flags = UVMF_NONE,
): number =>
  call(
    machine,
    actor,
    HYPERVISOR_update_va_mapping,
    page * 4096,
    mfn === undefined ? 0 : mfn * 4096 + bits,
    flags,
  );

/** Lays structures of 64-bit words out and makes a call of the form (list, count, pdone, foreigndom). */
function batch(
  machine: TestMachine,
  actor: Actor,
  op: number,
  size: number,
  rows: readonly (readonly number[])[],
  foreign: number,
): { readonly ret: number; readonly done: number } {
  const at = argumentAddress(actor);
  const bytes = new Uint8Array(rows.length * size + 8);
  const view = new DataView(bytes.buffer);
  rows.forEach((row, i) => {
    row.forEach((word, n) => {
      view.setBigUint64(8 + i * size + 8 * n, BigInt(word), true);
    });
  });
  writeGuest(actor, at, bytes);
  const ret = call(machine, actor, op, at + 8, rows.length, at, foreign);
  return { ret, done: new DataView(readGuest(actor, at, 8).buffer).getUint32(0, true) };
}

/** mmu_update: pairs of ptr (with the command in its low bits) and val. */
export const mmuUpdate = (
  machine: TestMachine,
  actor: Actor,
  rows: readonly (readonly [ptr: number, val: number])[],
  foreign = DOMID_SELF,
) => batch(machine, actor, HYPERVISOR_mmu_update, MMU_UPDATE_SIZE, rows, foreign);

/** mmuext_op: command and its arguments. */
export const mmuextOp = (
  machine: TestMachine,
  actor: Actor,
  rows: readonly (readonly [cmd: number, arg1?: number, arg2?: number])[],
) =>
  batch(
    machine,
    actor,
    HYPERVISOR_mmuext_op,
    MMUEXT_OP_SIZE,
    rows.map(([cmd, one, other]) => [cmd, one ?? 0, other ?? 0]),
    DOMID_SELF,
  );

export interface Halves {
  readonly handle: number;
  readonly host?: number;
  readonly device?: number;
}

/** Unmaps by host address and bus address; 0 leaves a half alone. Returns the statuses. */
export function unmapHalves(
  machine: TestMachine,
  actor: Actor,
  ops: readonly Halves[],
  survives = true,
): readonly number[] {
  return unmapWith(machine, actor, GNTTABOP_unmap_grant_ref, ops, survives);
}

/** unmap_and_replace: `device` is the address whose entry takes the mapping's place. */
export const replace = (machine: TestMachine, actor: Actor, op: Halves): number =>
  unmapWith(machine, actor, GNTTABOP_unmap_and_replace, [op])[0] ?? 1;

function unmapWith(
  machine: TestMachine,
  actor: Actor,
  cmd: number,
  ops: readonly Halves[],
  survives = true,
): readonly number[] {
  const bytes = new Uint8Array(ops.length * UNMAP_SIZE);
  const view = new DataView(bytes.buffer);
  ops.forEach(({ handle, host, device }, i) => {
    view.setBigUint64(i * UNMAP_SIZE, BigInt(host ?? 0), true);
    view.setBigUint64(i * UNMAP_SIZE + 8, BigInt(device ?? 0), true);
    view.setUint32(i * UNMAP_SIZE + 16, handle, true);
  });
  const at = argumentAddress(actor);
  writeGuest(actor, at, bytes);
  call(machine, actor, HYPERVISOR_grant_table_op, cmd, at, ops.length);
  if (!survives) return [];
  const out = new DataView(readGuest(actor, at, bytes.length).buffer);
  return ops.map((_, i) => out.getInt16(i * UNMAP_SIZE + 20, true));
}

export interface Gift {
  readonly mfn: number;
  readonly dom: number;
  readonly ref: number;
}

/** Lays transfers out; returns the arguments of the hypercall. */
export function layTransfer(actor: Actor, ...ops: readonly Gift[]): readonly number[] {
  const bytes = new Uint8Array(ops.length * TRANSFER_SIZE);
  const view = new DataView(bytes.buffer);
  ops.forEach(({ mfn, dom, ref }, i) => {
    view.setBigUint64(i * TRANSFER_SIZE, BigInt(mfn), true);
    view.setUint16(i * TRANSFER_SIZE + 8, dom, true);
    view.setUint32(i * TRANSFER_SIZE + 12, ref, true);
  });
  writeGuest(actor, argumentAddress(actor), bytes);
  return [GNTTABOP_transfer, argumentAddress(actor), ops.length];
}

/** Gives pages to entries of another domain; the call's value and the statuses. */
export function transfer(
  machine: TestMachine,
  actor: Actor,
  ops: readonly Gift[],
): { readonly ret: number; readonly statuses: readonly number[] } {
  const ret = call(machine, actor, HYPERVISOR_grant_table_op, ...layTransfer(actor, ...ops));
  const out = readGuest(actor, argumentAddress(actor), ops.length * TRANSFER_SIZE);
  const view = new DataView(out.buffer);
  return { ret, statuses: ops.map((_, i) => view.getInt16(i * TRANSFER_SIZE + 16, true)) };
}
