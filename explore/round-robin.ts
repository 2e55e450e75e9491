/**
 * Everybody in turn, by slot number, the hypervisor first: the calmest schedule, and the easiest to read.
 * Rule: the seed changes nothing. Ours.
 */
import { at } from "../shared/assert.ts";
import { HYPERVISOR, type Scheduler } from "./scheduler.ts";

export function roundRobin(): Scheduler {
  let last = HYPERVISOR;
  let counter = 0;
  return {
    begin() {
      last = HYPERVISOR;
      counter = 0;
    },
    choose(candidates, count) {
      let next = at(candidates, 0);
      for (let i = 0; i < count; i++) {
        const candidate = at(candidates, i);
        if (candidate <= last) continue;
        next = candidate;
        break;
      }
      last = next;
      return next;
    },
    number(below) {
      counter = (counter + 1) % below;
      return counter;
    },
  };
}
