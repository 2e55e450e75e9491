/**
 * A history: which operations guests called and what they were answered, in one order that all of them agree on. It is
 * what a sequential model is searched for (explore/history.ts); it says nothing of what happened inside.
 *
 * Record words: 0 kind, 1 domain, 2 index of the call that a return belongs to, 3 operation, 4 granter, 5 reference,
 * 6 domain granted to, 7 1 read-only, 8 handle, 9 status.
 * Rules: a place is taken by one atomic addition, before a call and after its return, so that the order of places never
 * claims more than was so; a record is written by whoever took its place and read once the machine is over. A history that
 * runs over keeps its first records and counts on. Off (no records) unless the machine description asks for it.
 * Ours (spec: histories of uncontrolled runs count an atomic index, never wall time).
 */
import { at } from "./assert.ts";
import { HISTORY_WORDS, type Layout } from "./layout.ts";
import { add, load, type Words } from "./mem.ts";

export const HISTORY_CALL = 1;
export const HISTORY_RETURN = 2;
/** Domain `word 1` began to die. */
export const HISTORY_DIED = 3;

export const HISTORY_GRANT = 1;
export const HISTORY_END = 2;
export const HISTORY_MAP = 3;
export const HISTORY_UNMAP = 4;
export const HISTORY_COPY = 5;

export interface HistoryRecord {
  readonly kind: number;
  readonly domain: number;
  readonly call: number;
  readonly operation: number;
  readonly granter: number;
  readonly ref: number;
  readonly to: number;
  readonly readonly: boolean;
  readonly handle: number;
  readonly status: number;
}

const NOTHING: HistoryRecord = {
  kind: 0,
  domain: 0,
  call: 0,
  operation: 0,
  granter: 0,
  ref: 0,
  to: 0,
  readonly: false,
  handle: 0,
  status: 0,
};

export const isRecorded = (layout: Layout): boolean => layout.historyRecords > 0;

/** Appends a record; returns its index, which a return refers to. */
export function note(words: Words, layout: Layout, fields: Partial<HistoryRecord>): number {
  const record = { ...NOTHING, ...fields };
  const index = add(words, layout.history, 1);
  if (index >= layout.historyRecords) return index;
  const base = layout.history + HISTORY_WORDS * (1 + index);
  words[base] = record.kind;
  words[base + 1] = record.domain;
  words[base + 2] = record.call;
  words[base + 3] = record.operation;
  words[base + 4] = record.granter;
  words[base + 5] = record.ref;
  words[base + 6] = record.to;
  words[base + 7] = record.readonly ? 1 : 0;
  words[base + 8] = record.handle;
  words[base + 9] = record.status;
  return index;
}

/** Every record that was kept, and how many were not. For a machine that is over. */
export function readHistory(
  words: Words,
  layout: Layout,
): { readonly records: readonly HistoryRecord[]; readonly lost: number } {
  if (!isRecorded(layout)) return { records: [], lost: 0 };
  const count = load(words, layout.history);
  const kept = Math.min(count, layout.historyRecords);
  const records = Array.from({ length: kept }, (_, index) => {
    const word = (field: number): number =>
      at(words, layout.history + HISTORY_WORDS * (1 + index) + field);
    return {
      kind: word(0),
      domain: word(1),
      call: word(2),
      operation: word(3),
      granter: word(4),
      ref: word(5),
      to: word(6),
      readonly: word(7) === 1,
      handle: word(8),
      status: word(9),
    };
  });
  return { records, lost: count - kept };
}
