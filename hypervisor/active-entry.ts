/**
 * The two halves of a grant: the shared entry that the guest writes and the active entry that only Xen sees.
 *
 * While an entry is pinned the active entry is the truth: the shared entry's frame, domid and type are not read
 * again. pin holds four 8-bit counters: 7:0 host writable, 15:8 host read-only, 23:16 device writable, 31:24 device
 * read-only. A shared entry's header is changed by 32-bit atomics only, with bounded retries (W2, W7).
 * Behaviour: xen/common/grant_table.c, struct active_grant_entry, _set_status_v1(), reduce_status_for_pin().
 */

import {
  GRANT_ENTRY_FRAME,
  GRANT_ENTRY_HEADER,
  GTF_permit_access,
  GTF_reading,
  GTF_readonly,
  GTF_sub_page,
  GTF_type_mask,
  GTF_writing,
} from "../shared/abi/grant.ts";
import { assert, at } from "../shared/assert.ts";
import { DOM } from "../shared/layout.ts";
import {
  CMPXCHG_ATTEMPTS_MAX,
  GRANT_ENTRIES_PER_FRAME,
  GRANT_ENTRIES_PER_FRAME_V2,
  GRANT_ENTRY_BYTES,
} from "../shared/limits.ts";
import { GNTST_general_error, GNTST_okay } from "../shared/status.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import {
  clearStatus,
  entryCell,
  isV2,
  setStatusV2,
  swapEntriesV2,
  WHOLE_PAGE,
  type Window,
} from "./grant-v2.ts";
import { domainField, type Xen } from "./xen.ts";

export const GNTPIN_hstw_inc = 1;
export const GNTPIN_hstw_mask = 0xff;
export const GNTPIN_hstr_inc = 1 << 8;
export const GNTPIN_devw_inc = 1 << 16;
export const GNTPIN_devr_inc = 1 << 24;
export const GNTPIN_devw_mask = 0xff << 16;
/** From an increment to bit 7 of its counter: a counter that shows it has no room (PIN_COUNT_MAX). */
const GNTPIN_incr2oflow_shift = 7;

const entryRow = (xen: Xen, domid: number, ref: number): number =>
  domid * xen.model.limits.grantFrames * GRANT_ENTRIES_PER_FRAME + ref;

/** Entries of a domain's table: references below this exist. */
export const grantEntries = (xen: Xen, domid: number): number =>
  domainField(xen, domid, DOM.GRANT_FRAMES) *
  (isV2(xen, domid) ? GRANT_ENTRIES_PER_FRAME_V2 : GRANT_ENTRIES_PER_FRAME);

export const activePin = (xen: Xen, domid: number, ref: number): number =>
  at(xen.words, xen.layout.actPin + entryRow(xen, domid, ref));
export const activeDomid = (xen: Xen, domid: number, ref: number): number =>
  at(xen.words, xen.layout.actDomid + entryRow(xen, domid, ref));
export const activeFrame = (xen: Xen, domid: number, ref: number): FrameIndex =>
  FrameIndex(at(xen.words, xen.layout.actFrame + entryRow(xen, domid, ref)));

export const activeKind = (xen: Xen, domid: number, ref: number): number =>
  at(xen.words, xen.layout.actKind + entryRow(xen, domid, ref));

/** What a pinned entry grants; an unpinned one's is in the shared entry. */
export function activeWindow(xen: Xen, domid: number, ref: number): Window {
  if (activeKind(xen, domid, ref) === 0) return WHOLE_PAGE;
  const cell = at(xen.words, xen.layout.actWindow + entryRow(xen, domid, ref));
  return { start: cell & 0xffff, length: cell >>> 16, part: true };
}

/** Frame index of shared grant frame `n` of a domain. */
export const grantFrame = (xen: Xen, domid: number, n: number): FrameIndex =>
  FrameIndex(at(xen.words, xen.layout.grantFrame + domid * xen.model.limits.grantFrames + n));

const sharedFrame = (xen: Xen, domid: number, ref: number): FrameIndex =>
  grantFrame(xen, domid, Math.floor(ref / GRANT_ENTRIES_PER_FRAME));
const sharedOffset = (ref: number): number => (ref % GRANT_ENTRIES_PER_FRAME) * GRANT_ENTRY_BYTES;

/** Header cell of a shared entry: flags low, domid high. */
export function sharedHeader(xen: Xen, domid: number, ref: number): number {
  if (isV2(xen, domid)) return entryCell(xen, domid, ref, 0) | 0;
  xen.memory.onGuestWord?.();
  const offset = sharedOffset(ref) + GRANT_ENTRY_HEADER;
  return xen.memory.load(sharedFrame(xen, domid, ref), offset);
}

/** The gfn a shared entry names, read once. */
export function sharedGfn(xen: Xen, domid: number, ref: number): number {
  if (isV2(xen, domid)) {
    return entryCell(xen, domid, ref, 12) * 4294967296 + entryCell(xen, domid, ref, 8);
  }
  xen.memory.onGuestWord?.();
  return xen.memory.load(sharedFrame(xen, domid, ref), sharedOffset(ref) + GRANT_ENTRY_FRAME) >>> 0;
}

/**
 * Exchanges two shared entries of a domain, status bits and all. The owner may be writing either one: it is then told
 * the words that it wrote itself. Neither entry may be pinned.
 */
