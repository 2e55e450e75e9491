/**
 * Builds a domain of the machine model: row, tables, RAM, store page, devices, vCPU slots. It is born paused.
 *
 * Rules: a domain is built in one go, and only then do its slots come to life; whatever fails, everything is given
 * back and the answer is a negative errno. Ids are handed out upwards and reused only after the rover has gone round.
 * Behaviour: xen/common/domctl.c (XEN_DOMCTL_createdomain), xen/common/domain.c, domain_create();
 * xen/arch/arm/domain_build.c; the store page as tools/libs/light and xenstore's introduction do it.
 */
import {
  GNTTAB_RESERVED_XENSTORE,
  GRANT_ENTRY_FRAME,
  GRANT_ENTRY_HEADER,
  GTF_permit_access,
} from "../shared/abi/grant.ts";
import { at, item } from "../shared/assert.ts";
import { hasIdentityEntries } from "../shared/iommu-settings.ts";
import {
  CDF_directmap,
  CDF_hardware,
  CDF_iommu,
  CDF_privileged,
  CDF_pv,
  DOM,
  DOMAIN_FREE,
  DOMAIN_PRESENT,
  DOMAIN_WORDS,
  DYING_DYING,
  domainOf,
  indexOf,
  LINE,
  lineOf,
  MACHINE,
  mfnAt,
  SLOT_DEAD,
  SLOT_FREE,
  SLOT_KIND_VCPU,
  SLOT_LIVE,
  WALK_PV,
  WALK_TABLE,
} from "../shared/layout.ts";
import { GRANT_ENTRY_BYTES, NOT_PRESENT, PAGE_SIZE, VCPUS_MAX } from "../shared/limits.ts";
import type { DomainModel } from "../shared/machine.ts";
import { add, load, store } from "../shared/mem.ts";
import { p2m_ram_rw } from "../shared/pte.ts";
import { EINVAL, ENOMEM } from "../shared/status.ts";
import { DomId, FrameIndex } from "../shared/units.ts";
import { grantFrame } from "./active-entry.ts";
import { announce, TRACE_DOMAIN_CREATED } from "./domain-death.ts";
import { freeDomain, tearDown } from "./domain-teardown.ts";
import { allocUnbound } from "./event-channel.ts";
import { initEventChannels } from "./event-ports.ts";
import { POLL_NONE } from "./event-upcall.ts";
import {
  allocHeapFrames,
  assignPages,
  freeHeapFrame,
  isReserved,
  reserveFrame,
  setXenHeapGfn,
  shareXenPageWithGuest,
  takeHeapFrame,
} from "./frame-table.ts";
import { initGrantTable } from "./grant-table.ts";
import { attachDevices } from "./iommu-devices.ts";
import { initIommuTable, resetIommuDomain } from "./iommu-table.ts";
import { initMaptrack } from "./maptrack.ts";
import { claimsAllow } from "./memory-claim.ts";
import { entryFrame, fillP2mPool, initP2m, p2mLookup, p2mSet } from "./p2m.ts";
import { buildPvTables, holdRoot, pvTablePages, ramFrames } from "./pv-build.ts";
import {
  domainField,
  hasFlag,
  lineField,
  setDomainField,
  setDomainPair,
  setLineField,
  type Xen,
} from "./xen.ts";
import { allocXenPage } from "./xen-heap.ts";

/** Orders of a page, a 2 MiB block and a 1 GiB block. */
const ORDERS = [18, 9, 0] as const;
/** The domain that runs xenstored. */
const STORE_DOMAIN = DomId(0);
/** The slot of the toolstack, which asks for domains: its row of flush samples serves a clean-up. */
const BUILDER_SLOT = 0;

/** Boot: static memory of every domain of the model leaves the heap, also of those that are created later. */
export function reserveStaticMemory(xen: Xen): void {
  for (const domain of xen.model.domains) {
    for (const range of domain.staticMemory) {
      for (let maddr = range.base; maddr < range.base + range.size; maddr += PAGE_SIZE) {
        const frame = indexOf(xen.layout, xen.words, maddr / PAGE_SIZE);
        takeHeapFrame(xen, frame);
        reserveFrame(xen, frame);
      }
    }
  }
}

/**
 * Creates domain `modelIndex` of the model, paused once. Returns its id, or -EINVAL (no such model) or -ENOMEM (ids,
 * slots or memory exhausted) with nothing left behind.
 */
