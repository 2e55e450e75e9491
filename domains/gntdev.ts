/**
 * /dev/xen/gntdev: how a user-space backend maps foreign grants, page by page or onto a DMA buffer.
 *
 * Rules: MAP_GRANT_REF reserves pages and an index and makes no hypercall; mmap maps the grants, once a map; an
 * exported DMA buffer is mapped at once. A map lives until its last user goes: list, mappings in user space, unmap in
 * flight. Every bad status becomes -EINVAL; what had been mapped stays mapped until the map is put.
 * Behaviour: Linux drivers/xen/gntdev.c, gntdev-dmabuf.c (export only); the auto-translated half of both.
 */
import { GNTMAP_host_map, GNTMAP_readonly } from "../shared/abi/grant.ts";
import { item } from "../shared/assert.ts";
import { GNTDEV_GRANTS_MAX, PAGE_SIZE } from "../shared/limits.ts";
import { EINVAL, ENOENT, ENOMEM, GNTST_okay } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import type { Pfn } from "../shared/units.ts";
import { notifyPort } from "./events.ts";
import { INVALID_GRANT_HANDLE, mapOp, unmapOp } from "./grant-calls.ts";
import { gnttabMapRefs, gnttabUnmapRefsAsync } from "./grant-map.ts";
import {
  type DmaPages,
  GNTDEV_DEVICE,
  gnttabAllocPages,
  gnttabDmaAllocPages,
  gnttabDmaFreePages,
  gnttabFreePages,
} from "./grant-pages.ts";
import type { Kernel } from "./kernel.ts";
import { writeBytes } from "./memory.ts";
import { getPage, pageToPhys, putPage } from "./pages.ts";

export const GNTDEV_DMA_FLAG_WC = 1;
export const GNTDEV_DMA_FLAG_COHERENT = 2;
export const UNMAP_NOTIFY_CLEAR_BYTE = 1;
export const UNMAP_NOTIFY_SEND_EVENT = 2;

/** One grant of a mapping request. */
export interface GrantName {
  readonly domid: number;
  readonly ref: number;
}

interface Notify {
  action: number;
  /** Byte offset in the map. */
  offset: number;
  port: number;
}

/** struct gntdev_grant_map. */
export interface GntdevMap {
  /** Page offset in the file's own space. */
  index: number;
  readonly count: number;
  readonly grants: readonly GrantName[];
  readonly pages: readonly Pfn[];
  /** The DMA buffer behind the pages, if it is one. */
  readonly dma: DmaPages | undefined;
  /** Set by mmap and never cleared: one mmap a map. */
  inUse: boolean;
  users: number;
  /** GNTMAP_*, 0 until it is mapped. */
  flags: number;
  readonly handles: number[];
  liveGrants: number;
  readonly notify: Notify;
}

/** An open file of /dev/xen/gntdev. */
export interface Gntdev {
  readonly kernel: Kernel;
  /** Ascending by index. */
  readonly maps: GntdevMap[];
}

/** A mapping in user space. */
export interface GntdevVma {
  readonly map: GntdevMap;
  /** Guest physical pages in order; user space sees them as one range. */
  readonly pages: readonly Pfn[];
}

export const openGntdev = (kernel: Kernel): Gntdev => ({ kernel, maps: [] });

/** gntdev_alloc_map: pages for `grants`, as one DMA buffer when `dmaFlags` asks. Undefined: -ENOMEM whatever failed. */
function* allocMap(
  kernel: Kernel,
  grants: readonly GrantName[],
  dmaFlags: number,
): Program<GntdevMap | undefined> {
  let dma: DmaPages | undefined;
  let pages: readonly Pfn[];
  if (dmaFlags !== 0) {
    const args = yield* gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, grants.length);
    if (typeof args === "number") return undefined;
    dma = args;
    pages = args.pages;
  } else {
    const got = yield* gnttabAllocPages(kernel, grants.length);
    if (typeof got === "number") return undefined;
    pages = got;
  }
  return {
    index: 0,
    count: grants.length,
    grants,
    pages,
    dma,
    inUse: false,
    users: 1,
    flags: 0,
    handles: grants.map(() => INVALID_GRANT_HANDLE),
    liveGrants: 0,
    notify: { action: 0, offset: 0, port: 0 },
  };
}

