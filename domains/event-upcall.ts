/**
 * The upcall: which ports have an event, in either ABI, and what is done about each.
 *
 *   clear upcall_pending -> 2-level: selected words, pending & ~mask    -> each port: nobody's or active: left alone
 *                           FIFO: ready queues, the most urgent first       else active, masked until its end of
 *   -> again while upcall_pending is set                                    interrupt (late), pending cleared, arrived
 *
 * Rules: handlers are tasks, so the loop only says that they are to run. After the loop has run for two jiffies, ends of
 * interrupts that follow are delayed. Words of the ABI are changed here and by events.ts only.
 * Behaviour: Linux drivers/xen/events/events_base.c, __xen_evtchn_do_upcall(), handle_irq_for_port().
 */
import { FIFO_CONTROL_READY } from "../shared/abi/event-channel.ts";
import { VCPU_INFO_PENDING_SEL, VCPU_INFO_UPCALL_PENDING } from "../shared/abi/xen.ts";
import type { Program } from "../shared/trap.ts";
import {
  EVT_MASK_REASON_EOI_PENDING,
  type EventState,
  type IrqInfo,
  JIFFY_MS,
} from "./event-state.ts";
import { activeBits, clearMask2l, clearPending2l, mask2l } from "./events-2l.ts";
import { clearMaskFifo, clearPendingFifo, maskFifo, unlinkFirst } from "./events-fifo.ts";
import { andWord, type Cpu, exchangeWord, loadWord } from "./memory.ts";

/** Jiffies after which an upcall has run long enough, and by how many the ends of its interrupts are put off then. */
const EVENT_LOOP_TIMEOUT = 2;
const EVENT_EOI_DELAY = 10;
/** The time is looked at once in so many events. */
const LOOP_CHECK_EVERY = 256;

/** Adds a reason to mask a port. */
export function* maskIrq(cpu: Cpu, events: EventState, info: IrqInfo, reason: number): Program {
  if (info.maskReason === 0) {
    if (events.abi === "fifo") yield* maskFifo(cpu, events, info.port);
    else yield* mask2l(cpu, events, info.port);
  }
  info.maskReason |= reason;
}

/** Takes a reason away. Returns 1 when the port is to be let through and EVTCHNOP_unmask is owed for that. */
export function* unmaskIrq(
  cpu: Cpu,
  events: EventState,
  info: IrqInfo,
  reason: number,
): Program<0 | 1> {
  info.maskReason &= ~reason;
  if (info.maskReason !== 0) return 0;
  return events.abi === "fifo"
    ? yield* clearMaskFifo(cpu, events, info.port)
    : yield* clearMask2l(cpu, events, info.port);
}

/** handle_irq_for_port with the chip's ack: the handler's task is to run. `now` is in milliseconds. */
function* handleIrqForPort(cpu: Cpu, events: EventState, port: number, now: number): Program {
  const info = events.irqs[port];
  if (info === undefined || info.isActive) return;
  // The jiffies are read only now and then: most upcalls bring one event.
  if (events.loopEvents++ % LOOP_CHECK_EVERY === LOOP_CHECK_EVERY - 1) {
    events.loopDefers ||= now / JIFFY_MS - events.loopBegan >= EVENT_LOOP_TIMEOUT;
  }
  info.isActive = info.late;
  if (info.late) {
    info.irqEpoch = events.epoch;
    if (events.loopDefers) info.eoiTime = Math.floor(now / JIFFY_MS) + EVENT_EOI_DELAY;
    yield* maskIrq(cpu, events, info, EVT_MASK_REASON_EOI_PENDING);
  }
  if (events.abi === "fifo") yield* clearPendingFifo(cpu, events, port);
  else yield* clearPending2l(cpu, events, port);
  info.arrived = true;
}

/** evtchn_2l_handle_events: `clock` gives milliseconds. */
function* handle2l(cpu: Cpu, events: EventState, clock: () => number): Program {
  const selector = events.sharedInfo + VCPU_INFO_PENDING_SEL;
  for (let half = 0; half < 2; half++) {
    const selected = yield* exchangeWord(cpu, selector + 4 * half, 0);
    for (let cell = half * 64; cell < half * 64 + 64; cell++) {
      if (((selected >>> ((cell % 64) >> 1)) & 1) === 0) continue;
      const active = yield* activeBits(cpu, events, cell);
      for (let bit = 0; bit < 32; bit++) {
        if (((active >>> bit) & 1) === 0) continue;
        yield* handleIrqForPort(cpu, events, cell * 32 + bit, clock());
      }
    }
  }
}

/** evtchn_fifo_handle_events: priority 0 first, and what has become ready meanwhile counts at once. */
function* handleFifo(cpu: Cpu, events: EventState, clock: () => number): Program {
  const readyAt = events.controlBlock + FIFO_CONTROL_READY;
  let ready = yield* exchangeWord(cpu, readyAt, 0);
  while (ready !== 0) {
    const priority = 31 - Math.clz32(ready & -ready);
    const taken = yield* unlinkFirst(cpu, events, priority);
    if (taken === undefined || taken.isLast) ready &= ~(1 << priority);
    if (taken?.isDue === true) yield* handleIrqForPort(cpu, events, taken.port, clock());
    ready |= yield* exchangeWord(cpu, readyAt, 0);
  }
}

/** xen_evtchn_do_upcall: marks every port that has an event and is let through. `clock` gives milliseconds. */
export function* handleEvents(cpu: Cpu, events: EventState, clock: () => number): Program {
  if (events.sharedInfo === 0) return;
  const upcall = events.sharedInfo + VCPU_INFO_UPCALL_PENDING;
  if (((yield* loadWord(cpu, upcall)) & 0xff) === 0) return;
  events.loopBegan = Math.floor(clock() / JIFFY_MS);
  events.loopEvents = 0;
  events.loopDefers = false;
  do {
    yield* andWord(cpu, upcall, ~0xff);
    if (events.abi === "fifo") yield* handleFifo(cpu, events, clock);
    else yield* handle2l(cpu, events, clock);
  } while (((yield* loadWord(cpu, upcall)) & 0xff) !== 0);
  events.epoch++;
}
