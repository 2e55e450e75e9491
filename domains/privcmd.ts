/**
 * /dev/xen/privcmd: hypercalls of user space, and foreign memory in its address space.
 *
 *   mmap reserves addresses -> the first request over the whole mapping takes empty pages -> each frame mapped on one
 *
 * Rules: a file may be restricted to one domain, once; then it makes no hypercall of its own and names no other domain.
 * A mapping is never cut or copied; what could not be mapped is a hole, which a later request may fill and a touch of
 * which is SIGBUS. A mapping that goes takes its frames with it.
 * Behaviour: Linux drivers/xen/privcmd.c, the auto-translated half; checks in its order.
 */
import {
  DM_OP_BUF_BYTES,
  DM_OP_BUF_SIZE,
  DM_OP_BUF_UPTR,
  IOCTL_PRIVCMD_DM_OP,
  IOCTL_PRIVCMD_HYPERCALL,
  IOCTL_PRIVCMD_MMAP,
  IOCTL_PRIVCMD_MMAP_RESOURCE,
  IOCTL_PRIVCMD_MMAPBATCH,
  IOCTL_PRIVCMD_MMAPBATCH_V2,
  IOCTL_PRIVCMD_RESTRICT,
  PRIVCMD_DM_OP_BUFS,
  PRIVCMD_DM_OP_DOM,
  PRIVCMD_DM_OP_NUM,
  PRIVCMD_DM_OP_SIZE,
  PRIVCMD_HYPERCALL_ARGS,
  PRIVCMD_HYPERCALL_SIZE,
} from "../shared/abi/privcmd.ts";
import { HYPERVISOR_dm_op } from "../shared/abi/xen.ts";
import { item } from "../shared/assert.ts";
import { DM_OP_BUF_BYTES_MAX, DM_OP_BUFS_MAX, PAGE_SIZE } from "../shared/limits.ts";
import { E2BIG, EFAULT, EINVAL, ENOSYS, ENOTTY, EPERM } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import type { Pfn } from "../shared/units.ts";
import { pinUserPage, structFromUser, unpinUserPage } from "./address-space.ts";
import { freshArguments, getU64, setU64 } from "./hypercalls.ts";
import { hypercall, type Kernel, writeArguments } from "./kernel.ts";
import { pageToPhys } from "./pages.ts";
import { mmapBatch, mmapResource, PRIVCMD_VMA_OPS } from "./privcmd-mmap.ts";
import {
  createFile,
  type FileOps,
  type OpenFile,
  type Process,
  VM_DONTCOPY,
  VM_PFNMAP,
  type Vma,
} from "./process.ts";

/** struct privcmd_data. */
interface Privcmd {
  readonly kernel: Kernel;
  /** The only domain it may name; undefined: no restriction. */
  restricted: number | undefined;
}

const PRIVCMD_OPS: FileOps = { ioctl, mmap, *release() {} };

const privcmdOf = (file: OpenFile): Privcmd => file.data as Privcmd;

export const openPrivcmd = (kernel: Kernel, flags: number): OpenFile =>
  createFile(PRIVCMD_OPS, { kernel, restricted: undefined } satisfies Privcmd, flags);

function* ioctl(
  file: OpenFile,
  process: Process,
  request: number,
  argument: number,
): Program<number> {
  const privcmd = privcmdOf(file);
  const allowed = (domid: number): boolean =>
    privcmd.restricted === undefined || privcmd.restricted === domid;
  switch (request) {
    case IOCTL_PRIVCMD_HYPERCALL:
      return yield* passHypercall(privcmd, process, argument);
    case IOCTL_PRIVCMD_MMAP:
      // Only a paravirtualised guest maps machine frames by their number.
      return -ENOSYS;
    case IOCTL_PRIVCMD_MMAPBATCH:
      return yield* mmapBatch(process, argument, 1, allowed);
    case IOCTL_PRIVCMD_MMAPBATCH_V2:
      return yield* mmapBatch(process, argument, 2, allowed);
    case IOCTL_PRIVCMD_DM_OP:
      return yield* dmOp(privcmd, process, argument, allowed);
    case IOCTL_PRIVCMD_RESTRICT:
      return yield* restrict(privcmd, process, argument);
    case IOCTL_PRIVCMD_MMAP_RESOURCE:
      return yield* mmapResource(process, argument, allowed);
    default:
      return -ENOTTY;
  }
}

