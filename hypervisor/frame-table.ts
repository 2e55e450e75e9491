/**
 * Owner, reference count and allocator of each machine frame.
 *
 * Life of a frame: free (count 0, no owner) -> allocated (count 0) -> assigned (PGC_allocated | 1, in the
 * owner's list) -> references come and go -> the allocation reference is dropped -> count 0 -> free. Rules: a
 * reference is only taken on a count that is not zero, and only for the owner named; a frame that a walker may
 * still reach is put only after the flush (flush.ts).
 * Behaviour: xen/common/page_alloc.c, xen/arch/arm/include/asm/mm.h (struct page_info).
 */
import { assert, at } from "../shared/assert.ts";
import {
  PGC_allocated,
  PGC_count_mask,
  PGC_state_free,
  PGC_static,
  PGC_xen_heap,
  PGT_type_shift,
  PGT_validated,
  PGT_writable_page,
} from "../shared/frame-flags.ts";
import { CDF_pv, DOM, MACHINE, mfnAt } from "../shared/layout.ts";
import { NOT_PRESENT } from "../shared/limits.ts";
import { E2BIG, EINVAL, EPERM } from "../shared/status.ts";
import { hypervisorRing, TRACE_FRAME_FREED, trace } from "../shared/trace.ts";
import { setPair, signedPair } from "../shared/trap.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import { allocationFails } from "./inject.ts";
import { addDomainField, domainField, hasFlag, isDying, setDomainField, type Xen } from "./xen.ts";

const COUNT_WRAPS = PGC_count_mask;

const countWord = (xen: Xen, frame: number): number => at(xen.words, xen.layout.frameCount + frame);

/** References on a frame, the allocation reference included. */
export const frameReferences = (xen: Xen, frame: number): number =>
  countWord(xen, frame) & PGC_count_mask;
/** Domid of the owner, or NOT_PRESENT. */
export const frameOwner = (xen: Xen, frame: number): number =>
  at(xen.words, xen.layout.frameOwner + frame);
export const isXenHeap = (xen: Xen, frame: number): boolean =>
  (countWord(xen, frame) & PGC_xen_heap) !== 0;
export const isAllocated = (xen: Xen, frame: number): boolean =>
  (countWord(xen, frame) & PGC_allocated) !== 0;
/** Whether the frame is on the domain heap's free list; free Xen heap pages are xen-heap.ts's own. */
export const isFree = (xen: Xen, frame: number): boolean =>
  (countWord(xen, frame) & (PGC_state_free | PGC_xen_heap)) === PGC_state_free;
/** Whether the frame belongs to the static memory of some domain, whoever has it. */
export const isStatic = (xen: Xen, frame: number): boolean =>
  (countWord(xen, frame) & PGC_static) !== 0;
/** Whether the frame is static memory that nobody has. */
export const isReserved = (xen: Xen, frame: number): boolean =>
  countWord(xen, frame) === PGC_static;
/** Whether the frame is RAM rather than a device's register page. */
export const isRamFrame = (xen: Xen, frame: number): boolean =>
  frame >= 0 && frame < xen.layout.ramFrames;
/** Gfn at which a xen heap page is mapped in its owner, or NOT_PRESENT. */
export const xenHeapGfn = (xen: Xen, frame: number): number =>
  signedPair(xen.words, xen.layout.frameGfn + 2 * frame);
export function setXenHeapGfn(xen: Xen, frame: number, gfn: number): void {
  setPair(xen.words, xen.layout.frameGfn + 2 * frame, gfn);
}

/** Sets the whole word of a frame's page type, in machines where frames have one. */
export function setTypeWord(xen: Xen, frame: number, word: number): void {
  if (xen.layout.frameType >= 0) xen.words[xen.layout.frameType + frame] = word;
}

/** A frame as its owner knows it: in a PV guest by its own number, in others where they have placed it, if they have. */
export function shownFrame(xen: Xen, domid: DomId, frame: number): number | undefined {
  if (hasFlag(xen, domid, CDF_pv)) return mfnAt(xen.layout, frame);
  const gfn = xenHeapGfn(xen, frame);
  return gfn === NOT_PRESENT ? undefined : gfn;
}

