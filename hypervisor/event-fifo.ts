/**
 * The FIFO event ABI: an event word a port, and sixteen queues of ports a vCPU, linked through their words.
 *
 *   set pending:  no page -> the event is saved. No control block -> it is dropped. PENDING ->
 *                 not MASKED and LINKED newly set -> behind the tail, or head -> ready bit newly set -> upcall
 *
 * Rules: a guest may set and clear MASKED and clear PENDING of a linked word, or unlink it; BUSY holds it off from
 * unmasking while the tail is extended, so few tries are enough, and a guest that breaks the rule loses its event
 * instead of the hypervisor's time. Which port is last in a queue only the hypervisor knows.
 * Behaviour: xen/common/event_fifo.c.
 */
import {
  EVTCHN_FIFO_BUSY,
  EVTCHN_FIFO_LINK_BITS,
  EVTCHN_FIFO_LINK_MASK,
  EVTCHN_FIFO_LINKED,
  EVTCHN_FIFO_MASKED,
  EVTCHN_FIFO_PENDING,
  EVTCHN_FIFO_PRIORITY_DEFAULT,
  EVTCHN_FIFO_PRIORITY_MIN,
  EXPAND_ARRAY_GFN,
  FIFO_CONTROL_BLOCK_SIZE,
  FIFO_CONTROL_HEAD,
  FIFO_CONTROL_READY,
  INIT_CONTROL_GFN,
  INIT_CONTROL_LINK_BITS,
  INIT_CONTROL_OFFSET,
  INIT_CONTROL_VCPU,
  SET_PRIORITY_PORT,
  SET_PRIORITY_PRIORITY,
} from "../shared/abi/event-channel.ts";
import { SHARED_INFO_EVTCHN_PENDING } from "../shared/abi/xen.ts";
import { assert } from "../shared/assert.ts";
import { DOM } from "../shared/layout.ts";
import {
  EVTCHN_FIFO_ARRAY_PAGES,
  EVTCHN_FIFO_LINK_ATTEMPTS,
  EVTCHN_FIFO_QUEUES,
  EVTCHN_FIFO_WORDS_PER_PAGE,
  NOT_PRESENT,
  PAGE_SIZE,
} from "../shared/limits.ts";
import { EACCES, EFAULT, EINVAL, ENOENT, ENOSPC, ENOSYS, EOPNOTSUPP } from "../shared/status.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import {
  addArrayPage,
  addControlBlock,
  arrayPages,
  controlFrame,
  controlOffset,
  enterFifo,
  isFifo,
  queueOf,
  queueTail,
  setQueueTail,
  wordFrame,
  wordOffset,
} from "./event-fifo-array.ts";
import {
  ECS_RESERVED,
  isEventSaved,
  isValidPort,
  portLastQueue,
  portPriority,
  portState,
  portVcpu,
  saveEvent,
  setPortLastQueue,
  setPortPriority,
} from "./event-ports.ts";
import { checkPollers, markEventsPending } from "./event-upcall.ts";
import { copyFieldBack } from "./guest-access.ts";
import { type Caller, domainField, type Xen } from "./xen.ts";

/** Makes `port` pending and links it into the queue of its vCPU and priority. */
export function setPendingFifo(xen: Xen, domid: number, port: number): void {
  const frame = wordFrame(xen, domid, port);
  if (frame === undefined) {
    saveEvent(xen, domid, port);
    return;
  }
  const vcpu = portVcpu(xen, domid, port);
  // A guest must not unmask before it has registered a control block, so nobody waits for this event.
  if (controlFrame(xen, domid, vcpu) === NOT_PRESENT) return;
  const was = guestOr(xen, frame, wordOffset(port), EVTCHN_FIFO_PENDING);
  const isMasked = (guestLoad(xen, frame, wordOffset(port)) & EVTCHN_FIFO_MASKED) !== 0;
  if (!isMasked) link(xen, domid, port, frame);
  if ((was & EVTCHN_FIFO_PENDING) === 0) checkPollers(xen, domid, port);
}

