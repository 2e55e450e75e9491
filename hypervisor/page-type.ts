/**
 * Page types of x86 PV: what a frame is used as, how often, and what the entries of a guest's page tables refer to.
 *
 *   type 0 -> 1   the type may change; a table's entries are checked, and each takes its references (promote)
 *   type 1 -> 0   a table's entries give them back (demote); the type stays until another one is asked for
 *
 * Rules: writable and page table exclude each other, because a second type is refused while the count is not 0. A page
 * that was writable becomes a table only after a flush that began after its last writable reference went: -ERESTART asks
 * for it (pv-flush.ts). Functions here are plain; references on pages are dropped at once, so whoever
 * takes a translation away flushes first, or holds the page. In a machine without PV domains every reference is granted.
 * Behaviour: xen/arch/x86/mm.c, _get_page_type(), _put_page_type(), promote_l1_table() to promote_l4_table(),
 * get_page_from_l1e(), put_page_from_l1e().
 */
import { assert, at } from "../shared/assert.ts";
import {
  PGT_count_mask,
  PGT_l1_page_table,
  PGT_l4_page_table,
  PGT_pinned,
  PGT_type_mask,
  PGT_type_shift,
  PGT_validated,
  PGT_writable_page,
} from "../shared/frame-flags.ts";
import { CDF_pv, DOM, indexOf, MACHINE, mfnAt } from "../shared/layout.ts";
import { TABLE_ENTRIES } from "../shared/limits.ts";
import {
  _PAGE_RW,
  adjustGuestPte,
  isPresentX86,
  L1_DISALLOW,
  mfnOfX86,
  type PteX86,
  ROOT_XEN_FIRST,
  ROOT_XEN_LAST,
  TABLE_DISALLOW,
} from "../shared/pte-x86.ts";
import { EBUSY, EINVAL, EPERM, ERESTART } from "../shared/status.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import {
  frameOwner,
  frameReferences,
  getPage,
  getPageOwnerAndReference,
  isAllocated,
  isRamFrame,
  isXenHeap,
  putPage,
  stealPage,
} from "./frame-table.ts";
import {
  hasOwnTable,
  IOMMUF_readable,
  IOMMUF_writable,
  iommuMap,
  iommuUnmap,
} from "./iommu-table.ts";
import { invalidateIotlbs } from "./iotlb.ts";
import { domainField, hasFlag, isDying, type Xen } from "./xen.ts";

/** Whether the domain is not translated: it names machine frames, and its address space is its page tables. */
export const isPv = (xen: Xen, domid: number): boolean =>
  hasTypes(xen) && hasFlag(xen, domid, CDF_pv);

/** Whether frames have types in this machine. */
export const hasTypes = (xen: Xen): boolean => xen.layout.frameType >= 0;

const typeWord = (xen: Xen, frame: number): number => at(xen.words, xen.layout.frameType + frame);
const setTypeWord = (xen: Xen, frame: number, word: number): void => {
  xen.words[xen.layout.frameType + frame] = word;
};

export const typeOf = (xen: Xen, frame: number): number =>
  (typeWord(xen, frame) & PGT_type_mask) >>> PGT_type_shift;
export const typeCount = (xen: Xen, frame: number): number => typeWord(xen, frame) & PGT_count_mask;
export const isPinned = (xen: Xen, frame: number): boolean =>
  (typeWord(xen, frame) & PGT_pinned) !== 0;
/** Whether the frame is in use as a page table of some level. */
export const isTableFrame = (xen: Xen, frame: number): boolean =>
  typeCount(xen, frame) > 0 && isTableType(typeOf(xen, frame));

const isTableType = (type: number): boolean =>
  type >= PGT_l1_page_table && type <= PGT_l4_page_table;

/** Sets or clears the pin; the caller takes and drops the references that go with it. */
export function setPinned(xen: Xen, frame: number, pinned: boolean): void {
  const word = typeWord(xen, frame) & ~PGT_pinned;
  setTypeWord(xen, frame, pinned ? word | PGT_pinned : word);
}

/**
 * Takes a type reference; a page reference of the caller's covers it. Returns 0, -EINVAL (another type is in use), what
 * an entry of a table was refused with, or -ERESTART: flush, and ask again.
 */
