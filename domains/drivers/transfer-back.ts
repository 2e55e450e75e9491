/**
 * The backend of the founding experiment: maps the frontend's grants onto a contiguous buffer, as gntdev does
 * with gnttab_dma_alloc_pages, and lets the disk write into it.
 *
 *   frontend Initialised -> map its ring, bind its port, Connected
 *   round: copy the requests once -> check -> buffer and grants -> DMA address -> disk -> DMA unmapped, grants
 *          unmapped, buffer freed -> responses -> notify if asked
 *   frontend Closing, Closed or gone -> unmap the ring, close the port, Closed -> the next frontend
 *
 * Rules: nothing of the ring is read twice; a round is refused as a whole. The address given to the disk is
 * what the DMA layer says or, as an experiment, the raw page_to_phys of the buffer, which is not a DMA address.
 * Behaviour: the user-space backend of the thread (displ_be on gntdev-dmabuf), with a disk for its display.
 */
import { DISK_STATUS_BAD_COMMAND, DISK_STATUS_OK } from "../../shared/abi/disk.ts";
import { GNTDEV_DMA_FLAG_WC } from "../../shared/abi/gntdev.ts";
import {
  TRANSFER_DEVICE,
  TRANSFER_ENTRY_SIZE,
  TRANSFER_REQUEST_LENGTH,
  TRANSFER_REQUEST_REF,
  TRANSFER_RESPONSE_LENGTH,
  TRANSFER_RESPONSE_STATUS,
} from "../../shared/abi/transfer.ts";
import {
  XenbusStateClosed,
  XenbusStateClosing,
  XenbusStateConnected,
  XenbusStateInitialised,
} from "../../shared/abi/xenstore.ts";
import { item } from "../../shared/assert.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { EINVAL, EIO } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { KernelBug } from "../bug.ts";
import { type DmaMaker, type DmaSegment, dmaSyncForCpu } from "../dma.ts";
import {
  type DmaBuf,
  dmaBufAttach,
  dmaBufDetach,
  dmaBufGet,
  dmaBufMapAttachment,
  dmaBufPut,
} from "../dma-buf.ts";
import { DMA_FROM_DEVICE, dmaDeviceOf } from "../dma-device.ts";
import { endLatePort, type LatePort, latePort, takeLatePort } from "../event-eoi.ts";
import { bindPort, closePort, notifyPort } from "../events.ts";
import { type Kernel, report, waitUntil } from "../kernel.ts";
import type { Process } from "../process.ts";
import {
  createRing,
  finalCheckRequests,
  pushResponses,
  putEntries,
  type Ring,
  takeEntries,
} from "../ring.ts";
import { type MappedRing, mapRing, unmapRing } from "../ring-map.ts";
import { runProcess, sysClose, sysOpen } from "../syscalls.ts";
import {
  listStoreNode,
  readState,
  readStoreNumber,
  unwatchStore,
  waitWatch,
  watchStore,
  writeStoreNode,
} from "../xenbus.ts";
import { dmabufExpFromRefs, GNTDEV, type UserFile } from "../xengnttab.ts";
import type { Watch } from "../xenstore-connection.ts";
import { type Disk, openDisk, readDisk } from "./disk.ts";
import { RELEASE_DOMAIN } from "./store-server.ts";
import { backendNode } from "./transfer-front.ts";

/** What the disk is given: the DMA layer's address, or page_to_phys(pages[0]) as it stands. */
export type AddressSource = "dma-layer" | "page_to_phys";

export interface TransferBackOptions {
  readonly source: AddressSource;
  /** Name of the disk; the first one handed to this domain by default. */
  readonly device?: string;
  /** Frontends to serve before it ends; for ever by default. */
  readonly frontends?: number;
}

interface Totals {
  bytes: number;
  /** Most segments that one command had. */
  segments: number;
  refused: number;
  faults: number;
  bounced: number;
}

