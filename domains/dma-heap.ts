/**
 * /dev/dma_heap/reserved: a process gets a buffer of contiguous RAM as a dma-buf, which it can map and any driver use.
 *
 * Rules: the pages are zeroed RAM of the kernel's own, consecutive, and go back when the last user of the buffer has
 * gone. Whole pages; more than there are, or nothing, is refused.
 * Behaviour: Linux drivers/dma-buf/dma-heap.c, heaps/cma_heap.c.
 */
import {
  DMA_HEAP_IOCTL_ALLOC,
  HEAP_ALLOC_FD,
  HEAP_ALLOC_FD_FLAGS,
  HEAP_ALLOC_HEAP_FLAGS,
  HEAP_ALLOC_LEN,
  HEAP_ALLOC_SIZE,
} from "../shared/abi/dma-heap.ts";
import { O_CLOEXEC, O_RDWR } from "../shared/abi/linux.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import { EFAULT, EINVAL, ENOMEM, ENOTTY } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { Pfn } from "../shared/units.ts";
import { structFromUser, structToUser } from "./address-space.ts";
import { dmaBufExport, dmaBufPut } from "./dma-buf.ts";
import { getU64 } from "./hypercalls.ts";
import type { Kernel } from "./kernel.ts";
import { zeroPage } from "./memory.ts";
import { allocPages, pageToPhys, putPage } from "./pages.ts";
import { createFile, type FileOps, installFile, type OpenFile, type Process } from "./process.ts";

const HEAP_OPS: FileOps = { ioctl, *release() {} };

export const openDmaHeap = (kernel: Kernel, flags: number): OpenFile =>
  createFile(HEAP_OPS, kernel, flags);

/** DMA_HEAP_IOCTL_ALLOC: 0 and a descriptor; -EFAULT, -EINVAL (fields), -ENOMEM, -EMFILE. */
function* ioctl(
  file: OpenFile,
  process: Process,
  request: number,
  argument: number,
): Program<number> {
  if (request !== DMA_HEAP_IOCTL_ALLOC) return -ENOTTY;
  const from = yield* structFromUser(process, argument, HEAP_ALLOC_SIZE);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const flags = view.getUint32(HEAP_ALLOC_FD_FLAGS, true);
  if (view.getUint32(HEAP_ALLOC_FD, true) !== 0) return -EINVAL;
  if ((flags & ~(O_RDWR | O_CLOEXEC)) !== 0) return -EINVAL;
  if (getU64(view, HEAP_ALLOC_HEAP_FLAGS) !== 0) return -EINVAL;
  const length = Math.ceil(getU64(view, HEAP_ALLOC_LEN) / PAGE_SIZE);
  if (length === 0) return -EINVAL;
  const kernel = file.data as Kernel;
  const first = allocPages(kernel.memory.pages, length);
  if (first === undefined) return -ENOMEM;
  const pages = Array.from({ length }, (_, i) => Pfn(first + i));
  for (const page of pages) yield* zeroPage(kernel.cpu, pageToPhys(page));
  function* release(): Program {
    for (const page of pages) putPage(kernel.memory.pages, page);
  }
  const source = { kernel, pages, sizeBytes: length * PAGE_SIZE, mmap: true, release };
  const buf = dmaBufExport(source, flags);
  const fd = installFile(process, buf.file);
  if (fd < 0) {
    yield* dmaBufPut(buf);
    return fd;
  }
  view.setUint32(HEAP_ALLOC_FD, fd, true);
  return (yield* structToUser(process, argument, from)) ? 0 : -EFAULT;
}
