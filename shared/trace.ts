/**
 * The event record that every part emits: 32 bytes into a ring of its own, drained by the toolstack.
 * Record words: 0 step (the logical clock), 1 type, 2..7 small integers, whose meaning the type gives.
 * Rule: one writer a ring. A ring that runs over keeps its newest records and its count goes on.
 */
import { at } from "./assert.ts";
import { type Layout, MACHINE, TRACE_WORDS } from "./layout.ts";
import type { Words } from "./mem.ts";

/** Types, with the meaning of their integers. */
export const TRACE_HYPERCALL = 1; // slot, op, command, return value
export const TRACE_GRANT_MAP = 2; // mapper, granter, ref, gfn, frame index, flags
export const TRACE_GRANT_UNMAP = 3; // mapper, granter, ref, frame index, flags
export const TRACE_GRANT_REFUSED = 4; // mapper, granter, ref, status
export const TRACE_P2M_SET = 5; // domain, gfn, frame index, type, order
export const TRACE_P2M_CLEAR = 6; // domain, gfn, order
export const TRACE_FLUSH = 7; // domain, walkers waited for
export const TRACE_FRAME_FREED = 8; // frame index, former owner
export const TRACE_DMA = 9; // dfn, frame index, 1 write, length
export const TRACE_IOMMU_FAULT = 10; // slot, domain, dfn, 1 write, code
export const TRACE_EVENT = 11; // domain, port
export const TRACE_DOMAIN = 12; // domain, life-cycle stage
export const TRACE_IOMMU_CONTEXT = 13; // slot, former domain, domain, mode
export const TRACE_IOTLB_BATCH = 14; // flushes that had been put off

const ringOf = (layout: Layout, ring: number): number =>
  layout.trace + ring * (1 + layout.model.limits.traceRecords * TRACE_WORDS);

/** Ring number of the hypervisor; a slot's ring has the slot's number. */
export const hypervisorRing = (layout: Layout): number => layout.model.limits.slots;

export function trace(
  words: Words,
  layout: Layout,
  ring: number,
  type: number,
  a = 0,
  b = 0,
  c = 0,
  d = 0,
  e = 0,
  f = 0,
): void {
  const base = ringOf(layout, ring);
  const count = at(words, base);
  const record = base + 1 + (count % layout.model.limits.traceRecords) * TRACE_WORDS;
  words[record] = at(words, MACHINE.STEP);
  words[record + 1] = type;
  words[record + 2] = a;
  words[record + 3] = b;
  words[record + 4] = c;
  words[record + 5] = d;
  words[record + 6] = e;
  words[record + 7] = f;
  words[base] = (count + 1) | 0;
}

/** Records ever written to a ring. */
export const traceCount = (words: Words, layout: Layout, ring: number): number =>
  at(words, ringOf(layout, ring));

/** Copies record `n` (counted from the first ever) out of a ring; undefined when it has been overwritten. */
export function traceRecord(
  words: Words,
  layout: Layout,
  ring: number,
  n: number,
): Int32Array | undefined {
  const count = traceCount(words, layout, ring);
  const kept = layout.model.limits.traceRecords;
  if (n >= count || n < count - kept) return undefined;
  const record = ringOf(layout, ring) + 1 + (n % kept) * TRACE_WORDS;
  return words.slice(record, record + TRACE_WORDS);
}
