/**
 * Grant entries of version 2: where they and their status words lie, and how an access is admitted to one.
 *
 * Rules: flags are the guest's alone, Xen writes the status word only; a window or a way to another domain is read
 * once, and the active entry keeps it while it is pinned. Status bits are set before the header is looked at again.
 * Behaviour: xen/common/grant_table.c, _set_status_v2(), acquire_grant_for_copy().
 */
import {
  GTF_permit_access,
  GTF_reading,
  GTF_readonly,
  GTF_sub_page,
  GTF_transitive,
  GTF_type_mask,
  GTF_writing,
} from "../shared/abi/grant.ts";
import { at } from "../shared/assert.ts";
import { DOM } from "../shared/layout.ts";
import {
  GRANT_ENTRIES_PER_FRAME_V2,
  GRANT_ENTRY_BYTES_V2,
  GRANT_STATUS_PER_FRAME,
  PAGE_SIZE,
} from "../shared/limits.ts";
import { GNTST_general_error, GNTST_okay } from "../shared/status.ts";
import { FrameIndex } from "../shared/units.ts";
import { domainField, type Xen } from "./xen.ts";

/** Whether a domain's table has the layout of version 2, which arm64 never has. */
export const isV2 = (xen: Xen, domid: number): boolean =>
  xen.model.arch === "x86" && domainField(xen, domid, DOM.GRANT_VERSION) === 2;

/** Status frames for a number of grant frames. */
export const statusFramesFor = (frames: number): number =>
  Math.ceil((frames * GRANT_ENTRIES_PER_FRAME_V2) / GRANT_STATUS_PER_FRAME);

/** Status frames that a domain has: none in version 1. */
export const statusFrames = (xen: Xen, domid: number): number =>
  isV2(xen, domid) ? statusFramesFor(domainField(xen, domid, DOM.GRANT_FRAMES)) : 0;

export const statusRow = (xen: Xen, domid: number): number =>
  xen.layout.statusFrame + domid * statusFramesFor(xen.model.limits.grantFrames);
export const statusFrame = (xen: Xen, domid: number, n: number): FrameIndex =>
  FrameIndex(at(xen.words, statusRow(xen, domid) + n));

/** What an entry grants: all of its page, bytes of it, or an entry of another domain. */
export interface Window {
  readonly start: number;
  readonly length: number;
  /** Only a copy may use it. */
  readonly part: boolean;
}
export const WHOLE_PAGE: Window = { start: 0, length: PAGE_SIZE, part: false };

const statusShift = (ref: number): number => (ref % 2) * 16;
const statusOffset = (ref: number): number => ((ref % GRANT_STATUS_PER_FRAME) >> 1) * 4;
const statusAt = (xen: Xen, domid: number, ref: number): FrameIndex =>
  statusFrame(xen, domid, Math.floor(ref / GRANT_STATUS_PER_FRAME));

export function orStatus(xen: Xen, domid: number, ref: number, bits: number): void {
  xen.memory.or(statusAt(xen, domid, ref), statusOffset(ref), bits << statusShift(ref));
}
export function clearStatus(xen: Xen, domid: number, ref: number, bits: number): void {
  xen.memory.and(statusAt(xen, domid, ref), statusOffset(ref), ~(bits << statusShift(ref)));
}
export const statusOf = (xen: Xen, domid: number, ref: number): number =>
  (xen.memory.load(statusAt(xen, domid, ref), statusOffset(ref)) >>> statusShift(ref)) & 0xffff;

/** Frame that holds an entry, and where in it. */
function entryPlace(xen: Xen, domid: number, ref: number): readonly [FrameIndex, number] {
  const row = xen.layout.grantFrame + domid * xen.model.limits.grantFrames;
  const frame = at(xen.words, row + Math.floor(ref / GRANT_ENTRIES_PER_FRAME_V2));
  return [FrameIndex(frame), (ref % GRANT_ENTRIES_PER_FRAME_V2) * GRANT_ENTRY_BYTES_V2];
}

/** A 32-bit cell of an entry, read once. */
export function entryCell(xen: Xen, domid: number, ref: number, offset: number): number {
  xen.memory.onGuestWord?.();
  const [frame, entry] = entryPlace(xen, domid, ref);
  return xen.memory.load(frame, entry + offset) >>> 0;
}

/** Exchanges two entries that nobody uses; status words stay with their references, and are 0. */
export function swapEntriesV2(xen: Xen, domid: number, a: number, b: number): void {
  const [frameA, entryA] = entryPlace(xen, domid, a);
  const [frameB, entryB] = entryPlace(xen, domid, b);
  for (let offset = 0; offset < GRANT_ENTRY_BYTES_V2; offset += 4) {
    const wordA = entryCell(xen, domid, a, offset);
    const wordB = entryCell(xen, domid, b, offset);
    xen.memory.store(frameA, entryA + offset, wordB | 0);
    xen.memory.store(frameB, entryB + offset, wordA | 0);
  }
}

export const isTransitive = (header: number): boolean =>
  (header & GTF_type_mask) === GTF_transitive;

/** The window that an entry's header and second cell say. */
export function windowOf(xen: Xen, domid: number, ref: number, header: number): Window {
  if ((header & GTF_sub_page) === 0) return WHOLE_PAGE;
  const cell = entryCell(xen, domid, ref, 4);
  return { start: cell & 0xffff, length: cell >>> 16, part: true };
}

/** As `setStatus` of active-entry.ts, for version 2. `copying`: parts of pages and ways to others are let in too. */
export function setStatusV2(
  xen: Xen,
  domid: number,
  ref: number,
  grantee: number,
  access: { readonly readonly: boolean; readonly pinned: boolean; readonly copying: boolean },
): number {
  const admits = (header: number): boolean => {
    if (!access.readonly && (header & GTF_readonly) !== 0) return false;
    if (access.pinned) return true;
    if (header >>> 16 !== grantee) return false;
    if ((header & GTF_type_mask) === GTF_permit_access) {
      return access.copying || (header & GTF_sub_page) === 0;
    }
    return access.copying && isTransitive(header);
  };
  const before = entryCell(xen, domid, ref, 0);
  if (!admits(before)) return GNTST_general_error;
  const bits = GTF_reading | (access.readonly ? 0 : GTF_writing);
  orStatus(xen, domid, ref, bits);
  // The guest may have closed the entry before it could see the status.
  if (admits(entryCell(xen, domid, ref, 0))) return GNTST_okay;
  clearStatus(xen, domid, ref, access.pinned ? bits & ~GTF_reading : bits);
  return GNTST_general_error;
}
