/**
 * The stages in which a domain gives everything back, and the very end, when its row becomes free.
 *
 *   walkers stopped -> grant mappings -> ports -> pages -> P2M -> table pages       (dying)
 *   grant frames, shared info page, root                                             (last reference gone)
 *
 * Rule: the walkers come first. Pages lose their allocation reference before their P2M entries go, as in Xen, so
 * between the two the table names frames that are free or somebody else's. Xen is safe there because its allocator
 * flushes before it hands a frame out; this one does not, so nobody may be able to walk the table by then.
 * Every stage can be begun again: it looks at what is left, not at where it stood.
 * Behaviour: xen/common/domain.c, domain_teardown(), complete_domain_destroy(); xen/arch/arm/domain.c,
 * domain_relinquish_resources(); xen/common/grant_table.c, gnttab_release_mappings(). See docs/FIDELITY.md, death.
 */
import { GNTMAP_device_map, GNTMAP_host_map, GNTMAP_readonly } from "../shared/abi/grant.ts";
import { at } from "../shared/assert.ts";
import { raiseEvent } from "../shared/channel.ts";
import {
  CHANNEL,
  channelOf,
  DOM,
  DOMAIN_FREE,
  LINE,
  SLOT_DEAD,
  WALK_BLOCKED,
} from "../shared/layout.ts";
import { NOT_PRESENT, RECORD_WORDS, TEARDOWN_GAP } from "../shared/limits.ts";
import { isForeign } from "../shared/pte.ts";
import { ESRCH } from "../shared/status.ts";
import type { DomId } from "../shared/units.ts";
import { activeFrame, forgetPins, grantFrame, releasePin } from "./active-entry.ts";
import { closeAllPorts } from "./event-close.ts";
import { startFlushOf } from "./flush.ts";
import { frameOwner, isAllocated, nextFrame, putPage, putPageAllocRef } from "./frame-table.ts";
import { statusFrame, statusFrames } from "./grant-v2.ts";
import { releaseHolds } from "./hold-list.ts";
import { identityForget, needIommuMapping } from "./iommu.ts";
import { detachDevices } from "./iommu-devices.ts";
import { freeIommuRoot, freeIommuTables } from "./iommu-table.ts";
import { forgetGranter, setTrackFlags, trackDomid, trackFlags, trackRef } from "./maptrack.ts";
import { clearP2mRoot, drainP2mPool, freeP2mRoot, freeP2mTables, p2mClear } from "./p2m.ts";
import { scanP2m } from "./p2m-scan.ts";
import { hasTypes, isPinned, isPv, putPageAndType, putPageType, setPinned } from "./page-type.ts";
import { deviceIsTyped, hostIsTyped } from "./pv-grant.ts";
import { endPoll } from "./sched-op.ts";
import {
  addDomainField,
  domainField,
  GAP_FLUSH,
  GAP_PREEMPT,
  type Gap,
  isPresent,
  lineField,
  setDomainField,
  setLineField,
  slotsOf,
  type Xen,
} from "./xen.ts";
import { freeXenPage } from "./xen-heap.ts";

/** Ports closed between two gaps. */
const PORTS_A_GAP = 64;
/** Handles released between two gaps: each has two halves, and touches its granter's entry for both. */
const HANDLES_A_GAP = 128;

/** A stage: it may let go, and has nothing to answer. */
export type Stage = Generator<Gap, void, void>;

/** Everything that a dying domain holds, in Xen's order. `slot` is the one whose handler does it. */
export function* tearDown(xen: Xen, slot: number, domid: DomId): Stage {
  yield* stopWalkers(xen, slot, domid);
  yield* releaseMappings(xen, domid);
  while (!closeAllPorts(xen, domid, PORTS_A_GAP)) yield GAP_PREEMPT;
  if (isPv(xen, domid)) yield* unpinTables(xen, domid);
  yield* relinquishPages(xen, domid, DOM.XENPAGE_LIST);
  yield* relinquishPages(xen, domid, DOM.PAGE_LIST);
  yield* relinquishMappings(xen, domid);
  clearP2mRoot(xen, domid);
  while (!freeIommuTables(xen, domid, TEARDOWN_GAP)) yield GAP_PREEMPT;
  // The root needs no flush here: no walker has been able to start from it since the first stage.
  while (!freeP2mTables(xen, domid, TEARDOWN_GAP)) yield GAP_PREEMPT;
}

