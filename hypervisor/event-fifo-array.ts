/**
 * Pages and columns of the FIFO event ABI: a domain's event array, and the control block and queue tails of each vCPU.
 *
 *   event array    up to 128 pages of guest RAM, a 32-bit word a port, added one by one
 *   control block  72 bytes in a page of guest RAM, one a vCPU: ready bits and the head of each queue
 *   tail           of each queue, the hypervisor's own: 0 when the queue is known to be empty
 *
 * Rules: each page is referenced while it is in use, so that a guest may give it up and the frame still is nobody
 * else's; a page once added stays until the ABI is left. Words of guest pages are changed by atomic operations only.
 * Behaviour: xen/common/event_fifo.c, map_guest_page(), add_page_to_event_array(), evtchn_fifo_destroy().
 */
import { EVTCHN_FIFO_LINKED } from "../shared/abi/event-channel.ts";
import { assert, at } from "../shared/assert.ts";
import { PGT_writable_page } from "../shared/frame-flags.ts";
import { DOM } from "../shared/layout.ts";
import {
  EVTCHN_FIFO_ARRAY_PAGES,
  EVTCHN_FIFO_QUEUES,
  EVTCHN_FIFO_WORDS_PER_PAGE,
  GFN_END,
  NOT_PRESENT,
  VCPUS_MAX,
} from "../shared/limits.ts";
import { isAnyRam, isForeign } from "../shared/pte.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import { getPage, getPageOwnerAndReference, putPage } from "./frame-table.ts";
import { entryFrame, entryType, P2M_NOTHING, p2mLookup } from "./p2m.ts";
import { getPageType, putPageAndType } from "./page-type.ts";
import { domainField, setDomainField, type Xen } from "./xen.ts";

/** Whether the domain has left the 2-level ABI. */
export const isFifo = (xen: Xen, domid: number): boolean => domainField(xen, domid, DOM.FIFO) !== 0;

/** Pages of the event array. */
export const arrayPages = (xen: Xen, domid: number): number =>
  Math.max(domainField(xen, domid, DOM.FIFO) - 1, 0);

const arrayColumn = (xen: Xen, domid: number): number =>
  xen.layout.fifoArray + domid * EVTCHN_FIFO_ARRAY_PAGES;
const controlColumn = (xen: Xen, domid: number, vcpu: number): number =>
  xen.layout.fifoControl + 2 * (domid * VCPUS_MAX + vcpu);

/** Frame of the event word of a port; undefined while its page has not been added. */
export function wordFrame(xen: Xen, domid: number, port: number): FrameIndex | undefined {
  const page = Math.floor(port / EVTCHN_FIFO_WORDS_PER_PAGE);
  if (page >= arrayPages(xen, domid)) return undefined;
  return FrameIndex(at(xen.words, arrayColumn(xen, domid) + page));
}
/** Byte offset of the event word of a port in its page. */
export const wordOffset = (port: number): number => (port % EVTCHN_FIFO_WORDS_PER_PAGE) * 4;

/** Whether the port is in a queue of its guest. Never, in the 2-level ABI. */
export function isLinked(xen: Xen, domid: number, port: number): boolean {
  const frame = wordFrame(xen, domid, port);
  if (frame === undefined) return false;
  return (xen.memory.load(frame, wordOffset(port)) & EVTCHN_FIFO_LINKED) !== 0;
}

/** Frame of a vCPU's control block, or NOT_PRESENT. */
export const controlFrame = (xen: Xen, domid: number, vcpu: number): FrameIndex =>
  FrameIndex(at(xen.words, controlColumn(xen, domid, vcpu)));
export const controlOffset = (xen: Xen, domid: number, vcpu: number): number =>
  at(xen.words, controlColumn(xen, domid, vcpu) + 1);

/** Number of a vCPU's queue of some priority among the queues of its domain. */
export const queueOf = (vcpu: number, priority: number): number =>
  vcpu * EVTCHN_FIFO_QUEUES + priority;
/** Last port of a queue, 0: known to be empty. The guest may have taken it out meanwhile. */
export const queueTail = (xen: Xen, domid: number, queue: number): number =>
  at(xen.words, xen.layout.fifoTail + domid * VCPUS_MAX * EVTCHN_FIFO_QUEUES + queue);
