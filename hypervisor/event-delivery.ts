/**
 * Events of a port, by the ABI that its domain is in: 2-level until the first control block is registered, FIFO then.
 * Rule: the ABI is looked up at each use, since a reset may leave it between two of them (XSA-343).
 * Behaviour: xen/common/event_channel.h, struct evtchn_port_ops.
 */
import { hypervisorRing, TRACE_EVENT, trace } from "../shared/trace.ts";
import { clearPending2l, isPending2l, setPending2l, unmask2l } from "./event-2l.ts";
import { clearPendingFifo, isPendingFifo, setPendingFifo, unmaskFifo } from "./event-fifo.ts";
import { isFifo } from "./event-fifo-array.ts";
import type { Xen } from "./xen.ts";

/** Makes `port` of `domid` pending and tells its vCPU, unless it is masked or was pending already. */
export function setPending(xen: Xen, domid: number, port: number): void {
  const { words, layout } = xen;
  trace(words, layout, hypervisorRing(layout), TRACE_EVENT, domid, port);
  if (isFifo(xen, domid)) setPendingFifo(xen, domid, port);
  else setPending2l(xen, domid, port);
}

/** Unmasks `port`; an event that came while it was masked is notified now. */
export function unmask(xen: Xen, domid: number, port: number): void {
  if (isFifo(xen, domid)) unmaskFifo(xen, domid, port);
  else unmask2l(xen, domid, port);
}

/** A port that is freed is no longer pending; its mask bit stays as it is. */
export function clearPending(xen: Xen, domid: number, port: number): void {
  if (isFifo(xen, domid)) clearPendingFifo(xen, domid, port);
  else clearPending2l(xen, domid, port);
}

export const isPending = (xen: Xen, domid: number, port: number): boolean =>
  isFifo(xen, domid) ? isPendingFifo(xen, domid, port) : isPending2l(xen, domid, port);
