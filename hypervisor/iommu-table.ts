/**
 * dfn to mfn of a domain whose devices have a table of their own: 4 KiB entries in the format of the P2M, in pages of the
 * Xen heap. A domain without one has its devices walk its P2M, and every call here does nothing and answers 0.
 *
 * Three things are entered: what the P2M says (`iommuFollow`, called where it changes), the writable pages of a PV domain
 * at their own numbers (page-type.ts), and identity entries of grant mappings (iommu.ts), which stand over the rest while
 * they are counted. An update that cannot be made for want of a table
 * page is refused before anything has changed, and the domain is crashed for it unless it is the hardware domain.
 * Behaviour: xen/drivers/passthrough/iommu.c, iommu_map(), iommu_unmap(); xen/arch/x86/mm/p2m.h, p2m_get_iommu_flags().
 */
import { at } from "../shared/assert.ts";
import { IOMMU_DOMAIN, iommuDomainOf, QUEUE } from "../shared/iommu-layout.ts";
import { CDF_hardware, CDF_pv, DOM, indexOf, mfnAt } from "../shared/layout.ts";
import { NOT_PRESENT, P2M_LEVEL_LEAF, TABLE_ENTRIES } from "../shared/limits.ts";
import { rootGfnEnd, rootLevel, rootPages } from "../shared/mmu.ts";
import {
  leafHigh,
  leafWord,
  levelSlot,
  PTE_WRITE,
  p2m_invalid,
  p2m_iommu_map_ro,
  p2m_iommu_map_rw,
  pteMfn,
  pteType,
  rootPageOf,
  tableHigh,
  tableWord,
  upperBits,
} from "../shared/pte.ts";
import { EINVAL, ENOMEM } from "../shared/status.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import { isRamFrame } from "./frame-table.ts";
import { entryHigh, entryWord, writeEntry } from "./page-table.ts";
import { domainField, hasFlag, type Xen } from "./xen.ts";
import { allocXenPage, allocXenPages, freeXenPage } from "./xen-heap.ts";

/** Rights of an entry, as iommu_map takes them. */
export const IOMMUF_readable = 1 << 6;
export const IOMMUF_writable = 1 << 7;

const field = (xen: Xen, domid: number, column: number): number =>
  at(xen.words, iommuDomainOf(xen.layout, domid) + column);
function setField(xen: Xen, domid: number, column: number, value: number): void {
  xen.words[iommuDomainOf(xen.layout, domid) + column] = value;
}

/** Whether the domain's devices walk a table other than its P2M. */
export const hasOwnTable = (xen: Xen, domid: number): boolean =>
  xen.ownTables && field(xen, domid, IOMMU_DOMAIN.ROOT) !== NOT_PRESENT;

/** Frame index of the root that a context of the domain names. */
export const contextRoot = (xen: Xen, domid: number): number =>
  hasOwnTable(xen, domid)
    ? field(xen, domid, IOMMU_DOMAIN.ROOT)
    : domainField(xen, domid, DOM.P2M_ROOT);

/** Table pages below the root. */
export const iommuPageCount = (xen: Xen, domid: number): number =>
  hasOwnTable(xen, domid) ? field(xen, domid, IOMMU_DOMAIN.PAGE_COUNT) : 0;

/** A new row of the domain table has no table yet. */
export function resetIommuDomain(xen: Xen, domid: number): void {
  setField(xen, domid, IOMMU_DOMAIN.ROOT, NOT_PRESENT);
  setField(xen, domid, IOMMU_DOMAIN.PAGES, NOT_PRESENT);
  setField(xen, domid, IOMMU_DOMAIN.PAGE_COUNT, 0);
  setField(xen, domid, IOMMU_DOMAIN.FAILED, 0);
}

/** Creates the empty root; -ENOMEM when the Xen heap is exhausted. A PV domain has no P2M that could be shared. */
export function initIommuTable(xen: Xen, domid: DomId): number {
  if (xen.iommu.tables !== "separate" && !hasFlag(xen, domid, CDF_pv)) return 0;
  const root = allocXenPages(xen, rootPages(xen.layout));
  if (root === NOT_PRESENT) return -ENOMEM;
  setField(xen, domid, IOMMU_DOMAIN.ROOT, root);
  return 0;
}

