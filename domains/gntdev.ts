/**
 * /dev/xen/gntdev: how a user-space backend maps foreign grants, copies by them, and makes DMA buffers of them.
 *
 * Rules: MAP_GRANT_REF reserves pages and an index and makes no hypercall; mmap maps the grants, once a map, and a
 * failed one uses the map up. Cutting or copying a mapping only counts users: an auto-translated guest has no notifier
 * that unmaps a part, and pages that are still in use hold the whole unmap back. Every structure is copied once.
 * Behaviour: Linux drivers/xen/gntdev.c, the auto-translated half; checks in its order.
 */
import {
  GET_OFFSET_COUNT,
  GET_OFFSET_OFFSET,
  GET_OFFSET_SIZE,
  GET_OFFSET_VADDR,
  IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS,
  IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED,
  IOCTL_GNTDEV_DMABUF_IMP_RELEASE,
  IOCTL_GNTDEV_DMABUF_IMP_TO_REFS,
  IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR,
  IOCTL_GNTDEV_GRANT_COPY,
  IOCTL_GNTDEV_MAP_GRANT_REF,
  IOCTL_GNTDEV_SET_UNMAP_NOTIFY,
  IOCTL_GNTDEV_UNMAP_GRANT_REF,
  MAP_REFS_COUNT,
  MAP_REFS_INDEX,
  MAP_REFS_LIST,
  MAP_REFS_SIZE,
  MAP_REFS_STRIDE,
  UNMAP_NOTIFY_ACTION,
  UNMAP_NOTIFY_CLEAR_BYTE,
  UNMAP_NOTIFY_INDEX,
  UNMAP_NOTIFY_PORT,
  UNMAP_NOTIFY_SEND_EVENT,
  UNMAP_NOTIFY_SIZE,
  UNMAP_REFS_COUNT,
  UNMAP_REFS_INDEX,
  UNMAP_REFS_SIZE,
} from "../shared/abi/gntdev.ts";
import { GNTMAP_host_map, GNTMAP_readonly } from "../shared/abi/grant.ts";
import { item } from "../shared/assert.ts";
import { GNTDEV_GRANTS_MAX, PAGE_SIZE } from "../shared/limits.ts";
import { EFAULT, EINVAL, ENOENT, ENOMEM, ENOTTY } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { findVma, insertPages, structFromUser, structToUser } from "./address-space.ts";
import { evtchnGet, evtchnPut } from "./events.ts";
import { grantCopy } from "./gntdev-copy.ts";
import {
  expFromRefs,
  expWaitReleased,
  impRelease,
  impReleaseAll,
  impToRefs,
} from "./gntdev-dmabuf.ts";
import {
  addMap,
  allocMap,
  type GntdevMap,
  mapGrantPages,
  putMap,
  removeMap,
} from "./gntdev-map.ts";
import type { Gntdev } from "./gntdev-state.ts";
import { getU64, setU64 } from "./hypercalls.ts";
import type { Kernel } from "./kernel.ts";
import {
  createFile,
  type FileOps,
  type OpenFile,
  type Process,
  type Vma,
  type VmaOps,
} from "./process.ts";

/** What one request needs: the open device, its file, who asks, and where the argument lies. */
interface Call {
  readonly gntdev: Gntdev;
  readonly file: OpenFile;
  readonly process: Process;
  readonly argument: number;
}

const GNTDEV_OPS: FileOps = { ioctl, mmap, release };

/** A new open file of the device. */
export const openGntdev = (kernel: Kernel, flags: number): OpenFile =>
  createFile(GNTDEV_OPS, { kernel, maps: [], exports: [], imports: [] } satisfies Gntdev, flags);

/** The device behind an open file of it. */
export const gntdevOf = (file: OpenFile): Gntdev => file.data as Gntdev;