export function createDomain(xen: Xen, modelIndex: number): DomId | number {
  const model = xen.model.domains[modelIndex];
  if (model === undefined) return -EINVAL;
  const free = freeDomid(xen);
  if (free === NOT_PRESENT) return -ENOMEM;
  const domid = DomId(free);
  initRow(xen, domid, modelIndex, model);
  const error = furnish(xen, domid, modelIndex, model);
  if (error !== 0) {
    abandon(xen, domid);
    return error;
  }
  xen.words[MACHINE.DOMID_ROVER] = domid;
  announce(xen, domid, TRACE_DOMAIN_CREATED);
  return domid;
}

/** The next free id after the last one handed out. 0 is handed out once, to the first domain of all. */
function freeDomid(xen: Xen): number {
  const limit = xen.model.limits.domains;
  const rover = at(xen.words, MACHINE.DOMID_ROVER);
  if (rover === NOT_PRESENT) return 0;
  for (let step = 1; step < limit; step++) {
    const domid = 1 + ((rover + step - 1) % (limit - 1));
    if (domainField(xen, domid, DOM.STATE) === DOMAIN_FREE) return domid;
  }
  return NOT_PRESENT;
}

function initRow(xen: Xen, domid: DomId, modelIndex: number, model: DomainModel): void {
  const row = domainOf(xen.layout, domid);
  const generation = domainField(xen, domid, DOM.GENERATION);
  xen.words.fill(0, row, row + DOMAIN_WORDS);
  const set = (field: number, value: number): void => setDomainField(xen, domid, field, value);
  set(DOM.GENERATION, (generation + 1) | 0);
  set(DOM.FLAGS, flagsOf(model));
  set(DOM.MODEL, modelIndex);
  set(DOM.PAUSE, 1);
  set(DOM.REFS, 1);
  set(DOM.MAX_PAGES, model.memoryPages);
  for (const field of [
    DOM.PAGE_LIST,
    DOM.XENPAGE_LIST,
    DOM.P2M_ROOT,
    DOM.P2M_POOL,
    DOM.P2M_PAGES,
    DOM.SHARED_INFO,
    DOM.KILLER,
  ]) {
    set(field, NOT_PRESENT);
  }
  setDomainPair(xen, domid, DOM.P2M_MAX_GFN, -1);
  set(DOM.MAX_GRANT_FRAMES, model.maxGrantFrames);
  set(DOM.MAX_MAPTRACK_FRAMES, model.maxMaptrackFrames);
  set(DOM.MAX_EVTCHN_PORT, model.maxEvtchnPort);
  set(DOM.VCPUS, model.vcpus);
  for (let vcpu = 0; vcpu < VCPUS_MAX; vcpu++) set(DOM.SLOT + vcpu, NOT_PRESENT);
  set(DOM.IDENTITY, identityRow(xen, modelIndex));
  resetIommuDomain(xen, domid);
  set(DOM.STATE, DOMAIN_PRESENT);
}

const flagsOf = (model: DomainModel): number =>
  (model.directMapped ? CDF_directmap : 0) |
  (model.privileged ? CDF_privileged : 0) |
  (model.kind === "dom0" ? CDF_hardware : 0) |
  (model.iommu ? CDF_iommu : 0) |
  (model.guest === "pv" ? CDF_pv : 0);

/** Identity counters are laid out for each domain of the model that needs them, in model order. */
function identityRow(xen: Xen, modelIndex: number): number {
  if (!hasIdentityEntries(item(xen.model.domains, modelIndex))) return NOT_PRESENT;
  return xen.model.domains.slice(0, modelIndex).filter(hasIdentityEntries).length;
}

