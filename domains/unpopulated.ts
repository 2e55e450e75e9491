/**
 * Pages of address space with nothing behind them, for grants to be mapped onto. Two designs of the 2022 thread
 * stand side by side and a kernel option chooses:
 *
 *   list   pages chained last in first out; contiguous ones come from a second pool beside the list (RFC)
 *   pool   one pool for everything (V1): a request is one chunk, whether it must be contiguous or not
 *
 * Rules: contiguous means contiguous in guest frames, never in machine frames; an address from here is not a
 * DMA address. A fill takes whole sections of the extended regions and is never undone. Without a usable
 * region ordinary requests go to the balloon.
 * Behaviour: Linux drivers/xen/unpopulated-alloc.c; the thread's patches for `pool` and the contiguous variant.
 */
import { PAGE_SIZE } from "../shared/limits.ts";
import { EBUSY, EINVAL, ENODEV, ENOMEM, ENXIO } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { Gaddr, Pfn } from "../shared/units.ts";
import { xenAllocBalloonedPages, xenFreeBalloonedPages } from "./balloon.ts";
import { dmaBitMask } from "./dma-device.ts";
import { genPoolAddVirt, genPoolAlloc, genPoolFree, genPoolHasAddr } from "./gen-pool.ts";
import type { Kernel } from "./kernel.ts";
import type { KernelMemory, TargetResource } from "./kernel-memory.ts";
import {
  addDevicePages,
  LIST_END,
  pageToPhys,
  physToPage,
  setZoneDeviceData,
  zoneDeviceData,
} from "./pages.ts";

/** What an allocation answers: its pages, or a negative errno. */
export type PagesOrErrno = readonly Pfn[] | number;

/** Lowest aligned hole of `size` bytes in the resource, or undefined. Takes it. */
function allocateResource(target: TargetResource, size: number, align: number): number | undefined {
  for (const region of target.regions) {
    let base = Math.ceil(region.base / align) * align;
    while (base + size <= region.base + region.size) {
      const start = base;
      const hit = target.taken.find(
        (one) => start < one.base + one.size && one.base < start + size,
      );
      if (hit === undefined) {
        target.taken.push({ base, size });
        return base;
      }
      base = Math.ceil((hit.base + hit.size) / align) * align;
    }
  }
  return undefined;
}

/** Hot-adds whole sections for `count` pages. Returns the range or -EBUSY (no aligned hole), -ENXIO (overlap). */
function addSections(
  memory: KernelMemory,
  target: TargetResource,
  count: number,
): { readonly base: number; readonly pages: number } | number {
  const section = memory.unpopulated.pagesPerSection;
  const pages = Math.ceil(count / section) * section;
  if (pages === 0) return -EINVAL;
  const base = allocateResource(target, pages * PAGE_SIZE, section * PAGE_SIZE);
  if (base === undefined) return -EBUSY;
  if (!addDevicePages(memory.pages, base / PAGE_SIZE, pages)) {
    target.taken.pop();
    return -ENXIO;
  }
  return { base, pages };
}

/** fill_list: pushes each new page, lowest first, so that the highest is at the head. */
function fillList(memory: KernelMemory, target: TargetResource, count: number): number {
  const range = addSections(memory, target, count);
  if (typeof range === "number") return range;
  for (let i = 0; i < range.pages; i++) pushPage(memory, Pfn(range.base / PAGE_SIZE + i));
  return 0;
}

/** fill_pool: the new sections become one chunk. */
function fillPool(memory: KernelMemory, target: TargetResource, count: number): number {
  const range = addSections(memory, target, count);
  if (typeof range === "number") return range;
  const pool = memory.unpopulated.pool;
  if (pool === undefined) return -ENODEV;
  genPoolAddVirt(pool, range.base, range.base, range.pages * PAGE_SIZE);
  return 0;
}

function pushPage(memory: KernelMemory, page: Pfn): void {
  setZoneDeviceData(memory.pages, page, memory.unpopulated.listHead);
  memory.unpopulated.listHead = page;
  memory.unpopulated.listCount++;
}

