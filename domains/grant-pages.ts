/**
 * Pages for grants to be mapped onto: single ones, and DMA buffers that are contiguous in guest frames.
 *
 *   contiguous unpopulated pages -> none to be had -> RAM from the DMA allocator, given to Xen (the fallback)
 *
 * Rules: a page is private from allocation to free; set_private may fail half-way (on a 32-bit kernel), and the clean-up
 * skips pages that were never marked. `devBusAddr` is what the kernel option says, by default page_to_phys(pages[0]): not
 * a DMA address of any device. Free finds out by one of four ways which kind it holds; the balloon's statistics know
 * nothing of it. A kernel without contiguous unpopulated pages goes straight to RAM, as mainline does.
 * Behaviour: Linux drivers/xen/grant-table.c, gnttab_dma_alloc_pages(); the thread's V1 2/2 (guest.md 4.5).
 */
import { item } from "../shared/assert.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import { EFAULT, ENOMEM } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { DmaAddress, type Gaddr, Pfn } from "../shared/units.ts";
import { type DmaDevice, dmaBitMask, physToDma } from "./dma-device.ts";
import { dmaDirectAlloc, dmaDirectFree } from "./dma-direct.ts";
import { pfnToBfn } from "./foreign-p2m.ts";
import type { Kernel } from "./kernel.ts";
import { xenmemReservationDecrease, xenmemReservationIncrease } from "./mem-reservation.ts";
import { zeroPage } from "./memory.ts";
import {
  allocForeignData,
  clearFlag,
  freeForeignData,
  isZoneDevicePage,
  PG_private,
  pageToPhys,
  setFlag,
  testFlag,
} from "./pages.ts";
import {
  isInExtendedRegion,
  isXenUnpopulatedPage,
  type PagesOrErrno,
  xenAllocUnpopulatedContiguousPages,
  xenAllocUnpopulatedPages,
  xenFreeUnpopulatedContiguousPages,
  xenFreeUnpopulatedPages,
} from "./unpopulated.ts";

/** INT_MAX >> PAGE_SHIFT: more pages than this are refused. */
const DMA_PAGES_MAX = 524287;

/**
 * The gntdev misc device: never configured from the device tree, so without ranges and, as arm64 takes it by default, not
 * coherent; 64-bit masks by force.
 */
export const GNTDEV_DEVICE: DmaDevice = {
  name: "xen/gntdev",
  dmaRanges: [],
  mask: dmaBitMask(64),
  busLimit: 0,
  coherent: false,
  ops: "dma-direct",
};

/** gnttab_pages_set_private: 0, or -ENOMEM with the pages before the failing one marked. A 64-bit kernel cannot fail. */
export function gnttabPagesSetPrivate(kernel: Kernel, pages: readonly Pfn[]): number {
  for (let i = 0; i < pages.length; i++) {
    if (i === kernel.boot.kernel.setPrivateFailsAt) return -ENOMEM;
    if (!allocForeignData(kernel.memory.pages, item(pages, i))) return -ENOMEM;
    setFlag(kernel.memory.pages, item(pages, i), PG_private);
  }
  return 0;
}

/** gnttab_pages_clear_private: pages that were never marked are skipped. */
export function gnttabPagesClearPrivate(kernel: Kernel, pages: readonly Pfn[]): void {
  for (const page of pages) {
    if (!testFlag(kernel.memory.pages, page, PG_private)) continue;
    freeForeignData(kernel.memory.pages, page);
    clearFlag(kernel.memory.pages, page, PG_private);
  }
}

/** gnttab_alloc_pages: pages, in no promised order, or a negative errno with nothing kept. */
export function* gnttabAllocPages(kernel: Kernel, count: number): Program<PagesOrErrno> {
  const pages = yield* xenAllocUnpopulatedPages(kernel, count);
  if (typeof pages === "number") return pages;
  const rc = gnttabPagesSetPrivate(kernel, pages);
  if (rc < 0) {
    gnttabFreePages(kernel, pages);
    return rc;
  }
  return pages;
}

/** gnttab_free_pages. */
export function gnttabFreePages(kernel: Kernel, pages: readonly Pfn[]): void {
  gnttabPagesClearPrivate(kernel, pages);
  xenFreeUnpopulatedPages(kernel, pages);
}

/** What the buffer is asked for (`coherent` of the arguments). */
export type DmaKind = "coherent" | "write-combine";
/** How the CPU sees the buffer at `vaddr`: the linear map, or an alias of a device that is not coherent. */
export type CpuMapping = "cacheable" | "uncached" | "write-combine";

/** struct gnttab_dma_alloc_args after a successful allocation. */
export interface DmaPages {
  readonly pages: readonly Pfn[];
  /** Guest frames that went to Xen: filled by the RAM path alone. */
  readonly frames: readonly Pfn[];
  readonly mapping: CpuMapping;
  /** Kernel address of the first byte. */
  readonly vaddr: Gaddr;
  /** The kernel option's idea of it, or the DMA handle of the RAM path: equal for gntdev, which has no bus offset. */
  readonly devBusAddr: DmaAddress;
  /** Set by the allocation: the first of the three ways for free to know the kind. */
  readonly unpopulated: boolean;
}

