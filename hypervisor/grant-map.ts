/**
 * GNTTABOP_map_grant_ref: check, then commit.
 *
 * The check follows Xen's order step by step; the one thing it writes is GTF_reading and GTF_writing in the shared
 * entry, and a later refusal takes them back. The commit can only assert: pin, frame reference, P2M entry of the
 * mapper, identity entry, maptrack record with its flags last.
 * Behaviour: xen/common/grant_table.c, map_grant_ref(); xen/arch/arm/mm.c, create_grant_host_mapping().
 */

import {
  GNTMAP_application_map,
  GNTMAP_contains_pte,
  GNTMAP_device_map,
  GNTMAP_host_map,
  GNTMAP_readonly,
  MAP_DEV_BUS_ADDR,
  MAP_DOM,
  MAP_FLAGS,
  MAP_HANDLE,
  MAP_HOST_ADDR,
  MAP_REF,
  MAP_SIZE,
  MAP_STATUS,
} from "../shared/abi/grant.ts";
import { assert } from "../shared/assert.ts";
import { LINE, mfnAt } from "../shared/layout.ts";
import { NOT_PRESENT, PAGE_SIZE } from "../shared/limits.ts";
import { isAnyRam, isForeign, p2m_grant_map_ro, p2m_grant_map_rw } from "../shared/pte.ts";
import {
  EFAULT,
  GNTST_bad_domain,
  GNTST_bad_gntref,
  GNTST_bad_page,
  GNTST_eagain,
  GNTST_general_error,
  GNTST_no_space,
  GNTST_okay,
  GNTST_permission_denied,
} from "../shared/status.ts";
import { hypervisorRing, TRACE_GRANT_MAP, TRACE_GRANT_REFUSED, trace } from "../shared/trace.ts";
import type { DomId } from "../shared/units.ts";
import {
  activeFrame,
  activeKind,
  activePin,
  grantEntries,
  needsStatus,
  pinAdmits,
  pinIncrement,
  reduceStatus,
  setStatus,
  sharedGfn,
  takePin,
} from "./active-entry.ts";
import { startFlush } from "./flush.ts";
import { getPage, putPage } from "./frame-table.ts";
import { WHOLE_PAGE } from "./grant-v2.ts";
import { copyArgs, copyToGuest } from "./guest-access.ts";
import { holdPage, releaseHolds } from "./hold-list.ts";
import { isPagedOut } from "./inject.ts";
import { identityMap, identityPrepare, needIommuMapping } from "./iommu.ts";
import { getHandle, publishHandle, putHandle } from "./maptrack.ts";
import {
  entryFrame,
  entryType,
  forgetXenHeapGfn,
  needsFlush,
  P2M_NOTHING,
  type P2mEntry,
  p2mEnter,
  p2mLookup,
  p2mPrepare,
} from "./p2m.ts";
import { dropAlias, insertionCrashes } from "./p2m-insert.ts";
import { isPv } from "./page-type.ts";
import {
  dropMappingReferences,
  enterGrantPte,
  grantPlace,
  takeMappingReferences,
} from "./pv-grant.ts";
import {
  type Caller,
  domainById,
  GAP_FLUSH,
  GAP_PREEMPT,
  isGapDue,
  isPrivileged,
  lineField,
  type Preemptible,
  type Xen,
} from "./xen.ts";

/** What is asked, and what the check establishes for the commit. */
interface Mapping {
  readonly granter: DomId;
  readonly ref: number;
  readonly gfn: number;
  readonly readonly: boolean;
  readonly flags: number;
  readonly handle: number;
  /** Set by `checkEntry`, which holds a reference on it then. */
  frame: number;
  /** Where the mapper's P2M entry goes, as `p2mPrepare` found it. */
  place: number;
}

/** The batch: each element is copied just before it is processed and written back whole. */
export function* mapGrantRefs(xen: Xen, caller: Caller, uop: number, count: number): Preemptible {
  for (let i = 0; i < count; i++) {
    if (i > 0 && isGapDue(xen, i)) yield GAP_PREEMPT;
    const element = uop + i * MAP_SIZE;
    if (!copyArgs(xen, caller.domid, element, MAP_SIZE)) return -EFAULT;
    const mapping = isPagedOut(xen, caller.slot) ? GNTST_eagain : checkMap(xen, caller);
    if (typeof mapping === "number") {
      xen.args.setU16(MAP_STATUS, mapping);
    } else {
      const flush = commitMap(xen, caller, mapping);
      xen.args.setU16(MAP_STATUS, GNTST_okay);
      xen.args.setU32(MAP_HANDLE, mapping.handle);
      xen.args.setU64(MAP_DEV_BUS_ADDR, mfnAt(xen.layout, mapping.frame) * PAGE_SIZE);
      const told = copyToGuest(xen, caller.domid, element, xen.args.bytes, 0, MAP_SIZE);
      // Also when nobody can be told: what was replaced is flushed and let go.
      if (flush) {
        if (startFlush(xen, caller.slot, caller.domid) > 0) yield GAP_FLUSH;
        releaseHolds(xen, caller.slot);
      }
      if (!told) return -EFAULT;
      continue;
    }
    if (!copyToGuest(xen, caller.domid, element, xen.args.bytes, 0, MAP_SIZE)) return -EFAULT;
  }
  return 0;
}

