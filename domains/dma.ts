/**
 * The DMA mapping interface of a kernel: which operations its devices have, and a buffer of pages mapped for one.
 *
 * Rules: devices of a direct-mapped domain get swiotlb-xen, all others dma-direct; a device that was never configured
 * from the device tree has dma-direct, a virtio device whose node says so grant-dma. An IOMMU that Xen owns is
 * invisible here. A buffer is mapped as one scatter entry a page; segments are the runs that turn out consecutive on
 * the bus. If any entry cannot be mapped, none is, and the answer is DMA_MAPPING_ERROR.
 * Behaviour: Linux kernel/dma/mapping.c, arch/arm64/mm/dma-mapping.c, arch/arm/xen/mm.c (xen_mm_init).
 */
import { item } from "../shared/assert.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import type { BootDevice } from "../shared/machine.ts";
import { EIO, ENOSYS } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import type { DmaAddress, Gaddr, Pfn } from "../shared/units.ts";
import { mergeBioVectors, type SgEntry } from "./biomerge.ts";
import {
  DMA_BIDIRECTIONAL,
  DMA_FROM_DEVICE,
  DMA_MAPPING_ERROR,
  DMA_TO_DEVICE,
  type DmaAttrs,
  type DmaDevice,
  type DmaDirection,
  type DmaOps,
  dmaBitMask,
  dmaDeviceOf,
  dmaToPhys,
} from "./dma-device.ts";
import {
  type DmaMemory,
  dmaDirectAlloc,
  dmaDirectFree,
  dmaDirectMapPage,
  dmaDirectUnmapPage,
} from "./dma-direct.ts";
import { cacheFlush } from "./grant-calls.ts";
import {
  xenGrantDmaAlloc,
  xenGrantDmaFree,
  xenGrantDmaMapPage,
  xenGrantDmaUnmapPage,
} from "./grant-dma-ops.ts";
import type { Kernel } from "./kernel.ts";
import { pageToPhys } from "./pages.ts";
import { swiotlbSyncForCpu, swiotlbSyncForDevice } from "./swiotlb.ts";
import { createSwiotlbPool, IO_TLB_SEGSIZE, IO_TLB_SIZE, isSwiotlbBuffer } from "./swiotlb-pool.ts";
import {
  xenSwiotlbDmaSupported,
  xenSwiotlbMapPage,
  xenSwiotlbSyncForCpu,
  xenSwiotlbSyncForDevice,
  xenSwiotlbUnmapPage,
} from "./swiotlb-xen.ts";

/** The function whose value a device is programmed with. */
export type DmaMaker = "xen_phys_to_dma" | "phys_to_dma" | "grant_to_dma" | "swiotlb bounce";

const MAKERS: Readonly<Record<DmaOps, DmaMaker>> = {
  "swiotlb-xen": "xen_phys_to_dma",
  "dma-direct": "phys_to_dma",
  "grant-dma": "grant_to_dma",
};

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
  /** `block`: pages are joined to larger entries as the block layer joins bio vectors. */
  readonly merge?: "none" | "block";
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

/** dma_map_page with the operations of the device. DMA_MAPPING_ERROR: refused. */
export function* dmaMapPage(
  kernel: Kernel,
  device: DmaDevice,
  phys: Gaddr,
  size: number,
  direction: DmaDirection,
  attrs: DmaAttrs = "sync",
): Program<DmaAddress> {
  switch (opsOf(kernel, device)) {
    case "swiotlb-xen":
      return yield* xenSwiotlbMapPage(kernel, device, phys, size, direction, attrs);
    case "grant-dma":
      return yield* xenGrantDmaMapPage(kernel, device, phys, size, direction);
    case "dma-direct":
      return yield* dmaDirectMapPage(kernel, device, phys, size);
  }
}

/** dma_unmap_page. */
export function* dmaUnmapPage(
  kernel: Kernel,
  device: DmaDevice,
  dma: DmaAddress,
  size: number,
  direction: DmaDirection,
): Program {
  switch (opsOf(kernel, device)) {
    case "swiotlb-xen":
      yield* xenSwiotlbUnmapPage(kernel, device, dma, size, direction);
      return;
    case "grant-dma":
      yield* xenGrantDmaUnmapPage(kernel, device, dma, size);
      return;
    case "dma-direct":
      yield* dmaDirectUnmapPage(kernel, device, dma, size, direction);
  }
}

