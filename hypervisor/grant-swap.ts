/**
 * GNTTABOP_swap_grant_ref: two entries of the caller's own table change places.
 *
 * Rules: both references are checked before anything is looked at (XSA-18); an entry that somebody uses does not
 * move, for the pin would be left behind. Status bits that no pin owns move with their entry, as recorded.
 * Behaviour: xen/common/grant_table.c, gnttab_swap_grant_ref().
 */
import { SWAP_REF_A, SWAP_REF_B, SWAP_SIZE, SWAP_STATUS } from "../shared/abi/grant.ts";
import { EFAULT, GNTST_bad_gntref, GNTST_eagain, GNTST_okay } from "../shared/status.ts";
import { activePin, grantEntries, swapSharedEntries } from "./active-entry.ts";
import { copyArgs, copyFieldBack } from "./guest-access.ts";
import { type Caller, GAP_PREEMPT, isGapDue, type Preemptible, type Xen } from "./xen.ts";

/** The batch: each element is copied just before it is processed; only its status is written back. */
export function* swapGrantRefs(xen: Xen, caller: Caller, uop: number, count: number): Preemptible {
  for (let i = 0; i < count; i++) {
    if (i > 0 && isGapDue(xen, i)) yield GAP_PREEMPT;
    const element = uop + i * SWAP_SIZE;
    if (!copyArgs(xen, caller.domid, element, SWAP_SIZE)) return -EFAULT;
    const { args } = xen;
    args.setU16(SWAP_STATUS, swap(xen, caller.domid, args.u32(SWAP_REF_A), args.u32(SWAP_REF_B)));
    if (!copyFieldBack(xen, caller.domid, element, SWAP_STATUS, 2)) return -EFAULT;
  }
  return 0;
}

function swap(xen: Xen, domid: number, a: number, b: number): number {
  const entries = grantEntries(xen, domid);
  if (a >= entries || b >= entries) return GNTST_bad_gntref;
  if (a === b) return GNTST_okay;
  if (activePin(xen, domid, a) !== 0 || activePin(xen, domid, b) !== 0) return GNTST_eagain;
  swapSharedEntries(xen, domid, a, b);
  return GNTST_okay;
}
