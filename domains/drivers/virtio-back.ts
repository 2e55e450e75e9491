/**
 * The other side of a virtio device in a domain of its own: maps the queue and the buffer by what their addresses are,
 * grants by reference, guest physical addresses as foreign frames, and has the disk fill the buffer.
 *
 * Rules: an address is read once from the descriptor. Foreign frames need a privileged domain; grants need nothing but
 * the other side's consent. A request that cannot be served is answered with no bytes.
 * Behaviour: a vhost-user or QEMU backend with xen,grant-dma (xen-vhost-frontend), and one without.
 */
import { GNTDEV_DMA_FLAG_WC } from "../../shared/abi/gntdev.ts";
import { GNTMAP_host_map } from "../../shared/abi/grant.ts";
import {
  VIRTIO_DEVICE,
  VIRTQ_DESC,
  VIRTQ_DESC_ADDR,
  VIRTQ_DESC_LEN,
  VIRTQ_DESC_SIZE,
  VIRTQ_RING_ENTRIES,
  VIRTQ_RING_INDEX,
  VIRTQ_USED,
  VIRTQ_USED_ENTRY_SIZE,
} from "../../shared/abi/virtio.ts";
import { item } from "../../shared/assert.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import type { Program } from "../../shared/trap.ts";
import type { DmaAddress, Pfn } from "../../shared/units.ts";
import { KernelBug } from "../bug.ts";
import { bindPort, closePort, notifyPort } from "../events.ts";
import { mapForeignFrame, unmapForeignFrames } from "../foreign-map.ts";
import { allocMap, mapGrantPages, putMap } from "../gntdev-map.ts";
import { dmaToGrant, getDmaAddress, isGrantDma } from "../grant-dma-ops.ts";
import { GNTDEV_DEVICE, gnttabDmaAllocPages, gnttabDmaFreePages } from "../grant-pages.ts";
import { type Kernel, report } from "../kernel.ts";
import { readBytes, storeWord, writeBytes } from "../memory.ts";
import { pageToPhys } from "../pages.ts";
import { structure } from "../structure.ts";
import { readStoreNumber } from "../xenbus.ts";
import { fillPages, measured } from "./buffer-back.ts";
import { awaitNode } from "./page-directory.ts";
import { findDomain } from "./transfer-front.ts";

/** Pages of another domain in this one, and how to be rid of them. */
interface Reached {
  readonly pages: readonly Pfn[];
  release(): Program;
}

/** The address that a pair of registers holds. */
function addressOf(text: string): DmaAddress {
  const { view } = structure(8);
  view.setUint32(4, Number.parseInt(text.slice(2, 10), 16), true);
  view.setUint32(0, Number.parseInt(text.slice(10), 16), true);
  return getDmaAddress(view, 0);
}

function* reachGrants(
  kernel: Kernel,
  domid: number,
  first: number,
  count: number,
): Program<Reached | number> {
  const map = yield* allocMap(kernel, count, GNTDEV_DMA_FLAG_WC);
  if (map === undefined) throw new KernelBug(`no ${count} pages to map onto`);
  for (let i = 0; i < count; i++) map.grants.push({ domid, ref: first + i });
  map.flags = GNTMAP_host_map;
  const mapped = yield* mapGrantPages(kernel, map);
  if (mapped === 0) return { pages: map.pages, release: () => putMap(kernel, map) };
  yield* putMap(kernel, map);
  return mapped;
}

function* reachForeign(
  kernel: Kernel,
  domid: number,
  gfn: number,
  count: number,
): Program<Reached | number> {
  const args = yield* gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, count);
  if (typeof args === "number") throw new KernelBug(`no ${count} pages to map onto`);
  function* release(): Program {
    if (typeof args === "number") return;
    yield* unmapForeignFrames(kernel, args.pages);
    yield* gnttabDmaFreePages(kernel, args);
  }
  for (let i = 0; i < count; i++) {
    const mapped = yield* mapForeignFrame(kernel, domid, gfn + i, item(args.pages, i));
    if (mapped === 0) continue;
    yield* release();
    return mapped;
  }
  return { pages: args.pages, release };
}

/** `count` pages from `address` of domain `domid`, or the errno of who refuses them. */
function reach(
  kernel: Kernel,
  domid: number,
  address: DmaAddress,
  count: number,
): Program<Reached | number> {
  return isGrantDma(address)
    ? reachGrants(kernel, domid, dmaToGrant(address), count)
    : reachForeign(kernel, domid, Math.floor(address / PAGE_SIZE), count);
}

/** Reports what bufferBack reports of map and transfer; `errno` is that of the queue or of the buffer. */
export function* virtioBack(kernel: Kernel): Program {
  const domid = yield* findDomain(kernel, "guest");
  const node = `/local/domain/${domid}/device/${VIRTIO_DEVICE}/0`;
  const address = addressOf(yield* awaitNode(kernel, `${node}/queue`));
  const queue = yield* reach(kernel, domid, address, 1);
  if (typeof queue === "number") {
    yield* report("errno", queue);
    return;
  }
  const port = yield* bindPort(
    kernel,
    domid,
    yield* readStoreNumber(kernel, `${node}/event-channel`),
  );
  const ring = pageToPhys(item(queue.pages, 0));
  const bytes = new Uint8Array(VIRTQ_DESC_SIZE);
  yield* readBytes(kernel.cpu, ring + VIRTQ_DESC, bytes, 0, bytes.length);
  const view = new DataView(bytes.buffer);
  const length = view.getUint32(VIRTQ_DESC_LEN, true);
  const data = getDmaAddress(view, VIRTQ_DESC_ADDR);
  const buffer = yield* measured(kernel, "map", reach(kernel, domid, data, length / PAGE_SIZE));
  yield* report("errno", typeof buffer === "number" ? buffer : 0);
  if (typeof buffer !== "number") {
    yield* fillPages(kernel, buffer.pages, PAGE_SIZE);
    yield* measured(kernel, "free", buffer.release());
  }
  yield* answer(kernel, ring, typeof buffer === "number" ? 0 : length);
  yield* notifyPort(kernel, port);
  yield* closePort(kernel, port);
  yield* queue.release();
}

/** The used entry of head 0, and the ring's word last. */
function* answer(kernel: Kernel, ring: number, length: number): Program {
  const entry = new Uint8Array(VIRTQ_USED_ENTRY_SIZE);
  new DataView(entry.buffer).setUint32(4, length, true);
  yield* writeBytes(kernel.cpu, ring + VIRTQ_USED + VIRTQ_RING_ENTRIES, entry, 0, entry.length);
  yield* storeWord(kernel.cpu, ring + VIRTQ_USED + VIRTQ_RING_INDEX, 1 << 16);
}
