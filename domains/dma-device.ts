/**
 * What the DMA layer knows of a device: its dma-ranges, its mask and the limit of its bus; and the arithmetic on them.
 *
 * Rules: `phys` is a physical byte address as the kernel sees it; a DMA address is what the driver programs. An
 * address that no dma-ranges entry covers is DMA_MAPPING_ERROR.
 * Behaviour: Linux include/linux/dma-direct.h, drivers/of/device.c (mask and bus limit).
 */
import type { BootDevice, DmaRange } from "../shared/machine.ts";
import { DmaAddress, Gaddr } from "../shared/units.ts";

/** Which dma_map_ops a device has. */
export type DmaOps = "dma-direct" | "swiotlb-xen" | "grant-dma";

/** All ones: the DMA address that says "no". */
export const DMA_MAPPING_ERROR: DmaAddress = DmaAddress(2 ** 64);

export const DMA_BIDIRECTIONAL = 0;
export const DMA_TO_DEVICE = 1;
export const DMA_FROM_DEVICE = 2;
export const DMA_NONE = 3;
export type DmaDirection = 0 | 1 | 2 | 3;

/** What grant-dma knows of one device (struct xen_grant_dma_data). */
export interface GrantDmaData {
  readonly backendDomid: number;
  broken: boolean;
}

/** DMA_ATTR_SKIP_CPU_SYNC leaves the caches to whoever maps the buffer. */
export type DmaAttrs = "sync" | "skip-cpu-sync";

/** What the DMA layer knows of a device (struct device). */
export interface DmaDevice {
  readonly name: string;
  readonly dmaRanges: readonly DmaRange[];
  /** Highest address of the device itself: streaming and coherent mask alike. */
  readonly mask: number;
  /** Highest address its bus can carry, or 0: no bound. */
  readonly busLimit: number;
  readonly coherent: boolean;
  /** Operations of its own; undefined: those of the kernel's devices. */
  readonly ops?: DmaOps;
}

/** Masks beyond 2^53 are no bound on anything that a number can hold. */
export const dmaBitMask = (bits: number): number =>
  bits > 53 ? Number.POSITIVE_INFINITY : 2 ** bits - 1;

/** A device as its node in the device tree configures it. */
export const dmaDeviceOf = (device: BootDevice): DmaDevice => ({
  name: device.name,
  dmaRanges: device.dmaRanges,
  mask: dmaBitMask(device.addressWidth),
  busLimit: device.dmaRanges.reduce((limit, one) => Math.max(limit, one.dma + one.size - 1), 0),
  coherent: device.coherent,
});

/** phys_to_dma: the first region that contains `phys`, or DMA_MAPPING_ERROR. No regions: identity. */
export function physToDma(device: DmaDevice, phys: Gaddr): DmaAddress {
  if (device.dmaRanges.length === 0) return DmaAddress(phys);
  const region = device.dmaRanges.find((one) => phys >= one.cpu && phys - one.cpu < one.size);
  return region === undefined ? DMA_MAPPING_ERROR : DmaAddress(phys - region.cpu + region.dma);
}

/** dma_to_phys: the way back, or all ones. */
export function dmaToPhys(device: DmaDevice, dma: DmaAddress): Gaddr {
  if (device.dmaRanges.length === 0) return Gaddr(dma);
  const region = device.dmaRanges.find((one) => dma >= one.dma && dma - one.dma < one.size);
  return region === undefined ? Gaddr(2 ** 64) : Gaddr(dma - region.dma + region.cpu);
}

/** dma_capable: whether the device and its bus can drive every byte of the range. */
export function dmaCapable(device: DmaDevice, dma: DmaAddress, size: number): boolean {
  if (dma === DMA_MAPPING_ERROR) return false;
  const limit = device.busLimit === 0 ? device.mask : Math.min(device.mask, device.busLimit);
  return dma + size - 1 <= limit;
}
