/**
 * XENMEM_exchange on a translated domain: every call is checked as everywhere else, and then no page can be stolen.
 * Behaviour: xen/common/memory.c, memory_exchange(); xen/arch/arm/mm.c, steal_page().
 */
import {
  EXCHANGE_NR_EXCHANGED,
  EXCHANGE_OUT,
  EXCHANGE_SIZE,
  RESERVATION_DOMID,
  RESERVATION_EXTENT_ORDER,
  RESERVATION_EXTENT_START,
  RESERVATION_NR_EXTENTS,
} from "../shared/abi/memory.ts";
import { EFAULT, EINVAL, EOPNOTSUPP, EPERM, ESRCH } from "../shared/status.ts";
import { isRamFrame } from "./frame-table.ts";
import { copyArgs, copyFieldBack, copyListEntry } from "./guest-access.ts";
import { maxOrder } from "./memory-reservation.ts";
import { entryFrame, P2M_NOTHING, p2mLookup } from "./p2m.ts";
import { type Caller, domainByAnyId, mayTarget, type Xen } from "./xen.ts";

/** The answer; nr_exchanged goes back to the guest as it came, unless there was nothing to do. */
export function exchange(xen: Xen, caller: Caller, arg: number): number {
  if (!copyArgs(xen, caller.domid, arg, EXCHANGE_SIZE)) return -EFAULT;
  const ret = refuse(xen, caller);
  if (ret === 0) return 0;
  return copyFieldBack(xen, caller.domid, arg, EXCHANGE_NR_EXCHANGED, 8) ? ret : -EFAULT;
}

function refuse(xen: Xen, caller: Caller): number {
  const { args } = xen;
  const inOrder = args.u32(RESERVATION_EXTENT_ORDER);
  const outOrder = args.u32(EXCHANGE_OUT + RESERVATION_EXTENT_ORDER);
  const inExtents = args.u64(RESERVATION_NR_EXTENTS);
  const outExtents = args.u64(EXCHANGE_OUT + RESERVATION_NR_EXTENTS);
  const done = args.u64(EXCHANGE_NR_EXCHANGED);
  const progress = compareFields(xen, EXCHANGE_NR_EXCHANGED, RESERVATION_NR_EXTENTS);
  const dom = args.u16(RESERVATION_DOMID);
  const highest = maxOrder(xen, caller);
  if (inOrder > highest || outOrder > highest) return -EPERM;
  if (progress > 0) return -EINVAL;
  if (dom !== args.u16(EXCHANGE_OUT + RESERVATION_DOMID)) return -EINVAL;
  if (inExtents * 2 ** inOrder !== outExtents * 2 ** outOrder) return -EINVAL;
  if (progress === 0) return 0;
  const domid = domainByAnyId(xen, caller, dom);
  if (domid === undefined) return -ESRCH;
  if (!mayTarget(xen, caller, domid)) return -EPERM;
  // A chunk is one extent of the larger order: the first page of the first chunk is where it ends.
  const chunk = 2 ** Math.max(0, outOrder - inOrder);
  const first = Math.floor(done / chunk) * chunk;
  const gfn = copyListEntry(xen, caller.domid, args.u64(RESERVATION_EXTENT_START), first);
  if (gfn === undefined) return -EFAULT;
  const entry = p2mLookup(xen, domid, gfn);
  if (entry === P2M_NOTHING || !isRamFrame(xen, entryFrame(entry))) return -EINVAL;
  return -EOPNOTSUPP;
}

/** The difference of two 64-bit fields, by sign: exact also above 2^53, where numbers no longer tell them apart. */
const compareFields = (xen: Xen, one: number, other: number): number =>
  xen.args.u32(one + 4) - xen.args.u32(other + 4) || xen.args.u32(one) - xen.args.u32(other);
