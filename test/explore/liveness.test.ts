// Whether everybody gets on: each check of liveness is seen to fail, on a story or with a bug in the sources, and none of them on
// the machine as it is.
import { describe, expect, it } from "vitest";
import { explore } from "../../explore/exploration.ts";
import { MUTANTS } from "../../explore/mutants/catalogue.ts";
import type { Mutant } from "../../explore/mutants/mutant.ts";
import { reportLines, reportOf } from "../../explore/report.ts";
import { shrink } from "../../explore/shrink.ts";
import { prepareStory } from "../../explore/story.ts";
import { loadMutated, openMutated } from "../../toolstack/mutant-hook.ts";
import {
  askingStory,
  busyStory,
  eachOtherStory,
  exploreStory,
  fairRun,
  flippingStory,
  restlessStory,
  spinningStory,
  stuckTeardowns,
  unspokenStory,
} from "./liveness-stories.ts";

type Stories = typeof import("./liveness-stories.ts");

const ENTRY = "test/explore/liveness-stories.ts";

function mutantNamed(id: string): Mutant {
  const found = MUTANTS.find((mutant) => mutant.id === id);
  if (found === undefined) throw new Error(`no mutant ${id}`);
  return found;
}

const planted = (id: string, file: string, from: string, to: string): Mutant => ({
  ...mutantNamed("M24"),
  id,
  patches: [{ file, from, to }],
});

describe("L-1", () => {
  it("is two programs that wait for each other, with the graph of who waits", () => {
    const found = exploreStory(eachOtherStory, 10)?.failure;
    expect(found?.findings).toEqual(["L-1: nobody can move: A sleeps; B sleeps"]);
  });
});

describe("L-2", () => {
  it("is a sleeper who finds what he waits for when he is woken", () => {
    const found = exploreStory(unspokenStory, 200)?.failure;
    expect(found?.findings).toEqual(["L-2: B: sleeps although what it waits for has come"]);
  });

  it.each([
    ["M47", /^L-2: A sleeps, and its port 1 is pending and not masked$/],
    ["M51", /^L-2: B: sleeps although what it waits for has come$/],
  ] as const)("is what %s does", async (id, text) => {
    const story = await openMutated(mutantNamed(id), mutantNamed(id).story);
    const open = story.open({ schedules: 1_500, seed: 1, strategy: "portfolio" });
    open?.go(1_500);
    expect(open?.result().failure?.findings.at(-1)).toMatch(text);
  });

  it("is a request that the hypervisor does not see", async () => {
    const deaf = planted(
      "deaf",
      "hypervisor/main.ts",
      "at(bits, i) | exchange(xen.words, bell, 0)",
      "at(bits, i) | (exchange(xen.words, bell, 0) & 7)",
    );
    const { fairRun: run } = await loadMutated<Stories>(deaf, ENTRY);
    expect(run(askingStory).outcome.findings).toEqual([
      "L-2: B: the hypervisor does not see unmask",
    ]);
  });
});

describe("L-3", () => {
  const partial = planted(
    "partial",
    "hypervisor/main.ts",
    "  xen.work.cursor = slot + 1 < xen.work.bits.length * 32 ? slot + 1 : 0;\n",
    "  xen.work.cursor = 0;\n",
  );

  it("is a call that a hypervisor with a favourite never answers", async () => {
    const { fairRun: run } = await loadMutated<Stories>(partial, ENTRY);
    expect(run(busyStory).outcome.findings).toEqual([
      "L-3: B: unmask does not return while others do",
    ]);
  });

  it("is not what the machine does", () => {
    expect(exploreStory(busyStory, 100)?.failure).toBeUndefined();
  });
});

describe("L-4", () => {
  it("is two programs that spin on each other's lock", () => {
    expect(fairRun(spinningStory).outcome.findings).toEqual([
      "L-4: the machine goes in circles, and nothing of A, B returns",
    ]);
  });

  it("is what M24 does, besides L-7", async () => {
    const { fairRun: run } = await loadMutated<Stories>(mutantNamed("M24"), ENTRY);
    expect(run(flippingStory).outcome.findings).toEqual([
      "L-7: a handler meets more than 256 points without letting go",
      "L-4: the machine goes in circles, and nothing of A.0, A.1, A.2, B returns",
    ]);
  });

  it("is not what the machine does", () => {
    expect(exploreStory(flippingStory, 200)?.failure).toBeUndefined();
  });
});

describe("L-5", () => {
  it("is a program that comes to no end", () => {
    expect(fairRun(restlessStory).outcome.findings).toEqual([
      "L-5: the run is not over after 22000 steps",
    ]);
  });
});

describe("a report of a run without end", () => {
  it("is one of hundreds of lines, says who waits, and is written soon", () => {
    const prepared = prepareStory(restlessStory);
    const found = explore(prepared, { schedules: 1, seed: 1, strategy: "random" })?.failure;
    if (found === undefined) throw new Error("a program without end is found");
    const shrunk = shrink(prepared, found);
    if (shrunk === undefined) throw new Error("it fails again");
    expect(shrunk.runs).toBeLessThanOrEqual(400);
    const lines = reportLines(reportOf(prepared, found, shrunk), "again");
    expect(lines.length).toBeLessThan(400);
    expect(lines).toContain("waiting: B could go on");
  });
});

describe("L-6", () => {
  const cases = [
    ["M39", "refused-resource"],
    ["M55", "kill-mapper"],
  ] as const;

  it.each(cases)("is what %s does to a domain that is killed", async (id, story) => {
    const { stuckTeardowns: stuck } = await loadMutated<Stories>(mutantNamed(id), ENTRY);
    expect(stuck(story, 100)).toEqual([
      "L-6: domain 1 was killed and is not gone, and nobody holds it",
    ]);
  });

  it.each(cases)("is not what the machine does where %s does it", (_, story) => {
    expect(stuckTeardowns(story, 100)).toEqual([]);
  });
});

describe("L-7", () => {
  it("is what M22 does", async () => {
    const story = await openMutated(mutantNamed("M22"), "many-mappings");
    const open = story.open({ schedules: 10, seed: 1, strategy: "portfolio" });
    open?.go(10);
    expect(open?.result().failure?.findings[0]).toBe(
      "L-7: a handler meets more than 256 points without letting go",
    );
  });
});
