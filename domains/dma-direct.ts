/**
 * The DMA layer that knows nothing of Xen: a device sees the guest frame, moved by the bus offset.
 *
 * Rules: it never looks at the foreign table: without an IOMMU the guest frame number is what reaches the memory
 * bus. Each scatter entry is mapped alone. A device that cannot reach the address gets a bounce buffer if there
 * is a pool and the pool is within its reach, and DMA_MAPPING_ERROR otherwise.
 * Behaviour: Linux kernel/dma/direct.c. There are no caches here, so a device that is not coherent needs no
 * maintenance for local pages (docs/FIDELITY.md).
 */
import { PAGE_SIZE } from "../shared/limits.ts";
import type { Program } from "../shared/trap.ts";
import type { DmaAddress, Gaddr, Pfn } from "../shared/units.ts";
import {
  DMA_MAPPING_ERROR,
  DMA_TO_DEVICE,
  type DmaDevice,
  type DmaDirection,
  dmaCapable,
  dmaToPhys,
  physToDma,
} from "./dma-device.ts";
import type { Kernel } from "./kernel.ts";
import { zeroPage } from "./memory.ts";
import { allocPages, freePages, pageToPhys } from "./pages.ts";
import { swiotlbTblMapSingle, swiotlbTblUnmapSingle } from "./swiotlb.ts";
import { isSwiotlbBuffer } from "./swiotlb-pool.ts";

/** dma_direct_map_page: `size` bytes at `phys`. */
export function* dmaDirectMapPage(
  kernel: Kernel,
  device: DmaDevice,
  phys: Gaddr,
  size: number,
): Program<DmaAddress> {
  const dma = physToDma(device, phys);
  if (!kernel.boot.kernel.swiotlbForce && dmaCapable(device, dma, size)) return dma;
  const bounce = yield* swiotlbTblMapSingle(kernel, phys, size);
  if (bounce === undefined) return DMA_MAPPING_ERROR;
  const bounced = physToDma(device, bounce);
  if (dmaCapable(device, bounced, size)) return bounced;
  // DMA_TO_DEVICE stands for DMA_ATTR_SKIP_CPU_SYNC: nothing is copied back.
  yield* swiotlbTblUnmapSingle(kernel, bounce, size, DMA_TO_DEVICE);
  return DMA_MAPPING_ERROR;
}

/** dma_direct_unmap_page. */
export function* dmaDirectUnmapPage(
  kernel: Kernel,
  device: DmaDevice,
  dma: DmaAddress,
  size: number,
  direction: DmaDirection,
): Program {
  const phys = dmaToPhys(device, dma);
  const pool = kernel.memory.dma.swiotlb;
  if (pool !== undefined && isSwiotlbBuffer(pool, phys)) {
    yield* swiotlbTblUnmapSingle(kernel, phys, size, direction);
  }
}

/** RAM that a driver and its device share. */
export interface DmaMemory {
  readonly page: Pfn;
  readonly count: number;
  readonly handle: DmaAddress;
}

/** dma_direct_alloc: zeroed RAM, physically contiguous, within reach of the device. Undefined: there is none. */
export function* dmaDirectAlloc(
  kernel: Kernel,
  device: DmaDevice,
  count: number,
): Program<DmaMemory | undefined> {
  const { pages } = kernel.memory;
  const windowEnd = device.dmaRanges.reduce((end, one) => Math.max(end, one.cpu + one.size), 0);
  const end = device.dmaRanges.length === 0 ? device.mask + 1 : windowEnd;
  const page = allocPages(pages, count, Math.floor(end / PAGE_SIZE) - 1);
  if (page === undefined) return undefined;
  const handle = physToDma(device, pageToPhys(page));
  if (!dmaCapable(device, handle, count * PAGE_SIZE)) {
    freePages(pages, page, count);
    return undefined;
  }
  for (let i = 0; i < count; i++) yield* zeroPage(kernel.cpu, pageToPhys(page) + i * PAGE_SIZE);
  return { page, count, handle };
}

export const dmaDirectFree = (kernel: Kernel, memory: DmaMemory): void =>
  freePages(kernel.memory.pages, memory.page, memory.count);
