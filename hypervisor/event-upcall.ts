/**
 * How a vCPU learns of an event, in either ABI: the upcall flag and its interrupt, and the end of a poll.
 *
 * Rules: the event interrupt is an edge: it is raised when the upcall flag is newly set, and not again while that
 * stays set, whatever the guest has completed meanwhile (recorded.md 20). Arm64 has one legacy vcpu_info: another vCPU
 * has no flag, and is woken each time. A poll ends with its port becoming pending, masked or not, or with the upcall.
 * Behaviour: xen/arch/arm/domain.c, vcpu_mark_events_pending(); xen/common/event_channel.c, evtchn_check_pollers().
 */
import { VCPU_INFO_UPCALL_PENDING } from "../shared/abi/xen.ts";
import { raiseEvent } from "../shared/channel.ts";
import { DOM, LINE, MACHINE } from "../shared/layout.ts";
import { NOT_PRESENT } from "../shared/limits.ts";
import { peek } from "../shared/mem.ts";
import { FrameIndex } from "../shared/units.ts";
import { type Caller, domainField, lineField, setLineField, type Xen } from "./xen.ts";

/** A vCPU that does not poll; one whose poll is over; one that any event of its domain ends. */
export const POLL_NONE = 0;
export const POLL_WOKEN = -1;
export const POLL_ANY = -2;
/** A vCPU in SCHEDOP_block: any upcall ends it. */
export const POLL_UPCALL = -3;

/** Sets the upcall flag of a vCPU and wakes it; a flag that is set already has told it. */
export function markEventsPending(xen: Xen, domid: number, vcpu: number): void {
  if (vcpu === 0) {
    xen.memory.onGuestWord?.();
    const info = FrameIndex(domainField(xen, domid, DOM.SHARED_INFO));
    if ((xen.memory.or(info, VCPU_INFO_UPCALL_PENDING, 1) & 1) !== 0) return;
  }
  const slot = domainField(xen, domid, DOM.SLOT + vcpu);
  if (slot === NOT_PRESENT) return;
  raiseEvent(xen.words, xen.layout, slot);
  wakePoller(xen, slot);
}

/** Whether the upcall flag of the caller stands. Only vCPU 0 has one. */
export function hasUpcall(xen: Xen, { slot, domid }: Caller): boolean {
  if (lineField(xen, slot, LINE.NUMBER) !== 0) return false;
  const info = FrameIndex(domainField(xen, domid, DOM.SHARED_INFO));
  xen.memory.onGuestWord?.();
  return (xen.memory.load(info, VCPU_INFO_UPCALL_PENDING) & 1) !== 0;
}

/** A port has become pending: whoever polls it, or several ports, goes on. */
export function checkPollers(xen: Xen, domid: number, port: number): void {
  if (peek(xen.words, MACHINE.POLLERS) === 0) return;
  for (let vcpu = 0; vcpu < domainField(xen, domid, DOM.VCPUS); vcpu++) {
    const slot = domainField(xen, domid, DOM.SLOT + vcpu);
    if (slot === NOT_PRESENT) continue;
    const polled = lineField(xen, slot, LINE.POLL);
    if (polled === POLL_ANY || polled === port) wakePoller(xen, slot);
  }
}

function wakePoller(xen: Xen, slot: number): void {
  if (lineField(xen, slot, LINE.POLL) !== POLL_NONE) {
    setLineField(xen, slot, LINE.POLL, POLL_WOKEN);
  }
}