/** Puts a port into its queue, unless it is in one. */
function link(xen: Xen, domid: number, port: number, frame: FrameIndex): void {
  const word = guestOr(xen, frame, wordOffset(port), EVTCHN_FIFO_LINKED);
  if ((word & EVTCHN_FIFO_LINKED) !== 0) return;
  const vcpu = portVcpu(xen, domid, port);
  const priority = portPriority(xen, domid, port);
  const queue = queueOf(vcpu, priority);
  const former = portLastQueue(xen, domid, port);
  // As its last one it was out of its former queue, which is empty then: nothing may be linked behind it there.
  if (queueTail(xen, domid, former) === port) setQueueTail(xen, domid, former, 0);
  if (former !== queue) setPortLastQueue(xen, domid, port, queue);
  const tail = queueTail(xen, domid, queue);
  const isBehind = tail !== 0 && linkBehind(xen, domid, tail, port);
  const block = controlFrame(xen, domid, vcpu);
  const offset = controlOffset(xen, domid, vcpu);
  if (!isBehind) guestStore(xen, block, offset + FIFO_CONTROL_HEAD + 4 * priority, port);
  setQueueTail(xen, domid, queue, port);
  if (isBehind) return;
  const ready = guestOr(xen, block, offset + FIFO_CONTROL_READY, 1 << priority);
  if ((ready & (1 << priority)) === 0) markEventsPending(xen, domid, vcpu);
}

/** Makes `port` follow the tail while that is in its queue; false: it is not, and the queue is empty. */
function linkBehind(xen: Xen, domid: number, tail: number, port: number): boolean {
  const frame = wordFrame(xen, domid, tail);
  assert(frame !== undefined, "the page of a port that was linked stays");
  const offset = wordOffset(tail);
  const first = tryLink(xen, frame, offset, port);
  if (first !== undefined) return first;
  guestOr(xen, frame, offset, EVTCHN_FIFO_BUSY);
  for (let attempt = 0; attempt < EVTCHN_FIFO_LINK_ATTEMPTS; attempt++) {
    const linked = tryLink(xen, frame, offset, port);
    if (linked === true) return true;
    if (linked === false) {
      guestAnd(xen, frame, offset, ~EVTCHN_FIFO_BUSY);
      return false;
    }
  }
  // Only a guest that rewrites its words against the rules gets here; its event stays unlinked.
  guestAnd(xen, frame, offset, ~EVTCHN_FIFO_BUSY);
  return true;
}

/** One try; undefined: the word has changed meanwhile. */
function tryLink(xen: Xen, frame: FrameIndex, offset: number, port: number): boolean | undefined {
  const word = guestLoad(xen, frame, offset);
  if ((word & EVTCHN_FIFO_LINKED) === 0) return false;
  const next = (word & ~(EVTCHN_FIFO_BUSY | EVTCHN_FIFO_LINK_MASK)) | port;
  xen.memory.onGuestWord?.();
  return xen.memory.compareExchange(frame, offset, word, next) === word ? true : undefined;
}

/** A port that is freed is pending no more; its guest unlinks it, and finds nothing there. */
export function clearPendingFifo(xen: Xen, domid: number, port: number): void {
  const frame = wordFrame(xen, domid, port);
  if (frame !== undefined) guestAnd(xen, frame, wordOffset(port), ~EVTCHN_FIFO_PENDING);
}

/** Unmasks `port`, and links it when it is pending. */
export function unmaskFifo(xen: Xen, domid: number, port: number): void {
  const frame = wordFrame(xen, domid, port);
  if (frame === undefined) return;
  const word = guestAnd(xen, frame, wordOffset(port), ~EVTCHN_FIFO_MASKED);
  if ((word & EVTCHN_FIFO_PENDING) !== 0) setPendingFifo(xen, domid, port);
}

export function isPendingFifo(xen: Xen, domid: number, port: number): boolean {
  const frame = wordFrame(xen, domid, port);
  if (frame === undefined) return false;
  return (guestLoad(xen, frame, wordOffset(port)) & EVTCHN_FIFO_PENDING) !== 0;
}

