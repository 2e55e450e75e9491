/**
 * The DMA mapping interface of a kernel: which operations its devices have, and a buffer of pages mapped for one.
 *
 * Rules: devices of a direct-mapped domain get swiotlb-xen, all others dma-direct; an IOMMU that Xen owns is
 * invisible here. A buffer is mapped as one scatter entry a page; segments are the runs that turn out consecutive on
 * the bus. If any entry cannot be mapped, none is, and the answer is DMA_MAPPING_ERROR.
 * Behaviour: Linux kernel/dma/mapping.c, arch/arm64/mm/dma-mapping.c, arch/arm/xen/mm.c (xen_mm_init).
 */
import { item } from "../shared/assert.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import type { BootDevice } from "../shared/machine.ts";
import { ENOSYS } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import type { DmaAddress, Gaddr, Pfn } from "../shared/units.ts";
import {
  DMA_BIDIRECTIONAL,
  DMA_MAPPING_ERROR,
  DMA_TO_DEVICE,
  type DmaDevice,
  type DmaDirection,
  type DmaOps,
  dmaDeviceOf,
  dmaToPhys,
} from "./dma-device.ts";
import { dmaDirectMapPage, dmaDirectUnmapPage } from "./dma-direct.ts";
import { cacheFlush } from "./grant-calls.ts";
import type { Kernel } from "./kernel.ts";
import { pageToPhys } from "./pages.ts";
import { swiotlbSyncForCpu } from "./swiotlb.ts";
import { createSwiotlbPool, isSwiotlbBuffer } from "./swiotlb-pool.ts";
import { xenSwiotlbMapPage, xenSwiotlbUnmapPage } from "./swiotlb-xen.ts";

/** The function whose value a device is programmed with. */
export type DmaMaker = "xen_phys_to_dma" | "phys_to_dma" | "swiotlb bounce";

/** A run of bytes that is consecutive on the bus. */
export interface DmaSegment {
  readonly address: DmaAddress;
  readonly length: number;
}

/** A mapped buffer: one address a page. */
export interface DmaMapping {
  readonly device: DmaDevice;
  readonly direction: DmaDirection;
  readonly addresses: readonly DmaAddress[];
  readonly lengths: readonly number[];
  readonly segments: readonly DmaSegment[];
  readonly maker: DmaMaker;
  /** Entries that go through the bounce buffer. */
  readonly bounced: number;
}

/** What the mapping is for, and how much of the pages: the last one may be used in part. */
export interface DmaRequest {
  readonly direction?: DmaDirection;
  readonly lengthBytes?: number;
}

/** Makes the bounce pool and, for swiotlb-xen, asks whether Xen offers cache_flush. */
export function* initDma(kernel: Kernel): Program {
  const { dma, pages } = kernel.memory;
  dma.swiotlb = createSwiotlbPool(pages, kernel.boot.kernel.swiotlbPages);
  if (dma.ops === "swiotlb-xen")
    dma.cacheFlush = (yield* cacheFlush(kernel, 0, 0, 0, 0)) !== -ENOSYS;
}

/** get_dma_ops: a device that was never configured from the device tree has dma-direct in every kernel. */
const opsOf = (kernel: Kernel, device: DmaDevice): DmaOps => device.ops ?? kernel.memory.dma.ops;

/** dma_map_page with the operations of this kernel's devices. */
export function* dmaMapPage(
  kernel: Kernel,
  device: DmaDevice,
  phys: Gaddr,
  size: number,
  direction: DmaDirection,
): Program<DmaAddress> {
  return opsOf(kernel, device) === "swiotlb-xen"
    ? yield* xenSwiotlbMapPage(kernel, device, phys, size, direction)
    : yield* dmaDirectMapPage(kernel, device, phys, size);
}

/** dma_unmap_page. */
export function* dmaUnmapPage(
  kernel: Kernel,
  device: DmaDevice,
  dma: DmaAddress,
  size: number,
  direction: DmaDirection,
): Program {
  if (opsOf(kernel, device) === "swiotlb-xen") {
    yield* xenSwiotlbUnmapPage(kernel, device, dma, size, direction);
  } else {
    yield* dmaDirectUnmapPage(kernel, device, dma, size, direction);
  }
}

