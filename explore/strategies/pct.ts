/**
 * `pct(d)`: random priorities, the highest that can move moves, and d - 1 times in a run whoever is about to move falls below
 * all others. `fair-pct` turns into a random walk after a while, so that a run that waits in a loop ends.
 *
 * Rule: `points`, the number of contested choices of a run, is measured once by the exploration, so that a run is decided
 * by its seed alone. Behaviour: Burckhardt and others, A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs.
 */
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { at } from "../../shared/assert.ts";
import type { Scheduler } from "../scheduler.ts";

/** Above every change point's priority. */
const HIGH = 1 << 20;

export interface PctOptions {
  readonly depth: number;
  /** Contested choices of a run. */
  readonly points: number;
  /** After so many points any candidate may move: a fair end. Never, unless given. */
  readonly fairAfter?: number;
}

export function pctScheduler(options: PctOptions): Scheduler {
  const { depth, points, fairAfter = Number.POSITIVE_INFINITY } = options;
  let generator = xoroshiro128plus(0);
  let seen = 0;
  // By task + 1: the hypervisor is -1. 0: no priority drawn yet.
  const priority: number[] = [];
  const changes: number[] = [];
  const number = (below: number): number => (generator.next() >>> 0) % below;

  const highest = (candidates: Int32Array, count: number): number => {
    let best = at(candidates, 0);
    for (let i = 0; i < count; i++) {
      const task = at(candidates, i) + 1;
      if ((priority[task] ?? 0) === 0) priority[task] = HIGH + number(HIGH);
      if ((priority[task] ?? 0) > (priority[best + 1] ?? 0)) best = task - 1;
    }
    return best;
  };

  return {
    begin(seed) {
      generator = xoroshiro128plus(seed | 0);
      seen = 0;
      priority.length = 0;
      changes.length = 0;
      for (let i = 1; i < depth; i++) changes.push(number(Math.max(points, 1)));
    },
    choose(candidates, count) {
      if (count === 1) return at(candidates, 0);
      if (seen >= fairAfter) return at(candidates, number(count));
      const best = highest(candidates, count);
      const change = changes.indexOf(seen++);
      if (change < 0) return best;
      priority[best + 1] = depth - change;
      return highest(candidates, count);
    },
    number,
  };
}
