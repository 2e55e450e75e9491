/**
 * Grant table operations: dispatch, set-up, queries and growth. The others stand in files of their own, grant-*.ts.
 *
 * Rule: each operation checks in Xen's order, then commits; statuses of single operations go into their structures,
 * the return value speaks of the batch.
 * Behaviour: xen/common/grant_table.c, do_grant_table_op(), gnttab_grow_table(), gnttab_setup_table(),
 * gnttab_query_size(); Xen 4.17 answers where a later tree differs.
 */
import {
  GNTTABOP_CMD_MASK,
  GNTTABOP_cache_flush,
  GNTTABOP_copy,
  GNTTABOP_get_status_frames,
  GNTTABOP_get_version,
  GNTTABOP_map_grant_ref,
  GNTTABOP_query_size,
  GNTTABOP_set_version,
  GNTTABOP_setup_table,
  GNTTABOP_swap_grant_ref,
  GNTTABOP_transfer,
  GNTTABOP_unmap_and_replace,
  GNTTABOP_unmap_grant_ref,
  QUERY_DOM,
  QUERY_MAX_NR_FRAMES,
  QUERY_NR_FRAMES,
  QUERY_SIZE_SIZE,
  QUERY_STATUS,
  SETUP_DOM,
  SETUP_FRAME_LIST,
  SETUP_NR_FRAMES,
  SETUP_SIZE,
  SETUP_STATUS,
} from "../shared/abi/grant.ts";
import { DOM } from "../shared/layout.ts";
import { NOT_PRESENT } from "../shared/limits.ts";
import {
  EFAULT,
  EINVAL,
  ENOMEM,
  ENOSYS,
  EOPNOTSUPP,
  GNTST_bad_domain,
  GNTST_bad_virt_addr,
  GNTST_general_error,
  GNTST_okay,
  GNTST_permission_denied,
} from "../shared/status.ts";
import type { DomId } from "../shared/units.ts";
import { grantFrame } from "./active-entry.ts";
import { shareXenPageWithGuest, shownFrame } from "./frame-table.ts";
import { cacheFlush } from "./grant-cache-flush.ts";
import { copyGrantRefs } from "./grant-copy.ts";
import { mapGrantRefs } from "./grant-map.ts";
import { addStatusFrames, setVersion } from "./grant-set-version.ts";
import { swapGrantRefs } from "./grant-swap.ts";
import { transferPages } from "./grant-transfer.ts";
import { unmapAndReplace, unmapGrantRefs } from "./grant-unmap.ts";
import { isV2, statusFramesFor } from "./grant-v2.ts";
import { getStatusFrames, getVersion } from "./grant-version.ts";
import { copyArgs, copyToGuest, writeListEntry } from "./guest-access.ts";
import { isPv } from "./page-type.ts";
import { domainProfile } from "./profile.ts";
import {
  type Caller,
  domainByAnyId,
  domainField,
  mayTarget,
  type Preemptible,
  setDomainField,
  type Xen,
} from "./xen.ts";
import { allocXenPage, freeXenPage } from "./xen-heap.ts";

/** grant_table_op(cmd, uop, count): count is a signed 32-bit number. */
export function grantTableOp(
  xen: Xen,
  caller: Caller,
  cmd: number,
  uop: number,
  count: number,
): number | Preemptible {
  if ((count | 0) < 0) return -EINVAL;
  // Bits above the operation carry continuation data, which is legal for cache_flush only.
  const op = cmd & GNTTABOP_CMD_MASK;
  const opaque = (cmd & ~GNTTABOP_CMD_MASK) >>> 0;
  if (opaque !== 0 && op !== GNTTABOP_cache_flush) return -EINVAL;
  if (domainProfile(xen, caller.domid).absentGrantOps.includes(op)) return -ENOSYS;
  switch (op) {
    case GNTTABOP_map_grant_ref:
      return mapGrantRefs(xen, caller, uop, count | 0);
    case GNTTABOP_unmap_grant_ref:
      return unmapGrantRefs(xen, caller, uop, count | 0);
    case GNTTABOP_unmap_and_replace:
      return unmapAndReplace(xen, caller, uop, count | 0);
    case GNTTABOP_copy:
      return copyGrantRefs(xen, caller, uop, count | 0);
    case GNTTABOP_setup_table:
      return setupTable(xen, caller, uop, count | 0);
    case GNTTABOP_query_size:
      return querySize(xen, caller, uop, count | 0);
    case GNTTABOP_set_version:
      return setVersion(xen, caller, uop);
    case GNTTABOP_get_version:
      return getVersion(xen, caller, uop);
    case GNTTABOP_get_status_frames:
      return getStatusFrames(xen, caller, uop, count | 0);
    case GNTTABOP_swap_grant_ref:
      return swapGrantRefs(xen, caller, uop, count | 0);
    case GNTTABOP_cache_flush:
      if (xen.model.lacks?.includes("cache_flush") === true) return -ENOSYS;
      return cacheFlush(xen, caller, uop, count | 0, opaque);
    case GNTTABOP_transfer:
      // Only a PV guest can have a page taken out of its address space.
      return isPv(xen, caller.domid) ? transferPages(xen, caller, uop, count | 0) : -EOPNOTSUPP;
    default:
      // GNTTABOP_dump_table too: a number without an operation.
      return -ENOSYS;
  }
}

