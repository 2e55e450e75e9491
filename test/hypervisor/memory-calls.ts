/** Memory operations as a test spells them: arguments are laid out in the actor's own memory. */
import {
  ACQUIRE_SIZE,
  ADD_TO_PHYSMAP_SIZE,
  EXCHANGE_SIZE,
  PHYSMAP_BATCH_SIZE,
  REMOVE_FROM_PHYSMAP_SIZE,
  RESERVATION_SIZE,
  XENMEM_acquire_resource,
  XENMEM_add_to_physmap,
  XENMEM_add_to_physmap_batch,
  XENMEM_exchange,
  XENMEM_remove_from_physmap,
} from "../../shared/abi/memory.ts";
import { DOMID_SELF, HYPERVISOR_memory_op } from "../../shared/abi/xen.ts";
import { hypercallTrap, setRecord } from "../../shared/trap.ts";
import { argumentAddress } from "./grants.ts";
import { type Actor, call, readGuest, type TestMachine, writeGuest } from "./harness.ts";

/** The extent list stands behind the structure, in the same page. */
const LIST_OFFSET = 128;

export interface Extents {
  readonly gfns: readonly (number | bigint)[];
  readonly order?: number;
  readonly dom?: number;
  readonly flags?: number;
  /** What nr_extents says, when it is not the length of the list. */
  readonly count?: number;
  readonly start?: number;
}

function writeReservation(view: DataView, at: number, list: number, extents: Extents): void {
  view.setBigUint64(at, BigInt(list), true);
  view.setBigUint64(at + 8, BigInt(extents.count ?? extents.gfns.length), true);
  view.setUint32(at + 16, extents.order ?? 0, true);
  view.setUint32(at + 20, extents.flags ?? 0, true);
  view.setUint16(at + 24, extents.dom ?? DOMID_SELF, true);
}

function writeList(actor: Actor, at: number, gfns: readonly (number | bigint)[]): void {
  const bytes = new Uint8Array(gfns.length * 8);
  const view = new DataView(bytes.buffer);
  gfns.forEach((gfn, i) => {
    view.setBigUint64(i * 8, BigInt(gfn), true);
  });
  if (bytes.length > 0) writeGuest(actor, at, bytes);
}

/** Lays a reservation out; returns the arguments of the hypercall. */
export function layReservation(actor: Actor, op: number, extents: Extents): readonly number[] {
  const at = argumentAddress(actor);
  const bytes = new Uint8Array(RESERVATION_SIZE);
  writeReservation(new DataView(bytes.buffer), 0, at + LIST_OFFSET, extents);
  writeGuest(actor, at, bytes);
  writeList(actor, at + LIST_OFFSET, extents.gfns);
  return [op + 64 * (extents.start ?? 0), at];
}

/** increase, decrease or populate; returns the extents completed. */
export const reserve = (machine: TestMachine, actor: Actor, op: number, extents: Extents): number =>
  call(machine, actor, HYPERVISOR_memory_op, ...layReservation(actor, op, extents));

/** Pushes a reservation without stepping the hypervisor. */
export function pushReservation(actor: Actor, op: number, extents: Extents): void {
  const { record } = hypercallTrap();
  setRecord(record, HYPERVISOR_memory_op, layReservation(actor, op, extents));
  actor.channel.push(record);
}

export function exchange(
  machine: TestMachine,
  actor: Actor,
  input: Extents,
  output: Extents,
  exchanged = 0,
): number {
  const at = argumentAddress(actor);
  const bytes = new Uint8Array(EXCHANGE_SIZE);
  const view = new DataView(bytes.buffer);
  writeReservation(view, 0, at + LIST_OFFSET, input);
  writeReservation(view, 32, at + 2 * LIST_OFFSET, output);
  view.setBigUint64(64, BigInt(exchanged), true);
  writeGuest(actor, at, bytes);
  writeList(actor, at + LIST_OFFSET, input.gfns);
  writeList(actor, at + 2 * LIST_OFFSET, output.gfns);
  return call(machine, actor, HYPERVISOR_memory_op, XENMEM_exchange, at);
}

export interface Placement {
  readonly space: number;
  readonly idx: number | bigint;
  readonly gfn: number | bigint;
  readonly dom?: number;
  readonly size?: number;
}

export function addToPhysmap(machine: TestMachine, actor: Actor, place: Placement): number {
  const at = argumentAddress(actor);
  const bytes = new Uint8Array(ADD_TO_PHYSMAP_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, place.dom ?? DOMID_SELF, true);
  view.setUint16(2, place.size ?? 0, true);
  view.setUint32(4, place.space, true);
  view.setBigUint64(8, BigInt(place.idx), true);
  view.setBigUint64(16, BigInt(place.gfn), true);
  writeGuest(actor, at, bytes);
  return call(machine, actor, HYPERVISOR_memory_op, XENMEM_add_to_physmap, at);
}

