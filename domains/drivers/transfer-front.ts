/**
 * The frontend of the founding experiment: grants its pages, asks for the disk's bytes in them, hashes what
 * has arrived.
 *
 *   find the backend by name -> ring page, port, store nodes, Initialised -> Connected
 *   round: one request a page -> notify if asked -> responses -> hash the pages -> again
 *   Closing -> the backend lets go -> accesses ended (later, if it has not) -> Closed
 *
 * Rules: the buffer is granted once and used in every round; responses come in the order of requests; a
 * response that claims more than was asked for ends the transfer. Only grant references leave this domain.
 * Behaviour: a Linux PV frontend (drivers/block/xen-blkfront.c) without persistent grants.
 */

import {
  TRANSFER_DEVICE,
  TRANSFER_ENTRY_SIZE,
  TRANSFER_REQUEST_LENGTH,
  TRANSFER_REQUEST_REF,
  TRANSFER_RESPONSE_LENGTH,
  TRANSFER_RESPONSE_STATUS,
  TRANSFER_SLOTS,
} from "../../shared/abi/transfer.ts";
import {
  XenbusStateClosed,
  XenbusStateClosing,
  XenbusStateConnected,
  XenbusStateInitialised,
  XenbusStateInitialising,
  XenbusStateUnknown,
} from "../../shared/abi/xenstore.ts";
import { assert, item } from "../../shared/assert.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { EIO, ENODEV } from "../../shared/status.ts";
import { type HostHashTrap, type Program, TRAP_HOST_HASH } from "../../shared/trap.ts";
import { GrantRef, type Pfn } from "../../shared/units.ts";
import { bugOn, KernelBug } from "../bug.ts";
import { endLatePort, type LatePort, latePort, takeLatePort } from "../event-eoi.ts";
import { allocPort, closePort, notifyPort } from "../events.ts";
import { endForeignAccess, grantForeignAccess } from "../grant-table.ts";
import { type Kernel, report, waitUntil } from "../kernel.ts";
import { readBytes, zeroPage } from "../memory.ts";
import { allocPage, pageToPhys } from "../pages.ts";
import {
  createRing,
  finalCheckResponses,
  initSharedRing,
  pushRequests,
  putEntries,
  type Ring,
  takeEntries,
} from "../ring.ts";
import {
  listStoreNode,
  readState,
  readStoreNode,
  switchState,
  unwatchStore,
  waitWatch,
  watchStore,
  writeStoreNode,
} from "../xenbus.ts";
import type { Watch } from "../xenstore-connection.ts";

export interface TransferFrontOptions {
  /** Name of the domain that serves. */
  readonly backend: string;
  /** Bytes to ask for; the transfer ends earlier at the end of the file. */
  readonly bytes: number;
  /** Pages of the buffer, at most TRANSFER_SLOTS. */
  readonly pages: number;
}

interface GrantedPage {
  readonly page: Pfn;
  readonly ref: number;
}

interface Front {
  readonly kernel: Kernel;
  readonly backend: number;
  readonly ring: Ring;
  readonly ringPage: GrantedPage;
  readonly late: LatePort;
  readonly buffer: readonly GrantedPage[];
  /** The backend's state node. */
  readonly peer: Watch;
}

const NODE = `device/${TRANSFER_DEVICE}/0`;

/**
 * Transfers the bytes. Reports `gfns` (of its buffer, in order), `bytes`, `status` (0 or a negative errno) and
 * `sha256` of what arrived.
 */
