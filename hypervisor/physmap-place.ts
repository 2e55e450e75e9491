/**
 * One entry of a domain's address space: what each space of add_to_physmap puts there, and how the former content goes.
 *
 * Rules: a xen heap page (grant frame, shared info) is mapped at one gfn of its owner at most and must be removed before
 * it can go elsewhere. A foreign entry holds a reference on its page for as long as it stands. What stood at the gfn is
 * replaced without a word: RAM stays owned, a foreign page's reference is on the hold list until the caller has flushed.
 * Functions here are plain; the caller flushes when the answer is PLACED_FLUSH.
 * Behaviour: xen/arch/arm/mm.c, xenmem_add_to_physmap_one(); xen/common/grant_table.c, gnttab_map_frame();
 * xen/arch/arm/include/asm/p2m.h, set_foreign_p2m_entry().
 */
import { XENMAPIDX_grant_table_status } from "../shared/abi/grant.ts";
import {
  XENMAPSPACE_dev_mmio,
  XENMAPSPACE_gmfn,
  XENMAPSPACE_gmfn_foreign,
  XENMAPSPACE_grant_table,
  XENMAPSPACE_shared_info,
} from "../shared/abi/memory.ts";
import { DOMID_IO, DOMID_XEN } from "../shared/abi/xen.ts";
import { item } from "../shared/assert.ts";
import { CONTEXT } from "../shared/iommu-layout.ts";
import { DOM, indexOf } from "../shared/layout.ts";
import { NOT_PRESENT } from "../shared/limits.ts";
import {
  isRam,
  p2m_map_foreign_ro,
  p2m_map_foreign_rw,
  p2m_mmio_direct_c,
  p2m_ram_rw,
} from "../shared/pte.ts";
import { EBUSY, EINVAL, ENOSYS, EPERM, ESRCH } from "../shared/status.ts";
import type { DomId } from "../shared/units.ts";
import { grantFrame } from "./active-entry.ts";
import {
  frameOwner,
  getPage,
  isXenHeap,
  putPage,
  putPageAllocRef,
  setXenHeapGfn,
  xenHeapGfn,
} from "./frame-table.ts";
import { growGrantTable } from "./grant-table.ts";
import { isV2, statusFrame, statusFrames } from "./grant-v2.ts";
import { holdPage } from "./hold-list.ts";
import { contextField } from "./iommu-context.ts";
import { entryFrame, entryType, type P2mEntry, p2mClear, p2mLookup, p2mSet } from "./p2m.ts";
import { dropAlias, insertionCrashes, releaseFormer } from "./p2m-insert.ts";
import { profileOf } from "./profile.ts";
import {
  type Caller,
  domainByAnyId,
  domainField,
  isPrivileged,
  mayTarget,
  type Xen,
} from "./xen.ts";

/** What placing an entry says: a negative errno, or whether the entry that it replaced must be flushed. */
export type Placed = number;
export const PLACED: Placed = 0;
export const PLACED_FLUSH: Placed = 1;
export const placedOver = (flush: boolean): Placed => (flush ? PLACED_FLUSH : PLACED);

/** Where something goes: a space and an index in it, and the gfn of the domain. */
export interface Placement {
  readonly domid: DomId;
  readonly space: number;
  /** The index, and its low half: a grant frame's index is cut to it on its way, as Xen does. */
  readonly idx: number;
  readonly idxLow: number;
  readonly gfn: number;
  /** Domain of a foreign page; 0 for every other space. */
  readonly foreign: number;
}

/** One entry of any space. What it replaced is on the hold list of the caller's slot, and the caller flushes. */
export function placeOne(xen: Xen, caller: Caller, place: Placement): Placed {
  const { domid, space, gfn } = place;
  switch (space) {
    case XENMAPSPACE_grant_table: {
      // Version 1 has no status frames, so bit 31 is part of the index.
      const frame = grantFrameFor(xen, domid, place.idxLow);
      if (frame < 0) return frame;
      if (!getPage(xen, frame, domid)) return -EBUSY;
      const placed = placeXenPage(xen, caller, domid, frame, gfn);
      putPage(xen, frame);
      return placed;
    }
    case XENMAPSPACE_shared_info: {
      if (place.idx !== 0) return -EINVAL;
      return placeXenPage(xen, caller, domid, domainField(xen, domid, DOM.SHARED_INFO), gfn);
    }
    case XENMAPSPACE_gmfn_foreign:
      return placeForeign(xen, caller, place);
    case XENMAPSPACE_dev_mmio:
      return placeDevicePage(xen, caller, domid, place.idx, gfn);
    case XENMAPSPACE_gmfn:
      return profileOf(xen).movesPages ? movePage(xen, caller, place) : -ENOSYS;
    default:
      return profileOf(xen).badSpace;
  }
}

/** Grant frame `index`, growing the table to reach it; -EINVAL when it cannot. */
export function grantFrameFor(xen: Xen, domid: DomId, index: number): number {
  if (isV2(xen, domid) && index >= XENMAPIDX_grant_table_status) {
    const n = index - XENMAPIDX_grant_table_status;
    return n < statusFrames(xen, domid) ? statusFrame(xen, domid, n) : -EINVAL;
  }
  if (index >= domainField(xen, domid, DOM.MAX_GRANT_FRAMES)) return -EINVAL;
  if (index >= domainField(xen, domid, DOM.GRANT_FRAMES)) {
    if (growGrantTable(xen, domid, index + 1) !== 0) return -EINVAL;
  }
  return grantFrame(xen, domid, index);
}