export function setQueueTail(xen: Xen, domid: number, queue: number, port: number): void {
  xen.words[xen.layout.fifoTail + domid * VCPUS_MAX * EVTCHN_FIFO_QUEUES + queue] = port;
}

/** A domain without FIFO: no page, no block, no queue. */
export function initFifoColumns(xen: Xen, domid: number): void {
  const { words } = xen;
  const array = arrayColumn(xen, domid);
  words.fill(NOT_PRESENT, array, array + EVTCHN_FIFO_ARRAY_PAGES);
  const control = controlColumn(xen, domid, 0);
  words.fill(NOT_PRESENT, control, control + 2 * VCPUS_MAX);
  for (let queue = 0; queue < VCPUS_MAX * EVTCHN_FIFO_QUEUES; queue++) {
    setQueueTail(xen, domid, queue, 0);
  }
  setDomainField(xen, domid, DOM.FIFO, 0);
}

/** Enters the ABI, with no page and no block. */
export function enterFifo(xen: Xen, domid: DomId): void {
  assert(!isFifo(xen, domid), "a domain enters the FIFO ABI once");
  setDomainField(xen, domid, DOM.FIFO, 1);
}

/**
 * References the page at a gfn for the hypervisor's own use; undefined when there is none. Any page that the domain
 * has there will do, its shared info page or grant table too, and a foreign page; what another has granted it will not.
 */
function takeGuestPage(xen: Xen, domid: DomId, gfn: number): FrameIndex | undefined {
  const entry = gfn < GFN_END ? p2mLookup(xen, domid, gfn) : P2M_NOTHING;
  if (entry === P2M_NOTHING || !isAnyRam(entryType(entry))) return undefined;
  const frame = entryFrame(entry);
  const taken = isForeign(entryType(entry))
    ? getPageOwnerAndReference(xen, frame) !== NOT_PRESENT
    : getPage(xen, frame, domid);
  if (!taken) return undefined;
  // The hypervisor writes to it: a PV guest's page table will not do.
  if (getPageType(xen, frame, PGT_writable_page) === 0) return frame;
  putPage(xen, frame);
  return undefined;
}

/** Registers a vCPU's control block; false when no page can be taken. */
export function addControlBlock(
  xen: Xen,
  domid: DomId,
  block: { readonly vcpu: number; readonly gfn: number; readonly offset: number },
): boolean {
  const frame = takeGuestPage(xen, domid, block.gfn);
  if (frame === undefined) return false;
  const column = controlColumn(xen, domid, block.vcpu);
  xen.words[column + 1] = block.offset;
  xen.words[column] = frame;
  return true;
}

/** Adds a page to the event array; false when it cannot be taken. The caller has seen that there is room. */
export function addArrayPage(xen: Xen, domid: DomId, gfn: number): boolean {
  const frame = takeGuestPage(xen, domid, gfn);
  if (frame === undefined) return false;
  const pages = arrayPages(xen, domid);
  xen.words[arrayColumn(xen, domid) + pages] = frame;
  setDomainField(xen, domid, DOM.FIFO, 1 + pages + 1);
  return true;
}

/** Every frame that the ABI of a domain refers to, once a reference. */
export function fifoFrames(xen: Xen, domid: number): readonly number[] {
  const frames: number[] = [];
  if (!isFifo(xen, domid)) return frames;
  for (let vcpu = 0; vcpu < VCPUS_MAX; vcpu++) {
    const frame = controlFrame(xen, domid, vcpu);
    if (frame !== NOT_PRESENT) frames.push(frame);
  }
  for (let page = 0; page < arrayPages(xen, domid); page++) {
    frames.push(at(xen.words, arrayColumn(xen, domid) + page));
  }
  return frames;
}

/** Back to 2-level, or the domain dies: every page is given up. */
export function leaveFifo(xen: Xen, domid: number): void {
  if (!isFifo(xen, domid)) return;
  const frames = fifoFrames(xen, domid);
  initFifoColumns(xen, domid);
  for (const frame of frames) putPageAndType(xen, frame);
}