export function* transferFront(kernel: Kernel, options: TransferFrontOptions): Program {
  assert(options.pages >= 1 && options.pages <= TRANSFER_SLOTS, "a round fits the ring");
  const front = yield* connect(kernel, options);
  yield* report("gfns", front.buffer.map(({ page }) => page).join(","));
  let bytes = 0;
  let status = yield* awaitBackend(front);
  while (bytes < options.bytes && status === 0) {
    const wanted = Math.min(options.bytes - bytes, front.buffer.length * PAGE_SIZE);
    const arrived = yield* round(front, wanted);
    if (arrived < 0) status = arrived;
    else bytes += arrived;
    if (arrived < wanted) break;
  }
  const digest: HostHashTrap = {
    kind: TRAP_HOST_HASH,
    bytes: new Uint8Array(0),
    length: 0,
    finish: true,
    hex: "",
  };
  yield digest;
  yield* disconnect(front);
  yield* report("bytes", bytes);
  yield* report("status", status);
  yield* report("sha256", digest.hex);
}

/** The domain that calls itself `name`; waits until there is one. */
export function* findDomain(kernel: Kernel, name: string): Program<number> {
  const watch = yield* watchStore(kernel, "/local/domain");
  if (typeof watch === "number") throw new KernelBug(`watching domains answered ${watch}`);
  for (;;) {
    yield* waitWatch(kernel, watch);
    const domids = yield* listStoreNode(kernel, "/local/domain");
    for (const domid of typeof domids === "number" ? [] : domids) {
      const found = yield* readStoreNode(kernel, `/local/domain/${domid}/name`);
      if (found !== name) continue;
      yield* unwatchStore(kernel, watch);
      return Number(domid);
    }
  }
}

/** A zeroed page that `domid` may map for reading and writing. */
function* grantPage(kernel: Kernel, domid: number): Program<GrantedPage> {
  const page = allocPage(kernel.memory.pages);
  if (page === undefined) throw new KernelBug("out of memory for a granted page");
  yield* zeroPage(kernel.cpu, pageToPhys(page));
  const ref = yield* grantForeignAccess(kernel, domid, page);
  bugOn(ref < 0, `granting a page answered ${ref}`);
  return { page, ref };
}

function* connect(kernel: Kernel, options: TransferFrontOptions): Program<Front> {
  const backend = yield* findDomain(kernel, options.backend);
  yield* writeStoreNode(kernel, `${NODE}/state`, XenbusStateInitialising);
  yield* writeStoreNode(kernel, `${NODE}/backend-id`, backend);
  const ringPage = yield* grantPage(kernel, backend);
  const ring = createRing(kernel.cpu, pageToPhys(ringPage.page), TRANSFER_ENTRY_SIZE);
  yield* initSharedRing(ring);
  const port = yield* allocPort(kernel, backend, { late: true, spuriousThreshold: 1 });
  bugOn(port < 0, `allocating a port for the backend answered ${port}`);
  const buffer: GrantedPage[] = [];
  for (let i = 0; i < options.pages; i++) buffer.push(yield* grantPage(kernel, backend));
  yield* writeStoreNode(kernel, `${NODE}/ring-ref`, ringPage.ref);
  yield* writeStoreNode(kernel, `${NODE}/event-channel`, port);
  yield* switchState(kernel, NODE, XenbusStateInitialised);
  const node = backendNode(backend, kernel.boot.domid);
  const peer = yield* watchStore(kernel, `${node}/state`);
  if (typeof peer === "number") throw new KernelBug(`watching the backend answered ${peer}`);
  const front: Front = { kernel, backend, ring, ringPage, late: latePort(port), buffer, peer };
  return front;
}

/** Waits for the backend: 0, or -ENODEV when it cannot serve this frontend. */
function* awaitBackend(front: Front): Program<number> {
  for (;;) {
    const state = yield* peerState(front);
    // Closed may be left from an earlier frontend of this domain: it is not an answer to this one.
    if (state === XenbusStateClosing) return -ENODEV;
    if (state === XenbusStateConnected) break;
    yield* waitWatch(front.kernel, front.peer);
  }
  yield* switchState(front.kernel, NODE, XenbusStateConnected);
  return 0;
}

/** Where a backend keeps what it tells the frontend of domain `front`. */
export const backendNode = (backend: number, front: number): string =>
  `/local/domain/${backend}/backend/${TRANSFER_DEVICE}/${front}/0`;

