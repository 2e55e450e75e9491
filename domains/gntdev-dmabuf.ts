/**
 * DMA buffers of gntdev, both ways: foreign grants become a buffer that any driver here can use, and a driver's buffer
 * becomes grants for another domain.
 *
 *   EXP_FROM_REFS: contiguous pages -> grants mapped at once -> dma-buf -> fd;  its last user goes -> grants unmapped
 *   IMP_TO_REFS:   fd -> attach, map -> a frame of this guest each page -> one grant each
 *
 * Rules: both are found again by the number their descriptor had, which may be another file's by then. A buffer that
 * was exported holds the device file open. An import always grants for writing; its end is deferred while the peer
 * still maps. Waiting for a release is not interruptible.
 * Behaviour: Linux drivers/xen/gntdev-dmabuf.c, the auto-translated half.
 */
import {
  EXP_COUNT,
  EXP_DOMID,
  EXP_FD,
  EXP_FLAGS,
  EXP_FROM_REFS_SIZE,
  EXP_REFS,
  EXP_WAIT_FD,
  EXP_WAIT_SIZE,
  EXP_WAIT_TIMEOUT_MS,
  GNTDEV_DMA_FLAG_COHERENT,
  GNTDEV_DMA_FLAG_WC,
  IMP_COUNT,
  IMP_DOMID,
  IMP_FD,
  IMP_REFS,
  IMP_RELEASE_FD,
  IMP_RELEASE_SIZE,
  IMP_TO_REFS_SIZE,
} from "../shared/abi/gntdev.ts";
import { GNTMAP_host_map } from "../shared/abi/grant.ts";
import { O_CLOEXEC, O_RDWR } from "../shared/abi/linux.ts";
import { item } from "../shared/assert.ts";
import { GNTDEV_GRANTS_MAX, PAGE_SIZE } from "../shared/limits.ts";
import { EFAULT, EINVAL, ENOENT, ENOMEM, ENOSPC, ETIMEDOUT } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { Bfn, type DmaAddress, GrantRef, type Pfn } from "../shared/units.ts";
import { structFromUser, structToUser } from "./address-space.ts";
import type { DmaMapping } from "./dma.ts";
import {
  type DmaAttachment,
  type DmaBuf,
  dmaBufAttach,
  dmaBufDetach,
  dmaBufExport,
  dmaBufGet,
  dmaBufMapAttachment,
  dmaBufPut,
} from "./dma-buf.ts";
import { DMA_BIDIRECTIONAL, type DmaDevice, dmaToPhys } from "./dma-device.ts";
import { bfnToPfn } from "./foreign-p2m.ts";
import { addMap, allocMap, type GntdevMap, mapGrantPages, removeMap } from "./gntdev-map.ts";
import type { Gntdev, GntdevExport, GntdevImport } from "./gntdev-state.ts";
import { GNTDEV_DEVICE } from "./grant-pages.ts";
import {
  allocGrantReferences,
  claimGrantReference,
  endForeignAccess,
  freeGrantReferences,
  grantForeignAccessRef,
} from "./grant-table.ts";
import { type Kernel, waitTimeout } from "./kernel.ts";
import { getFile, installFile, type OpenFile, type Process, putFile } from "./process.ts";
import { structure } from "./structure.ts";

const BOTH_FLAGS = GNTDEV_DMA_FLAG_WC | GNTDEV_DMA_FLAG_COHERENT;

const badCount = (count: number): boolean => count === 0 || count > GNTDEV_GRANTS_MAX;

/**
 * DMABUF_EXP_FROM_REFS: 0 and a descriptor. -EFAULT; -EINVAL: the count, both flags, or any grant refused; -ENOMEM: no
 * pages; -EMFILE. An answer that cannot be written is -EFAULT, and the descriptor stays.
 */
