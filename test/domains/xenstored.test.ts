/** The store daemon over real ring pages and ports. */
import { describe, expect, it } from "vitest";
import { findDomain } from "../../domains/drivers/transfer-front.ts";
import { notifyPort } from "../../domains/events.ts";
import { type Kernel, report, spawn } from "../../domains/kernel.ts";
import { loadWord, storeWord, writeBytes } from "../../domains/memory.ts";
import {
  listStoreNode,
  makeStoreNode,
  readStoreNode,
  removeStoreNode,
  unwatchStore,
  waitWatch,
  watchStore,
  writeStoreNode,
} from "../../domains/xenbus.ts";
import { bytesOf, clientEnd, packMessage, writeRing } from "../../domains/xenstore-ring.ts";
import {
  XENSTORE_ERROR,
  XENSTORE_ERROR_PROTO,
  XENSTORE_ERROR_RINGIDX,
  XENSTORE_REQ,
  XENSTORE_REQ_PROD,
  XS_READ,
} from "../../shared/abi/xenstore.ts";
import { EACCES, ENOENT } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { runWhole, transferModel } from "./transfer-machine.ts";

function* nothing(): Program {
  // dom0 serves the store and nothing else.
}
const guestOnly = (guest: (kernel: Kernel) => Program, options = {}) =>
  runWhole(transferModel(), { dom0: nothing, guest }, options);

describe("a client of the store", () => {
  it("writes, reads, lists and removes over its ring, whose indexes wrap", () => {
    const { outcome, reports } = guestOnly(function* (kernel) {
      const long = "x".repeat(700);
      for (let i = 0; i < 5; i++) yield* writeStoreNode(kernel, `data/n${i}`, `${long}${i}`);
      yield* makeStoreNode(kernel, "data/dir");
      const value = yield* readStoreNode(kernel, "data/n3");
      yield* report("value", String(value === `${long}3`));
      yield* report("list", String(yield* listStoreNode(kernel, "data")));
      yield* report("removed", yield* removeStoreNode(kernel, "data/n3"));
      yield* report("missing", yield* readStoreNode(kernel, "data/n3"));
      yield* report("foreign", yield* writeStoreNode(kernel, "/local/domain/0/x", "y"));
    });
    expect(outcome.findings).toEqual([]);
    expect(reports.get("guest.value")).toBe("true");
    expect(reports.get("guest.list")).toBe("dir,n0,n1,n2,n3,n4");
    expect(reports.get("guest.removed")).toBe(0);
    expect(reports.get("guest.missing")).toBe(-ENOENT);
    expect(reports.get("guest.foreign")).toBe(-EACCES);
  });

  it("sends and receives messages longer than the ring", () => {
    const { reports } = guestOnly(function* (kernel) {
      const long = "y".repeat(3000);
      yield* report("wrote", yield* writeStoreNode(kernel, "data/long", long));
      yield* report("same", String((yield* readStoreNode(kernel, "data/long")) === long));
    });
    expect(reports.get("guest.wrote")).toBe(0);
    expect(reports.get("guest.same")).toBe("true");
  });

  it.each([1, 2, 3])("may have requests of several tasks under way (schedule %i)", (seed) => {
    const { outcome, reports } = guestOnly(
      function* (kernel) {
        for (let n = 0; n < 4; n++) {
          const task = function* (): Program {
            const value = String(n).repeat(600);
            yield* writeStoreNode(kernel, `data/t${n}`, value);
            yield* report(`t${n}`, String((yield* readStoreNode(kernel, `data/t${n}`)) === value));
          };
          spawn(kernel, `t${n}`, task());
        }
        yield* report("started", 4);
      },
      { seed, points: true },
    );
    expect(outcome.verdict).toBe("finished");
    for (let n = 0; n < 4; n++) expect(reports.get(`guest.t${n}`)).toBe("true");
  });

  it("hears of another domain's writes, and no more after it has let go", () => {
    const { outcome, reports } = runWhole(transferModel(), {
      dom0: function* (kernel) {
        const guest = yield* findDomain(kernel, "guest");
        const watch = yield* watchStore(kernel, `/local/domain/${guest}/signal`);
        if (typeof watch === "number") throw new Error("no watch");
        yield* waitWatch(kernel, watch);
        let value: string | number = -1;
        while (typeof value === "number") {
          value = yield* readStoreNode(kernel, `/local/domain/${guest}/signal`);
          if (typeof value === "number") yield* waitWatch(kernel, watch);
        }
        yield* unwatchStore(kernel, watch);
        yield* report("heard", value);
        yield* writeStoreNode(kernel, `/local/domain/${guest}/answer`, "thanks");
      },
      guest: function* (kernel) {
        const watch = yield* watchStore(kernel, "answer");
        if (typeof watch === "number") throw new Error("no watch");
        yield* writeStoreNode(kernel, "signal", "hello");
        let value: string | number = -1;
        while (typeof value === "number") {
          yield* report("path", (yield* waitWatch(kernel, watch)) ?? "");
          value = yield* readStoreNode(kernel, "answer");
        }
        yield* report("answer", value);
      },
    });
    expect(outcome.verdict).toBe("finished");
    expect(reports.get("dom0.heard")).toBe("hello");
    expect(reports.get("guest.answer")).toBe("thanks");
    expect(reports.get("guest.path")).toBe("answer");
  });
});