function* peerState(front: Front): Program<number> {
  return yield* readState(front.kernel, backendNode(front.backend, front.kernel.boot.domid));
}

/** Asks for `wanted` bytes in the pages of the buffer; returns those that arrived, hashed, or a negative errno. */
function* round(front: Front, wanted: number): Program<number> {
  const count = Math.ceil(wanted / PAGE_SIZE);
  const lengthOf = (i: number): number => Math.min(PAGE_SIZE, wanted - i * PAGE_SIZE);
  const requests = new Uint8Array(count * TRANSFER_ENTRY_SIZE);
  const view = new DataView(requests.buffer);
  for (let i = 0; i < count; i++) {
    const at = i * TRANSFER_ENTRY_SIZE;
    view.setUint32(at + TRANSFER_REQUEST_REF, item(front.buffer, i).ref, true);
    view.setUint32(at + TRANSFER_REQUEST_LENGTH, lengthOf(i), true);
  }
  yield* putEntries(front.ring, requests, count);
  if (yield* pushRequests(front.ring)) yield* notifyPort(front.kernel, front.late.port);
  const responses = yield* collect(front, count);
  if (typeof responses === "number") return responses;
  return yield* hashArrived(front, responses, count, lengthOf);
}

/** Waits for `count` responses; a negative errno when the backend is gone or has broken the ring. */
function* collect(front: Front, count: number): Program<DataView | number> {
  const { kernel, ring, late, peer } = front;
  const all = new Uint8Array(count * TRANSFER_ENTRY_SIZE);
  for (let done = 0; done < count; ) {
    const ready = yield* finalCheckResponses(ring);
    if (ready < 0 || ready > count - done) return -EIO;
    if (ready > 0) {
      const some = all.subarray(done * TRANSFER_ENTRY_SIZE);
      yield* takeEntries(ring, some, ready);
      done += ready;
      late.worked = true;
      continue;
    }
    yield* endLatePort(kernel, late);
    yield* waitUntil(kernel, () => takeLatePort(kernel, late) || peer.events.length > 0);
    if (peer.events.length === 0) continue;
    peer.events.length = 0;
    if ((yield* peerState(front)) !== XenbusStateConnected) return -ENODEV;
  }
  return new DataView(all.buffer);
}

/** Hashes the bytes that the responses say have arrived, in order. */
function* hashArrived(
  front: Front,
  responses: DataView,
  count: number,
  lengthOf: (i: number) => number,
): Program<number> {
  let total = 0;
  for (let i = 0; i < count; i++) {
    const at = i * TRANSFER_ENTRY_SIZE;
    const status = responses.getInt32(at + TRANSFER_RESPONSE_STATUS, true);
    const length = responses.getUint32(at + TRANSFER_RESPONSE_LENGTH, true);
    if (status !== 0) return status;
    if (length > lengthOf(i)) return -EIO;
    const bytes = new Uint8Array(length);
    yield* readBytes(front.kernel.cpu, pageToPhys(item(front.buffer, i).page), bytes, 0, length);
    yield { kind: TRAP_HOST_HASH, bytes, length, finish: false, hex: "" };
    total += length;
  }
  return total;
}

/** Says goodbye, waits until the backend has let go or is gone, and ends every access. */
function* disconnect(front: Front): Program {
  const { kernel } = front;
  yield* switchState(kernel, NODE, XenbusStateClosing);
  for (;;) {
    const state = yield* peerState(front);
    if (state === XenbusStateClosed || state === XenbusStateUnknown) break;
    yield* waitWatch(kernel, front.peer);
  }
  yield* unwatchStore(kernel, front.peer);
  yield* closePort(kernel, front.late.port);
  for (const { ref, page } of [front.ringPage, ...front.buffer]) {
    yield* endForeignAccess(kernel, GrantRef(ref), page);
  }
  yield* switchState(kernel, NODE, XenbusStateClosed);
}
