/**
 * DMA buffers that drivers hand to each other by a file descriptor: export, attach, map for a device, detach.
 *
 *   export -> fd -> dma_buf_get -> attach(device) -> map(direction): scatter list and DMA addresses -> detach -> put
 *
 * Rules: the scatter list merges pages whose frame numbers are consecutive, whatever machine frames are behind them; a
 * driver that must not have that names its largest segment. A mapping is made once an attachment, in one direction, and
 * undone without a copy when it is detached: whoever bounces asks for the data before that.
 * Behaviour: Linux drivers/dma-buf/dma-buf.c, lib/scatterlist.c, gntdev-dmabuf.c (attach, map and detach of exporters).
 */
import { PAGE_SIZE } from "../shared/limits.ts";
import { EBADF, EBUSY, EINVAL, ENOMEM } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { type DmaAddress, Gaddr, type Pfn } from "../shared/units.ts";
import { insertPages } from "./address-space.ts";
import type { SgEntry } from "./biomerge.ts";
import { type DmaMapping, dmaMapEntries, dmaUnmapWithoutSync } from "./dma.ts";
import { DMA_NONE, type DmaDevice, type DmaDirection } from "./dma-device.ts";
import type { Kernel } from "./kernel.ts";
import { pageToPhys } from "./pages.ts";
import {
  createFile,
  type FileOps,
  fileOf,
  getFile,
  type OpenFile,
  type Process,
  putFile,
  type Vma,
} from "./process.ts";

/** What an exporter brings. */
export interface DmaBufSource {
  readonly kernel: Kernel;
  readonly pages: readonly Pfn[];
  /** Bytes of the first page that are not part of the buffer. */
  readonly offset?: number;
  readonly sizeBytes: number;
  /** What the exporter's allocator says as its address: no DMA address of any other device. */
  readonly devBusAddr?: DmaAddress | undefined;
  /** Whether a process may map it. */
  readonly mmap: boolean;
  /** The last user has gone. */
  readonly release: () => Program;
}

export interface DmaBuf extends DmaBufSource {
  readonly file: OpenFile;
}

/** A device's use of a buffer. */
export interface DmaAttachment {
  readonly buf: DmaBuf;
  readonly device: DmaDevice;
  readonly maxSegmentBytes: number;
  mapping: DmaMapping | undefined;
}

const DMA_BUF_OPS: FileOps = { mmap: mmapBuf, release: (file) => sourceOf(file).release() };

const sourceOf = (file: OpenFile): DmaBufSource => file.data as DmaBufSource;

/** dma_buf_export: the buffer has one user, the file that is to be installed. */
export const dmaBufExport = (source: DmaBufSource, flags: number): DmaBuf => ({
  ...source,
  file: createFile(DMA_BUF_OPS, source, flags),
});

/** dma_buf_get: the buffer with one more user, -EBADF (no such descriptor) or -EINVAL (another kind of file). */
export function dmaBufGet(process: Process, fd: number): DmaBuf | number {
  const file = fileOf(process, fd);
  if (file === undefined) return -EBADF;
  if (file.ops !== DMA_BUF_OPS) return -EINVAL;
  getFile(file);
  return { ...sourceOf(file), file };
}

/** dma_buf_put. */
export const dmaBufPut = (buf: DmaBuf): Program => putFile(buf.file);

function* mmapBuf(file: OpenFile, _process: Process, vma: Vma): Program<number> {
  const { kernel, mmap, pages, sizeBytes } = sourceOf(file);
  if (!mmap || (vma.pgoff + vma.pages.length) * PAGE_SIZE > sizeBytes) return -EINVAL;
  insertPages(kernel, vma, pages.slice(vma.pgoff, vma.pgoff + vma.pages.length));
  return 0;
}

/** dma_buf_attach. `maxSegmentBytes`: what the device's driver takes in one scatter entry. */
export const dmaBufAttach = (
  buf: DmaBuf,
  device: DmaDevice,
  maxSegmentBytes: number = Number.POSITIVE_INFINITY,
): DmaAttachment => ({ buf, device, maxSegmentBytes, mapping: undefined });

/** sg_alloc_table_from_pages: consecutive pages are one entry, up to the largest segment. */
export function sgAllocTableFromPages(
  { pages, offset = 0, sizeBytes }: DmaBufSource,
  maxSegmentBytes: number,
): readonly SgEntry[] {
  const entries: { phys: SgEntry["phys"]; length: number }[] = [];
  let left = sizeBytes;
  for (const [i, page] of pages.entries()) {
    const skip = i === 0 ? offset : 0;
    const length = Math.min(PAGE_SIZE - skip, left);
    const last = entries.at(-1);
    const before = pages[i - 1];
    const joins = before !== undefined && before + 1 === page;
    if (last !== undefined && joins && last.length + length <= maxSegmentBytes) {
      last.length += length;
    } else {
      entries.push({ phys: Gaddr(pageToPhys(page) + skip), length });
    }
    left -= length;
  }
  return entries;
}

/** dma_buf_map_attachment: -EINVAL (no direction), -EBUSY (mapped in another), -ENOMEM (the DMA layer refuses). */
export function* dmaBufMapAttachment(
  attachment: DmaAttachment,
  direction: DmaDirection,
): Program<DmaMapping | number> {
  if (direction === DMA_NONE) return -EINVAL;
  const { buf, device, maxSegmentBytes } = attachment;
  if (attachment.mapping !== undefined) {
    return attachment.mapping.direction === direction ? attachment.mapping : -EBUSY;
  }
  const entries = sgAllocTableFromPages(buf, maxSegmentBytes);
  const mapping = yield* dmaMapEntries(buf.kernel, device, entries, direction, "skip-cpu-sync");
  if (typeof mapping === "number") return -ENOMEM;
  attachment.mapping = mapping;
  return mapping;
}

/** dma_buf_detach: the addresses are given back, and nothing is copied. */
export function* dmaBufDetach(attachment: DmaAttachment): Program {
  const { mapping, buf } = attachment;
  attachment.mapping = undefined;
  if (mapping !== undefined) yield* dmaUnmapWithoutSync(buf.kernel, mapping);
}
