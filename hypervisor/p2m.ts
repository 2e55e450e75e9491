/**
 * gfn to mfn of a domain: real multi-level tables in Xen heap frames, walked by mmu.ts as hardware does.
 *
 * Rules: functions here are plain and synchronous. Those that take a translation away return what was there, and
 * the caller flushes (flush.ts) before it drops whatever that entry held. Entries are rewritten in place under
 * P2M_SEQUENCE; a block that must give way to smaller entries is rebuilt as a table with the same content. A
 * table page stays where it is until teardown. A dying domain gets no entry.
 * Behaviour: xen/arch/arm/mmu/p2m.c, __p2m_set_entry(), p2m_get_entry(). See docs/FIDELITY.md, P2M.
 */
import { assert, at } from "../shared/assert.ts";
import { CDF_hardware, CDF_pv, DOM, indexOf, mfnAt } from "../shared/layout.ts";
import { NOT_PRESENT, P2M_LEVEL_LEAF, TABLE_ENTRIES } from "../shared/limits.ts";
import { rootGfnEnd, rootLevel, rootPages } from "../shared/mmu.ts";
import {
  isAnyRam,
  isRam,
  isTable,
  leafHigh,
  leafWord,
  levelFrames,
  levelSlot,
  offsetInLevel,
  p2m_invalid,
  p2m_ram_rw,
  pteMfn,
  pteType,
  rootPageOf,
  tableHigh,
  tableWord,
  upperBits,
} from "../shared/pte.ts";
import { EEXIST, EILSEQ, EINVAL, ENOENT, ENOMEM } from "../shared/status.ts";
import { hypervisorRing, TRACE_P2M_CLEAR, TRACE_P2M_SET, trace } from "../shared/trace.ts";
import { type DomId, FrameIndex, type Gfn } from "../shared/units.ts";
import { frameOwner, isRamFrame, isXenHeap, setXenHeapGfn } from "./frame-table.ts";
import { allocationFails } from "./inject.ts";
import { iommuFollow, iommuPrepare } from "./iommu-table.ts";
import { entryHigh, entryWord, writeEntry } from "./page-table.ts";
import {
  addDomainField,
  domainField,
  domainPair,
  hasFlag,
  isDying,
  setDomainField,
  setDomainPair,
  type Xen,
} from "./xen.ts";
import { allocXenPage, allocXenPages, freeXenPage } from "./xen-heap.ts";

/**
 * What an entry says: frame index * 16 + p2m type; 0 is "nothing here". A plain number, so that handlers may keep it.
 */
export type P2mEntry = number;
export const P2M_NOTHING: P2mEntry = 0;
export const entryType = (entry: P2mEntry): number => entry & 15;
export const entryFrame = (entry: P2mEntry): FrameIndex => FrameIndex(entry >>> 4);
const entryOf = (frame: number, type: number): P2mEntry => frame * 16 + type;

/** Creates the empty root of a new domain; -ENOMEM when the Xen heap is exhausted. */
export function initP2m(xen: Xen, domid: DomId): number {
  const root = allocXenPages(xen, rootPages(xen.layout));
  if (root === NOT_PRESENT) return -ENOMEM;
  setDomainField(xen, domid, DOM.P2M_ROOT, root);
  setDomainPair(xen, domid, DOM.P2M_MAX_GFN, -1);
  setDomainField(xen, domid, DOM.P2M_POOL, NOT_PRESENT);
  setDomainField(xen, domid, DOM.P2M_PAGES, NOT_PRESENT);
  return 0;
}

/** Fills the pool that a domain's table pages come from; returns the pages it got. */
export function fillP2mPool(xen: Xen, domid: DomId, pages: number): number {
  for (let got = 0; got < pages; got++) {
    const frame = allocXenPage(xen);
    if (frame === NOT_PRESENT) return got;
    xen.words[xen.layout.frameNext + frame] = domainField(xen, domid, DOM.P2M_POOL);
    setDomainField(xen, domid, DOM.P2M_POOL, frame);
    addDomainField(xen, domid, DOM.P2M_POOL_FREE, 1);
  }
  return pages;
}

