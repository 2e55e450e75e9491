/**
 * GNTTABOP_copy: the hypervisor copies bytes between two pages, each named by a grant reference or by the caller's own
 * gfn. A copy is a short-lived pin: a concurrent revoke can see the status bits set with no mapping.
 *
 * Each element acquires and releases both sides by itself. The pin goes before the page reference (advisory 236).
 * Behaviour: xen/common/grant_table.c, gnttab_copy_one(), acquire_grant_for_copy(), release_grant_for_copy().
 */
import {
  COPY_DEST,
  COPY_FLAGS,
  COPY_LEN,
  COPY_PTR_DOMID,
  COPY_PTR_OFFSET,
  COPY_PTR_REF_OR_GMFN,
  COPY_SIZE,
  COPY_SOURCE,
  COPY_STATUS,
  GNTCOPY_dest_gref,
  GNTCOPY_source_gref,
} from "../shared/abi/grant.ts";
import { DOMID_SELF } from "../shared/abi/xen.ts";
import { PGT_writable_page } from "../shared/frame-flags.ts";
import { CMPXCHG_ATTEMPTS_MAX, NOT_PRESENT, PAGE_SIZE } from "../shared/limits.ts";
import {
  EFAULT,
  GNTST_bad_copy_arg,
  GNTST_bad_domain,
  GNTST_bad_gntref,
  GNTST_eagain,
  GNTST_general_error,
  GNTST_okay,
  GNTST_permission_denied,
} from "../shared/status.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import {
  activeFrame,
  activeKind,
  activePin,
  activeWindow,
  grantEntries,
  needsStatus,
  pinAdmits,
  reduceStatus,
  releasePin,
  setStatus,
  sharedGfn,
  sharedHeader,
  takePin,
} from "./active-entry.ts";
import { getPage, putPage } from "./frame-table.ts";
import { grantedFrame, mayGrant } from "./grant-map.ts";
import { entryCell, isTransitive, isV2, WHOLE_PAGE, type Window, windowOf } from "./grant-v2.ts";
import { copyArgs, copyToGuest } from "./guest-access.ts";
import { isPagedOut } from "./inject.ts";
import { getPageType, putPageType } from "./page-type.ts";
import {
  type Caller,
  domainByAnyId,
  domainById,
  GAP_PREEMPT,
  isDying,
  isGapDue,
  type Preemptible,
  type Xen,
} from "./xen.ts";

/** One side of a copy: a page with a reference held, and the entry that is pinned for it, if any. */
interface Side {
  readonly frame: FrameIndex;
  readonly granter: DomId | undefined;
  readonly ref: number;
  readonly readonly: boolean;
  readonly window: Window;
  /** The entry of another domain that a transitive entry has led to; it holds the page. */
  readonly via: Side | undefined;
  /** A type reference is held on the page. */
  readonly typed?: true;
}

export function* copyGrantRefs(xen: Xen, caller: Caller, uop: number, count: number): Preemptible {
  const kept: KeptDomains = { source: NOT_PRESENT, dest: NOT_PRESENT };
  for (let i = 0; i < count; i++) {
    if (i > 0 && isGapDue(xen, i)) {
      forget(kept);
      yield GAP_PREEMPT;
    }
    const element = uop + i * COPY_SIZE;
    if (!copyArgs(xen, caller.domid, element, COPY_SIZE)) return -EFAULT;
    const { args } = xen;
    // A length of 0 is checked like any other: recorded, against what later trees do.
    args.setU16(
      COPY_STATUS,
      isPagedOut(xen, caller.slot) ? GNTST_eagain : copyElement(xen, caller, kept),
    );
    const status = element + COPY_STATUS;
    if (!copyToGuest(xen, caller.domid, status, args.bytes, COPY_STATUS, 2)) return -EFAULT;
  }
  return 0;
}

/** Domain numbers of the last element, as it spelled them: a batch looks a side's domain up only when it changes. */
interface KeptDomains {
  source: number;
  dest: number;
}

function forget(kept: KeptDomains): void {
  kept.source = NOT_PRESENT;
  kept.dest = NOT_PRESENT;
}

/**
 * The domain a side names, or a GNTST_*: a side that is not a reference must say DOMID_SELF exactly. The caller's own
 * number passes when the element before named it on the same side, because then nobody looks (recorded).
 */
