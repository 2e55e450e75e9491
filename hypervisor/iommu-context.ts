/**
 * Contexts: whose table a device walks. A device is in the context of one domain, in quarantine, or in none.
 *
 *   WALK_TABLE    behind the IOMMU: the table of a domain, or in quarantine that of its scratch page
 *   WALK_BARE     not behind one: a bus address is a machine address
 *   WALK_BLOCKED  in nobody's context: every access faults
 *   WALK_OFF      kept off its bus, wherever it is, for it has faulted too often
 *
 * Rules: one store changes what a walker finds, so a device is never between two contexts (advisories 347 and 400); the
 * flush that follows waits for the access it is in, and until then the domain that it leaves waits for it as well.
 * Behaviour: xen/drivers/passthrough/iommu.c and pci.c, assign_device(), deassign_device(), iommu_quarantine_dev_init().
 */
import { assert, at, item } from "../shared/assert.ts";
import { CONTEXT, contextOf, QUEUE } from "../shared/iommu-layout.ts";
import {
  CDF_hardware,
  CDF_iommu,
  LINE,
  lineOf,
  mfnAt,
  WALK_BARE,
  WALK_BLOCKED,
  WALK_TABLE,
} from "../shared/layout.ts";
import { NOT_PRESENT, P2M_LEVEL_LEAF, TABLE_ENTRIES } from "../shared/limits.ts";
import { add } from "../shared/mem.ts";
import { rootLevel, rootPages } from "../shared/mmu.ts";
import { leafHigh, leafWord, p2m_iommu_map_rw, tableHigh, tableWord } from "../shared/pte.ts";
import { hypervisorRing, TRACE_IOMMU_CONTEXT, trace } from "../shared/trace.ts";
import { FrameIndex } from "../shared/units.ts";
import { startFlushOf } from "./flush.ts";
import { contextRoot } from "./iommu-table.ts";
import {
  GAP_FLUSH,
  type Gap,
  hasFlag,
  isDying,
  isPresent,
  lineField,
  setLineField,
  type Xen,
} from "./xen.ts";
import { allocXenPage, allocXenPages } from "./xen-heap.ts";

/** Where a device's accesses go. */
export interface Context {
  /** Domain whose devices it is among, or NOT_PRESENT. */
  readonly domid: number;
  readonly root: number;
  readonly mode: number;
}

export const deviceSlot = (xen: Xen, device: number): number =>
  at(xen.words, xen.layout.deviceSlot + device);
export const contextField = (xen: Xen, device: number, field: number): number =>
  at(xen.words, contextOf(xen.layout, device) + field);
export function setContextField(xen: Xen, device: number, field: number, value: number): void {
  xen.words[contextOf(xen.layout, device) + field] = value;
}
/** Domain in whose context the device is, or NOT_PRESENT. */
export const contextDomain = (xen: Xen, device: number): number =>
  lineField(xen, deviceSlot(xen, device), LINE.DOMAIN);

const NOWHERE: Context = { domid: NOT_PRESENT, root: NOT_PRESENT, mode: WALK_BLOCKED };

/** The context of a domain's devices; a domain created without an IOMMU has none. */
export function domainContext(xen: Xen, device: number, domid: number): Context {
  if (!item(xen.model.devices, device).behindIommu) {
    return { domid, root: contextRoot(xen, domid), mode: WALK_BARE };
  }
  if (!hasFlag(xen, domid, CDF_iommu)) return NOWHERE;
  return { domid, root: contextRoot(xen, domid), mode: WALK_TABLE };
}

/** The context of a device that nobody has: nowhere, or its scratch page, which is wiped for whoever comes. */
export function quarantine(xen: Xen, device: number): Context {
  const root = contextField(xen, device, CONTEXT.SCRATCH_ROOT);
  if (root === NOT_PRESENT) return NOWHERE;
  xen.memory.zero(FrameIndex(contextField(xen, device, CONTEXT.SCRATCH_PAGE)));
  return { domid: NOT_PRESENT, root, mode: WALK_TABLE };
}

/** The context of the hardware domain's devices; without such a domain a device is in quarantine. */
export function hardwareContext(xen: Xen, device: number): Context {
  for (let domid = 0; domid < xen.model.limits.domains; domid++) {
    if (!isPresent(xen, domid) || !hasFlag(xen, domid, CDF_hardware)) continue;
    if (!isDying(xen, domid)) return domainContext(xen, device, domid);
  }
  return quarantine(xen, device);
}

/** Where a device goes that is given back: to quarantine, or with quarantine off to the hardware domain. */
export function contextAfter(xen: Xen, device: number): Context {
  const stays =
    !item(xen.model.devices, device).behindIommu ||
    xen.iommu.quarantine !== "off" ||
    contextField(xen, device, CONTEXT.QUARANTINED) === 1;
  return stays ? quarantine(xen, device) : hardwareContext(xen, device);
}

/** Writes a context so that one store decides; the device's IOTLB is not clean yet. */
export function enterContext(xen: Xen, device: number, to: Context): void {
  const slot = deviceSlot(xen, device);
  const former = contextDomain(xen, device);
  if (former !== NOT_PRESENT && former !== to.domid) setLeaving(xen, device, former);
  if (to.mode === WALK_TABLE) setLineField(xen, slot, LINE.ROOT, to.root);
  setLineField(xen, slot, LINE.MODE, to.mode);
  setLineField(xen, slot, LINE.DOMAIN, to.domid);
  // Faults of its former life do not count.
  setContextField(xen, device, CONTEXT.FAULT_LEVEL, 0);
  const ring = hypervisorRing(xen.layout);
  trace(xen.words, xen.layout, ring, TRACE_IOMMU_CONTEXT, slot, former, to.domid, to.mode);
}

