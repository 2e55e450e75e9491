/**
 * GNTTABOP_unmap_grant_ref and unmap_and_replace: two passes per batch of 32.
 *
 *   pass 1, per element: maptrack, host entry of the P2M, identity entry; what is left to do is held
 *   one flush for the batch (a gap)
 *   pass 2, per element: page reference, pin, status bits
 *
 * So the granter sees its bits cleared only after the mapper's translations are unusable, and a frame is free only
 * after the flush. Behaviour: xen/common/grant_table.c, unmap_common(), unmap_common_complete(), gnttab_flush_tlb();
 * xen/arch/arm/mm.c, replace_grant_host_mapping().
 */
import {
  GNTMAP_device_map,
  GNTMAP_host_map,
  GNTMAP_readonly,
  UNMAP_DEV_BUS_ADDR,
  UNMAP_HANDLE,
  UNMAP_HOST_ADDR,
  UNMAP_SIZE,
  UNMAP_STATUS,
} from "../shared/abi/grant.ts";
import { DOM, mfnAt } from "../shared/layout.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import { isForeign, p2m_grant_map_ro, p2m_grant_map_rw } from "../shared/pte.ts";
import {
  EFAULT,
  GNTST_bad_dev_addr,
  GNTST_bad_handle,
  GNTST_general_error,
  GNTST_okay,
  GNTST_permission_denied,
} from "../shared/status.ts";
import { hypervisorRing, TRACE_GRANT_UNMAP, trace } from "../shared/trace.ts";
import type { DomId } from "../shared/units.ts";
import { activeFrame, grantEntries } from "./active-entry.ts";
import { startFlush } from "./flush.ts";
import { mayGrant } from "./grant-map.ts";
import { copyArgs, copyToGuest } from "./guest-access.ts";
import { holdPage, holdUnmap, releaseHolds } from "./hold-list.ts";
import { identityUnmap, needIommuMapping } from "./iommu.ts";
import { putHandle, setTrackFlags, trackDomid, trackFlags, trackRef } from "./maptrack.ts";
import { entryFrame, entryType, forgetXenHeapGfn, p2mLookup, p2mRemoveMapping } from "./p2m.ts";
import { crashDomain } from "./p2m-insert.ts";
import { isPv } from "./page-type.ts";
import { profileOf } from "./profile.ts";
import { deviceIsTyped, hostIsTyped, replaceGrantPte } from "./pv-grant.ts";
import {
  addDomainField,
  type Caller,
  domainById,
  domainField,
  GAP_FLUSH,
  GAP_PREEMPT,
  gapEvery,
  type Preemptible,
  type Xen,
} from "./xen.ts";

export const unmapGrantRefs = (xen: Xen, caller: Caller, uop: number, count: number): Preemptible =>
  unmapBatches(xen, caller, uop, count, unmapElement);

/** Structure of the same size, with new_addr in the place of dev_bus_addr. */
export const unmapAndReplace = (
  xen: Xen,
  caller: Caller,
  uop: number,
  count: number,
): Preemptible => unmapBatches(xen, caller, uop, count, replaceElement);

type PassOne = (xen: Xen, caller: Caller) => number;

function* unmapBatches(
  xen: Xen,
  caller: Caller,
  uop: number,
  count: number,
  passOne: PassOne,
): Preemptible {
  let end = 0;
  for (let first = 0; first < count; first = end) {
    if (first > 0) yield GAP_PREEMPT;
    end = Math.min(count, first + gapEvery(xen));
    const faulted = unmapBatch(xen, caller, uop, first, end, passOne);
    // A copy fault flushes and completes what was done before it is reported.
    if (startFlush(xen, caller.slot, caller.domid) > 0) yield GAP_FLUSH;
    releaseHolds(xen, caller.slot);
    if (faulted) return -EFAULT;
  }
  return 0;
}

/** Pass 1 for elements first..end; true when copying one of them faulted. */
function unmapBatch(
  xen: Xen,
  caller: Caller,
  uop: number,
  first: number,
  end: number,
  passOne: PassOne,
): boolean {
  for (let i = first; i < end; i++) {
    const element = uop + i * UNMAP_SIZE;
    if (!copyArgs(xen, caller.domid, element, UNMAP_SIZE)) return true;
    xen.args.setU16(UNMAP_STATUS, passOne(xen, caller));
    const status = element + UNMAP_STATUS;
    if (!copyToGuest(xen, caller.domid, status, xen.args.bytes, UNMAP_STATUS, 2)) return true;
  }
  return false;
}

/** What one element asks for. An address of 0 means "leave that half alone". */
interface Unmap {
  readonly handle: number;
  readonly hostAddress: number;
  readonly devBusAddress: number;
  /** Its entry is to take the mapping's place; 0: none. */
  readonly newAddress: number;
}

const unmapElement = (xen: Xen, caller: Caller): number =>
  unmapHalves(xen, caller, {
    handle: xen.args.u32(UNMAP_HANDLE),
    hostAddress: xen.args.u64(UNMAP_HOST_ADDR),
    devBusAddress: xen.args.u64(UNMAP_DEV_BUS_ADDR),
    newAddress: 0,
  });

/** new_addr lies where unmap has dev_bus_addr. */
const replaceElement = (xen: Xen, caller: Caller): number =>
  unmapHalves(xen, caller, {
    handle: xen.args.u32(UNMAP_HANDLE),
    hostAddress: xen.args.u64(UNMAP_HOST_ADDR),
    devBusAddress: 0,
    newAddress: xen.args.u64(UNMAP_DEV_BUS_ADDR),
  });

