/**
 * increase_reservation, decrease_reservation and populate_physmap: pages come and go.
 *
 * Rules: the three never answer an errno. They return the number of extents completed, from `start` on, and stop at
 * the first one that fails; pages of that extent that are gone already stay gone. A direct-mapped domain keeps what
 * it balloons out and gets only that back: with a device and no IOMMU the same frame must return to the same gfn.
 * Order of taking away: clear the entry, flush, drop references.
 * Behaviour: xen/common/memory.c, increase_reservation(), decrease_reservation(), populate_physmap(),
 * guest_remove_page().
 */
import {
  RESERVATION_DOMID,
  RESERVATION_EXTENT_ORDER,
  RESERVATION_EXTENT_START,
  RESERVATION_MEM_FLAGS,
  RESERVATION_NR_EXTENTS,
  RESERVATION_SIZE,
  XENMEM_decrease_reservation,
  XENMEM_increase_reservation,
  XENMEMF_exact_node_request,
  XENMEMF_populate_on_demand,
  XENMEMF_vnode,
} from "../shared/abi/memory.ts";
import { item } from "../shared/assert.ts";
import { HOLD_ROWS } from "../shared/hold-layout.ts";
import { CDF_directmap, CDF_hardware, DOM, indexOf, LINE, mfnAt } from "../shared/layout.ts";
import {
  EXTENT_ORDER_DOMU,
  EXTENT_ORDER_HARDWARE,
  EXTENT_ORDER_PASSTHROUGH,
  EXTENTS_MAX,
  NOT_PRESENT,
  PAGE_SIZE,
} from "../shared/limits.ts";
import type { Range } from "../shared/machine.ts";
import { isGrant } from "../shared/pte.ts";
import { EINVAL, ENXIO } from "../shared/status.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import {
  assignPages,
  freeHeapFrame,
  getPage,
  isRamFrame,
  isReserved,
  isXenHeap,
  putPage,
  putPageAllocRef,
  setXenHeapGfn,
} from "./frame-table.ts";
import { copyArgs, copyListEntry, writeListEntry } from "./guest-access.ts";
import { addressBound, allocFrames } from "./heap-frames.ts";
import { holdPage } from "./hold-list.ts";
import { claimsAllow } from "./memory-claim.ts";
import {
  entryFrame,
  entryType,
  forgetXenHeapGfn,
  P2M_NOTHING,
  p2mLookup,
  p2mRemoveMapping,
} from "./p2m.ts";
import { enterRam, settle } from "./p2m-extent.ts";
import { isPv, mayGiveUp } from "./page-type.ts";
import { withPvFlush } from "./pv-flush.ts";
import {
  addDomainField,
  type Caller,
  domainByAnyId,
  domainField,
  GAP_PREEMPT,
  type Gap,
  hasFlag,
  isGapDue,
  isPresent,
  isPrivileged,
  lineField,
  mayTarget,
  type Preemptible,
  type Xen,
} from "./xen.ts";

/** A reservation that has passed the common checks; copied, because the scratch structure is not ours across gaps. */
interface Reservation {
  readonly domid: DomId;
  /** Tells the row of the domain from that of a later one with the same id. */
  readonly generation: number;
  readonly start: number;
  readonly count: number;
  readonly order: number;
  readonly list: number;
  /** Frames come from below this machine frame. */
  readonly below: number;
  readonly onDemand: boolean;
}

/** Largest extent order that the caller may use. */
export function maxOrder(xen: Xen, caller: Caller): number {
  if (isPrivileged(xen, caller)) return EXTENT_ORDER_HARDWARE;
  const { name } = item(xen.model.domains, domainField(xen, caller.domid, DOM.MODEL));
  const hasDevice = xen.model.devices.some((device) => device.owner === name);
  const passthrough = hasDevice || hasFlag(xen, caller.domid, CDF_hardware);
  return passthrough ? EXTENT_ORDER_PASSTHROUGH : EXTENT_ORDER_DOMU;
}

/** The common front end. Every refusal returns the start: nothing was done. */
export function adjustReservation(
  xen: Xen,
  caller: Caller,
  op: number,
  start: number,
  arg: number,
): number | Preemptible {
  if (!copyArgs(xen, caller.domid, arg, RESERVATION_SIZE)) return start;
  const reservation = checkReservation(xen, caller, start);
  if (reservation === undefined) return start;
  switch (op) {
    case XENMEM_increase_reservation:
      return increase(xen, caller, reservation);
    case XENMEM_decrease_reservation:
      return decrease(xen, caller, reservation);
    default:
      return populate(xen, caller, reservation);
  }
}

