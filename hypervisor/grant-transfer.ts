/**
 * GNTTABOP_transfer: a PV guest gives a page away to a domain that has said it would accept one.
 *
 * Rules: the page must be the caller's, with nobody referring to it. Once it is taken it is lost to the caller, whatever
 * is refused afterwards; one whose number an entry cannot hold goes as a copy of it. The receiver's entry goes from accepting
 * to committed by one compare-and-exchange, so that it accepts once; then frame, and completed last.
 * Behaviour: xen/common/grant_table.c, gnttab_transfer(), gnttab_prepare_for_transfer().
 */
import {
  GRANT_ENTRY_FRAME,
  GTF_accept_transfer,
  GTF_transfer_committed,
  GTF_transfer_completed,
  TRANSFER_DOMID,
  TRANSFER_MFN,
  TRANSFER_REF,
  TRANSFER_SIZE,
  TRANSFER_STATUS,
} from "../shared/abi/grant.ts";
import { DOM, indexOf, mfnAt } from "../shared/layout.ts";
import {
  CMPXCHG_ATTEMPTS_MAX,
  GRANT_ENTRIES_PER_FRAME,
  GRANT_ENTRIES_PER_FRAME_V2,
  GRANT_ENTRY_BYTES,
  GRANT_ENTRY_BYTES_V2,
  NOT_PRESENT,
  PAGE_SIZE,
} from "../shared/limits.ts";
import { p2m_ram_rw } from "../shared/pte.ts";
import {
  EFAULT,
  GNTST_address_too_big,
  GNTST_bad_domain,
  GNTST_bad_page,
  GNTST_general_error,
  GNTST_okay,
  GNTST_permission_denied,
} from "../shared/status.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import { grantEntries, grantFrame, sharedGfn, sharedHeader } from "./active-entry.ts";
import { flushDone, startFlush } from "./flush.ts";
import { assignPages, freeHeapFrame, setXenHeapGfn } from "./frame-table.ts";
import { mayGrant } from "./grant-map.ts";
import { isV2 } from "./grant-v2.ts";
import { copyArgs, copyFieldBack } from "./guest-access.ts";
import { allocFrames } from "./heap-frames.ts";
import { releaseHolds } from "./hold-list.ts";
import { p2mSet } from "./p2m.ts";
import { insertionCrashes, releaseFormer } from "./p2m-insert.ts";
import { isPv, stealUnused } from "./page-type.ts";
import { withPvFlush } from "./pv-flush.ts";
import {
  type Caller,
  domainById,
  domainField,
  GAP_FLUSH,
  GAP_PREEMPT,
  isDying,
  isGapDue,
  type Preemptible,
  type Xen,
} from "./xen.ts";

/** First number that the 32-bit frame field of a version 1 entry cannot hold. */
const FRAME_FIELD_END = 2 ** 32;

export function* transferPages(xen: Xen, caller: Caller, uop: number, count: number): Preemptible {
  for (let i = 0; i < count; i++) {
    if (i > 0 && isGapDue(xen, i)) yield GAP_PREEMPT;
    const element = uop + i * TRANSFER_SIZE;
    if (!copyArgs(xen, caller.domid, element, TRANSFER_SIZE)) return -EFAULT;
    const { args } = xen;
    const frame = indexOf(xen.layout, xen.words, args.u64(TRANSFER_MFN));
    const domid = args.u16(TRANSFER_DOMID);
    const ref = args.u32(TRANSFER_REF);
    let status = GNTST_bad_page;
    yield* withPvFlush(xen, caller, () => {
      const taken = stealUnused(xen, caller.domid, frame, true);
      if (taken === 0) status = giveAway(xen, caller, frame, domid, ref);
      return taken;
    });
    // Where the page has replaced something in the receiver's table, that is let go behind the flush.
    if (!flushDone(xen, caller.slot)) yield GAP_FLUSH;
    releaseHolds(xen, caller.slot);
    args.setU16(TRANSFER_STATUS, status);
    if (!copyFieldBack(xen, caller.domid, element, TRANSFER_STATUS, 2)) return -EFAULT;
  }
  return 0;
}

/** A page without an owner goes to its new one, or back to the heap. */
function giveAway(xen: Xen, caller: Caller, frame: number, domid: number, ref: number): number {
  const receiver = domainById(xen, domid);
  const mayHave = receiver !== undefined && mayGrant(xen, caller, receiver);
  if (!mayHave) {
    freeHeapFrame(xen, frame);
    return receiver === undefined ? GNTST_bad_domain : GNTST_permission_denied;
  }
  const given = fitting(xen, receiver, frame);
  if (given === NOT_PRESENT) {
    freeHeapFrame(xen, frame);
    return GNTST_address_too_big;
  }
  const status = offer(xen, caller, given, receiver, ref);
  if (status !== GNTST_okay) freeHeapFrame(xen, given);
  return status;
}

