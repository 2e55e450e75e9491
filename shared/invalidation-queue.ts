/**
 * The IOMMU's invalidation queue, the hardware's side of it: descriptors are taken in order, an IOTLB is invalid only when
 * its descriptor has been taken, and a wait descriptor is finished when every access is over that may have been translated
 * before. Whoever waits for its number waits as long as that takes: there is no time-out (advisory 373).
 *
 *   IOTLB device       what the device has cached is gone
 *   IOTLB domain       the same for every device in the domain's context, or in no context but its
 *   WAIT number        everything before it has been drained: WAIT_STATUS becomes the number
 *
 * Rule: run when the queue has grown and when somebody looks at the status; a wait that is not over stops it there.
 * Behaviour: Intel VT-d specification, queued invalidation interface; xen/drivers/passthrough/vtd/qinval.c.
 */
import { assert, at } from "./assert.ts";
import {
  CONTEXT,
  contextOf,
  DESCRIPTOR_IOTLB,
  DESCRIPTOR_WAIT,
  descriptorOf,
  drainOf,
  QUEUE,
  QUEUE_ENTRIES,
} from "./iommu-layout.ts";
import { ACCESS_STEP, FLUSH_WAITING, type Layout, LINE, lineOf } from "./layout.ts";
import { NOT_PRESENT } from "./limits.ts";
import { add, load, or, type Words } from "./mem.ts";

/** Whether the slot is a device of this machine whose translations of `domid` an invalidation must reach. */
export function isInContext(words: Words, layout: Layout, device: number, domid: number): boolean {
  const slot = at(words, layout.deviceSlot + device);
  return (
    at(words, lineOf(layout, slot) + LINE.DOMAIN) === domid ||
    at(words, contextOf(layout, device) + CONTEXT.LEAVING) === domid
  );
}

/** Descriptors that have not been finished. */
export const queuedDescriptors = (words: Words, layout: Layout): number =>
  (at(words, layout.invalidations + QUEUE.TAIL) - at(words, layout.invalidations + QUEUE.HEAD)) | 0;

function put(
  words: Words,
  layout: Layout,
  kind: number,
  device: number,
  domid: number,
  n: number,
): void {
  const tail = layout.invalidations + QUEUE.TAIL;
  assert(queuedDescriptors(words, layout) < QUEUE_ENTRIES, "the queue is sized for every slot");
  const row = descriptorOf(layout, at(words, tail) >>> 0);
  words[row] = kind;
  words[row + 1] = device;
  words[row + 2] = domid;
  words[row + 3] = n;
  words[tail] = (at(words, tail) + 1) | 0;
}

/**
 * Software's side: an invalidation of one device, of a domain's devices, or (both NOT_PRESENT) of all, and a wait behind
 * it. Returns the number of the wait, never 0.
 */
export function submitInvalidation(
  words: Words,
  layout: Layout,
  device: number,
  domid: number,
): number {
  put(words, layout, DESCRIPTOR_IOTLB, device, domid, 0);
  const waits = layout.invalidations + QUEUE.WAITS;
  const n = at(words, waits) + 1 || 1;
  words[waits] = n | 0;
  put(words, layout, DESCRIPTOR_WAIT, NOT_PRESENT, NOT_PRESENT, n | 0);
  runInvalidations(words, layout);
  return n | 0;
}

/** Whether the wait of this number is finished. */
export function isInvalidated(words: Words, layout: Layout, n: number): boolean {
  runInvalidations(words, layout);
  return ((at(words, layout.invalidations + QUEUE.WAIT_STATUS) - n) | 0) >= 0;
}

/** The hardware takes descriptors until there is none, or a wait that is not over. */
export function runInvalidations(words: Words, layout: Layout): void {
  const head = layout.invalidations + QUEUE.HEAD;
  while (queuedDescriptors(words, layout) > 0) {
    const row = descriptorOf(layout, at(words, head) >>> 0);
    if (at(words, row) === DESCRIPTOR_IOTLB) {
      invalidate(words, layout, at(words, row + 1), at(words, row + 2));
    } else {
      if (!isDrained(words, layout)) return;
      words[layout.invalidations + QUEUE.WAIT_STATUS] = at(words, row + 3);
    }
    words[head] = (at(words, head) + 1) | 0;
  }
}

function invalidate(words: Words, layout: Layout, device: number, domid: number): void {
  for (let index = 0; index < layout.model.devices.length; index++) {
    const named =
      device === NOT_PRESENT
        ? domid === NOT_PRESENT || isInContext(words, layout, index, domid)
        : device === index;
    if (named) invalidateDevice(words, layout, index);
  }
}

/** One device's IOTLB: at its next access it finds nothing cached. The access it is in counts as one to drain. */
function invalidateDevice(words: Words, layout: Layout, device: number): void {
  const slot = at(words, layout.deviceSlot + device);
  const line = lineOf(layout, slot);
  add(words, line + LINE.GENERATION, 1);
  words[contextOf(layout, device) + CONTEXT.DEFERRED] = 0;
  const access = load(words, line + LINE.ACCESS);
  if ((access & ACCESS_STEP) === 0) return;
  or(words, line + LINE.ACCESS, FLUSH_WAITING);
  words[drainOf(layout, slot)] = access;
}

function isDrained(words: Words, layout: Layout): boolean {
  let drained = true;
  for (let index = 0; index < layout.model.devices.length; index++) {
    const slot = at(words, layout.deviceSlot + index);
    const sample = at(words, drainOf(layout, slot));
    if (sample === 0) continue;
    const access = load(words, lineOf(layout, slot) + LINE.ACCESS);
    if (((access ^ sample) & ~FLUSH_WAITING) === 0) drained = false;
    else words[drainOf(layout, slot)] = 0;
  }
  return drained;
}

/** Whether a descriptor that has not been taken will invalidate what `device` has cached. */
export function isInvalidationQueued(words: Words, layout: Layout, device: number): boolean {
  const head = at(words, layout.invalidations + QUEUE.HEAD);
  for (let i = 0; i < queuedDescriptors(words, layout); i++) {
    const row = descriptorOf(layout, (head + i) >>> 0);
    if (at(words, row) !== DESCRIPTOR_IOTLB) continue;
    const [named, domid] = [at(words, row + 1), at(words, row + 2)];
    if (named === device) return true;
    if (named !== NOT_PRESENT) continue;
    if (domid === NOT_PRESENT || isInContext(words, layout, device, domid)) return true;
  }
  return false;
}
