/**
 * Words of the FIFO event ABI: an event word a port, and sixteen queues a vCPU that the hypervisor links through them.
 *
 *   ready bit -> head of that queue -> unlink (LINKED and link cleared in one step) -> its link is the next head
 *
 * Rules: event words are changed by atomic operations only; a queue whose last port was unlinked is looked up in the
 * control block again. MASKED is cleared only while PENDING is not set and the hypervisor is not BUSY with the word.
 * Behaviour: Linux drivers/xen/events/events_fifo.c.
 */
import {
  EVTCHN_FIFO_BUSY,
  EVTCHN_FIFO_LINK_MASK,
  EVTCHN_FIFO_LINKED,
  EVTCHN_FIFO_MASKED,
  EVTCHN_FIFO_PENDING,
  FIFO_CONTROL_HEAD,
} from "../shared/abi/event-channel.ts";
import { at, item } from "../shared/assert.ts";
import { EVTCHN_FIFO_UNMASK_ATTEMPTS, EVTCHN_FIFO_WORDS_PER_PAGE } from "../shared/limits.ts";
import type { Program } from "../shared/trap.ts";
import type { EventState } from "./event-state.ts";
import { andWord, type Cpu, compareExchangeWord, loadWord, orWord } from "./memory.ts";

/** Guest address of a port's event word, or 0: its page has not been added. */
export function wordOf(events: EventState, port: number): number {
  const page = Math.floor(port / EVTCHN_FIFO_WORDS_PER_PAGE);
  if (page >= events.arrayPages.length) return 0;
  return item(events.arrayPages, page) + (port % EVTCHN_FIFO_WORDS_PER_PAGE) * 4;
}

export function* maskFifo(cpu: Cpu, events: EventState, port: number): Program {
  const word = wordOf(events, port);
  if (word !== 0) yield* orWord(cpu, word, EVTCHN_FIFO_MASKED);
}

export function* clearPendingFifo(cpu: Cpu, events: EventState, port: number): Program {
  const word = wordOf(events, port);
  if (word !== 0) yield* andWord(cpu, word, ~EVTCHN_FIFO_PENDING);
}

/** Clears MASKED. Returns 1 when that must be left to EVTCHNOP_unmask: an event is pending, or the word stays busy. */
export function* clearMaskFifo(cpu: Cpu, events: EventState, port: number): Program<0 | 1> {
  const address = wordOf(events, port);
  if (address === 0) return 1;
  let word = yield* loadWord(cpu, address);
  for (let attempt = 0; attempt < EVTCHN_FIFO_UNMASK_ATTEMPTS; attempt++) {
    if ((word & EVTCHN_FIFO_MASKED) === 0) return 0;
    if ((word & EVTCHN_FIFO_PENDING) !== 0) return 1;
    const expected = word & ~EVTCHN_FIFO_BUSY;
    const next = expected & ~EVTCHN_FIFO_MASKED;
    word = yield* compareExchangeWord(cpu, address, expected, next);
    if (word === expected) return 0;
  }
  return 1;
}

/**
 * consume_one_event: takes the first port out of a queue. `isLast`: the queue is empty afterwards. `isDue`: its handler
 * is to be called. Undefined: the queue was empty, or names a port without a word.
 */
export function* unlinkFirst(
  cpu: Cpu,
  events: EventState,
  priority: number,
): Program<{ port: number; isLast: boolean; isDue: boolean } | undefined> {
  let port = at(events.heads, priority);
  if (port === 0) {
    port = yield* loadWord(cpu, events.controlBlock + FIFO_CONTROL_HEAD + 4 * priority);
  }
  const address = wordOf(events, port);
  if (port === 0 || address === 0) return undefined;
  const word = yield* andWord(cpu, address, ~(EVTCHN_FIFO_LINKED | EVTCHN_FIFO_LINK_MASK));
  const next = word & EVTCHN_FIFO_LINK_MASK;
  events.heads[priority] = next;
  const isDue = (word & EVTCHN_FIFO_PENDING) !== 0 && (word & EVTCHN_FIFO_MASKED) === 0;
  return { port, isLast: next === 0, isDue };
}