/** Steps 1 to 5, which need nothing of the granter's table. Returns a mapping or a GNTST_*. */
function checkMap(xen: Xen, caller: Caller): Mapping | number {
  const { args } = xen;
  const flags = args.u32(MAP_FLAGS);
  if ((flags & (GNTMAP_device_map | GNTMAP_host_map)) === 0) return GNTST_bad_gntref;
  // Translated-external callers map pages into their physmap only.
  const translated = !isPv(xen, caller.domid);
  const pvOnly = GNTMAP_device_map | GNTMAP_application_map | GNTMAP_contains_pte;
  if ((flags & pvOnly) !== 0 && translated) return GNTST_general_error;
  const granter = domainById(xen, args.u16(MAP_DOM));
  if (granter === undefined) return GNTST_bad_domain;
  if (!mayGrant(xen, caller, granter)) return GNTST_permission_denied;
  const handle = getHandle(xen, caller.domid, lineField(xen, caller.slot, LINE.NUMBER));
  if (handle === NOT_PRESENT) return GNTST_no_space;
  const mapping: Mapping = {
    granter,
    ref: args.u32(MAP_REF),
    gfn: Math.floor(args.u64(MAP_HOST_ADDR) / PAGE_SIZE),
    readonly: (flags & GNTMAP_readonly) !== 0,
    flags,
    handle,
    frame: NOT_PRESENT,
    place: NOT_PRESENT,
  };
  const status = checkEntry(xen, caller, mapping);
  if (status === GNTST_okay) return mapping;
  putHandle(xen, caller.domid, handle);
  refused(xen, caller, granter, status);
  return status;
}

/** XSM: the default policy lets everybody; SILO wants a control domain on one side. */
export const mayGrant = (xen: Xen, caller: Caller, other: DomId): boolean =>
  xen.model.xsm !== "silo" ||
  caller.domid === other ||
  isPrivileged(xen, caller) ||
  isPrivileged(xen, { slot: caller.slot, domid: other });

/**
 * Steps 6 to 16. Returns GNTST_okay with the frame found, a page reference on it held and status bits set, or another
 * GNTST_* with nothing left behind.
 */
function checkEntry(xen: Xen, caller: Caller, mapping: Mapping): number {
  const { granter, ref, readonly, flags } = mapping;
  if (ref >= grantEntries(xen, granter)) return GNTST_bad_gntref;
  const increment = incrementOf(flags);
  if (!pinAdmits(xen, granter, ref, caller.domid, readonly, increment)) return GNTST_general_error;
  const pin = activePin(xen, granter, ref);
  // What is pinned as a part of a page is for copies only.
  if (pin !== 0 && activeKind(xen, granter, ref) !== 0) return GNTST_general_error;
  if (needsStatus(pin, readonly)) {
    const status = setStatus(xen, granter, ref, caller.domid, readonly);
    if (status !== GNTST_okay) return status;
  }
  const frame =
    pin === 0
      ? grantedFrame(xen, granter, sharedGfn(xen, granter, ref))
      : activeFrame(xen, granter, ref);
  if (frame < 0) {
    reduceStatus(xen, granter, ref, readonly);
    return frame;
  }
  mapping.frame = frame;
  // A pinned frame needs its own reference; its owner may be dying, but still owns it.
  if (pin === 0 || getPage(xen, frame, granter)) {
    if (takeMappingReferences(xen, caller.domid, granter, frame, flags)) {
      const ready = isPv(xen, caller.domid)
        ? pteReady(xen, caller, flags) && devicesReady(xen, caller, mapping)
        : entryPathReady(xen, caller, mapping);
      if (ready) return GNTST_okay;
      dropMappingReferences(xen, caller.domid, granter, frame, flags);
    }
    putPage(xen, frame);
  }
  reduceStatus(xen, granter, ref, readonly);
  return GNTST_general_error;
}

/** Frame behind the granter's gfn with a reference taken, or GNTST_bad_page. */
export function grantedFrame(xen: Xen, granter: DomId, gfn: number): number {
  const entry = p2mLookup(xen, granter, gfn);
  const type = entryType(entry);
  if (!isAnyRam(type) || isForeign(type)) return GNTST_bad_page;
  const frame = entryFrame(entry);
  return getPage(xen, frame, granter) ? frame : GNTST_bad_page;
}

