/**
 * The bus between a device and the memory system: how far the device can drive an address, and what the
 * bridge makes of it. Pure.
 *
 *   DMA address -> address width -> dma-ranges (the bus offset is undone) -> address at the IOMMU or on the memory bus
 *
 * Rules: an address outside every window is aborted by the bridge, it never wraps; an empty list of windows is
 * an identity bus.
 * Behaviour: Devicetree Specification, dma-ranges; Linux kernel/dma/direct.c looks at the same list from the
 * other side (bus_dma_region).
 */
import { NOT_PRESENT, PAGE_SIZE } from "../shared/limits.ts";
import type { DeviceModel } from "../shared/machine.ts";

/** What the bus knows of a device. */
export type BusPort = Pick<DeviceModel, "dmaRanges" | "addressWidth">;

/** Widest address that a number holds exactly; a device that drives more has no bound here. */
const WIDTH_MAX = 53;

/**
 * The address beyond the bus of DMA address `dma` (bytes), or NOT_PRESENT when the device cannot drive it or no
 * window holds it. A burst never crosses a page, and windows are whole pages, so one byte speaks for its burst.
 */
export function busAddress(port: BusPort, dma: number): number {
  if (dma > Number.MAX_SAFE_INTEGER) return NOT_PRESENT;
  if (port.addressWidth <= WIDTH_MAX && dma >= 2 ** port.addressWidth) return NOT_PRESENT;
  if (port.dmaRanges.length === 0) return dma;
  for (const range of port.dmaRanges) {
    if (dma >= range.dma && dma < range.dma + range.size) return range.cpu + (dma - range.dma);
  }
  return NOT_PRESENT;
}

/** Bytes of the next burst from `dma` when `left` are still to move: up to the end of its page. */
export const burstLength = (dma: number, left: number): number =>
  Math.min(left, PAGE_SIZE - (dma % PAGE_SIZE));
