/**
 * The 2-level event ABI: pending and mask bits in the shared info page, selector and upcall flag in vcpu_info.
 *
 *   set pending:  pending bit -> (was set: stop) -> mask clear? -> selector bit -> (was set: stop) -> upcall
 *   unmask:       mask bit cleared -> (was clear: stop) -> pending? -> selector bit -> upcall
 *
 * Rules: every word here has two writers, guest and hypervisor, so each step is one 32-bit atomic. Events are edges:
 * any number of sends between two clears of the pending bit are one. Arm64 has one legacy vcpu_info: an event for
 * another vCPU sets its pending bit, but has no selector to set.
 * Behaviour: xen/common/event_2l.c, evtchn_2l_set_pending(), evtchn_2l_unmask().
 */
import {
  SHARED_INFO_EVTCHN_MASK,
  SHARED_INFO_EVTCHN_PENDING,
  VCPU_INFO_PENDING_SEL,
} from "../shared/abi/xen.ts";
import { DOM } from "../shared/layout.ts";
import { FrameIndex } from "../shared/units.ts";
import { portVcpu } from "./event-ports.ts";
import { checkPollers, markEventsPending } from "./event-upcall.ts";
import { domainField, type Xen } from "./xen.ts";

const PORTS_PER_SELECTOR_BIT = 64;

const cellOf = (port: number): number => (port >> 5) * 4;
const bitOf = (port: number): number => 1 << (port & 31);

/** Sets a bit of the shared info page; whether it was set before. */
function testAndSet(xen: Xen, domid: number, offset: number, bit: number): boolean {
  xen.memory.onGuestWord?.();
  return (xen.memory.or(sharedInfo(xen, domid), offset, bit) & bit) !== 0;
}

function testAndClear(xen: Xen, domid: number, offset: number, bit: number): boolean {
  xen.memory.onGuestWord?.();
  return (xen.memory.and(sharedInfo(xen, domid), offset, ~bit) & bit) !== 0;
}

function test(xen: Xen, domid: number, offset: number, bit: number): boolean {
  xen.memory.onGuestWord?.();
  return (xen.memory.load(sharedInfo(xen, domid), offset) & bit) !== 0;
}

const sharedInfo = (xen: Xen, domid: number): FrameIndex =>
  FrameIndex(domainField(xen, domid, DOM.SHARED_INFO));

/** Makes `port` of `domid` pending and tells its vCPU, unless it is masked or was pending already. */
export function setPending2l(xen: Xen, domid: number, port: number): void {
  if (testAndSet(xen, domid, SHARED_INFO_EVTCHN_PENDING + cellOf(port), bitOf(port))) return;
  if (!test(xen, domid, SHARED_INFO_EVTCHN_MASK + cellOf(port), bitOf(port))) {
    selectAndNotify(xen, domid, port);
  }
  checkPollers(xen, domid, port);
}

/** Unmasks `port`; an event that came while it was masked is notified now. A port not masked is left alone. */
export function unmask2l(xen: Xen, domid: number, port: number): void {
  if (!testAndClear(xen, domid, SHARED_INFO_EVTCHN_MASK + cellOf(port), bitOf(port))) return;
  if (!test(xen, domid, SHARED_INFO_EVTCHN_PENDING + cellOf(port), bitOf(port))) return;
  selectAndNotify(xen, domid, port);
}

/** A port that is freed loses its pending bit; its mask bit stays as it is. */
export function clearPending2l(xen: Xen, domid: number, port: number): void {
  testAndClear(xen, domid, SHARED_INFO_EVTCHN_PENDING + cellOf(port), bitOf(port));
}

export const isPending2l = (xen: Xen, domid: number, port: number): boolean =>
  test(xen, domid, SHARED_INFO_EVTCHN_PENDING + cellOf(port), bitOf(port));

function selectAndNotify(xen: Xen, domid: number, port: number): void {
  const vcpu = portVcpu(xen, domid, port);
  const selector = Math.floor(port / PORTS_PER_SELECTOR_BIT);
  if (vcpu === 0) {
    const sel = VCPU_INFO_PENDING_SEL + cellOf(selector);
    if (testAndSet(xen, domid, sel, bitOf(selector))) return;
  }
  markEventsPending(xen, domid, vcpu);
}
