/** A backend against frontends that lie: what it answers, and that it serves the next one. */
import { describe, expect, it } from "vitest";
import { transferBack } from "../../domains/drivers/transfer-back.ts";
import { backendNode, findDomain, transferFront } from "../../domains/drivers/transfer-front.ts";
import { allocPort, notifyPort } from "../../domains/events.ts";
import { grantForeignAccess } from "../../domains/grant-table.ts";
import { type Kernel, report, wait } from "../../domains/kernel.ts";
import { readBytes, storeWord, writeBytes } from "../../domains/memory.ts";
import { allocPage, pageToPhys } from "../../domains/pages.ts";
import {
  createRing,
  finalCheckResponses,
  initSharedRing,
  pushRequests,
  putEntries,
  type Ring,
  takeEntries,
} from "../../domains/ring.ts";
import { readState, writeStoreNode } from "../../domains/xenbus.ts";
import { RING_REQ_PROD, ringSlot } from "../../shared/abi/ring.ts";
import { TRANSFER_ENTRY_SIZE, TRANSFER_SLOTS } from "../../shared/abi/transfer.ts";
import {
  XenbusStateClosed,
  XenbusStateClosing,
  XenbusStateConnected,
  XenbusStateInitialised,
} from "../../shared/abi/xenstore.ts";
import { EINVAL } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { FILE, runWhole, sha256, transferModel } from "./transfer-machine.ts";

const NODE = "device/transfer/0";

interface RawFront {
  readonly kernel: Kernel;
  readonly ring: Ring;
  readonly port: number;
}

/** A frontend by hand: connected, and nothing pushed yet. */
function* connect(kernel: Kernel): Program<RawFront> {
  yield* findDomain(kernel, "dom0");
  const page = allocPage(kernel.memory.pages) ?? (0 as never);
  const ref = yield* grantForeignAccess(kernel, 0, page);
  const ring = createRing(kernel.cpu, pageToPhys(page), TRANSFER_ENTRY_SIZE);
  yield* initSharedRing(ring);
  const port = yield* allocPort(kernel, 0);
  yield* writeStoreNode(kernel, `${NODE}/backend-id`, 0);
  yield* writeStoreNode(kernel, `${NODE}/ring-ref`, ref);
  yield* writeStoreNode(kernel, `${NODE}/event-channel`, port);
  yield* writeStoreNode(kernel, `${NODE}/state`, XenbusStateInitialised);
  yield* until(kernel, XenbusStateConnected);
  return { kernel, ring, port };
}

/** Asks until the backend is in `state`. */
function* until(kernel: Kernel, state: number): Program {
  const node = backendNode(0, kernel.boot.domid);
  while ((yield* readState(kernel, node)) !== state);
}

/** One request; its answer's status. */
function* ask(front: RawFront, ref: number, length: number): Program<number> {
  const entry = new Uint8Array(TRANSFER_ENTRY_SIZE);
  new DataView(entry.buffer).setUint32(0, ref, true);
  new DataView(entry.buffer).setUint32(4, length, true);
  yield* putEntries(front.ring, entry, 1);
  if (yield* pushRequests(front.ring)) yield* notifyPort(front.kernel, front.port);
  while ((yield* finalCheckResponses(front.ring)) === 0) yield* wait(front.kernel, front.port);
  yield* takeEntries(front.ring, entry, 1);
  return new DataView(entry.buffer).getInt32(0, true);
}

function* leave(kernel: Kernel): Program {
  yield* writeStoreNode(kernel, `${NODE}/state`, XenbusStateClosing);
  yield* until(kernel, XenbusStateClosed);
  yield* writeStoreNode(kernel, `${NODE}/state`, XenbusStateClosed);
}

const serveTwo = (kernel: Kernel): Program =>
  transferBack(kernel, { source: "dma-layer", frontends: 2 });
/** The well-behaved one that comes after. */
const honest = (kernel: Kernel): Program =>
  transferFront(kernel, { backend: "dom0", bytes: 10_000, pages: 4 });
const DIGEST = sha256(FILE.subarray(0, 10_000));

const ROUNDS = 6;
const SHORT = 100;
const LONG = 4096;
const UNTOUCHED = 0xee;

/** Asks for a short piece into one page, and makes a long one into another of the request without end. */
function* rewriteRequests(kernel: Kernel, rounds: (readonly Uint8Array[])[]): Program {
  const front = yield* connect(kernel);
  const pages = [allocPage(kernel.memory.pages), allocPage(kernel.memory.pages)];
  const places = pages.map((page) => pageToPhys(page ?? (0 as never)));
  const refs: number[] = [];
  for (const page of pages) {
    refs.push(yield* grantForeignAccess(kernel, 0, page ?? (0 as never)));
  }
  const requests = [SHORT, LONG].map((length, i) => {
    const entry = new Uint8Array(TRANSFER_ENTRY_SIZE);
    new DataView(entry.buffer).setUint32(0, refs[i] ?? 0, true);
    new DataView(entry.buffer).setUint32(4, length, true);
    return entry;
  });
  const { ring } = front;
  const answer = new Uint8Array(TRANSFER_ENTRY_SIZE);
  const blank = new Uint8Array(4096).fill(UNTOUCHED);
  for (let round = 0; round < ROUNDS; round++) {
    for (const place of places) yield* writeBytes(kernel.cpu, place, blank, 0, 4096);
    const slot = ring.gaddr + ringSlot(ring.size, ring.entryBytes, ring.produced);
    yield* putEntries(ring, requests[0] ?? answer, 1);
    if (yield* pushRequests(ring)) yield* notifyPort(kernel, front.port);
    for (let turn = 1; (yield* finalCheckResponses(ring)) === 0; turn++) {
      // One store for all of it: whenever it is copied, it is one of the two requests.
      yield* writeBytes(kernel.cpu, slot, requests[turn % 2] ?? answer, 0, TRANSFER_ENTRY_SIZE);
    }
    yield* takeEntries(ring, answer, 1);
    // Requests and answers share the slots, so the answer may have been overwritten: the pages tell.
    const contents: Uint8Array[] = [];
    for (const place of places) {
      const content = new Uint8Array(4096);
      yield* readBytes(kernel.cpu, place, content, 0, 4096);
      contents.push(content);
    }
    rounds.push(contents);
  }
  yield* leave(kernel);
}

