/**
 * What a kernel has handed out and not got back, in numbers: two of them that differ by a process, or a transfer, show
 * what it has left behind.
 *
 * Rules: what stays with the kernel by design is not counted: sections that were hot-added, a grant table that has
 * grown, pages of event words. Ours.
 */
import type { Kernel } from "./kernel.ts";

export interface Inventory {
  /** Free RAM pages, and those that hold event words. */
  readonly freePages: number;
  /** Bytes handed out of the pool of unpopulated pages. */
  readonly poolBytes: number;
  readonly usedRefs: number;
  /** References that wait for their peer to let go. */
  readonly deferred: number;
  /** Foreign pages that the DMA layer knows of. */
  readonly foreign: number;
  /** Event channels with counted users. */
  readonly ports: number;
  /** Pages granted by gntalloc. */
  readonly grefs: number;
}

export function inventoryOf({ memory, user, events }: Kernel): Inventory {
  const chunks = memory.unpopulated.pool?.chunks ?? [];
  const { refs, deferred } = memory.grants;
  return {
    freePages: memory.pages.freeCount + events.arrayPages.length,
    poolBytes: chunks.reduce((sum, { start, end, avail }) => sum + end + 1 - start - avail, 0),
    usedRefs: refs.size - refs.freeCount,
    deferred: deferred.length,
    foreign: memory.foreign.entries.length,
    ports: events.irqs.filter((info) => (info?.refcnt ?? 0) > 0).length,
    grefs: user.grefs.length,
  };
}

/** Names of the numbers that differ. */
export const differences = (before: Inventory, after: Inventory): readonly string[] =>
  Object.entries(before)
    .filter(([name, count]) => after[name as keyof Inventory] !== count)
    .map(([name]) => name);
