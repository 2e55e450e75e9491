/**
 * Bounce buffers: a mapping the device cannot reach is copied to low RAM, and the device works on the copy.
 *
 * Rules: mapping always copies there, also for DMA_FROM_DEVICE; unmapping copies back unless the device only read.
 * A device that bounces shows its data to the CPU, and sees the CPU's, only at those two moments.
 * Behaviour: Linux kernel/dma/swiotlb.c, swiotlb_tbl_map_single(), swiotlb_tbl_unmap_single().
 */
import { PAGE_SIZE } from "../shared/limits.ts";
import type { Program } from "../shared/trap.ts";
import type { Gaddr } from "../shared/units.ts";
import { DMA_BIDIRECTIONAL, DMA_FROM_DEVICE, type DmaDirection } from "./dma-device.ts";
import type { Kernel } from "./kernel.ts";
import { readBytes, writeBytes } from "./memory.ts";
import { originalOf, releaseSlots, takeSlots } from "./swiotlb-pool.ts";

/** Copies within guest physical memory, through the CPU: the pieces follow the pages of the source. */
function* copyPhys(kernel: Kernel, to: number, from: number, size: number): Program {
  const piece = new Uint8Array(PAGE_SIZE);
  for (let done = 0; done < size; ) {
    const length = Math.min(size - done, PAGE_SIZE - ((from + done) % PAGE_SIZE));
    yield* readBytes(kernel.cpu, from + done, piece, 0, length);
    yield* writeBytes(kernel.cpu, to + done, piece, 0, length);
    done += length;
  }
}

/** Takes slots and copies `size` bytes at `phys` there. Undefined: no pool, more than 256 KiB, or it is full. */
export function* swiotlbTblMapSingle(
  kernel: Kernel,
  phys: Gaddr,
  size: number,
): Program<Gaddr | undefined> {
  const pool = kernel.memory.dma.swiotlb;
  if (pool === undefined) return undefined;
  const bounce = takeSlots(pool, phys, size);
  if (bounce === undefined) return undefined;
  yield* copyPhys(kernel, bounce, phys, size);
  return bounce;
}

/** Copies back what the device wrote, and frees the slots. `bounce` is the first byte of the mapping. */
export function* swiotlbTblUnmapSingle(
  kernel: Kernel,
  bounce: Gaddr,
  size: number,
  direction: DmaDirection,
): Program {
  const pool = kernel.memory.dma.swiotlb;
  if (pool === undefined) return;
  if (direction === DMA_FROM_DEVICE || direction === DMA_BIDIRECTIONAL) {
    yield* copyPhys(kernel, originalOf(pool, bounce), bounce, size);
  }
  releaseSlots(pool, bounce);
}

/** swiotlb_sync_single_for_device: copies what the CPU has written since to the slots. */
export function* swiotlbSyncForDevice(kernel: Kernel, bounce: Gaddr, size: number): Program {
  const pool = kernel.memory.dma.swiotlb;
  if (pool !== undefined) yield* copyPhys(kernel, bounce, originalOf(pool, bounce), size);
}

/** swiotlb_sync_single_for_cpu: copies back what the device wrote; the slots stay taken. */
export function* swiotlbSyncForCpu(kernel: Kernel, bounce: Gaddr, size: number): Program {
  const pool = kernel.memory.dma.swiotlb;
  if (pool !== undefined) yield* copyPhys(kernel, originalOf(pool, bounce), bounce, size);
}