/** Puts a frame at the head of an owner's list (a domain column). */
function linkFrame(xen: Xen, domid: number, list: number, frame: number): void {
  const { words, layout } = xen;
  const head = domainField(xen, domid, list);
  words[layout.frameNext + frame] = head;
  words[layout.framePrevious + frame] = NOT_PRESENT;
  if (head !== NOT_PRESENT) words[layout.framePrevious + head] = frame;
  setDomainField(xen, domid, list, frame);
}

function unlinkFrame(xen: Xen, domid: number, list: number, frame: number): void {
  const { words, layout } = xen;
  const next = at(words, layout.frameNext + frame);
  const previous = at(words, layout.framePrevious + frame);
  if (previous === NOT_PRESENT) setDomainField(xen, domid, list, next);
  else words[layout.frameNext + previous] = next;
  if (next !== NOT_PRESENT) words[layout.framePrevious + next] = previous;
  words[layout.frameNext + frame] = NOT_PRESENT;
  words[layout.framePrevious + frame] = NOT_PRESENT;
}

/** The frame after `frame` in its list, or NOT_PRESENT. */
export const nextFrame = (xen: Xen, frame: number): number =>
  at(xen.words, xen.layout.frameNext + frame);

/**
 * Gives allocated frames to a domain: the owner is published before the count becomes non-zero.
 * Refuses, in Xen's order: dying -EINVAL; already above max_pages -EPERM; too many -E2BIG.
 */
export function assignPages(xen: Xen, domid: DomId, first: number, count: number): number {
  if (isDying(xen, domid)) return -EINVAL;
  const total = domainField(xen, domid, DOM.TOT_PAGES);
  const max = domainField(xen, domid, DOM.MAX_PAGES);
  if (total > max) return -EPERM;
  if (count > max - total) return -E2BIG;
  ownPages(xen, domid, first, count);
  if (total === 0) addDomainField(xen, domid, DOM.REFS, 1);
  addDomainField(xen, domid, DOM.TOT_PAGES, count);
  useClaim(xen, domid, count);
  return 0;
}

/** Gives frames to a domain whose total counts them already (Xen: MEMF_no_refcount). -EINVAL: it is dying. */
export function assignCounted(xen: Xen, domid: DomId, first: number, count: number): number {
  if (isDying(xen, domid)) return -EINVAL;
  ownPages(xen, domid, first, count);
  return 0;
}

function ownPages(xen: Xen, domid: DomId, first: number, count: number): void {
  for (let frame = first; frame < first + count; frame++) {
    xen.words[xen.layout.frameOwner + frame] = domid;
    xen.words[xen.layout.frameCount + frame] =
      (countWord(xen, frame) & PGC_static) | PGC_allocated | 1;
    linkFrame(xen, domid, DOM.PAGE_LIST, frame);
  }
}

/** Pages that a domain has been given use up as many of its claim. */
function useClaim(xen: Xen, domid: DomId, count: number): void {
  const used = Math.min(count, domainField(xen, domid, DOM.OUTSTANDING_PAGES));
  if (used === 0) return;
  addDomainField(xen, domid, DOM.OUTSTANDING_PAGES, -used);
  xen.words[MACHINE.OUTSTANDING_CLAIMS] = at(xen.words, MACHINE.OUTSTANDING_CLAIMS) - used;
}

