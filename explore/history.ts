/**
 * Judges a recorded history of grant operations: for every grant reference, whether what its granter and those who
 * mapped, copied and unmapped it were told could have come about one operation at a time.
 *
 * A handle belongs to one reference for as long as it lives, so each (granter, reference) is a history of its own. An
 * operation that nobody saw return may have taken effect or not.
 *
 * Rule: a finding names the reference, the longest order found and what could not follow.
 * Ours, after partitioned linearizability (Horn and Kroening, 2015).
 */
import { item } from "../shared/assert.ts";
import {
  HISTORY_CALL,
  HISTORY_COPY,
  HISTORY_DIED,
  HISTORY_END,
  HISTORY_GRANT,
  HISTORY_MAP,
  HISTORY_RETURN,
  HISTORY_UNMAP,
  type HistoryRecord,
} from "../shared/history.ts";
import { CMPXCHG_ATTEMPTS_MAX } from "../shared/limits.ts";
import { GNTST_okay } from "../shared/status.ts";
import { type GrantOp, grantModel } from "./grant-model.ts";
import { linearize, type Operation } from "./linearize.ts";

interface Call extends HistoryRecord {
  readonly index: number;
  readonly answer: (HistoryRecord & { readonly index: number }) | undefined;
}

export interface HistoryVerdict {
  /** A line each; empty: every reference's history is linearizable. */
  readonly findings: readonly string[];
  readonly references: number;
  readonly operations: number;
}

/** What was called of one reference, with the operations of the model that it stands for. */
export interface ReferenceHistory {
  /** `granter/reference`. */
  readonly key: string;
  readonly granter: number;
  readonly ref: number;
  readonly calls: number;
  readonly operations: readonly Operation<GrantOp>[];
}

/** Takes the records of a machine apart, by reference. */
export function historiesOf(records: readonly HistoryRecord[]): readonly ReferenceHistory[] {
  return [...partition(callsOf(records), records)].map(([key, calls]) => {
    const [granter = 0, ref = 0] = key.split("/").map(Number);
    return { key, granter, ref, calls: calls.length, operations: operationsOf(calls) };
  });
}

/** Judges the records of a machine that is over, in their order. */
export function judgeHistory(records: readonly HistoryRecord[]): HistoryVerdict {
  const histories = historiesOf(records);
  return {
    findings: histories.flatMap(searchOrder),
    references: histories.length,
    operations: histories.reduce((sum, { calls }) => sum + calls, 0),
  };
}

/** Looks for an order of one reference's operations; a sentence when there is none, or when the search was given up. */
export function searchOrder({ key, ref, operations }: ReferenceHistory): readonly string[] {
  const verdict = linearize(grantModel(ref), operations);
  if (verdict.kind === "linearizable") return [];
  return [`grant ${key}: ${sentenceOf(operations, verdict)}`];
}

function callsOf(records: readonly HistoryRecord[]): readonly Call[] {
  const answers = new Map<number, HistoryRecord & { readonly index: number }>();
  for (const [index, record] of records.entries()) {
    if (record.kind === HISTORY_RETURN) answers.set(record.call, { ...record, index });
  }
  return records.flatMap((record, index) =>
    record.kind === HISTORY_CALL ? [{ ...record, index, answer: answers.get(index) }] : [],
  );
}

/** Calls by `granter/reference`, and what became of the handles of those who died. */
function partition(calls: readonly Call[], records: readonly HistoryRecord[]) {
  const histories = new Map<string, Call[]>();
  /** Where a domain's handle belongs, from the newest map that returned it. */
  const homes = new Map<string, string>();
  const open = new Map<string, Call>();
  const enter = (key: string, call: Call): void => {
    histories.set(key, [...(histories.get(key) ?? []), call]);
  };
  const events = [
    ...calls.map((call) => ({ index: call.index, call })),
    ...calls.flatMap((call) =>
      call.operation === HISTORY_MAP && call.answer?.status === GNTST_okay
        ? [{ index: call.answer.index, mapped: call }]
        : [],
    ),
    ...records.flatMap((record, index) =>
      record.kind === HISTORY_DIED ? [{ index, died: record.domain }] : [],
    ),
  ].toSorted((a, b) => a.index - b.index);
  for (const event of events) {
    if ("mapped" in event) {
      const { domain, granter, ref } = event.mapped;
      homes.set(`${domain}/${handleOf(event.mapped)}`, `${granter}/${ref}`);
      open.set(`${domain}/${handleOf(event.mapped)}`, event.mapped);
    } else if ("died" in event) {
      for (const [handle, map] of open) {
        if (map.domain === event.died) enter(`${map.granter}/${map.ref}`, reaped(map, event.index));
        if (map.domain === event.died) open.delete(handle);
      }
    } else {
      const { call } = event;
      const handle = `${call.domain}/${call.handle}`;
      const isUnmap = call.operation === HISTORY_UNMAP;
      const key = isUnmap ? homes.get(handle) : `${call.granter}/${call.ref}`;
      // A handle that no map ever returned is the caller's own invention.
      if (key !== undefined) enter(key, call);
      if (call.operation === HISTORY_MAP && call.answer === undefined) {
        open.set(`${call.domain}/${handleOf(call)}`, call);
      }
      if (isUnmap && call.answer?.status === GNTST_okay) open.delete(handle);
    }
  }
  return histories;
}