function* ioctl(
  file: OpenFile,
  process: Process,
  request: number,
  argument: number,
): Program<number> {
  const gntdev = gntdevOf(file);
  const call: Call = { gntdev, file, process, argument };
  switch (request) {
    case IOCTL_GNTDEV_MAP_GRANT_REF:
      return yield* mapGrantRef(call);
    case IOCTL_GNTDEV_UNMAP_GRANT_REF:
      return yield* unmapGrantRef(call);
    case IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR:
      return yield* getOffsetForVaddr(call);
    case IOCTL_GNTDEV_SET_UNMAP_NOTIFY:
      return yield* setUnmapNotify(call);
    case IOCTL_GNTDEV_GRANT_COPY:
      return yield* grantCopy(process, argument);
    case IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS:
      return yield* expFromRefs(gntdev, file, process, argument);
    case IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED:
      return yield* expWaitReleased(gntdev, process, argument);
    case IOCTL_GNTDEV_DMABUF_IMP_TO_REFS:
      return yield* impToRefs(gntdev, process, argument);
    case IOCTL_GNTDEV_DMABUF_IMP_RELEASE:
      return yield* impRelease(gntdev, process, argument);
    default:
      return -ENOTTY;
  }
}

const badCount = (count: number): boolean => count === 0 || count > GNTDEV_GRANTS_MAX;

/** 0, or -EFAULT, -EINVAL (count), -ENOMEM, -EFAULT (references, answer): nothing is kept then. */
function* mapGrantRef({ gntdev, process, argument }: Call): Program<number> {
  const from = yield* structFromUser(process, argument, MAP_REFS_SIZE);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const count = view.getUint32(MAP_REFS_COUNT, true);
  if (badCount(count)) return -EINVAL;
  const { kernel, maps } = gntdev;
  const map = yield* allocMap(kernel, count, 0);
  if (map === undefined) return -ENOMEM;
  const list = argument + MAP_REFS_LIST;
  const refs = yield* structFromUser(process, list, count * MAP_REFS_STRIDE);
  if (refs === undefined) {
    yield* putMap(kernel, map);
    return -EFAULT;
  }
  for (let i = 0; i < count; i++) {
    const at = i * MAP_REFS_STRIDE;
    map.grants.push({
      domid: refs.view.getUint32(at, true),
      ref: refs.view.getUint32(at + 4, true),
    });
  }
  addMap(maps, map);
  setU64(view, MAP_REFS_INDEX, map.index * PAGE_SIZE);
  if (yield* structToUser(process, argument, from)) return 0;
  yield* removeMap(kernel, maps, map);
  return -EFAULT;
}

/** 0, -EFAULT or -ENOENT. Works while the map is mapped; the mapping then lives until munmap. */
function* unmapGrantRef({ gntdev, process, argument }: Call): Program<number> {
  const from = yield* structFromUser(process, argument, UNMAP_REFS_SIZE);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const index = Math.floor(getU64(view, UNMAP_REFS_INDEX) / PAGE_SIZE);
  const count = view.getUint32(UNMAP_REFS_COUNT, true);
  const map = gntdev.maps.find(
    (one) => one.index === index && (count === 0 || one.count === count),
  );
  if (map === undefined) return -ENOENT;
  yield* removeMap(gntdev.kernel, gntdev.maps, map);
  return 0;
}

/** 0, -EFAULT, or -EINVAL: the first mapping that ends above the address is none of gntdev's. */
function* getOffsetForVaddr({ process, argument }: Call): Program<number> {
  const from = yield* structFromUser(process, argument, GET_OFFSET_SIZE);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const vma = findVma(process, getU64(view, GET_OFFSET_VADDR));
  if (vma === undefined || vma.ops !== GNTDEV_VMA_OPS) return -EINVAL;
  const map = mapOf(vma);
  setU64(view, GET_OFFSET_OFFSET, map.index * PAGE_SIZE);
  view.setUint32(GET_OFFSET_COUNT, map.count, true);
  return (yield* structToUser(process, argument, from)) ? 0 : -EFAULT;
}

