/**
 * Stories of a shared ring: A is the frontend, B the backend that has mapped A's ring page. The ring's indexes are A's to lie
 * about, and so is every request until B has copied it. Ours; the shapes are those of stress spec 11.4.
 */
import { allocUnbound, bindInterdomain, portOp } from "../../domains/hypercalls.ts";
import { andWord, storeWord } from "../../domains/memory.ts";
import {
  createRing,
  finalCheckRequests,
  initSharedRing,
  pendingRequests,
  pendingResponses,
  pushRequests,
  putEntries,
  type Ring,
  takeEntries,
} from "../../domains/ring.ts";
import { EVTCHNOP_send } from "../../shared/abi/event-channel.ts";
import { RING_REQ_PROD, RING_RSP_PROD, ringSlot } from "../../shared/abi/ring.ts";
import {
  SHARED_INFO_EVTCHN_PENDING,
  VCPU_INFO_PENDING_SEL,
  VCPU_INFO_UPCALL_PENDING,
} from "../../shared/abi/xen.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import type { Program } from "../../shared/trap.ts";
import {
  eventWord,
  type Guest,
  grant,
  map,
  openGrantTable,
  openSharedInfo,
  sleepOn,
  wrong,
} from "../raw-guest.ts";
import type { Story, StoryTask } from "../story.ts";
import { A, B, HOLE, INFO_GFN, RAM, smallModel } from "./machines.ts";

const REF = 8;
const PORT = 1;
export const PAGE = RAM + 10;
/** A request is two words, the first of which is a length. */
export const ENTRY_BYTES = 8;
const LENGTH_MAX = 64;
const LENGTH = 8;
/** Times that B looks for a request before it has something else to do. */
const LOOKS = 2;
/** A length that no backend may use. */
const HUGE = 9_999;
const info = (offset: number): number => INFO_GFN * PAGE_SIZE + offset;

/** The ring on a vCPU: `points` of its accesses are choices. */
export const ringOf = (guest: Guest, gfn: number): Ring =>
  createRing(guest.cpu, gfn * PAGE_SIZE, ENTRY_BYTES);

export const frontSetUp: StoryTask = {
  name: "A",
  domain: A,
  program: function* (guest) {
    yield* openGrantTable(guest);
    yield* initSharedRing(ringOf(guest, PAGE));
    yield* grant(guest, REF, PAGE, B);
    yield* allocUnbound(guest.caller, B);
  },
};
export const backSetUp: StoryTask = {
  name: "B",
  domain: B,
  program: function* (guest) {
    yield* openSharedInfo(guest);
    yield* map(guest, A, REF, HOLE);
    yield* bindInterdomain(guest.caller, A, PORT);
    yield* takeEvent(guest);
  },
};
/** One request of length 8 stands in the first slot. */
const requestSetUp: StoryTask = {
  name: "A",
  domain: A,
  program: function* (guest) {
    const ring = ringOf(guest, PAGE);
    yield* storeWord(guest.cpu, ring.gaddr + ringSlot(ring.size, ENTRY_BYTES, 0), 8);
    ring.produced = 1;
    yield* pushRequests(ring);
  },
};

function* takeEvent(guest: Guest): Program {
  yield* andWord(guest.cpu, info(VCPU_INFO_UPCALL_PENDING), ~0xff);
  yield* andWord(guest.cpu, info(VCPU_INFO_PENDING_SEL), 0);
  yield* andWord(guest.cpu, info(SHARED_INFO_EVTCHN_PENDING), ~(1 << PORT));
}

/** M51: whoever is about to sleep says what would wake him, and looks again. */
export const ringSleepStory: Story = {
  name: "ring-sleep",
  about: "A produces two requests while B consumes them and sleeps when there are none",
  model: () => smallModel(),
  setUp: [frontSetUp, backSetUp],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        const ring = ringOf(guest, PAGE);
        for (let request = 1; request <= 2; request++) {
          ring.produced = request;
          if (yield* pushRequests(ring)) yield* portOp(guest.caller, EVTCHNOP_send, PORT);
        }
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        const ring = ringOf(guest, HOLE);
        for (let served = 0; served < 2; ) {
          const seen = eventWord(guest);
          yield* takeEvent(guest);
          const pending = yield* finalCheckRequests(ring);
          served += Math.max(pending, 0);
          ring.consumed = served;
          if (pending === 0) yield* sleepOn(seen);
        }
      },
    },
  ],
};

const writtenEntry = (): Uint8Array => {
  const entry = new Uint8Array(ENTRY_BYTES);
  new DataView(entry.buffer).setUint32(0, LENGTH, true);
  return entry;
};

