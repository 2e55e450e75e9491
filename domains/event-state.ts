/**
 * What a kernel knows of its event channels: one `IrqInfo` a bound port, and where the words of its ABI lie.
 *
 * Rules: private to one kernel. A port without an info is nobody's: its events are left alone. `arrived` is the handler
 * that is to run; a task takes it with takePort. A port is let through only when no reason to mask it is left.
 * Behaviour: Linux drivers/xen/events/events_internal.h, struct irq_info of events_base.c.
 */
import type { EventAbi } from "../shared/machine.ts";

/** Reasons why a port is masked (mask_reason). */
export const EVT_MASK_REASON_EXPLICIT = 1;
export const EVT_MASK_REASON_TEMPORARY = 2;
export const EVT_MASK_REASON_EOI_PENDING = 4;

/** Linux ticks 250 times a second here; delays of the event code are counted in jiffies. */
export const HZ = 250;
export const JIFFY_MS = 1000 / HZ;

export interface IrqInfo {
  /** Changes only when a virtual interrupt is bound again after a resume; 0: the port is gone. */
  port: number;
  readonly irq: number;
  readonly type: "virq" | "evtchn";
  /** Number of the virtual interrupt, or -1. */
  readonly virq: number;
  /** Whether its handler says when it is done (xen-dyn-lateeoi) or the event ends as it is taken (xen-dyn). */
  readonly late: boolean;
  /** Spurious events that are ended at once before each further one costs time. */
  readonly spuriousThreshold: number;
  /** Users that have been counted, or -1: it is a driver's own. */
  refcnt: number;
  maskReason: number;
  isActive: boolean;
  arrived: boolean;
  spuriousCount: number;
  /** Upcall in which the event came, and the jiffy before which it may not be ended: 0 means none. */
  irqEpoch: number;
  eoiTime: number;
}

export interface EventState {
  abi: EventAbi;
  /** Guest address of the shared info page, 0 before it is mapped. */
  sharedInfo: number;
  /** FIFO: guest addresses of the control block of vCPU 0 and of the pages of event words. */
  controlBlock: number;
  readonly arrayPages: number[];
  /** FIFO: where the guest stands in each queue; 0: at its head in the control block. */
  readonly heads: Int32Array;
  /** By port. */
  readonly irqs: (IrqInfo | undefined)[];
  lastIrq: number;
  /** Counts upcalls. */
  epoch: number;
  /** Jiffy in which the upcall under way has begun, the events it has seen, and whether it has run too long. */
  loopBegan: number;
  loopEvents: number;
  loopDefers: boolean;
  /** Ends of interrupts that are to be made later, in order of their time. */
  readonly lateEois: IrqInfo[];
}

const FIFO_QUEUES = 16;

export const createEventState = (): EventState => ({
  abi: "2-level",
  sharedInfo: 0,
  controlBlock: 0,
  arrayPages: [],
  heads: new Int32Array(FIFO_QUEUES),
  irqs: [],
  lastIrq: 0,
  epoch: 0,
  loopBegan: 0,
  loopEvents: 0,
  loopDefers: false,
  lateEois: [],
});

/** Whether an event has arrived on `port` since the last look; takes it. */
export function takePort(events: EventState, port: number): boolean {
  const info = events.irqs[port];
  if (info === undefined || !info.arrived) return false;
  info.arrived = false;
  return true;
}