/** 0, -EFAULT, -EINVAL (action, port), -ENOENT (no map there), -EINVAL (clear byte of a read-only map). */
function* setUnmapNotify({ gntdev, process, argument }: Call): Program<number> {
  const from = yield* structFromUser(process, argument, UNMAP_NOTIFY_SIZE);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const at = getU64(view, UNMAP_NOTIFY_INDEX);
  const action = view.getUint32(UNMAP_NOTIFY_ACTION, true);
  const port = view.getUint32(UNMAP_NOTIFY_PORT, true);
  const { kernel } = gntdev;
  if ((action & ~(UNMAP_NOTIFY_CLEAR_BYTE | UNMAP_NOTIFY_SEND_EVENT)) !== 0) return -EINVAL;
  const sends = (action & UNMAP_NOTIFY_SEND_EVENT) !== 0;
  // The new port is taken before the old one is dropped: it may be the same, in its last use.
  if (sends && evtchnGet(kernel, port) < 0) return -EINVAL;
  const map = gntdev.maps.find(
    (one) => at >= one.index * PAGE_SIZE && at < (one.index + one.count) * PAGE_SIZE,
  );
  const clears = (action & UNMAP_NOTIFY_CLEAR_BYTE) !== 0;
  if (map === undefined || (clears && (map.flags & GNTMAP_readonly) !== 0)) {
    if (sends) yield* evtchnPut(kernel, port);
    return map === undefined ? -ENOENT : -EINVAL;
  }
  const before = { ...map.notify };
  map.notify.action = action;
  map.notify.offset = at - map.index * PAGE_SIZE;
  map.notify.port = port;
  if ((before.action & UNMAP_NOTIFY_SEND_EVENT) !== 0) yield* evtchnPut(kernel, before.port);
  return 0;
}

const GNTDEV_VMA_OPS: VmaOps = {
  open: (vma) => {
    mapOf(vma).users++;
  },
  *close(vma) {
    const { kernel, map } = vma.data as GntdevVmaData;
    yield* putMap(kernel, map);
  },
};

interface GntdevVmaData {
  readonly kernel: Kernel;
  readonly map: GntdevMap;
}

const mapOf = (vma: Vma): GntdevMap => (vma.data as GntdevVmaData).map;

/** mmap: maps the grants. -EINVAL: wrong place or size, a second time, or any grant refused. */
function* mmap(file: OpenFile, _process: Process, vma: Vma): Program<number> {
  const { kernel, maps } = gntdevOf(file);
  if (vma.write && !vma.shared) return -EINVAL;
  const map = maps.find((one) => one.index === vma.pgoff && one.count === vma.pages.length);
  if (map === undefined || map.inUse) return -EINVAL;
  map.inUse = true;
  map.users++;
  const rc = yield* mapForUser(kernel, map, vma);
  if (rc !== 0) {
    yield* putMap(kernel, map);
    return rc;
  }
  insertPages(kernel, vma, map.pages);
  vma.ops = GNTDEV_VMA_OPS;
  vma.data = { kernel, map } satisfies GntdevVmaData;
  return 0;
}

/** The access of an exported buffer is decided already; that of any other map follows its mapping. */
function* mapForUser(kernel: Kernel, map: GntdevMap, vma: Vma): Program<number> {
  if (map.flags !== 0) {
    if (vma.write && (map.flags & GNTMAP_readonly) !== 0) return -EINVAL;
  } else {
    map.flags = GNTMAP_host_map | (vma.write ? 0 : GNTMAP_readonly);
  }
  return yield* mapGrantPages(kernel, map);
}

/** Every listed map is put, every imported buffer given back. Exports hold the file, so there are none. */
function* release(file: OpenFile): Program {
  const gntdev = gntdevOf(file);
  while (gntdev.maps.length > 0) {
    yield* removeMap(gntdev.kernel, gntdev.maps, item(gntdev.maps, 0));
  }
  yield* impReleaseAll(gntdev);
}