/** A new domain's table: version 1, one frame. -ENOMEM when the Xen heap is exhausted. */
export function initGrantTable(xen: Xen, domid: DomId): number {
  setDomainField(xen, domid, DOM.GRANT_FRAMES, 0);
  setDomainField(xen, domid, DOM.GRANT_VERSION, 1);
  return growGrantTable(xen, domid, 1);
}

/**
 * Grows a table to `frames` shared frames. All or nothing: a page is shared with the guest only after every
 * allocation succeeded. -EINVAL beyond the domain's limit, -ENOMEM. A table never shrinks.
 */
export function growGrantTable(xen: Xen, domid: DomId, frames: number): number {
  const had = domainField(xen, domid, DOM.GRANT_FRAMES);
  if (frames > domainField(xen, domid, DOM.MAX_GRANT_FRAMES)) return -EINVAL;
  const row = xen.layout.grantFrame + domid * xen.model.limits.grantFrames;
  for (let n = had; n < frames; n++) {
    const frame = allocXenPage(xen);
    if (frame === NOT_PRESENT) {
      for (let undo = had; undo < n; undo++) freeXenPage(xen, grantFrame(xen, domid, undo));
      return -ENOMEM;
    }
    xen.words[row + n] = frame;
  }
  if (isV2(xen, domid) && growStatus(xen, domid, had, frames) !== 0) {
    for (let undo = had; undo < frames; undo++) freeXenPage(xen, grantFrame(xen, domid, undo));
    return -ENOMEM;
  }
  for (let n = had; n < frames; n++) shareXenPageWithGuest(xen, grantFrame(xen, domid, n), domid);
  if (frames > had) setDomainField(xen, domid, DOM.GRANT_FRAMES, frames);
  return 0;
}

const growStatus = (xen: Xen, domid: DomId, had: number, frames: number): number =>
  addStatusFrames(xen, domid, statusFramesFor(had), statusFramesFor(frames));

function setupTable(xen: Xen, caller: Caller, uop: number, count: number): number {
  if (count !== 1) return -EINVAL;
  if (!copyArgs(xen, caller.domid, uop, SETUP_SIZE)) return -EFAULT;
  const { args } = xen;
  const frames = args.u32(SETUP_NR_FRAMES);
  const status = setupStatus(xen, caller, args.u16(SETUP_DOM), frames, args.u64(SETUP_FRAME_LIST));
  args.setU16(SETUP_STATUS, status);
  return copyToGuest(xen, caller.domid, uop + SETUP_STATUS, args.bytes, SETUP_STATUS, 2)
    ? 0
    : -EFAULT;
}

function setupStatus(xen: Xen, caller: Caller, dom: number, frames: number, list: number): number {
  const domid = domainByAnyId(xen, caller, dom);
  if (domid === undefined) return GNTST_bad_domain;
  if (!mayTarget(xen, caller, domid)) return GNTST_permission_denied;
  if (frames > domainField(xen, domid, DOM.MAX_GRANT_FRAMES)) return GNTST_general_error;
  if (frames > domainField(xen, domid, DOM.GRANT_FRAMES)) {
    if (growGrantTable(xen, domid, frames) !== 0) return GNTST_general_error;
  }
  for (let n = 0; n < frames; n++) {
    const shown = shownFrame(xen, domid, grantFrame(xen, domid, n));
    if (!writeListEntry(xen, caller.domid, list, n, shown)) return GNTST_bad_virt_addr;
  }
  return GNTST_okay;
}

function querySize(xen: Xen, caller: Caller, uop: number, count: number): number {
  if (count !== 1) return -EINVAL;
  if (!copyArgs(xen, caller.domid, uop, QUERY_SIZE_SIZE)) return -EFAULT;
  const { args } = xen;
  const domid = domainByAnyId(xen, caller, args.u16(QUERY_DOM));
  let status = GNTST_okay;
  if (domid === undefined) status = GNTST_bad_domain;
  else if (!mayTarget(xen, caller, domid)) status = GNTST_permission_denied;
  else {
    args.setU32(QUERY_NR_FRAMES, domainField(xen, domid, DOM.GRANT_FRAMES));
    args.setU32(QUERY_MAX_NR_FRAMES, domainField(xen, domid, DOM.MAX_GRANT_FRAMES));
  }
  args.setU16(QUERY_STATUS, status);
  return copyToGuest(xen, caller.domid, uop, args.bytes, 0, QUERY_SIZE_SIZE) ? 0 : -EFAULT;
}