function setLeaving(xen: Xen, device: number, domid: number): void {
  const count = xen.layout.invalidations + QUEUE.LEAVING;
  const was = contextField(xen, device, CONTEXT.LEAVING) === NOT_PRESENT ? 0 : 1;
  const is = domid === NOT_PRESENT ? 0 : 1;
  xen.words[count] = at(xen.words, count) + is - was;
  setContextField(xen, device, CONTEXT.LEAVING, domid);
}

/** Moves a device into another context and waits until nothing of the former one is in use. */
export function* switchContext(
  xen: Xen,
  slot: number,
  device: number,
  to: Context,
): Generator<Gap, void, void> {
  // A change before this one whose handler has died in its gap is waited for first.
  if (contextField(xen, device, CONTEXT.LEAVING) !== NOT_PRESENT) yield* drain(xen, slot, device);
  enterContext(xen, device, to);
  yield* drain(xen, slot, device);
  if (to.mode !== WALK_TABLE && lineField(xen, deviceSlot(xen, device), LINE.MODE) === to.mode) {
    setLineField(xen, deviceSlot(xen, device), LINE.ROOT, NOT_PRESENT);
  }
}

/** Waits until no access of the device is open that began before, in whatever context. */
export function* drain(xen: Xen, slot: number, device: number): Generator<Gap, void, void> {
  if (startFlushOf(xen, slot, deviceSlot(xen, device)) > 0) yield GAP_FLUSH;
  setLeaving(xen, device, NOT_PRESENT);
}

/** A device comes out of its reset in a new domain's context: it has cached nothing, and nobody waits. */
export function resetIntoContext(xen: Xen, device: number, to: Context): void {
  enterContext(xen, device, to);
  const slot = deviceSlot(xen, device);
  setLineField(xen, slot, LINE.ROOT, to.root);
  add(xen.words, lineOf(xen.layout, slot) + LINE.GENERATION, 1);
}

/** Boot: a device is nobody's, and in quarantine if there is such a place. */
export function initContext(xen: Xen, device: number): void {
  setContextField(xen, device, CONTEXT.OWNER, NOT_PRESENT);
  setContextField(xen, device, CONTEXT.LEAVING, NOT_PRESENT);
  setContextField(xen, device, CONTEXT.SCRATCH_ROOT, NOT_PRESENT);
  const { mode, quarantine: kind } = xen.iommu;
  const isProtected = item(xen.model.devices, device).behindIommu;
  if (mode === "on" && kind === "scratch-page" && isProtected) makeScratch(xen, device);
  const slot = deviceSlot(xen, device);
  const at_ = quarantine(xen, device);
  setLineField(xen, slot, LINE.DOMAIN, NOT_PRESENT);
  setLineField(xen, slot, LINE.ROOT, at_.root);
  setLineField(xen, slot, LINE.MODE, at_.mode);
}

/** A table of one page a level: every entry of each leads to the next, and those of the last to the scratch page. */
function makeScratch(xen: Xen, device: number): void {
  const page = scratchPage(xen);
  let below: number = page;
  for (let level = P2M_LEVEL_LEAF; level > rootLevel(xen.layout); level--) {
    const table = scratchPage(xen);
    fill(xen, table, below, level);
    below = table;
  }
  const root = allocXenPages(xen, rootPages(xen.layout));
  assert(root !== NOT_PRESENT, "the Xen heap holds the quarantine tables");
  for (let n = 0; n < rootPages(xen.layout); n++) {
    fill(xen, FrameIndex(root + n), below, rootLevel(xen.layout));
  }
  setContextField(xen, device, CONTEXT.SCRATCH_ROOT, root);
  setContextField(xen, device, CONTEXT.SCRATCH_PAGE, page);
}

function scratchPage(xen: Xen): FrameIndex {
  const frame = allocXenPage(xen);
  assert(frame !== NOT_PRESENT, "the Xen heap holds the quarantine tables");
  return frame;
}

function fill(xen: Xen, table: FrameIndex, below: number, level: number): void {
  const mfn = mfnAt(xen.layout, below);
  const isLeaf = level === P2M_LEVEL_LEAF;
  const low = isLeaf ? leafWord(mfn, p2m_iommu_map_rw, level) : tableWord(mfn);
  const up = isLeaf ? leafHigh(mfn, p2m_iommu_map_rw) : tableHigh(mfn);
  for (let slot = 0; slot < TABLE_ENTRIES; slot++) {
    xen.memory.poke(table, slot * 8 + 4, up);
    xen.memory.poke(table, slot * 8, low);
  }
}

/** Xen heap pages of all quarantine tables, for the audit. */
export function scratchPages(xen: Xen): number {
  const each = rootPages(xen.layout) + (P2M_LEVEL_LEAF - rootLevel(xen.layout)) + 1;
  return xen.model.devices.reduce(
    (sum, _, device) =>
      sum + (contextField(xen, device, CONTEXT.SCRATCH_ROOT) === NOT_PRESENT ? 0 : each),
    0,
  );
}
