// Campaigns: slices add up, a file goes on where it stood, a canary is found, and delayed threads end as undelayed ones.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { openStory } from "../../explore/named.ts";
import { addSlice, beginSlice, loadCampaign, newCampaign } from "../../toolstack/campaign-state.ts";
import { loadScenario } from "../../toolstack/load.ts";
import { prepare } from "../../toolstack/prepare.ts";
import { runVariants } from "../../toolstack/run.ts";
import { saveState } from "../../toolstack/state-file.ts";
import { stressSlice } from "../../toolstack/stress-task.ts";

const folder = mkdtempSync(join(tmpdir(), "campaign-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe("a campaign", () => {
  it("sums what its slices have done, and goes on from its file", async () => {
    const path = join(folder, "one.json");
    const state = newCampaign(3, "here");
    for (let turn = 0; turn < 4; turn++) {
      const slice = beginSlice(state, ["send", "ring-index"], () => 100);
      addSlice(state, await stressSlice({ ...slice, seed: 3 }));
    }
    saveState(path, state);
    const again = loadCampaign(path, 3, "here");
    expect(again.stories.send).toMatchObject({ next: 200, schedules: 200 });
    expect(again.stories["ring-index"]).toMatchObject({ next: 200, schedules: 200 });
    expect(again.begun).toEqual([]);
    expect(again.failures).toEqual([]);
  });

  it("gives each story as many turns, of whatever size they are", () => {
    const state = newCampaign(3, "here");
    const sizes: Readonly<Record<string, number>> = { small: 10, large: 40 };
    for (let turn = 0; turn < 6; turn++) {
      beginSlice(state, Object.keys(sizes), (story) => sizes[story] ?? 0);
    }
    expect(state.stories).toMatchObject({ small: { next: 30 }, large: { next: 120 } });
  });

  it("does a slice again that was begun and not done when it was killed, and counts it once", async () => {
    const path = join(folder, "killed.json");
    const state = newCampaign(3, "here");
    const lost = beginSlice(state, ["send"], () => 100);
    const done = beginSlice(state, ["send"], () => 100);
    addSlice(state, await stressSlice({ ...done, seed: 3 }));
    saveState(path, state);
    const again = loadCampaign(path, 3, "here");
    expect(again.begun).toEqual([lost]);
    expect(again.stories.send).toMatchObject({ next: 200, schedules: 100 });
    for (const slice of again.begun) addSlice(again, await stressSlice({ ...slice, seed: 3 }));
    expect(again.stories.send).toMatchObject({ next: 200, schedules: 200 });
    expect(beginSlice(again, ["send"], () => 100).first).toBe(200);
  });

  it("does not go on over other sources, another seed or a file that is none", () => {
    const path = join(folder, "two.json");
    saveState(path, newCampaign(3, "here"));
    expect(() => loadCampaign(path, 3, "there")).toThrow(/begun with sources here/);
    expect(() => loadCampaign(path, 4, "here")).toThrow(/begun with seed 3/);
    writeFileSync(path, "{");
    expect(() => loadCampaign(path, 3, "here")).toThrow(/is no campaign/);
    const { stories: _, ...cut } = newCampaign(3, "here");
    saveState(path, cut);
    expect(() => loadCampaign(path, 3, "here")).toThrow(/lacks some of its fields/);
  });

  it("finds its canary, once a kind, with a recording of it", async () => {
    const state = newCampaign(1, "here");
    const slice = { story: "revoke", seed: 1, first: 0, schedules: 1_500, mutant: "M01" };
    for (let twice = 0; twice < 2; twice++) addSlice(state, await stressSlice(slice));
    expect(state.failures).toHaveLength(1);
    expect(state.failures[0]?.file.config.mutants).toEqual(["M01"]);
  });
});

describe("a known finding", () => {
  const known = (hypervisor: "faithful" | "strict"): readonly string[] => {
    const open = openStory("empty-unmap", hypervisor).open({
      schedules: 20,
      seed: 1,
      strategy: "random",
    });
    open?.go(20);
    expect(open?.result().failure).toBeUndefined();
    return open?.result().known ?? [];
  };

  it("is what the recorded Xen has: an unmap at an empty gfn leaves the entry (recorded.md 12)", () => {
    expect(known("faithful")).toEqual([expect.stringMatching(/^I-08: known finding: gfn 393216/)]);
  });

  it("is none with a strict hypervisor", () => {
    expect(known("strict")).toEqual([]);
  });
});

describe("threads with delays at their points", () => {
  it("end as they do without", async () => {
    const loaded = await loadScenario("which-address");
    const variants = await prepare(loaded, { seed: 5, settings: [], variants: [] });
    const control = {
      engine: "threads",
      timeoutMs: 60_000,
      signal: new AbortController().signal,
      delaySeed: 5,
    } as const;
    const watch = { started: () => {}, progress: () => {}, ended: () => {} };
    const results = await runVariants(variants.slice(0, 2), control, watch);
    expect(results.map(({ code, problems }) => [code, problems])).toEqual([
      [0, []],
      [0, []],
    ]);
  });
});