/**
 * Stops every walker of the domain's table and waits for the accesses they are in. What the handlers of its vCPUs
 * were about to do after a flush of their own is done after this one.
 */
function* stopWalkers(xen: Xen, slot: number, domid: DomId): Stage {
  const vcpus = slotsOf(xen, domid);
  for (const vcpu of vcpus) killSlot(xen, slot, vcpu);
  for (const vcpu of vcpus) if (startFlushOf(xen, slot, vcpu) > 0) yield GAP_FLUSH;
  yield* detachDevices(xen, slot, domid);
  for (const vcpu of vcpus) {
    releaseHolds(xen, vcpu);
    const root = lineField(xen, vcpu, LINE.ROOT);
    setLineField(xen, vcpu, LINE.ROOT, NOT_PRESENT);
    if (isPv(xen, domid) && root !== NOT_PRESENT) putPageAndType(xen, root);
  }
}

/** Ends a vCPU: it translates nothing, its requests are dropped, and so is the handler that was at a gap. */
export function killSlot(xen: Xen, killer: number, vcpu: number): void {
  setLineField(xen, vcpu, LINE.STATE, SLOT_DEAD);
  setLineField(xen, vcpu, LINE.MODE, WALK_BLOCKED);
  if (vcpu !== killer) {
    xen.pending[vcpu] = undefined;
    endPoll(xen, vcpu);
    answerAll(xen, vcpu);
  }
  raiseEvent(xen.words, xen.layout, vcpu);
}

/** Whoever waits for an answer is let go; that its slot is dead it sees by itself. */
function answerAll(xen: Xen, vcpu: number): void {
  const channel = xen.channels[vcpu];
  const base = channelOf(xen.layout, vcpu);
  const taken = at(xen.words, base + CHANNEL.TAKEN) - at(xen.words, base + CHANNEL.CONSUMER);
  for (let i = 0; i < (taken | 0); i++) channel?.reply(-ESRCH);
  const dropped = new Int32Array(RECORD_WORDS);
  while (channel?.take(dropped) === true) channel.reply(-ESRCH);
}

/** Grants that the domain had mapped: pins, references and status bits go, the granters may revoke. */
function* releaseMappings(xen: Xen, domid: DomId): Stage {
  const limit = domainField(xen, domid, DOM.MAPTRACK_LIMIT);
  for (let handle = limit - 1; handle >= 0; handle--) {
    if (trackFlags(xen, domid, handle) !== 0) releaseHandle(xen, domid, handle);
    if (handle % HANDLES_A_GAP === 0) yield GAP_PREEMPT;
  }
}

function releaseHandle(xen: Xen, domid: DomId, handle: number): void {
  const flags = trackFlags(xen, domid, handle);
  const granter = trackDomid(xen, domid, handle);
  const ref = trackRef(xen, domid, handle);
  const readonly = (flags & GNTMAP_readonly) !== 0;
  setTrackFlags(xen, domid, handle, 0);
  if (!isPresent(xen, granter)) return;
  const frame = activeFrame(xen, granter, ref);
  if (domid !== granter && needIommuMapping(xen, domid)) {
    identityForget(xen, domid, frame, readonly);
  }
  if ((flags & GNTMAP_device_map) !== 0) {
    releasePin(xen, granter, ref, readonly, true);
    if (deviceIsTyped(xen, flags)) putPageType(xen, frame);
    putPage(xen, frame);
  }
  if ((flags & GNTMAP_host_map) === 0) return;
  const typed = hostIsTyped(xen, domid, granter, flags);
  releasePin(xen, granter, ref, readonly);
  // A PV guest's entry has the references, and gives them back with its table.
  if (isPv(xen, domid)) return;
  if (typed) putPageType(xen, frame);
  putPage(xen, frame);
}