/** Whether this buffer consists of unpopulated pages, found out in the way the kernel option chooses. */
export function knowsUnpopulated(kernel: Kernel, args: DmaPages): boolean {
  const first = item(args.pages, 0);
  switch (kernel.boot.kernel.freeKnows) {
    case "flag":
      return args.unpopulated;
    case "zone-device":
      return isZoneDevicePage(kernel.memory.pages, first);
    case "pool-address":
      return isXenUnpopulatedPage(kernel, first);
    case "region":
      return isInExtendedRegion(kernel, first);
  }
}

/**
 * gnttab_dma_alloc_pages: `count` pages contiguous in guest frames with nothing behind them. Refuses with -ENOMEM
 * (too many, no RAM, set_private) or -EFAULT (Xen took fewer frames than asked).
 */
export function* gnttabDmaAllocPages(
  kernel: Kernel,
  device: DmaDevice,
  count: number,
  kind: DmaKind = "coherent",
): Program<DmaPages | number> {
  if (count < 0 || count > DMA_PAGES_MAX) return -ENOMEM;
  const { unpopulatedAlloc, fallback } = kernel.boot.kernel;
  if (unpopulatedAlloc === "off" || unpopulatedAlloc === "list") {
    return yield* allocFromRam(kernel, device, count, kind);
  }
  const pages = yield* xenAllocUnpopulatedContiguousPages(kernel, device.mask, count);
  if (typeof pages === "number") {
    return fallback ? yield* allocFromRam(kernel, device, count, kind) : pages;
  }
  const args: DmaPages = {
    pages,
    frames: [],
    // The linear map, whatever was asked for.
    mapping: "cacheable",
    vaddr: pageToPhys(item(pages, 0)),
    devBusAddr: devBusAddrOf(kernel, device, item(pages, 0)),
    unpopulated: true,
  };
  const rc = gnttabPagesSetPrivate(kernel, pages);
  return rc < 0 ? yield* undoAlloc(kernel, args, rc) : args;
}

/** What the thread proposed as dev_bus_addr of fresh unpopulated pages (D12). */
function devBusAddrOf(kernel: Kernel, device: DmaDevice, page: Pfn): DmaAddress {
  switch (kernel.boot.kernel.devBusAddr) {
    case "page_to_phys":
      return DmaAddress(pageToPhys(page));
    case "pfn_to_bfn":
      return DmaAddress(pfnToBfn(kernel.memory.foreign, page) * PAGE_SIZE);
    case "page_to_dma":
      return physToDma(device, pageToPhys(page));
  }
}

/** After a step that failed: all of it goes back, or as an early version had it, the unpopulated pages alone. */
function* undoAlloc(kernel: Kernel, args: DmaPages, rc: number): Program<number> {
  if (args.unpopulated && kernel.boot.kernel.privateCleanup === "free-only") {
    xenFreeUnpopulatedContiguousPages(kernel, args.pages);
  } else {
    yield* gnttabDmaFreePages(kernel, args);
  }
  return rc;
}

/** How dma_alloc_coherent and dma_alloc_wc let the CPU see the memory of a device. */
function cpuMappingOf(device: DmaDevice, kind: DmaKind): CpuMapping {
  if (device.coherent) return "cacheable";
  return kind === "coherent" ? "uncached" : "write-combine";
}

/** The fallback: real RAM from the DMA allocator, scrubbed, then given to Xen. */
function* allocFromRam(
  kernel: Kernel,
  device: DmaDevice,
  count: number,
  kind: DmaKind,
): Program<DmaPages | number> {
  if (count === 0) return -ENOMEM;
  const memory = yield* dmaDirectAlloc(kernel, device, count);
  if (memory === undefined) return -ENOMEM;
  // The DMA handle is taken for a physical address: right only for a device without a bus offset.
  const start = Math.floor(memory.handle / PAGE_SIZE);
  const pages = Array.from({ length: count }, (_, i) => Pfn(start + i));
  const args: DmaPages = {
    pages,
    frames: pages,
    mapping: cpuMappingOf(device, kind),
    vaddr: pageToPhys(memory.page),
    devBusAddr: memory.handle,
    unpopulated: false,
  };
  for (const page of pages) yield* zeroPage(kernel.cpu, pageToPhys(page));
  let rc = yield* xenmemReservationDecrease(kernel, pages);
  rc = rc === count ? gnttabPagesSetPrivate(kernel, pages) : -EFAULT;
  return rc < 0 ? yield* undoAlloc(kernel, args, rc) : args;
}

/** gnttab_dma_free_pages: 0, or -EFAULT when Xen gave back fewer frames; the pages are freed all the same. */
export function* gnttabDmaFreePages(kernel: Kernel, args: DmaPages): Program<number> {
  gnttabPagesClearPrivate(kernel, args.pages);
  if (knowsUnpopulated(kernel, args)) {
    xenFreeUnpopulatedContiguousPages(kernel, args.pages);
    return 0;
  }
  const done = yield* xenmemReservationIncrease(kernel, args.pages);
  dmaDirectFree(kernel, {
    page: Pfn(Math.floor(args.vaddr / PAGE_SIZE)),
    count: args.pages.length,
    handle: args.devBusAddr,
  });
  return done === args.pages.length ? 0 : -EFAULT;
}