/** gntdev_add_map: first gap that is larger than the map, by more than its size; else behind the last one. */
function addMap(file: Gntdev, map: GntdevMap): void {
  map.index = 0;
  let place = 0;
  for (const one of file.maps) {
    if (map.index + map.count < one.index) break;
    map.index = one.index + one.count;
    place++;
  }
  file.maps.splice(place, 0, map);
}

const badCount = (count: number): boolean => count === 0 || count > GNTDEV_GRANTS_MAX;

/** MAP_GRANT_REF: byte offset for mmap, or -EINVAL (count), -ENOMEM. */
export function* mapGrantRef(file: Gntdev, grants: readonly GrantName[]): Program<number> {
  if (badCount(grants.length)) return -EINVAL;
  const map = yield* allocMap(file.kernel, grants, 0);
  if (map === undefined) return -ENOMEM;
  addMap(file, map);
  return map.index * PAGE_SIZE;
}

/** UNMAP_GRANT_REF: 0 or -ENOENT. Works while the map is mapped; the mapping then lives until munmap. */
export function* unmapGrantRef(file: Gntdev, offset: number, count: number): Program<number> {
  const index = Math.floor(offset / PAGE_SIZE);
  const place = file.maps.findIndex(
    (one) => one.index === index && (count === 0 || one.count === count),
  );
  if (place < 0) return -ENOENT;
  const map = item(file.maps, place);
  file.maps.splice(place, 1);
  yield* putMap(file.kernel, map);
  return 0;
}

/** SET_UNMAP_NOTIFY: 0, -EINVAL (action, port, clear byte of a read-only map) or -ENOENT (no map there). */
export function setUnmapNotify(
  file: Gntdev,
  notify: { readonly offset: number; readonly action: number; readonly port: number },
): number {
  const known = UNMAP_NOTIFY_CLEAR_BYTE | UNMAP_NOTIFY_SEND_EVENT;
  if ((notify.action & ~known) !== 0) return -EINVAL;
  if ((notify.action & UNMAP_NOTIFY_SEND_EVENT) !== 0 && notify.port <= 0) return -EINVAL;
  const map = file.maps.find(
    (one) =>
      notify.offset >= one.index * PAGE_SIZE && notify.offset < (one.index + one.count) * PAGE_SIZE,
  );
  if (map === undefined) return -ENOENT;
  const clears = (notify.action & UNMAP_NOTIFY_CLEAR_BYTE) !== 0;
  if (clears && (map.flags & GNTMAP_readonly) !== 0) return -EINVAL;
  map.notify.action = notify.action;
  map.notify.offset = notify.offset - map.index * PAGE_SIZE;
  map.notify.port = notify.port;
  return 0;
}

/** What mmap is asked for. Lengths and offsets are bytes. */
export interface MmapRequest {
  readonly offset: number;
  readonly length: number;
  readonly write: boolean;
  readonly shared: boolean;
}

/** mmap: maps the grants. -EINVAL: wrong place or size, a second time, or any grant refused. */
export function* mmapGntdev(file: Gntdev, request: MmapRequest): Program<GntdevVma | number> {
  if (request.write && !request.shared) return -EINVAL;
  const map = file.maps.find(
    (one) => one.index * PAGE_SIZE === request.offset && one.count * PAGE_SIZE === request.length,
  );
  if (map === undefined || map.inUse) return -EINVAL;
  map.inUse = true;
  map.users++;
  const readonly = (map.flags & GNTMAP_readonly) !== 0;
  let rc = map.flags !== 0 && request.write && readonly ? -EINVAL : 0;
  if (rc === 0) {
    if (map.flags === 0) map.flags = GNTMAP_host_map | (request.write ? 0 : GNTMAP_readonly);
    rc = yield* mapGrantPages(file.kernel, map);
  }
  if (rc !== 0) {
    yield* putMap(file.kernel, map);
    return rc;
  }
  for (const page of map.pages) getPage(file.kernel.memory.pages, page);
  return { map, pages: map.pages };
}

/** munmap of the whole range: the pages lose their user and the map loses one. */
export function* munmapGntdev(file: Gntdev, vma: GntdevVma): Program {
  for (const page of vma.pages) putPage(file.kernel.memory.pages, page);
  yield* putMap(file.kernel, vma.map);
}

