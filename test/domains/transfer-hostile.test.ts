/** A backend against frontends that lie: what it answers, and that it serves the next one. */
import { describe, expect, it } from "vitest";
import { transferBack } from "../../domains/drivers/transfer-back.ts";
import { backendNode, findDomain, transferFront } from "../../domains/drivers/transfer-front.ts";
import { allocPort, notifyPort } from "../../domains/events.ts";
import { grantForeignAccess } from "../../domains/grant-table.ts";
import { type Kernel, report, wait } from "../../domains/kernel.ts";
import { storeWord } from "../../domains/memory.ts";
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
import { RING_REQ_PROD } from "../../shared/abi/ring.ts";
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
});
