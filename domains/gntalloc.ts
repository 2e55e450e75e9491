/**
 * /dev/xen/gntalloc: how a process grants zeroed pages of its kernel to another domain, and maps them itself.
 *
 * Rules: a page is used by its file's list and by each mapping; with its last user the byte is cleared, the event
 * sent, and the access ended, later if the peer still maps it. All files together have one bound, which counts pages
 * until the peer has let go. Offsets in a file are never reused.
 * Behaviour: Linux drivers/xen/gntalloc.c; checks in its order.
 */
import {
  ALLOC_GREF_COUNT,
  ALLOC_GREF_DOMID,
  ALLOC_GREF_FLAGS,
  ALLOC_GREF_IDS,
  ALLOC_GREF_INDEX,
  ALLOC_GREF_SIZE,
  DEALLOC_GREF_COUNT,
  DEALLOC_GREF_INDEX,
  DEALLOC_GREF_SIZE,
  GNTALLOC_FLAG_WRITABLE,
  IOCTL_GNTALLOC_ALLOC_GREF,
  IOCTL_GNTALLOC_DEALLOC_GREF,
  IOCTL_GNTALLOC_SET_UNMAP_NOTIFY,
} from "../shared/abi/gntalloc.ts";
import {
  UNMAP_NOTIFY_ACTION,
  UNMAP_NOTIFY_CLEAR_BYTE,
  UNMAP_NOTIFY_INDEX,
  UNMAP_NOTIFY_PORT,
  UNMAP_NOTIFY_SEND_EVENT,
  UNMAP_NOTIFY_SIZE,
} from "../shared/abi/gntdev.ts";
import { item } from "../shared/assert.ts";
import { GNTALLOC_PAGES_MAX, PAGE_SIZE } from "../shared/limits.ts";
import { EFAULT, EINVAL, ENOENT, ENOMEM, ENOSPC, ENOTTY } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { GrantRef } from "../shared/units.ts";
import { insertPages, structFromUser, structToUser } from "./address-space.ts";
import { evtchnGet, evtchnPut, notifyPort } from "./events.ts";
import { endForeignAccess, grantForeignAccess } from "./grant-table.ts";
import { getU64, setU64 } from "./hypercalls.ts";
import type { Kernel } from "./kernel.ts";
import { writeBytes, zeroPage } from "./memory.ts";
import { allocPage, pageToPhys, putPage } from "./pages.ts";
import {
  createFile,
  type FileOps,
  type OpenFile,
  type Process,
  type Vma,
  type VmaOps,
} from "./process.ts";
import { structure } from "./structure.ts";
import type { GntallocGref } from "./user-state.ts";

/** struct gntalloc_file_private_data. */
interface Gntalloc {
  readonly kernel: Kernel;
  /** In order of their index. */
  readonly grefs: GntallocGref[];
  /** Byte offset of the next page. */
  index: number;
}

const GNTALLOC_OPS: FileOps = { ioctl, mmap, release };

const gntallocOf = (file: OpenFile): Gntalloc => file.data as Gntalloc;

export const openGntalloc = (kernel: Kernel, flags: number): OpenFile =>
  createFile(GNTALLOC_OPS, { kernel, grefs: [], index: 0 } satisfies Gntalloc, flags);

function* ioctl(
  file: OpenFile,
  process: Process,
  request: number,
  argument: number,
): Program<number> {
  const gntalloc = gntallocOf(file);
  switch (request) {
    case IOCTL_GNTALLOC_ALLOC_GREF:
      return yield* allocGref(gntalloc, process, argument);
    case IOCTL_GNTALLOC_DEALLOC_GREF:
      return yield* deallocGref(gntalloc, process, argument);
    case IOCTL_GNTALLOC_SET_UNMAP_NOTIFY:
      return yield* setUnmapNotify(gntalloc, process, argument);
    default:
      return -ENOTTY;
  }
}