/** M52: whoever sees the index sees the request too. */
export const ringPublishStory: Story = {
  name: "ring-publish",
  about: "A writes a request and publishes it; B looks for one and consumes what it finds",
  model: () => smallModel(),
  setUp: [frontSetUp, backSetUp],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        const ring = ringOf(guest, PAGE);
        yield* putEntries(ring, writtenEntry(), 1);
        yield* pushRequests(ring);
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        const ring = ringOf(guest, HOLE);
        const copy = new Uint8Array(ENTRY_BYTES);
        for (let look = 0; look < LOOKS && ring.consumed === 0; look++) {
          if ((yield* pendingRequests(ring)) === 1) yield* takeEntries(ring, copy, 1);
        }
        notes.consumed = ring.consumed;
        const length = new DataView(copy.buffer).getUint32(0, true);
        if (ring.consumed === 0 || length === LENGTH) return;
        wrong(guest, "I-25", `the backend consumes a request of length ${length}, not ${LENGTH}`);
      },
    },
  ],
  sometimes: {
    "B consumed the request": (notes) => notes.consumed === 1,
    "B was earlier": (notes) => notes.consumed === 0,
  },
};

/** M61: an index that the frontend has set far ahead is not believed. */
export const ringIndexStory: Story = {
  name: "ring-index",
  about: "A sets its producer index far ahead of what the ring can hold",
  model: () => smallModel(),
  setUp: [frontSetUp, backSetUp],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* storeWord(guest.cpu, PAGE * PAGE_SIZE + RING_REQ_PROD, 1_000_000);
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        const ring = ringOf(guest, HOLE);
        const pending = yield* pendingRequests(ring);
        notes.refused = pending < 0 ? 1 : 0;
        if (pending <= ring.size) return;
        wrong(
          guest,
          "I-24",
          `the backend believes in ${pending} requests in a ring of ${ring.size}`,
        );
      },
    },
  ],
  sometimes: {
    "B refused the index": (notes) => notes.refused === 1,
    "B was earlier": (notes) => notes.refused === 0,
  },
};

/** F-27: a backend that answers more than it was asked is not believed either. */
export const ringResponseStory: Story = {
  name: "ring-response",
  about: "B says that it has answered more requests than the ring of A can hold",
  model: () => smallModel(),
  setUp: [frontSetUp, backSetUp],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest, notes) {
        const ring = ringOf(guest, PAGE);
        const pending = yield* pendingResponses(ring);
        notes.refused = pending < 0 ? 1 : 0;
        if (pending <= ring.size) return;
        const text = `the frontend believes in ${pending} responses in a ring of ${ring.size}`;
        wrong(guest, "I-24", text);
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        yield* storeWord(guest.cpu, HOLE * PAGE_SIZE + RING_RSP_PROD, 1_000_000);
      },
    },
  ],
  sometimes: {
    "A refused the index": (notes) => notes.refused === 1,
    "A was earlier": (notes) => notes.refused === 0,
  },
};

/** B's intake: the request is copied once, judged and used from the copy. */
function* intake(ring: Ring): Program<number | undefined> {
  const copy = new Uint8Array(ENTRY_BYTES);
  yield* takeEntries(ring, copy, 1);
  const length = new DataView(copy.buffer).getUint32(0, true);
  if (length > LENGTH_MAX) return undefined;
  const used = length;
  return used;
}

/** M49, M50: what B uses is what it has judged. */
export const ringRequestStory: Story = {
  name: "ring-request",
  about: "A rewrites the length of its request while B judges and uses it",
  model: () => smallModel(),
  setUp: [frontSetUp, backSetUp, requestSetUp],
  racy: [
    {
      domain: A,
      gfn: PAGE,
      reason: "A may rewrite its request, and B judges and uses one copy of it",
    },
  ],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        const slot = PAGE * PAGE_SIZE + ringSlot(ringOf(guest, PAGE).size, ENTRY_BYTES, 0);
        yield* storeWord(guest.cpu, slot, HUGE);
        yield* storeWord(guest.cpu, slot, 8);
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        const used = yield* intake(ringOf(guest, HOLE));
        notes.used = used ?? 0;
        if (used !== undefined && used > LENGTH_MAX) {
          wrong(guest, "I-26", `the backend uses a length of ${used}, which it has not judged`);
        }
      },
    },
  ],
  sometimes: {
    "B used the request": (notes) => notes.used === 8,
    "B refused the request": (notes) => notes.used === 0,
  },
};