/** The page itself; or, where an entry has no room for its number, another one with its contents, if there is one. */
function fitting(xen: Xen, receiver: DomId, frame: number): number {
  const isNarrow = isPv(xen, receiver) && !isV2(xen, receiver);
  if (!isNarrow || mfnAt(xen.layout, frame) < FRAME_FIELD_END) return frame;
  const other = allocFrames(xen, 0, FRAME_FIELD_END);
  if (other === NOT_PRESENT) return NOT_PRESENT;
  xen.memory.copy(other, 0, FrameIndex(frame), 0, PAGE_SIZE);
  freeHeapFrame(xen, frame);
  return other;
}

function offer(xen: Xen, caller: Caller, frame: number, receiver: DomId, ref: number): number {
  const pages = domainField(xen, receiver, DOM.TOT_PAGES);
  if (isDying(xen, receiver) || pages >= domainField(xen, receiver, DOM.MAX_PAGES)) {
    return GNTST_general_error;
  }
  if (!commit(xen, caller, receiver, ref)) return GNTST_general_error;
  if (assignPages(xen, receiver, frame, 1) !== 0) return GNTST_general_error;
  complete(xen, caller, receiver, ref, frame);
  return GNTST_okay;
}

/** Where an entry's header stands. */
function headerPlace(xen: Xen, domid: DomId, ref: number): readonly [FrameIndex, number] {
  const perFrame = isV2(xen, domid) ? GRANT_ENTRIES_PER_FRAME_V2 : GRANT_ENTRIES_PER_FRAME;
  const bytes = isV2(xen, domid) ? GRANT_ENTRY_BYTES_V2 : GRANT_ENTRY_BYTES;
  return [grantFrame(xen, domid, Math.floor(ref / perFrame)), (ref % perFrame) * bytes];
}

/** The entry accepts exactly one page, of exactly this domain. */
function commit(xen: Xen, caller: Caller, receiver: DomId, ref: number): boolean {
  if (ref >= grantEntries(xen, receiver)) return false;
  const [table, offset] = headerPlace(xen, receiver, ref);
  let header = sharedHeader(xen, receiver, ref);
  for (let attempt = 0; attempt < CMPXCHG_ATTEMPTS_MAX; attempt++) {
    if ((header & 0xffff) !== GTF_accept_transfer || header >>> 16 !== caller.domid) return false;
    xen.memory.onGuestWord?.();
    const next = header | GTF_transfer_committed;
    const seen = xen.memory.compareExchange(table, offset, header | 0, next | 0);
    if (seen === (header | 0)) return true;
    header = seen;
  }
  return false;
}

/**
 * The receiver is told: a PV guest by the machine frame, a translated one gets the page at the gfn that its entry names,
 * and keeps it unmapped if that cannot be.
 */
function complete(xen: Xen, caller: Caller, receiver: DomId, ref: number, frame: number): void {
  const [table, offset] = headerPlace(xen, receiver, ref);
  const place = sharedGfn(xen, receiver, ref);
  if (isPv(xen, receiver)) {
    const mfn = mfnAt(xen.layout, frame);
    setXenHeapGfn(xen, frame, place);
    if (isV2(xen, receiver)) {
      xen.memory.store(table, offset + 8, mfn | 0);
      xen.memory.store(table, offset + 12, Math.floor(mfn / 4294967296));
    } else xen.memory.store(table, offset + GRANT_ENTRY_FRAME, mfn | 0);
  } else {
    setXenHeapGfn(xen, frame, NOT_PRESENT);
    enterGiven(xen, caller.slot, receiver, place, frame);
  }
  xen.memory.or(table, offset, GTF_transfer_completed);
}

/** Enters the page as RAM. A flush of what it replaces begins before the receiver is told, and is waited for by the handler. */
function enterGiven(xen: Xen, slot: number, receiver: DomId, gfn: number, frame: number): void {
  if (insertionCrashes(xen, slot, receiver, gfn)) return;
  const former = p2mSet(xen, receiver, gfn, frame, p2m_ram_rw);
  if (former > 0 && releaseFormer(xen, slot, receiver, former, frame)) {
    startFlush(xen, slot, receiver);
  }
}