/** The host mapping's own rules: no stray flag, and a P2M that can take the entries. */
function entryPathReady(xen: Xen, caller: Caller, mapping: Mapping): boolean {
  if ((mapping.flags & ~GNTMAP_readonly) !== GNTMAP_host_map) return false;
  mapping.place = p2mPrepare(xen, caller.domid, mapping.gfn);
  if (mapping.place < 0) return false;
  if (insertionCrashes(xen, caller.slot, caller.domid, mapping.gfn)) return false;
  return devicesReady(xen, caller, mapping);
}

/** The table of the mapper's devices can take an identity entry, where one is needed. */
const devicesReady = (xen: Xen, caller: Caller, { granter, frame }: Mapping): boolean =>
  caller.domid === granter ||
  !needIommuMapping(xen, caller.domid) ||
  identityPrepare(xen, caller.domid, frame) === 0;

/** A PV mapper needs an entry in its own tables, unless only a device is to reach the page. */
const pteReady = (xen: Xen, caller: Caller, flags: number): boolean =>
  (flags & GNTMAP_host_map) === 0 ||
  grantPlace(xen, caller, xen.args.u64(MAP_HOST_ADDR), flags) !== undefined;

const incrementOf = (flags: number): number =>
  pinIncrement(
    (flags & GNTMAP_readonly) !== 0,
    (flags & GNTMAP_host_map) !== 0,
    (flags & GNTMAP_device_map) !== 0,
  );

/** As `commitMap`, for a PV mapper: its own page tables instead of a P2M. */
function commitPvMap(xen: Xen, caller: Caller, mapping: Mapping): boolean {
  const { granter, ref, frame, readonly, flags } = mapping;
  takePin(xen, granter, ref, caller.domid, frame, readonly, WHOLE_PAGE, false, incrementOf(flags));
  let flush = false;
  if ((flags & GNTMAP_host_map) !== 0) {
    const place = grantPlace(xen, caller, xen.args.u64(MAP_HOST_ADDR), flags);
    assert(place !== undefined, "a checked entry is still there");
    flush = enterGrantPte(xen, caller, place, frame, flags);
  }
  const identity = enterIdentity(xen, caller, mapping);
  publishHandle(xen, caller.domid, mapping.handle, granter, ref, flags & 0xffff);
  traceMap(xen, caller, mapping);
  return flush || needsFlush(identity);
}

/** The identity entry of a foreign page, where the mapper needs one; returns what it replaced. */
function enterIdentity(xen: Xen, caller: Caller, { granter, frame, readonly }: Mapping): number {
  if (caller.domid === granter || !needIommuMapping(xen, caller.domid)) return P2M_NOTHING;
  const former = identityMap(xen, caller.domid, frame, readonly);
  assert(former >= 0, "a prepared identity entry can be set");
  return former;
}

/** Enters everything; returns whether a former translation must be flushed. What it held is on the hold list. */
function commitMap(xen: Xen, caller: Caller, mapping: Mapping): boolean {
  if (isPv(xen, caller.domid)) return commitPvMap(xen, caller, mapping);
  const { granter, ref, frame, readonly, gfn, place } = mapping;
  takePin(xen, granter, ref, caller.domid, frame, readonly);
  const type = readonly ? p2m_grant_map_ro : p2m_grant_map_rw;
  const former = p2mEnter(xen, caller.domid, gfn, place, frame, type);
  // The previous content is replaced without any check; RAM stays owned, a foreign page loses its reference.
  if (former !== P2M_NOTHING) letGoOf(xen, caller, former);
  const identity = enterIdentity(xen, caller, mapping);
  if (identity !== P2M_NOTHING) letGoOf(xen, caller, identity);
  publishHandle(xen, caller.domid, mapping.handle, granter, ref, mapping.flags & 0xffff);
  traceMap(xen, caller, mapping);
  const moved = dropAlias(xen, caller.domid, mapping.gfn, frame);
  return moved || needsFlush(former) || needsFlush(identity);
}

/** What an entry named that another has taken the place of: its references go after the flush. */
function letGoOf(xen: Xen, { slot, domid }: Caller, former: P2mEntry): void {
  forgetXenHeapGfn(xen, domid, former);
  if (isForeign(entryType(former))) holdPage(xen, slot, entryFrame(former));
}

function traceMap(xen: Xen, caller: Caller, mapping: Mapping): void {
  const { granter, ref, gfn, frame, flags } = mapping;
  const { words, layout } = xen;
  trace(
    words,
    layout,
    hypervisorRing(layout),
    TRACE_GRANT_MAP,
    caller.domid,
    granter,
    ref,
    gfn,
    frame,
    flags,
  );
}

function refused(xen: Xen, caller: Caller, granter: DomId, status: number): void {
  const { words, layout } = xen;
  const ref = xen.args.u32(MAP_REF);
  trace(
    words,
    layout,
    hypervisorRing(layout),
    TRACE_GRANT_REFUSED,
    caller.domid,
    granter,
    ref,
    status,
  );
}
