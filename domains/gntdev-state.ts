/**
 * What an open file of /dev/xen/gntdev keeps: its maps, the DMA buffers made of grants, and the grants made of DMA
 * buffers. Behaviour: Linux drivers/xen/gntdev-common.h, struct gntdev_priv.
 */
import type { DmaAttachment } from "./dma-buf.ts";
import type { GntdevMap } from "./gntdev-map.ts";
import type { Kernel } from "./kernel.ts";

/** A DMA buffer that was exported; found again by the number its descriptor had then. */
export interface GntdevExport {
  readonly fd: number;
  readonly map: GntdevMap;
  /** The last user of the buffer has gone. */
  released: boolean;
}

/** A DMA buffer that was granted to another domain. */
export interface GntdevImport {
  readonly fd: number;
  readonly refs: readonly number[];
  readonly attachment: DmaAttachment;
}

export interface Gntdev {
  readonly kernel: Kernel;
  /** Ascending by index. */
  readonly maps: GntdevMap[];
  /** Newest first, both. */
  readonly exports: GntdevExport[];
  readonly imports: GntdevImport[];
}