function checkReservation(xen: Xen, caller: Caller, start: number): Reservation | undefined {
  const { args } = xen;
  const count = args.u64(RESERVATION_NR_EXTENTS);
  const order = args.u32(RESERVATION_EXTENT_ORDER);
  const flags = args.u32(RESERVATION_MEM_FLAGS);
  if (count > EXTENTS_MAX) return undefined;
  if (start >= count) return undefined;
  const domid = domainByAnyId(xen, caller, args.u16(RESERVATION_DOMID));
  if (domid === undefined) return undefined;
  const below = addressBound(xen, flags & 0xff);
  if (below === undefined) return undefined;
  if (!nodeAllowed(xen, caller, flags)) return undefined;
  if (!mayTarget(xen, caller, domid)) return undefined;
  if (order > maxOrder(xen, caller)) return undefined;
  return {
    domid,
    generation: domainField(xen, domid, DOM.GENERATION),
    start,
    count,
    order,
    list: args.u64(RESERVATION_EXTENT_START),
    below,
    onDemand: (flags & XENMEMF_populate_on_demand) !== 0,
  };
}

/** There is one NUMA node, 0, and only a control domain may insist on one. Virtual nodes do not exist. */
function nodeAllowed(xen: Xen, caller: Caller, flags: number): boolean {
  const node = ((flags >>> 8) & 0xff) - 1;
  if (node < 0 || (flags & XENMEMF_vnode) !== 0) return true;
  return isPrivileged(xen, caller) ? node === 0 : (flags & XENMEMF_exact_node_request) === 0;
}

/** Whether the domain of the reservation is still the one that was checked: a gap lets it go. */
const stillThere = (xen: Xen, { domid, generation }: Reservation): boolean =>
  isPresent(xen, domid) && domainField(xen, domid, DOM.GENERATION) === generation;

/** Whether the handler should let go before extent `i`: never before the first one, so that it gets on. */
const gapBefore = (xen: Xen, reservation: Reservation, i: number): boolean =>
  i > reservation.start && isGapDue(xen, i - reservation.start);

/** Pages for a domain, with their owner; NOT_PRESENT: no memory, or none that the domain may have. */
function allocatePages(xen: Xen, reservation: Reservation): FrameIndex {
  const { domid, order, below } = reservation;
  if (!claimsAllow(xen, domid, 2 ** order)) return FrameIndex(NOT_PRESENT);
  const frame = allocFrames(xen, order, below);
  if (frame === NOT_PRESENT) return frame;
  const size = 2 ** order;
  if (assignPages(xen, domid, frame, size) === 0) return frame;
  for (let given = size - 1; given >= 0; given--) freeHeapFrame(xen, frame + given);
  return FrameIndex(NOT_PRESENT);
}

/**
 * Owned, but mapped nowhere: on a translated domain an increase does not touch the P2M, and the list is not read. A PV
 * domain is told the machine frames, if it has a list.
 */
function* increase(xen: Xen, caller: Caller, reservation: Reservation): Preemptible {
  const told = isPv(xen, reservation.domid) && reservation.list !== 0;
  for (let i = reservation.start; i < reservation.count; i++) {
    if (gapBefore(xen, reservation, i)) {
      yield GAP_PREEMPT;
      if (!stillThere(xen, reservation)) return i;
    }
    const frame = allocatePages(xen, reservation);
    if (frame === NOT_PRESENT) return i;
    const mfn = mfnAt(xen.layout, frame);
    if (told && !writeListEntry(xen, caller.domid, reservation.list, i, mfn)) return i;
  }
  return reservation.count;
}

function* populate(xen: Xen, caller: Caller, reservation: Reservation): Preemptible {
  const { domid, list, order } = reservation;
  for (let i = reservation.start; i < reservation.count; i++) {
    if (gapBefore(xen, reservation, i)) {
      yield GAP_PREEMPT;
      if (!stillThere(xen, reservation)) return i;
    }
    const gfn = copyListEntry(xen, caller.domid, list, i);
    // Populate on demand is an x86 HVM matter: refused for oneself, unknown for others.
    if (gfn === undefined || reservation.onDemand) return i;
    const frame = populateFrames(xen, reservation, gfn);
    if (frame === NOT_PRESENT) return i;
    if (isPv(xen, domid)) {
      for (let page = 0; page < 2 ** order; page++) setXenHeapGfn(xen, frame + page, gfn + page);
      if (!writeListEntry(xen, caller.domid, list, i, mfnAt(xen.layout, frame))) return i;
      continue;
    }
    // Pages of an extent that cannot be entered stay with the domain, unmapped.
    const entered = yield* enterRam(xen, caller.slot, domid, gfn, frame, order);
    if (!entered) return i;
    if (!stillThere(xen, reservation)) return i + 1;
  }
  return reservation.count;
}

/** Frames for one extent, owned by the domain, or NOT_PRESENT. */
function populateFrames(xen: Xen, reservation: Reservation, gfn: number): FrameIndex {
  const { domid, order } = reservation;
  if (hasFlag(xen, domid, CDF_directmap)) return ownFrames(xen, domid, gfn, 2 ** order);
  const { staticMemory } = item(xen.model.domains, domainField(xen, domid, DOM.MODEL));
  if (staticMemory.length === 0) return allocatePages(xen, reservation);
  return order === 0 ? reservedFrame(xen, domid, staticMemory) : FrameIndex(NOT_PRESENT);
}

