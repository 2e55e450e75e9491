/** Grant operations on whole tables as a test spells them: arguments are laid out in the caller's own memory. */
import {
  CACHE_FLUSH_SIZE,
  GET_VERSION_SIZE,
  GNTTABOP_cache_flush,
  GNTTABOP_get_status_frames,
  GNTTABOP_get_version,
  GNTTABOP_query_size,
  GNTTABOP_set_version,
  GNTTABOP_setup_table,
  GNTTABOP_swap_grant_ref,
  QUERY_SIZE_SIZE,
  SETUP_SIZE,
  STATUS_FRAMES_SIZE,
  SWAP_SIZE,
} from "../../shared/abi/grant.ts";
import { DOMID_SELF, HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import { argumentAddress } from "./grants.ts";
import { type Actor, call, readGuest, type TestMachine, writeGuest } from "./harness.ts";

/** A list stands behind the structure, in the same page, with this in every byte before the call. */
const LIST_OFFSET = 1024;
export const UNTOUCHED = 0x5a;

/** Pushes any grant operation. */
export const grantOp = (
  machine: TestMachine,
  actor: Actor,
  cmd: number,
  uop = argumentAddress(actor),
  count = 1,
): number => call(machine, actor, HYPERVISOR_grant_table_op, cmd, uop, count);

/** Lays `size` bytes out by `fill`, makes the call, and returns its value and the structure afterwards. */
function operate(
  machine: TestMachine,
  actor: Actor,
  cmd: number,
  count: number,
  bytes: Uint8Array<ArrayBuffer>,
): { readonly ret: number; readonly view: DataView } {
  const at = argumentAddress(actor);
  writeGuest(actor, at, bytes);
  const ret = grantOp(machine, actor, cmd, at, count);
  return { ret, view: new DataView(readGuest(actor, at, bytes.length).buffer) };
}

export function setVersion(
  machine: TestMachine,
  actor: Actor,
  version: number,
): { readonly ret: number; readonly version: number } {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, version, true);
  const { ret, view } = operate(machine, actor, GNTTABOP_set_version, 1, bytes);
  return { ret, version: view.getUint32(0, true) };
}

export function getVersion(
  machine: TestMachine,
  actor: Actor,
  dom: number,
): { readonly ret: number; readonly version: number } {
  const bytes = new Uint8Array(GET_VERSION_SIZE);
  new DataView(bytes.buffer).setUint16(0, dom, true);
  const { ret, view } = operate(machine, actor, GNTTABOP_get_version, 1, bytes);
  return { ret, version: view.getUint32(4, true) };
}

export interface Frames {
  readonly ret: number;
  readonly status: number;
  /** The first eight elements of the list. */
  readonly list: readonly bigint[];
}

const untouchedList = (): Uint8Array => new Uint8Array(64).fill(UNTOUCHED);
const listOf = (actor: Actor): readonly bigint[] => {
  const bytes = readGuest(actor, argumentAddress(actor) + LIST_OFFSET, 64);
  const view = new DataView(bytes.buffer);
  return Array.from({ length: 8 }, (_, i) => view.getBigUint64(8 * i, true));
};

export function setupTable(
  machine: TestMachine,
  actor: Actor,
  frames: number,
  dom: number = DOMID_SELF,
  count = 1,
): Frames {
  const list = argumentAddress(actor) + LIST_OFFSET;
  writeGuest(actor, list, untouchedList());
  const bytes = new Uint8Array(SETUP_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, dom, true);
  view.setUint32(4, frames, true);
  view.setBigUint64(16, BigInt(list), true);
  const after = operate(machine, actor, GNTTABOP_setup_table, count, bytes);
  return { ret: after.ret, status: after.view.getInt16(8, true), list: listOf(actor) };
}

export function getStatusFrames(
  machine: TestMachine,
  actor: Actor,
  frames: number,
  dom: number = DOMID_SELF,
  count = 1,
): Frames {
  const list = argumentAddress(actor) + LIST_OFFSET;
  writeGuest(actor, list, untouchedList());
  const bytes = new Uint8Array(STATUS_FRAMES_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, frames, true);
  view.setUint16(4, dom, true);
  view.setBigUint64(8, BigInt(list), true);
  const after = operate(machine, actor, GNTTABOP_get_status_frames, count, bytes);
  return { ret: after.ret, status: after.view.getInt16(6, true), list: listOf(actor) };
}

export function querySize(
  machine: TestMachine,
  actor: Actor,
): readonly [frames: number, max: number] {
  const bytes = new Uint8Array(QUERY_SIZE_SIZE);
  new DataView(bytes.buffer).setUint16(0, DOMID_SELF, true);
  const { view } = operate(machine, actor, GNTTABOP_query_size, 1, bytes);
  return [view.getUint32(4, true), view.getUint32(8, true)];
}

/** Swaps a batch of pairs; returns the value of the call and each status. */
export function swap(
  machine: TestMachine,
  actor: Actor,
  ...pairs: readonly (readonly [a: number, b: number])[]
): { readonly ret: number; readonly statuses: readonly number[] } {
  const bytes = new Uint8Array(pairs.length * SWAP_SIZE);
  const view = new DataView(bytes.buffer);
  pairs.forEach(([a, b], i) => {
    view.setUint32(i * SWAP_SIZE, a, true);
    view.setUint32(i * SWAP_SIZE + 4, b, true);
    view.setInt16(i * SWAP_SIZE + 8, 0x5a5a, true);
  });
  const after = operate(machine, actor, GNTTABOP_swap_grant_ref, pairs.length, bytes);
  const statuses = pairs.map((_, i) => after.view.getInt16(i * SWAP_SIZE + 8, true));
  return { ret: after.ret, statuses };
}

export interface FlushOp {
  readonly address: number;
  readonly offset?: number;
  readonly length?: number;
  readonly op?: number;
}

export function layFlush(actor: Actor, flush: FlushOp): number {
  const bytes = new Uint8Array(CACHE_FLUSH_SIZE);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(flush.address), true);
  view.setUint16(8, flush.offset ?? 0, true);
  view.setUint16(10, flush.length ?? 64, true);
  view.setUint32(12, flush.op ?? 3, true);
  writeGuest(actor, argumentAddress(actor), bytes);
  return argumentAddress(actor);
}

/** Flushes one range; `from` is the place in the scan that the command carries. */
export const flushCache = (machine: TestMachine, actor: Actor, flush: FlushOp, from = 0): number =>
  grantOp(machine, actor, GNTTABOP_cache_flush + from, layFlush(actor, flush));
