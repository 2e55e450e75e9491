/** The device files of a kernel, by path. Behaviour: Linux drivers/xen and drivers/dma-buf, module_init of each. */
import { openDmaHeap } from "./dma-heap.ts";
import { openEvtchn } from "./evtchn.ts";
import { openGntalloc } from "./gntalloc.ts";
import { openGntdev } from "./gntdev.ts";
import type { Kernel } from "./kernel.ts";
import { openPrivcmd } from "./privcmd.ts";
import type { OpenFile } from "./process.ts";

/** Opens a device file with O_* flags. */
export const DEVICE_FILES: Readonly<Record<string, (kernel: Kernel, flags: number) => OpenFile>> = {
  "/dev/xen/gntdev": openGntdev,
  "/dev/xen/gntalloc": openGntalloc,
  "/dev/xen/privcmd": openPrivcmd,
  "/dev/xen/evtchn": openEvtchn,
  "/dev/dma_heap/reserved": openDmaHeap,
};
