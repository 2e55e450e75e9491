/**
 * Dynamic partial order reduction: of all schedules that differ only in the order of steps that do not depend on each other, one
 * is made. It says whether it has finished.
 *
 *   run -> for each pair of dependent steps that could have come the other way round: the later one's task is to be tried
 *   at the earlier one's place -> the deepest place with something to try is tried next
 *
 * Rules: sleep sets keep what was tried at a place from being tried again below it until something dependent has happened; a
 * run whose every candidate sleeps adds nothing. Memory is sc. Behaviour: Flanagan and Godefroid, Dynamic Partial-Order
 * Reduction for Model Checking Software; sleep sets after Godefroid.
 */
import { at, item } from "../../shared/assert.ts";
import { dependent, type Step, type Trace, traceSteps } from "../dependence.ts";
import type { MachineImage } from "../image.ts";
import { HYPERVISOR, type Scheduler } from "../scheduler.ts";
import type { Machine } from "../state.ts";
import { calmChoice } from "./deviations.ts";

/** One step of the path, with what has been and is to be tried there. */
interface Place {
  readonly enabled: readonly number[];
  readonly wanted: Set<number>;
  /** Tasks tried here already, with the step that they made. */
  readonly tried: Map<number, Step>;
  /** Tasks that need not be tried here, with the step that they would make. */
  sleep: Map<number, Step>;
  taken: number;
}

export interface DporSearch {
  next(): Scheduler | undefined;
  watch(machine: Machine, image: MachineImage): void;
}

export function dporSearch(): DporSearch {
  const path: Place[] = [];
  let trace: Trace | undefined;
  let begun = false;
  let depth = 0;
  let current = HYPERVISOR;
  let asleep = false;
  const scheduler: Scheduler = {
    begin() {
      depth = 0;
      current = HYPERVISOR;
      asleep = false;
    },
    choose(candidates, count) {
      const known = path[depth];
      if (known !== undefined) {
        depth++;
        current = known.taken;
        return current;
      }
      // What the last step touched is known only now.
      trace?.end();
      const enabled = Array.from(candidates.subarray(0, count));
      const sleep = asleep ? new Map<number, Step>() : sleepBelow(path, trace);
      const calm = calmChoice(candidates, count, current);
      const awake = enabled.filter((task) => !sleep.has(task));
      if (awake.length === 0) asleep = true;
      current = awake.includes(calm) ? calm : (awake[0] ?? at(candidates, 0));
      // Below a place where everybody sleeps, nothing is new: the run goes on, and is not looked at.
      if (asleep) return current;
      path.push({ enabled, wanted: new Set([current]), tried: new Map(), sleep, taken: current });
      depth++;
      return current;
    },
    number: () => 0,
  };
  return {
    watch(machine, image) {
      trace = traceSteps(machine, image);
    },
    next() {
      if (begun) {
        trace?.end();
        if (trace !== undefined) findRaces(path, trace.steps);
        if (!advance(path, trace?.steps ?? [])) return undefined;
      }
      begun = true;
      return scheduler;
    },
  };
}

/** What sleeps at the next place: what slept or was tried at the last one and does not depend on the step made there. */
function sleepBelow(path: readonly Place[], trace: Trace | undefined): Map<number, Step> {
  const last = path.at(-1);
  const made = trace?.steps[path.length - 1];
  const below = new Map<number, Step>();
  if (last === undefined || made === undefined) return below;
  for (const [task, step] of [...last.sleep, ...last.tried]) {
    if (task !== last.taken && !dependent(step, made)) below.set(task, step);
  }
  return below;
}

/** For each step, the last dependent step of another task that does not come before it anyway. */
function findRaces(path: readonly Place[], steps: readonly Step[]): void {
  // Of each task + 1, the steps that come before its last one: happens-before as sets of places.
  const before: Set<number>[] = [];
  for (let j = 0; j < steps.length && j < path.length; j++) {
    const step = item(steps, j);
    const own = previousOf(steps, j);
    const past = new Set(own === undefined ? [] : [...(before[own] ?? []), own]);
    for (let i = j - 1; i >= 0; i--) {
      const earlier = item(steps, i);
      if (past.has(i) || !dependent(earlier, step)) continue;
      const place = item(path, i);
      if (place.enabled.length > 1) {
        if (place.enabled.includes(step.task)) place.wanted.add(step.task);
        else for (const task of place.enabled) place.wanted.add(task);
      }
      past.add(i);
      for (const known of before[i] ?? []) past.add(known);
    }
    before[j] = past;
  }
}

function previousOf(steps: readonly Step[], j: number): number | undefined {
  const task = steps[j]?.task;
  for (let i = j - 1; i >= 0; i--) if (steps[i]?.task === task) return i;
  return undefined;
}

/** Goes to the deepest place with something to try; false: there is none. */
function advance(path: Place[], steps: readonly Step[]): boolean {
  for (let place = path.pop(); place !== undefined; place = path.pop()) {
    const made = steps[path.length];
    if (made !== undefined) place.tried.set(place.taken, made);
    const next = [...place.wanted].find((task) => !place.tried.has(task) && !place.sleep.has(task));
    if (next === undefined) continue;
    place.taken = next;
    path.push(place);
    return true;
  }
  return false;
}
