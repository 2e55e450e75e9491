/**
 * Stories of events: a sender, a receiver that sleeps, and a port that comes and goes. B's port 1 and A's port 1 are
 * connected by the set-up. Ours; the shapes are those of stress spec 11.3.
 */
import {
  allocUnbound,
  bindInterdomain,
  bindVirq,
  eventChannelOp,
  freshArguments,
  portOp,
  setU64,
} from "../../domains/hypercalls.ts";
import { andWord, loadWord, orWord } from "../../domains/memory.ts";
import { isFifo } from "../../hypervisor/event-fifo-array.ts";
import { ECS_VIRQ, portState, virqPort } from "../../hypervisor/event-ports.ts";
import {
  EVTCHNOP_expand_array,
  EVTCHNOP_init_control,
  EVTCHNOP_send,
  EVTCHNOP_unmask,
  EXPAND_ARRAY_GFN,
  EXPAND_ARRAY_SIZE,
  INIT_CONTROL_GFN,
  INIT_CONTROL_SIZE,
  VIRQ_DOM_EXC,
} from "../../shared/abi/event-channel.ts";
import {
  SHARED_INFO_EVTCHN_MASK,
  SHARED_INFO_EVTCHN_PENDING,
  VCPU_INFO_PENDING_SEL,
  VCPU_INFO_UPCALL_PENDING,
} from "../../shared/abi/xen.ts";
import { at } from "../../shared/assert.ts";
import { DOM, domainOf } from "../../shared/layout.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import type { Program } from "../../shared/trap.ts";
import { eventWord, type Guest, openSharedInfo, resetPorts, sleepOn, wrong } from "../raw-guest.ts";
import type { Story, StoryTask } from "../story.ts";
import { A, B, INFO_GFN, RAM, smallModel } from "./machines.ts";

const PORT = 1;
const info = (offset: number): number => INFO_GFN * PAGE_SIZE + offset;
const BIT = 1 << PORT;

/** B offers a port to A: the first half of a set-up. */
export const offer: StoryTask = {
  name: "B",
  domain: B,
  program: function* (guest) {
    yield* allocUnbound(guest.caller, A);
  },
};
/** A binds it, and takes the event that binding makes. */
const connect = (masked: 0 | 1): StoryTask => ({
  name: "A",
  domain: A,
  program: function* (guest) {
    yield* openSharedInfo(guest);
    yield* bindInterdomain(guest.caller, B, PORT);
    yield* takeAll(guest);
    if (masked === 1) yield* orWord(guest.cpu, info(SHARED_INFO_EVTCHN_MASK), BIT);
  },
});

/** The upcall of a guest with one port: flag, selector, pending bit. Whether the port was pending. */
function* takeAll(guest: Guest): Program<boolean> {
  yield* andWord(guest.cpu, info(VCPU_INFO_UPCALL_PENDING), ~0xff);
  yield* andWord(guest.cpu, info(VCPU_INFO_PENDING_SEL), 0);
  const pending = yield* loadWord(guest.cpu, info(SHARED_INFO_EVTCHN_PENDING));
  if ((pending & BIT) === 0) return false;
  yield* andWord(guest.cpu, info(SHARED_INFO_EVTCHN_PENDING), ~BIT);
  return true;
}

/** Sleeps until an upcall has brought the port's event. */
function* waitForEvent(guest: Guest): Program {
  for (;;) {
    const seen = eventWord(guest);
    const upcall = yield* loadWord(guest.cpu, info(VCPU_INFO_UPCALL_PENDING));
    if ((upcall & 0xff) !== 0 && (yield* takeAll(guest))) return;
    yield* sleepOn(seen);
  }
}

const send = (domain: number): StoryTask => ({
  name: domain === A ? "A" : "B",
  domain,
  program: function* (guest) {
    yield* portOp(guest.caller, EVTCHNOP_send, PORT);
  },
});

/** M47: an event that came while its port was masked is delivered by the unmask. */
export const unmaskStory: Story = {
  name: "unmask",
  about: "B sends while A unmasks its port and goes to sleep",
  model: () => smallModel(),
  setUp: [offer, connect(1)],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* portOp(guest.caller, EVTCHNOP_unmask, PORT);
        yield* waitForEvent(guest);
      },
    },
    send(B),
  ],
};

