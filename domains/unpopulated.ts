/**
 * Pages of address space with nothing behind them, for grants to be mapped onto. The designs of the 2022 thread stand
 * side by side and a kernel option chooses:
 *
 *   list   mainline: pages chained last in first out; there is nothing contiguous
 *   rfc    the same list, and beside it a pool of its own for contiguous pages (RFC 1/2)
 *   pool   one pool for everything (V1): a request is one chunk, whether it must be contiguous or not
 *   off    the kernel is built without them: everything comes from the balloon
 *
 * Rules: contiguous means contiguous in guest frames, never in machine frames; an address from here is not a
 * DMA address. A fill takes whole sections of the extended regions and is never undone; it sleeps, with the mutex held.
 * Without a usable region ordinary requests go to the balloon. The posted patches' faults are in when the kernel has
 * them as an option.
 * Behaviour: Linux drivers/xen/unpopulated-alloc.c; the thread's RFC 1/2 and V1 1/2 (guest.md 3).
 */
import { PAGE_SIZE } from "../shared/limits.ts";
import type { PatchFault } from "../shared/machine.ts";
import { EINVAL, ENODEV, ENOMEM, EPERM } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { Gaddr, Pfn } from "../shared/units.ts";
import { xenAllocBalloonedPages, xenFreeBalloonedPages } from "./balloon.ts";
import { dmaBitMask } from "./dma-device.ts";
import { addSections, removeSections } from "./extended-regions.ts";
import { kmalloc } from "./fault-points.ts";
import {
  type GenPool,
  genPoolAddVirt,
  genPoolAlloc,
  genPoolAvail,
  genPoolFree,
  genPoolHasAddr,
} from "./gen-pool.ts";
import { type Kernel, withMutex } from "./kernel.ts";
import type { KernelMemory, TargetResource } from "./kernel-memory.ts";
import { LIST_END, pageToPhys, physToPage, setZoneDeviceData, zoneDeviceData } from "./pages.ts";

/** What an allocation answers: its pages, or a negative errno. */
export type PagesOrErrno = readonly Pfn[] | number;

const hasFault = (kernel: Kernel, fault: PatchFault): boolean =>
  kernel.boot.kernel.patchFaults.includes(fault);

/** fill_list: pushes each new page, lowest first, so that the highest is at the head. */
function* fillList(kernel: Kernel, target: TargetResource, count: number): Program<number> {
  const range = yield* addSections(kernel, target, count);
  if (typeof range === "number") return range;
  for (let i = 0; i < range.pages; i++) {
    pushPage(kernel.memory, Pfn(range.base / PAGE_SIZE + i));
  }
  return 0;
}

/** fill_pool: the new sections become one chunk. */
function* fillPool(
  kernel: Kernel,
  target: TargetResource,
  pool: GenPool,
  count: number,
): Program<number> {
  const range = yield* addSections(kernel, target, count);
  if (typeof range === "number") return range;
  if (!kmalloc(kernel.faults)) {
    removeSections(kernel, target, range);
    return -ENOMEM;
  }
  genPoolAddVirt(pool, range.base, range.base, range.pages * PAGE_SIZE);
  return 0;
}

function pushPage(memory: KernelMemory, page: Pfn): void {
  setZoneDeviceData(memory.pages, page, memory.unpopulated.listHead);
  memory.unpopulated.listHead = page;
  memory.unpopulated.listCount++;
}