/** gntdev_map_grant_pages: 0, -EINVAL when any grant was refused, or the hypercall's errno. Idempotent. */
function* mapGrantPages(kernel: Kernel, map: GntdevMap): Program<number> {
  if (item(map.handles, 0) !== INVALID_GRANT_HANDLE) return 0;
  const ops = map.grants.map((grant, i) =>
    mapOp(pageToPhys(item(map.pages, i)), map.flags, grant.ref, grant.domid),
  );
  let rc = yield* gnttabMapRefs(kernel, ops, map.pages);
  for (let i = 0; i < ops.length; i++) {
    const op = item(ops, i);
    if (op.status === GNTST_okay) {
      map.handles[i] = op.handle;
      map.liveGrants++;
    } else if (rc === 0) {
      rc = -EINVAL;
    }
  }
  return rc;
}

/**
 * DMABUF_EXP_FROM_REFS without its file descriptor: a buffer contiguous in guest frames with `refs` of `domid` mapped
 * on it. -EINVAL: both flags, the count, or any grant refused; -ENOMEM: no pages.
 */
export function* exportFromRefs(
  file: Gntdev,
  dmaFlags: number,
  domid: number,
  refs: readonly number[],
): Program<GntdevMap | number> {
  if (badCount(refs.length)) return -EINVAL;
  const both = GNTDEV_DMA_FLAG_WC | GNTDEV_DMA_FLAG_COHERENT;
  if ((dmaFlags & both) === both) return -EINVAL;
  const grants = refs.map((ref) => ({ domid, ref }));
  const map = yield* allocMap(file.kernel, grants, dmaFlags & both);
  if (map === undefined) return -ENOMEM;
  addMap(file, map);
  map.flags |= GNTMAP_host_map;
  const rc = yield* mapGrantPages(file.kernel, map);
  if (rc === 0) return map;
  yield* releaseExport(file, map);
  return rc;
}

/** The last reference to an exported buffer goes: it leaves the list and its grants are unmapped. */
export function* releaseExport(file: Gntdev, map: GntdevMap): Program {
  const place = file.maps.indexOf(map);
  if (place >= 0) file.maps.splice(place, 1);
  yield* putMap(file.kernel, map);
}

/** Last close of the file: every listed map is put. */
export function* closeGntdev(file: Gntdev): Program {
  for (const map of file.maps.splice(0)) yield* putMap(file.kernel, map);
}

/** gntdev_put_map: the last user unmaps everything, then tells the peer, then frees the pages. */
function* putMap(kernel: Kernel, map: GntdevMap): Program {
  map.users--;
  if (map.users > 0) return;
  if (map.liveGrants === 0) {
    yield* finishMap(kernel, map);
    return;
  }
  // The unmap in flight is a user of its own.
  map.users = 1;
  yield* clearNotifyByte(kernel, map);
  const ops = map.handles.map((handle, i) => unmapOp(pageToPhys(item(map.pages, i)), handle));
  yield* gnttabUnmapRefsAsync(kernel, ops, map.pages, function* () {
    const unmapped = ops.filter(
      (op) => op.status === GNTST_okay && op.handle !== INVALID_GRANT_HANDLE,
    );
    map.liveGrants -= unmapped.length;
    map.handles.fill(INVALID_GRANT_HANDLE);
    map.users--;
    yield* finishMap(kernel, map);
  });
}

/** CLEAR_BYTE, just before the unmap hypercall, once. A map that was never mapped has no byte to clear. */
function* clearNotifyByte(kernel: Kernel, map: GntdevMap): Program {
  if ((map.notify.action & UNMAP_NOTIFY_CLEAR_BYTE) === 0) return;
  const page = item(map.pages, Math.floor(map.notify.offset / PAGE_SIZE));
  const at = pageToPhys(page) + (map.notify.offset % PAGE_SIZE);
  yield* writeBytes(kernel.cpu, at, new Uint8Array(1), 0, 1);
  map.notify.action &= ~UNMAP_NOTIFY_CLEAR_BYTE;
}

/** The event of the notification, then the pages go back to where they came from. */
function* finishMap(kernel: Kernel, map: GntdevMap): Program {
  if ((map.notify.action & UNMAP_NOTIFY_SEND_EVENT) !== 0) {
    yield* notifyPort(kernel, map.notify.port);
  }
  if (map.dma === undefined) gnttabFreePages(kernel, map.pages);
  else yield* gnttabDmaFreePages(kernel, map.dma);
}