function sideDomain(
  xen: Xen,
  caller: Caller,
  at: number,
  isRef: boolean,
  kept: number,
): DomId | number {
  const domid = xen.args.u16(at + COPY_PTR_DOMID);
  const isOwn = domid === DOMID_SELF || (domid === kept && domid === caller.domid);
  if (!isRef && !isOwn) return GNTST_permission_denied;
  return domainByAnyId(xen, caller, domid) ?? GNTST_bad_domain;
}

/** An internal answer, which no guest sees: what was looked at has changed meanwhile, so the element is taken up again. */
const RETRY = 1;

function copyElement(xen: Xen, caller: Caller, kept: KeptDomains): number {
  for (let attempt = 0; attempt < CMPXCHG_ATTEMPTS_MAX; attempt++) {
    const status = copyOne(xen, caller, kept);
    if (status !== RETRY) return status;
  }
  return GNTST_general_error;
}

/** A GNTST_*, or RETRY with nothing left behind. */
function copyOne(xen: Xen, caller: Caller, kept: KeptDomains): number {
  const flags = xen.args.u16(COPY_FLAGS);
  const sourceIsRef = (flags & GNTCOPY_source_gref) !== 0;
  const destIsRef = (flags & GNTCOPY_dest_gref) !== 0;
  const { source: keptSource, dest: keptDest } = kept;
  forget(kept);
  const sourceDomain = sideDomain(xen, caller, COPY_SOURCE, sourceIsRef, keptSource);
  if (sourceDomain < 0) return sourceDomain;
  const destDomain = sideDomain(xen, caller, COPY_DEST, destIsRef, keptDest);
  if (destDomain < 0) return destDomain;
  if (!mayGrant(xen, caller, sourceDomain as DomId)) return GNTST_permission_denied;
  if (!mayGrant(xen, caller, destDomain as DomId)) return GNTST_permission_denied;
  kept.source = xen.args.u16(COPY_SOURCE + COPY_PTR_DOMID);
  kept.dest = xen.args.u16(COPY_DEST + COPY_PTR_DOMID);
  const source = acquire(xen, caller, sourceDomain as DomId, COPY_SOURCE, sourceIsRef, true);
  if (typeof source === "number") return source;
  const dest = typed(xen, acquire(xen, caller, destDomain as DomId, COPY_DEST, destIsRef, false));
  if (typeof dest === "number") {
    release(xen, source);
    return dest;
  }
  const status = move(xen, source, dest);
  release(xen, dest);
  release(xen, source);
  return status;
}

/** Bounds are checked only after both sides were acquired, so a bad reference is reported first. */
function move(xen: Xen, source: Side, dest: Side): number {
  const length = xen.args.u16(COPY_LEN);
  const from = xen.args.u16(COPY_SOURCE + COPY_PTR_OFFSET);
  const to = xen.args.u16(COPY_DEST + COPY_PTR_OFFSET);
  if (from + length > PAGE_SIZE || to + length > PAGE_SIZE) return GNTST_bad_copy_arg;
  if (!isInside(source.window, from, length)) return GNTST_general_error;
  if (!isInside(dest.window, to, length)) return GNTST_general_error;
  xen.memory.copy(dest.frame, to, source.frame, from, length);
  return GNTST_okay;
}

const isInside = ({ start, length }: Window, from: number, bytes: number): boolean =>
  from >= start && from + bytes <= start + length;

/** What is written to must be writable: in a PV guest's page table nobody writes. */
function typed(xen: Xen, side: Side | number): Side | number {
  if (typeof side === "number") return side;
  if (getPageType(xen, side.frame, PGT_writable_page) === 0) return { ...side, typed: true };
  release(xen, side);
  return GNTST_general_error;
}

function acquire(
  xen: Xen,
  caller: Caller,
  domid: DomId,
  at: number,
  isRef: boolean,
  readonly: boolean,
): Side | number {
  if (!isRef) {
    const frame = grantedFrame(xen, caller.domid, xen.args.u64(at + COPY_PTR_REF_OR_GMFN));
    if (frame < 0) return frame;
    const own = { granter: undefined, ref: 0, readonly, window: WHOLE_PAGE, via: undefined };
    return { frame: FrameIndex(frame), ...own };
  }
  const ref = xen.args.u32(at + COPY_PTR_REF_OR_GMFN);
  return acquireGrant(xen, domid, ref, caller.domid, readonly, true);
}

