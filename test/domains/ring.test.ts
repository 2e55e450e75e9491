/** The shared ring's arithmetic: hypervisor cases 123 to 125 of the specification. */
import { describe, expect, it } from "vitest";
import {
  createRing,
  finalCheckResponses,
  initSharedRing,
  pendingRequests,
  pushRequests,
  pushResponses,
  putEntries,
  takeEntries,
} from "../../domains/ring.ts";
import {
  freeRequests,
  mustNotify,
  requestConsOverflow,
  requestProdOverflow,
  responseProdOverflow,
  ringSize,
  ringSlot,
  unconsumedRequests,
} from "../../shared/abi/ring.ts";
import { TRANSFER_SLOTS } from "../../shared/abi/transfer.ts";
import { LINE, lineOf } from "../../shared/layout.ts";
import { testDom0, testDomain, testModel } from "../hypervisor/harness.ts";
import { runGuests } from "./guest.ts";

describe("ring sizes", () => {
  it("are the largest power of two of entries that fits behind the 64-byte header", () => {
    expect(ringSize(4096, 112)).toBe(32);
    expect(ringSize(4096, 12)).toBe(256);
    expect(ringSize(4096, 8)).toBe(256);
    expect(ringSize(4096, 64)).toBe(32);
    expect(TRANSFER_SLOTS).toBe(256);
  });
  it("wrap the slot of a free-running index, a negative one included", () => {
    expect(ringSlot(256, 8, 256)).toBe(64);
    expect(ringSlot(256, 8, -1)).toBe(64 + 255 * 8);
  });
});

describe("a lying producer", () => {
  it("hypervisor case 124: a producer advanced by size + 1 is seen as an overflow, and clamped to the slots", () => {
    expect(requestProdOverflow(32, 33, 0)).toBe(true);
    expect(requestProdOverflow(32, 32, 0)).toBe(false);
    expect(unconsumedRequests(32, 33, 0, 0)).toBe(32);
    // After consuming all 32 without an answer, no slot may be read a second time.
    expect(unconsumedRequests(32, 33, 32, 0)).toBe(0);
    expect(requestConsOverflow(32, 32, 0)).toBe(true);
    expect(requestConsOverflow(32, 31, 0)).toBe(false);
  });
  it("is found across the wrap of the index", () => {
    expect(requestProdOverflow(32, -2147483648 + 33, -2147483648)).toBe(true);
    expect(unconsumedRequests(32, 3, -2, -4)).toBe(5);
    expect(responseProdOverflow(32, 40, 7)).toBe(true);
    expect(responseProdOverflow(32, 39, 7)).toBe(false);
  });
});

describe("notification", () => {
  it("hypervisor case 125: the peer is told exactly when its event index lies in (old, new]", () => {
    expect(mustNotify(5, 8, 6)).toBe(true);
    expect(mustNotify(5, 8, 8)).toBe(true);
    expect(mustNotify(5, 8, 5)).toBe(false);
    expect(mustNotify(5, 8, 9)).toBe(false);
    expect(mustNotify(0xfffffffe, 1, 0)).toBe(true);
    expect(mustNotify(-2, 1, 0)).toBe(true);
  });
  it("agrees with a count of the indexes one by one", () => {
    for (let before = -3; before < 3; before++) {
      for (let after = before; after < before + 6; after++) {
        for (let event = -6; event < 12; event++) {
          let passed = false;
          for (let index = before + 1; index <= after; index++) passed ||= index === event;
          expect(mustNotify(before, after, event)).toBe(passed);
        }
      }
    }
  });
  it("leaves the front as many slots as have no request under way", () => {
    expect(freeRequests(32, 10, 10)).toBe(32);
    expect(freeRequests(32, 1, -31)).toBe(0);
  });
});

describe("a back end that dies after it has published and before it notifies", () => {
  it("hypervisor case 123: leaves its responses for the front's final check, and no event", () => {
    const model = testModel([testDom0(), testDomain("front")]);
    const answers: number[] = [];
    let raised = -1;
    const { findings } = runGuests(model, {
      *front(kernel) {
        const page = (kernel.boot.ram[0]?.base ?? 0) + 64 * 4096;
        const front = createRing(kernel.cpu, page, 12);
        yield* initSharedRing(front);
        yield* putEntries(front, new Uint8Array(2 * 12), 2);
        yield* pushRequests(front);
        // The front has seen nothing and is about to sleep; the back publishes, owes an event, and is no more.
        const back = createRing(kernel.cpu, page, 12);
        yield* takeEntries(back, new Uint8Array(2 * 12), yield* pendingRequests(back));
        yield* putEntries(
          back,
          Uint8Array.from({ length: 24 }, (_, i) => i),
          2,
        );
        expect(yield* pushResponses(back)).toBe(true);
        const { words, layout, slot } = kernel.cpu;
        const before = words[lineOf(layout, slot) + LINE.EVENT];
        for (
          let n = yield* finalCheckResponses(front);
          n > 0;
          n = yield* finalCheckResponses(front)
        ) {
          const into = new Uint8Array(n * 12);
          yield* takeEntries(front, into, n);
          answers.push(...into);
        }
        raised = (words[lineOf(layout, slot) + LINE.EVENT] ?? 0) - (before ?? 0);
      },
    });
    expect(findings).toEqual([]);
    expect(answers).toEqual(Array.from({ length: 24 }, (_, i) => i));
    expect(raised).toBe(0);
  });
});
