/**
 * When grant operations took effect in an explored run: the hypervisor traces each where it commits it, and what the history
 * has counted by then is the place of the mark in it.
 *
 * Rule: whoever steps the machine looks before each choice and at the end, so that a mark stands between the notes of
 * what happened before and after it. Ours; stress spec section 3.1 (`com`).
 */
import { load } from "../shared/mem.ts";
import {
  hypervisorRing,
  TRACE_GRANT_MAP,
  TRACE_GRANT_REFUSED,
  TRACE_GRANT_UNMAP,
  traceCount,
  traceRecord,
} from "../shared/trace.ts";
import type { Machine } from "./state.ts";

export interface Commit {
  /** Records of the history before it. */
  readonly at: number;
  /** Step of the run. */
  readonly step: number;
  readonly type: typeof TRACE_GRANT_MAP | typeof TRACE_GRANT_UNMAP | typeof TRACE_GRANT_REFUSED;
  /** Who called. */
  readonly domain: number;
  readonly granter: number;
  readonly ref: number;
}

export interface CommitLog {
  /** Undefined: the trace has run over, and some marks are lost. */
  readonly commits: readonly Commit[] | undefined;
  look(): void;
}

export function openCommits(machine: Machine): CommitLog {
  const { words, layout } = machine;
  const ring = hypervisorRing(layout);
  let seen = traceCount(words, layout, ring);
  let lost = false;
  const commits: Commit[] = [];
  return {
    get commits() {
      return lost ? undefined : commits;
    },
    look() {
      for (const count = traceCount(words, layout, ring); seen < count; seen++) {
        const record = traceRecord(words, layout, ring, seen);
        if (record === undefined) lost = true;
        else
          noteCommit(commits, { at: load(words, layout.history), step: machine.steps - 1 }, record);
      }
    },
  };
}

/** The next step has been chosen, and counted, when the log looks. */
function noteCommit(
  commits: Commit[],
  place: Pick<Commit, "at" | "step">,
  record: Int32Array,
): void {
  const [, type, domain = 0, granter = 0, ref = 0] = record;
  if (type === TRACE_GRANT_MAP || type === TRACE_GRANT_UNMAP || type === TRACE_GRANT_REFUSED) {
    commits.push({ ...place, type, domain, granter, ref });
  }
}
