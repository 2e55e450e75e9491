/**
 * The 2-level event ABI as a guest uses it: the upcall loop on the shared info page, and the mask.
 *
 *   clear upcall_pending -> exchange pending_sel with 0 -> each selected word: pending & ~mask
 *   -> clear the pending bit -> remember the port for whoever waits on it -> again while upcall_pending
 *
 * Rules: selector and upcall flag are hints that may be set for nothing; a masked port keeps its pending bit.
 * A 64-bit word of the ABI is two 32-bit cells, both atomic. Handlers are tasks: the loop only sets a flag.
 * Behaviour: Linux drivers/xen/events/events_2l.c, xen_evtchn_do_upcall().
 */

import {
  SHARED_INFO_EVTCHN_MASK,
  SHARED_INFO_EVTCHN_PENDING,
  VCPU_INFO_PENDING_SEL,
  VCPU_INFO_UPCALL_PENDING,
} from "../shared/abi/xen.ts";
import { at } from "../shared/assert.ts";
import { EVTCHN_2L_PORTS } from "../shared/limits.ts";
import type { Program } from "../shared/trap.ts";
import { andWord, type Cpu, exchangeWord, loadWord, orWord, storeWord } from "./memory.ts";

/** What a kernel knows of its event channels. */
export interface EventState {
  /** Guest address of the shared info page, 0 before it is mapped. */
  sharedInfo: number;
  /** Bitmap over ports: an event has arrived that no task has taken. */
  readonly arrived: Int32Array;
}

const CELLS = EVTCHN_2L_PORTS / 32;

export const createEventState = (): EventState => ({
  sharedInfo: 0,
  arrived: new Int32Array(CELLS),
});

const bitOf = (port: number): number => 1 << (port & 31);
const pendingCell = (events: EventState, port: number): number =>
  events.sharedInfo + SHARED_INFO_EVTCHN_PENDING + (port >> 5) * 4;
const maskCell = (events: EventState, port: number): number =>
  events.sharedInfo + SHARED_INFO_EVTCHN_MASK + (port >> 5) * 4;

/** Whether an event has arrived on `port` since the last look; takes it. */
export function takePort(events: EventState, port: number): boolean {
  const found = (at(events.arrived, port >> 5) & bitOf(port)) !== 0;
  events.arrived[port >> 5] = at(events.arrived, port >> 5) & ~bitOf(port);
  return found;
}

/** Takes over the events of one 32-bit cell. */
function* handleCell(cpu: Cpu, events: EventState, cell: number): Program {
  const pendingAt = events.sharedInfo + SHARED_INFO_EVTCHN_PENDING + cell * 4;
  const pending = yield* loadWord(cpu, pendingAt);
  if (pending === 0) return;
  const mask = yield* loadWord(cpu, events.sharedInfo + SHARED_INFO_EVTCHN_MASK + cell * 4);
  const active = pending & ~mask;
  for (let bit = 0; bit < 32; bit++) {
    if (((active >>> bit) & 1) === 0) continue;
    yield* andWord(cpu, pendingAt, ~(1 << bit));
    events.arrived[cell] = at(events.arrived, cell) | (1 << bit);
  }
}

/** The upcall: collects every unmasked pending event into `events.arrived`. */
export function* handleEvents(cpu: Cpu, events: EventState): Program {
  if (events.sharedInfo === 0) return;
  const upcall = events.sharedInfo + VCPU_INFO_UPCALL_PENDING;
  const selector = events.sharedInfo + VCPU_INFO_PENDING_SEL;
  while (((yield* loadWord(cpu, upcall)) & 0xff) !== 0) {
    yield* andWord(cpu, upcall, ~0xff);
    for (let half = 0; half < 2; half++) {
      const selected = yield* exchangeWord(cpu, selector + 4 * half, 0);
      for (let bit = 0; bit < 32; bit++) {
        if (((selected >>> bit) & 1) === 0) continue;
        const cell = (half * 32 + bit) * 2;
        yield* handleCell(cpu, events, cell);
        yield* handleCell(cpu, events, cell + 1);
      }
    }
  }
}

/** Masks every port, as a kernel does before it binds the first. */
export function* maskAll(cpu: Cpu, events: EventState): Program {
  for (let port = 0; port < EVTCHN_2L_PORTS; port += 32) {
    yield* storeWord(cpu, maskCell(events, port), -1);
  }
}

export function* mask(cpu: Cpu, events: EventState, port: number): Program {
  yield* orWord(cpu, maskCell(events, port), bitOf(port));
}

/**
 * Clears the mask bit. Returns 1 when an event was pending already: the guest cannot raise it alone, so the
 * bit is set again and EVTCHNOP_unmask is owed.
 */
export function* clearMask(cpu: Cpu, events: EventState, port: number): Program<0 | 1> {
  yield* andWord(cpu, maskCell(events, port), ~bitOf(port));
  const pending = yield* loadWord(cpu, pendingCell(events, port));
  if ((pending & bitOf(port)) === 0) return 0;
  yield* orWord(cpu, maskCell(events, port), bitOf(port));
  return 1;
}
