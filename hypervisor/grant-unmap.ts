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
import { DOM } from "../shared/layout.ts";
import { GNTTAB_UNMAP_BATCH_SIZE, PAGE_SIZE } from "../shared/limits.ts";
import { isForeign, p2m_grant_map_ro, p2m_grant_map_rw } from "../shared/pte.ts";
import {
  EFAULT,
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
import { profileOf } from "./profile.ts";
import {
  addDomainField,
  type Caller,
  domainById,
  domainField,
  GAP_FLUSH,
  GAP_PREEMPT,
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
  for (let first = 0; first < count; first += GNTTAB_UNMAP_BATCH_SIZE) {
    if (first > 0) yield GAP_PREEMPT;
    const end = Math.min(count, first + GNTTAB_UNMAP_BATCH_SIZE);
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

const unmapElement = (xen: Xen, caller: Caller): number =>
  unmapHalf(xen, caller, xen.args.u64(UNMAP_HOST_ADDR), xen.args.u32(UNMAP_HANDLE), false);

/** new_addr lies where unmap has dev_bus_addr; a translated domain has no page tables of its own to put it in. */
const replaceElement = (xen: Xen, caller: Caller): number =>
  unmapHalf(
    xen,
    caller,
    xen.args.u64(UNMAP_HOST_ADDR),
    xen.args.u32(UNMAP_HANDLE),
    xen.args.u64(UNMAP_DEV_BUS_ADDR) !== 0,
  );

/** Pass 1 of one element. `replace`: a new address was asked for, which is refused where the removal happens. */
function unmapHalf(
  xen: Xen,
  caller: Caller,
  hostAddress: number,
  handle: number,
  replace: boolean,
): number {
  const mapper = caller.domid;
  if (handle >= domainField(xen, mapper, DOM.MAPTRACK_LIMIT)) return GNTST_bad_handle;
  const flags = trackFlags(xen, mapper, handle);
  if (flags === 0) return GNTST_bad_handle;
  const granter = domainById(xen, trackDomid(xen, mapper, handle));
  // A granter's struct domain outlives every mapping of its pages, so a live handle always finds it.
  if (granter === undefined) return GNTST_general_error;
  if (!mayGrant(xen, caller, granter)) return GNTST_permission_denied;
  const ref = trackRef(xen, mapper, handle);
  if (ref >= grantEntries(xen, granter)) return GNTST_bad_handle;
  // An address of 0 means "leave that half alone".
  if (hostAddress === 0 || (flags & GNTMAP_host_map) === 0) return GNTST_okay;
  if (replace) return GNTST_general_error;
  const frame = activeFrame(xen, granter, ref);
  const readonly = (flags & GNTMAP_readonly) !== 0;
  const removed = removeHostMapping(
    xen,
    caller,
    Math.floor(hostAddress / PAGE_SIZE),
    frame,
    readonly,
  );
  if (removed !== GNTST_okay) return removed;
  holdUnmap(xen, caller.slot, granter, ref, frame, readonly);
  traceUnmap(xen, mapper, granter, ref, frame, flags);
  const left = flags & ~GNTMAP_host_map;
  if ((left & GNTMAP_device_map) !== 0) {
    setTrackFlags(xen, mapper, handle, left);
    return GNTST_okay;
  }
  setTrackFlags(xen, mapper, handle, 0);
  putHandle(xen, mapper, handle);
  if (mapper === granter || !needIommuMapping(xen, mapper)) return GNTST_okay;
  return identityUnmap(xen, mapper, frame, readonly) < 0 ? GNTST_general_error : GNTST_okay;
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
  // The page may have stood there in another way: as the domain's own, or as a foreign page with its own reference.
  forgetXenHeapGfn(xen, mapper, former);
  if (isForeign(entryType(former))) holdPage(xen, caller.slot, frame);
  // What went was not this mapping's entry, so that one may still be somewhere: the audit must know.
  if (entryType(former) !== own) addDomainField(xen, mapper, DOM.EMPTY_UNMAPS, 1);
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
