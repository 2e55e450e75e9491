/**
 * What a scenario's expectations are judged on, and the judgement of one variant.
 * Rule: findings of the audit, and of the history where one is kept, are failures of every scenario, whatever it expects.
 * Ours.
 */
import { judgeHistory } from "../explore/history.ts";
import { readHistory } from "../shared/history.ts";
import type { Expectation, FinalState, Report, Row } from "../shared/scenario.ts";
import type { Host } from "../shared/trap.ts";
import type { Finished } from "./engine.ts";
import type { Prepared } from "./prepare.ts";

export interface Verdict {
  readonly row: Row;
  readonly expectations: readonly Expectation[];
}

/** Judges a finished machine. Without a judge of its own, a variant's row is what was reported. */
export function judge(prepared: Prepared, finished: Finished, host: Host): Verdict {
  const { resolved, loaded } = prepared;
  const state = finalState(prepared, finished, host);
  const own = loaded.scenario.expect?.(state);
  const audited = finished.audit.map((finding) => ({
    claim: "the whole-state audit finds nothing",
    holds: false,
    got: finding,
  }));
  const { records, lost } = readHistory(finished.words, finished.layout);
  const history = [
    ...judgeHistory(records).findings,
    ...(lost === 0
      ? []
      : [`${lost} records of the history are lost: raise machine.historyRecords`]),
  ].map((got) => ({ claim: "the history can have come about one by one", holds: false, got }));
  return {
    row: own?.row ?? { name: resolved.variant, reports: reportTree(finished.reports) },
    expectations: [...(own?.expectations ?? []), ...audited, ...history],
  };
}

export function finalState(prepared: Prepared, finished: Finished, host: Host): FinalState {
  const { variant, facts, parameters, model } = prepared.resolved;
  const { layout, words, memory, reports, audit } = finished;
  return {
    variant,
    facts,
    parameters,
    model,
    layout,
    words,
    memory,
    reports,
    reported: (domain, key) =>
      reports.findLast((report) => report.domain === domain && report.key === key)?.value,
    audit,
    host,
  };
}

/** Newest value of each key, by domain. */
export function reportTree(
  reports: readonly Report[],
): Readonly<Record<string, Record<string, string | number>>> {
  const tree: Record<string, Record<string, string | number>> = {};
  for (const { domain, key, value } of reports) {
    const own = tree[domain] ?? {};
    own[key] = value;
    tree[domain] = own;
  }
  return tree;
}