export function swapSharedEntries(xen: Xen, domid: number, a: number, b: number): void {
  if (isV2(xen, domid)) {
    swapEntriesV2(xen, domid, a, b);
    return;
  }
  const frameA = sharedFrame(xen, domid, a);
  const frameB = sharedFrame(xen, domid, b);
  for (let at = 0; at < GRANT_ENTRY_BYTES; at += 4) {
    xen.memory.onGuestWord?.();
    const wordA = xen.memory.load(frameA, sharedOffset(a) + at);
    xen.memory.onGuestWord?.();
    const wordB = xen.memory.load(frameB, sharedOffset(b) + at);
    xen.memory.store(frameA, sharedOffset(a) + at, wordB);
    xen.memory.store(frameB, sharedOffset(b) + at, wordA);
  }
}

/** Whether an access needs the status bits to be set first: nobody has it, or it would be the first writer. */
export const needsStatus = (pin: number, readonly: boolean): boolean =>
  pin === 0 || (!readonly && (pin & (GNTPIN_hstw_mask | GNTPIN_devw_mask)) === 0);

/** What one mapping adds to the pin: each half counts on its own. */
export const pinIncrement = (readonly: boolean, host: boolean, device: boolean): number =>
  (host ? (readonly ? GNTPIN_hstr_inc : GNTPIN_hstw_inc) : 0) +
  (device ? (readonly ? GNTPIN_devr_inc : GNTPIN_devw_inc) : 0);

/** Whether an active entry lets one more access of `grantee` in: same grantee, and room in the counters it goes to. */
export const pinAdmits = (
  xen: Xen,
  domid: number,
  ref: number,
  grantee: number,
  readonly: boolean,
  increment = readonly ? GNTPIN_hstr_inc : GNTPIN_hstw_inc,
): boolean => {
  const pin = activePin(xen, domid, ref);
  if (pin === 0) return true;
  const full = increment << GNTPIN_incr2oflow_shift;
  return activeDomid(xen, domid, ref) === grantee && (pin & full) === 0;
};

/**
 * Sets GTF_reading (and GTF_writing) in the shared entry for `grantee`. An unpinned entry must permit access to
 * it; of a pinned one only GTF_readonly is looked at. Refuses with GNTST_general_error, nothing written.
 */
export function setStatus(
  xen: Xen,
  domid: number,
  ref: number,
  grantee: number,
  readonly: boolean,
  copying = false,
): number {
  const pinned = activePin(xen, domid, ref) !== 0;
  if (isV2(xen, domid)) return setStatusV2(xen, domid, ref, grantee, { readonly, pinned, copying });
  const frame = sharedFrame(xen, domid, ref);
  const offset = sharedOffset(ref) + GRANT_ENTRY_HEADER;
  let header = sharedHeader(xen, domid, ref);
  for (let attempt = 0; attempt < CMPXCHG_ATTEMPTS_MAX; attempt++) {
    const kind = header & (GTF_type_mask | GTF_sub_page);
    if (!pinned && (kind !== GTF_permit_access || header >>> 16 !== grantee)) {
      return GNTST_general_error;
    }
    if (!readonly && (header & GTF_readonly) !== 0) return GNTST_general_error;
    const next = header | GTF_reading | (readonly ? 0 : GTF_writing);
    xen.memory.onGuestWord?.();
    const seen = xen.memory.compareExchange(frame, offset, header, next);
    if (seen === header) return GNTST_okay;
    header = seen;
  }
  return GNTST_general_error;
}

/** Clears the status bits that the pin no longer justifies: one atomic AND. */
export function reduceStatus(xen: Xen, domid: number, ref: number, readonly: boolean): void {
  const pin = activePin(xen, domid, ref);
  let clear = pin === 0 ? GTF_reading : 0;
  if (!readonly && (pin & (GNTPIN_hstw_mask | GNTPIN_devw_mask)) === 0) clear |= GTF_writing;
  if (clear === 0) return;
  xen.memory.onGuestWord?.();
  if (isV2(xen, domid)) {
    clearStatus(xen, domid, ref, clear);
    return;
  }
  xen.memory.and(sharedFrame(xen, domid, ref), sharedOffset(ref) + GRANT_ENTRY_HEADER, ~clear);
}

/** Counts one access in; the first one fixes grantee and frame until the last one goes. */
export function takePin(
  xen: Xen,
  domid: number,
  ref: number,
  grantee: number,
  frame: number,
  readonly: boolean,
  window = WHOLE_PAGE,
  transitive = false,
  increment = readonly ? GNTPIN_hstr_inc : GNTPIN_hstw_inc,
): void {
  const row = entryRow(xen, domid, ref);
  const pin = at(xen.words, xen.layout.actPin + row);
  if (pin === 0) {
    xen.words[xen.layout.actKind + row] = transitive ? 2 : window.part ? 1 : 0;
    xen.words[xen.layout.actWindow + row] = window.start | (window.length << 16);
    xen.words[xen.layout.actDomid + row] = grantee;
    xen.words[xen.layout.actFrame + row] = frame;
  }
  xen.words[xen.layout.actPin + row] = pin + increment;
}

/** The table is gone, with the pins of handles that nobody could give back. */
export function forgetPins(xen: Xen, domid: number): void {
  const first = xen.layout.actPin + entryRow(xen, domid, 0);
  xen.words.fill(0, first, first + xen.model.limits.grantFrames * GRANT_ENTRIES_PER_FRAME);
}

/** Counts one access out, of the host or of a device, and lets the granter see it. */
export function releasePin(
  xen: Xen,
  domid: DomId,
  ref: number,
  readonly: boolean,
  device = false,
): void {
  const row = entryRow(xen, domid, ref);
  const pin = at(xen.words, xen.layout.actPin + row);
  const shift = (readonly ? 8 : 0) + (device ? 16 : 0);
  assert(((pin >>> shift) & 0xff) >= 1, "a pin that is dropped was held");
  xen.words[xen.layout.actPin + row] = pin - (1 << shift);
  reduceStatus(xen, domid, ref, readonly);
}