interface Back {
  readonly kernel: Kernel;
  readonly options: TransferBackOptions;
  readonly disk: Disk;
  /** The device file of the process that this backend is. */
  readonly gntdev: UserFile;
  readonly totals: Totals;
  /** Whether address and maker of the first command have been reported. */
  reported: boolean;
}

/** One frontend's connection. */
interface Session {
  readonly back: Back;
  readonly domid: number;
  readonly mapped: MappedRing;
  readonly ring: Ring;
  readonly late: LatePort;
  fileOffset: number;
}

/**
 * Serves frontends one after the other. Reports `bufferGfn` (first page of the first buffer), `address` (first one
 * given to the disk), `by`, and after each
 * frontend `segments`, `refused`, `faults`, `bounced` and `moved` (bytes), summed over all.
 */
export function* transferBack(kernel: Kernel, options: TransferBackOptions): Program {
  const signal = yield* runProcess(kernel, "transfer-back", (process) => serve(process, options));
  if (signal !== 0) throw new KernelBug(`the backend was ended by signal ${signal}`);
}

function* serve(process: Process, options: TransferBackOptions): Program {
  const { kernel } = process;
  const disk = yield* openDisk(kernel, options.device);
  if (typeof disk === "number") throw new KernelBug(`no disk in this domain (${disk})`);
  const totals: Totals = { bytes: 0, segments: 0, refused: 0, faults: 0, bounced: 0 };
  const gntdev = { process, fd: yield* sysOpen(process, GNTDEV) };
  const back: Back = { kernel, options, disk, gntdev, totals, reported: false };
  const homes = yield* watched(kernel, "/local/domain");
  const limit = options.frontends ?? Number.POSITIVE_INFINITY;
  for (let served = 0; served < limit; served++) {
    yield* serveFrontend(back, yield* nextFrontend(kernel, homes));
    yield* reportTotals(totals);
  }
  yield* unwatchStore(kernel, homes);
}

function* watched(kernel: Kernel, path: string): Program<Watch> {
  const watch = yield* watchStore(kernel, path);
  if (typeof watch === "number") throw new KernelBug(`watching ${path} answered ${watch}`);
  return watch;
}

const frontNode = (domid: number | string): string =>
  `/local/domain/${domid}/device/${TRANSFER_DEVICE}/0`;

/** The first domain that waits for this backend; parks until there is one. */
function* nextFrontend(kernel: Kernel, homes: Watch): Program<number> {
  for (;;) {
    homes.events.length = 0;
    const domids = yield* listStoreNode(kernel, "/local/domain");
    for (const domid of typeof domids === "number" ? [] : domids) {
      const node = frontNode(domid);
      if ((yield* readState(kernel, node)) !== XenbusStateInitialised) continue;
      const backend = yield* readStoreNumber(kernel, `${node}/backend-id`);
      if (backend === kernel.boot.domid) return Number(domid);
    }
    yield* waitUntil(kernel, () => homes.events.length > 0);
  }
}

/** One frontend from Initialised to its end, whichever that is. */
function* serveFrontend(back: Back, domid: number): Program {
  const { kernel } = back;
  const node = backendNode(kernel.boot.domid, domid);
  yield* writeStoreNode(kernel, `${node}/frontend-id`, domid);
  const session = yield* openSession(back, domid);
  // A frontend whose ring cannot be mapped is dead or broken: it is told, and left alone.
  if (session === undefined) {
    yield* writeStoreNode(kernel, `${node}/state`, XenbusStateClosing);
    yield* untilFrontLeaves(kernel, domid);
    yield* writeStoreNode(kernel, `${node}/state`, XenbusStateClosed);
    return;
  }
  yield* writeStoreNode(kernel, `${node}/state`, XenbusStateConnected);
  yield* serveRequests(session);
  yield* writeStoreNode(kernel, `${node}/state`, XenbusStateClosing);
  yield* unmapRing(kernel, session.mapped);
  yield* closePort(kernel, session.late.port);
  yield* writeStoreNode(kernel, `${node}/state`, XenbusStateClosed);
}

