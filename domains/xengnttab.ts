/**
 * What a user program links to use grants: each function puts a request's structure together in the program's own
 * memory, makes the call, and reads the answer. Results are what the kernel answered; a negative one is an errno.
 * Behaviour: Xen tools/libs/gnttab/linux.c.
 */
import {
  DMA_HEAP_IOCTL_ALLOC,
  HEAP_ALLOC_FD,
  HEAP_ALLOC_FD_FLAGS,
  HEAP_ALLOC_LEN,
  HEAP_ALLOC_SIZE,
} from "../shared/abi/dma-heap.ts";
import {
  EXP_COUNT,
  EXP_DOMID,
  EXP_FD,
  EXP_FLAGS,
  EXP_REFS,
  EXP_WAIT_FD,
  EXP_WAIT_SIZE,
  EXP_WAIT_TIMEOUT_MS,
  GRANT_COPY_COUNT,
  GRANT_COPY_SEGMENTS,
  GRANT_COPY_SIZE,
  IMP_COUNT,
  IMP_DOMID,
  IMP_FD,
  IMP_REFS,
  IMP_RELEASE_FD,
  IMP_RELEASE_SIZE,
  IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS,
  IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED,
  IOCTL_GNTDEV_DMABUF_IMP_RELEASE,
  IOCTL_GNTDEV_DMABUF_IMP_TO_REFS,
  IOCTL_GNTDEV_GRANT_COPY,
  IOCTL_GNTDEV_MAP_GRANT_REF,
  IOCTL_GNTDEV_SET_UNMAP_NOTIFY,
  IOCTL_GNTDEV_UNMAP_GRANT_REF,
  MAP_REFS_COUNT,
  MAP_REFS_INDEX,
  MAP_REFS_LIST,
  MAP_REFS_SIZE,
  MAP_REFS_STRIDE,
  SEGMENT_DEST,
  SEGMENT_FLAGS,
  SEGMENT_FOREIGN_DOMID,
  SEGMENT_FOREIGN_OFFSET,
  SEGMENT_FOREIGN_REF,
  SEGMENT_LEN,
  SEGMENT_SIZE,
  SEGMENT_SOURCE,
  SEGMENT_STATUS,
  UNMAP_NOTIFY_ACTION,
  UNMAP_NOTIFY_INDEX,
  UNMAP_NOTIFY_PORT,
  UNMAP_NOTIFY_SIZE,
  UNMAP_REFS_COUNT,
  UNMAP_REFS_INDEX,
  UNMAP_REFS_SIZE,
} from "../shared/abi/gntdev.ts";
import { GNTCOPY_dest_gref, GNTCOPY_source_gref } from "../shared/abi/grant.ts";
import { MAP_SHARED, O_CLOEXEC, O_RDWR, PROT_READ, PROT_WRITE } from "../shared/abi/linux.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import type { Program } from "../shared/trap.ts";
import type { GrantName } from "./gntdev-map.ts";
import { getU64, setU64 } from "./hypercalls.ts";
import type { Process } from "./process.ts";
import { structure } from "./structure.ts";
import {
  ioctlOn,
  stage,
  sysClose,
  sysIoctl,
  sysMmap,
  sysMunmap,
  sysOpen,
  userLoad,
} from "./syscalls.ts";

export const GNTDEV = "/dev/xen/gntdev";

/** A device file that a program has opened. */
export interface UserFile {
  readonly process: Process;
  readonly fd: number;
}

/** MAP_GRANT_REF: the byte offset for mmap. */
export function* mapGrantRef(file: UserFile, grants: readonly GrantName[]): Program<number> {
  const size = Math.max(MAP_REFS_SIZE, MAP_REFS_LIST + grants.length * MAP_REFS_STRIDE);
  const args = structure(size);
  const { view } = args;
  view.setUint32(MAP_REFS_COUNT, grants.length, true);
  for (const [i, { domid, ref }] of grants.entries()) {
    view.setUint32(MAP_REFS_LIST + i * MAP_REFS_STRIDE, domid, true);
    view.setUint32(MAP_REFS_LIST + i * MAP_REFS_STRIDE + 4, ref, true);
  }
  const rc = yield* ioctlOn(file.process, file.fd, IOCTL_GNTDEV_MAP_GRANT_REF, args);
  return rc < 0 ? rc : getU64(view, MAP_REFS_INDEX);
}