/** EVTCHNOP_init_control: a vCPU's control block. The first one switches the whole domain over. */
export function initControl(xen: Xen, caller: Caller, arg: number): number {
  const { args } = xen;
  const { domid } = caller;
  const vcpu = args.u32(INIT_CONTROL_VCPU);
  const offset = args.u32(INIT_CONTROL_OFFSET);
  if (vcpu >= domainField(xen, domid, DOM.VCPUS)) return -ENOENT;
  if (offset > PAGE_SIZE - FIFO_CONTROL_BLOCK_SIZE) return -EINVAL;
  if (offset % 8 !== 0) return -EINVAL;
  const isFirst = !isFifo(xen, domid);
  if (!isFirst && controlFrame(xen, domid, vcpu) !== NOT_PRESENT) return -EINVAL;
  const block = { vcpu, gfn: args.u64(INIT_CONTROL_GFN), offset };
  if (!addControlBlock(xen, domid, block)) return -EINVAL;
  if (isFirst) switchToFifo(xen, domid);
  args.setU16(INIT_CONTROL_LINK_BITS, EVTCHN_FIFO_LINK_BITS);
  return copyFieldBack(xen, domid, arg, INIT_CONTROL_LINK_BITS, 1) ? 0 : -EFAULT;
}

/** What is pending in the 2-level bits waits for the pages of the event array. */
function switchToFifo(xen: Xen, domid: DomId): void {
  const info = FrameIndex(domainField(xen, domid, DOM.SHARED_INFO));
  enterFifo(xen, domid);
  for (let port = 1; isValidPort(xen, domid, port); port++) {
    const word = guestLoad(xen, info, SHARED_INFO_EVTCHN_PENDING + (port >> 5) * 4);
    if ((word & (1 << (port & 31))) !== 0) saveEvent(xen, domid, port);
    setPortPriority(xen, domid, port, EVTCHN_FIFO_PRIORITY_DEFAULT);
  }
}

/** EVTCHNOP_expand_array: one more page of event words. What waited for it is raised. */
export function expandArray(xen: Xen, caller: Caller): number {
  const { domid } = caller;
  if (!isFifo(xen, domid)) return -EOPNOTSUPP;
  const page = arrayPages(xen, domid);
  if (page >= EVTCHN_FIFO_ARRAY_PAGES) return -ENOSPC;
  if (!addArrayPage(xen, domid, xen.args.u64(EXPAND_ARRAY_GFN))) return -EINVAL;
  const first = page * EVTCHN_FIFO_WORDS_PER_PAGE;
  for (let port = first; port < first + EVTCHN_FIFO_WORDS_PER_PAGE; port++) {
    if (!isValidPort(xen, domid, port)) break;
    if (!isEventSaved(xen, domid, port)) continue;
    if (portState(xen, domid, port) > ECS_RESERVED) setPendingFifo(xen, domid, port);
  }
  return 0;
}

/** EVTCHNOP_set_priority: for the next time that the port is linked. */
export function setPriority(xen: Xen, domid: DomId): number {
  const port = xen.args.u32(SET_PRIORITY_PORT);
  const priority = xen.args.u32(SET_PRIORITY_PRIORITY);
  if (!isValidPort(xen, domid, port)) return -EINVAL;
  if (!isFifo(xen, domid)) return -ENOSYS;
  if (portState(xen, domid, port) <= ECS_RESERVED) return -EACCES;
  if (priority > EVTCHN_FIFO_PRIORITY_MIN) return -EINVAL;
  setPortPriority(xen, domid, port, priority);
  return 0;
}

function guestLoad(xen: Xen, frame: FrameIndex, offset: number): number {
  xen.memory.onGuestWord?.();
  return xen.memory.load(frame, offset);
}

function guestStore(xen: Xen, frame: FrameIndex, offset: number, value: number): void {
  xen.memory.onGuestWord?.();
  xen.memory.store(frame, offset, value);
}

function guestOr(xen: Xen, frame: FrameIndex, offset: number, bits: number): number {
  xen.memory.onGuestWord?.();
  return xen.memory.or(frame, offset, bits);
}

function guestAnd(xen: Xen, frame: FrameIndex, offset: number, bits: number): number {
  xen.memory.onGuestWord?.();
  return xen.memory.and(frame, offset, bits);
}

assert(EVTCHN_FIFO_QUEUES === EVTCHN_FIFO_PRIORITY_MIN + 1, "a queue a priority");