/** A table page that nothing leads to any more goes back to where the domain's tables come from. */
export function returnTable(xen: Xen, domid: DomId, frame: number): void {
  if (hasFlag(xen, domid, CDF_hardware)) {
    freeXenPage(xen, frame);
    return;
  }
  xen.memory.zero(FrameIndex(frame));
  xen.words[xen.layout.frameNext + frame] = domainField(xen, domid, DOM.P2M_POOL);
  setDomainField(xen, domid, DOM.P2M_POOL, frame);
  addDomainField(xen, domid, DOM.P2M_POOL_FREE, 1);
}

/** Gives one unused page of the pool back to the heap; false: there is none. */
export function drainP2mPool(xen: Xen, domid: DomId): boolean {
  const frame = domainField(xen, domid, DOM.P2M_POOL);
  if (frame === NOT_PRESENT) return false;
  setDomainField(xen, domid, DOM.P2M_POOL, at(xen.words, xen.layout.frameNext + frame));
  addDomainField(xen, domid, DOM.P2M_POOL_FREE, -1);
  freeXenPage(xen, frame);
  return true;
}

/** A zeroed table page: from the heap for the hardware domain, from the domain's pool for all others. */
function allocTable(xen: Xen, domid: DomId): FrameIndex {
  const { words, layout } = xen;
  let frame: FrameIndex;
  if (hasFlag(xen, domid, CDF_hardware)) {
    frame = allocXenPage(xen);
    if (frame === NOT_PRESENT) return frame;
  } else {
    frame = FrameIndex(allocationFails(xen) ? NOT_PRESENT : domainField(xen, domid, DOM.P2M_POOL));
    if (frame === NOT_PRESENT) return frame;
    setDomainField(xen, domid, DOM.P2M_POOL, at(words, layout.frameNext + frame));
    addDomainField(xen, domid, DOM.P2M_POOL_FREE, -1);
  }
  words[layout.frameNext + frame] = domainField(xen, domid, DOM.P2M_PAGES);
  setDomainField(xen, domid, DOM.P2M_PAGES, frame);
  addDomainField(xen, domid, DOM.P2M_PAGE_COUNT, 1);
  return frame;
}

/** Gives up to `limit` table and pool pages of a dying domain back; returns true when none are left. */
export function freeP2mTables(xen: Xen, domid: DomId, limit: number): boolean {
  for (let freed = 0; freed < limit; freed++) {
    const list =
      domainField(xen, domid, DOM.P2M_PAGES) === NOT_PRESENT ? DOM.P2M_POOL : DOM.P2M_PAGES;
    const frame = domainField(xen, domid, list);
    if (frame === NOT_PRESENT) return true;
    setDomainField(xen, domid, list, at(xen.words, xen.layout.frameNext + frame));
    addDomainField(xen, domid, list === DOM.P2M_PAGES ? DOM.P2M_PAGE_COUNT : DOM.P2M_POOL_FREE, -1);
    freeXenPage(xen, frame);
  }
  return false;
}

/** Zeroes the root, so that nothing can be reached any more; the caller flushes before tables are freed. */
export function clearP2mRoot(xen: Xen, domid: DomId): void {
  const root = domainField(xen, domid, DOM.P2M_ROOT);
  if (root === NOT_PRESENT) return;
  for (let page = 0; page < rootPages(xen.layout); page++) xen.memory.zero(FrameIndex(root + page));
}

/** Final teardown: the root pages themselves. */
export function freeP2mRoot(xen: Xen, domid: DomId): void {
  const root = domainField(xen, domid, DOM.P2M_ROOT);
  for (let page = rootPages(xen.layout) - 1; page >= 0; page--) freeXenPage(xen, root + page);
}

