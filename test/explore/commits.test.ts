// Commit replay: whether each grant operation is legal where the hypervisor committed it, and whose fault it is when it is not.
import { describe, expect, it } from "vitest";
import { judgeRun } from "../../explore/commit-replay.ts";
import type { Commit } from "../../explore/commits.ts";
import { MUTANTS } from "../../explore/mutants/catalogue.ts";
import { htmlReport } from "../../explore/report-html.ts";
import {
  HISTORY_CALL,
  HISTORY_END,
  HISTORY_GRANT,
  HISTORY_MAP,
  HISTORY_RETURN,
  HISTORY_UNMAP,
  type HistoryRecord,
} from "../../shared/history.ts";
import { GNTST_general_error, GNTST_okay } from "../../shared/status.ts";
import { TRACE_GRANT_MAP, TRACE_GRANT_REFUSED, TRACE_GRANT_UNMAP } from "../../shared/trace.ts";
import { loadMutated } from "../../toolstack/mutant-hook.ts";

const GRANTER = 1;
const MAPPER = 2;
const REF = 8;

/** Records and marks as a run would leave them. */
class Run {
  readonly records: HistoryRecord[] = [];
  readonly commits: Commit[] = [];
  call(operation: number, fields: Partial<HistoryRecord> = {}): number {
    const domain = operation <= HISTORY_END ? GRANTER : MAPPER;
    return this.#push({ kind: HISTORY_CALL, domain, operation, ...fields });
  }
  answer(call: number, status: number, handle = 0): void {
    this.#push({ kind: HISTORY_RETURN, call, status, handle });
  }
  mark(type: Commit["type"]): void {
    const at = this.records.length;
    this.commits.push({ at, step: at, type, domain: MAPPER, granter: GRANTER, ref: REF });
  }
  granted(): void {
    this.answer(this.call(HISTORY_GRANT, { to: MAPPER }), GNTST_okay);
  }
  ended(status: number): void {
    this.answer(this.call(HISTORY_END), status);
  }
  get findings(): readonly string[] {
    return judgeRun(this.records, this.commits);
  }
  #push(fields: Partial<HistoryRecord>): number {
    const nothing = { call: 0, domain: 0, to: 0, readonly: false, handle: 0, status: 0, kind: 0 };
    this.records.push({ ...nothing, operation: 0, granter: GRANTER, ref: REF, ...fields });
    return this.records.length - 1;
  }
}

describe("commit replay", () => {
  it("lets a pin end between the mark of its unmap and the return", () => {
    const run = new Run();
    run.granted();
    const map = run.call(HISTORY_MAP);
    run.mark(TRACE_GRANT_MAP);
    run.answer(map, GNTST_okay, 3);
    const unmap = run.call(HISTORY_UNMAP, { handle: 3 });
    run.mark(TRACE_GRANT_UNMAP);
    run.ended(GNTST_general_error);
    run.ended(GNTST_okay);
    run.answer(unmap, GNTST_okay);
    expect(run.findings).toEqual([]);
  });

  it("lets the granter see the bits of a map that is about to be committed", () => {
    const run = new Run();
    run.granted();
    const map = run.call(HISTORY_MAP);
    run.ended(GNTST_general_error);
    run.mark(TRACE_GRANT_MAP);
    run.answer(map, GNTST_okay);
    expect(run.findings).toEqual([]);
  });

  it("blames the machine for what no order explains", () => {
    const run = new Run();
    run.granted();
    const map = run.call(HISTORY_MAP);
    run.mark(TRACE_GRANT_MAP);
    run.answer(map, GNTST_okay);
    run.ended(GNTST_okay);
    expect(run.findings).toEqual([expect.stringMatching(/^H-1: grant 1\/8: after .*access ended/)]);
  });

  it("blames the marks where some order explains it, but not theirs", () => {
    const run = new Run();
    run.granted();
    const map = run.call(HISTORY_MAP);
    // The access has not been ended yet, so nothing was wrong with the map.
    run.mark(TRACE_GRANT_REFUSED);
    run.ended(GNTST_okay);
    run.answer(map, GNTST_general_error);
    expect(run.findings).toEqual([expect.stringMatching(/^D-2: .*is not legal where it took/)]);
  });

  it("wants a caller for every map", () => {
    const run = new Run();
    run.granted();
    run.mark(TRACE_GRANT_MAP);
    expect(run.findings).toEqual(["D-2: grant 1/8: d2 has mapped it, which nobody called"]);
  });
});

describe("the history of a story", () => {
  it("shows by itself that a header was written without looking (M23)", async () => {
    const bug = MUTANTS.find(({ id }) => id === "M23");
    if (bug === undefined) throw new Error("M23 is in the catalogue");
    // No other check may speak first: the audits are silenced, and nobody spies.
    const silent = [
      { from: "    known.push(...holes);\n    return broken;\n", to: "    return [];\n" },
      { from: "    if (broken.length > 0 || log === undefined) return broken;\n", to: "" },
      {
        from: "    return judgeOnce(prepared.histories, machine, log);\n",
        to: "    return log === undefined ? [] : judgeOnce(prepared.histories, machine, log);\n",
      },
    ].map((patch) => ({ ...patch, file: "explore/story.ts" }));
    const mutant = { ...bug, id: "M23 unaudited", patches: [...bug.patches, ...silent] };
    const { openStory } = await loadMutated<typeof import("../../explore/named.ts")>(
      mutant,
      "explore/named.ts",
    );
    const limits = { schedules: 1_500, seed: 1, strategy: "portfolio", without: ["B.1"] };
    const story = openStory("revoke");
    const open = story.open(limits);
    open?.go(limits.schedules);
    const result = open?.result();
    expect(result?.failure).toMatchObject({ id: "H-1" });
    if (result === undefined) return;
    const build = { source: "here", node: "here", mutants: ["M23"] };
    const report = story.tell(story.finish(result), build)?.report;
    const map = report?.history.find(({ text }) => text.startsWith("grant 1/8: d2 map"));
    // It takes effect where the granter's end has taken effect already.
    const end = report?.history.find(({ text }) => text === "grant 1/8: access ended");
    expect(map?.tick).toBeGreaterThan(end?.tick ?? Number.POSITIVE_INFINITY);
    expect(report && htmlReport(report, "again")).toContain("<svg");
  });
});
