/**
 * Grant hypercalls, marshalled: batches of map and unmap structures, query_size, cache_flush.
 *
 * Rules: an operation is a private object; its output fields are what the hypervisor wrote back. A batch longer
 * than the argument area goes in several hypercalls (docs/FIDELITY.md). Nothing is retried here.
 * Behaviour: Linux include/xen/interface/grant_table.h, drivers/xen/grant-table.c (gnttab_set_map_op).
 */
import {
  CACHE_FLUSH_DEV_BUS_ADDR,
  CACHE_FLUSH_LENGTH,
  CACHE_FLUSH_OFFSET,
  CACHE_FLUSH_OP,
  CACHE_FLUSH_SIZE,
  GNTTABOP_cache_flush,
  GNTTABOP_map_grant_ref,
  GNTTABOP_query_size,
  GNTTABOP_set_version,
  GNTTABOP_unmap_grant_ref,
  MAP_DEV_BUS_ADDR,
  MAP_DOM,
  MAP_FLAGS,
  MAP_HANDLE,
  MAP_HOST_ADDR,
  MAP_REF,
  MAP_SIZE,
  MAP_STATUS,
  QUERY_DOM,
  QUERY_MAX_NR_FRAMES,
  QUERY_SIZE_SIZE,
  QUERY_STATUS,
  SET_VERSION_SIZE,
  SET_VERSION_VERSION,
  UNMAP_DEV_BUS_ADDR,
  UNMAP_HANDLE,
  UNMAP_HOST_ADDR,
  UNMAP_SIZE,
  UNMAP_STATUS,
} from "../shared/abi/grant.ts";
import { DOMID_SELF } from "../shared/abi/xen.ts";
import { item } from "../shared/assert.ts";
import { GNTST_okay } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { freshArguments, getU64, grantTableOp, setU64 } from "./hypercalls.ts";
import { ARGUMENT_BYTES, type Caller } from "./kernel.ts";

export const INVALID_GRANT_HANDLE = 0xffffffff;
/** Preset of a map status, so that an operation the hypervisor never reached is visible. */
export const GNTST_UNTOUCHED = 1;

/** struct gnttab_map_grant_ref. */
export interface MapOp {
  readonly hostAddr: number;
  /** GNTMAP_* */
  readonly flags: number;
  readonly ref: number;
  readonly dom: number;
  status: number;
  handle: number;
  devBusAddr: number;
}

/** struct gnttab_unmap_grant_ref. */
export interface UnmapOp {
  readonly hostAddr: number;
  readonly devBusAddr: number;
  readonly handle: number;
  status: number;
}

/** gnttab_set_map_op. */
export const mapOp = (hostAddr: number, flags: number, ref: number, dom: number): MapOp => ({
  hostAddr,
  flags,
  ref,
  dom,
  status: GNTST_UNTOUCHED,
  handle: INVALID_GRANT_HANDLE,
  devBusAddr: 0,
});

/** gnttab_set_unmap_op. */
export const unmapOp = (hostAddr: number, handle: number, devBusAddr = 0): UnmapOp => ({
  hostAddr,
  devBusAddr,
  handle,
  status: GNTST_okay,
});

/** GNTTABOP_map_grant_ref on operations `from` to `from + count - 1`, at most one argument area of them. */
function* mapSome(
  caller: Caller,
  ops: readonly MapOp[],
  from: number,
  count: number,
): Program<number> {
  const size = count * MAP_SIZE;
  const view = freshArguments(caller, size);
  for (let i = 0; i < count; i++) {
    const op = item(ops, from + i);
    const base = i * MAP_SIZE;
    setU64(view, base + MAP_HOST_ADDR, op.hostAddr);
    view.setUint32(base + MAP_FLAGS, op.flags, true);
    view.setUint32(base + MAP_REF, op.ref, true);
    view.setUint16(base + MAP_DOM, op.dom, true);
    view.setInt16(base + MAP_STATUS, op.status, true);
    view.setUint32(base + MAP_HANDLE, op.handle, true);
  }
  const rc = yield* grantTableOp(caller, GNTTABOP_map_grant_ref, size, count);
  for (let i = 0; i < count; i++) {
    const op = item(ops, from + i);
    const base = i * MAP_SIZE;
    op.status = view.getInt16(base + MAP_STATUS, true);
    op.handle = view.getUint32(base + MAP_HANDLE, true);
    op.devBusAddr = getU64(view, base + MAP_DEV_BUS_ADDR);
  }
  return rc;
}

