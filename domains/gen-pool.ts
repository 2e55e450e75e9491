/**
 * A pool of address space in chunks, allocated by best fit: where contiguous unpopulated pages come from.
 *
 * Rules: sizes and addresses are bytes; the granule is 1 << minAllocOrder; an allocation never spans two
 * chunks, even adjacent ones; the newest chunk is searched first. A wrong free is a BUG of the kernel.
 * Behaviour: Linux lib/genalloc.c, gen_pool_best_fit().
 */
import { item } from "../shared/assert.ts";
import { bugOn, KernelBug } from "./bug.ts";

/** One contiguous range handed to the pool. */
export interface GenPoolChunk {
  readonly start: number;
  /** Last byte, inclusive. */
  readonly end: number;
  /** Physical address behind `start`. */
  readonly phys: number;
  /** Free bytes. */
  avail: number;
  /** One byte a granule: 1 is allocated. */
  readonly used: Uint8Array;
}

export interface GenPool {
  readonly minAllocOrder: number;
  /** Newest first. */
  readonly chunks: GenPoolChunk[];
}

export const genPoolCreate = (minAllocOrder: number): GenPool => ({ minAllocOrder, chunks: [] });

/** Adds `size` bytes at virtual address `virt`, backed by `phys`; later searches see this chunk first. */
export function genPoolAddVirt(pool: GenPool, virt: number, phys: number, size: number): void {
  bugOn(size === 0, "a pool chunk of no size");
  const granules = Math.floor(size / 2 ** pool.minAllocOrder);
  pool.chunks.unshift({
    start: virt,
    end: virt + size - 1,
    phys,
    avail: size,
    used: new Uint8Array(granules),
  });
}

/** First granule of the smallest free run of at least `count`, or -1. An exact match ends the search. */
function bestFit(used: Uint8Array, count: number): number {
  let best = -1;
  let bestLength = Number.POSITIVE_INFINITY;
  let from = used.indexOf(0);
  while (from !== -1) {
    const next = used.indexOf(1, from);
    const to = next === -1 ? used.length : next;
    const length = to - from;
    if (length === count) return from;
    if (length > count && length < bestLength) {
      best = from;
      bestLength = length;
    }
    from = used.indexOf(0, to);
  }
  return best;
}

/** Allocates `size` bytes of one chunk; returns the virtual address, or undefined when no run is long enough. */
export function genPoolAlloc(pool: GenPool, size: number): number | undefined {
  if (size === 0) return undefined;
  const granule = 2 ** pool.minAllocOrder;
  const count = Math.ceil(size / granule);
  for (const chunk of pool.chunks) {
    if (size > chunk.avail) continue;
    const first = bestFit(chunk.used, count);
    if (first === -1) continue;
    chunk.used.fill(1, first, first + count);
    chunk.avail -= count * granule;
    return chunk.start + first * granule;
  }
  return undefined;
}

/** Gives back `size` bytes at `addr`. A range that leaves its chunk or holds a free granule is a BUG. */
export function genPoolFree(pool: GenPool, addr: number, size: number): void {
  const granule = 2 ** pool.minAllocOrder;
  const count = Math.ceil(size / granule);
  const chunk = pool.chunks.find((one) => addr >= one.start && addr <= one.end);
  if (chunk === undefined) throw new KernelBug(`kernel BUG: ${addr} is in no chunk of the pool`);
  bugOn(addr + size - 1 > chunk.end, "a pool range crosses the end of its chunk");
  const first = Math.floor((addr - chunk.start) / granule);
  const free = chunk.used.subarray(first, first + count).includes(0);
  bugOn(free, "a pool range is freed twice");
  chunk.used.fill(0, first, first + count);
  chunk.avail += count * granule;
}

/** Whether all of [start, start + size) lies in one chunk; says nothing about being allocated. */
export function genPoolHasAddr(pool: GenPool, start: number, size: number): boolean {
  const end = start + size - 1;
  return pool.chunks.some((chunk) => start >= chunk.start && end <= chunk.end);
}

/** Free bytes of the whole pool. */
export const genPoolAvail = (pool: GenPool): number =>
  pool.chunks.reduce((sum, chunk) => sum + chunk.avail, 0);

/** Bytes of the whole pool, free or not. */
export const genPoolSize = (pool: GenPool): number =>
  pool.chunks.reduce((sum, chunk) => sum + chunk.end - chunk.start + 1, 0);

/** Physical address of a virtual address in the pool, or -1. */
export function genPoolVirtToPhys(pool: GenPool, addr: number): number {
  const chunk = pool.chunks.find((one) => addr >= one.start && addr <= one.end);
  return chunk === undefined ? -1 : chunk.phys + (addr - chunk.start);
}

/** Takes the pool apart. A chunk with anything still allocated is a BUG. */
export function genPoolDestroy(pool: GenPool): void {
  while (pool.chunks.length > 0) {
    const chunk = item(pool.chunks, 0);
    bugOn(chunk.used.includes(1), "a pool is destroyed while something is allocated");
    pool.chunks.shift();
  }
}