/** Everything that can fail, one call a part. Returns 0 or a negative errno with the domain half-built. */
function furnish(xen: Xen, domid: DomId, modelIndex: number, model: DomainModel): number {
  const slots = freeSlots(xen, model.vcpus);
  if (slots === undefined) return -ENOMEM;
  const translated = model.guest !== "pv";
  if (translated && initP2m(xen, domid) !== 0) return -ENOMEM;
  if (model.iommu && initIommuTable(xen, domid) !== 0) return -ENOMEM;
  const pool = translated ? model.p2mPoolPages : 0;
  if (fillP2mPool(xen, domid, pool) < pool) return -ENOMEM;
  const info = allocXenPage(xen);
  if (info === NOT_PRESENT) return -ENOMEM;
  setDomainField(xen, domid, DOM.SHARED_INFO, info);
  shareXenPageWithGuest(xen, info, domid);
  if (initGrantTable(xen, domid) !== 0) return -ENOMEM;
  initMaptrack(xen, domid, model.vcpus);
  initEventChannels(xen, domid);
  const memory =
    model.staticMemory.length > 0
      ? giveStaticMemory(xen, domid, model)
      : giveHeapMemory(xen, domid, model);
  if (memory !== 0) return memory;
  const root = translated
    ? FrameIndex(domainField(xen, domid, DOM.P2M_ROOT))
    : buildPvTables(xen, domid, model.memoryPages);
  if (root < 0) return root;
  const slotMode = translated ? WALK_TABLE : WALK_PV;
  if (modelIndex !== 0 && model.store !== "none") {
    const store_ = makeStore(xen, domid, model);
    if (store_ !== 0) return store_;
  }
  const devices = translated ? attachDevices(xen, domid, model.name) : 0;
  if (devices !== 0) return devices;
  for (const [vcpu, slot] of slots.entries()) {
    startSlot(xen, domid, slot, vcpu, model.runs);
    setLineField(xen, slot, LINE.ROOT, root);
    if (!translated) holdRoot(xen, domid, root);
    setLineField(xen, slot, LINE.MODE, slotMode);
  }
  return 0;
}

/** A half-built domain has no walker that must be waited for, so its stages run to their end at once. */
function abandon(xen: Xen, domid: DomId): void {
  setDomainField(xen, domid, DOM.DYING, DYING_DYING);
  if (hasFlag(xen, domid, CDF_pv) || domainField(xen, domid, DOM.P2M_ROOT) !== NOT_PRESENT) {
    const stages = tearDown(xen, BUILDER_SLOT, domid);
    while (stages.next().done !== true);
  }
  freeDomain(xen, domid);
}

/** Number of the first page of its RAM; those of a PV domain are counted from 0. */
const firstPage = ({ guest, ramGfn }: DomainModel): number => (guest === "pv" ? 0 : ramGfn);

/** Frames of the domain's static ranges, as many as it has pages: gfn == mfn, or from ramGfn up. */
function giveStaticMemory(xen: Xen, domid: DomId, model: DomainModel): number {
  let given = 0;
  for (const range of model.staticMemory) {
    const mfn = range.base / PAGE_SIZE;
    const count = Math.min(range.size / PAGE_SIZE, model.memoryPages - given);
    const first = indexOf(xen.layout, xen.words, mfn);
    for (let frame = first; frame < first + count; frame++) {
      if (!isReserved(xen, frame)) return -ENOMEM;
    }
    const gfn = model.directMapped ? mfn : firstPage(model) + given;
    const error = giveRun(xen, domid, gfn, first, count);
    if (error !== 0) return error;
    given += count;
  }
  return given === model.memoryPages ? 0 : -EINVAL;
}

/** Frames of the heap: 2 MiB at a time while it has such runs and the machine wants them, single pages else. */
function giveHeapMemory(xen: Xen, domid: DomId, model: DomainModel): number {
  let blocks = xen.model.allocator === "contiguous";
  for (let given = 0; given < model.memoryPages; ) {
    const gfn = firstPage(model) + given;
    const order = blocks && gfn % 512 === 0 && model.memoryPages - given >= 512 ? 9 : 0;
    const allowed = claimsAllow(xen, domid, 2 ** order);
    const first = allowed ? allocHeapFrames(xen, order) : NOT_PRESENT;
    if (first === NOT_PRESENT) {
      if (order === 0) return -ENOMEM;
      blocks = false;
      continue;
    }
    const count = 2 ** order;
    const error = giveRun(xen, domid, gfn, first, count);
    if (error !== 0) {
      // Frames that were not assigned are in nobody's list, so no teardown finds them.
      for (let frame = first; frame < first + count; frame++) {
        if (at(xen.words, xen.layout.frameOwner + frame) !== domid) freeHeapFrame(xen, frame);
      }
      return error;
    }
    given += count;
  }
  return 0;
}

/** Assigns consecutive frames and enters them with the largest blocks that fit. */
function giveRun(xen: Xen, domid: DomId, gfn: number, first: number, count: number): number {
  const assigned = assignPages(xen, domid, first, count);
  if (assigned !== 0) return assigned;
  if (hasFlag(xen, domid, CDF_pv)) {
    for (let done = 0; done < count; done++) setXenHeapGfn(xen, first + done, gfn + done);
    return 0;
  }
  for (let done = 0; done < count; ) {
    const place = gfn + done;
    const mfn = mfnAt(xen.layout, first + done);
    const fits = (order: number): boolean =>
      place % 2 ** order === 0 && mfn % 2 ** order === 0 && count - done >= 2 ** order;
    const order = ORDERS.find(fits) ?? 0;
    const entered = p2mSet(xen, domid, place, first + done, p2m_ram_rw, order);
    if (entered < 0) return -ENOMEM;
    done += 2 ** order;
  }
  return 0;
}

