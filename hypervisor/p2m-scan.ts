/**
 * Every entry of a P2M in ascending order, for those who look at the whole table: teardown and audit.
 *
 * Rule: a visitor may clear the entry it is shown, and nothing else; it stops the scan by answering false.
 * Behaviour: xen/arch/arm/mmu/p2m.c, relinquish_p2m_mapping().
 */
import { DOM, indexOf } from "../shared/layout.ts";
import { NOT_PRESENT, P2M_LEVEL_LEAF, TABLE_ENTRIES } from "../shared/limits.ts";
import { rootLevel, rootPages } from "../shared/mmu.ts";
import { isTable, levelFrames, pteMfn, pteType } from "../shared/pte.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import { contextRoot, hasOwnTable } from "./iommu-table.ts";
import { domainField, type Xen } from "./xen.ts";

/** Shown each entry in use: first gfn, first frame index, p2m type, and the order (0, 9 or 18). */
export type EntryVisitor = (gfn: number, frame: number, type: number, order: number) => boolean;

interface Scan {
  readonly xen: Xen;
  readonly from: number;
  readonly visit: EntryVisitor;
  readonly table: (frame: number) => void;
}

const ignore = (): void => undefined;

/**
 * Shows every entry that maps a gfn at or after `from`. `table` is told each table page below the root. A table
 * that would lead out of memory is left out: the audit names it by other means.
 */
export function scanP2m(
  xen: Xen,
  domid: DomId,
  from: number,
  visit: EntryVisitor,
  table: (frame: number) => void = ignore,
): void {
  scanRoot({ xen, from, visit, table }, domainField(xen, domid, DOM.P2M_ROOT));
}

/** The same for the table that a domain's devices walk, when it is one of its own. */
export function scanIommuTable(
  xen: Xen,
  domid: DomId,
  visit: EntryVisitor,
  table: (frame: number) => void = ignore,
): void {
  if (hasOwnTable(xen, domid)) scanRoot({ xen, from: 0, visit, table }, contextRoot(xen, domid));
}

function scanRoot(scan: Scan, root: number): void {
  const { layout } = scan.xen;
  // A PV domain has none.
  if (root === NOT_PRESENT) return;
  const level = rootLevel(layout);
  const span = TABLE_ENTRIES * levelFrames(level);
  for (let page = 0; page < rootPages(layout); page++) {
    if (!scanTable(scan, root + page, level, page * span)) return;
  }
}

function scanTable(scan: Scan, table: number, level: number, first: number): boolean {
  const { xen } = scan;
  const span = levelFrames(level);
  const start = Math.max(0, Math.floor((scan.from - first) / span));
  const used = (from: number): number => xen.memory.usedSlot(FrameIndex(table), from);
  for (let slot = used(start); slot < TABLE_ENTRIES; slot = used(slot + 1)) {
    const word = xen.memory.peek(FrameIndex(table), slot * 8);
    const high = xen.memory.peek(FrameIndex(table), slot * 8 + 4);
    const frame = indexOf(xen.layout, xen.words, pteMfn(word, high));
    const gfn = first + slot * span;
    if (isTable(word, level)) {
      if (frame < 0) continue;
      scan.table(frame);
      if (!scanTable(scan, frame, level + 1, gfn)) return false;
    } else if (!scan.visit(gfn, frame, pteType(high), 9 * (P2M_LEVEL_LEAF - level))) {
      return false;
    }
  }
  return true;
}