/** UNMAP_GRANT_REF. */
export function* unmapGrantRef(file: UserFile, offset: number, count: number): Program<number> {
  const args = structure(UNMAP_REFS_SIZE);
  const { view } = args;
  setU64(view, UNMAP_REFS_INDEX, offset);
  view.setUint32(UNMAP_REFS_COUNT, count, true);
  return yield* ioctlOn(file.process, file.fd, IOCTL_GNTDEV_UNMAP_GRANT_REF, args);
}

/** Grants in a program's address space. */
export interface UserMapping {
  readonly address: number;
  readonly offset: number;
  readonly count: number;
}

/** xengnttab_map_grant_refs: request and mmap; the request is taken back when mmap fails. */
export function* mapGrants(
  file: UserFile,
  grants: readonly GrantName[],
  prot: number = PROT_READ | PROT_WRITE,
): Program<UserMapping | number> {
  const { process, fd } = file;
  const offset = yield* mapGrantRef(file, grants);
  if (offset < 0) return offset;
  const length = grants.length * PAGE_SIZE;
  const address = yield* sysMmap(process, { length, prot, flags: MAP_SHARED, fd, offset });
  if (address >= 0) return { address, offset, count: grants.length };
  yield* unmapGrantRef(file, offset, grants.length);
  return address;
}

/** xengnttab_unmap: munmap, then the request. */
export function* unmapGrants(file: UserFile, mapping: UserMapping): Program<number> {
  const { address, offset, count } = mapping;
  const rc = yield* sysMunmap(file.process, address, count * PAGE_SIZE);
  return rc < 0 ? rc : yield* unmapGrantRef(file, offset, count);
}

/** SET_UNMAP_NOTIFY of the byte at `offset` of the file's space. */
export function* setUnmapNotify(
  file: UserFile,
  notify: { readonly offset: number; readonly action: number; readonly port?: number },
  request: number = IOCTL_GNTDEV_SET_UNMAP_NOTIFY,
): Program<number> {
  const args = structure(UNMAP_NOTIFY_SIZE);
  const { view } = args;
  setU64(view, UNMAP_NOTIFY_INDEX, notify.offset);
  view.setUint32(UNMAP_NOTIFY_ACTION, notify.action, true);
  view.setUint32(UNMAP_NOTIFY_PORT, notify.port ?? 0, true);
  return yield* ioctlOn(file.process, file.fd, request, args);
}

/** One side of a segment: an address of the program, or a place in a granted page. */
export type SegmentSide = number | (GrantName & { readonly offset: number });

export interface CopySegment {
  readonly source: SegmentSide;
  readonly dest: SegmentSide;
  readonly length: number;
}

function setSide(view: DataView, at: number, side: SegmentSide): void {
  if (typeof side === "number") {
    setU64(view, at, side);
    return;
  }
  view.setUint32(at + SEGMENT_FOREIGN_REF, side.ref, true);
  view.setUint16(at + SEGMENT_FOREIGN_OFFSET, side.offset, true);
  view.setUint16(at + SEGMENT_FOREIGN_DOMID, side.domid, true);
}

/** GRANT_COPY: the request's result, and the status of each segment. */
export function* grantCopy(
  { process, fd }: UserFile,
  segments: readonly CopySegment[],
): Program<{ readonly rc: number; readonly statuses: readonly number[] }> {
  const args = structure(GRANT_COPY_SIZE + segments.length * SEGMENT_SIZE);
  const { view } = args;
  for (const [i, { source, dest, length }] of segments.entries()) {
    const at = GRANT_COPY_SIZE + i * SEGMENT_SIZE;
    setSide(view, at + SEGMENT_SOURCE, source);
    setSide(view, at + SEGMENT_DEST, dest);
    view.setUint16(at + SEGMENT_LEN, length, true);
    const flags =
      (typeof source === "number" ? 0 : GNTCOPY_source_gref) |
      (typeof dest === "number" ? 0 : GNTCOPY_dest_gref);
    view.setUint16(at + SEGMENT_FLAGS, flags, true);
  }
  view.setUint32(GRANT_COPY_COUNT, segments.length, true);
  const { bytes } = args;
  const at = yield* stage(process, bytes);
  if (at < 0) return { rc: at, statuses: [] };
  // The array follows the structure, whose address is known only now.
  setU64(view, GRANT_COPY_SEGMENTS, at + GRANT_COPY_SIZE);
  yield* stage(process, bytes);
  const rc = yield* sysIoctl(process, fd, IOCTL_GNTDEV_GRANT_COPY, at);
  bytes.set(yield* userLoad(process, at, bytes.length));
  const statusOf = (i: number): number =>
    view.getInt16(GRANT_COPY_SIZE + i * SEGMENT_SIZE + SEGMENT_STATUS, true);
  return { rc, statuses: segments.map((_, i) => statusOf(i)) };
}

