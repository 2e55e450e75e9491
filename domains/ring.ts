/**
 * Both ends of a PV driver's shared ring page, on guest memory. The arithmetic is shared/abi/ring.ts.
 *
 * Rules: the page's indexes are the peer's to lie about; private indexes are this side's truth. Entries are
 * written before the producer that publishes them and copied out once, in a burst, before anything is
 * checked. Only the front initialises the page. A final check states the event index, then looks again.
 * Behaviour: xen/include/public/io/ring.h.
 */
import {
  mustNotify,
  RING_REQ_EVENT,
  RING_REQ_PROD,
  RING_RSP_EVENT,
  RING_RSP_PROD,
  requestProdOverflow,
  responseProdOverflow,
  ringSize,
  ringSlot,
  unconsumedRequests,
  unconsumedResponses,
} from "../shared/abi/ring.ts";
import { assert } from "../shared/assert.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import { EIO } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { type Cpu, loadWord, readBytes, storeWord, writeBytes, zeroPage } from "./memory.ts";

/** The ring page as one side sees it. Entries are the larger of request and response. */
export interface Ring {
  readonly cpu: Cpu;
  /** Guest address of the page. */
  readonly gaddr: number;
  readonly entryBytes: number;
  readonly size: number;
  /** Own producer, not published yet: req_prod_pvt of the front, rsp_prod_pvt of the back. */
  produced: number;
  /** Own consumer: rsp_cons of the front, req_cons of the back. */
  consumed: number;
}

/** FRONT_RING_INIT or BACK_RING_INIT: the private half. */
export const createRing = (cpu: Cpu, gaddr: number, entryBytes: number): Ring => ({
  cpu,
  gaddr,
  entryBytes,
  size: ringSize(PAGE_SIZE, entryBytes),
  produced: 0,
  consumed: 0,
});

/** SHARED_RING_INIT: the front alone. */
export function* initSharedRing(ring: Ring): Program {
  yield* zeroPage(ring.cpu, ring.gaddr);
  yield* storeWord(ring.cpu, ring.gaddr + RING_REQ_EVENT, 1);
  yield* storeWord(ring.cpu, ring.gaddr + RING_RSP_EVENT, 1);
}

/** Writes `count` entries into the slots from the private producer on, and advances it. */
export function* putEntries(ring: Ring, entries: Uint8Array, count: number): Program {
  assert(count <= ring.size, "a burst fits the ring");
  for (let done = 0; done < count; ) {
    const index = (ring.produced + done) | 0;
    const run = Math.min(count - done, ring.size - (index & (ring.size - 1)));
    const to = ring.gaddr + ringSlot(ring.size, ring.entryBytes, index);
    const bytes = run * ring.entryBytes;
    yield* writeBytes(ring.cpu, to, entries, done * ring.entryBytes, bytes);
    done += run;
  }
  ring.produced = (ring.produced + count) | 0;
}

/** Copies `count` entries out of the slots from the private consumer on, once, and advances it. */
export function* takeEntries(ring: Ring, into: Uint8Array, count: number): Program {
  for (let done = 0; done < count; ) {
    const index = (ring.consumed + done) | 0;
    const run = Math.min(count - done, ring.size - (index & (ring.size - 1)));
    const from = ring.gaddr + ringSlot(ring.size, ring.entryBytes, index);
    yield* readBytes(ring.cpu, from, into, done * ring.entryBytes, run * ring.entryBytes);
    done += run;
  }
  ring.consumed = (ring.consumed + count) | 0;
}

/** Publishes the private producer in `producerAt`; whether the peer asked to be told. */
function* push(ring: Ring, producerAt: number, eventAt: number): Program<boolean> {
  const before = yield* loadWord(ring.cpu, ring.gaddr + producerAt);
  yield* storeWord(ring.cpu, ring.gaddr + producerAt, ring.produced);
  const event = yield* loadWord(ring.cpu, ring.gaddr + eventAt);
  return mustNotify(before, ring.produced, event);
}

/** RING_PUSH_REQUESTS_AND_CHECK_NOTIFY. */
export function* pushRequests(ring: Ring): Program<boolean> {
  return yield* push(ring, RING_REQ_PROD, RING_REQ_EVENT);
}

/** RING_PUSH_RESPONSES_AND_CHECK_NOTIFY. */
export function* pushResponses(ring: Ring): Program<boolean> {
  return yield* push(ring, RING_RSP_PROD, RING_RSP_EVENT);
}

/** Requests the back may take; -EIO when the front claims more than there are slots. */
export function* pendingRequests(ring: Ring): Program<number> {
  const produced = yield* loadWord(ring.cpu, ring.gaddr + RING_REQ_PROD);
  if (requestProdOverflow(ring.size, produced, ring.produced)) return -EIO;
  return unconsumedRequests(ring.size, produced, ring.consumed, ring.produced);
}

/** Responses the front may take; -EIO when the back claims more than there are slots. */
export function* pendingResponses(ring: Ring): Program<number> {
  const produced = yield* loadWord(ring.cpu, ring.gaddr + RING_RSP_PROD);
  if (responseProdOverflow(ring.size, produced, ring.consumed)) return -EIO;
  return unconsumedResponses(produced, ring.consumed);
}

/** RING_FINAL_CHECK_FOR_REQUESTS: what is there, or, after asking to be told of the next, what has come since. */
export function* finalCheckRequests(ring: Ring): Program<number> {
  const pending = yield* pendingRequests(ring);
  if (pending !== 0) return pending;
  yield* storeWord(ring.cpu, ring.gaddr + RING_REQ_EVENT, (ring.consumed + 1) | 0);
  return yield* pendingRequests(ring);
}

/** RING_FINAL_CHECK_FOR_RESPONSES. */
export function* finalCheckResponses(ring: Ring): Program<number> {
  const pending = yield* pendingResponses(ring);
  if (pending !== 0) return pending;
  yield* storeWord(ring.cpu, ring.gaddr + RING_RSP_EVENT, (ring.consumed + 1) | 0);
  return yield* pendingResponses(ring);
}