/** Maps every operation; 0, or the first hypercall's refusal. Statuses are in the operations. */
export function* mapGrantRefs(caller: Caller, ops: readonly MapOp[]): Program<number> {
  const most = Math.floor(ARGUMENT_BYTES / MAP_SIZE);
  for (let from = 0; from < ops.length; from += most) {
    const rc = yield* mapSome(caller, ops, from, Math.min(most, ops.length - from));
    if (rc !== 0) return rc;
  }
  return 0;
}

/** Maps one operation again, in place. */
export function* mapGrantRefAgain(caller: Caller, op: MapOp): Program<number> {
  return yield* mapSome(caller, [op], 0, 1);
}

/** Unmaps every operation; 0, or the first hypercall's refusal. Statuses are in the operations. */
export function* unmapGrantRefs(caller: Caller, ops: readonly UnmapOp[]): Program<number> {
  const most = Math.floor(ARGUMENT_BYTES / UNMAP_SIZE);
  for (let from = 0; from < ops.length; from += most) {
    const count = Math.min(most, ops.length - from);
    const size = count * UNMAP_SIZE;
    const view = freshArguments(caller, size);
    for (let i = 0; i < count; i++) {
      const op = item(ops, from + i);
      setU64(view, i * UNMAP_SIZE + UNMAP_HOST_ADDR, op.hostAddr);
      setU64(view, i * UNMAP_SIZE + UNMAP_DEV_BUS_ADDR, op.devBusAddr);
      view.setUint32(i * UNMAP_SIZE + UNMAP_HANDLE, op.handle, true);
    }
    const rc = yield* grantTableOp(caller, GNTTABOP_unmap_grant_ref, size, count);
    for (let i = 0; i < count; i++) {
      item(ops, from + i).status = view.getInt16(i * UNMAP_SIZE + UNMAP_STATUS, true);
    }
    if (rc !== 0) return rc;
  }
  return 0;
}

/** GNTTABOP_query_size: frames the table may grow to, or undefined when Xen does not say. */
export function* queryMaxFrames(caller: Caller): Program<number | undefined> {
  const view = freshArguments(caller, QUERY_SIZE_SIZE);
  view.setUint16(QUERY_DOM, DOMID_SELF, true);
  const rc = yield* grantTableOp(caller, GNTTABOP_query_size, QUERY_SIZE_SIZE, 1);
  if (rc < 0 || view.getInt16(QUERY_STATUS, true) !== GNTST_okay) return undefined;
  return view.getUint32(QUERY_MAX_NR_FRAMES, true);
}

/** GNTTABOP_set_version: the version that is in force afterwards, or a negative errno. */
export function* setGrantVersion(caller: Caller, version: 1 | 2): Program<number> {
  const view = freshArguments(caller, SET_VERSION_SIZE);
  view.setUint32(SET_VERSION_VERSION, version, true);
  const rc = yield* grantTableOp(caller, GNTTABOP_set_version, SET_VERSION_SIZE, 1);
  return rc < 0 ? rc : view.getUint32(SET_VERSION_VERSION, true);
}

/** GNTTABOP_cache_flush of a range of one machine page, named by its bus address. */
export function* cacheFlush(
  caller: Caller,
  busAddress: number,
  offset: number,
  length: number,
  op: number,
): Program<number> {
  const view = freshArguments(caller, CACHE_FLUSH_SIZE);
  setU64(view, CACHE_FLUSH_DEV_BUS_ADDR, busAddress);
  view.setUint16(CACHE_FLUSH_OFFSET, offset, true);
  view.setUint16(CACHE_FLUSH_LENGTH, length, true);
  view.setUint32(CACHE_FLUSH_OP, op, true);
  return yield* grantTableOp(caller, GNTTABOP_cache_flush, CACHE_FLUSH_SIZE, 1);
}
