/**
 * GNTTABOP_cache_flush: cache maintenance on a range of one machine page that the caller owns or has mapped by a grant.
 *
 * Rules: refusals are the return value of the call. Whether a grant lets the caller in is found by a scan of the
 * owner's whole table; the scan lets go every CACHE_FLUSH_SCAN entries and keeps its place in the upper bits of the
 * command, so a guest may start anywhere. After a gap nothing is held: the element is read again and every check is
 * made again, and one that asks for nothing any more is -EILSEQ. Machine memory here is coherent, so an accepted
 * range needs no more than its checks.
 * Behaviour: xen/common/grant_table.c, gnttab_cache_flush(), _cache_flush(), grant_map_exists().
 */
import {
  CACHE_FLUSH_DEV_BUS_ADDR,
  CACHE_FLUSH_LENGTH,
  CACHE_FLUSH_OFFSET,
  CACHE_FLUSH_OP,
  CACHE_FLUSH_SIZE,
  GNTTAB_CACHE_CLEAN,
  GNTTAB_CACHE_INVAL,
} from "../shared/abi/grant.ts";
import { indexOf } from "../shared/layout.ts";
import { CACHE_FLUSH_SCAN, NOT_PRESENT, PAGE_SIZE } from "../shared/limits.ts";
import { EFAULT, EILSEQ, EINVAL, EOPNOTSUPP, EPERM } from "../shared/status.ts";
import { activeDomid, activeFrame, activePin, grantEntries } from "./active-entry.ts";
import { getPageOwnerAndReference, isRamFrame, putPage } from "./frame-table.ts";
import { copyArgs } from "./guest-access.ts";
import { type Caller, GAP_PREEMPT, isGapDue, type Preemptible, type Xen } from "./xen.ts";

/** `first` is where the scan of the first element starts: the upper bits of the command. */
export function* cacheFlush(
  xen: Xen,
  caller: Caller,
  uop: number,
  count: number,
  first: number,
): Preemptible {
  let from = first;
  for (let i = 0; i < count; i++) {
    if (i > 0 && isGapDue(xen, i)) yield GAP_PREEMPT;
    for (;;) {
      if (!copyArgs(xen, caller.domid, uop + i * CACHE_FLUSH_SIZE, CACHE_FLUSH_SIZE))
        return -EFAULT;
      const next = flushElement(xen, caller, from);
      if (next < 0) return next;
      if (next === 0) break;
      from = next;
      yield GAP_PREEMPT;
    }
    from = 0;
  }
  return 0;
}

/** Checks and flushes the element in `xen.args`. 0: done; above 0: where the scan goes on; below: a refusal. */
function flushElement(xen: Xen, caller: Caller, from: number): number {
  const { args } = xen;
  const offset = args.u16(CACHE_FLUSH_OFFSET);
  const length = args.u16(CACHE_FLUSH_LENGTH);
  const op = args.u32(CACHE_FLUSH_OP);
  if (offset >= PAGE_SIZE || length > PAGE_SIZE || offset + length > PAGE_SIZE) return -EINVAL;
  // GNTTAB_CACHE_SOURCE_GREF is one of the bits that are refused here.
  if ((op & ~(GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_INVAL)) !== 0) return -EINVAL;
  if (length === 0 || op === 0) return from === 0 ? 0 : -EILSEQ;
  const mfn = Math.floor(args.u64(CACHE_FLUSH_DEV_BUS_ADDR) / PAGE_SIZE);
  const frame = indexOf(xen.layout, xen.words, mfn);
  if (!isRamFrame(xen, frame)) return -EINVAL;
  // A page of Xen's own, or a free one, has no owner with a grant table (XSA-232).
  const owner = getPageOwnerAndReference(xen, frame);
  if (owner === NOT_PRESENT) return -EPERM;
  const answer = owner === caller.domid ? 0 : scanForGrant(xen, caller, owner, frame, from);
  putPage(xen, frame);
  // x86 has no way to drop lines without writing them back.
  const dropsOnly = op === GNTTAB_CACHE_INVAL && xen.model.arch === "x86";
  return answer === 0 && dropsOnly ? -EOPNOTSUPP : answer;
}

/** Looks for a pin of the caller on `frame` in one stretch of the owner's table. */
function scanForGrant(
  xen: Xen,
  caller: Caller,
  owner: number,
  frame: number,
  from: number,
): number {
  const entries = grantEntries(xen, owner);
  const end = Math.min(from + CACHE_FLUSH_SCAN, entries);
  for (let ref = from; ref < end; ref++) {
    if (
      activePin(xen, owner, ref) !== 0 &&
      activeDomid(xen, owner, ref) === caller.domid &&
      activeFrame(xen, owner, ref) === frame
    ) {
      return 0;
    }
  }
  return end < entries && from < entries ? end : -EINVAL;
}
