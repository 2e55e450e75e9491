/**
 * The schedule of an earlier run, choice by choice. Rules: a choice that is not possible any more is a
 * divergence: the machine, its programs or the schedule are not those of the recorded run. Behind the end of
 * the schedule the first candidate moves. Ours (design 2: rewind is replay to step n - 1).
 */
import { assert, at, item } from "../shared/assert.ts";
import type { Scheduler } from "./scheduler.ts";

/** `numbers` are what `number` answered in the recorded run, in order. */
export function replayScheduler(
  schedule: readonly number[],
  numbers: readonly number[] = [],
): Scheduler {
  let position = 0;
  let drawn = 0;
  return {
    begin() {
      position = 0;
      drawn = 0;
    },
    choose(candidates, count) {
      if (position >= schedule.length) return at(candidates, 0);
      const choice = item(schedule, position++);
      let possible = false;
      for (let i = 0; i < count; i++) if (at(candidates, i) === choice) possible = true;
      assert(possible, `step ${position} of the schedule is possible`);
      return choice;
    },
    number(below) {
      if (drawn >= numbers.length) return 0;
      return item(numbers, drawn++) % below;
    },
  };
}
