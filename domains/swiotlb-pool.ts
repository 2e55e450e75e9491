/**
 * Slots of the bounce buffer: 2 KiB each, at most 128 consecutive ones for a mapping, which never cross a segment
 * of 128. The search goes on where the last one ended.
 * Behaviour: Linux kernel/dma/swiotlb.c, swiotlb_find_slots(), swiotlb_release_slots().
 */
import { at } from "../shared/assert.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import { Gaddr } from "../shared/units.ts";
import { allocPages, type Pages, pageToPhys } from "./pages.ts";

export const IO_TLB_SIZE = 2048;
export const IO_TLB_SEGSIZE = 128;

export interface SwiotlbPool {
  readonly start: Gaddr;
  readonly slots: number;
  /** Int32Array[slots]: slots of the mapping that begins here, -1 inside one, 0 free. */
  readonly taken: Int32Array;
  /** Float64Array[slots]: guest physical address behind the first slot of a mapping. */
  readonly original: Float64Array;
  index: number;
}

/** Takes `count` pages of low RAM for the pool; undefined when none were asked for or there is no room. */
export function createSwiotlbPool(pages: Pages, count: number): SwiotlbPool | undefined {
  if (count === 0) return undefined;
  const below4G = 2 ** 32 / PAGE_SIZE - 1;
  const page = allocPages(pages, count, below4G) ?? allocPages(pages, count);
  if (page === undefined) return undefined;
  const slots = (count * PAGE_SIZE) / IO_TLB_SIZE;
  return {
    start: pageToPhys(page),
    slots,
    taken: new Int32Array(slots),
    original: new Float64Array(slots),
    index: 0,
  };
}

/** is_swiotlb_buffer. */
export const isSwiotlbBuffer = (pool: SwiotlbPool, phys: Gaddr): boolean =>
  phys >= pool.start && phys < pool.start + pool.slots * IO_TLB_SIZE;

function fits(pool: SwiotlbPool, slot: number, count: number): boolean {
  if ((slot % IO_TLB_SEGSIZE) + count > IO_TLB_SEGSIZE || slot + count > pool.slots) return false;
  for (let i = 0; i < count; i++) if (at(pool.taken, slot + i) !== 0) return false;
  return true;
}

/** Slots for `size` bytes of `original`; undefined: too big, or the buffer is full. */
export function takeSlots(pool: SwiotlbPool, original: Gaddr, size: number): Gaddr | undefined {
  const count = Math.ceil(size / IO_TLB_SIZE);
  if (count > IO_TLB_SEGSIZE) return undefined;
  // A page or more starts on a page, so that the copy has the pages of the original.
  const stride = size >= PAGE_SIZE ? PAGE_SIZE / IO_TLB_SIZE : 1;
  const first = Math.ceil(pool.index / stride) * stride;
  for (let step = 0; step < pool.slots; step += stride) {
    const slot = (first + step) % pool.slots;
    if (!fits(pool, slot, count)) continue;
    pool.taken.fill(-1, slot, slot + count);
    pool.taken[slot] = count;
    pool.original[slot] = original;
    pool.index = slot + count < pool.slots ? slot + count : 0;
    return Gaddr(pool.start + slot * IO_TLB_SIZE);
  }
  return undefined;
}

const slotOf = (pool: SwiotlbPool, bounce: Gaddr): number =>
  Math.floor((bounce - pool.start) / IO_TLB_SIZE);

/** The address that was bounced to `bounce`, the first byte of a mapping. */
export const originalOf = (pool: SwiotlbPool, bounce: Gaddr): Gaddr =>
  Gaddr(pool.original[slotOf(pool, bounce)] ?? 0);

/** Frees the slots of the mapping that begins at `bounce`. */
export function releaseSlots(pool: SwiotlbPool, bounce: Gaddr): void {
  const slot = slotOf(pool, bounce);
  pool.taken.fill(0, slot, slot + at(pool.taken, slot));
}