/** The unmapping of a dead domain's handle, which nobody calls and nobody is answered. */
const reaped = (map: Call, index: number): Call => ({
  ...map,
  index,
  operation: HISTORY_UNMAP,
  handle: handleOf(map),
  answer: undefined,
});

/** What a map returned; whoever never saw its return has a handle that nobody else can name. */
const handleOf = ({ answer, index }: Call): number => answer?.handle ?? -1 - index;

function operationsOf(calls: readonly Call[]): readonly Operation<GrantOp>[] {
  const operations: Operation<GrantOp>[] = [];
  for (const call of calls) {
    const place = { called: call.index, returned: call.answer?.index };
    const status = call.answer?.status ?? GNTST_okay;
    switch (call.operation) {
      case HISTORY_GRANT:
        operations.push({ ...place, op: { f: "grant", to: call.to, readonly: call.readonly } });
        break;
      case HISTORY_END: {
        const excused = calls.some((other) => isRefusedAccess(other) && overlap(call, other));
        operations.push({ ...place, op: { f: "end", done: status === GNTST_okay, excused } });
        break;
      }
      case HISTORY_MAP:
        operations.push({ ...place, op: mapOf(call, calls, status) });
        break;
      case HISTORY_UNMAP:
        pushPair(operations, place, unmapOf(call, status), status);
        break;
      case HISTORY_COPY:
        pushPair(operations, place, copyOf(call, status), status);
        break;
    }
  }
  return operations;
}

type Place = Pick<Operation<GrantOp>, "called" | "returned">;

/** An access and its end, or the end of a handle and of its pin: the second only after the first. */
function pushPair(
  operations: Operation<GrantOp>[],
  place: Place,
  [first, second]: readonly [GrantOp, GrantOp],
  status: number,
): void {
  operations.push({ ...place, op: first });
  if (status === GNTST_okay) {
    operations.push({ ...place, op: second, after: operations.length - 1 });
  }
}

function mapOf(call: Call, calls: readonly Call[], status: number): GrantOp {
  const writes = calls.filter(
    (other) =>
      (other.operation === HISTORY_GRANT || other.operation === HISTORY_END) &&
      overlap(call, other),
  );
  return {
    f: "map",
    dom: call.domain,
    readonly: call.readonly,
    status,
    handle: handleOf(call),
    contended: writes.length >= CMPXCHG_ATTEMPTS_MAX,
  };
}

const unmapOf = ({ domain: dom, handle }: Call, status: number): readonly [GrantOp, GrantOp] => [
  { f: "unmap", dom, handle, status },
  { f: "unpin", dom, handle },
];

const copyOf = ({ domain: dom, readonly }: Call, status: number): readonly [GrantOp, GrantOp] => [
  { f: "copy", dom, readonly, status },
  { f: "release", readonly },
];

const isRefusedAccess = ({ operation, answer }: Call): boolean =>
  (operation === HISTORY_MAP || operation === HISTORY_COPY) && answer?.status !== GNTST_okay;

const overlap = (a: Call, b: Call): boolean =>
  a.index < (b.answer?.index ?? Number.POSITIVE_INFINITY) &&
  b.index < (a.answer?.index ?? Number.POSITIVE_INFINITY);

/** Operations that a line about a violation shows before what could not follow. */
const SHOWN = 6;

function sentenceOf(
  history: readonly Operation<GrantOp>[],
  verdict: Exclude<ReturnType<typeof linearize>, { readonly kind: "linearizable" }>,
): string {
  if (verdict.kind === "inconclusive") return "the search of its history was given up";
  const name = (index: number): string => nameOf(item(history, index).op);
  const prefix = verdict.prefix.slice(-SHOWN).map(name);
  const before = verdict.prefix.length > SHOWN ? ["…", ...prefix] : prefix;
  return `after [${before.join(", ")}] none of [${verdict.stuck.map(name).join(", ")}] can follow`;
}

export function nameOf(op: GrantOp): string {
  switch (op.f) {
    case "grant":
      return `grant to d${op.to}${op.readonly ? " read-only" : ""}`;
    case "end":
      return op.done ? "access ended" : "access in use";
    case "map":
      return `d${op.dom} map${op.readonly ? " read-only" : ""} = ${op.status}, handle ${op.handle}`;
    case "unmap":
      return `d${op.dom} unmap handle ${op.handle} = ${op.status}`;
    case "unpin":
      return `d${op.dom} handle ${op.handle} let go`;
    case "copy":
      return `d${op.dom} copy ${op.readonly ? "from" : "to"} = ${op.status}`;
    case "release":
      return "copy done";
  }
}
