/**
 * add_to_physmap and remove_from_physmap: special pages find their place in a domain's address space.
 *
 * Rules: a xen heap page (grant frame, shared info) is mapped at one gfn at most and must be removed before it can
 * go elsewhere. What stood at the gfn is replaced without a word: RAM stays owned, a foreign page loses the entry's
 * reference after the flush. Arm64 cannot move pages.
 * Behaviour: xen/common/memory.c, xatp_permission_check(), xenmem_add_to_physmap();
 * xen/arch/arm/mm.c, xenmem_add_to_physmap_one(); xen/common/grant_table.c, gnttab_map_frame().
 */
import {
  ADD_TO_PHYSMAP_DOMID,
  ADD_TO_PHYSMAP_GPFN,
  ADD_TO_PHYSMAP_IDX,
  ADD_TO_PHYSMAP_LENGTH,
  ADD_TO_PHYSMAP_SIZE,
  ADD_TO_PHYSMAP_SPACE,
  REMOVE_FROM_PHYSMAP_DOMID,
  REMOVE_FROM_PHYSMAP_GPFN,
  REMOVE_FROM_PHYSMAP_SIZE,
  XENMAPSPACE_dev_mmio,
  XENMAPSPACE_gmfn_foreign,
  XENMAPSPACE_gmfn_range,
  XENMAPSPACE_grant_table,
  XENMAPSPACE_shared_info,
} from "../shared/abi/memory.ts";
import { item } from "../shared/assert.ts";
import { CDF_hardware, DOM, indexOf } from "../shared/layout.ts";
import { NOT_PRESENT } from "../shared/limits.ts";
import { isAnyRam, isForeign, isRam, p2m_mmio_direct_c, p2m_ram_rw } from "../shared/pte.ts";
import {
  EACCES,
  EBUSY,
  EDOM,
  EFAULT,
  EILSEQ,
  EINVAL,
  ENOENT,
  ENOSYS,
  EOVERFLOW,
  EPERM,
  ESRCH,
} from "../shared/status.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import { grantFrame } from "./active-entry.ts";
import { startFlush } from "./flush.ts";
import {
  frameOwner,
  getPage,
  isRamFrame,
  putPage,
  setXenHeapGfn,
  xenHeapGfn,
} from "./frame-table.ts";
import { growGrantTable } from "./grant-table.ts";
import { copyArgs } from "./guest-access.ts";
import { holdPage, releaseHolds } from "./hold-list.ts";
import {
  entryFrame,
  entryType,
  forgetXenHeapGfn,
  needsFlush,
  type P2mEntry,
  p2mLookup,
  p2mRemoveMapping,
  p2mSet,
} from "./p2m.ts";
import {
  type Caller,
  domainByAnyId,
  domainField,
  GAP_FLUSH,
  hasFlag,
  mayTarget,
  type Preemptible,
  type Xen,
} from "./xen.ts";

/** Largest start that fits the 16-bit size of the structure. */
const START_MAX = 0xffff;

/**
 * Lets go of what a replaced or removed entry stood for: a foreign page's reference goes to the hold list, a xen
 * heap page forgets its gfn. An entry that names the same frame as before releases nothing. True: a flush is due.
 */
export function releaseFormer(
  xen: Xen,
  slot: number,
  domid: DomId,
  former: P2mEntry,
  now: number,
): boolean {
  const type = entryType(former);
  if (entryFrame(former) !== now) {
    if (isForeign(type)) holdPage(xen, slot, entryFrame(former));
    else if (isRam(type)) forgetXenHeapGfn(xen, domid, former);
  }
  return needsFlush(former);
}

/** Ends a call that may have taken a translation away: with a gap only if somebody may still be using it. */
function settled(xen: Xen, slot: number, domid: DomId, flush: boolean): number | Preemptible {
  if (flush && startFlush(xen, slot, domid) > 0) return afterFlush(xen, slot);
  releaseHolds(xen, slot);
  return 0;
}

function* afterFlush(xen: Xen, slot: number): Preemptible {
  yield GAP_FLUSH;
  releaseHolds(xen, slot);
  return 0;
}

/** A gfn field of all ones is INVALID_GFN; anything else that is too large fails when the entry is set. */
const isInvalidGfn = (xen: Xen, offset: number): boolean =>
  xen.args.u32(offset) === 0xffffffff && xen.args.u32(offset + 4) === 0xffffffff;

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
  if (isInvalidGfn(xen, ADD_TO_PHYSMAP_GPFN)) return -EINVAL;
  if (space === XENMAPSPACE_gmfn_range) return addRange(xen, start);
  return addOne(xen, caller, domid, space, args.u64(ADD_TO_PHYSMAP_GPFN));
}

