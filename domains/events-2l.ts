/**
 * Words of the 2-level event ABI: a pending and a mask bit a port in the shared info page, and a selector above them.
 *
 * Rules: selector and upcall flag are hints that may be set for nothing; a masked port keeps its pending bit.
 * A 64-bit word of the ABI is two 32-bit cells, both atomic.
 * Behaviour: Linux drivers/xen/events/events_2l.c.
 */

import { SHARED_INFO_EVTCHN_MASK, SHARED_INFO_EVTCHN_PENDING } from "../shared/abi/xen.ts";
import { EVTCHN_2L_PORTS } from "../shared/limits.ts";
import type { Program } from "../shared/trap.ts";
import type { EventState } from "./event-state.ts";
import { andWord, type Cpu, loadWord, orWord, storeWord } from "./memory.ts";

const bitOf = (port: number): number => 1 << (port & 31);
const pendingCell = (events: EventState, port: number): number =>
  events.sharedInfo + SHARED_INFO_EVTCHN_PENDING + (port >> 5) * 4;
const maskCell = (events: EventState, port: number): number =>
  events.sharedInfo + SHARED_INFO_EVTCHN_MASK + (port >> 5) * 4;

/** Bits of the 32 ports from `cell` * 32 that are pending and not masked. */
export function* activeBits(cpu: Cpu, events: EventState, cell: number): Program<number> {
  const pending = yield* loadWord(cpu, pendingCell(events, cell * 32));
  if (pending === 0) return 0;
  return pending & ~(yield* loadWord(cpu, maskCell(events, cell * 32)));
}

/** Masks every port, as a kernel does before it binds the first. */
export function* maskAll2l(cpu: Cpu, events: EventState): Program {
  for (let port = 0; port < EVTCHN_2L_PORTS; port += 32) {
    yield* storeWord(cpu, maskCell(events, port), -1);
  }
}

export function* mask2l(cpu: Cpu, events: EventState, port: number): Program {
  yield* orWord(cpu, maskCell(events, port), bitOf(port));
}

export function* clearPending2l(cpu: Cpu, events: EventState, port: number): Program {
  yield* andWord(cpu, pendingCell(events, port), ~bitOf(port));
}

/**
 * Clears the mask bit. Returns 1 when an event was pending already: the guest cannot raise it alone, so the
 * bit is set again and EVTCHNOP_unmask is owed.
 */
export function* clearMask2l(cpu: Cpu, events: EventState, port: number): Program<0 | 1> {
  yield* andWord(cpu, maskCell(events, port), ~bitOf(port));
  const pending = yield* loadWord(cpu, pendingCell(events, port));
  if ((pending & bitOf(port)) === 0) return 0;
  yield* orWord(cpu, maskCell(events, port), bitOf(port));
  return 1;
}