/** Maps a xen heap page at `gfn`, unless it is mapped somewhere already (-EBUSY). */
function placeXenPage(xen: Xen, caller: Caller, domid: DomId, frame: number, gfn: number): Placed {
  const stands = xenHeapGfn(xen, frame);
  if (stands !== NOT_PRESENT && !profileOf(xen).movesPages) return -EBUSY;
  if (insertionCrashes(xen, caller.slot, domid, gfn)) return -EPERM;
  const former = p2mSet(xen, domid, gfn, frame, p2m_ram_rw);
  if (former < 0) return former;
  const moved = stands !== NOT_PRESENT && stands !== gfn && p2mClear(xen, domid, stands) > 0;
  const freed = freeReplaced(xen, caller.slot, domid, former, frame);
  const flush = releaseFormer(xen, caller.slot, domid, former, frame);
  setXenHeapGfn(xen, frame, gfn);
  return placedOver(flush || moved || freed);
}

/** Where pages move, a page of RAM that another one takes the place of is given back; it is held until the flush. */
function freeReplaced(
  xen: Xen,
  slot: number,
  domid: DomId,
  former: P2mEntry,
  now: number,
): boolean {
  const frame = entryFrame(former);
  if (!profileOf(xen).movesPages || !isRam(entryType(former)) || frame === now) return false;
  if (isXenHeap(xen, frame) || !getPage(xen, frame, domid)) return false;
  putPageAllocRef(xen, frame);
  holdPage(xen, slot, frame);
  return true;
}

/** Moves a page of the domain's RAM from the gfn in the index; what stood at the new one is given back. */
function movePage(xen: Xen, caller: Caller, place: Placement): Placed {
  const { domid, idx, gfn } = place;
  const entry = p2mLookup(xen, domid, idx);
  const frame = entryFrame(entry);
  if (!isRam(entryType(entry)) || isXenHeap(xen, frame)) return -EINVAL;
  if (frameOwner(xen, frame) !== domid) return -EINVAL;
  if (insertionCrashes(xen, caller.slot, domid, gfn)) return -EPERM;
  const former = p2mSet(xen, domid, gfn, frame, p2m_ram_rw);
  if (former < 0) return former;
  const moved = dropAlias(xen, domid, gfn, frame);
  const freed = freeReplaced(xen, caller.slot, domid, former, frame);
  const flush = releaseFormer(xen, caller.slot, domid, former, frame);
  return placedOver(flush || moved || freed);
}

/** Maps a register page that the domain owns; for any other frame the answer is 0 too, and nothing is mapped. */
function placeDevicePage(xen: Xen, caller: Caller, domid: DomId, mfn: number, gfn: number): Placed {
  const frame = indexOf(xen.layout, xen.words, mfn);
  const device = xen.model.devices[frame - xen.layout.ramFrames];
  const { name } = item(xen.model.domains, domainField(xen, domid, DOM.MODEL));
  if (device?.owner !== name) return PLACED;
  // Another domain of the same description may have the device.
  if (contextField(xen, frame - xen.layout.ramFrames, CONTEXT.OWNER) !== domid) return PLACED;
  const former = p2mSet(xen, domid, gfn, frame, p2m_mmio_direct_c);
  if (former < 0) return former;
  return placedOver(releaseFormer(xen, caller.slot, domid, former, frame));
}

/** Domain whose page is asked for. The caller's own id is nobody here, but DOMID_SELF is the caller. */
function foreignOwner(xen: Xen, caller: Caller, id: number): DomId | undefined {
  return id === caller.domid ? undefined : domainByAnyId(xen, caller, id);
}

/**
 * Maps a RAM page of another domain. The mapper, not the caller, needs the right over the owner. The reference that
 * is taken stays for the life of the entry. Whether the owner is dying does not matter while it has the page.
 */
function placeForeign(xen: Xen, caller: Caller, place: Placement): Placed {
  const { domid, foreign } = place;
  const mapper = { slot: caller.slot, domid };
  if (foreign === DOMID_IO || foreign === DOMID_XEN) {
    // Nothing on this machine belongs to either.
    return isPrivileged(xen, mapper) ? -EINVAL : -EPERM;
  }
  const owner = foreignOwner(xen, caller, foreign);
  if (owner === undefined) return -ESRCH;
  if (owner === domid) return -EINVAL;
  if (!mayTarget(xen, mapper, owner)) return -EPERM;
  const entry = p2mLookup(xen, owner, place.idx);
  const frame = entryFrame(entry);
  if (!isRam(entryType(entry)) || !getPage(xen, frame, owner)) return -EINVAL;
  const type = entryType(entry) === p2m_ram_rw ? p2m_map_foreign_rw : p2m_map_foreign_ro;
  return enterForeign(xen, caller.slot, domid, place.gfn, frame, type);
}

/** Enters a foreign page whose reference has been taken: the entry has it from now on, or it is dropped at once. */
function enterForeign(
  xen: Xen,
  slot: number,
  domid: DomId,
  gfn: number,
  frame: number,
  type: number,
): Placed {
  const former = p2mSet(xen, domid, gfn, frame, type);
  if (former < 0) {
    putPage(xen, frame);
    return former;
  }
  return placedOver(releaseFormer(xen, slot, domid, former, frame));
}

/** Maps a xen heap page of another domain for writing: it may stand in any number of tables beside its owner's. */
export function placeResource(
  xen: Xen,
  caller: Caller,
  owner: DomId,
  frame: number,
  gfn: number,
): Placed {
  if (!getPage(xen, frame, owner)) return -EINVAL;
  return enterForeign(xen, caller.slot, caller.domid, gfn, frame, p2m_map_foreign_rw);
}
