/** The audit of the FIFO ABI and of pollers: silent in use, and each invariant seen to fail on one word planted wrong. */
import { expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { POLL_ANY } from "../../hypervisor/event-upcall.ts";
import type { Xen } from "../../hypervisor/xen.ts";
import {
  EVTCHN_FIFO_BUSY,
  EVTCHN_FIFO_LINKED,
  EVTCHNOP_send,
} from "../../shared/abi/event-channel.ts";
import { DOM, domainOf, LINE, lineOf, MACHINE } from "../../shared/layout.ts";
import { EVTCHN_FIFO_ARRAY_PAGES, VCPUS_MAX } from "../../shared/limits.ts";
import { slotOf } from "./domains.ts";
import { portOp } from "./event-calls.ts";
import { type Connected, inFifo, setWord } from "./fifo-calls.ts";

/** `one` has two events in its queue and one port that is quiet. */
function inUse(): Connected {
  const state = inFifo(3);
  portOp(state.machine, state.other, EVTCHNOP_send, state.senders[0] ?? 0);
  portOp(state.machine, state.other, EVTCHNOP_send, state.senders[1] ?? 0);
  return state;
}

const control = (xen: Xen, domid: number, vcpu: number): number =>
  xen.layout.fifoControl + 2 * (domid * VCPUS_MAX + vcpu);
const tail = (xen: Xen, domid: number, queue: number): number =>
  xen.layout.fifoTail + domid * VCPUS_MAX * 16 + queue;

const PLANTED: readonly [what: string, finding: RegExp, plant: (state: Connected) => void][] = [
  [
    "a reference to an array page that nobody took",
    /counts 1 references, 2 exist/,
    ({ machine: { xen }, one }) => {
      const array = xen.layout.fifoArray + one.domid * EVTCHN_FIFO_ARRAY_PAGES;
      xen.words[array + 1] = (xen.words[array] ?? 0) + 1;
      xen.words[domainOf(xen.layout, one.domid) + DOM.FIFO] = 3;
    },
  ],
  [
    "a control block that crosses its page",
    /control block of vCPU 0 of domain 1 is at offset 4032/,
    ({ machine: { xen }, one }) => {
      xen.words[control(xen, one.domid, 0) + 1] = 4032;
    },
  ],
  [
    "a control block of a vCPU that does not exist",
    /a control block for vCPU 3, which does not exist/,
    ({ machine: { xen }, one }) => {
      xen.words[control(xen, one.domid, 3)] = xen.words[control(xen, one.domid, 0)] ?? 0;
      xen.words[control(xen, one.domid, 3) + 1] = 0;
    },
  ],
  [
    "a tail that was never linked there",
    /port 3 of domain 1 is the tail of queue 5 and not in it/,
    ({ machine: { xen }, one }) => {
      xen.words[tail(xen, one.domid, 5)] = 3;
    },
  ],
  [
    "an array beyond its bound",
    /the event array of domain 1 has 129 pages/,
    ({ machine: { xen }, one }) => {
      const array = xen.layout.fifoArray + one.domid * EVTCHN_FIFO_ARRAY_PAGES;
      const first = xen.words[array] ?? 0;
      xen.words.fill(first, array, array + EVTCHN_FIFO_ARRAY_PAGES);
      xen.words[domainOf(xen.layout, one.domid) + DOM.FIFO] = 130;
    },
  ],
  [
    "a word that stayed busy",
    /event word of port 3 of domain 1 stayed busy/,
    ({ one }) => setWord(one, 3, EVTCHN_FIFO_BUSY),
  ],
  [
    "a link to a port that is in no queue",
    /port 3 of domain 1 links to port 4, which is not linked/,
    ({ one }) => setWord(one, 3, EVTCHN_FIFO_LINKED | 4),
  ],
  [
    "two ports that link to the same one",
    /two ports of domain 1 link to port 3/,
    ({ one }) => setWord(one, 4, EVTCHN_FIFO_LINKED | 3),
  ],
  [
    "a slot that polls without a handler",
    /slot \d+ polls without a handler/,
    ({ machine: { xen }, one }) => {
      xen.words[lineOf(xen.layout, slotOf(xen, one.domid)) + LINE.POLL] = POLL_ANY;
    },
  ],
  [
    "a poller too many",
    /1 vCPUs are said to poll, 0 do/,
    ({ machine: { xen } }) => {
      xen.words[MACHINE.POLLERS] = 1;
    },
  ],
];

test("a machine with events in FIFO queues is consistent", () => {
  expect(audit(inUse().machine.xen)).toEqual([]);
});

test.each(PLANTED)("%s is found", (_what, finding, plant) => {
  const state = inUse();
  plant(state);
  expect(audit(state.machine.xen).join("\n")).toMatch(finding);
});

test("event words of a guest that may write anything are not judged", () => {
  const { machine, one } = inUse();
  setWord(one, 3, EVTCHN_FIFO_BUSY);
  expect(audit(machine.xen, { hostile: (domid) => domid === one.domid })).toEqual([]);
});