/** A zeroed page, linked only after it is: a walker never meets old content (advisories 321 and 347). */
function allocTable(xen: Xen, domid: DomId): FrameIndex {
  const frame = allocXenPage(xen);
  if (frame === NOT_PRESENT) return frame;
  xen.words[xen.layout.frameNext + frame] = field(xen, domid, IOMMU_DOMAIN.PAGES);
  setField(xen, domid, IOMMU_DOMAIN.PAGES, frame);
  setField(xen, domid, IOMMU_DOMAIN.PAGE_COUNT, field(xen, domid, IOMMU_DOMAIN.PAGE_COUNT) + 1);
  return frame;
}

/** Place of a dfn's entry: table * 512 + slot; NOT_PRESENT when there is no table, or no page for one. */
function reach(xen: Xen, domid: DomId, dfn: number, create: boolean): number {
  const upper = upperBits(dfn);
  let level = rootLevel(xen.layout);
  let table = field(xen, domid, IOMMU_DOMAIN.ROOT) + rootPageOf(upper, level);
  for (; level < P2M_LEVEL_LEAF; level++) {
    const slot = levelSlot(dfn, upper, level);
    if (entryWord(xen, table, slot) === 0) {
      const below = create ? allocTable(xen, domid) : NOT_PRESENT;
      if (below === NOT_PRESENT) return NOT_PRESENT;
      const mfn = mfnAt(xen.layout, below);
      writeEntry(xen, domid, table, slot, tableWord(mfn), tableHigh(mfn));
    }
    const mfn = pteMfn(entryWord(xen, table, slot), entryHigh(xen, table, slot));
    table = indexOf(xen.layout, xen.words, mfn);
  }
  return table * TABLE_ENTRIES + levelSlot(dfn, upper, level);
}

/** Makes sure that the next `count` dfns can be entered: 0, or -EINVAL (beyond the root), or -ENOMEM. */
export function iommuPrepare(xen: Xen, domid: DomId, dfn: number, count = 1): number {
  if (!hasOwnTable(xen, domid)) return 0;
  if (!(dfn + count <= rootGfnEnd(xen.layout))) return -EINVAL;
  for (let page = dfn; page < dfn + count; page += TABLE_ENTRIES - (page % TABLE_ENTRIES)) {
    if (reach(xen, domid, page, true) === NOT_PRESENT) return failed(xen, domid);
  }
  return 0;
}

/** A domain whose devices could not be shown what its CPUs see does not go on: it is crashed after this handler. */
function failed(xen: Xen, domid: DomId): number {
  if (hasFlag(xen, domid, CDF_hardware)) return -ENOMEM;
  setField(xen, domid, IOMMU_DOMAIN.FAILED, 1);
  const failures = xen.layout.invalidations + QUEUE.FAILURES;
  xen.words[failures] = at(xen.words, failures) + 1;
  return -ENOMEM;
}

/** Whether some domain is to be crashed: looked at between any two handlers. */
export const hasFailed = (xen: Xen): boolean =>
  xen.ownTables && at(xen.words, xen.layout.invalidations + QUEUE.FAILURES) !== 0;

/** Domains that are to be crashed, once each. */
export function takeFailed(xen: Xen): readonly DomId[] {
  xen.words[xen.layout.invalidations + QUEUE.FAILURES] = 0;
  const domids: DomId[] = [];
  for (let domid = 0; domid < xen.model.limits.domains; domid++) {
    if (field(xen, domid, IOMMU_DOMAIN.FAILED) === 0) continue;
    setField(xen, domid, IOMMU_DOMAIN.FAILED, 0);
    domids.push(domid as DomId);
  }
  return domids;
}

/** What stood at a dfn: frame index * 16 + p2m_iommu_map_*, as the P2M's entries are spoken of; 0: nothing. */
function formerEntry(xen: Xen, table: number, slot: number): number {
  const low = entryWord(xen, table, slot);
  if (low === 0) return 0;
  const up = entryHigh(xen, table, slot);
  return indexOf(xen.layout, xen.words, pteMfn(low, up)) * 16 + pteType(up);
}

/**
 * Enters dfn -> frame with IOMMUF_* rights over whatever stands there. Returns what stood there (the caller flushes when
 * it is not 0), or -EINVAL (no rights, or beyond the root) or -ENOMEM (no table page).
 */
