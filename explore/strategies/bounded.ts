/**
 * Strategies that enumerate, and say whether they have finished.
 *
 *   delay(b)    every set of at most b departures, each of which passes over the task that would have moved
 *   preempt(b)  every schedule with at most b preemptions; a switch where the running task cannot go on is free
 *   faults      every fault at every contested choice of the calm run
 *
 * Rule: a run is made again from its start (stateless search); the state is the path of the last run. Ours; preempt after
 * Musuvathi and Qadeer's iterative context bounding, delay after Emmi, Qadeer and Rakamarić.
 */
import { at, item } from "../../shared/assert.ts";
import { HYPERVISOR, type Scheduler } from "../scheduler.ts";
import { calmChoice } from "./deviations.ts";

/** A search: a scheduler for each run, until there is none. */
export interface Search {
  /** The scheduler of the next run; undefined: every schedule within the bound has been made. */
  next(): Scheduler | undefined;
}

/** One contested choice on the path of the last run. */
interface Branch {
  readonly options: readonly number[];
  /** Whether the running task could go on, so that taking another one is a preemption. */
  readonly isPreemption: boolean;
  taken: number;
  /** Preemptions before this choice. */
  readonly spent: number;
}

/** Depth first: alternatives of the last choice that has any are tried before those of earlier ones. */
export function preemptSearch(bound: number): Search {
  const path: Branch[] = [];
  let begun = false;
  let depth = 0;
  let current = HYPERVISOR;
  const scheduler: Scheduler = {
    begin() {
      depth = 0;
      current = HYPERVISOR;
    },
    choose(candidates, count) {
      if (count === 1) {
        current = at(candidates, 0);
        return current;
      }
      const branch = path[depth] ?? branchAt(path, candidates.subarray(0, count), current, bound);
      path[depth++] = branch;
      current = item(branch.options, branch.taken);
      return current;
    },
    number: () => 0,
  };
  return {
    next() {
      if (begun && !advance(path)) return undefined;
      begun = true;
      return scheduler;
    },
  };
}

function branchAt(
  path: readonly Branch[],
  candidates: Int32Array,
  current: number,
  bound: number,
): Branch {
  const before = path.at(-1);
  const cost = before?.isPreemption === true && before.taken > 0 ? 1 : 0;
  const spent = (before?.spent ?? 0) + cost;
  const calm = calmChoice(candidates, candidates.length, current);
  const isPreemption = calm === current;
  const others = isPreemption && spent >= bound ? [] : candidates.filter((task) => task !== calm);
  return { options: [calm, ...others], isPreemption, taken: 0, spent };
}

/** Takes the next alternative of the deepest choice that has one; false: there is none. */
function advance(path: Branch[]): boolean {
  for (let last = path.pop(); last !== undefined; last = path.pop()) {
    if (last.taken + 1 >= last.options.length) continue;
    last.taken++;
    path.push(last);
    return true;
  }
  return false;
}

/** Sets of at most `bound` delays, the small ones first. A delay passes over the task whose turn it is. */
export function delaySearch(bound: number): Search {
  const queue: number[][] = [[]];
  let delays: readonly number[] = [];
  let points = 0;
  let begun = false;
  let current = HYPERVISOR;
  const scheduler: Scheduler = {
    begin() {
      points = 0;
      current = HYPERVISOR;
    },
    choose(candidates, count) {
      if (count === 1) {
        current = at(candidates, 0);
        return current;
      }
      let calm = calmChoice(candidates, count, current);
      for (const delay of delays) {
        if (delay !== points) continue;
        const place = candidates.subarray(0, count).indexOf(calm);
        calm = at(candidates, (place + 1) % count);
      }
      points++;
      current = calm;
      return current;
    },
    number: () => 0,
  };
  return {
    next() {
      if (begun && delays.length < bound) {
        // A choice with three candidates may be delayed twice.
        const from = delays.at(-1) ?? 0;
        for (let point = from; point < points; point++) queue.push([...delays, point]);
      }
      begun = true;
      const next = queue.shift();
      if (next === undefined) return undefined;
      delays = next;
      return scheduler;
    },
  };
}

/** Contested choices between two steps of a fault: at once, and after a while. */
const PAUSES: readonly number[] = [0, 4];

/** A fault as the scheduler sees it. */
export interface FaultTasks {
  readonly tasks: readonly number[];
  /** What happens between its first step and its last makes a difference. */
  readonly lasts: boolean;
}

/** Where a run of the enumeration lets its fault strike, and what the fault has shown of itself in the last run. */
interface Strike {
  fault: number;
  /** Answer to the first number that is drawn. */
  variant: number;
  pause: number;
  place: number;
}

/**
 * Every fault, in turn, strikes at every contested choice of the calm run, and nowhere else; with each answer to the first number
 * that it draws, and, if it lasts, with a pause between its steps too. A fault may be more than one task.
 */
export function faultSearch(faults: readonly FaultTasks[]): Search {
  const strike: Strike = { fault: 0, variant: 0, pause: 0, place: 0 };
  const tasks = faults.flatMap((fault) => fault.tasks);
  let points = 0;
  let next = 0;
  let drawn = 0;
  let answers = 1;
  let begun = false;
  let current = HYPERVISOR;
  const scheduler: Scheduler = {
    begin() {
      points = 0;
      next = strike.place;
      drawn = 0;
      current = HYPERVISOR;
    },
    choose(candidates, count) {
      const own = faults[strike.fault]?.tasks ?? [];
      const due = points++ >= next;
      let calm = Number.NaN;
      for (let i = 0; i < count; i++) {
        const task = at(candidates, i);
        if (due && own.includes(task)) {
          next = points + item(PAUSES, strike.pause);
          return task;
        }
        if (tasks.includes(task)) continue;
        if (task === current || Number.isNaN(calm)) calm = task;
      }
      // Only faults are left: the run comes to its end without them, or with this one.
      current = Number.isNaN(calm) ? at(candidates, 0) : calm;
      return current;
    },
    number(below) {
      if (drawn++ > 0) return 0;
      answers = Math.max(answers, below);
      return strike.variant % below;
    },
  };
  const advance = (): void => {
    if (++strike.place < points) return;
    strike.place = 0;
    if (faults[strike.fault]?.lasts === true && ++strike.pause < PAUSES.length) return;
    strike.pause = 0;
    if (++strike.variant < answers) return;
    strike.variant = 0;
    answers = 1;
    strike.fault++;
  };
  return {
    next() {
      if (begun) advance();
      begun = true;
      return strike.fault < faults.length ? scheduler : undefined;
    },
  };
}
