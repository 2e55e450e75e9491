/**
 * XENMEM_exchange: a PV guest gives pages and gets as many others, of another extent order or other address bits. A
 * translated domain has its arguments checked as everywhere else, and then no page of it can be stolen.
 *
 * Rules: chunk by chunk of one extent of the larger order; the pages of a chunk are stolen, the new ones are allocated, and
 * from there on the chunk cannot fail. A chunk that fails before gives back what was stolen. nr_exchanged tells how far
 * it came, whatever the answer.
 * Behaviour: xen/common/memory.c, memory_exchange(); xen/arch/x86/mm.c, steal_page(); xen/arch/arm/mm.c, steal_page().
 */
import {
  EXCHANGE_NR_EXCHANGED,
  EXCHANGE_OUT,
  EXCHANGE_SIZE,
  RESERVATION_DOMID,
  RESERVATION_EXTENT_ORDER,
  RESERVATION_EXTENT_START,
  RESERVATION_MEM_FLAGS,
  RESERVATION_NR_EXTENTS,
} from "../shared/abi/memory.ts";
import { DOM, indexOf, mfnAt } from "../shared/layout.ts";
import { NOT_PRESENT } from "../shared/limits.ts";
import { EFAULT, EINVAL, ENOMEM, EOPNOTSUPP, EPERM, ESRCH } from "../shared/status.ts";
import type { DomId } from "../shared/units.ts";
import { assignCounted, freeHeapFrame, isRamFrame, setXenHeapGfn } from "./frame-table.ts";
import { copyArgs, copyFieldBack, copyListEntry, writeListEntry } from "./guest-access.ts";
import { addressBound, allocFrames } from "./heap-frames.ts";
import { maxOrder } from "./memory-reservation.ts";
import { entryFrame, P2M_NOTHING, p2mLookup } from "./p2m.ts";
import { isPv, stealUnused } from "./page-type.ts";
import { withPvFlush } from "./pv-flush.ts";
import {
  addDomainField,
  type Caller,
  domainByAnyId,
  domainField,
  GAP_PREEMPT,
  isPresent,
  mayTarget,
  type Preemptible,
  type Xen,
} from "./xen.ts";

/** A call that has passed its checks; copied, because the scratch structure is not ours across gaps. */
interface Exchange {
  readonly domid: DomId;
  /** Tells the row of the domain from that of a later one with the same id. */
  readonly generation: number;
  readonly inList: number;
  readonly inOrder: number;
  readonly outList: number;
  readonly outOrder: number;
  readonly count: number;
  /** In-extents that earlier calls have exchanged, in whole chunks. */
  readonly done: number;
  /** New pages come from below this machine frame. */
  readonly below: number;
}

export function exchange(xen: Xen, caller: Caller, arg: number): number | Preemptible {
  if (!copyArgs(xen, caller.domid, arg, EXCHANGE_SIZE)) return -EFAULT;
  const checked = check(xen, caller);
  if (typeof checked !== "number") return exchangeChunks(xen, caller, arg, checked);
  if (checked === 0) return 0;
  return copyFieldBack(xen, caller.domid, arg, EXCHANGE_NR_EXCHANGED, 8) ? checked : -EFAULT;
}

/** An exchange that may begin, 0 when there is nothing to do, or a negative errno. */
function check(xen: Xen, caller: Caller): Exchange | number {
  const { args } = xen;
  const inOrder = args.u32(RESERVATION_EXTENT_ORDER);
  const outOrder = args.u32(EXCHANGE_OUT + RESERVATION_EXTENT_ORDER);
  const inExtents = args.u64(RESERVATION_NR_EXTENTS);
  const outExtents = args.u64(EXCHANGE_OUT + RESERVATION_NR_EXTENTS);
  const done = args.u64(EXCHANGE_NR_EXCHANGED);
  const progress = compareFields(xen, EXCHANGE_NR_EXCHANGED, RESERVATION_NR_EXTENTS);
  const dom = args.u16(RESERVATION_DOMID);
  const highest = maxOrder(xen, caller);
  if (inOrder > highest || outOrder > highest) return -EPERM;
  if (progress > 0) return -EINVAL;
  if (dom !== args.u16(EXCHANGE_OUT + RESERVATION_DOMID)) return -EINVAL;
  if (inExtents * 2 ** inOrder !== outExtents * 2 ** outOrder) return -EINVAL;
  if (progress === 0) return 0;
  const domid = domainByAnyId(xen, caller, dom);
  if (domid === undefined) return -ESRCH;
  if (!mayTarget(xen, caller, domid)) return -EPERM;
  // A chunk is one extent of the larger order: the first page of the first chunk is where it ends.
  const chunk = 2 ** Math.max(0, outOrder - inOrder);
  const first = Math.floor(done / chunk) * chunk;
  const inList = args.u64(RESERVATION_EXTENT_START);
  if (!isPv(xen, domid)) return refuseTranslated(xen, caller, domid, inList, first);
  const bits = args.u32(EXCHANGE_OUT + RESERVATION_MEM_FLAGS) & 0xff;
  return {
    domid,
    generation: domainField(xen, domid, DOM.GENERATION),
    inList,
    inOrder,
    outList: args.u64(EXCHANGE_OUT + RESERVATION_EXTENT_START),
    outOrder,
    count: inExtents,
    done: first,
    below: addressBound(xen, bits) ?? 0,
  };
}

function refuseTranslated(
  xen: Xen,
  caller: Caller,
  domid: DomId,
  list: number,
  first: number,
): number {
  const gfn = copyListEntry(xen, caller.domid, list, first);
  if (gfn === undefined) return -EFAULT;
  const entry = p2mLookup(xen, domid, gfn);
  if (entry === P2M_NOTHING || !isRamFrame(xen, entryFrame(entry))) return -EINVAL;
  return -EOPNOTSUPP;
}

