/**
 * Frames of the domain heap below some machine address, as a reservation's mem_flags may ask for them.
 * Behaviour: xen/common/page_alloc.c, alloc_domheap_pages() (bits of memflags); xen/common/memory.c, construct_memop_from_reservation().
 */
import { mfnAt } from "../shared/layout.ts";
import { NOT_PRESENT, PAGE_SHIFT, PAGE_SIZE } from "../shared/limits.ts";
import { FrameIndex } from "../shared/units.ts";
import { allocHeapFrames, isFree, takeHeapFrame } from "./frame-table.ts";
import type { Xen } from "./xen.ts";

/** Frames below this number may be RAM (Xen: max_page). */
export const maxPage = (xen: Xen): number =>
  Math.max(...xen.model.banks.map((bank) => (bank.base + bank.size) / PAGE_SIZE));

/** First machine frame out of reach of `bits` address bits; 0 bits is no bound. Undefined: less than a page. */
export function addressBound(xen: Xen, bits: number): number | undefined {
  const pages = maxPage(xen);
  if (bits === 0 || bits >= Math.ceil(Math.log2(pages)) + PAGE_SHIFT) return pages;
  return bits <= PAGE_SHIFT ? undefined : 2 ** (bits - PAGE_SHIFT);
}

/** Frames of the heap without an owner, below a machine frame. */
export const allocFrames = (xen: Xen, order: number, below: number): FrameIndex =>
  below === maxPage(xen) ? allocHeapFrames(xen, order) : allocBelow(xen, order, below);

/** As `allocHeapFrames`, but all frames lie below a machine frame: for those with few address bits. */
function allocBelow(xen: Xen, order: number, below: number): FrameIndex {
  const size = 2 ** order;
  for (let first = 0; first + size <= xen.layout.ramFrames; first += size) {
    if (mfnAt(xen.layout, first) + size > below) break;
    let free = 0;
    while (free < size && isFree(xen, first + free)) free++;
    if (free < size) continue;
    for (let frame = first; frame < first + size; frame++) takeHeapFrame(xen, frame);
    return FrameIndex(first);
  }
  return FrameIndex(NOT_PRESENT);
}
