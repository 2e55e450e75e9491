/**
 * The flush: after an entry is gone, wait until no vCPU and no device can still be using it.
 *
 *   1. raise the generation of every walker of the domain's table
 *   2. sample its access counter; if it is inside an access, OR FLUSH_WAITING and remember the sample
 *   3. let go (a gap) until each sample was outside or has changed
 *   4. only then drop references and reuse frames
 *
 * Rule: `startFlush` returns whether there is anybody to wait for; the handler then yields GAP_FLUSH. Devices go the same
 * way where the hypervisor invalidates through registers and waits; else their IOTLBs are iotlb.ts's business.
 * Behaviour: xen/arch/arm/mmu/p2m.c, p2m_force_tlb_flush_sync(), and arm_iommu_iotlb_flush. The protocol itself is ours
 * (design 2).
 */
import { at } from "../shared/assert.ts";
import { CONTEXT, contextOf, QUEUE } from "../shared/iommu-layout.ts";
import {
  ACCESS_STEP,
  FLUSH_WAITING,
  LINE,
  lineOf,
  MACHINE,
  SLOT_FREE,
  SLOT_KIND_DEVICE,
  WALK_BARE,
} from "../shared/layout.ts";
import { add, load, or } from "../shared/mem.ts";
import { hypervisorRing, TRACE_FLUSH, trace } from "../shared/trace.ts";
import type { DomId } from "../shared/units.ts";
import { flushIotlbOf, flushIotlbs, iotlbsDone } from "./iotlb.ts";
import { lineField, type Xen } from "./xen.ts";

/** A sample that is not waited for: its lowest counting bit says "outside". */
const OUTSIDE = 0;

/** A walker that was blocked or killed a moment ago counts: it may still be inside its last access. */
const isWalkerOf = (xen: Xen, slot: number, domid: DomId): boolean =>
  lineField(xen, slot, LINE.STATE) !== SLOT_FREE &&
  lineField(xen, slot, LINE.MODE) !== WALK_BARE &&
  lineField(xen, slot, LINE.DOMAIN) === domid;

const isDevice = (xen: Xen, slot: number): boolean =>
  lineField(xen, slot, LINE.KIND) === SLOT_KIND_DEVICE;

/** Devices that may still be inside an access through the table of a domain whose context they have left. */
function isLeaving(xen: Xen, slot: number, domid: DomId): boolean {
  if (!isDevice(xen, slot)) return false;
  const row = contextOf(xen.layout, lineField(xen, slot, LINE.NUMBER));
  return at(xen.words, row + CONTEXT.LEAVING) === domid;
}

/** Steps 1 and 2 on behalf of the handler of `slot`; returns the number of walkers to wait for. */
export function startFlush(xen: Xen, slot: number, domid: DomId): number {
  const { words, layout } = xen;
  const slots = layout.model.limits.slots;
  const leaving = at(words, layout.invalidations + QUEUE.LEAVING) > 0;
  let waiting = 0;
  let devices = false;
  for (let walker = 0; walker < slots; walker++) {
    const sample = layout.samples + slot * slots + walker;
    words[sample] = OUTSIDE;
    if (!isWalkerOf(xen, walker, domid) && !(leaving && isLeaving(xen, walker, domid))) continue;
    if (xen.ownIotlbs && isDevice(xen, walker)) devices = true;
    else waiting += sampleWalker(xen, walker, sample);
  }
  if (devices) waiting += flushIotlbs(xen, slot, domid);
  words[MACHINE.FLUSHES] = (at(words, MACHINE.FLUSHES) + 1) | 0;
  if (waiting > 0) trace(words, layout, hypervisorRing(layout), TRACE_FLUSH, domid, waiting);
  return waiting;
}

/** The same for one walker only: a vCPU that ends, a device that changes its context. */
export function startFlushOf(xen: Xen, slot: number, walker: number): number {
  const slots = xen.layout.model.limits.slots;
  const first = xen.layout.samples + slot * slots;
  xen.words.fill(OUTSIDE, first, first + slots);
  if (!isDevice(xen, walker)) return sampleWalker(xen, walker, first + walker);
  const device = lineField(xen, walker, LINE.NUMBER);
  if (xen.iommu.invalidation === "queue") return flushIotlbOf(xen, slot, device);
  xen.words[contextOf(xen.layout, device) + CONTEXT.DEFERRED] = 0;
  return sampleWalker(xen, walker, first + walker);
}

function sampleWalker(xen: Xen, walker: number, sample: number): number {
  const line = lineOf(xen.layout, walker);
  xen.memory.onFlush?.(walker);
  add(xen.words, line + LINE.GENERATION, 1);
  const access = load(xen.words, line + LINE.ACCESS);
  if ((access & ACCESS_STEP) === 0) return 0;
  or(xen.words, line + LINE.ACCESS, FLUSH_WAITING);
  xen.words[sample] = access;
  return 1;
}

/** Step 3: whether every walker that was inside an access has left it since. */
export function flushDone(xen: Xen, slot: number): boolean {
  const { words, layout } = xen;
  const slots = layout.model.limits.slots;
  for (let walker = 0; walker < slots; walker++) {
    const sample = at(words, layout.samples + slot * slots + walker);
    if (sample === OUTSIDE) continue;
    const access = load(words, lineOf(layout, walker) + LINE.ACCESS);
    if (((access ^ sample) & ~FLUSH_WAITING) === 0) return false;
  }
  return !xen.ownIotlbs || iotlbsDone(xen, slot);
}