export function* expFromRefs(
  gntdev: Gntdev,
  file: OpenFile,
  process: Process,
  argument: number,
): Program<number> {
  const from = yield* structFromUser(process, argument, EXP_FROM_REFS_SIZE);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const count = view.getUint32(EXP_COUNT, true);
  if (badCount(count)) return -EINVAL;
  const refs = yield* structFromUser(process, argument + EXP_REFS, count * 4);
  if (refs === undefined) return -EFAULT;
  const flags = view.getUint32(EXP_FLAGS, true);
  if ((flags & BOTH_FLAGS) === BOTH_FLAGS) return -EINVAL;
  const map = yield* allocMap(gntdev.kernel, count, flags & BOTH_FLAGS);
  if (map === undefined) return -ENOMEM;
  const domid = view.getUint32(EXP_DOMID, true);
  for (let i = 0; i < count; i++) map.grants.push({ domid, ref: refs.view.getUint32(i * 4, true) });
  addMap(gntdev.maps, map);
  map.flags |= GNTMAP_host_map;
  const rc = yield* mapGrantPages(gntdev.kernel, map);
  const fd = rc < 0 ? rc : exportMap(gntdev, file, process, map);
  if (fd < 0) {
    yield* removeMap(gntdev.kernel, gntdev.maps, map);
    return fd;
  }
  view.setUint32(EXP_FD, fd, true);
  return (yield* structToUser(process, argument, from)) ? 0 : -EFAULT;
}

/** dmabuf_exp_from_pages: the descriptor, or -EMFILE with nothing exported. */
function exportMap(gntdev: Gntdev, file: OpenFile, process: Process, map: GntdevMap): number {
  const { kernel, exports, maps } = gntdev;
  const entry: { record: GntdevExport | undefined } = { record: undefined };
  const { pages, count, dma } = map;
  function* release(): Program {
    yield* removeMap(kernel, maps, map);
    const { record } = entry;
    if (record === undefined) return;
    exports.splice(exports.indexOf(record), 1);
    record.released = true;
    yield* putFile(file);
  }
  const sizeBytes = count * PAGE_SIZE;
  const source = { kernel, pages, sizeBytes, devBusAddr: dma?.devBusAddr, mmap: false, release };
  const buf = dmaBufExport(source, O_RDWR | O_CLOEXEC);
  const fd = installFile(process, buf.file);
  if (fd < 0) return fd;
  entry.record = { fd, map, released: false };
  exports.unshift(entry.record);
  getFile(file);
  return fd;
}

/** DMABUF_EXP_WAIT_RELEASED: 0, -EFAULT, -ENOENT (no such export, or released before), -ETIMEDOUT. */
export function* expWaitReleased(
  { kernel, exports }: Gntdev,
  process: Process,
  argument: number,
): Program<number> {
  const from = yield* structFromUser(process, argument, EXP_WAIT_SIZE);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const fd = view.getUint32(EXP_WAIT_FD, true);
  const record = exports.find((one) => one.fd === fd);
  if (record === undefined) return -ENOENT;
  const timeoutMs = view.getUint32(EXP_WAIT_TIMEOUT_MS, true);
  return (yield* waitTimeout(kernel, () => record.released, timeoutMs)) ? 0 : -ETIMEDOUT;
}

/**
 * DMABUF_IMP_TO_REFS: 0 and the references. -EFAULT; -EINVAL (count); -EBADF, -EINVAL (descriptor); what mapping the
 * buffer answers; -EINVAL: it begins inside a page, or has another size; -ENOSPC; -EFAULT: nothing is granted then.
 */
