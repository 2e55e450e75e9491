/**
 * GNTTABOP_get_version and get_status_frames. grant-set-version.ts changes the version.
 *
 * Rule: get_status_frames exists where no table has status frames, on arm64; translated domains of x86 find theirs by
 * add_to_physmap. Counts are ignored, as recorded, but for get_status_frames.
 * Behaviour: xen/common/grant_table.c, gnttab_get_version(), gnttab_get_status_frames().
 */
import {
  GET_VERSION_DOM,
  GET_VERSION_SIZE,
  GET_VERSION_VERSION,
  STATUS_FRAMES_DOM,
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
  GNTST_general_error,
  GNTST_okay,
  GNTST_permission_denied,
} from "../shared/status.ts";
import { copyArgs, copyFieldBack } from "./guest-access.ts";
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

/** Never grows a table and, with no status frames, never writes to the list. */
export function getStatusFrames(xen: Xen, caller: Caller, uop: number, count: number): number {
  if (count !== 1) return -EINVAL;
  if (!copyArgs(xen, caller.domid, uop, STATUS_FRAMES_SIZE)) return -EFAULT;
  const { args } = xen;
  const domid = domainByAnyId(xen, caller, args.u16(STATUS_FRAMES_DOM));
  let status = GNTST_okay;
  if (domid === undefined) status = GNTST_bad_domain;
  else if (!mayTarget(xen, caller, domid)) status = GNTST_permission_denied;
  else if (args.u32(STATUS_FRAMES_NR_FRAMES) > 0) status = GNTST_general_error;
  args.setU16(STATUS_FRAMES_STATUS, status);
  return copyFieldBack(xen, caller.domid, uop, STATUS_FRAMES_STATUS, 2) ? 0 : -EFAULT;
}