function* openSession(back: Back, domid: number): Program<Session | undefined> {
  const { kernel } = back;
  const ref = yield* readStoreNumber(kernel, `${frontNode(domid)}/ring-ref`);
  const remote = yield* readStoreNumber(kernel, `${frontNode(domid)}/event-channel`);
  if (ref < 0 || remote < 0) return undefined;
  const mapped = yield* mapRing(kernel, domid, ref);
  if (typeof mapped === "number") return undefined;
  const port = yield* bindPort(kernel, domid, remote, { late: true, spuriousThreshold: 1 });
  if (port < 0) {
    yield* unmapRing(kernel, mapped);
    return undefined;
  }
  const ring = createRing(kernel.cpu, mapped.gaddr, TRANSFER_ENTRY_SIZE);
  return { back, domid, mapped, ring, late: latePort(port), fileOffset: 0 };
}

/** Waits until a frontend's state is no longer Initialised. */
function* untilFrontLeaves(kernel: Kernel, domid: number): Program {
  const watch = yield* watched(kernel, `${frontNode(domid)}/state`);
  while ((yield* readState(kernel, frontNode(domid))) === XenbusStateInitialised) {
    yield* waitWatch(kernel, watch);
  }
  yield* unwatchStore(kernel, watch);
}

const isUp = (state: number): boolean =>
  state === XenbusStateInitialised || state === XenbusStateConnected;

/** Rounds, until the frontend says goodbye, breaks the ring or dies. */
function* serveRequests(session: Session): Program {
  const { back, ring, late, domid } = session;
  const { kernel } = back;
  const state = yield* watched(kernel, `${frontNode(domid)}/state`);
  const released = yield* watched(kernel, RELEASE_DOMAIN);
  for (;;) {
    const pending = yield* finalCheckRequests(ring);
    if (pending < 0) break;
    if (pending > 0) {
      yield* serveRound(session, pending);
      late.worked = true;
      continue;
    }
    yield* endLatePort(kernel, late);
    yield* waitUntil(
      kernel,
      () => takeLatePort(kernel, late) || state.events.length > 0 || released.events.length > 0,
    );
    if (state.events.length === 0 && released.events.length === 0) continue;
    state.events.length = 0;
    released.events.length = 0;
    if (!isUp(yield* readState(kernel, frontNode(domid)))) break;
  }
  yield* unwatchStore(kernel, state);
  yield* unwatchStore(kernel, released);
}

/** One request of a round, as it was copied out of the ring. */
interface TransferRequest {
  readonly ref: number;
  readonly length: number;
}

/** Takes `count` requests, moves their bytes, and answers each. */
function* serveRound(session: Session, count: number): Program {
  const { kernel } = session.back;
  const entries = new Uint8Array(count * TRANSFER_ENTRY_SIZE);
  yield* takeEntries(session.ring, entries, count);
  const view = new DataView(entries.buffer);
  const requests: TransferRequest[] = [];
  for (let i = 0; i < count; i++) {
    const base = i * TRANSFER_ENTRY_SIZE;
    const ref = view.getUint32(base + TRANSFER_REQUEST_REF, true);
    requests.push({ ref, length: view.getUint32(base + TRANSFER_REQUEST_LENGTH, true) });
  }
  const moved = areValid(requests) ? yield* moveBytes(session, requests) : -EINVAL;
  let left = Math.max(0, moved);
  for (let i = 0; i < count; i++) {
    const base = i * TRANSFER_ENTRY_SIZE;
    const length = Math.min(left, item(requests, i).length);
    view.setInt32(base + TRANSFER_RESPONSE_STATUS, Math.min(0, moved), true);
    view.setUint32(base + TRANSFER_RESPONSE_LENGTH, length, true);
    left -= length;
  }
  yield* putEntries(session.ring, entries, count);
  if (yield* pushResponses(session.ring)) yield* notifyPort(kernel, session.late.port);
}

/** Whole pages, but for the last request of a round. */
const areValid = (requests: readonly TransferRequest[]): boolean =>
  requests.every(
    ({ length }, i) =>
      length >= 1 && length <= PAGE_SIZE && (length === PAGE_SIZE || i === requests.length - 1),
  );

