// The first test of the explorer: a planted race between two domains must be found, and replayed.
import { describe, expect, it } from "vitest";
import { machineImage } from "../../explore/image.ts";
import { randomScheduler } from "../../explore/random.ts";
import { replayScheduler } from "../../explore/replay.ts";
import { roundRobin } from "../../explore/round-robin.ts";
import type { Outcome } from "../../explore/run.ts";
import { INCREMENTS, lostUpdateModel, runLostUpdate } from "./lost-update.ts";

const SEEDS = 40;
const image = machineImage(lostUpdateModel());
const ALL = 2 * INCREMENTS;

/** First seed whose run loses an update. */
function findLostUpdate(): { readonly outcome: Outcome; readonly sum: number } | undefined {
  for (let seed = 0; seed < SEEDS; seed++) {
    const found = runLostUpdate("racy", randomScheduler(), seed, image);
    if (found.sum !== ALL) return found;
  }
  return undefined;
}

describe("two domains increment one shared word", () => {
  it("loses an update under some seed when the increment is a load and a store", () => {
    const found = findLostUpdate();
    expect(found).toBeDefined();
    expect(found?.outcome.verdict).toBe("finished");
    expect(found?.sum).toBeLessThan(ALL);
    expect(found?.outcome.command).toBe(
      `npm run -s gfn2mfn -- run lost-update --engine explore --seed ${found?.outcome.seed}`,
    );
  });

  it("loses the same update again when the schedule is replayed", () => {
    const found = findLostUpdate();
    const again = runLostUpdate("racy", replayScheduler(found?.outcome.schedule ?? []), 0);
    expect(again.sum).toBe(found?.sum);
    expect(again.outcome.traceHash).toBe(found?.outcome.traceHash);
  });

  it("never loses an update when the increment is atomic", () => {
    for (let seed = 0; seed < SEEDS; seed++) {
      const { outcome, sum } = runLostUpdate("atomic", randomScheduler(), seed, image);
      expect(outcome.findings).toEqual([]);
      expect(outcome.verdict).toBe("finished");
      expect(sum).toBe(ALL);
    }
  });
});

describe("the trace of a run", () => {
  it("is the same for the same seed", () => {
    for (const seed of [1, 7, 4711]) {
      const one = runLostUpdate("racy", randomScheduler(), seed).outcome;
      const two = runLostUpdate("racy", randomScheduler(), seed).outcome;
      expect(two.traceHash).toBe(one.traceHash);
      expect(two.schedule).toEqual(one.schedule);
    }
  });

  it("differs between seeds", () => {
    const hashes = new Set(
      Array.from(
        { length: 10 },
        (_, seed) => runLostUpdate("racy", randomScheduler(), seed).outcome.traceHash,
      ),
    );
    expect(hashes.size).toBe(10);
  });

  it("is the same on a machine that is restored from an image as on one that boots", () => {
    for (const seed of [3, 4, 3]) {
      const booted = runLostUpdate("racy", randomScheduler(), seed);
      const restored = runLostUpdate("racy", randomScheduler(), seed, image);
      expect(restored.outcome.traceHash).toBe(booted.outcome.traceHash);
      expect(restored.sum).toBe(booted.sum);
    }
  });

  it("does not depend on the seed under the round-robin scheduler", () => {
    const one = runLostUpdate("racy", roundRobin(), 1).outcome;
    const two = runLostUpdate("racy", roundRobin(), 2).outcome;
    expect(two.traceHash).toBe(one.traceHash);
  });
});