export function getPageType(xen: Xen, frame: number, type: number): number {
  if (!hasTypes(xen)) return 0;
  const word = typeWord(xen, frame);
  const count = word & PGT_count_mask;
  const now = (word & PGT_type_mask) >>> PGT_type_shift;
  if (count === PGT_count_mask) return -EINVAL;
  if (count > 0) {
    // A table that is being promoted further up has no entry that has been checked: nothing may lead to it yet.
    if (now !== type || (word & PGT_validated) === 0) return -EINVAL;
    setTypeWord(xen, frame, word + 1);
    return 0;
  }
  if (type === PGT_writable_page) {
    const error = showDevices(xen, frame);
    if (error !== 0) return error;
  }
  if (now === type && (word & PGT_validated) !== 0 && !isTableType(type)) {
    setTypeWord(xen, frame, word + 1);
    return 0;
  }
  if (isTableType(type) && now === PGT_writable_page && isStale(xen, frameOwner(xen, frame), frame))
    return -ERESTART;
  setTypeWord(xen, frame, (type << PGT_type_shift) | 1);
  const error = isTableType(type) ? promote(xen, frame, type) : 0;
  setTypeWord(xen, frame, error === 0 ? (type << PGT_type_shift) | PGT_validated | 1 : 0);
  if (error !== 0 && now === PGT_writable_page) setTypeWord(xen, frame, now << PGT_type_shift);
  return error;
}

/** Whether the owner's devices are told of a page: RAM of a living PV domain with an IOMMU. */
const isShown = (xen: Xen, owner: number, frame: number): boolean =>
  owner >= 0 && isPv(xen, owner) && hasOwnTable(xen, owner) && !isXenHeap(xen, frame);

/** A page that is in use as writable is in its owner's IOMMU table, at its own number. Returns 0 or -ENOMEM. */
function showDevices(xen: Xen, frame: number): number {
  const owner = frameOwner(xen, frame);
  if (!isShown(xen, owner, frame) || isDying(xen, owner)) return 0;
  const rights = IOMMUF_readable | IOMMUF_writable;
  return Math.min(iommuMap(xen, owner as DomId, mfnAt(xen.layout, frame), frame, rights), 0);
}

/** The last writable reference goes: so does the entry, and what devices have cached, before the page can be anything else. */
function hideFromDevices(xen: Xen, frame: number): void {
  const owner = frameOwner(xen, frame);
  if (!isShown(xen, owner, frame)) return;
  if (iommuUnmap(xen, owner as DomId, mfnAt(xen.layout, frame)) > 0) invalidateIotlbs(xen, owner);
}

/** Whether a walker of the owner may still have a translation to the page, though no entry leads there. */
function isStale(xen: Xen, owner: number, frame: number): boolean {
  const flushed = domainField(xen, owner, DOM.TYPES_FLUSHED);
  return ((at(xen.words, xen.layout.frameStamp + frame) - flushed) | 0) >= 0;
}

/** Before a domain gives a page up: 0, or -ERESTART while a translation to it may be left that no entry stands for. */
export const mayGiveUp = (xen: Xen, domid: DomId, frame: number): number =>
  isAllocated(xen, frame) && isStale(xen, domid, frame) ? -ERESTART : 0;

/** As `stealPage`; also -ERESTART while a translation may be left: flush, and ask again. */
export function stealUnused(xen: Xen, domid: DomId, frame: number, counted: boolean): number {
  const its = isRamFrame(xen, frame) && frameOwner(xen, frame) === domid;
  if (its && isAllocated(xen, frame) && frameReferences(xen, frame) === 1) {
    if (isStale(xen, domid, frame)) return -ERESTART;
  }
  return stealPage(xen, domid, frame, counted);
}

/** Drops a type reference. The last one of a table gives back what its entries refer to. */
export function putPageType(xen: Xen, frame: number): void {
  if (!hasTypes(xen)) return;
  const word = typeWord(xen, frame);
  assert((word & PGT_count_mask) > 0, "a type reference that is dropped was held");
  const type = (word & PGT_type_mask) >>> PGT_type_shift;
  if ((word & PGT_count_mask) > 1) {
    setTypeWord(xen, frame, word - 1);
    return;
  }
  if (isTableType(type)) demote(xen, frame, type, TABLE_ENTRIES);
  else if (type === PGT_writable_page) hideFromDevices(xen, frame);
  setTypeWord(xen, frame, (word - 1) & (isTableType(type) ? ~PGT_validated : -1));
}

export function putPageAndType(xen: Xen, frame: number): void {
  putPageType(xen, frame);
  putPage(xen, frame);
}

export const readPte = (xen: Xen, table: number, slot: number): PteX86 => ({
  low: xen.memory.peek(FrameIndex(table), slot * 8),
  high: xen.memory.peek(FrameIndex(table), slot * 8 + 4),
});