/** One step of a walk, for those who draw it: where the entry stands and what it holds. */
export interface WalkStep {
  readonly level: number;
  readonly table: FrameIndex;
  readonly slot: number;
  readonly word: number;
  readonly high: number;
}

/** Every entry met on the way to `gfn`, root first; the last one is a leaf or empty. */
export function walkSteps(xen: Xen, domid: DomId, gfn: number): readonly WalkStep[] {
  const steps: WalkStep[] = [];
  if (gfn >= rootGfnEnd(xen.layout)) return steps;
  let level = rootLevel(xen.layout);
  let table =
    domainField(xen, domid, DOM.P2M_ROOT) + Math.floor(gfn / (TABLE_ENTRIES * levelFrames(level)));
  for (; ; level++) {
    const slot = Math.floor(gfn / levelFrames(level)) % TABLE_ENTRIES;
    const low = entryWord(xen, table, slot);
    const up = entryHigh(xen, table, slot);
    steps.push({ level, table: FrameIndex(table), slot, word: low, high: up });
    if (low === 0 || !isTable(low, level)) return steps;
    table = indexOf(xen.layout, xen.words, pteMfn(low, up));
  }
}

/** The entry of a gfn: P2M_NOTHING when unmapped or above the highest gfn ever mapped. No reference is taken. */
export function p2mLookup(xen: Xen, domid: DomId, gfn: number): P2mEntry {
  if (gfn > domainPair(xen, domid, DOM.P2M_MAX_GFN)) return machineEntry(xen, domid, gfn);
  let level = rootLevel(xen.layout);
  const upper = upperBits(gfn);
  let table = domainField(xen, domid, DOM.P2M_ROOT) + rootPageOf(upper, level);
  for (; ; level++) {
    const slot = levelSlot(gfn, upper, level);
    const low = entryWord(xen, table, slot);
    if (low === 0) return P2M_NOTHING;
    const up = entryHigh(xen, table, slot);
    if (!isTable(low, level)) {
      const mfn = pteMfn(low, up) + offsetInLevel(gfn, level);
      const frame = indexOf(xen.layout, xen.words, mfn);
      return entryOf(frame, pteType(up));
    }
    table = indexOf(xen.layout, xen.words, pteMfn(low, up));
  }
}

/** A PV domain has no table: it names machine frames, and whoever uses one asks for the owner. */
function machineEntry(xen: Xen, domid: DomId, mfn: number): P2mEntry {
  if (!hasFlag(xen, domid, CDF_pv)) return P2M_NOTHING;
  const frame = indexOf(xen.layout, xen.words, mfn);
  return isRamFrame(xen, frame) ? entryOf(frame, p2m_ram_rw) : P2M_NOTHING;
}

/** Replaces a block by a table of 512 entries one level down with the same content; false: no table page. */
function splitBlock(xen: Xen, domid: DomId, table: number, slot: number, level: number): boolean {
  const below = allocTable(xen, domid);
  if (below === NOT_PRESENT) return false;
  const up = entryHigh(xen, table, slot);
  const first = pteMfn(entryWord(xen, table, slot), up);
  const span = levelFrames(level + 1);
  for (let i = 0; i < TABLE_ENTRIES; i++) {
    const mfn = first + i * span;
    xen.memory.poke(below, i * 8, leafWord(mfn, pteType(up), level + 1));
    xen.memory.poke(below, i * 8 + 4, leafHigh(mfn, pteType(up)));
  }
  const mfn = mfnAt(xen.layout, below);
  writeEntry(xen, domid, table, slot, tableWord(mfn), tableHigh(mfn));
  addDomainField(xen, domid, DOM.SUPERPAGES_SPLIT, 1);
  return true;
}

/**
 * How far a walk may change the table to reach an entry: not at all; by a table in the place of a block; also by a table
 * where nothing stands.
 */
type Reach = "look" | "split" | "create";