export function* impToRefs(gntdev: Gntdev, process: Process, argument: number): Program<number> {
  const from = yield* structFromUser(process, argument, IMP_TO_REFS_SIZE);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const count = view.getUint32(IMP_COUNT, true);
  if (badCount(count)) return -EINVAL;
  const fd = view.getUint32(IMP_FD, true);
  const buf = dmaBufGet(process, fd);
  if (typeof buf === "number") return buf;
  const attachment = dmaBufAttach(buf, GNTDEV_DEVICE);
  const refs = yield* grantBuffer(
    gntdev.kernel,
    attachment,
    count,
    view.getUint32(IMP_DOMID, true),
  );
  if (typeof refs === "number") {
    yield* letGo(attachment);
    return refs;
  }
  const record: GntdevImport = { fd, refs, attachment };
  gntdev.imports.unshift(record);
  const answer = structure(count * 4);
  for (let i = 0; i < count; i++) answer.view.setUint32(i * 4, item(refs, i), true);
  if (yield* structToUser(process, argument + IMP_REFS, answer)) return 0;
  yield* endImport(gntdev, record);
  return -EFAULT;
}

function* grantBuffer(
  kernel: Kernel,
  attachment: DmaAttachment,
  count: number,
  domid: number,
): Program<readonly number[] | number> {
  const mapping = yield* dmaBufMapAttachment(attachment, DMA_BIDIRECTIONAL);
  if (typeof mapping === "number") return mapping;
  if (startsInsidePage(attachment.buf)) return -EINVAL;
  if (attachment.buf.sizeBytes !== count * PAGE_SIZE) return -EINVAL;
  return yield* grantPages(kernel, framesOf(attachment.device, mapping), domid);
}

const startsInsidePage = ({ offset = 0 }: DmaBuf): boolean => offset !== 0;

/** The frame of each DMA page, found by its address alone: a struct page need not exist. */
function framesOf(device: DmaDevice, { addresses, lengths }: DmaMapping): readonly Pfn[] {
  return addresses.flatMap((address: DmaAddress, i) => {
    const first = Math.floor(dmaToPhys(device, address) / PAGE_SIZE);
    const count = Math.ceil(item(lengths, i) / PAGE_SIZE);
    return Array.from({ length: count }, (_, n) => bfnToPfn(Bfn(first + n)));
  });
}

/** dmabuf_imp_grant_foreign_access. The kernel counts these references in 16 bits. */
function* grantPages(
  kernel: Kernel,
  frames: readonly Pfn[],
  domid: number,
): Program<readonly number[] | number> {
  const asked = frames.length & 0xffff;
  const head = asked === 0 ? -ENOSPC : yield* allocGrantReferences(kernel, asked);
  if (head < 0) return -ENOSPC;
  const chain = { head };
  const refs: number[] = [];
  for (const frame of frames) {
    const ref = claimGrantReference(kernel, chain);
    if (ref < 0) {
      yield* endRefs(kernel, refs);
      freeGrantReferences(kernel, chain.head);
      return -ENOSPC;
    }
    yield* grantForeignAccessRef(kernel, GrantRef(ref), domid, frame, { readonly: false });
    refs.push(ref);
  }
  return refs;
}

function* endRefs(kernel: Kernel, refs: readonly number[]): Program {
  for (const ref of refs) yield* endForeignAccess(kernel, GrantRef(ref));
}

function* letGo(attachment: DmaAttachment): Program {
  yield* dmaBufDetach(attachment);
  yield* dmaBufPut(attachment.buf);
}

function* endImport(gntdev: Gntdev, record: GntdevImport): Program {
  gntdev.imports.splice(gntdev.imports.indexOf(record), 1);
  yield* endRefs(gntdev.kernel, record.refs);
  yield* letGo(record.attachment);
}

/** DMABUF_IMP_RELEASE: 0, -EFAULT or -ENOENT. References that the peer still maps are ended later. */
export function* impRelease(gntdev: Gntdev, process: Process, argument: number): Program<number> {
  const from = yield* structFromUser(process, argument, IMP_RELEASE_SIZE);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const fd = view.getUint32(IMP_RELEASE_FD, true);
  const record = gntdev.imports.find((one) => one.fd === fd);
  if (record === undefined) return -ENOENT;
  yield* endImport(gntdev, record);
  return 0;
}

/** Every import of a file that is released. */
export function* impReleaseAll(gntdev: Gntdev): Program {
  while (gntdev.imports.length > 0) yield* endImport(gntdev, item(gntdev.imports, 0));
}