/** Runs of entries that are consecutive on the bus. */
export function segmentsOf(
  addresses: readonly DmaAddress[],
  lengths: readonly number[],
): readonly DmaSegment[] {
  const segments: { address: DmaAddress; length: number }[] = [];
  for (let i = 0; i < addresses.length; i++) {
    const address = item(addresses, i);
    const last = segments.at(-1);
    if (last !== undefined && last.address + last.length === address)
      last.length += item(lengths, i);
    else segments.push({ address, length: item(lengths, i) });
  }
  return segments;
}

/** One entry of a scatter list: a run of physical memory. */
export interface SgEntry {
  readonly phys: Gaddr;
  readonly length: number;
}

/** dma_map_sg of a buffer of pages for one device. DMA_MAPPING_ERROR: refused, nothing is mapped. */
export function* dmaMap(
  kernel: Kernel,
  bootDevice: BootDevice,
  pages: readonly Pfn[],
  request: DmaRequest = {},
): Program<DmaMapping | typeof DMA_MAPPING_ERROR> {
  const total = request.lengthBytes ?? pages.length * PAGE_SIZE;
  const entries: SgEntry[] = [];
  for (let i = 0; i * PAGE_SIZE < total; i++) {
    const length = Math.min(PAGE_SIZE, total - i * PAGE_SIZE);
    entries.push({ phys: pageToPhys(item(pages, i)), length });
  }
  const direction = request.direction ?? DMA_BIDIRECTIONAL;
  return yield* dmaMapEntries(kernel, dmaDeviceOf(bootDevice), entries, direction);
}

/** dma_map_sg: every entry, each alone. DMA_MAPPING_ERROR: refused, nothing is mapped. */
export function* dmaMapEntries(
  kernel: Kernel,
  device: DmaDevice,
  entries: readonly SgEntry[],
  direction: DmaDirection,
): Program<DmaMapping | typeof DMA_MAPPING_ERROR> {
  const addresses: DmaAddress[] = [];
  const lengths: number[] = [];
  let bounced = 0;
  for (const { phys, length } of entries) {
    const dma = yield* dmaMapPage(kernel, device, phys, length, direction);
    if (dma === DMA_MAPPING_ERROR) {
      for (let j = 0; j < addresses.length; j++) {
        // What was mapped so far is given back without a copy: no device has seen it.
        yield* dmaUnmapPage(kernel, device, item(addresses, j), item(lengths, j), DMA_TO_DEVICE);
      }
      return DMA_MAPPING_ERROR;
    }
    if (isBounced(kernel, device, dma)) bounced++;
    addresses.push(dma);
    lengths.push(length);
  }
  const maker = opsOf(kernel, device) === "swiotlb-xen" ? "xen_phys_to_dma" : "phys_to_dma";
  return {
    device,
    direction,
    addresses,
    lengths,
    segments: segmentsOf(addresses, lengths),
    maker: bounced > 0 && bounced === addresses.length ? "swiotlb bounce" : maker,
    bounced,
  };
}

function isBounced(kernel: Kernel, device: DmaDevice, dma: DmaAddress): boolean {
  const pool = kernel.memory.dma.swiotlb;
  return pool !== undefined && isSwiotlbBuffer(pool, dmaToPhys(device, dma));
}

/** dma_unmap_sg: what the device wrote is with the CPU afterwards, through a bounce buffer too. */
export function* dmaUnmap(kernel: Kernel, mapping: DmaMapping): Program {
  const { device, direction } = mapping;
  for (let i = 0; i < mapping.addresses.length; i++) {
    const address = item(mapping.addresses, i);
    yield* dmaUnmapPage(kernel, device, address, item(mapping.lengths, i), direction);
  }
}

/** dma_sync_sg_for_cpu: what the device has written so far is with the CPU; the mapping stays. */
export function* dmaSyncForCpu(kernel: Kernel, mapping: DmaMapping): Program {
  const pool = kernel.memory.dma.swiotlb;
  if (pool === undefined || mapping.direction === DMA_TO_DEVICE) return;
  for (let i = 0; i < mapping.addresses.length; i++) {
    const phys = dmaToPhys(mapping.device, item(mapping.addresses, i));
    if (!isSwiotlbBuffer(pool, phys)) continue;
    yield* swiotlbSyncForCpu(kernel, phys, item(mapping.lengths, i));
  }
}

/** dma_unmap_sg with DMA_ATTR_SKIP_CPU_SYNC: nothing is copied back. */
export const dmaUnmapWithoutSync = (kernel: Kernel, mapping: DmaMapping): Program =>
  dmaUnmap(kernel, { ...mapping, direction: DMA_TO_DEVICE });