/** Where an entry of `level` for `gfn` stands: table * 512 + slot; a negative errno when it cannot be reached. */
export function reach(xen: Xen, domid: DomId, gfn: number, level: number, how: Reach): number {
  let here = rootLevel(xen.layout);
  const upper = upperBits(gfn);
  let table = domainField(xen, domid, DOM.P2M_ROOT) + rootPageOf(upper, here);
  for (; ; here++) {
    const slot = levelSlot(gfn, upper, here);
    const low = entryWord(xen, table, slot);
    if (here === level) return table * TABLE_ENTRIES + slot;
    if (low === 0) {
      if (how !== "create") return -ENOENT;
      const below = allocTable(xen, domid);
      if (below === NOT_PRESENT) return -ENOENT;
      const mfn = mfnAt(xen.layout, below);
      writeEntry(xen, domid, table, slot, tableWord(mfn), tableHigh(mfn));
    } else if (!isTable(low, here)) {
      if (how === "look") return -EEXIST;
      if (!splitBlock(xen, domid, table, slot, here)) return -ENOMEM;
    }
    const link = entryWord(xen, table, slot);
    table = indexOf(xen.layout, xen.words, pteMfn(link, entryHigh(xen, table, slot)));
  }
}

const levelOf = (order: number): number => P2M_LEVEL_LEAF - order / 9;

/** What `p2mSet` and `p2mClear` say: a negative errno, or the entry that stood there before. */
export type P2mOutcome = number;

/**
 * Enters one page (order 0) or block (order 9, 18). Returns the former entry of the same place, which the caller
 * releases after a flush, or -errno: -ENOMEM domain dying or no page for a split, -EINVAL gfn beyond the root,
 * -ENOENT no table page. Over an existing table the caller goes page by page (p2m-extent.ts).
 */
export function p2mSet(
  xen: Xen,
  domid: DomId,
  gfn: Gfn | number,
  frame: number,
  type: number,
  order = 0,
): P2mOutcome {
  if (isDying(xen, domid)) return -ENOMEM;
  if (gfn + (1 << order) > rootGfnEnd(xen.layout)) return -EINVAL;
  const place = reach(xen, domid, gfn, levelOf(order), "create");
  if (place < 0) return place;
  const shown = iommuPrepare(xen, domid, gfn, 1 << order);
  return shown === 0 ? p2mEnter(xen, domid, gfn, place, frame, type, order) : shown;
}

/** The end of `p2mSet`, at a place that `p2mPrepare` has found since the handler last let go: it cannot fail. */
export function p2mEnter(
  xen: Xen,
  domid: DomId,
  gfn: Gfn | number,
  place: number,
  frame: number,
  type: number,
  order = 0,
): P2mEntry {
  const table = Math.floor(place / TABLE_ENTRIES);
  const slot = place % TABLE_ENTRIES;
  const low = entryWord(xen, table, slot);
  assert(low === 0 || !isTable(low, levelOf(order)), "a block is entered where no table stands");
  const former = entryAt(xen, place);
  const mfn = mfnAt(xen.layout, frame);
  writeEntry(xen, domid, table, slot, leafWord(mfn, type, levelOf(order)), leafHigh(mfn, type));
  iommuFollow(xen, domid, gfn, frame, type, order);
  const last = gfn + (1 << order) - 1;
  if (last > domainPair(xen, domid, DOM.P2M_MAX_GFN)) {
    setDomainPair(xen, domid, DOM.P2M_MAX_GFN, last);
  }
  trace(
    xen.words,
    xen.layout,
    hypervisorRing(xen.layout),
    TRACE_P2M_SET,
    domid,
    gfn,
    frame,
    type,
    order,
  );
  return former;
}

/** The entry at a place that `reach` has found: the first page of it, where it is a block. */
function entryAt(xen: Xen, place: number): P2mEntry {
  const table = Math.floor(place / TABLE_ENTRIES);
  const slot = place % TABLE_ENTRIES;
  const low = entryWord(xen, table, slot);
  if (low === 0) return P2M_NOTHING;
  const up = entryHigh(xen, table, slot);
  return entryOf(indexOf(xen.layout, xen.words, pteMfn(low, up)), pteType(up));
}