describe("a client that only asks", () => {
  it("keeps nobody else waiting, and is not listened to while it leaves its answers unread", () => {
    const { reports } = runWhole(
      transferModel(),
      {
        dom0: function* (kernel) {
          const guest = yield* findDomain(kernel, "guest");
          while (Number(yield* readStoreNode(kernel, `/local/domain/${guest}/flooding`)) !== 1);
          yield* writeStoreNode(kernel, "served", 1);
          yield* report("served", String(yield* readStoreNode(kernel, "served")));
        },
        guest: function* (kernel) {
          yield* writeStoreNode(kernel, "flooding", 1);
          // Requests written behind the kernel's back; nobody reads the answers.
          const end = clientEnd(kernel.cpu, kernel.store?.end.page ?? 0);
          const payload = bytesOf("name\0");
          const read = packMessage({ type: XS_READ, reqId: 1, txId: 0, payload });
          if (kernel.store !== undefined) kernel.store.broken = true;
          let sent = 0;
          for (let turn = 0; turn < 400; turn++) {
            const at = sent % read.length;
            sent += yield* writeRing(end, read, at, read.length - at);
            yield* notifyPort(kernel, kernel.store?.port ?? 0);
          }
          yield* report("sent", sent);
        },
      },
      { servers: ["guest"], maxSteps: 200_000 },
    );
    expect(reports.get("dom0.served")).toBe("1");
    // What one response ring, the queue and one request ring hold, and not 400 requests.
    expect(reports.get("guest.sent")).toBeLessThan(4000);
  });
});

describe("a client that breaks the protocol", () => {
  /** Puts bytes into the request ring behind the kernel's back, and waits for the daemon's verdict. */
  function* breakRing(kernel: Kernel, length: number, advance: number): Program {
    yield* readStoreNode(kernel, "name");
    const page = kernel.store?.end.page ?? 0;
    const producer = yield* loadWord(kernel.cpu, page + XENSTORE_REQ_PROD);
    const header = new Uint8Array(16);
    const view = new DataView(header.buffer);
    view.setUint32(0, XS_READ, true);
    view.setUint32(12, length, true);
    for (let i = 0; i < 16; i++) {
      const at = page + XENSTORE_REQ + ((producer + i) & 1023);
      yield* writeBytes(kernel.cpu, at, header, i, 1);
    }
    yield* storeWord(kernel.cpu, page + XENSTORE_REQ_PROD, producer + advance);
    yield* notifyPort(kernel, kernel.store?.port ?? 0);
    while ((yield* loadWord(kernel.cpu, page + XENSTORE_ERROR)) === 0) {
      yield* notifyPort(kernel, kernel.store?.port ?? 0);
    }
    yield* report("error", yield* loadWord(kernel.cpu, page + XENSTORE_ERROR));
  }

  it("hypervisor case 127: a message of 4097 bytes ends the connection", () => {
    const { reports } = guestOnly((kernel) => breakRing(kernel, 4097, 16));
    expect(reports.get("guest.error")).toBe(XENSTORE_ERROR_PROTO);
  });

  it("a producer more than a ring ahead ends the connection", () => {
    const { reports } = guestOnly((kernel) => breakRing(kernel, 4, 1025));
    expect(reports.get("guest.error")).toBe(XENSTORE_ERROR_RINGIDX);
  });
});
