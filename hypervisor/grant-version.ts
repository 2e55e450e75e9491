/**
 * GNTTABOP_get_version and get_status_frames. grant-set-version.ts changes the version.
 *
 * Rule: get_status_frames exists for PV domains, and on arm64, where no table has status frames; translated domains of
 * x86 find theirs by add_to_physmap. Counts are ignored, as recorded, but for get_status_frames.
 * Behaviour: xen/common/grant_table.c, gnttab_get_version(), gnttab_get_status_frames().
 */
import {
  GET_VERSION_DOM,
  GET_VERSION_SIZE,
  GET_VERSION_VERSION,
  STATUS_FRAMES_DOM,
  STATUS_FRAMES_FRAME_LIST,
  STATUS_FRAMES_NR_FRAMES,
  STATUS_FRAMES_SIZE,
  STATUS_FRAMES_STATUS,
} from "../shared/abi/grant.ts";
import { DOM } from "../shared/layout.ts";
import {
  EFAULT,
  EINVAL,
  EPERM,
  ESRCH,
  GNTST_bad_domain,
  GNTST_bad_virt_addr,
  GNTST_general_error,
  GNTST_okay,
  GNTST_permission_denied,
} from "../shared/status.ts";
import type { DomId } from "../shared/units.ts";
import { shownFrame } from "./frame-table.ts";
import { statusFrame, statusFrames } from "./grant-v2.ts";
import { copyArgs, copyFieldBack, writeListEntry } from "./guest-access.ts";
import { type Caller, domainByAnyId, domainField, mayTarget, type Xen } from "./xen.ts";

/** Refusals are the return value here, not a status. */
export function getVersion(xen: Xen, caller: Caller, uop: number): number {
  if (!copyArgs(xen, caller.domid, uop, GET_VERSION_SIZE)) return -EFAULT;
  const { args } = xen;
  const domid = domainByAnyId(xen, caller, args.u16(GET_VERSION_DOM));
  if (domid === undefined) return -ESRCH;
  if (!mayTarget(xen, caller, domid)) return -EPERM;
  args.setU32(GET_VERSION_VERSION, domainField(xen, domid, DOM.GRANT_VERSION));
  return copyFieldBack(xen, caller.domid, uop, GET_VERSION_VERSION, 4) ? 0 : -EFAULT;
}

/** Never grows a table. Frames are told as setup_table tells those of entries. */
export function getStatusFrames(xen: Xen, caller: Caller, uop: number, count: number): number {
  if (count !== 1) return -EINVAL;
  if (!copyArgs(xen, caller.domid, uop, STATUS_FRAMES_SIZE)) return -EFAULT;
  const { args } = xen;
  const domid = domainByAnyId(xen, caller, args.u16(STATUS_FRAMES_DOM));
  let status = GNTST_okay;
  if (domid === undefined) status = GNTST_bad_domain;
  else if (!mayTarget(xen, caller, domid)) status = GNTST_permission_denied;
  else status = listStatusFrames(xen, caller, domid);
  args.setU16(STATUS_FRAMES_STATUS, status);
  return copyFieldBack(xen, caller.domid, uop, STATUS_FRAMES_STATUS, 2) ? 0 : -EFAULT;
}

/** Frames beyond those that the table has are refused, none of them is told. */
function listStatusFrames(xen: Xen, caller: Caller, domid: DomId): number {
  const count = xen.args.u32(STATUS_FRAMES_NR_FRAMES);
  const list = xen.args.u64(STATUS_FRAMES_FRAME_LIST);
  if (count > statusFrames(xen, domid)) return GNTST_general_error;
  for (let n = 0; n < count; n++) {
    const frame = shownFrame(xen, domid, statusFrame(xen, domid, n));
    if (!writeListEntry(xen, caller.domid, list, n, frame)) return GNTST_bad_virt_addr;
  }
  return GNTST_okay;
}
