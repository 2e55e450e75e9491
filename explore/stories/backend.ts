/**
 * A backend whose connection has a task of its own: the state machine connects and disconnects as the frontend says, and
 * the task serves the ring that is mapped meanwhile. Both run on one small kernel. Ours; the shape is that of XSA-350.
 */
import { requestIrq } from "../../domains/events.ts";
import { allocUnbound, bindInterdomain, portOp } from "../../domains/hypercalls.ts";
import {
  giveWay,
  type Kernel,
  runKernel,
  spawn,
  type Task,
  wait,
  waitUntil,
} from "../../domains/kernel.ts";
import { loadWord, storeWord } from "../../domains/memory.ts";
import {
  createRing,
  initSharedRing,
  pendingRequests,
  pushRequests,
  pushResponses,
  putEntries,
  type Ring,
  takeEntries,
} from "../../domains/ring.ts";
import { type MappedRing, mapRing, unmapRing } from "../../domains/ring-map.ts";
import { EVTCHNOP_send } from "../../shared/abi/event-channel.ts";
import {
  XenbusStateClosed,
  XenbusStateClosing,
  XenbusStateConnected,
} from "../../shared/abi/xenstore.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import type { Program } from "../../shared/trap.ts";
import { type Guest, grant, map, openGrantTable, openSharedInfo, wrong } from "../raw-guest.ts";
import type { Notes, Story } from "../story.ts";
import { smallKernel, takePending } from "./kernels.ts";
import { A, B, HOLE, RAM, smallModel } from "./machines.ts";

/** A's ring page and its node of the store: a page that B has mapped all along. */
const RING_REF = 8;
const NODE_REF = 9;
const RING = RAM + 10;
const NODE = RAM + 11;
const PORT = 1;
const ENTRY_BYTES = 8;
/** Address space that B's kernel maps rings in. */
const REGION = { base: (HOLE + 64) * PAGE_SIZE, size: 64 * PAGE_SIZE };

interface Connection {
  readonly mapped: MappedRing;
  readonly ring: Ring;
  /** Its task is to look at the ring again, or to end. */
  kicked: boolean;
  stop: boolean;
  /** Whether the ring is gone. */
  over: boolean;
}

interface Back {
  readonly guest: Guest;
  readonly kernel: Kernel;
  readonly notes: Notes;
  connection: Connection | undefined;
  worker: Task | undefined;
}

const frontState = ({ kernel }: Back): Program<number> => loadWord(kernel.cpu, HOLE * PAGE_SIZE);

/** Takes a request, loses the CPU as one that waits for its disk does, and answers. */
function* serve(back: Back, connection: Connection): Program {
  const { kernel, guest, notes } = back;
  const { ring } = connection;
  const entry = new Uint8Array(ENTRY_BYTES);
  while (!connection.stop) {
    connection.kicked = false;
    const pending = yield* pendingRequests(ring);
    // A ring whose index lies is given up.
    if (pending < 0) return;
    if (pending === 0) {
      yield* waitUntil(kernel, () => connection.kicked);
      continue;
    }
    yield* takeEntries(ring, entry, 1);
    yield* giveWay(kernel);
    if (connection.over) {
      wrong(guest, "I-43", "a task of the backend answers in a ring that is not mapped any more");
      return;
    }
    yield* putEntries(ring, entry, 1);
    yield* pushResponses(ring);
    notes.answered = 1;
  }
}

function* connect(back: Back): Program {
  const { kernel } = back;
  const mapped = yield* mapRing(kernel, A, RING_REF);
  if (typeof mapped === "number") return;
  const ring = createRing(kernel.cpu, mapped.gaddr, ENTRY_BYTES);
  const connection = { mapped, ring, kicked: false, stop: false, over: false };
  back.connection = connection;
  back.worker = spawn(kernel, "worker", serve(back, connection));
}

/** The ring is unmapped when nobody uses it any more. */
function* disconnect(back: Back, connection: Connection): Program {
  const { kernel, worker } = back;
  connection.stop = true;
  connection.kicked = true;
  yield* waitUntil(kernel, () => worker === undefined || worker.over);
  connection.over = true;
  yield* unmapRing(kernel, connection.mapped);
  back.connection = undefined;
  back.worker = undefined;
}

/** frontend_changed, until A has closed. */
function* stateMachine(back: Back): Program {
  for (;;) {
    const state = yield* frontState(back);
    const { connection } = back;
    const wanted = state === XenbusStateConnected;
    if (wanted && connection === undefined) yield* connect(back);
    if (!wanted && connection !== undefined) yield* disconnect(back, connection);
    if (state === XenbusStateClosed) return;
    yield* wait(back.kernel, PORT);
    if (back.connection !== undefined) back.connection.kicked = true;
  }
}

/** M54: a connection's task ends before its ring is unmapped. */
export const reconnectStory: Story = {
  name: "reconnect",
  about: "A disconnects and connects again while B's task has a request of it in hand",
  model: () => smallModel({ domains: [{}, {}, { extendedRegions: [REGION] }] }),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* openGrantTable(guest);
        yield* grant(guest, RING_REF, RING, B);
        yield* grant(guest, NODE_REF, NODE, B);
        const ring = createRing(guest.cpu, RING * PAGE_SIZE, ENTRY_BYTES);
        yield* initSharedRing(ring);
        yield* putEntries(ring, new Uint8Array(ENTRY_BYTES), 1);
        yield* pushRequests(ring);
        yield* storeWord(guest.cpu, NODE * PAGE_SIZE, XenbusStateConnected);
        yield* allocUnbound(guest.caller, B);
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        yield* map(guest, A, NODE_REF, HOLE);
        yield* openSharedInfo(guest);
        yield* bindInterdomain(guest.caller, A, PORT);
        yield* takePending(guest);
      },
    },
  ],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        for (const state of [XenbusStateClosing, XenbusStateConnected, XenbusStateClosed]) {
          yield* storeWord(guest.cpu, NODE * PAGE_SIZE, state);
          yield* portOp(guest.caller, EVTCHNOP_send, PORT);
        }
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        const kernel = smallKernel(guest);
        yield* requestIrq(kernel, PORT);
        const back = { guest, kernel, notes, connection: undefined, worker: undefined };
        spawn(kernel, "state", stateMachine(back));
        yield* runKernel(kernel);
      },
    },
  ],
  sometimes: {
    "B answered the request": ({ answered }) => answered === 1,
    "B never answered": ({ answered }) => answered !== 1,
  },
};