/** A slot of a table that the guest has. Those of Xen in its level 4 tables are never read. */
const isGuestSlot = (level: number, slot: number): boolean =>
  level < PGT_l4_page_table || slot < ROOT_XEN_FIRST || slot > ROOT_XEN_LAST;

/** Checks every entry and takes its references; what was taken is given back if one is refused. */
function promote(xen: Xen, table: number, level: number): number {
  const owner = frameOwner(xen, table) as DomId;
  for (let slot = 0; slot < TABLE_ENTRIES; slot++) {
    if (!isGuestSlot(level, slot)) continue;
    const pte = readPte(xen, table, slot);
    const error = isPresentX86(pte) ? getPageFromEntry(xen, owner, owner, pte, level) : 0;
    if (error !== 0) {
      demote(xen, table, level, slot);
      return error;
    }
    if (level > PGT_l1_page_table || !isPresentX86(pte)) continue;
    const adjusted = adjustGuestPte(pte);
    xen.memory.poke(FrameIndex(table), slot * 8 + 4, adjusted.high);
    xen.memory.poke(FrameIndex(table), slot * 8, adjusted.low);
  }
  return 0;
}

/** Gives back what the first `slots` entries refer to. */
function demote(xen: Xen, table: number, level: number, slots: number): void {
  const owner = frameOwner(xen, table) as DomId;
  for (let slot = slots - 1; slot >= 0; slot--) {
    if (!isGuestSlot(level, slot)) continue;
    const pte = readPte(xen, table, slot);
    if (isPresentX86(pte)) putPageFromEntry(xen, owner, pte, level);
  }
}

/**
 * Takes what an entry of a table of `owner` refers to: a page of `from`, which is the same domain unless a privileged one
 * maps another's, or the table below. Returns 0 or a negative errno with nothing taken.
 */
export function getPageFromEntry(
  xen: Xen,
  owner: DomId,
  from: DomId,
  pte: PteX86,
  level: number,
): number {
  const disallow = level === PGT_l1_page_table ? L1_DISALLOW : TABLE_DISALLOW;
  if ((pte.low & disallow) !== 0) return -EINVAL;
  const frame = indexOf(xen.layout, xen.words, mfnOfX86(pte));
  if (level > PGT_l1_page_table) return getTable(xen, owner, frame, level - 1);
  if (!isRamFrame(xen, frame)) return mfnOfX86(pte) === INVALID_FRAME ? -EINVAL : -EPERM;
  const has = getPageOwnerAndReference(xen, frame);
  if (has < 0) return -EBUSY;
  const writes = isCountedWritable(xen, owner, has, pte);
  const typed = has === from && (!writes || getPageType(xen, frame, PGT_writable_page) === 0);
  if (typed) return 0;
  putPage(xen, frame);
  return -EBUSY;
}

/** The highest frame that an entry can name: what INVALID_MFN becomes in it. */
const INVALID_FRAME = 2 ** 40 - 1;

function getTable(xen: Xen, owner: DomId, frame: number, type: number): number {
  if (!isRamFrame(xen, frame) || !getPage(xen, frame, owner)) return -EINVAL;
  const error = getPageType(xen, frame, type);
  if (error !== 0) putPage(xen, frame);
  return error;
}

/** Writable entries count as such, but for pages of translated domains: those have no page tables that could suffer. */
export const isCountedWritable = (
  xen: Xen,
  mapper: number,
  owner: number,
  { low }: PteX86,
): boolean => (low & _PAGE_RW) !== 0 && (owner === mapper || isPv(xen, owner));

/** Gives back what a page's entry refers to, and stamps the page. */
export function putPageFromL1e(xen: Xen, mapper: DomId, pte: PteX86): void {
  const frame = indexOf(xen.layout, xen.words, mfnOfX86(pte));
  if (!isPresentX86(pte) || !isRamFrame(xen, frame)) return;
  xen.words[xen.layout.frameStamp + frame] = at(xen.words, MACHINE.FLUSHES);
  if (isCountedWritable(xen, mapper, frameOwner(xen, frame), pte)) putPageType(xen, frame);
  putPage(xen, frame);
}

/** Gives back everything that an entry refers to. Nobody can be using the translation any more. */
function putPageFromEntry(xen: Xen, mapper: DomId, pte: PteX86, level: number): void {
  if (level > PGT_l1_page_table) {
    putPageAndType(xen, indexOf(xen.layout, xen.words, mfnOfX86(pte)));
  } else putPageFromL1e(xen, mapper, pte);
}
