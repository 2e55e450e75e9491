/**
 * The DMA layer of a direct-mapped domain: first the guest frame becomes a bus frame (for a foreign page, the frame
 * that Xen named when the grant was mapped), then the device's bus offset is applied.
 *
 * Rules: used directly only when the device can reach it, the range is contiguous on the bus, and no cache
 * maintenance is missing; otherwise it is bounced through low RAM, at most 256 KiB. On unmap only the bus address is
 * known and the way back is the identity, so a foreign page looks like the machine address it is.
 * Behaviour: Linux drivers/xen/swiotlb-xen.c, arch/arm/xen/mm.c.
 */
import { GNTTAB_CACHE_CLEAN, GNTTAB_CACHE_INVAL } from "../shared/abi/grant.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import type { Program } from "../shared/trap.ts";
import { Bfn, type DmaAddress, Gaddr, Pfn } from "../shared/units.ts";
import { bugOn } from "./bug.ts";
import {
  DMA_FROM_DEVICE,
  DMA_MAPPING_ERROR,
  DMA_NONE,
  DMA_TO_DEVICE,
  type DmaAttrs,
  type DmaDevice,
  type DmaDirection,
  dmaCapable,
  dmaToPhys,
  physToDma,
} from "./dma-device.ts";
import { bfnToPfn, pfnToBfn } from "./foreign-p2m.ts";
import { cacheFlush } from "./grant-calls.ts";
import type { Kernel } from "./kernel.ts";
import { pfnValid } from "./pages.ts";
import {
  swiotlbSyncForCpu,
  swiotlbSyncForDevice,
  swiotlbTblMapSingle,
  swiotlbTblUnmapSingle,
} from "./swiotlb.ts";
import { IO_TLB_SIZE, isSwiotlbBuffer } from "./swiotlb-pool.ts";

const frameOf = (address: number): Pfn => Pfn(Math.floor(address / PAGE_SIZE));

/** xen_phys_to_bus: the bus address before the device's offset. In a direct-mapped domain it is the machine's. */
export function xenPhysToBus(kernel: Kernel, phys: Gaddr): Gaddr {
  const bfn: Bfn = pfnToBfn(kernel.memory.foreign, frameOf(phys));
  return Gaddr(bfn * PAGE_SIZE + (phys % PAGE_SIZE));
}
/** xen_phys_to_dma: what the device is programmed with. */
export const xenPhysToDma = (kernel: Kernel, device: DmaDevice, phys: Gaddr): DmaAddress =>
  physToDma(device, xenPhysToBus(kernel, phys));

/** range_straddles_page_boundary: whether the pages of a range are not consecutive on the bus. */
export function rangeStraddlesPageBoundary(kernel: Kernel, phys: Gaddr, size: number): boolean {
  const first = frameOf(phys);
  const frames = Math.ceil(((phys % PAGE_SIZE) + size) / PAGE_SIZE);
  const start = pfnToBfn(kernel.memory.foreign, first);
  for (let i = 1; i < frames; i++) {
    if (pfnToBfn(kernel.memory.foreign, Pfn(first + i)) !== start + i) return true;
  }
  return false;
}

/** xen_arch_need_swiotlb: a foreign page of a device that is not coherent, and Xen offers no cache_flush. */
export function xenArchNeedSwiotlb(
  kernel: Kernel,
  device: DmaDevice,
  phys: Gaddr,
  dma: DmaAddress,
): boolean {
  const foreign = frameOf(phys) !== frameOf(dmaToPhys(device, dma));
  return !kernel.memory.dma.cacheFlush && foreign && !device.coherent;
}

/** Cache maintenance of a foreign range by its bus address; results are ignored, as in Linux. */
function* maintain(
  kernel: Kernel,
  device: DmaDevice,
  dma: DmaAddress,
  size: number,
  op: number,
): Program {
  const bus = dmaToPhys(device, dma);
  let address = bus - (bus % PAGE_SIZE);
  let offset = bus % PAGE_SIZE;
  for (let left = size; left > 0; ) {
    const length = Math.min(left, PAGE_SIZE - offset);
    yield* cacheFlush(kernel, address - (address % PAGE_SIZE), offset, length, op);
    // The running address starts at the rounded one, so a first offset makes the next piece name the same page.
    address += length;
    offset = 0;
    left -= length;
  }
}

/** Whether a bus address is a page of this kernel. True means that the caches need no hypercall. */
const isLocal = (kernel: Kernel, device: DmaDevice, dma: DmaAddress): boolean =>
  pfnValid(kernel.memory.pages, frameOf(dmaToPhys(device, dma)));