/** dma_supported: whether the device's operations can serve it with that mask. dma_set_mask answers -EIO otherwise. */
export function dmaSupported(kernel: Kernel, device: DmaDevice, mask: number): boolean {
  switch (opsOf(kernel, device)) {
    case "swiotlb-xen":
      return xenSwiotlbDmaSupported(kernel, device, mask);
    case "grant-dma":
      return mask === dmaBitMask(64);
    case "dma-direct":
      return mask >= dmaBitMask(32);
  }
}

/** dma_alloc_coherent: zeroed RAM that CPU and device share. Undefined: none within reach, or the device is broken. */
export const dmaAllocCoherent = (
  kernel: Kernel,
  device: DmaDevice,
  count: number,
): Program<DmaMemory | undefined> =>
  opsOf(kernel, device) === "grant-dma"
    ? xenGrantDmaAlloc(kernel, device, count)
    : dmaDirectAlloc(kernel, device, count);

/** dma_free_coherent. */
export function* dmaFreeCoherent(kernel: Kernel, device: DmaDevice, memory: DmaMemory): Program {
  if (opsOf(kernel, device) === "grant-dma") yield* xenGrantDmaFree(kernel, device, memory);
  else dmaDirectFree(kernel, memory);
}

/** dma_set_mask: the device with another mask, or -EIO. */
export const dmaSetMask = (kernel: Kernel, device: DmaDevice, mask: number): DmaDevice | number =>
  dmaSupported(kernel, device, mask) ? { ...device, mask } : -EIO;

/** dma_max_mapping_size: what one mapping may have in every case; a bounce buffer holds no more. */
export const dmaMaxMappingSize = (kernel: Kernel, device: DmaDevice): number =>
  opsOf(kernel, device) === "swiotlb-xen" ? IO_TLB_SIZE * IO_TLB_SEGSIZE : Number.POSITIVE_INFINITY;

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
  const list =
    request.merge === "block" ? mergeBioVectors(kernel.memory.foreign, entries) : entries;
  return yield* dmaMapEntries(kernel, dmaDeviceOf(bootDevice), list, direction);
}

/** dma_map_sg: every entry, each alone. DMA_MAPPING_ERROR: refused, nothing is mapped. */
export function* dmaMapEntries(
  kernel: Kernel,
  device: DmaDevice,
  entries: readonly SgEntry[],
  direction: DmaDirection,
  attrs: DmaAttrs = "sync",
): Program<DmaMapping | typeof DMA_MAPPING_ERROR> {
  const addresses: DmaAddress[] = [];
  const lengths: number[] = [];
  let bounced = 0;
  for (const { phys, length } of entries) {
    const dma = yield* dmaMapPage(kernel, device, phys, length, direction, attrs);
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
  const maker = MAKERS[opsOf(kernel, device)];
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
  const { device, direction } = mapping;
  for (let i = 0; i < mapping.addresses.length; i++) {
    const dma = item(mapping.addresses, i);
    const length = item(mapping.lengths, i);
    if (opsOf(kernel, device) === "swiotlb-xen") {
      yield* xenSwiotlbSyncForCpu(kernel, device, dma, length, direction);
    } else if (isBounced(kernel, device, dma) && direction !== DMA_TO_DEVICE) {
      yield* swiotlbSyncForCpu(kernel, dmaToPhys(device, dma), length);
    }
  }
}

/** dma_sync_sg_for_device: what the CPU has written since is with the device; the mapping stays. */
export function* dmaSyncForDevice(kernel: Kernel, mapping: DmaMapping): Program {
  const { device, direction } = mapping;
  for (let i = 0; i < mapping.addresses.length; i++) {
    const dma = item(mapping.addresses, i);
    const length = item(mapping.lengths, i);
    if (opsOf(kernel, device) === "swiotlb-xen") {
      yield* xenSwiotlbSyncForDevice(kernel, device, dma, length, direction);
    } else if (isBounced(kernel, device, dma) && direction !== DMA_FROM_DEVICE) {
      yield* swiotlbSyncForDevice(kernel, dmaToPhys(device, dma), length);
    }
  }
}

/** dma_unmap_sg with DMA_ATTR_SKIP_CPU_SYNC: nothing is copied back. */
export const dmaUnmapWithoutSync = (kernel: Kernel, mapping: DmaMapping): Program =>
  dmaUnmap(kernel, { ...mapping, direction: DMA_TO_DEVICE });
