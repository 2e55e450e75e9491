/**
 * The address space that a PV domain begins with: page tables in its own RAM, as the domain builder makes them.
 *
 *   virtual page p is page p of its RAM, writable, but for the page tables, which it may only read
 *   behind the RAM, level 1 tables without an entry: room for grant tables, shared info and mappings
 *
 * The tables are the last pages of the RAM, level 4 first. They are checked like any guest's, pinned, and each vCPU runs
 * on them. Rule: the M2P says which page of its RAM a frame is.
 * Behaviour: tools/libs/guest/xg_dom_x86.c, setup_pgtables_pv(); xen/arch/x86/pv/dom0_build.c. Ours: addresses from 0 up.
 */
import { PGT_l1_page_table, PGT_l4_page_table } from "../shared/frame-flags.ts";
import { mfnAt } from "../shared/layout.ts";
import { PV_SPARE_TABLES, TABLE_ENTRIES } from "../shared/limits.ts";
import {
  _PAGE_ACCESSED,
  _PAGE_DIRTY,
  _PAGE_PRESENT,
  _PAGE_RW,
  _PAGE_USER,
  pteX86,
} from "../shared/pte-x86.ts";
import { ENOMEM } from "../shared/status.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import { frameOwner, getPage, isXenHeap, putPage, xenHeapGfn } from "./frame-table.ts";
import { getPageType, setPinned } from "./page-type.ts";
import type { Xen } from "./xen.ts";

const TABLE_FLAGS = _PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED | _PAGE_DIRTY;
const PAGE_FLAGS = _PAGE_PRESENT | _PAGE_ACCESSED | _PAGE_DIRTY;

/** Tables of each level that cover the RAM and the room behind it, level 1 first. */
function tableCounts(pages: number): readonly number[] {
  const counts: number[] = [];
  let below = Math.ceil(pages / TABLE_ENTRIES) + PV_SPARE_TABLES;
  for (let level = PGT_l1_page_table; level <= PGT_l4_page_table; level++) {
    counts.push(below);
    below = Math.ceil(below / TABLE_ENTRIES);
  }
  return counts;
}

/** Pages of RAM that are page tables at the start, for RAM of so many pages. */
export const pvTablePages = (pages: number): number =>
  tableCounts(pages).reduce((sum, count) => sum + count, 0);

/** Frames of a domain's RAM in the order of their pages. */
export function ramFrames(xen: Xen, domid: DomId, pages: number): Int32Array {
  const frames = new Int32Array(pages).fill(-1);
  for (let frame = 0; frame < xen.layout.ramFrames; frame++) {
    if (frameOwner(xen, frame) !== domid || isXenHeap(xen, frame)) continue;
    const page = xenHeapGfn(xen, frame);
    if (page >= 0 && page < pages) frames[page] = frame;
  }
  return frames;
}

/**
 * Makes the tables and pins the root. Returns its frame, or a negative errno: -ENOMEM when the RAM is too small for them.
 */
export function buildPvTables(xen: Xen, domid: DomId, pages: number): FrameIndex | number {
  const counts = tableCounts(pages);
  const first = pages - pvTablePages(pages);
  if (first <= 0) return -ENOMEM;
  const frames = ramFrames(xen, domid, pages);
  // Page number of the first table of each level: level 4 stands first.
  let next = first;
  const starts = new Array<number>(counts.length).fill(0);
  for (let level = PGT_l4_page_table; level >= PGT_l1_page_table; level--) {
    starts[level - 1] = next;
    next += counts[level - 1] ?? 0;
  }
  const frameOf = (page: number): FrameIndex => FrameIndex(frames[page] ?? -1);
  for (let page = first; page < pages; page++) xen.memory.zero(frameOf(page));
  const enter = (level: number, index: number, frame: FrameIndex, flags: number): void => {
    const table = frameOf((starts[level - 1] ?? 0) + Math.floor(index / TABLE_ENTRIES));
    const { low, high } = pteX86(mfnAt(xen.layout, frame), flags);
    xen.memory.poke(table, (index % TABLE_ENTRIES) * 8, low);
    xen.memory.poke(table, (index % TABLE_ENTRIES) * 8 + 4, high);
  };
  for (let page = 0; page < pages; page++) {
    enter(
      PGT_l1_page_table,
      page,
      frameOf(page),
      page < first ? PAGE_FLAGS | _PAGE_RW : PAGE_FLAGS,
    );
  }
  for (let level = PGT_l1_page_table; level < PGT_l4_page_table; level++) {
    for (let n = 0; n < (counts[level - 1] ?? 0); n++) {
      enter(level + 1, n, frameOf((starts[level - 1] ?? 0) + n), TABLE_FLAGS);
    }
  }
  const root = frameOf(first);
  const error = holdRoot(xen, domid, root);
  if (error !== 0) return error;
  setPinned(xen, root, true);
  return root;
}

/** Takes what a vCPU, or the pin, holds of a root: a page reference and a type reference. 0 or a negative errno. */
export function holdRoot(xen: Xen, domid: DomId, root: number): number {
  if (!getPage(xen, root, domid)) return -ENOMEM;
  const error = getPageType(xen, root, PGT_l4_page_table);
  if (error !== 0) putPage(xen, root);
  return error;
}