/** A domain with static memory gets back what it gave away, one page at a time, lowest first. */
function reservedFrame(xen: Xen, domid: DomId, ranges: readonly Range[]): FrameIndex {
  for (const range of ranges) {
    const first = indexOf(xen.layout, xen.words, range.base / PAGE_SIZE);
    for (let frame = first; frame < first + range.size / PAGE_SIZE; frame++) {
      if (!isReserved(xen, frame)) continue;
      return FrameIndex(assignPages(xen, domid, frame, 1) === 0 ? frame : NOT_PRESENT);
    }
  }
  return FrameIndex(NOT_PRESENT);
}

/**
 * The frames of the same numbers as the gfns, if the domain owns them all already: the direct map allocates nothing.
 * Pages of the Xen heap that the domain owns are none of its RAM (docs/FIDELITY.md).
 */
function ownFrames(xen: Xen, domid: DomId, gfn: number, size: number): FrameIndex {
  for (let j = 0; j < size; j++) {
    const frame = indexOf(xen.layout, xen.words, gfn + j);
    if (isRamFrame(xen, frame) && isXenHeap(xen, frame)) return FrameIndex(NOT_PRESENT);
    if (!isRamFrame(xen, frame) || !getPage(xen, frame, domid)) return FrameIndex(NOT_PRESENT);
    putPage(xen, frame);
  }
  return indexOf(xen.layout, xen.words, gfn);
}

function* decrease(xen: Xen, caller: Caller, reservation: Reservation): Preemptible {
  const { domid, list, order } = reservation;
  const { slot } = caller;
  let done = reservation.start;
  for (; done < reservation.count; done++) {
    if (gapBefore(xen, reservation, done)) {
      yield* settle(xen, slot, domid);
      yield GAP_PREEMPT;
      if (!stillThere(xen, reservation)) return done;
    }
    const gfn = copyListEntry(xen, caller.domid, list, done);
    if (gfn === undefined) break;
    const removed = yield* removePages(xen, slot, reservation, gfn, 2 ** order);
    if (!removed) break;
  }
  yield* settle(xen, slot, domid);
  return done;
}

/** One extent: false at the first page that cannot be removed; those before it are gone. */
function* removePages(
  xen: Xen,
  slot: number,
  reservation: Reservation,
  gfn: number,
  size: number,
): Generator<Gap, boolean, void> {
  for (let j = 0; j < size; j++) {
    if (lineField(xen, slot, LINE.HELD) === HOLD_ROWS) {
      yield* settle(xen, slot, reservation.domid);
      if (!stillThere(xen, reservation)) return false;
    }
    const error = isPv(xen, reservation.domid)
      ? yield* removePvPage(xen, slot, reservation, gfn + j)
      : guestRemovePage(xen, slot, reservation.domid, gfn + j);
    if (error !== 0) return false;
  }
  return true;
}

/**
 * Takes one page from a PV domain. What else refers to it, an entry or a mapping of its grant, keeps it owned until that
 * goes; without any it is free at once, so the same page cannot be given twice.
 */
function* removePvPage(
  xen: Xen,
  slot: number,
  reservation: Reservation,
  mfn: number,
): Generator<Gap, number, void> {
  const { domid } = reservation;
  const frame = indexOf(xen.layout, xen.words, mfn);
  if (!isRamFrame(xen, frame)) return -EINVAL;
  return yield* withPvFlush(xen, { slot, domid }, () => {
    if (!stillThere(xen, reservation) || !getPage(xen, frame, domid)) return -ENXIO;
    const unused = mayGiveUp(xen, domid, frame);
    if (unused === 0) putPageAllocRef(xen, frame);
    putPage(xen, frame);
    return unused;
  });
}

/**
 * Takes one page out of a domain. A reference is held in the hold list until the flush; the allocation reference
 * goes at once, except in a direct-mapped domain, which keeps the page. Returns 0, or a negative errno: -EINVAL no
 * RAM there, -ENXIO a page of somebody else (grant or foreign mapping), -ENOMEM no page to split a block.
 *
 * A grant of the domain's own page passes on the recorded Xen, and the page's RAM entry then outlives it: counted for the
 * audit. The strict hypervisor takes a grant entry away by an unmap only.
 */
function guestRemovePage(xen: Xen, slot: number, domid: DomId, gfn: number): number {
  const entry = p2mLookup(xen, domid, gfn);
  const frame = entryFrame(entry);
  if (entry === P2M_NOTHING || !isRamFrame(xen, frame)) return -EINVAL;
  const second = isGrant(entryType(entry));
  if (second && xen.model.hypervisor === "strict") return -ENXIO;
  if (!getPage(xen, frame, domid)) return -ENXIO;
  const former = p2mRemoveMapping(xen, domid, gfn, frame);
  if (former < 0) {
    putPage(xen, frame);
    return former;
  }
  if (second) addDomainField(xen, domid, DOM.STRAY_RAM, 1);
  forgetXenHeapGfn(xen, domid, former);
  if (!hasFlag(xen, domid, CDF_directmap)) putPageAllocRef(xen, frame);
  holdPage(xen, slot, frame);
  return 0;
}