/** The difference of two 64-bit fields, by sign: exact also above 2^53, where numbers no longer tell them apart. */
const compareFields = (xen: Xen, one: number, other: number): number =>
  xen.args.u32(one + 4) - xen.args.u32(other + 4) || xen.args.u32(one) - xen.args.u32(other);

function* exchangeChunks(xen: Xen, caller: Caller, arg: number, asked: Exchange): Preemptible {
  const { domid, generation, inOrder, outOrder } = asked;
  const extents = 2 ** Math.max(0, outOrder - inOrder);
  let done = asked.done;
  let outcome = 0;
  for (; done < asked.count && outcome === 0; ) {
    if (done > asked.done) yield GAP_PREEMPT;
    const chunk = done;
    outcome = yield* withPvFlush(xen, { slot: caller.slot, domid }, () => {
      const there = isPresent(xen, domid) && domainField(xen, domid, DOM.GENERATION) === generation;
      return there ? exchangeChunk(xen, caller, asked, chunk, extents) : -ESRCH;
    });
    if (outcome === 0) done += extents;
  }
  xen.args.setU64(EXCHANGE_NR_EXCHANGED, Math.min(done, asked.count));
  const told = copyFieldBack(xen, caller.domid, arg, EXCHANGE_NR_EXCHANGED, 8);
  if (!told) return -EFAULT;
  return outcome === CHUNK_OF_DYING ? 0 : outcome;
}

/** The domain has begun to die, so it is given nothing: the call ends there, without an error. */
const CHUNK_OF_DYING = 1;

/** One chunk, from its first in-extent on. 0, CHUNK_OF_DYING, a negative errno, or -ERESTART: flush, and ask again. */
function exchangeChunk(
  xen: Xen,
  caller: Caller,
  asked: Exchange,
  first: number,
  extents: number,
): number {
  const { domid } = asked;
  const stolen: number[] = [];
  const error = stealChunk(xen, caller, asked, first, extents, stolen);
  const outExtents = (extents * 2 ** asked.inOrder) / 2 ** asked.outOrder;
  const given = error === 0 ? allocChunk(xen, asked, outExtents) : undefined;
  if (given === undefined) {
    for (const frame of stolen) reassign(xen, domid, frame);
    return error === 0 ? -ENOMEM : error;
  }
  for (const frame of stolen) freeHeapFrame(xen, frame);
  const firstOut = (first * 2 ** asked.inOrder) / 2 ** asked.outOrder;
  return giveChunk(xen, caller, asked, firstOut, given);
}

/** Takes the pages of a chunk; those that were taken before a refusal are in `stolen`. */
function stealChunk(
  xen: Xen,
  caller: Caller,
  { domid, inList, inOrder }: Exchange,
  first: number,
  extents: number,
  stolen: number[],
): number {
  for (let j = 0; j < extents; j++) {
    const mfn = copyListEntry(xen, caller.domid, inList, first + j);
    if (mfn === undefined) return -EFAULT;
    for (let k = 0; k < 2 ** inOrder; k++) {
      const frame = indexOf(xen.layout, xen.words, mfn + k);
      const error = stealUnused(xen, domid, frame, false);
      if (error !== 0) return error;
      stolen.push(frame);
    }
  }
  return 0;
}

/** First frames of as many extents; undefined, with nothing taken, when the heap has not got them. */
function allocChunk(
  xen: Xen,
  { outOrder, below }: Exchange,
  extents: number,
): readonly number[] | undefined {
  const given: number[] = [];
  for (let j = 0; j < extents; j++) {
    const frame = allocFrames(xen, outOrder, below);
    if (frame === NOT_PRESENT) {
      for (const one of given) freeExtent(xen, one, outOrder);
      return undefined;
    }
    given.push(frame);
  }
  return given;
}

function freeExtent(xen: Xen, first: number, order: number): void {
  for (let page = 2 ** order - 1; page >= 0; page--) freeHeapFrame(xen, first + page);
}

/** A page goes back to its owner, whose total still counts it; a dying one has lost it. */
function reassign(xen: Xen, domid: DomId, frame: number): void {
  if (assignCounted(xen, domid, frame, 1) === 0) return;
  freeHeapFrame(xen, frame);
  discount(xen, domid, 1);
}

function discount(xen: Xen, domid: DomId, pages: number): void {
  if (addDomainField(xen, domid, DOM.TOT_PAGES, -pages) === 0) {
    addDomainField(xen, domid, DOM.REFS, -1);
  }
}

/** The new pages get their owner and their place in the M2P, and the guest their numbers. */
function giveChunk(
  xen: Xen,
  caller: Caller,
  { domid, outList, outOrder }: Exchange,
  firstOut: number,
  given: readonly number[],
): number {
  const size = 2 ** outOrder;
  let error = 0;
  for (const [j, frame] of given.entries()) {
    if (assignCounted(xen, domid, frame, size) !== 0) {
      for (const late of given.slice(j)) freeExtent(xen, late, outOrder);
      discount(xen, domid, (given.length - j) * size);
      return CHUNK_OF_DYING;
    }
    const pfn = copyListEntry(xen, caller.domid, outList, firstOut + j);
    if (pfn === undefined) {
      error = -EFAULT;
      continue;
    }
    for (let k = 0; k < size; k++) setXenHeapGfn(xen, frame + k, pfn + k);
    const mfn = mfnAt(xen.layout, frame);
    if (!writeListEntry(xen, caller.domid, outList, firstOut + j, mfn)) error = -EFAULT;
  }
  return error;
}