/**
 * The way to xenstored: a ring page (the last page of the RAM, zeroed), granted to its domain by the reserved
 * reference, and a port for it; the guest learns both as HVM parameters.
 */
function makeStore(xen: Xen, domid: DomId, model: DomainModel): number {
  const last = model.directMapped ? model.staticMemory.at(-1) : undefined;
  const gfn =
    model.guest === "pv"
      ? pvStoreFrame(xen, domid, model)
      : last === undefined
        ? model.ramGfn + model.memoryPages - 1
        : (last.base + last.size) / PAGE_SIZE - 1;
  xen.memory.zero(entryFrame(p2mLookup(xen, domid, gfn)));
  const table = grantFrame(xen, domid, 0);
  const entry = GNTTAB_RESERVED_XENSTORE * GRANT_ENTRY_BYTES;
  xen.memory.store(table, entry + GRANT_ENTRY_FRAME, gfn);
  xen.memory.store(table, entry + GRANT_ENTRY_HEADER, GTF_permit_access | (STORE_DOMAIN << 16));
  const port = allocUnbound(xen, domid, STORE_DOMAIN);
  if (port < 0) return port;
  setDomainField(xen, domid, DOM.STORE_GFN, gfn);
  setDomainField(xen, domid, DOM.STORE_PORT, port);
  return 0;
}

/** The last page of the RAM before the page tables, as a machine frame. */
function pvStoreFrame(xen: Xen, domid: DomId, { memoryPages }: DomainModel): number {
  const frames = ramFrames(xen, domid, memoryPages);
  return mfnAt(xen.layout, at(frames, memoryPages - pvTablePages(memoryPages) - 1));
}

/** The lowest slots that nobody has: never used, or their actor has ended. Undefined: not enough. */
function freeSlots(xen: Xen, count: number): readonly number[] | undefined {
  const slots: number[] = [];
  for (let slot = 1; slot < xen.model.limits.slots && slots.length < count; slot++) {
    if (isSlotFree(xen, slot)) slots.push(slot);
  }
  return slots.length === count ? slots : undefined;
}

function isSlotFree(xen: Xen, slot: number): boolean {
  const state = lineField(xen, slot, LINE.STATE);
  if (state === SLOT_FREE) return true;
  // A dead vCPU's worker may not have noticed yet, and a device's slot stays the device's.
  if (state !== SLOT_DEAD || lineField(xen, slot, LINE.KIND) !== SLOT_KIND_VCPU) return false;
  // The end of its domain still waits for its last access, and lets its table go after that.
  if (lineField(xen, slot, LINE.ROOT) !== NOT_PRESENT) return false;
  return (
    load(xen.words, lineOf(xen.layout, slot) + LINE.ENDED) === 1 && xen.pending[slot] === undefined
  );
}

/** Gives a vCPU its slot: a clean channel, the domain's table, nothing pending. */
function startSlot(xen: Xen, domid: DomId, slot: number, vcpu: number, runs: boolean): void {
  const line = lineOf(xen.layout, slot);
  xen.channels[slot]?.reset();
  setDomainField(xen, domid, DOM.SLOT + vcpu, slot);
  setLineField(xen, slot, LINE.KIND, SLOT_KIND_VCPU);
  setLineField(xen, slot, LINE.DOMAIN, domid);
  setLineField(xen, slot, LINE.NUMBER, vcpu);
  setLineField(xen, slot, LINE.INTERRUPTS, 0);
  setLineField(xen, slot, LINE.INSIDE, 0);
  setLineField(xen, slot, LINE.HYPERCALLS, 0);
  setLineField(xen, slot, LINE.HELD, 0);
  setLineField(xen, slot, LINE.POLL, POLL_NONE);
  setLineField(xen, slot, LINE.INJECT, 0);
  setLineField(xen, slot, LINE.FAULTS, 0);
  // A vCPU that no worker runs has ended before it began.
  store(xen.words, line + LINE.ENDED, runs ? 0 : 1);
  add(xen.words, line + LINE.GENERATION, 1);
  setLineField(xen, slot, LINE.STATE, SLOT_LIVE);
}