function* allocFromList(
  kernel: Kernel,
  target: TargetResource,
  count: number,
): Program<PagesOrErrno> {
  const { memory } = kernel;
  const state = memory.unpopulated;
  if (state.listCount < count) {
    const rc = yield* fillList(kernel, target, count - state.listCount);
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
function* allocChunk(
  kernel: Kernel,
  target: TargetResource,
  pool: GenPool,
  count: number,
): Program<PagesOrErrno> {
  let start = genPoolAlloc(pool, count * PAGE_SIZE);
  if (start === undefined) {
    const rc = yield* fillPool(kernel, target, pool, count);
    if (rc < 0) return rc;
    start = genPoolAlloc(pool, count * PAGE_SIZE);
    if (start === undefined) return -ENOMEM;
  }
  const first = physToPage(Gaddr(start));
  return Array.from({ length: count }, (_, i) => Pfn(first + i));
}

/** The reviewer's sketch: pages one by one, after a fill by what the pool lacks (D2, D13). */
function* allocPageByPage(
  kernel: Kernel,
  target: TargetResource,
  pool: GenPool,
  count: number,
): Program<PagesOrErrno> {
  const bytes = genPoolAvail(pool);
  const avail = hasFault(kernel, "bytes-for-pages") ? bytes : bytes / PAGE_SIZE;
  if (avail < count) {
    const rc = yield* fillPool(kernel, target, pool, count - avail);
    if (rc < 0) return rc;
  }
  const taken: Pfn[] = [];
  while (taken.length < count) {
    const start = genPoolAlloc(pool, PAGE_SIZE);
    if (start === undefined) {
      for (const page of taken) genPoolFree(pool, pageToPhys(page), PAGE_SIZE);
      return -ENOMEM;
    }
    taken.push(physToPage(Gaddr(start)));
  }
  return taken;
}

/** Runs an allocation from the pool under its mutex, if the kernel has one. */
function* underPoolLock(kernel: Kernel, allocation: Program<PagesOrErrno>): Program<PagesOrErrno> {
  if (hasFault(kernel, "no-lock")) return yield* allocation;
  return yield* withMutex(kernel, kernel.memory.unpopulated.poolLock, allocation);
}

/** Any `count` pages without backing. Neither order nor contiguity is promised. */
export function* xenAllocUnpopulatedPages(kernel: Kernel, count: number): Program<PagesOrErrno> {
  const { target, pool, design, listLock } = kernel.memory.unpopulated;
  if (target === undefined) return yield* xenAllocBalloonedPages(kernel, count);
  if (design !== "pool" || pool === undefined) {
    return yield* withMutex(kernel, listLock, allocFromList(kernel, target, count));
  }
  const singles = kernel.boot.kernel.poolSingles === "page" ? allocPageByPage : allocChunk;
  return yield* underPoolLock(kernel, singles(kernel, target, pool, count));
}

/**
 * Gives pages back one by one: callers pass unrelated pages in one array. With the option `poolFree: range` they go as
 * one range whenever the pool has it, whoever's pages lie in it.
 */
export function xenFreeUnpopulatedPages(kernel: Kernel, pages: readonly Pfn[]): void {
  const { target, pool, design } = kernel.memory.unpopulated;
  const first = pages[0];
  if (target === undefined) {
    xenFreeBalloonedPages(kernel, pages);
  } else if (design !== "pool" || pool === undefined) {
    for (const page of pages) pushPage(kernel.memory, page);
  } else if (
    kernel.boot.kernel.poolFree === "range" &&
    first !== undefined &&
    genPoolHasAddr(pool, pageToPhys(first), pages.length * PAGE_SIZE)
  ) {
    genPoolFree(pool, pageToPhys(first), pages.length * PAGE_SIZE);
  } else {
    for (const page of pages) genPoolFree(pool, pageToPhys(page), PAGE_SIZE);
  }
}

/**
 * `count` pages contiguous in guest frames, for a device whose mask is `mask`. Refuses with -EINVAL any mask but the
 * 64-bit one, -ENODEV without a region, -EBUSY without an aligned hole, -EPERM (a stub's -1) in a kernel that has no such
 * pages. With the fault `single-page-hole` one page comes from the balloon where there is no region.
 */
export function* xenAllocUnpopulatedContiguousPages(
  kernel: Kernel,
  mask: number,
  count: number,
): Program<PagesOrErrno> {
  const { target, pool, design } = kernel.memory.unpopulated;
  if (design === "off" || design === "list") return -EPERM;
  // The RFC looks for its pool before it looks at the mask; V1 the other way round.
  if (design === "rfc" && pool === undefined) return -ENODEV;
  if (mask !== dmaBitMask(64)) return -EINVAL;
  if (target === undefined || pool === undefined) {
    const passes = count === 1 && hasFault(kernel, "single-page-hole");
    return passes ? yield* xenAllocBalloonedPages(kernel, count) : -ENODEV;
  }
  return yield* underPoolLock(kernel, allocChunk(kernel, target, pool, count));
}

/** Gives a contiguous allocation back in one piece. */
export function xenFreeUnpopulatedContiguousPages(kernel: Kernel, pages: readonly Pfn[]): void {
  const first = pages[0];
  if (first === undefined) return;
  const { target, pool, design } = kernel.memory.unpopulated;
  if (target === undefined || pool === undefined) {
    if (pages.length <= 1 && design === "pool") xenFreeBalloonedPages(kernel, pages);
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

/** Whether the page's address lies in an extended region (the iomem_resource test of D10). */
export function isInExtendedRegion(kernel: Kernel, page: Pfn): boolean {
  const phys = pageToPhys(page);
  const { target } = kernel.memory.unpopulated;
  if (target === undefined) return false;
  return target.regions.some(({ base, size }) => phys >= base && phys < base + size);
}