/** Buffer, grants, DMA, disk, and all of it back: bytes moved, or a negative errno. */
function* moveBytes(session: Session, requests: readonly TransferRequest[]): Program<number> {
  const { back, domid } = session;
  const { process } = back.gntdev;
  const refs = requests.map((request) => request.ref);
  const fd = yield* dmabufExpFromRefs(back.gntdev, GNTDEV_DMA_FLAG_WC, domid, refs);
  if (fd < 0) {
    back.totals.refused++;
    return fd;
  }
  const length = requests.reduce((sum, request) => sum + request.length, 0);
  const moved = yield* intoBuffer(session, fd, length);
  yield* sysClose(process, fd);
  return moved;
}

/** The disk's driver imports the buffer and fills it. */
function* intoBuffer(session: Session, fd: number, length: number): Program<number> {
  const { back } = session;
  const buf = dmaBufGet(back.gntdev.process, fd);
  if (typeof buf === "number") return buf;
  if (session.fileOffset === 0) yield* report("bufferGfn", item(buf.pages, 0));
  const moved =
    back.options.source === "dma-layer"
      ? yield* throughDmaLayer(session, buf, length)
      : yield* fromPageToPhys(session, buf, length);
  yield* dmaBufPut(buf);
  return moved;
}

/** The address a driver is meant to use. The disk takes no scatter entry beyond a page, so none straddles frames. */
function* throughDmaLayer(session: Session, buf: DmaBuf, length: number): Program<number> {
  const { back } = session;
  const { kernel, disk, totals } = back;
  const attachment = dmaBufAttach(buf, dmaDeviceOf(disk.device), PAGE_SIZE);
  const mapping = yield* dmaBufMapAttachment(attachment, DMA_FROM_DEVICE);
  if (typeof mapping === "number") {
    totals.refused++;
    return -EIO;
  }
  totals.bounced += mapping.bounced;
  const moved = yield* runDisk(session, firstBytes(mapping.segments, length), mapping.maker);
  yield* dmaSyncForCpu(kernel, mapping);
  yield* dmaBufDetach(attachment);
  return moved;
}

/** The first `length` bytes of a scatter list. */
function firstBytes(segments: readonly DmaSegment[], length: number): readonly DmaSegment[] {
  const first: DmaSegment[] = [];
  let left = length;
  for (const segment of segments) {
    if (left === 0) break;
    const piece = Math.min(left, segment.length);
    first.push({ address: segment.address, length: piece });
    left -= piece;
  }
  return first;
}

/** The thread's warning made visible: dev_bus_addr of the allocation is page_to_phys(pages[0]). */
function* fromPageToPhys(session: Session, buf: DmaBuf, length: number): Program<number> {
  const address = buf.devBusAddr;
  if (address === undefined) throw new KernelBug("an exported DMA buffer has no address");
  return yield* runDisk(session, [{ address, length }], "page_to_phys");
}

function* runDisk(
  session: Session,
  segments: readonly DmaSegment[],
  by: DmaMaker | "page_to_phys",
): Program<number> {
  const { back } = session;
  const { kernel, disk, totals } = back;
  if (!back.reported) {
    back.reported = true;
    yield* report("address", item(segments, 0).address);
    yield* report("by", by);
  }
  totals.segments = Math.max(totals.segments, segments.length);
  const result = yield* readDisk(kernel, disk, session.fileOffset, segments);
  totals.bytes += result.bytes;
  session.fileOffset += result.bytes;
  if (result.status === DISK_STATUS_OK) return result.bytes;
  totals.faults++;
  return result.status === DISK_STATUS_BAD_COMMAND ? -EINVAL : -EIO;
}

function* reportTotals(totals: Totals): Program {
  yield* report("segments", totals.segments);
  yield* report("refused", totals.refused);
  yield* report("faults", totals.faults);
  yield* report("bounced", totals.bounced);
  yield* report("moved", totals.bytes);
}