export function removeFromPhysmap(
  machine: TestMachine,
  actor: Actor,
  gfn: number,
  dom: number = DOMID_SELF,
): number {
  const at = argumentAddress(actor);
  const bytes = new Uint8Array(REMOVE_FROM_PHYSMAP_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, dom, true);
  view.setBigUint64(8, BigInt(gfn), true);
  writeGuest(actor, at, bytes);
  return call(machine, actor, HYPERVISOR_memory_op, XENMEM_remove_from_physmap, at);
}

/** One of the queries about a domain. */
export function queryMemory(
  machine: TestMachine,
  actor: Actor,
  op: number,
  dom: number = DOMID_SELF,
): number {
  const at = argumentAddress(actor);
  writeGuest(actor, at, Uint8Array.of(dom & 0xff, dom >> 8));
  return call(machine, actor, HYPERVISOR_memory_op, op, at);
}

export interface BatchPlacement {
  readonly space: number;
  readonly idxs: readonly (number | bigint)[];
  readonly gfns: readonly (number | bigint)[];
  readonly dom?: number;
  /** foreign_domid, or the reserved field of other spaces. */
  readonly extra?: number;
  readonly size?: number;
  readonly start?: number;
}

/** An error word that was not written. */
export const UNWRITTEN = 0x5a5a5a5a;

/** Lays a batch out, its lists behind it in the same page; returns the arguments of the hypercall. */
export function layBatch(actor: Actor, batch: BatchPlacement): readonly number[] {
  const at = argumentAddress(actor);
  const bytes = new Uint8Array(PHYSMAP_BATCH_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, batch.dom ?? DOMID_SELF, true);
  view.setUint16(2, batch.space, true);
  view.setUint16(4, batch.size ?? batch.idxs.length, true);
  view.setUint16(6, batch.extra ?? 0, true);
  const lists = [1, 2, 3].map((n) => at + n * 1024);
  lists.forEach((list, i) => {
    view.setBigUint64(8 + 8 * i, BigInt(list), true);
  });
  writeGuest(actor, at, bytes);
  writeList(actor, lists[0] ?? 0, batch.idxs);
  writeList(actor, lists[1] ?? 0, batch.gfns);
  writeGuest(actor, lists[2] ?? 0, new Uint8Array(batch.idxs.length * 4).fill(0x5a));
  return [XENMEM_add_to_physmap_batch + 64 * (batch.start ?? 0), at];
}

/** The error words that a batch left behind. */
export function batchErrors(actor: Actor, count: number): readonly number[] {
  const view = new DataView(readGuest(actor, argumentAddress(actor) + 3072, 4 * count).buffer);
  return Array.from({ length: count }, (_, i) => view.getInt32(4 * i, true));
}

/** Adds a batch: the call's value, then what each element answered. */
export function addBatch(
  machine: TestMachine,
  actor: Actor,
  batch: BatchPlacement,
): { readonly ret: number; readonly errs: readonly number[] } {
  const ret = call(machine, actor, HYPERVISOR_memory_op, ...layBatch(actor, batch));
  return { ret, errs: batchErrors(actor, batch.idxs.length) };
}

export interface Resource {
  readonly dom: number;
  readonly type?: number;
  readonly id?: number;
  readonly count?: number;
  readonly pad?: number;
  readonly frame?: number | bigint;
  /** Absent: a null list. */
  readonly gfns?: readonly (number | bigint)[];
  readonly start?: number;
}

/** Type 1, id 0: shared grant frames, unless the test says otherwise. */
export function acquire(
  machine: TestMachine,
  actor: Actor,
  resource: Resource,
): { readonly ret: number; readonly frames: number } {
  const at = argumentAddress(actor);
  const bytes = new Uint8Array(ACQUIRE_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, resource.dom, true);
  view.setUint16(2, resource.type ?? 1, true);
  view.setUint32(4, resource.id ?? 0, true);
  view.setUint32(8, resource.count ?? resource.gfns?.length ?? 0, true);
  view.setUint32(12, resource.pad ?? 0, true);
  view.setBigUint64(16, BigInt(resource.frame ?? 0), true);
  view.setBigUint64(24, resource.gfns === undefined ? 0n : BigInt(at + LIST_OFFSET), true);
  writeGuest(actor, at, bytes);
  writeList(actor, at + LIST_OFFSET, resource.gfns ?? []);
  const cmd = XENMEM_acquire_resource + 64 * (resource.start ?? 0);
  const ret = call(machine, actor, HYPERVISOR_memory_op, cmd, at);
  return { ret, frames: new DataView(readGuest(actor, at, 12).buffer).getUint32(8, true) };
}
