/**
 * add_to_physmap, its batch, and remove_from_physmap: pages find their place in a domain's address space, and leave it.
 *
 * Rules: what an entry may be is physmap-place.ts's business; here are the checks around it and the flush after it.
 * Arm64 cannot move pages. A batch answers 0 whatever its elements answer; each has a word of its own.
 * Behaviour: xen/common/memory.c, xatp_permission_check(), xenmem_add_to_physmap(), xenmem_add_to_physmap_batch().
 */
import {
  ADD_TO_PHYSMAP_DOMID,
  ADD_TO_PHYSMAP_GPFN,
  ADD_TO_PHYSMAP_IDX,
  ADD_TO_PHYSMAP_LENGTH,
  ADD_TO_PHYSMAP_SIZE,
  ADD_TO_PHYSMAP_SPACE,
  PHYSMAP_BATCH_COUNT,
  PHYSMAP_BATCH_DOMID,
  PHYSMAP_BATCH_ERRS,
  PHYSMAP_BATCH_EXTRA,
  PHYSMAP_BATCH_GPFNS,
  PHYSMAP_BATCH_IDXS,
  PHYSMAP_BATCH_SIZE,
  PHYSMAP_BATCH_SPACE,
  REMOVE_FROM_PHYSMAP_DOMID,
  REMOVE_FROM_PHYSMAP_GPFN,
  REMOVE_FROM_PHYSMAP_SIZE,
  XENMAPSPACE_dev_mmio,
  XENMAPSPACE_gmfn,
  XENMAPSPACE_gmfn_foreign,
  XENMAPSPACE_gmfn_range,
} from "../shared/abi/memory.ts";
import { CDF_hardware, DOM } from "../shared/layout.ts";
import { MOVED_A_FLUSH, NOT_PRESENT } from "../shared/limits.ts";
import { isAnyRam, isForeign } from "../shared/pte.ts";
import {
  EACCES,
  EDOM,
  EFAULT,
  EILSEQ,
  EINVAL,
  ENOENT,
  ENOSYS,
  EOPNOTSUPP,
  EOVERFLOW,
  EPERM,
  ESRCH,
} from "../shared/status.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import type { ArgumentBuffer } from "./argument-buffer.ts";
import { startFlush } from "./flush.ts";
import { frameOwner, getPage, isRamFrame, putPage } from "./frame-table.ts";
import { copyArgs, copyListEntry, copyToGuest } from "./guest-access.ts";
import { holdPage, releaseHolds } from "./hold-list.ts";
import { entryFrame, entryType, P2M_NOTHING, p2mLookup, p2mRemoveMapping } from "./p2m.ts";
import { releaseFormer } from "./p2m-insert.ts";
import { isPv } from "./page-type.ts";
import { PLACED_FLUSH, type Placed, placedOver, placeOne } from "./physmap-place.ts";
import { profileOf } from "./profile.ts";
import {
  type Caller,
  domainByAnyId,
  domainField,
  GAP_FLUSH,
  GAP_PREEMPT,
  type Gap,
  hasFlag,
  isGapDue,
  isPresent,
  mayTarget,
  type Preemptible,
  type Xen,
} from "./xen.ts";

/** Largest start that fits the 16-bit size of the structure. */
const START_MAX = 0xffff;

/** Ends a call that may have taken a translation away: with a gap only if somebody may still be using it. */
function settled(xen: Xen, slot: number, domid: DomId, placed: Placed): number | Preemptible {
  if (placed < 0) return placed;
  if (placed === PLACED_FLUSH && startFlush(xen, slot, domid) > 0) return afterFlush(xen, slot);
  releaseHolds(xen, slot);
  return 0;
}

function* afterFlush(xen: Xen, slot: number): Preemptible {
  yield GAP_FLUSH;
  releaseHolds(xen, slot);
  return 0;
}

/** A gfn field of all ones is INVALID_GFN; anything else that is too large fails when the entry is set. */
const isInvalidGfn = (args: ArgumentBuffer, offset: number): boolean =>
  args.u32(offset) === 0xffffffff && args.u32(offset + 4) === 0xffffffff;

export function addToPhysmap(
  xen: Xen,
  caller: Caller,
  start: number,
  arg: number,
): number | Preemptible {
  const { args } = xen;
  if (start > START_MAX) return -EDOM;
  if (!copyArgs(xen, caller.domid, arg, ADD_TO_PHYSMAP_SIZE)) return -EFAULT;
  const space = args.u32(ADD_TO_PHYSMAP_SPACE);
  // Foreign pages need a domain id, which only the batch has room for.
  if (space === XENMAPSPACE_gmfn_foreign) return -ENOSYS;
  const domid = domainByAnyId(xen, caller, args.u16(ADD_TO_PHYSMAP_DOMID));
  if (domid === undefined) return -ESRCH;
  const denied = physmapDenied(xen, caller, domid, space);
  if (denied !== 0) return denied;
  if (isInvalidGfn(xen.args, ADD_TO_PHYSMAP_GPFN)) return -EINVAL;
  if (space === XENMAPSPACE_gmfn_range) return addRange(xen, caller, domid, start);
  const placed = placeOne(xen, caller, {
    domid,
    space,
    idx: args.u64(ADD_TO_PHYSMAP_IDX),
    idxLow: args.u32(ADD_TO_PHYSMAP_IDX),
    gfn: args.u64(ADD_TO_PHYSMAP_GPFN),
    foreign: 0,
  });
  return settled(xen, caller.slot, domid, placed);
}

