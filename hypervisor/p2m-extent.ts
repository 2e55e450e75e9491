/**
 * Extents of RAM in a P2M: entered in the largest pieces, and tables that have become one block again.
 *
 *   page by page where a table stands -> the table names 512 pages in a row -> one block in its place -> flush -> the table
 *   page goes back to the pool it came from
 *
 * Rules: only RAM that may be written is merged, and only under an extent of its own size that was asked for: single pages
 * that happen to follow each other stay single, as in Xen. A table page is held until the flush: a walker may be in it.
 * Behaviour: xen/arch/arm/p2m.c, __p2m_set_entry() (a block over a table frees the table), xen/common/memory.c,
 * populate_physmap().
 */
import { at } from "../shared/assert.ts";
import { HOLD_ROWS } from "../shared/hold-layout.ts";
import { DOM, indexOf, LINE, mfnAt } from "../shared/layout.ts";
import { P2M_LEVEL_LEAF, TABLE_ENTRIES } from "../shared/limits.ts";
import { isTable, leafHigh, leafWord, levelFrames, p2m_ram_rw, pteMfn } from "../shared/pte.ts";
import type { DomId } from "../shared/units.ts";
import { startFlush } from "./flush.ts";
import { holdTablePage, releaseHolds } from "./hold-list.ts";
import { p2mSet, reach, walkSteps } from "./p2m.ts";
import { insertionCrashes, releaseFormer } from "./p2m-insert.ts";
import { entryHigh, entryWord, writeEntry } from "./page-table.ts";
import {
  addDomainField,
  domainField,
  GAP_FLUSH,
  type Gap,
  lineField,
  setDomainField,
  type Xen,
} from "./xen.ts";

/** Order of the largest entry that may start at `gfn`: aligned, not longer than what is left, and over no table. */
function entryOrder(xen: Xen, domid: DomId, gfn: number, frame: number, left: number): number {
  const mfn = mfnAt(xen.layout, frame);
  for (const order of [18, 9]) {
    const size = 2 ** order;
    if (left < size || gfn % size !== 0 || mfn % size !== 0) continue;
    const last = walkSteps(xen, domid, gfn).at(-1);
    if (last !== undefined && last.level <= P2M_LEVEL_LEAF - order / 9) return order;
  }
  return 0;
}

/**
 * Enters an extent as RAM, in the largest pieces; waits for the flush of what it replaced. A table that it fills gives way
 * to a block. False: a piece failed.
 */
export function* enterRam(
  xen: Xen,
  slot: number,
  domid: DomId,
  gfn: number,
  frame: number,
  order: number,
): Generator<Gap, boolean, void> {
  const size = 2 ** order;
  let flush = false;
  let done = 0;
  for (let page = gfn; page < gfn + size; page++) {
    if (insertionCrashes(xen, slot, domid, page)) return false;
  }
  while (done < size) {
    const piece = entryOrder(xen, domid, gfn + done, frame + done, size - done);
    const former = p2mSet(xen, domid, gfn + done, frame + done, p2m_ram_rw, piece);
    if (former < 0) break;
    if (releaseFormer(xen, slot, domid, former, frame + done)) flush = true;
    if (lineField(xen, slot, LINE.HELD) === HOLD_ROWS) yield* settle(xen, slot, domid);
    done += 2 ** piece;
  }
  for (let block = gfn; block < gfn + done; block += TABLE_ENTRIES) {
    if (lineField(xen, slot, LINE.HELD) === HOLD_ROWS) yield* settle(xen, slot, domid);
    if (mergeTables(xen, slot, domid, block, order)) flush = true;
  }
  if (flush) yield* settle(xen, slot, domid);
  return done === size;
}

/** Flushes what has been taken out of the table, then drops what the handler holds of it. */
export function* settle(xen: Xen, slot: number, domid: DomId): Generator<Gap, void, void> {
  if (startFlush(xen, slot, domid) > 0) yield GAP_FLUSH;
  releaseHolds(xen, slot);
}

/** Merges the tables above `gfn` that an extent of `order` covers, from the lowest up, as far as they are full. */
function mergeTables(xen: Xen, slot: number, domid: DomId, gfn: number, order: number): boolean {
  let merged = false;
  for (let level = P2M_LEVEL_LEAF - 1; levelFrames(level) <= 2 ** order; level--) {
    if (gfn % levelFrames(level) !== 0 || !mergeTable(xen, slot, domid, gfn, level)) break;
    merged = true;
  }
  return merged;
}

/** Puts a block in the place of the table that a `level` entry leads to, if it names pages in a row. */
function mergeTable(xen: Xen, slot: number, domid: DomId, gfn: number, level: number): boolean {
  const place = reach(xen, domid, gfn, level, "look");
  if (place < 0) return false;
  const table = Math.floor(place / TABLE_ENTRIES);
  const entry = place % TABLE_ENTRIES;
  const low = entryWord(xen, table, entry);
  if (low === 0 || !isTable(low, level)) return false;
  const below = indexOf(xen.layout, xen.words, pteMfn(low, entryHigh(xen, table, entry)));
  const first = pteMfn(entryWord(xen, below, 0), entryHigh(xen, below, 0));
  if (first % levelFrames(level) !== 0 || !isInARow(xen, below, first, level + 1)) return false;
  writeEntry(
    xen,
    domid,
    table,
    entry,
    leafWord(first, p2m_ram_rw, level),
    leafHigh(first, p2m_ram_rw),
  );
  unlinkTable(xen, domid, below);
  holdTablePage(xen, slot, domid, below);
  return true;
}

/** Whether the table's entries are RAM from `first` on, each where the one before it ends. */
function isInARow(xen: Xen, table: number, first: number, level: number): boolean {
  for (let i = 0; i < TABLE_ENTRIES; i++) {
    const mfn = first + i * levelFrames(level);
    if (entryWord(xen, table, i) !== leafWord(mfn, p2m_ram_rw, level)) return false;
    if (entryHigh(xen, table, i) !== leafHigh(mfn, p2m_ram_rw)) return false;
  }
  return true;
}

/** Takes a page out of the list of the domain's tables. */
function unlinkTable(xen: Xen, domid: DomId, frame: number): void {
  const { words, layout } = xen;
  const next = at(words, layout.frameNext + frame);
  let before = domainField(xen, domid, DOM.P2M_PAGES);
  if (before === frame) setDomainField(xen, domid, DOM.P2M_PAGES, next);
  else {
    while (at(words, layout.frameNext + before) !== frame) {
      before = at(words, layout.frameNext + before);
    }
    words[layout.frameNext + before] = next;
  }
  addDomainField(xen, domid, DOM.P2M_PAGE_COUNT, -1);
}
