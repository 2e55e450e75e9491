/**
 * A schedule as departures from the calm one. The calm schedule lets whoever runs go on; when it cannot, the lowest candidate
 * moves. A departure names the contested choice at which another task is taken, and which.
 *
 * Rule: a departure whose task cannot move is skipped, so that a list of them can be cut, moved and tried again: this is
 * the form in which schedules are shrunk, mutated, kept in files and enumerated. Ours; stress spec section 7.4.
 */
import { at } from "../../shared/assert.ts";
import { HYPERVISOR, type Scheduler } from "../scheduler.ts";

export interface Deviation {
  /** Contested choices since the last departure, or since the start. */
  readonly after: number;
  readonly task: number;
}

/** What the calm schedule would do. */
export function calmChoice(candidates: Int32Array, count: number, current: number): number {
  for (let i = 0; i < count; i++) if (at(candidates, i) === current) return current;
  return at(candidates, 0);
}

export interface DeviationScheduler extends Scheduler {
  /** Contested choices of the last run. */
  readonly points: number;
  /** Departures that were not possible. */
  readonly skipped: number;
}

/** The calm schedule with these departures. `follow`: who chooses after the last one; the calm schedule, unless given. */
export function deviationScheduler(
  deviations: readonly Deviation[],
  numbers: readonly number[] = [],
): DeviationScheduler {
  let points = 0;
  let next = 0;
  let left = 0;
  let current = HYPERVISOR;
  let drawn = 0;
  let skipped = 0;
  return {
    get points() {
      return points;
    },
    get skipped() {
      return skipped;
    },
    begin() {
      points = 0;
      next = 0;
      drawn = 0;
      skipped = 0;
      current = HYPERVISOR;
      left = deviations[0]?.after ?? Number.POSITIVE_INFINITY;
    },
    choose(candidates, count) {
      if (count === 1) {
        current = at(candidates, 0);
        return current;
      }
      points++;
      const calm = calmChoice(candidates, count, current);
      if (left-- > 0) {
        current = calm;
        return current;
      }
      const wanted = deviations[next++]?.task ?? calm;
      left = deviations[next]?.after ?? Number.POSITIVE_INFINITY;
      current = calmChoice(candidates, count, wanted);
      if (current !== wanted) {
        skipped++;
        current = calm;
      }
      return current;
    },
    number(below) {
      return (numbers[drawn++] ?? 0) % below;
    },
  };
}

/** Notes what a strategy chooses, as departures from the calm schedule and as numbers drawn. */
export interface Recorder extends Scheduler {
  readonly deviations: readonly Deviation[];
  readonly numbers: readonly number[];
  /** Contested choices. */
  readonly points: number;
}

export function recorder(inner: Scheduler): Recorder {
  let deviations: Deviation[] = [];
  let numbers: number[] = [];
  let points = 0;
  let since = 0;
  let current = HYPERVISOR;
  return {
    get deviations() {
      return deviations;
    },
    get numbers() {
      return numbers;
    },
    get points() {
      return points;
    },
    begin(seed, scene) {
      deviations = [];
      numbers = [];
      points = 0;
      since = 0;
      current = HYPERVISOR;
      inner.begin(seed, scene);
    },
    choose(candidates, count) {
      const choice = inner.choose(candidates, count);
      if (count > 1) {
        points++;
        if (choice === calmChoice(candidates, count, current)) {
          since++;
        } else {
          deviations.push({ after: since, task: choice });
          since = 0;
        }
      }
      current = choice;
      return choice;
    },
    number(below) {
      const value = inner.number(below);
      numbers.push(value);
      return value;
    },
  };
}
