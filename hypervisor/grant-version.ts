/**
 * GNTTABOP_set_version, get_version and get_status_frames.
 *
 * Rule: the maximum version of a domain of arm64 is 1, so no table here has status frames, and a change of version is
 * refused before it could wipe anything (XSA-268). Counts are ignored, as recorded, but for get_status_frames.
 * Behaviour: xen/common/grant_table.c, gnttab_set_version(), gnttab_get_version(), gnttab_get_status_frames().
 */
import {
  GET_VERSION_DOM,
  GET_VERSION_SIZE,
  GET_VERSION_VERSION,
  SET_VERSION_SIZE,
  SET_VERSION_VERSION,
  STATUS_FRAMES_DOM,
  STATUS_FRAMES_NR_FRAMES,
  STATUS_FRAMES_SIZE,
  STATUS_FRAMES_STATUS,
} from "../shared/abi/grant.ts";
import {
  EFAULT,
  EINVAL,
  ENOSYS,
  EPERM,
  ESRCH,
  GNTST_bad_domain,
  GNTST_general_error,
  GNTST_okay,
  GNTST_permission_denied,
} from "../shared/status.ts";
import { copyArgs, copyFieldBack } from "./guest-access.ts";
import { type Caller, domainByAnyId, mayTarget, type Xen } from "./xen.ts";

/** Version of every table of this profile. */
const VERSION_1 = 1;
const VERSION_2 = 2;
/** Frames of status words that a version 1 table has. */
const STATUS_FRAMES = 0;

/** The version in force is written back whatever the answer is. */
export function setVersion(xen: Xen, caller: Caller, uop: number): number {
  if (!copyArgs(xen, caller.domid, uop, SET_VERSION_SIZE)) return -EFAULT;
  const { args } = xen;
  const wanted = args.u32(SET_VERSION_VERSION);
  args.setU32(SET_VERSION_VERSION, VERSION_1);
  if (!copyFieldBack(xen, caller.domid, uop, SET_VERSION_VERSION, 4)) return -EFAULT;
  if (wanted === VERSION_2) return -ENOSYS;
  return wanted === VERSION_1 ? 0 : -EINVAL;
}

/** Refusals are the return value here, not a status. */
export function getVersion(xen: Xen, caller: Caller, uop: number): number {
  if (!copyArgs(xen, caller.domid, uop, GET_VERSION_SIZE)) return -EFAULT;
  const { args } = xen;
  const domid = domainByAnyId(xen, caller, args.u16(GET_VERSION_DOM));
  if (domid === undefined) return -ESRCH;
  if (!mayTarget(xen, caller, domid)) return -EPERM;
  args.setU32(GET_VERSION_VERSION, VERSION_1);
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
  else if (args.u32(STATUS_FRAMES_NR_FRAMES) > STATUS_FRAMES) status = GNTST_general_error;
  args.setU16(STATUS_FRAMES_STATUS, status);
  return copyFieldBack(xen, caller.domid, uop, STATUS_FRAMES_STATUS, 2) ? 0 : -EFAULT;
}