/**
 * Takes one page out of the table, splitting a block if need be. Returns the former entry (P2M_NOTHING when the
 * gfn was empty), or -ENOMEM when a block could not be split, with nothing changed. Also for dying domains.
 */
export function p2mClear(xen: Xen, domid: DomId, gfn: Gfn | number): P2mOutcome {
  if (gfn >= rootGfnEnd(xen.layout)) return P2M_NOTHING;
  const place = reach(xen, domid, gfn, P2M_LEVEL_LEAF, "split");
  if (place === -ENOENT) return P2M_NOTHING;
  return place < 0 ? place : clearAt(xen, domid, gfn, place, entryAt(xen, place));
}

/** Empties the page entry of `gfn` at `place`, where `former` stands; returns that. */
function clearAt(xen: Xen, domid: DomId, gfn: number, place: number, former: P2mEntry): P2mEntry {
  if (former === P2M_NOTHING) return former;
  const table = Math.floor(place / TABLE_ENTRIES);
  const slot = place % TABLE_ENTRIES;
  // Word 1 stays: a walker that has already read word 0 must find the half that belongs to it.
  xen.memory.store(FrameIndex(table), slot * 8, 0);
  iommuFollow(xen, domid, gfn, 0, p2m_invalid);
  trace(xen.words, xen.layout, hypervisorRing(xen.layout), TRACE_P2M_CLEAR, domid, gfn, 0);
  return former;
}

/**
 * As `p2mClear`, but only if the gfn holds exactly `frame`: any RAM-like entry with another frame refuses with
 * -EILSEQ and nothing changed; entries of other types and empty gfns are not compared.
 */
export function p2mRemoveMapping(xen: Xen, domid: DomId, gfn: number, frame: number): P2mOutcome {
  if (gfn >= rootGfnEnd(xen.layout)) return P2M_NOTHING;
  const place = reach(xen, domid, gfn, P2M_LEVEL_LEAF, "look");
  if (place === -ENOENT) return P2M_NOTHING;
  const entry = place < 0 ? p2mLookup(xen, domid, gfn) : entryAt(xen, place);
  if (isAnyRam(entryType(entry)) && entryFrame(entry) !== frame) return -EILSEQ;
  return place < 0 ? p2mClear(xen, domid, gfn) : clearAt(xen, domid, gfn, place, entry);
}

/** Whether taking this entry away leaves translations behind that must be flushed. */
export const needsFlush = (former: P2mOutcome): boolean =>
  former > 0 && entryType(former) !== p2m_invalid;

/**
 * Forgets at which gfn a xen heap page was mapped, when the entry that went was RAM and named one owned by the domain.
 * A grant of such a page that its owner has mapped for itself is none of that.
 */
export function forgetXenHeapGfn(xen: Xen, domid: DomId, former: P2mEntry): void {
  const frame = entryFrame(former);
  if (!isRam(entryType(former)) || !isRamFrame(xen, frame)) return;
  if (isXenHeap(xen, frame) && frameOwner(xen, frame) === domid) {
    setXenHeapGfn(xen, frame, NOT_PRESENT);
  }
}

/**
 * Makes sure that `p2mEnter` of one page cannot fail: the checks and the table pages of it, so that a handler can
 * refuse before it commits. Returns the place, or the -errno that `p2mSet` would have given.
 */
export function p2mPrepare(xen: Xen, domid: DomId, gfn: Gfn | number): number {
  if (isDying(xen, domid)) return -ENOMEM;
  if (!(gfn < rootGfnEnd(xen.layout))) return -EINVAL;
  const place = reach(xen, domid, gfn, P2M_LEVEL_LEAF, "create");
  if (place < 0) return place;
  const shown = iommuPrepare(xen, domid, gfn);
  return shown === 0 ? place : shown;
}
