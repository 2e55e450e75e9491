/**
 * hvm_op: the parameters that the domain builder leaves for a guest. Those of the store exist; a guest may read its
 * own, only a control domain may write them.
 * Behaviour: xen/arch/arm/hvm.c, do_hvm_op(), hvm_allow_set_param(), hvm_allow_get_param(), version 4.17.
 */
import {
  HVM_NR_PARAMS,
  HVM_PARAM_DOMID,
  HVM_PARAM_INDEX,
  HVM_PARAM_SIZE,
  HVM_PARAM_STORE_EVTCHN,
  HVM_PARAM_STORE_PFN,
  HVM_PARAM_VALUE,
  HVMOP_get_param,
  HVMOP_set_param,
} from "../shared/abi/xen.ts";
import { DOM } from "../shared/layout.ts";
import { EFAULT, EINVAL, ENOSYS, EPERM, ESRCH } from "../shared/status.ts";
import type { DomId } from "../shared/units.ts";
import { copyArgs, copyToGuest } from "./guest-access.ts";
import {
  type Caller,
  domainByAnyId,
  domainField,
  mayTarget,
  setDomainField,
  type Xen,
} from "./xen.ts";

/** Column of each parameter that exists. */
const COLUMNS: Readonly<Record<number, number>> = {
  [HVM_PARAM_STORE_PFN]: DOM.STORE_GFN,
  [HVM_PARAM_STORE_EVTCHN]: DOM.STORE_PORT,
};

/** hvm_op(cmd, arg): `arg` is the guest address of a struct xen_hvm_param. */
export function hvmOp(xen: Xen, caller: Caller, cmd: number, arg: number): number {
  if (cmd !== HVMOP_set_param && cmd !== HVMOP_get_param) return -ENOSYS;
  const { args } = xen;
  if (!copyArgs(xen, caller.domid, arg, HVM_PARAM_SIZE)) return -EFAULT;
  const index = args.u32(HVM_PARAM_INDEX);
  if (index >= HVM_NR_PARAMS) return -EINVAL;
  const domid = domainByAnyId(xen, caller, args.u16(HVM_PARAM_DOMID));
  if (domid === undefined) return -ESRCH;
  if (!mayTarget(xen, caller, domid)) return -EPERM;
  const column = COLUMNS[index];
  if (column === undefined) return -EINVAL;
  if (cmd === HVMOP_set_param) return setParam(xen, caller, domid, column);
  args.setU64(HVM_PARAM_VALUE, domainField(xen, domid, column) >>> 0);
  return copyToGuest(xen, caller.domid, arg, args.bytes, 0, HVM_PARAM_SIZE) ? 0 : -EFAULT;
}

/** These parameters are the toolstack's: a domain may not set its own. A value keeps its low 32 bits. */
function setParam(xen: Xen, caller: Caller, domid: DomId, column: number): number {
  if (domid === caller.domid) return -EPERM;
  setDomainField(xen, domid, column, xen.args.i32(HVM_PARAM_VALUE));
  return 0;
}