/** xen_swiotlb_map_page: `size` bytes at `phys`. */
export function* xenSwiotlbMapPage(
  kernel: Kernel,
  device: DmaDevice,
  phys: Gaddr,
  size: number,
  direction: DmaDirection,
  attrs: DmaAttrs = "sync",
): Program<DmaAddress> {
  bugOn(direction === DMA_NONE, "a DMA mapping has a direction");
  let dma = xenPhysToDma(kernel, device, phys);
  const direct =
    !kernel.boot.kernel.swiotlbForce &&
    dmaCapable(device, dma, size) &&
    !rangeStraddlesPageBoundary(kernel, phys, size) &&
    !xenArchNeedSwiotlb(kernel, device, phys, dma);
  if (!direct) {
    const bounce = yield* swiotlbTblMapSingle(kernel, phys, size);
    if (bounce === undefined) return DMA_MAPPING_ERROR;
    dma = xenPhysToDma(kernel, device, bounce);
    if (!dmaCapable(device, dma, size)) {
      // DMA_TO_DEVICE stands for DMA_ATTR_SKIP_CPU_SYNC: nothing is copied back.
      yield* swiotlbTblUnmapSingle(kernel, bounce, size, DMA_TO_DEVICE);
      return DMA_MAPPING_ERROR;
    }
  }
  if (attrs === "sync") yield* cachesForDevice(kernel, device, dma, size, direction);
  return dma;
}

/** xen_dma_sync_for_device: a page of the kernel's own needs no hypercall. */
function* cachesForDevice(
  kernel: Kernel,
  device: DmaDevice,
  dma: DmaAddress,
  size: number,
  direction: DmaDirection,
): Program {
  if (device.coherent || isLocal(kernel, device, dma)) return;
  const op = direction === DMA_FROM_DEVICE ? GNTTAB_CACHE_INVAL : GNTTAB_CACHE_CLEAN;
  yield* maintain(kernel, device, dma, size, op);
}

/** xen_dma_sync_for_cpu: what a device has only read is in the caches as it was. */
function* cachesForCpu(
  kernel: Kernel,
  device: DmaDevice,
  dma: DmaAddress,
  size: number,
  direction: DmaDirection,
): Program {
  if (device.coherent || direction === DMA_TO_DEVICE || isLocal(kernel, device, dma)) return;
  yield* maintain(kernel, device, dma, size, GNTTAB_CACHE_INVAL);
}

/** Where a DMA address lies in the bounce buffer; undefined: it was mapped directly. */
function bounceOf(kernel: Kernel, device: DmaDevice, dma: DmaAddress): Gaddr | undefined {
  const paddr = xenDmaToPhys(device, dma);
  const pool = kernel.memory.dma.swiotlb;
  return pool !== undefined && isSwiotlbBuffer(pool, paddr) ? paddr : undefined;
}

/** xen_swiotlb_sync_single_for_cpu: caches first, then the copy. */
export function* xenSwiotlbSyncForCpu(
  kernel: Kernel,
  device: DmaDevice,
  dma: DmaAddress,
  size: number,
  direction: DmaDirection,
): Program {
  yield* cachesForCpu(kernel, device, dma, size, direction);
  const bounce = bounceOf(kernel, device, dma);
  if (bounce !== undefined && direction !== DMA_TO_DEVICE)
    yield* swiotlbSyncForCpu(kernel, bounce, size);
}

/** xen_swiotlb_sync_single_for_device: the copy first, then caches. */
export function* xenSwiotlbSyncForDevice(
  kernel: Kernel,
  device: DmaDevice,
  dma: DmaAddress,
  size: number,
  direction: DmaDirection,
): Program {
  const bounce = bounceOf(kernel, device, dma);
  if (bounce !== undefined && direction !== DMA_FROM_DEVICE)
    yield* swiotlbSyncForDevice(kernel, bounce, size);
  yield* cachesForDevice(kernel, device, dma, size, direction);
}

/** xen_swiotlb_dma_supported: whether a device with that mask reaches the end of the bounce pool. */
export function xenSwiotlbDmaSupported(kernel: Kernel, device: DmaDevice, mask: number): boolean {
  const pool = kernel.memory.dma.swiotlb;
  if (pool === undefined) return true;
  const end = Gaddr(pool.start + pool.slots * IO_TLB_SIZE - 1);
  return xenPhysToDma(kernel, device, end) <= mask;
}

/** xen_swiotlb_unmap_page: the bus address is all it knows. */
export function* xenSwiotlbUnmapPage(
  kernel: Kernel,
  device: DmaDevice,
  dma: DmaAddress,
  size: number,
  direction: DmaDirection,
): Program {
  bugOn(direction === DMA_NONE, "a DMA mapping has a direction");
  yield* cachesForCpu(kernel, device, dma, size, direction);
  const bounce = bounceOf(kernel, device, dma);
  if (bounce !== undefined) yield* swiotlbTblUnmapSingle(kernel, bounce, size, direction);
}

/** xen_dma_to_phys: for a foreign page the machine address, since bfn_to_pfn is the identity. */
export function xenDmaToPhys(device: DmaDevice, dma: DmaAddress): Gaddr {
  const bus = dmaToPhys(device, dma);
  return Gaddr(bfnToPfn(Bfn(frameOf(bus))) * PAGE_SIZE + (bus % PAGE_SIZE));
}