/** Pages that count: granted ones, and those that a peer still maps after their end. */
function pagesCounted(kernel: Kernel): number {
  const { grefs, endedRefs } = kernel.user;
  const { deferred } = kernel.memory.grants;
  const held = endedRefs.filter((ref) => deferred.some((entry) => entry.ref === ref));
  endedRefs.splice(0, endedRefs.length, ...held);
  return grefs.length + held.length;
}

/**
 * ALLOC_GREF: 0, the index and the references. -EFAULT; -ENOSPC: beyond the bound; -ENOMEM, -ENOSPC: no page or no
 * reference, and nothing is kept; -EFAULT: the answer cannot be written, and the pages stay until the file is closed.
 */
function* allocGref(gntalloc: Gntalloc, process: Process, argument: number): Program<number> {
  const { kernel } = gntalloc;
  const from = yield* structFromUser(process, argument, ALLOC_GREF_SIZE);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const count = view.getUint32(ALLOC_GREF_COUNT, true);
  if (pagesCounted(kernel) + count > GNTALLOC_PAGES_MAX) return -ENOSPC;
  const index = gntalloc.index;
  gntalloc.index += count * PAGE_SIZE;
  const domid = view.getUint16(ALLOC_GREF_DOMID, true);
  const readonly = (view.getUint16(ALLOC_GREF_FLAGS, true) & GNTALLOC_FLAG_WRITABLE) === 0;
  const added: GntallocGref[] = [];
  for (let i = 0; i < count; i++) {
    const gref = yield* addGref(kernel, domid, readonly, index + i * PAGE_SIZE);
    if (typeof gref === "number") {
      for (const one of added) yield* delGref(kernel, one);
      return gref;
    }
    added.push(gref);
  }
  gntalloc.grefs.push(...added);
  setU64(view, ALLOC_GREF_INDEX, index);
  const ids = structure(count * 4);
  for (let i = 0; i < count; i++) ids.view.setUint32(i * 4, item(added, i).ref, true);
  if (!(yield* structToUser(process, argument, from))) return -EFAULT;
  return (yield* structToUser(process, argument + ALLOC_GREF_IDS, ids)) ? 0 : -EFAULT;
}

/** A zeroed page, granted: -ENOMEM or -ENOSPC with nothing kept. */
function* addGref(
  kernel: Kernel,
  domid: number,
  readonly: boolean,
  index: number,
): Program<GntallocGref | number> {
  const page = allocPage(kernel.memory.pages);
  if (page === undefined) return -ENOMEM;
  yield* zeroPage(kernel.cpu, pageToPhys(page));
  const ref = yield* grantForeignAccess(kernel, domid, page, { readonly });
  if (ref < 0) {
    putPage(kernel.memory.pages, page);
    return ref;
  }
  const notify = { action: 0, offset: 0, port: 0 };
  const gref: GntallocGref = { page, ref, index, users: 1, notify };
  kernel.user.grefs.push(gref);
  return gref;
}

/** __del_gref: clear the byte, send the event, end the access; the page goes with it, later if the peer maps it. */
function* delGref(kernel: Kernel, gref: GntallocGref): Program {
  const { action, offset, port } = gref.notify;
  if ((action & UNMAP_NOTIFY_CLEAR_BYTE) !== 0) {
    yield* writeBytes(kernel.cpu, pageToPhys(gref.page) + offset, new Uint8Array(1), 0, 1);
  }
  if ((action & UNMAP_NOTIFY_SEND_EVENT) !== 0) {
    yield* notifyPort(kernel, port);
    yield* evtchnPut(kernel, port);
  }
  const { grefs, endedRefs } = kernel.user;
  grefs.splice(grefs.indexOf(gref), 1);
  endedRefs.push(gref.ref);
  yield* endForeignAccess(kernel, GrantRef(gref.ref), gref.page);
}

function* putGref(kernel: Kernel, gref: GntallocGref): Program {
  gref.users--;
  if (gref.users === 0) yield* delGref(kernel, gref);
}

/** find_grefs: `count` pages of the file, consecutive from `index`, or none. */
function findGrefs({ grefs }: Gntalloc, index: number, count: number): readonly GntallocGref[] {
  const first = grefs.findIndex((gref) => gref.index === index);
  if (first < 0) return [];
  const found = grefs.slice(first, first + count);
  const gapless = found.every((gref, i) => gref.index === index + i * PAGE_SIZE);
  return found.length === count && gapless ? found : [];
}