/** Device pages are for the hardware domain itself; everything else is the usual question of rights. */
function physmapDenied(xen: Xen, caller: Caller, domid: DomId, space: number): number {
  // A PV domain has no physmap.
  if (isPv(xen, domid)) return -EACCES;
  const ownDevices = hasFlag(xen, domid, CDF_hardware) && domid === caller.domid;
  if (space === XENMAPSPACE_dev_mmio && !ownDevices) return -EACCES;
  return mayTarget(xen, caller, domid) ? 0 : -EPERM;
}

/** A range of the domain's own pages: its shape is checked, then it is moved where pages can be. */
function addRange(xen: Xen, caller: Caller, domid: DomId, start: number): number | Preemptible {
  const { args } = xen;
  const size = args.u16(ADD_TO_PHYSMAP_LENGTH);
  if (size < start) return -EILSEQ;
  if (wraps(xen, ADD_TO_PHYSMAP_IDX, size) || wraps(xen, ADD_TO_PHYSMAP_GPFN, size)) {
    return -EOVERFLOW;
  }
  if (size === start) return 0;
  if (!profileOf(xen).movesPages) return -ENOSYS;
  const from = args.u64(ADD_TO_PHYSMAP_IDX);
  const to = args.u64(ADD_TO_PHYSMAP_GPFN);
  return moveRange(xen, caller, { domid, from, to, size, start });
}

/** Pages to move, from gfn to gfn. */
interface Range {
  readonly domid: DomId;
  readonly from: number;
  readonly to: number;
  readonly size: number;
  readonly start: number;
}

/**
 * Moves page by page, backwards when the ends overlap so that no page is met twice. IOTLBs and TLBs are flushed once for
 * up to MOVED_A_FLUSH of them; until then the handler holds each moved page, because its owner may already give it up at
 * its new place while a device still finds it at the old one (advisory 346).
 */
function* moveRange(xen: Xen, caller: Caller, range: Range): Preemptible {
  const { domid, from, to, size, start } = range;
  const { slot } = caller;
  const generation = domainField(xen, domid, DOM.GENERATION);
  const backwards = to > from && to < from + size;
  for (let done = start; done < size; done++) {
    if (done > start && (done - start) % MOVED_A_FLUSH === 0) {
      yield* settle(xen, slot, domid);
      yield GAP_PREEMPT;
      if (!isPresent(xen, domid) || domainField(xen, domid, DOM.GENERATION) !== generation) {
        return -ESRCH;
      }
    }
    const page = backwards ? size - 1 - done : done;
    const idx = from + page;
    const entry = p2mLookup(xen, domid, idx);
    const held = entry !== P2M_NOTHING && getPage(xen, entryFrame(entry), domid);
    const placed = placeOne(xen, caller, {
      domid,
      space: XENMAPSPACE_gmfn,
      idx,
      idxLow: 0,
      gfn: to + page,
      foreign: 0,
    });
    if (held) holdPage(xen, slot, entryFrame(entry));
    if (placed >= 0) continue;
    yield* settle(xen, slot, domid);
    return placed;
  }
  yield* settle(xen, slot, domid);
  return 0;
}

function* settle(xen: Xen, slot: number, domid: DomId): Generator<Gap, void, void> {
  if (startFlush(xen, slot, domid) > 0) yield GAP_FLUSH;
  releaseHolds(xen, slot);
}

/** Whether a 64-bit field plus `size` passes its end. */
const wraps = (xen: Xen, offset: number, size: number): boolean =>
  xen.args.u32(offset + 4) === 0xffffffff && xen.args.u32(offset) + size > 0xffffffff;

/** A batch that has passed its checks; copied, because the scratch structure is not ours across gaps. */
interface Batch {
  readonly domid: DomId;
  /** Tells the row of the domain from that of a later one with the same id. */
  readonly generation: number;
  readonly space: number;
  readonly start: number;
  readonly count: number;
  readonly foreign: number;
  readonly idxs: number;
  readonly gpfns: number;
  readonly errs: number;
}

