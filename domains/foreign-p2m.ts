/**
 * The ARM kernel's record of which bus frame stands behind a foreign page: pfn -> bfn, filled by grant
 * mappings in every domain, direct-mapped or not. It is the choice of DMA operations that decides whether a
 * value of this table ever reaches a device.
 *
 * Rules: entries are keyed by their first pfn; an equal key is refused, an overlap with another key is not
 * noticed; erasing removes the whole entry that covers the pfn. The reverse direction is the identity.
 * Behaviour: Linux arch/arm/xen/p2m.c, include/xen/arm/page.h. A sorted list stands for the red-black tree.
 */
import { item } from "../shared/assert.ts";
import { Bfn, Pfn } from "../shared/units.ts";

interface ForeignEntry {
  readonly pfn: number;
  readonly bfn: number;
  readonly count: number;
}

/** phys_to_mach of one kernel, ascending by pfn. */
export interface ForeignP2m {
  readonly entries: ForeignEntry[];
}

export const createForeignP2m = (): ForeignP2m => ({ entries: [] });

/** Index of the last entry whose key is at most `pfn`, or -1. */
function indexAt(table: ForeignP2m, pfn: number): number {
  let low = 0;
  let high = table.entries.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (item(table.entries, middle).pfn <= pfn) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function indexCovering(table: ForeignP2m, pfn: number): number {
  const index = indexAt(table, pfn);
  if (index < 0) return -1;
  const entry = item(table.entries, index);
  return pfn < entry.pfn + entry.count ? index : -1;
}

/** __pfn_to_mfn: the bus frame recorded for `pfn`, or undefined (Linux: all ones). */
export function lookupForeign(table: ForeignP2m, pfn: Pfn): Bfn | undefined {
  const index = indexCovering(table, pfn);
  if (index < 0) return undefined;
  const entry = item(table.entries, index);
  return Bfn(entry.bfn + (pfn - entry.pfn));
}

/**
 * __set_phys_to_machine_multi: records `count` frames, or with `bfn` undefined erases the entry that covers
 * `pfn`. Returns false only when that very key is present already; erasing always succeeds.
 */
export function setPhysToMachine(
  table: ForeignP2m,
  pfn: Pfn,
  bfn: Bfn | undefined,
  count = 1,
): boolean {
  if (bfn === undefined) {
    const covering = indexCovering(table, pfn);
    if (covering >= 0) table.entries.splice(covering, 1);
    return true;
  }
  const index = indexAt(table, pfn);
  if (index >= 0 && item(table.entries, index).pfn === pfn) return false;
  table.entries.splice(index + 1, 0, { pfn, bfn, count });
  return true;
}

/** pfn_to_bfn: the frame that swiotlb-xen gives to a device for a page. Empty table: the pfn itself. */
export const pfnToBfn = (table: ForeignP2m, pfn: Pfn): Bfn =>
  table.entries.length === 0 ? Bfn(pfn) : (lookupForeign(table, pfn) ?? Bfn(pfn));

/** bfn_to_pfn: the identity on ARM. The unmap side sees only a bus address and must cope. */
export const bfnToPfn = (bfn: Bfn): Pfn => Pfn(bfn);
