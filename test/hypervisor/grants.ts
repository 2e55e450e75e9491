/** Grant operations as a test spells them: arguments are laid out in the actor's own memory. */
import {
  COPY_SIZE,
  GNTTABOP_copy,
  GNTTABOP_map_grant_ref,
  GNTTABOP_unmap_grant_ref,
  MAP_SIZE,
  UNMAP_SIZE,
} from "../../shared/abi/grant.ts";
import { HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import { FrameIndex } from "../../shared/units.ts";
import { type Actor, call, readGuest, type TestMachine, writeGuest } from "./harness.ts";

/** Frames of RAM that hold arguments, above those that tests grant. */
const ARGUMENT_FRAME = 240;
export const argumentAddress = (actor: Actor): number => (actor.ram + ARGUMENT_FRAME) * 4096;

/** What the caller's fields hold before the call, so that an untouched output shows. */
const PREFILL = 0xa5a5a5a5;

export interface MapOp {
  readonly gfn: number;
  readonly flags: number;
  readonly ref: number;
  readonly dom: number;
  /** Bytes added to the page's address. */
  readonly offset?: number;
}

export interface MapResult {
  readonly status: number;
  readonly handle: number;
  readonly devBusAddr: number;
}

/** Maps a batch; returns the hypercall's value and each element's outputs. */
export function map(
  machine: TestMachine,
  actor: Actor,
  ops: readonly MapOp[],
): { readonly ret: number; readonly results: readonly MapResult[] } {
  const bytes = new Uint8Array(ops.length * MAP_SIZE);
  const view = new DataView(bytes.buffer);
  ops.forEach((op, i) => {
    const at = i * MAP_SIZE;
    view.setBigUint64(at, BigInt(op.gfn) * 4096n + BigInt(op.offset ?? 0), true);
    view.setUint32(at + 8, op.flags, true);
    view.setUint32(at + 12, op.ref, true);
    view.setUint16(at + 16, op.dom, true);
    view.setUint16(at + 18, 0xa5a5, true);
    view.setUint32(at + 20, PREFILL, true);
    view.setUint32(at + 24, PREFILL, true);
  });
  const at = argumentAddress(actor);
  writeGuest(actor, at, bytes);
  const ret = call(
    machine,
    actor,
    HYPERVISOR_grant_table_op,
    GNTTABOP_map_grant_ref,
    at,
    ops.length,
  );
  const out = new DataView(readGuest(actor, at, bytes.length).buffer);
  const results = ops.map((_, i) => ({
    status: out.getInt16(i * MAP_SIZE + 18, true),
    handle: out.getUint32(i * MAP_SIZE + 20, true),
    devBusAddr: Number(out.getBigUint64(i * MAP_SIZE + 24, true)),
  }));
  return { ret, results };
}

/** Maps one reference; returns its outputs. */
export function mapOne(machine: TestMachine, actor: Actor, op: MapOp): MapResult {
  const result = map(machine, actor, [op]).results[0];
  if (result === undefined) throw new Error("a batch of one has one result");
  return result;
}

export interface UnmapOp {
  readonly handle: number;
  /** Guest address of the mapping; 0 leaves it alone. */
  readonly address: number;
}

export function unmap(
  machine: TestMachine,
  actor: Actor,
  ops: readonly UnmapOp[],
): { readonly ret: number; readonly statuses: readonly number[] } {
  const bytes = new Uint8Array(ops.length * UNMAP_SIZE);
  const view = new DataView(bytes.buffer);
  ops.forEach((op, i) => {
    view.setBigUint64(i * UNMAP_SIZE, BigInt(op.address), true);
    view.setUint32(i * UNMAP_SIZE + 16, op.handle, true);
  });
  const at = argumentAddress(actor);
  writeGuest(actor, at, bytes);
  const ret = call(
    machine,
    actor,
    HYPERVISOR_grant_table_op,
    GNTTABOP_unmap_grant_ref,
    at,
    ops.length,
  );
  const out = new DataView(readGuest(actor, at, bytes.length).buffer);
  return { ret, statuses: ops.map((_, i) => out.getInt16(i * UNMAP_SIZE + 20, true)) };
}

export const unmapOne = (machine: TestMachine, actor: Actor, op: UnmapOp): number =>
  unmap(machine, actor, [op]).statuses[0] ?? 1;

export interface CopySide {
  /** A reference of `dom`, or a gfn of the caller when `dom` is DOMID_SELF. */
  readonly ref?: number;
  readonly gfn?: number;
  readonly dom: number;
  readonly offset?: number;
}

export function copyOne(
  machine: TestMachine,
  actor: Actor,
  source: CopySide,
  dest: CopySide,
  length: number,
): number {
  const bytes = new Uint8Array(COPY_SIZE);
  const view = new DataView(bytes.buffer);
  [source, dest].forEach((side, i) => {
    view.setUint32(i * 16, side.ref ?? side.gfn ?? 0, true);
    view.setUint16(i * 16 + 8, side.dom, true);
    view.setUint16(i * 16 + 10, side.offset ?? 0, true);
  });
  view.setUint16(32, length, true);
  view.setUint16(34, (source.ref === undefined ? 0 : 1) | (dest.ref === undefined ? 0 : 2), true);
  const at = argumentAddress(actor);
  writeGuest(actor, at, bytes);
  call(machine, actor, HYPERVISOR_grant_table_op, GNTTABOP_copy, at, 1);
  return new DataView(readGuest(actor, at, COPY_SIZE).buffer).getInt16(36, true);
}

/** Stores a whole version 1 entry in the shared frame, as the guest behind `actor` would. */
export function setEntry(
  machine: TestMachine,
  actor: Actor,
  ref: number,
  flags: number,
  grantee: number,
  gfn: number,
): void {
  const frame = entryFrame(machine, actor, ref);
  machine.xen.memory.store(frame, (ref % 512) * 8 + 4, gfn);
  machine.xen.memory.store(frame, (ref % 512) * 8, flags | (grantee << 16));
}

/** Flags of a shared entry. */
export const entryFlags = (machine: TestMachine, actor: Actor, ref: number): number =>
  machine.xen.memory.load(entryFrame(machine, actor, ref), (ref % 512) * 8) & 0xffff;

function entryFrame(machine: TestMachine, actor: Actor, ref: number): FrameIndex {
  const { layout, words } = machine.xen;
  const row = layout.grantFrame + actor.domid * layout.model.limits.grantFrames;
  return FrameIndex(words[row + Math.floor(ref / 512)] ?? -1);
}