function allocFromList(memory: KernelMemory, target: TargetResource, count: number): PagesOrErrno {
  const state = memory.unpopulated;
  if (state.listCount < count) {
    const rc = fillList(memory, target, count - state.listCount);
    if (rc < 0) return rc;
  }
  const taken: Pfn[] = [];
  for (let i = 0; i < count && state.listHead !== LIST_END; i++) {
    const page = Pfn(state.listHead);
    state.listHead = zoneDeviceData(memory.pages, page);
    state.listCount--;
    taken.push(page);
  }
  return taken;
}

/** One chunk of the pool, filled at most once for it. */
function allocFromPool(memory: KernelMemory, target: TargetResource, count: number): PagesOrErrno {
  const pool = memory.unpopulated.pool;
  if (pool === undefined) return -ENODEV;
  let start = genPoolAlloc(pool, count * PAGE_SIZE);
  if (start === undefined) {
    const rc = fillPool(memory, target, count);
    if (rc < 0) return rc;
    start = genPoolAlloc(pool, count * PAGE_SIZE);
    if (start === undefined) return -ENOMEM;
  }
  const first = physToPage(Gaddr(start));
  return Array.from({ length: count }, (_, i) => Pfn(first + i));
}

/** Any `count` pages without backing. Neither order nor contiguity is promised. */
export function* xenAllocUnpopulatedPages(kernel: Kernel, count: number): Program<PagesOrErrno> {
  const memory = kernel.memory;
  const target = memory.unpopulated.target;
  if (target === undefined) return yield* xenAllocBalloonedPages(kernel, count);
  return memory.unpopulated.design === "pool"
    ? allocFromPool(memory, target, count)
    : allocFromList(memory, target, count);
}

/** Gives pages back one by one: callers pass unrelated pages in one array. */
export function xenFreeUnpopulatedPages(kernel: Kernel, pages: readonly Pfn[]): void {
  const memory = kernel.memory;
  const pool = memory.unpopulated.pool;
  if (memory.unpopulated.target === undefined || pool === undefined) {
    xenFreeBalloonedPages(kernel, pages);
  } else if (memory.unpopulated.design === "pool") {
    for (const page of pages) genPoolFree(pool, pageToPhys(page), PAGE_SIZE);
  } else {
    for (const page of pages) pushPage(memory, page);
  }
}

/**
 * `count` pages contiguous in guest frames, for a device whose mask is `mask`. Refuses with -EINVAL any mask but the
 * 64-bit one, -ENODEV without a region (one page still comes from the balloon in design `pool`: the hole of
 * corner case 91), -EBUSY without an aligned hole.
 */
export function* xenAllocUnpopulatedContiguousPages(
  kernel: Kernel,
  mask: number,
  count: number,
): Program<PagesOrErrno> {
  const memory = kernel.memory;
  const target = memory.unpopulated.target;
  // The RFC looks for its pool before it looks at the mask; V1 the other way round.
  if (memory.unpopulated.design === "list" && target === undefined) return -ENODEV;
  if (mask !== dmaBitMask(64)) return -EINVAL;
  if (target === undefined) {
    return count > 1 ? -ENODEV : yield* xenAllocBalloonedPages(kernel, count);
  }
  return allocFromPool(memory, target, count);
}

/** Gives a contiguous allocation back in one piece. */
export function xenFreeUnpopulatedContiguousPages(kernel: Kernel, pages: readonly Pfn[]): void {
  const first = pages[0];
  if (first === undefined) return;
  const pool = kernel.memory.unpopulated.pool;
  if (kernel.memory.unpopulated.target === undefined || pool === undefined) {
    if (pages.length <= 1) xenFreeBalloonedPages(kernel, pages);
    return;
  }
  genPoolFree(pool, pageToPhys(first), pages.length * PAGE_SIZE);
}

/** Whether the page's address lies in the pool, allocated or not. RAM never does. */
export function isXenUnpopulatedPage(kernel: Kernel, page: Pfn): boolean {
  const { target, pool } = kernel.memory.unpopulated;
  if (target === undefined || pool === undefined) return false;
  return genPoolHasAddr(pool, pageToPhys(page), PAGE_SIZE);
}
