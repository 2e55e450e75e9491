/**
 * One mapping request of gntdev, from its pages to the last unmap (struct gntdev_grant_map).
 *
 *   alloc -> listed -> grants mapped -> last user goes: clear byte -> unmap once idle -> event -> pages freed
 *
 * Rules: users are the list of the file, each mapping in user space, and the unmap in flight. Every bad status becomes
 * -EINVAL; what had been mapped stays mapped until the map is put. A map without a live grant has nothing to unmap and
 * no byte to clear, but its event is sent all the same. Pages go back only when no grant is mapped on them.
 * Behaviour: Linux drivers/xen/gntdev.c, the auto-translated half.
 */
import {
  GNTDEV_DMA_FLAG_COHERENT,
  UNMAP_NOTIFY_CLEAR_BYTE,
  UNMAP_NOTIFY_SEND_EVENT,
} from "../shared/abi/gntdev.ts";
import { item } from "../shared/assert.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import { EINVAL, GNTST_okay } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import type { Pfn } from "../shared/units.ts";
import { evtchnPut, notifyPort } from "./events.ts";
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
import { pageToPhys } from "./pages.ts";

/** One grant of a mapping request. */
export interface GrantName {
  readonly domid: number;
  readonly ref: number;
}

interface Notify {
  /** UNMAP_NOTIFY_* */
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
  readonly grants: GrantName[];
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

/** gntdev_alloc_map: `count` pages, as one DMA buffer when `dmaFlags` asks. Undefined: -ENOMEM whatever failed. */
export function* allocMap(
  kernel: Kernel,
  count: number,
  dmaFlags: number,
): Program<GntdevMap | undefined> {
  let dma: DmaPages | undefined;
  let pages: readonly Pfn[];
  if (dmaFlags !== 0) {
    const kind = (dmaFlags & GNTDEV_DMA_FLAG_COHERENT) !== 0 ? "coherent" : "write-combine";
    const args = yield* gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, count, kind);
    if (typeof args === "number") return undefined;
    dma = args;
    pages = args.pages;
  } else {
    const got = yield* gnttabAllocPages(kernel, count);
    if (typeof got === "number") return undefined;
    pages = got;
  }
  return {
    index: 0,
    count,
    grants: [],
    pages,
    dma,
    inUse: false,
    users: 1,
    flags: 0,
    handles: pages.map(() => INVALID_GRANT_HANDLE),
    liveGrants: 0,
    notify: { action: 0, offset: 0, port: 0 },
  };
}

/** gntdev_add_map: first gap that is larger than the map; else behind the last one. */
export function addMap(maps: GntdevMap[], map: GntdevMap): void {
  map.index = 0;
  let place = 0;
  for (const one of maps) {
    if (map.index + map.count < one.index) break;
    map.index = one.index + one.count;
    place++;
  }
  maps.splice(place, 0, map);
}

/** A map that is listed leaves the list and loses that user. */
export function* removeMap(kernel: Kernel, maps: GntdevMap[], map: GntdevMap): Program {
  const place = maps.indexOf(map);
  if (place < 0) return;
  maps.splice(place, 1);
  yield* putMap(kernel, map);
}

/** gntdev_map_grant_pages: 0, -EINVAL when any grant was refused, or the hypercall's errno. Idempotent. */
export function* mapGrantPages(kernel: Kernel, map: GntdevMap): Program<number> {
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

/** gntdev_put_map: the last user unmaps everything, then tells the peer, then frees the pages. */
export function* putMap(kernel: Kernel, map: GntdevMap): Program {
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
  yield* gnttabUnmapRefsAsync(kernel, ops, map.pages, function* (rc) {
    for (let i = 0; i < ops.length; i++) {
      const op = item(ops, i);
      if (rc < 0 || op.status !== GNTST_okay || op.handle === INVALID_GRANT_HANDLE) continue;
      map.handles[i] = INVALID_GRANT_HANDLE;
      map.liveGrants--;
    }
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

/**
 * The event of the notification, then the pages go back to where they came from. Where Xen refused an unmap they are
 * kept for good, with what is mapped on them.
 */
function* finishMap(kernel: Kernel, map: GntdevMap): Program {
  if ((map.notify.action & UNMAP_NOTIFY_SEND_EVENT) !== 0) {
    yield* notifyPort(kernel, map.notify.port);
    yield* evtchnPut(kernel, map.notify.port);
  }
  if (map.liveGrants > 0) return;
  if (map.dma === undefined) gnttabFreePages(kernel, map.pages);
  else yield* gnttabDmaFreePages(kernel, map.dma);
}