/** What the hypervisor returns; -EPERM (restricted), -EFAULT. */
function* passHypercall(privcmd: Privcmd, process: Process, argument: number): Program<number> {
  if (privcmd.restricted !== undefined) return -EPERM;
  const from = yield* structFromUser(process, argument, PRIVCMD_HYPERCALL_SIZE);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const args = Array.from({ length: PRIVCMD_HYPERCALL_ARGS }, (_, i) => getU64(view, 8 + i * 8));
  return yield* hypercall(privcmd.kernel, view.getUint32(0, true), ...args);
}

/** 0, -EFAULT, or -EINVAL: restricted to another domain already. It cannot be undone. */
function* restrict(privcmd: Privcmd, process: Process, argument: number): Program<number> {
  const from = yield* structFromUser(process, argument, 2);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const domid = view.getUint16(0, true);
  privcmd.restricted ??= domid;
  return privcmd.restricted === domid ? 0 : -EINVAL;
}

/** A buffer of a device model operation. */
interface DmBuffer {
  readonly address: number;
  readonly bytes: number;
}

/** What the hypervisor returns; -EFAULT, -EPERM, 0 without buffers, -E2BIG (how many, how large), -EFAULT (buffers). */
function* dmOp(
  privcmd: Privcmd,
  process: Process,
  argument: number,
  allowed: (domid: number) => boolean,
): Program<number> {
  const from = yield* structFromUser(process, argument, PRIVCMD_DM_OP_SIZE);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const domid = view.getUint16(PRIVCMD_DM_OP_DOM, true);
  if (!allowed(domid)) return -EPERM;
  const count = view.getUint16(PRIVCMD_DM_OP_NUM, true);
  if (count === 0) return 0;
  if (count > DM_OP_BUFS_MAX) return -E2BIG;
  const at = getU64(view, PRIVCMD_DM_OP_BUFS);
  const list = yield* structFromUser(process, at, count * DM_OP_BUF_SIZE);
  if (list === undefined) return -EFAULT;
  const buffers: DmBuffer[] = [];
  for (let i = 0; i < count; i++) {
    const bytes = getU64(list.view, i * DM_OP_BUF_SIZE + DM_OP_BUF_BYTES);
    if (bytes > DM_OP_BUF_BYTES_MAX) return -E2BIG;
    buffers.push({ address: getU64(list.view, i * DM_OP_BUF_SIZE + DM_OP_BUF_UPTR), bytes });
  }
  const pinned: Pfn[] = [];
  const rc = pinBuffers(process, buffers, pinned)
    ? yield* issueDmOp(privcmd.kernel, domid, buffers, pinned)
    : -EFAULT;
  for (const page of pinned) unpinUserPage(process, page);
  return rc;
}

/** lock_pages: every page of every buffer, for writing. */
function pinBuffers(process: Process, buffers: readonly DmBuffer[], pinned: Pfn[]): boolean {
  for (const { address, bytes } of buffers) {
    const start = address - (address % PAGE_SIZE);
    for (let at = start; at < address + bytes; at += PAGE_SIZE) {
      const page = pinUserPage(process, at, { write: true });
      if (page === undefined) return false;
      pinned.push(page);
    }
  }
  return true;
}

/** HYPERVISOR_dm_op with the buffers' guest physical addresses. */
function* issueDmOp(
  kernel: Kernel,
  domid: number,
  buffers: readonly DmBuffer[],
  pinned: readonly Pfn[],
): Program<number> {
  const size = buffers.length * DM_OP_BUF_SIZE;
  const view = freshArguments(kernel, size);
  let page = 0;
  for (const [i, { address, bytes }] of buffers.entries()) {
    const offset = address % PAGE_SIZE;
    if (bytes > 0) {
      setU64(view, i * DM_OP_BUF_SIZE + DM_OP_BUF_UPTR, pageToPhys(item(pinned, page)) + offset);
    }
    setU64(view, i * DM_OP_BUF_SIZE + DM_OP_BUF_BYTES, bytes);
    page += Math.ceil((offset + bytes) / PAGE_SIZE);
  }
  yield* writeArguments(kernel, size);
  const { gaddr } = kernel.arguments;
  return yield* hypercall(kernel, HYPERVISOR_dm_op, domid, buffers.length, gaddr);
}

/** Reserves addresses; nothing is mapped yet. */
function* mmap(file: OpenFile, _process: Process, vma: Vma): Program<number> {
  vma.flags |= VM_DONTCOPY | VM_PFNMAP;
  vma.ops = PRIVCMD_VMA_OPS;
  vma.data = { kernel: privcmdOf(file).kernel, pages: undefined };
  return 0;
}
