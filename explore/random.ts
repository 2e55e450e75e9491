/**
 * Any candidate with the same chance, from a seeded generator. `persistence` makes runs of the same actor
 * longer: with 0 every step is drawn anew, with n the last one goes on with chance n / (n + 1).
 * Ours; stress.md section 5: uniform walks find shallow races, persistent ones the deeper ones.
 */
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { at } from "../shared/assert.ts";
import { HYPERVISOR, type Scheduler } from "./scheduler.ts";

export function randomScheduler(persistence = 0): Scheduler {
  let generator = xoroshiro128plus(0);
  let last = HYPERVISOR;

  // The low bits of this generator are good enough for ranges far below 2^32.
  const number = (below: number): number => (generator.next() >>> 0) % below;
  const goesOn = (candidates: Int32Array, count: number): boolean => {
    if (persistence === 0 || number(persistence + 1) === 0) return false;
    for (let i = 0; i < count; i++) if (at(candidates, i) === last) return true;
    return false;
  };

  return {
    begin(seed) {
      generator = xoroshiro128plus(seed | 0);
      last = HYPERVISOR;
    },
    choose(candidates, count) {
      if (!goesOn(candidates, count)) last = at(candidates, count === 1 ? 0 : number(count));
      return last;
    },
    number,
  };
}