describe("a backend", () => {
  it("refuses a grant that does not exist and lengths out of range, and moves nothing", () => {
    const { outcome, reports } = runWhole(transferModel(), {
      dom0: serveTwo,
      guest: function* (kernel) {
        const front = yield* connect(kernel);
        yield* report("noGrant", yield* ask(front, 400, 4096));
        yield* report("reserved", yield* ask(front, 0x7fffffff, 4096));
        yield* report("empty", yield* ask(front, 8, 0));
        yield* report("long", yield* ask(front, 8, 4097));
        yield* leave(kernel);
        yield* honest(kernel);
      },
    });
    expect(outcome.findings).toEqual([]);
    for (const key of ["noGrant", "reserved", "empty", "long"]) {
      expect([key, reports.get(`guest.${key}`)]).toEqual([key, -EINVAL]);
    }
    expect(reports.get("dom0.refused")).toBe(2);
    expect(reports.get("guest.sha256")).toBe(DIGEST);
  });

  it("hypervisor case 124: gives up a frontend whose producer is more than a ring ahead", () => {
    const { outcome, reports } = runWhole(transferModel(), {
      dom0: serveTwo,
      guest: function* (kernel) {
        const front = yield* connect(kernel);
        const producer = front.ring.gaddr + RING_REQ_PROD;
        yield* storeWord(kernel.cpu, producer, TRANSFER_SLOTS + 1);
        yield* notifyPort(kernel, front.port);
        yield* until(kernel, XenbusStateClosed);
        yield* honest(kernel);
      },
    });
    expect(outcome.verdict).toBe("finished");
    expect(outcome.findings).toEqual([]);
    expect(reports.get("dom0.refused")).toBe(0);
    expect(reports.get("guest.sha256")).toBe(DIGEST);
  });

  it("tells a frontend whose ring it cannot map, and serves the next one", () => {
    const { outcome, reports } = runWhole(transferModel(), {
      dom0: serveTwo,
      guest: function* (kernel) {
        yield* writeStoreNode(kernel, `${NODE}/backend-id`, 0);
        yield* writeStoreNode(kernel, `${NODE}/ring-ref`, 300);
        yield* writeStoreNode(kernel, `${NODE}/event-channel`, 77);
        yield* writeStoreNode(kernel, `${NODE}/state`, XenbusStateInitialised);
        yield* until(kernel, XenbusStateClosing);
        yield* leave(kernel);
        yield* honest(kernel);
      },
    });
    expect(outcome.verdict).toBe("finished");
    expect(reports.get("guest.sha256")).toBe(DIGEST);
  });

  it("XSA-155, hypervisor case 126: a request that is rewritten while it is served stays what it was", () => {
    for (const seed of [1, 2, 3]) {
      const rounds: (readonly Uint8Array[])[] = [];
      const { outcome } = runWhole(
        transferModel(),
        {
          dom0: (kernel) => transferBack(kernel, { source: "dma-layer", frontends: 1 }),
          guest: (kernel) => rewriteRequests(kernel, rounds),
        },
        { seed, points: true },
      );
      expect(outcome.findings).toEqual([]);
      let from = 0;
      for (const [short, long] of rounds) {
        const isShort = long?.every((byte) => byte === UNTOUCHED) === true;
        const [taken, length] = isShort ? [short, SHORT] : [long, LONG];
        // As many bytes as the request said went where the same request said, and nowhere else.
        expect(taken?.subarray(0, length)).toEqual(FILE.subarray(from, from + length));
        const rest = isShort ? short?.subarray(SHORT) : short;
        expect(rest?.every((byte) => byte === UNTOUCHED)).toBe(true);
        from += length;
      }
      expect(rounds).toHaveLength(ROUNDS);
    }
  });

  it("XSA-262: is not lost to a frontend that goes through states in any order", () => {
    const { outcome, reports } = runWhole(transferModel(), {
      dom0: (kernel) => transferBack(kernel, { source: "dma-layer" }),
      guest: function* (kernel) {
        yield* connect(kernel);
        for (const state of [2, 9, 4, 0, 77, 3, 1, XenbusStateConnected, 7, 8]) {
          yield* writeStoreNode(kernel, `${NODE}/state`, state);
        }
        yield* leave(kernel);
        yield* honest(kernel);
      },
    });
    expect(outcome.verdict).toBe("finished");
    expect(outcome.findings).toEqual([]);
    expect(reports.get("guest.sha256")).toBe(DIGEST);
  });
});