/** DEALLOC_GREF: 0, -EFAULT, or -EINVAL: not every page is there. Mapped ones live until munmap. */
function* deallocGref(gntalloc: Gntalloc, process: Process, argument: number): Program<number> {
  const from = yield* structFromUser(process, argument, DEALLOC_GREF_SIZE);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const count = view.getUint32(DEALLOC_GREF_COUNT, true);
  const found = findGrefs(gntalloc, getU64(view, DEALLOC_GREF_INDEX), count);
  if (found.length === 0) return -EINVAL;
  gntalloc.grefs.splice(gntalloc.grefs.indexOf(item(found, 0)), count);
  for (const gref of found) yield* putGref(gntalloc.kernel, gref);
  return 0;
}

/** SET_UNMAP_NOTIFY: 0, -EFAULT, -ENOENT (no page there), -EINVAL (action, then the port). */
function* setUnmapNotify(gntalloc: Gntalloc, process: Process, argument: number): Program<number> {
  const { kernel } = gntalloc;
  const from = yield* structFromUser(process, argument, UNMAP_NOTIFY_SIZE);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const at = getU64(view, UNMAP_NOTIFY_INDEX);
  const action = view.getUint32(UNMAP_NOTIFY_ACTION, true);
  const port = view.getUint32(UNMAP_NOTIFY_PORT, true);
  const offset = at % PAGE_SIZE;
  const [gref] = findGrefs(gntalloc, at - offset, 1);
  if (gref === undefined) return -ENOENT;
  if ((action & ~(UNMAP_NOTIFY_CLEAR_BYTE | UNMAP_NOTIFY_SEND_EVENT)) !== 0) return -EINVAL;
  // The new port is taken before the old one is dropped: it may be the same, in its last use.
  if ((action & UNMAP_NOTIFY_SEND_EVENT) !== 0 && evtchnGet(kernel, port) < 0) return -EINVAL;
  const before = gref.notify;
  gref.notify = { action, offset, port };
  if ((before.action & UNMAP_NOTIFY_SEND_EVENT) !== 0) yield* evtchnPut(kernel, before.port);
  return 0;
}

interface GntallocVmaData {
  readonly kernel: Kernel;
  /** Shared by all parts of a mapping that was cut: the last of them lets every page go. */
  readonly shares: { count: number };
  readonly grefs: readonly GntallocGref[];
}

const dataOf = (vma: Vma): GntallocVmaData => vma.data as GntallocVmaData;

const GNTALLOC_VMA_OPS: VmaOps = {
  open: (vma) => {
    dataOf(vma).shares.count++;
  },
  *close(vma) {
    const { kernel, shares, grefs } = dataOf(vma);
    shares.count--;
    if (shares.count > 0) return;
    for (const gref of grefs) yield* putGref(kernel, gref);
  },
};

/** mmap: -EINVAL unless it is shared, -ENOENT when not every page is there. */
function* mmap(file: OpenFile, _process: Process, vma: Vma): Program<number> {
  const gntalloc = gntallocOf(file);
  if (!vma.shared) return -EINVAL;
  const grefs = findGrefs(gntalloc, vma.pgoff * PAGE_SIZE, vma.pages.length);
  if (grefs.length === 0) return -ENOENT;
  for (const gref of grefs) gref.users++;
  const pages = grefs.map(({ page }) => page);
  insertPages(gntalloc.kernel, vma, pages);
  vma.ops = GNTALLOC_VMA_OPS;
  const { kernel } = gntalloc;
  vma.data = { kernel, shares: { count: 1 }, grefs } satisfies GntallocVmaData;
  return 0;
}

/** The file's list goes; pages that are mapped live on. */
function* release(file: OpenFile): Program {
  const { kernel, grefs } = gntallocOf(file);
  for (const gref of grefs.splice(0)) yield* putGref(kernel, gref);
}
