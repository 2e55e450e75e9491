/**
 * Random walks that know a little about the run: `urw` gives a task the more weight the more it still has to do, `pos` draws
 * a priority for each pending access and draws it anew when a conflicting access has been made, `starve` lets one task wait.
 *
 * Rule: what a task has to do is measured once by the exploration. Behaviour: stress spec section 2.4; pos after Yuan and
 * others, Partial Order Aware Concurrency Sampling.
 */
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { at } from "../../shared/assert.ts";
import { conflict, HYPERVISOR, type Scene, type Scheduler } from "../scheduler.ts";

/** Any enabled task, weighted by the steps that it is expected to take still. `expected` is by task + 1. */
export function urwScheduler(expected: readonly number[]): Scheduler {
  let generator = xoroshiro128plus(0);
  const taken: number[] = [];
  const number = (below: number): number => (generator.next() >>> 0) % below;
  const weight = (task: number): number =>
    Math.max((expected[task + 1] ?? 1) - (taken[task + 1] ?? 0), 1);
  return {
    begin(seed) {
      generator = xoroshiro128plus(seed | 0);
      taken.length = 0;
    },
    choose(candidates, count) {
      let sum = 0;
      for (let i = 0; i < count; i++) sum += weight(at(candidates, i));
      let left = count === 1 ? 0 : number(sum);
      let i = 0;
      while (i < count - 1 && left >= weight(at(candidates, i)))
        left -= weight(at(candidates, i++));
      const choice = at(candidates, i);
      taken[choice + 1] = (taken[choice + 1] ?? 0) + 1;
      return choice;
    },
    number,
  };
}

/** The pending access of the highest priority; those in conflict with it draw anew. */
export function posScheduler(): Scheduler {
  let generator = xoroshiro128plus(0);
  let scene: Scene | undefined;
  const priority: number[] = [];
  const number = (below: number): number => (generator.next() >>> 0) % below;
  return {
    begin(seed, given) {
      generator = xoroshiro128plus(seed | 0);
      scene = given;
      priority.length = 0;
    },
    choose(candidates, count) {
      if (count === 1) return at(candidates, 0);
      let best = at(candidates, 0);
      for (let i = 0; i < count; i++) {
        const task = at(candidates, i);
        priority[task + 1] ??= 1 + number(1 << 24);
        if ((priority[task + 1] ?? 0) > (priority[best + 1] ?? 0)) best = task;
      }
      const access = scene?.pending(best) ?? 0;
      for (let i = 0; i < count; i++) {
        const task = at(candidates, i);
        // What the hypervisor touches next is not known before it does: it conflicts with everything.
        const redraw =
          task === best ||
          task === HYPERVISOR ||
          best === HYPERVISOR ||
          conflict(access, scene?.pending(task) ?? 0);
        if (redraw) priority[task + 1] = 1 + number(1 << 24);
      }
      return best;
    },
    number,
  };
}

/** A random walk in which one task is passed over for 2^i choices, from a random one on, at most `points` / 5. */
export function starveScheduler(points: number): Scheduler {
  let generator = xoroshiro128plus(0);
  let seen = 0;
  let from = 0;
  let length = 0;
  let victim = Number.NaN;
  const number = (below: number): number => (generator.next() >>> 0) % below;
  return {
    begin(seed) {
      generator = xoroshiro128plus(seed | 0);
      seen = 0;
      victim = Number.NaN;
      const longest = Math.max(1, Math.floor(points / 5));
      length = 1 << number(32 - Math.clz32(longest));
      from = number(Math.max(points, 1));
    },
    choose(candidates, count) {
      if (count === 1) return at(candidates, 0);
      const starving = seen >= from && seen < from + length;
      seen++;
      if (starving && Number.isNaN(victim)) victim = at(candidates, number(count));
      const choice = at(candidates, number(count));
      if (!starving || choice !== victim) return choice;
      return at(candidates, (candidates.indexOf(choice) + 1) % count);
    },
    number,
  };
}