/** Shares a xen heap page with a domain: it owns it, and may map it at one gfn. A dying domain gets nothing. */
export function shareXenPageWithGuest(xen: Xen, frame: FrameIndex, domid: DomId): void {
  assert(isXenHeap(xen, frame), "only xen heap pages are shared with a guest");
  xen.words[xen.layout.frameOwner + frame] = domid;
  setXenHeapGfn(xen, frame, NOT_PRESENT);
  if (isDying(xen, domid)) return;
  xen.words[xen.layout.frameCount + frame] = PGC_xen_heap | PGC_allocated | 1;
  // A PV guest maps it by entries of its own: it is writable for good.
  setTypeWord(xen, frame, (PGT_writable_page << PGT_type_shift) | PGT_validated | 1);
  linkFrame(xen, domid, DOM.XENPAGE_LIST, frame);
  if (addDomainField(xen, domid, DOM.XENHEAP_PAGES, 1) === 1) {
    addDomainField(xen, domid, DOM.REFS, 1);
  }
}

/** Takes a reference if the frame is in use and owned by `domid`. */
export function getPage(xen: Xen, frame: number, domid: number): boolean {
  if (frame === NOT_PRESENT || frame >= xen.layout.ramFrames) return false;
  const count = frameReferences(xen, frame);
  if (count === 0 || count === COUNT_WRAPS) return false;
  if (frameOwner(xen, frame) !== domid) return false;
  xen.words[xen.layout.frameCount + frame] = countWord(xen, frame) + 1;
  return true;
}

/** Takes a reference whoever the owner is; returns the owner, or NOT_PRESENT with nothing taken. */
export function getPageOwnerAndReference(xen: Xen, frame: number): number {
  if (frame === NOT_PRESENT || frame >= xen.layout.ramFrames) return NOT_PRESENT;
  const owner = frameOwner(xen, frame);
  return owner !== NOT_PRESENT && getPage(xen, frame, owner) ? owner : NOT_PRESENT;
}

/** Drops a reference; the last one frees the frame. */
export function putPage(xen: Xen, frame: number): void {
  assert(frameReferences(xen, frame) >= 1, "a reference that is dropped was held");
  const word = countWord(xen, frame) - 1;
  xen.words[xen.layout.frameCount + frame] = word;
  if ((word & PGC_count_mask) === 0) freeOwnedFrame(xen, frame);
}

/** Drops the allocation reference, once. Safe to call again: the flag says whether it is still there. */
export function putPageAllocRef(xen: Xen, frame: number): void {
  const word = countWord(xen, frame);
  if ((word & PGC_allocated) === 0) return;
  xen.words[xen.layout.frameCount + frame] = word & ~PGC_allocated;
  putPage(xen, frame);
}

/**
 * Takes a page away from its owner, who has nothing but the allocation reference on it: owner, list and type go, the
 * contents stay. `counted`: the domain's total goes down; else the caller gives it another page. Returns 0, or -EINVAL
 * when it is not the domain's, or special, or somebody refers to it.
 * Behaviour: xen/arch/x86/mm.c, steal_page().
 */
export function stealPage(xen: Xen, domid: DomId, frame: number, counted: boolean): number {
  if (!isRamFrame(xen, frame) || frameOwner(xen, frame) !== domid) return -EINVAL;
  if (isXenHeap(xen, frame) || !isAllocated(xen, frame)) return -EINVAL;
  if (frameReferences(xen, frame) !== 1) return -EINVAL;
  unlinkFrame(xen, domid, DOM.PAGE_LIST, frame);
  xen.words[xen.layout.frameOwner + frame] = NOT_PRESENT;
  xen.words[xen.layout.frameCount + frame] = 0;
  setTypeWord(xen, frame, 0);
  if (counted && addDomainField(xen, domid, DOM.TOT_PAGES, -1) === 0) {
    addDomainField(xen, domid, DOM.REFS, -1);
  }
  return 0;
}

