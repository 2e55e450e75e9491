/**
 * When a device's IOTLB loses what has been taken out of a table: the strict, the lazy and the never of the machine.
 *
 *   strict  the flush waits: through the registers as for a vCPU, or for a wait descriptor of the queue
 *   lazy    the flush is put off and nobody waits: up to IOTLB_LAZY_FLUSHES of them, IOTLB_LAZY_MS long, are made up for
 *           by one invalidation of everything. Until then a device reaches frames that may be somebody else's by now
 *   never   it is put off for good; only a change of context cleans the IOTLB
 *
 * Rule: a change of context is always flushed at once and waited for, whatever the mode.
 * Behaviour: xen/drivers/passthrough/iommu.c, iommu_iotlb_flush(), vtd/qinval.c; lazy as Linux does it, drivers/iommu/iova.c.
 */
import { at } from "../shared/assert.ts";
import {
  isInContext,
  isInvalidated,
  isInvalidationQueued,
  queuedDescriptors,
  submitInvalidation,
} from "../shared/invalidation-queue.ts";
import { CONTEXT, contextOf, QUEUE, QUEUE_ENTRIES, waitedFor } from "../shared/iommu-layout.ts";
import { LINE, lineOf, MACHINE } from "../shared/layout.ts";
import { IOTLB_LAZY_FLUSHES, IOTLB_LAZY_MS, NOT_PRESENT } from "../shared/limits.ts";
import { add } from "../shared/mem.ts";
import { hypervisorRing, TRACE_IOTLB_BATCH, trace } from "../shared/trace.ts";
import type { Xen } from "./xen.ts";

const register = (xen: Xen, field: number): number =>
  at(xen.words, xen.layout.invalidations + field);
function setRegister(xen: Xen, field: number, value: number): void {
  xen.words[xen.layout.invalidations + field] = value;
}

/** Boot: nothing is put off. */
export const initIotlbs = (xen: Xen): void => setRegister(xen, QUEUE.DEFERRED_UNTIL, NOT_PRESENT);

/** The IOTLBs of a domain's devices, on behalf of the handler of `slot`. Returns 1 when it has to wait. */
export function flushIotlbs(xen: Xen, slot: number, domid: number): number {
  if (xen.iommu.iotlb.flush !== "strict") {
    defer(xen, domid);
    return 0;
  }
  return submit(xen, slot, NOT_PRESENT, domid);
}

/**
 * The same where nobody can wait: the IOTLBs are clean at the next access, and an access that is open is waited for by
 * whoever lets the page go. A device whose invalidation is under way already needs no other.
 */
export function invalidateIotlbs(xen: Xen, domid: number): void {
  const { words, layout, model } = xen;
  if (xen.iommu.iotlb.flush !== "strict") {
    defer(xen, domid);
    return;
  }
  for (let device = 0; device < model.devices.length; device++) {
    if (!isInContext(words, layout, device, domid)) continue;
    if (xen.iommu.invalidation === "registers") {
      add(words, lineOf(layout, at(words, layout.deviceSlot + device)) + LINE.GENERATION, 1);
    } else if (!isInvalidationQueued(words, layout, device)) {
      submitInvalidation(words, layout, device, NOT_PRESENT);
    }
  }
}

/** The IOTLB of one device that changes its context, through the queue. Returns 1 when the handler has to wait. */
export const flushIotlbOf = (xen: Xen, slot: number, device: number): number =>
  submit(xen, slot, device, NOT_PRESENT);

function submit(xen: Xen, slot: number, device: number, domid: number): number {
  const { words, layout } = xen;
  const n = submitInvalidation(words, layout, device, domid);
  words[waitedFor(layout, slot)] = n;
  return iotlbsDone(xen, slot) ? 0 : 1;
}

/** Whether the wait that the slot's handler wrote, if any, is finished. */
export function iotlbsDone(xen: Xen, slot: number): boolean {
  const { words, layout } = xen;
  const n = at(words, waitedFor(layout, slot));
  if (n === 0) return true;
  if (!isInvalidated(words, layout, n)) return false;
  words[waitedFor(layout, slot)] = 0;
  return true;
}

function defer(xen: Xen, domid: number): void {
  const { words, layout, model } = xen;
  for (let device = 0; device < model.devices.length; device++) {
    if (!isInContext(words, layout, device, domid)) continue;
    words[contextOf(layout, device) + CONTEXT.DEFERRED] = 1;
  }
  const flushes = register(xen, QUEUE.DEFERRED) + 1;
  setRegister(xen, QUEUE.DEFERRED, flushes);
  if (xen.iommu.iotlb.flush === "never") return;
  if (flushes === 1) {
    setRegister(xen, QUEUE.DEFERRED_UNTIL, (at(words, MACHINE.TICK) + IOTLB_LAZY_MS) | 0);
  }
  if (flushes >= IOTLB_LAZY_FLUSHES && hasRoom(xen)) flushDeferred(xen);
}

/** Tick at which what has been put off is due, or NOT_PRESENT. One load when nothing is. */
export const deferredDeadline = (xen: Xen): number =>
  xen.ownIotlbs ? register(xen, QUEUE.DEFERRED_UNTIL) : NOT_PRESENT;

/** Whether its time has come and the queue has room: those who wait there have a place of their own. */
export function isDeferredDue(xen: Xen): boolean {
  const deadline = deferredDeadline(xen);
  return deadline !== NOT_PRESENT && at(xen.words, MACHINE.TICK) >= deadline && hasRoom(xen);
}

const hasRoom = (xen: Xen): boolean => queuedDescriptors(xen.words, xen.layout) < QUEUE_ENTRIES / 2;

/** One invalidation of every IOTLB makes up for all that has been put off. */
export function flushDeferred(xen: Xen): void {
  const { words, layout, model } = xen;
  const isQueued = xen.iommu.invalidation === "queue";
  if (isQueued) submitInvalidation(words, layout, NOT_PRESENT, NOT_PRESENT);
  for (let device = 0; device < model.devices.length && !isQueued; device++) {
    add(words, lineOf(layout, at(words, layout.deviceSlot + device)) + LINE.GENERATION, 1);
    words[contextOf(layout, device) + CONTEXT.DEFERRED] = 0;
  }
  const flushes = register(xen, QUEUE.DEFERRED);
  trace(words, layout, hypervisorRing(layout), TRACE_IOTLB_BATCH, flushes);
  setRegister(xen, QUEUE.DEFERRED, 0);
  setRegister(xen, QUEUE.DEFERRED_UNTIL, NOT_PRESENT);
  setRegister(xen, QUEUE.BATCHES, (register(xen, QUEUE.BATCHES) + 1) | 0);
}