/** Device pages are for the hardware domain itself; everything else is the usual question of rights. */
function physmapDenied(xen: Xen, caller: Caller, domid: DomId, space: number): number {
  const ownDevices = hasFlag(xen, domid, CDF_hardware) && domid === caller.domid;
  if (space === XENMAPSPACE_dev_mmio && !ownDevices) return -EACCES;
  return mayTarget(xen, caller, domid) ? 0 : -EPERM;
}

/** A range of the caller's own pages: its shape is checked, then there is nothing to do or no way to do it. */
function addRange(xen: Xen, start: number): number {
  const { args } = xen;
  const size = args.u16(ADD_TO_PHYSMAP_LENGTH);
  if (size < start) return -EILSEQ;
  if (wraps(xen, ADD_TO_PHYSMAP_IDX, size) || wraps(xen, ADD_TO_PHYSMAP_GPFN, size)) {
    return -EOVERFLOW;
  }
  return size === start ? 0 : -ENOSYS;
}

/** Whether a 64-bit field plus `size` passes its end. */
const wraps = (xen: Xen, offset: number, size: number): boolean =>
  xen.args.u32(offset + 4) === 0xffffffff && xen.args.u32(offset) + size > 0xffffffff;

function addOne(
  xen: Xen,
  caller: Caller,
  domid: DomId,
  space: number,
  gfn: number,
): number | Preemptible {
  const { args } = xen;
  switch (space) {
    case XENMAPSPACE_grant_table: {
      // The index is cut to 32 bits on its way. Version 1 has no status frames, so bit 31 is part of it.
      const frame = grantFrameFor(xen, domid, args.u32(ADD_TO_PHYSMAP_IDX));
      if (frame < 0) return frame;
      if (!getPage(xen, frame, domid)) return -EBUSY;
      const ret = placeXenPage(xen, caller, domid, frame, gfn);
      putPage(xen, frame);
      return ret;
    }
    case XENMAPSPACE_shared_info: {
      if (args.u64(ADD_TO_PHYSMAP_IDX) !== 0) return -EINVAL;
      const frame = domainField(xen, domid, DOM.SHARED_INFO);
      return placeXenPage(xen, caller, domid, frame, gfn);
    }
    case XENMAPSPACE_dev_mmio:
      return placeDevicePage(xen, caller, domid, args.u64(ADD_TO_PHYSMAP_IDX), gfn);
    default:
      return -ENOSYS;
  }
}

/** Grant frame `index`, growing the table to reach it; -EINVAL when it cannot. */
function grantFrameFor(xen: Xen, domid: DomId, index: number): number {
  if (index >= domainField(xen, domid, DOM.MAX_GRANT_FRAMES)) return -EINVAL;
  if (index >= domainField(xen, domid, DOM.GRANT_FRAMES)) {
    if (growGrantTable(xen, domid, index + 1) !== 0) return -EINVAL;
  }
  return grantFrame(xen, domid, index);
}

/** Maps a xen heap page at `gfn`, unless it is mapped somewhere already (-EBUSY). */
function placeXenPage(
  xen: Xen,
  caller: Caller,
  domid: DomId,
  frame: number,
  gfn: number,
): number | Preemptible {
  if (xenHeapGfn(xen, frame) !== NOT_PRESENT) return -EBUSY;
  const former = p2mSet(xen, domid, gfn, frame, p2m_ram_rw);
  if (former < 0) return former;
  const flush = releaseFormer(xen, caller.slot, domid, former, frame);
  setXenHeapGfn(xen, frame, gfn);
  return settled(xen, caller.slot, domid, flush);
}

/** Maps a register page that the domain owns; for any other frame the answer is 0 too, and nothing is mapped. */
function placeDevicePage(
  xen: Xen,
  caller: Caller,
  domid: DomId,
  mfn: number,
  gfn: number,
): number | Preemptible {
  const frame = indexOf(xen.layout, xen.words, mfn);
  const device = xen.model.devices[frame - xen.layout.ramFrames];
  const { name } = item(xen.model.domains, domainField(xen, domid, DOM.MODEL));
  if (device?.owner !== name) return 0;
  const former = p2mSet(xen, domid, gfn, frame, p2m_mmio_direct_c);
  if (former < 0) return former;
  return settled(xen, caller.slot, domid, releaseFormer(xen, caller.slot, domid, former, frame));
}

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
  if (!mayTarget(xen, caller, domid)) return -EPERM;
  const gfn = args.u64(REMOVE_FROM_PHYSMAP_GPFN);
  const frame = obtainableFrame(xen, domid, gfn);
  if (frame === NOT_PRESENT) return -ENOENT;
  const former = p2mRemoveMapping(xen, domid, gfn, frame);
  if (former < 0) return former;
  // A page removed this way stays owned: only the entry's own reference, that of a foreign page, goes.
  const flush = releaseFormer(xen, caller.slot, domid, former, NOT_PRESENT);
  return settled(xen, caller.slot, domid, flush);
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