/**
 * Pins an entry for a copy, or returns a GNTST_* or RETRY with nothing left behind. `mayLead`: it may be transitive; what it
 * leads to may not.
 */
function acquireGrant(
  xen: Xen,
  granter: DomId,
  ref: number,
  grantee: DomId,
  readonly: boolean,
  mayLead: boolean,
): Side | number {
  if (ref >= grantEntries(xen, granter)) return GNTST_bad_gntref;
  if (!pinAdmits(xen, granter, ref, grantee, readonly)) return GNTST_general_error;
  const pin = activePin(xen, granter, ref);
  if (needsStatus(pin, readonly)) {
    const status = setStatus(xen, granter, ref, grantee, readonly, true);
    if (status !== GNTST_okay) return status;
  }
  const found = pinnedSide(xen, granter, ref, readonly, mayLead);
  if (typeof found === "number") {
    reduceStatus(xen, granter, ref, readonly);
    return found;
  }
  const { frame, window } = found;
  takePin(xen, granter, ref, grantee, frame, readonly, window, found.via !== undefined);
  return found;
}

/** The page, window and way of an entry whose status bits are set. */
function pinnedSide(
  xen: Xen,
  granter: DomId,
  ref: number,
  readonly: boolean,
  mayLead: boolean,
): Side | number {
  const pin = activePin(xen, granter, ref);
  const header = sharedHeader(xen, granter, ref);
  const leads =
    pin === 0 ? isV2(xen, granter) && isTransitive(header) : activeKind(xen, granter, ref) === 2;
  if (leads) {
    const via = mayLead ? acquireBehind(xen, granter, ref, readonly) : GNTST_general_error;
    if (typeof via === "number") return via;
    // The guest may lead elsewhere since: whoever has the entry pinned has another page than this one (advisory 226).
    if (pin !== 0 && !isActive(xen, granter, ref, via)) {
      release(xen, via);
      return RETRY;
    }
    // Always counted as a part of a page, so that nobody maps it.
    const window = { ...via.window, part: true };
    return { frame: via.frame, granter, ref, readonly, window, via };
  }
  const frame = copyFrame(xen, granter, ref, pin);
  if (frame < 0) return frame;
  const shared = isV2(xen, granter) ? windowOf(xen, granter, ref, header) : WHOLE_PAGE;
  const window = pin === 0 ? shared : activeWindow(xen, granter, ref);
  return { frame: FrameIndex(frame), granter, ref, readonly, window, via: undefined };
}

/** Whether what an entry leads to is what it is pinned with. */
function isActive(xen: Xen, granter: DomId, ref: number, { frame, window }: Side): boolean {
  const { start, length } = activeWindow(xen, granter, ref);
  return (
    frame === activeFrame(xen, granter, ref) && start === window.start && length === window.length
  );
}

/** Follows a transitive entry, in the name of its granter. It may not lead back to the same domain. */
function acquireBehind(xen: Xen, granter: DomId, ref: number, readonly: boolean): Side | number {
  const next = domainById(xen, entryCell(xen, granter, ref, 4) & 0xffff);
  if (next === undefined || next === granter) return GNTST_general_error;
  return acquireGrant(xen, next, entryCell(xen, granter, ref, 8), granter, readonly, false);
}

/** An unpinned entry names its frame in the shared entry, a pinned one in the active entry. */
function copyFrame(xen: Xen, granter: DomId, ref: number, pin: number): number {
  if (pin === 0) return grantedFrame(xen, granter, sharedGfn(xen, granter, ref));
  const frame = activeFrame(xen, granter, ref);
  if (isDying(xen, granter) || !getPage(xen, frame, granter)) return GNTST_bad_domain;
  return frame;
}

function release(xen: Xen, side: Side): void {
  if (side.typed) putPageType(xen, side.frame);
  if (side.granter !== undefined) releasePin(xen, side.granter, side.ref, side.readonly);
  if (side.via === undefined) putPage(xen, side.frame);
  else release(xen, side.via);
}
