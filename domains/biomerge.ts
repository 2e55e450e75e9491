/**
 * How pages of one request become entries of a scatter list: what is consecutive here, and on the bus.
 *
 * Rules: two vectors are joined when the second follows the first in guest physical memory and, on Xen, its bus frame
 * follows too: two foreign pages side by side are usually two frames apart. The second rule is needed where the guest
 * gives bus frames to the device; behind an IOMMU it is stricter than need be, and harmless.
 * Behaviour: Linux block/blk.h, biovec_phys_mergeable(); drivers/xen/biomerge.c, xen_biovec_phys_mergeable().
 */
import { PAGE_SIZE } from "../shared/limits.ts";
import { Gaddr, Pfn } from "../shared/units.ts";
import { type ForeignP2m, pfnToBfn } from "./foreign-p2m.ts";

/** One entry of a scatter list: a run of physical memory. */
export interface SgEntry {
  readonly phys: Gaddr;
  readonly length: number;
}

const busOf = (foreign: ForeignP2m, phys: number): number =>
  pfnToBfn(foreign, Pfn(Math.floor(phys / PAGE_SIZE)));

/** biovec_phys_mergeable: whether `second` may be joined to `first`. */
export function isMergeable(foreign: ForeignP2m, first: SgEntry, second: SgEntry): boolean {
  const end = first.phys + first.length;
  if (end !== second.phys) return false;
  // From the page in which the first vector begins, as many pages on as its end lies.
  const pages = Math.floor(((first.phys % PAGE_SIZE) + first.length) / PAGE_SIZE);
  return busOf(foreign, first.phys) + pages === busOf(foreign, second.phys);
}

/** blk_rq_map_sg: each vector joined to the entry before it where that is allowed. */
export function mergeBioVectors(
  foreign: ForeignP2m,
  vectors: readonly SgEntry[],
): readonly SgEntry[] {
  const entries: { phys: Gaddr; length: number }[] = [];
  let before: SgEntry | undefined;
  for (const vector of vectors) {
    const last = entries.at(-1);
    if (last !== undefined && before !== undefined && isMergeable(foreign, before, vector)) {
      last.length += vector.length;
    } else {
      entries.push({ phys: Gaddr(vector.phys), length: vector.length });
    }
    before = vector;
  }
  return entries;
}
