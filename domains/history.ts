/**
 * What a kernel notes of its grant operations when the machine keeps a history: each call before it is made, each
 * return after it has come back, one record an element of a batch.
 *
 * Rules: a note reads the argument area and nothing else, and is no step of the program; without a history it is one test.
 * Ours.
 */
import {
  COPY_DEST,
  COPY_FLAGS,
  COPY_PTR_DOMID,
  COPY_PTR_REF_OR_GMFN,
  COPY_SIZE,
  COPY_SOURCE,
  COPY_STATUS,
  GNTCOPY_dest_gref,
  GNTCOPY_source_gref,
  GNTMAP_readonly,
  GNTTABOP_copy,
  GNTTABOP_map_grant_ref,
  GNTTABOP_unmap_grant_ref,
  MAP_DOM,
  MAP_FLAGS,
  MAP_HANDLE,
  MAP_REF,
  MAP_SIZE,
  MAP_STATUS,
  UNMAP_HANDLE,
  UNMAP_HOST_ADDR,
  UNMAP_SIZE,
  UNMAP_STATUS,
} from "../shared/abi/grant.ts";
import {
  HISTORY_CALL,
  HISTORY_COPY,
  HISTORY_END,
  HISTORY_GRANT,
  HISTORY_MAP,
  HISTORY_RETURN,
  HISTORY_UNMAP,
  type HistoryRecord,
  isRecorded,
  note,
} from "../shared/history.ts";
import { GNTST_general_error, GNTST_okay } from "../shared/status.ts";
import type { Cpu } from "./memory.ts";

/** Where in the argument area an answer will be, in bytes; only a map answers with a handle. */
interface Answer {
  readonly status: number;
  readonly handle?: number;
}

/** A call whose return is still to be noted. */
interface Noted {
  /** Index of its record. */
  readonly call: number;
  readonly answer: Answer;
}

interface Call {
  readonly fields: Partial<HistoryRecord>;
  readonly answer: Answer;
}

/** Notes the elements of a grant_table_op that is about to be called; undefined when no history is kept. */
export function noteCalls(
  cpu: Cpu,
  view: DataView,
  command: number,
  count: number,
): readonly Noted[] | undefined {
  if (!isRecorded(cpu.layout)) return undefined;
  const noted: Noted[] = [];
  for (let i = 0; i < count; i++) {
    for (const { fields, answer } of callsOf(view, command, i)) {
      const domain = cpu.boot.domid;
      const call = note(cpu.words, cpu.layout, { ...fields, kind: HISTORY_CALL, domain });
      noted.push({ call, answer });
    }
  }
  return noted;
}

/** Notes what they were answered. */
export function noteReturns(cpu: Cpu, view: DataView, noted: readonly Noted[]): void {
  for (const { call, answer } of noted) {
    note(cpu.words, cpu.layout, {
      kind: HISTORY_RETURN,
      domain: cpu.boot.domid,
      call,
      status: view.getInt16(answer.status, true),
      handle: answer.handle === undefined ? 0 : view.getUint32(answer.handle, true),
    });
  }
}

/** Element `i` as calls on single references; an unmap at address 0 does nothing and is none. */
function callsOf(view: DataView, command: number, i: number): readonly Call[] {
  switch (command) {
    case GNTTABOP_map_grant_ref: {
      const base = i * MAP_SIZE;
      const fields = {
        operation: HISTORY_MAP,
        granter: view.getUint16(base + MAP_DOM, true),
        ref: view.getUint32(base + MAP_REF, true),
        readonly: (view.getUint32(base + MAP_FLAGS, true) & GNTMAP_readonly) !== 0,
      };
      return [{ fields, answer: { status: base + MAP_STATUS, handle: base + MAP_HANDLE } }];
    }
    case GNTTABOP_unmap_grant_ref: {
      const base = i * UNMAP_SIZE;
      if (isZero(view, base + UNMAP_HOST_ADDR)) return [];
      const handle = view.getUint32(base + UNMAP_HANDLE, true);
      const fields = { operation: HISTORY_UNMAP, handle };
      return [{ fields, answer: { status: base + UNMAP_STATUS } }];
    }
    case GNTTABOP_copy:
      return copyCallsOf(view, i * COPY_SIZE);
    default:
      return [];
  }
}

const isZero = (view: DataView, at: number): boolean =>
  (view.getUint32(at, true) | view.getUint32(at + 4, true)) === 0;

function copyCallsOf(view: DataView, base: number): readonly Call[] {
  const flags = view.getUint16(base + COPY_FLAGS, true);
  const sides = [
    { at: base + COPY_SOURCE, granted: (flags & GNTCOPY_source_gref) !== 0, readonly: true },
    { at: base + COPY_DEST, granted: (flags & GNTCOPY_dest_gref) !== 0, readonly: false },
  ];
  return sides
    .filter(({ granted }) => granted)
    .map(({ at, readonly }) => ({
      fields: {
        operation: HISTORY_COPY,
        granter: view.getUint16(at + COPY_PTR_DOMID, true),
        ref: view.getUint32(at + COPY_PTR_REF_OR_GMFN, true),
        readonly,
      },
      answer: { status: base + COPY_STATUS },
    }));
}

/** Notes that an entry is about to be published; the returned function notes that it has been. */
export function noteGrant(cpu: Cpu, ref: number, to: number, readonly: boolean): () => void {
  return noteOwn(cpu, { operation: HISTORY_GRANT, ref, to, readonly });
}

/** The same for an attempt to end an access; the function is told whether it succeeded. */
export function noteEnd(cpu: Cpu, ref: number): (ended: boolean) => void {
  return noteOwn(cpu, { operation: HISTORY_END, ref });
}

function noteOwn(cpu: Cpu, fields: Partial<HistoryRecord>): (done?: boolean) => void {
  if (!isRecorded(cpu.layout)) return () => {};
  const domain = cpu.boot.domid;
  const own = { ...fields, granter: domain, domain };
  const call = note(cpu.words, cpu.layout, { ...own, kind: HISTORY_CALL });
  return (done = true) => {
    const status = done ? GNTST_okay : GNTST_general_error;
    note(cpu.words, cpu.layout, { kind: HISTORY_RETURN, domain, call, status });
  };
}