/** The plain way: no mask, a sender and a sleeper. */
export const sendStory: Story = {
  name: "send",
  about: "B sends twice while A takes its events and sleeps in between",
  model: () => smallModel(),
  setUp: [offer, connect(0)],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest, notes) {
        yield* waitForEvent(guest);
        notes.taken = 1;
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        yield* portOp(guest.caller, EVTCHNOP_send, PORT);
        yield* portOp(guest.caller, EVTCHNOP_send, PORT);
      },
    },
  ],
};

/** M46: who has no ports left is refused, and nobody else notices. */
export const portsFullStory: Story = {
  name: "ports-full",
  about: "A, whose ports are used up, binds the VIRQ that dom0 is served by",
  model: () => smallModel({ domains: [{}, { maxEvtchnPort: 3 }, {}] }),
  setUp: [
    {
      name: "dom0",
      domain: 0,
      program: function* (guest) {
        yield* bindVirq(guest.caller, VIRQ_DOM_EXC);
      },
    },
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        for (let port = 1; port <= 3; port++) yield* allocUnbound(guest.caller, B);
      },
    },
  ],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        const port = yield* bindVirq(guest.caller, VIRQ_DOM_EXC);
        if (port >= 0) wrong(guest, "I-32", `a domain without ports was given port ${port}`);
      },
    },
  ],
  judge: ({ xen }) => {
    const port = virqPort(xen, 0, VIRQ_DOM_EXC, 0);
    const bound = port !== 0 && portState(xen, 0, port) === ECS_VIRQ;
    return bound ? [] : ["I-40: dom0 has lost its VIRQ because A had no ports left"];
  },
};

/** M42: a reset that says that it has succeeded leaves no port open that was bound before it said so. */
export const resetStory: Story = {
  name: "reset",
  about: "A resets its ports on one vCPU while the other binds one",
  model: () => smallModel({ domains: [{}, { vcpus: 2, maxEvtchnPort: 127 }, {}] }),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        for (let port = 1; port <= 70; port++) yield* allocUnbound(guest.caller, B);
      },
    },
  ],
  tasks: [
    {
      name: "A.0",
      domain: A,
      program: function* (guest, notes) {
        const answer = yield* resetPorts(guest);
        notes.reset = answer === 0 ? 1 : 0;
        if (
          answer === 0 &&
          notes.bound !== undefined &&
          portState(guest.machine.xen, A, notes.bound) !== 0
        ) {
          wrong(guest, "I-30", `a reset has succeeded, and port ${notes.bound} is open`);
        }
      },
    },
    {
      name: "A.1",
      domain: A,
      vcpu: 1,
      program: function* (guest, notes) {
        const port = yield* allocUnbound(guest.caller, B);
        // Only what was bound before the hypervisor has answered the reset counts.
        const slot = at(guest.cpu.words, domainOf(guest.cpu.layout, A) + DOM.SLOT);
        const other = guest.machine.actors[slot];
        if (other?.state === "calling" && !other.channel.idle) notes.bound = port;
      },
    },
  ],
  sometimes: {
    "the reset succeeded": (notes) => notes.reset === 1,
    "a port was bound meanwhile": (notes) => notes.reset === 0,
  },
};

/** M45: a reset that has succeeded leaves nothing of the FIFO ABI, whatever has begun before it. */
export const expandStory: Story = {
  name: "expand",
  about: "A adds a page to its event array on one vCPU while the other resets its ports",
  model: () => smallModel({ domains: [{}, { vcpus: 2 }] }),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        const view = freshArguments(guest.caller, INIT_CONTROL_SIZE);
        setU64(view, INIT_CONTROL_GFN, RAM + 1);
        yield* eventChannelOp(guest.caller, EVTCHNOP_init_control, INIT_CONTROL_SIZE);
      },
    },
  ],
  tasks: [
    {
      name: "A.0",
      domain: A,
      program: function* (guest, notes) {
        setU64(freshArguments(guest.caller, EXPAND_ARRAY_SIZE), EXPAND_ARRAY_GFN, RAM + 2);
        const { caller } = guest;
        notes.expanded = yield* eventChannelOp(caller, EVTCHNOP_expand_array, EXPAND_ARRAY_SIZE);
      },
    },
    {
      name: "A.1",
      domain: A,
      vcpu: 1,
      program: function* (guest, notes) {
        notes.reset = yield* resetPorts(guest);
      },
    },
  ],
  judge: ({ xen }, notes) =>
    notes.reset === 0 && isFifo(xen, A)
      ? ["I-43: A's event array is in use, and its reset has freed it"]
      : [],
  sometimes: {
    "the page was first": (notes) => notes.expanded === 0,
    "the reset was first": (notes) => notes.expanded !== 0,
  },
};