/** The last reference went: out of the owner's list and back to where it came from. */
function freeOwnedFrame(xen: Xen, frame: number): void {
  const owner = frameOwner(xen, frame);
  const { words, layout } = xen;
  const heapPage = isXenHeap(xen, frame);
  if (owner !== NOT_PRESENT) {
    unlinkFrame(xen, owner, heapPage ? DOM.XENPAGE_LIST : DOM.PAGE_LIST, frame);
    const column = heapPage ? DOM.XENHEAP_PAGES : DOM.TOT_PAGES;
    if (addDomainField(xen, owner, column, -1) === 0) addDomainField(xen, owner, DOM.REFS, -1);
  }
  words[layout.frameGeneration + frame] = (at(words, layout.frameGeneration + frame) + 1) | 0;
  setTypeWord(xen, frame, 0);
  // put_page never frees a xen heap page: its allocator's owner (grant table, domain) does.
  if (heapPage) return;
  trace(words, layout, hypervisorRing(layout), TRACE_FRAME_FREED, frame, owner);
  // Pages are scrubbed when their owner is dying; a live domain's are handed out as they are (recorded.md 10).
  if (owner === NOT_PRESENT || isDying(xen, owner)) xen.memory.zero(FrameIndex(frame));
  if (isStatic(xen, frame)) reserveFrame(xen, frame);
  else freeHeapFrame(xen, frame);
}

/** Keeps a frame off every list, for the domain whose static memory it is. */
export function reserveFrame(xen: Xen, frame: number): void {
  xen.words[xen.layout.frameOwner + frame] = NOT_PRESENT;
  xen.words[xen.layout.frameCount + frame] = PGC_static;
}

/* ---- The domain heap: free frames in one list, in the order the machine's allocator wants ---- */

/** Gives a frame back to the heap; the newest freed one is handed out first. */
export function freeHeapFrame(xen: Xen, frame: number): void {
  const { words, layout } = xen;
  words[layout.frameOwner + frame] = NOT_PRESENT;
  words[layout.frameCount + frame] = PGC_state_free;
  // It is no guest's page any more, so it has no place in the M2P.
  if (layout.frameType >= 0) setXenHeapGfn(xen, frame, NOT_PRESENT);
  const head = at(words, FREE_HEAD);
  words[layout.frameNext + frame] = head;
  words[layout.framePrevious + frame] = NOT_PRESENT;
  if (head !== NOT_PRESENT) words[layout.framePrevious + head] = frame;
  words[FREE_HEAD] = frame;
  words[MACHINE.FREE_FRAMES] = at(words, MACHINE.FREE_FRAMES) + 1;
}

const FREE_HEAD = MACHINE.FREE_HEAD;

/** Takes one named frame out of the free list. */
export function takeHeapFrame(xen: Xen, frame: number): void {
  const { words, layout } = xen;
  assert(isFree(xen, frame), "a frame taken from the heap is free");
  const next = at(words, layout.frameNext + frame);
  const previous = at(words, layout.framePrevious + frame);
  if (previous === NOT_PRESENT) words[FREE_HEAD] = next;
  else words[layout.frameNext + previous] = next;
  if (next !== NOT_PRESENT) words[layout.framePrevious + next] = previous;
  words[layout.frameNext + frame] = NOT_PRESENT;
  words[layout.framePrevious + frame] = NOT_PRESENT;
  words[layout.frameCount + frame] = 0;
  words[MACHINE.FREE_FRAMES] = at(words, MACHINE.FREE_FRAMES) - 1;
}

/** Allocates 2^order frames, aligned to their size, with count 0; NOT_PRESENT when there are none. */
export function allocHeapFrames(xen: Xen, order: number): FrameIndex {
  if (allocationFails(xen)) return FrameIndex(NOT_PRESENT);
  if (order === 0) {
    const head = at(xen.words, FREE_HEAD);
    if (head !== NOT_PRESENT) takeHeapFrame(xen, head);
    return FrameIndex(head);
  }
  const size = 2 ** order;
  for (let first = 0; first + size <= xen.layout.ramFrames; first += size) {
    if (!isRunFree(xen, first, size)) continue;
    for (let frame = first; frame < first + size; frame++) takeHeapFrame(xen, frame);
    return FrameIndex(first);
  }
  return FrameIndex(NOT_PRESENT);
}

function isRunFree(xen: Xen, first: number, size: number): boolean {
  for (let frame = first; frame < first + size; frame++) {
    if (!isFree(xen, frame)) return false;
  }
  return true;
}