/** Pass 1 of one element. */
function unmapHalves(xen: Xen, caller: Caller, asked: Unmap): number {
  const { handle, hostAddress, devBusAddress } = asked;
  const mapper = caller.domid;
  if (handle >= domainField(xen, mapper, DOM.MAPTRACK_LIMIT)) return GNTST_bad_handle;
  const flags = trackFlags(xen, mapper, handle);
  if (flags === 0) return GNTST_bad_handle;
  const granter = domainById(xen, trackDomid(xen, mapper, handle));
  // A granter's struct domain outlives every mapping of its pages, but a PV mapper may have dropped its entry itself.
  if (granter === undefined) {
    crashDomain(xen, caller.slot, mapper);
    return GNTST_general_error;
  }
  if (!mayGrant(xen, caller, granter)) return GNTST_permission_denied;
  const ref = trackRef(xen, mapper, handle);
  if (ref >= grantEntries(xen, granter)) return GNTST_bad_handle;
  const frame = activeFrame(xen, granter, ref);
  const readonly = (flags & GNTMAP_readonly) !== 0;
  const device = devBusAddress !== 0 && (flags & GNTMAP_device_map) !== 0;
  if (device && devBusAddress !== mfnAt(xen.layout, frame) * PAGE_SIZE) return GNTST_bad_dev_addr;
  let left = flags;
  if (hostAddress !== 0 && (flags & GNTMAP_host_map) !== 0) {
    const removed = removeHostHalf(xen, caller, asked, frame, flags);
    if (removed !== GNTST_okay) return removed;
    const typed = hostIsTyped(xen, mapper, granter, flags);
    const half = typed ? { device: false, typed } : undefined;
    holdUnmap(xen, caller.slot, granter, ref, frame, readonly, half);
    left &= ~GNTMAP_host_map;
  }
  if (device) {
    const typed = deviceIsTyped(xen, flags);
    holdUnmap(xen, caller.slot, granter, ref, frame, readonly, { device: true, typed });
    left &= ~GNTMAP_device_map;
  }
  if (left === flags) return GNTST_okay;
  traceUnmap(xen, mapper, granter, ref, frame, flags);
  return dropHalves(xen, mapper, handle, left, { granter, frame, readonly });
}

/** Records what is left of a handle; without a half it is free, and so is the identity entry of a direct-mapped mapper. */
function dropHalves(
  xen: Xen,
  mapper: DomId,
  handle: number,
  left: number,
  mapping: { readonly granter: DomId; readonly frame: number; readonly readonly: boolean },
): number {
  if ((left & (GNTMAP_device_map | GNTMAP_host_map)) !== 0) {
    setTrackFlags(xen, mapper, handle, left);
    return GNTST_okay;
  }
  setTrackFlags(xen, mapper, handle, 0);
  putHandle(xen, mapper, handle);
  if (mapper === mapping.granter || !needIommuMapping(xen, mapper)) return GNTST_okay;
  const unmapped = identityUnmap(xen, mapper, mapping.frame, mapping.readonly);
  return unmapped < 0 ? GNTST_general_error : GNTST_okay;
}

/** Takes the mapper's own translation away. A translated domain has no page tables in which to replace it. */
function removeHostHalf(
  xen: Xen,
  caller: Caller,
  { hostAddress, newAddress }: Unmap,
  frame: number,
  flags: number,
): number {
  if (isPv(xen, caller.domid)) {
    return replaceGrantPte(xen, caller, hostAddress, frame, newAddress, flags);
  }
  if (newAddress !== 0) return GNTST_general_error;
  const gfn = Math.floor(hostAddress / PAGE_SIZE);
  return removeHostMapping(xen, caller, gfn, frame, (flags & GNTMAP_readonly) !== 0);
}

/**
 * Removes the entry if the gfn holds exactly this frame. An empty gfn passes the check on the recorded Xen, so the
 * real entry stays behind (recorded.md 12); the strict hypervisor wants this mapping's own entry there.
 */
function removeHostMapping(
  xen: Xen,
  caller: Caller,
  gfn: number,
  frame: number,
  readonly: boolean,
): number {
  const mapper = caller.domid;
  const own = readonly ? p2m_grant_map_ro : p2m_grant_map_rw;
  if (profileOf(xen).unmapWantsEntry || xen.model.hypervisor === "strict") {
    const entry = p2mLookup(xen, mapper, gfn);
    if (entryType(entry) !== own || entryFrame(entry) !== frame) return GNTST_general_error;
  }
  const former = p2mRemoveMapping(xen, mapper, gfn, frame);
  if (former < 0) return GNTST_general_error;
  if (entryType(former) === own) return GNTST_okay;
  // The page may have stood there in another way: as the domain's own, or as a foreign page with its own reference.
  forgetXenHeapGfn(xen, mapper, former);
  if (isForeign(entryType(former))) holdPage(xen, caller.slot, frame);
  // What went was not this mapping's entry, so that one may still be somewhere: the audit must know.
  addDomainField(xen, mapper, DOM.EMPTY_UNMAPS, 1);
  return GNTST_okay;
}

function traceUnmap(
  xen: Xen,
  mapper: DomId,
  granter: DomId,
  ref: number,
  frame: number,
  flags: number,
): void {
  const { words, layout } = xen;
  trace(
    words,
    layout,
    hypervisorRing(layout),
    TRACE_GRANT_UNMAP,
    mapper,
    granter,
    ref,
    frame,
    flags,
  );
}