export function iommuMap(
  xen: Xen,
  domid: DomId,
  dfn: number,
  frame: number,
  flags: number,
): number {
  if (!hasOwnTable(xen, domid)) return 0;
  if ((flags & (IOMMUF_readable | IOMMUF_writable)) === 0) return -EINVAL;
  const error = iommuPrepare(xen, domid, dfn);
  if (error !== 0) return error;
  const place = reach(xen, domid, dfn, false);
  const table = Math.floor(place / TABLE_ENTRIES);
  const slot = place % TABLE_ENTRIES;
  const former = formerEntry(xen, table, slot);
  const type = (flags & IOMMUF_writable) === 0 ? p2m_iommu_map_ro : p2m_iommu_map_rw;
  const mfn = mfnAt(xen.layout, frame);
  writeEntry(xen, domid, table, slot, leafWord(mfn, type, P2M_LEVEL_LEAF), leafHigh(mfn, type));
  return former;
}

/** Takes a dfn's entry away; returns what stood there. Nothing there is nothing to do. */
export function iommuUnmap(xen: Xen, domid: DomId, dfn: number): number {
  if (!hasOwnTable(xen, domid) || !(dfn < rootGfnEnd(xen.layout))) return 0;
  const place = reach(xen, domid, dfn, false);
  if (place === NOT_PRESENT) return 0;
  const table = Math.floor(place / TABLE_ENTRIES);
  const slot = place % TABLE_ENTRIES;
  const former = formerEntry(xen, table, slot);
  // Word 1 stays, as in the P2M: a walker that has read word 0 finds the half that belongs to it.
  xen.memory.store(FrameIndex(table), slot * 8, 0);
  return former;
}

/** What a device may do through a P2M entry of this type. */
export function iommuFlags(type: number): number {
  if (type === p2m_invalid) return 0;
  const writable = (leafWord(0, type, P2M_LEVEL_LEAF) & PTE_WRITE) !== 0;
  return IOMMUF_readable | (writable ? IOMMUF_writable : 0);
}

/** The P2M says something new about 2^order gfns: entries go along, but for those where an identity entry stands. */
export function iommuFollow(
  xen: Xen,
  domid: DomId,
  gfn: number,
  frame: number,
  type: number,
  order = 0,
): void {
  if (!hasOwnTable(xen, domid)) return;
  const flags = iommuFlags(type);
  for (let page = 0; page < 2 ** order; page++) {
    if (hasIdentity(xen, domid, gfn + page)) continue;
    if (flags === 0) iommuUnmap(xen, domid, gfn + page);
    else iommuMap(xen, domid, gfn + page, frame + page, flags);
  }
}

/** Index of an identity counter of the domain, or NOT_PRESENT when it has none. */
export function identityCounter(xen: Xen, domid: number, column: number, frame: number): number {
  const row = domainField(xen, domid, DOM.IDENTITY);
  return row === NOT_PRESENT ? NOT_PRESENT : column + row * xen.layout.frames + frame;
}

function hasIdentity(xen: Xen, domid: number, dfn: number): boolean {
  const { layout, words } = xen;
  if (domainField(xen, domid, DOM.IDENTITY) === NOT_PRESENT) return false;
  const frame = indexOf(layout, words, dfn);
  if (!isRamFrame(xen, frame)) return false;
  return (
    at(words, identityCounter(xen, domid, layout.identityRead, frame)) +
      at(words, identityCounter(xen, domid, layout.identityWrite, frame)) >
    0
  );
}

/** Gives up to `limit` table pages back; true when none are left. Nobody walks the table any more. */
export function freeIommuTables(xen: Xen, domid: DomId, limit: number): boolean {
  if (!hasOwnTable(xen, domid)) return true;
  const root = field(xen, domid, IOMMU_DOMAIN.ROOT);
  // The root first, so that a page that has gone cannot be reached even by mistake.
  for (let page = 0; page < rootPages(xen.layout); page++) xen.memory.zero(FrameIndex(root + page));
  for (let freed = 0; freed < limit; freed++) {
    const frame = field(xen, domid, IOMMU_DOMAIN.PAGES);
    if (frame === NOT_PRESENT) return true;
    setField(xen, domid, IOMMU_DOMAIN.PAGES, at(xen.words, xen.layout.frameNext + frame));
    setField(xen, domid, IOMMU_DOMAIN.PAGE_COUNT, field(xen, domid, IOMMU_DOMAIN.PAGE_COUNT) - 1);
    freeXenPage(xen, frame);
  }
  return false;
}

/** Final teardown: the root itself. */
export function freeIommuRoot(xen: Xen, domid: DomId): void {
  if (!hasOwnTable(xen, domid)) return;
  const root = field(xen, domid, IOMMU_DOMAIN.ROOT);
  for (let page = rootPages(xen.layout) - 1; page >= 0; page--) freeXenPage(xen, root + page);
  resetIommuDomain(xen, domid);
}