/** The page tables that a PV guest held on to: with them goes what their entries refer to, of whoever's pages. */
function* unpinTables(xen: Xen, domid: DomId): Stage {
  for (let frame = 0; frame < xen.layout.ramFrames; frame++) {
    if (frame % TEARDOWN_GAP === TEARDOWN_GAP - 1) yield GAP_PREEMPT;
    if (frameOwner(xen, frame) !== domid || !isPinned(xen, frame)) continue;
    setPinned(xen, frame, false);
    putPageAndType(xen, frame);
  }
}

/** Drops the allocation reference of each page in a list. What others refer to stays in it. */
function* relinquishPages(xen: Xen, domid: DomId, list: number): Stage {
  let frame = domainField(xen, domid, list);
  for (let done = 0; frame !== NOT_PRESENT; ) {
    const next = nextFrame(xen, frame);
    if (isAllocated(xen, frame)) {
      putPageAllocRef(xen, frame);
      done++;
    }
    frame = next;
    if (done < TEARDOWN_GAP) continue;
    yield GAP_PREEMPT;
    // Others may have dropped their references meanwhile, so the list is entered again at its head.
    done = 0;
    frame = domainField(xen, domid, list);
  }
}

/**
 * Entries that hold a reference: foreign pages of others. All others name nothing that has to be given back, and go
 * with the root.
 */
function* relinquishMappings(xen: Xen, domid: DomId): Stage {
  for (let from = 0; ; ) {
    let seen = 0;
    let next = -1;
    scanP2m(xen, domid, from, (gfn, frame, type) => {
      if (seen++ === TEARDOWN_GAP) {
        next = gfn;
        return false;
      }
      if (isForeign(type)) {
        p2mClear(xen, domid, gfn);
        putPage(xen, frame);
      }
      return true;
    });
    if (next < 0) return;
    from = next;
    yield GAP_PREEMPT;
  }
}

/** The last reference on the domain is gone: its own pages of the Xen heap, and its row. */
export function freeDomain(xen: Xen, domid: DomId): void {
  if (hasTypes(xen)) {
    for (let mapper = 0; mapper < xen.model.limits.domains; mapper++) {
      if (isPresent(xen, mapper) && isPv(xen, mapper)) forgetGranter(xen, mapper as DomId, domid);
    }
    forgetPins(xen, domid);
  }
  for (let n = domainField(xen, domid, DOM.GRANT_FRAMES) - 1; n >= 0; n--) {
    freeXenPage(xen, grantFrame(xen, domid, n));
  }
  for (let n = statusFrames(xen, domid) - 1; n >= 0; n--) {
    freeXenPage(xen, statusFrame(xen, domid, n));
  }
  setDomainField(xen, domid, DOM.GRANT_FRAMES, 0);
  const info = domainField(xen, domid, DOM.SHARED_INFO);
  if (info !== NOT_PRESENT) freeXenPage(xen, info);
  // A pool that was filled again after the tables had gone.
  while (drainP2mPool(xen, domid));
  freeIommuRoot(xen, domid);
  if (domainField(xen, domid, DOM.P2M_ROOT) !== NOT_PRESENT) freeP2mRoot(xen, domid);
  dropTarget(xen, domid);
  setDomainField(xen, domid, DOM.STATE, DOMAIN_FREE);
}

/** The domain that this one acted for may go now. */
function dropTarget(xen: Xen, domid: DomId): void {
  const target = domainField(xen, domid, DOM.TARGET) - 1;
  if (target >= 0) addDomainField(xen, target, DOM.REFS, -1);
}