/** Adds many pages of one space. -EINVAL at an all-ones gfn and -EFAULT end the call; nothing else does. */
export function addToPhysmapBatch(
  xen: Xen,
  caller: Caller,
  start: number,
  arg: number,
): number | Preemptible {
  const { args } = xen;
  if (start > START_MAX) return -EDOM;
  if (!copyArgs(xen, caller.domid, arg, PHYSMAP_BATCH_SIZE)) return -EFAULT;
  const space = args.u16(PHYSMAP_BATCH_SPACE);
  if (space === XENMAPSPACE_gmfn_range) return -EOPNOTSUPP;
  const domid = domainByAnyId(xen, caller, args.u16(PHYSMAP_BATCH_DOMID));
  if (domid === undefined) return -ESRCH;
  const denied = physmapDenied(xen, caller, domid, space);
  if (denied !== 0) return denied;
  const count = args.u16(PHYSMAP_BATCH_COUNT);
  if (count < start) return -EILSEQ;
  // Nothing left is an answer for a fresh call only: a continuation always has something left.
  if (count === start) return start === 0 ? 0 : -EILSEQ;
  const foreign = args.u16(PHYSMAP_BATCH_EXTRA);
  if (space === XENMAPSPACE_dev_mmio && foreign !== 0) return -EOPNOTSUPP;
  return addBatch(xen, caller, {
    domid,
    generation: domainField(xen, domid, DOM.GENERATION),
    space,
    start,
    count,
    foreign,
    idxs: args.u64(PHYSMAP_BATCH_IDXS),
    gpfns: args.u64(PHYSMAP_BATCH_GPFNS),
    errs: args.u64(PHYSMAP_BATCH_ERRS),
  });
}

function* addBatch(xen: Xen, caller: Caller, batch: Batch): Preemptible {
  for (let i = batch.start; i < batch.count; i++) {
    if (i > batch.start && isGapDue(xen, i - batch.start)) yield GAP_PREEMPT;
    if (!isStillThere(xen, batch)) return -ESRCH;
    const placed = placeElement(xen, caller, batch, i);
    if (placed === undefined) return -EFAULT;
    if (placed === BAD_GFN) return -EINVAL;
    if (placed === PLACED_FLUSH && startFlush(xen, caller.slot, batch.domid) > 0) yield GAP_FLUSH;
    releaseHolds(xen, caller.slot);
    xen.listEntry.setU32(0, Math.min(placed, 0));
    if (!copyToGuest(xen, caller.domid, batch.errs + 4 * i, xen.listEntry.bytes, 0, 4)) {
      return -EFAULT;
    }
  }
  return 0;
}

/** The element names no gfn: the whole call ends there, without a word in its list. */
const BAD_GFN = 2;

/** Copies and carries out one element; undefined: a fault. */
function placeElement(xen: Xen, caller: Caller, batch: Batch, i: number): Placed | undefined {
  const idx = copyListEntry(xen, caller.domid, batch.idxs, i);
  const idxLow = xen.listEntry.u32(0);
  if (idx === undefined) return undefined;
  const gfn = copyListEntry(xen, caller.domid, batch.gpfns, i);
  if (gfn === undefined) return undefined;
  if (isInvalidGfn(xen.listEntry, 0)) return BAD_GFN;
  const { domid, space, foreign } = batch;
  return placeOne(xen, caller, { domid, space, idx, idxLow, gfn, foreign });
}

/** Whether the domain of the batch is still the one that was checked: a gap lets it go. */
const isStillThere = (xen: Xen, { domid, generation }: Batch): boolean =>
  isPresent(xen, domid) && domainField(xen, domid, DOM.GENERATION) === generation;

export function removeFromPhysmap(
  xen: Xen,
  caller: Caller,
  start: number,
  arg: number,
): number | Preemptible {
  const { args } = xen;
  if (start !== 0) return -EINVAL;
  if (!copyArgs(xen, caller.domid, arg, REMOVE_FROM_PHYSMAP_SIZE)) return -EFAULT;
  const domid = domainByAnyId(xen, caller, args.u16(REMOVE_FROM_PHYSMAP_DOMID));
  if (domid === undefined) return -ESRCH;
  if (isPv(xen, domid)) return -EACCES;
  if (!mayTarget(xen, caller, domid)) return -EPERM;
  const gfn = args.u64(REMOVE_FROM_PHYSMAP_GPFN);
  const frame = obtainableFrame(xen, domid, gfn);
  if (frame === NOT_PRESENT) return -ENOENT;
  const former = p2mRemoveMapping(xen, domid, gfn, frame);
  if (former < 0) return former;
  // A page removed this way stays owned: only the entry's own reference, that of a foreign page, goes.
  const flush = releaseFormer(xen, caller.slot, domid, former, NOT_PRESENT);
  return settled(xen, caller.slot, domid, placedOver(flush));
}

/**
 * Frame at `gfn` if a reference on it could be had in the domain's name: its own pages, or a foreign page of another
 * domain. NOT_PRESENT for everything else, a grant mapping of another domain's page among it.
 */
function obtainableFrame(xen: Xen, domid: DomId, gfn: number): FrameIndex {
  const none = FrameIndex(NOT_PRESENT);
  const entry = p2mLookup(xen, domid, gfn);
  const frame = entryFrame(entry);
  if (!isAnyRam(entryType(entry)) || !isRamFrame(xen, frame)) return none;
  const owner = isForeign(entryType(entry)) ? frameOwner(xen, frame) : domid;
  if (isForeign(entryType(entry)) && owner === domid) return none;
  if (!getPage(xen, frame, owner)) return none;
  putPage(xen, frame);
  return frame;
}
