// Strategies: those that enumerate finish and miss nothing, every one is repeatable, and files make a failure again.
import { beforeAll, describe, expect, it } from "vitest";
import { MUTANTS } from "../../explore/mutants/catalogue.ts";
import type { NamedExploration, NamedStory } from "../../explore/named.ts";
import { POINTS } from "../../explore/points.ts";
import { reportLines } from "../../explore/report.ts";
import { htmlReport } from "../../explore/report-html.ts";
import { STRATEGY_NAMES } from "../../explore/strategies/portfolio.ts";
import { buildOf } from "../../toolstack/build-hash.ts";
import { openMutated } from "../../toolstack/mutant-hook.ts";

function exploreStory(story: NamedStory, strategy: string, schedules: number): NamedExploration {
  const open = story.open({ schedules, seed: 3, strategy });
  if (open === undefined) throw new Error(`no strategy ${strategy}`);
  open.go(schedules);
  return story.finish(open.result());
}

describe("dpor", () => {
  // A mutant that shows only when words change under the hypervisor's hands, or in weak memory, is a matter of values.
  const ordered = MUTANTS.filter(({ id, memory }) => id !== "M24" && memory === undefined);
  it.each(ordered.map((mutant) => [mutant.id, mutant] as const))(
    "meets %s in one of the orders that it makes",
    async (_, mutant) => {
      const story = await openMutated(mutant, mutant.story);
      const open = story.open({ schedules: 10_000, seed: 0, strategy: "dpor" });
      open?.go(10_000);
      expect(mutant.caughtBy).toContain(open?.result().failure?.id);
    },
  );
});

describe("every strategy", () => {
  let mutant: NamedStory;
  beforeAll(async () => {
    mutant = await openMutated(MUTANTS[0], "revoke");
  });

  // The calm schedules find nothing here, and neither do two priority changes or two delays.
  const able = STRATEGY_NAMES.filter((name) => !/^(round-robin|faults)$/.test(name)).map((name) =>
    name.replace(/^(pct|fair-pct|delay)\(2\)$/, "$1(3)"),
  );
  it.each(able)("%s finds M01 within 10,000 schedules, twice at the same one", (strategy) => {
    const first = exploreStory(mutant, strategy, 10_000).exploration;
    const second = exploreStory(mutant, strategy, 10_000).exploration;
    expect(first.failure?.id).toMatch(/^I-(09|13|17)$/);
    expect(second.failure?.schedule).toBe(first.failure?.schedule);
    expect(second.failure?.traceHash).toBe(first.failure?.traceHash);
  });

  it("that nobody knows is none", () => {
    expect(mutant.open({ schedules: 1, seed: 1, strategy: "dpr" })).toBeUndefined();
  });
});

describe("a failure", () => {
  let story: NamedStory;
  let found: NamedExploration;
  beforeAll(async () => {
    story = await openMutated(MUTANTS[0], "revoke");
    found = exploreStory(story, "portfolio", 1_500);
  });

  it("is shrunk to three switches at most", () => {
    expect(found.shrunk?.deviations.length).toBeLessThanOrEqual(3);
    expect(found.shrunk?.steps).toBeLessThanOrEqual(found.exploration.failure?.steps ?? 0);
  });

  it("is made again from its file, strictly", () => {
    const told = story.tell(found, buildOf(["M01"]));
    const file = JSON.parse(JSON.stringify(told?.file));
    expect(story.replay(file)).toMatchObject({ divergence: undefined, skipped: 0, again: true });
  });

  it("whose file was recorded with other sources says where the run differs", async () => {
    const told = story.tell(found, buildOf(["M01"]));
    if (told === undefined) throw new Error("a failure is told");
    const correct = await openMutated(undefined, "revoke");
    const replayed = correct.replay(told.file);
    expect(replayed.again).toBe(false);
    expect(replayed.divergence).toMatch(/the run differs (between steps|after step) \d+/);
  });

  it("is told one column a task, with the order that it needs", () => {
    const told = story.tell(found, buildOf(["M01"]));
    if (told === undefined) throw new Error("a failure is told");
    const text = reportLines(told.report, "again").join("\n");
    expect(text).toMatch(/^FAIL I-\d\d/);
    expect(text).toMatch(/step \| .*B\.0.*\| hypervisor/);
    expect(text).toMatch(/necessary: .*@\d+ right after/);
    const page = htmlReport(told.report, "again");
    expect(page).toMatch(/^<!doctype html>/);
    expect(page).not.toMatch(/(src|href)=/);
  });
});

describe("the catalogue of points", () => {
  it("names each point once, with a sentence", () => {
    expect(new Set(POINTS.map(({ id }) => id)).size).toBe(POINTS.length);
    expect(POINTS.every(({ stands, kinds }) => stands.length > 10 && kinds.length > 0)).toBe(true);
  });
});
