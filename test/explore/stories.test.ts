// Every focused story on the correct machine: no alarm, nothing vacuous, and the same run from the same choices.
import { describe, expect, it } from "vitest";
import { type Exploration, explore, runSeed } from "../../explore/exploration.ts";
import { randomScheduler } from "../../explore/random.ts";
import { STORIES } from "../../explore/stories/catalogue.ts";
import { revokeStory } from "../../explore/stories/grants.ts";
import { prepareStory, runStory } from "../../explore/story.ts";
import { deviationScheduler, recorder } from "../../explore/strategies/deviations.ts";

const done = (found: Exploration | undefined): Exploration => {
  if (found === undefined) throw new Error("a strategy of that name exists");
  return found;
};

describe.each(STORIES.map((story) => [story.name, prepareStory(story)] as const))(
  "%s",
  (_, prepared) => {
    it("holds in 1,500 schedules of the portfolio, and shows each side of it", () => {
      const found = done(explore(prepared, { schedules: 1_500, seed: 5, strategy: "portfolio" }));
      expect(found.failure?.findings).toBeUndefined();
      expect(found.never).toEqual([]);
    });

    it("holds in every schedule with at most two delays", () => {
      const found = done(explore(prepared, { schedules: 50_000, seed: 0, strategy: "delay(2)" }));
      expect(found.failure?.findings).toBeUndefined();
      expect(found.finished).toBe(true);
    });
  },
);

describe("a run", () => {
  const prepared = prepareStory(revokeStory);

  it("leaves the same trace when its departures from the calm schedule are made again", () => {
    for (let seed = 0; seed < 50; seed++) {
      const scheduler = recorder(randomScheduler());
      const first = runStory(prepared, { seed, scheduler }).outcome;
      const again = deviationScheduler(scheduler.deviations, scheduler.numbers);
      const second = runStory(prepared, { seed, scheduler: again }).outcome;
      expect(second.traceHash).toBe(first.traceHash);
      expect(again.skipped).toBe(0);
    }
  });

  it("of an exploration has the exploration's own seed when it is the first", () => {
    expect(runSeed(17, 0)).toBe(17);
    expect(new Set(Array.from({ length: 1000 }, (_, run) => runSeed(17, run))).size).toBe(1000);
  });
});