/** DMABUF_EXP_FROM_REFS: the descriptor of the buffer. */
export function* dmabufExpFromRefs(
  file: UserFile,
  dmaFlags: number,
  domid: number,
  refs: readonly number[],
): Program<number> {
  const args = structure(EXP_REFS + Math.max(1, refs.length) * 4);
  const { view } = args;
  view.setUint32(EXP_FLAGS, dmaFlags, true);
  view.setUint32(EXP_COUNT, refs.length, true);
  view.setUint32(EXP_DOMID, domid, true);
  for (const [i, ref] of refs.entries()) view.setUint32(EXP_REFS + i * 4, ref, true);
  const rc = yield* ioctlOn(file.process, file.fd, IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS, args);
  return rc < 0 ? rc : view.getUint32(EXP_FD, true);
}

/** DMABUF_EXP_WAIT_RELEASED. */
export function* dmabufExpWaitReleased(
  file: UserFile,
  fd: number,
  timeoutMs: number,
): Program<number> {
  const args = structure(EXP_WAIT_SIZE);
  const { view } = args;
  view.setUint32(EXP_WAIT_FD, fd, true);
  view.setUint32(EXP_WAIT_TIMEOUT_MS, timeoutMs, true);
  return yield* ioctlOn(file.process, file.fd, IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED, args);
}

/** DMABUF_IMP_TO_REFS: a reference for each page. */
export function* dmabufImpToRefs(
  file: UserFile,
  fd: number,
  domid: number,
  count: number,
): Program<readonly number[] | number> {
  const args = structure(IMP_REFS + Math.max(1, count) * 4);
  const { view } = args;
  view.setUint32(IMP_FD, fd, true);
  view.setUint32(IMP_COUNT, count, true);
  view.setUint32(IMP_DOMID, domid, true);
  const rc = yield* ioctlOn(file.process, file.fd, IOCTL_GNTDEV_DMABUF_IMP_TO_REFS, args);
  if (rc < 0) return rc;
  return Array.from({ length: count }, (_, i) => view.getUint32(IMP_REFS + i * 4, true));
}

/** DMABUF_IMP_RELEASE. */
export function* dmabufImpRelease(file: UserFile, fd: number): Program<number> {
  const args = structure(IMP_RELEASE_SIZE);
  const { view } = args;
  view.setUint32(IMP_RELEASE_FD, fd, true);
  return yield* ioctlOn(file.process, file.fd, IOCTL_GNTDEV_DMABUF_IMP_RELEASE, args);
}

/** A buffer of contiguous RAM from the DMA heap, such as a display's: its descriptor. */
export function* dmaHeapAlloc(process: Process, pages: number): Program<number> {
  const heap = yield* sysOpen(process, "/dev/dma_heap/reserved");
  if (heap < 0) return heap;
  const args = structure(HEAP_ALLOC_SIZE);
  setU64(args.view, HEAP_ALLOC_LEN, pages * PAGE_SIZE);
  args.view.setUint32(HEAP_ALLOC_FD_FLAGS, O_RDWR | O_CLOEXEC, true);
  const rc = yield* ioctlOn(process, heap, DMA_HEAP_IOCTL_ALLOC, args);
  yield* sysClose(process, heap);
  return rc < 0 ? rc : args.view.getUint32(HEAP_ALLOC_FD, true);
}
