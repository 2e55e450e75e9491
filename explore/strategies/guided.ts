/**
 * Guided search: schedules that have shown something new are kept and changed a little. New is a pair of tasks that have met
 * on a word of memory in this order, one of them writing.
 *
 * Rule: what is kept depends on all runs before, so a run is made again from its choices, not from its seed. Ours; stress
 * spec section 2.4, after coverage-guided fuzzers.
 */
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { item } from "../../shared/assert.ts";
import { frameOf, type Trace, traceSteps } from "../dependence.ts";
import type { MachineImage } from "../image.ts";
import type { Scheduler } from "../scheduler.ts";
import type { Machine } from "../state.ts";
import { type Deviation, deviationScheduler, recorder } from "./deviations.ts";

/** Where the names of whole pages begin, downwards: far below those of slots. */
const PAGE_PLACES = -(1 << 20);

/** Schedules that are kept. */
const KEPT_MAX = 512;

export interface GuidedSearch {
  next(): Scheduler;
  watch(machine: Machine, image: MachineImage): void;
}

/** `tasks` are the tasks of a run, `points` its contested choices. */
export function guidedSearch(tasks: readonly number[], points: number): GuidedSearch {
  const generator = xoroshiro128plus(points);
  const number = (below: number): number => (generator.next() >>> 0) % Math.max(below, 1);
  const kept: (readonly Deviation[])[] = [[]];
  const seen = new Set<number>();
  let trace: Trace | undefined;
  let last = recorder(deviationScheduler([]));
  let begun = false;
  return {
    watch(machine, image) {
      trace = traceSteps(machine, image);
    },
    next() {
      if (begun && trace !== undefined) {
        trace.end();
        if (isNew(trace, seen) && kept.length < KEPT_MAX) kept.push(last.deviations);
      }
      begun = true;
      last = recorder(deviationScheduler(changed(item(kept, number(kept.length)))));
      const { begin, choose } = last;
      return { begin, choose, number };
    },
  };

  /** One to three departures more, fewer or elsewhere. */
  function changed(deviations: readonly Deviation[]): readonly Deviation[] {
    const next = [...deviations];
    for (let times = 1 + number(3); times > 0; times--) {
      const place = number(next.length + 1);
      const fresh = { after: number(points), task: item(tasks, number(tasks.length)) };
      const kind = number(3);
      if (kind === 0) next.splice(place, 0, fresh);
      else if (kind === 1) next.splice(place, 1);
      else if (place < next.length) next[place] = fresh;
    }
    return next;
  }
}

/** More than there are tasks. */
const TASKS = 1 << 10;

/** Whether two tasks have met on a word, or on a page as a whole, as they never have before. */
function isNew({ steps }: Trace, seen: Set<number>): boolean {
  const before = seen.size;
  // When a word or a page was last written, and by whom: step * TASKS + task + 1.
  const words = new Map<number, number>();
  const wholes = new Map<number, number>();
  const pages = new Map<number, number>();
  const note = (place: number, last: number, task: number, kind: number): void => {
    const writer = last % TASKS;
    if (last > 0 && writer !== task + 1)
      seen.add(((place * TASKS + writer) * TASKS + task + 1) * 2 + (kind & 1));
  };
  steps.forEach(({ task, touched, pages: whole }, i) => {
    const by = (i + 1) * TASKS + task + 1;
    for (const name of touched) {
      const word = name >> 1;
      const frame = frameOf(name);
      note(word, Math.max(words.get(word) ?? 0, wholes.get(frame) ?? 0), task, name);
      if ((name & 1) === 0) continue;
      words.set(word, by);
      pages.set(frame, by);
    }
    for (const name of whole) {
      const frame = name >> 1;
      note(PAGE_PLACES - frame, pages.get(frame) ?? 0, task, name);
      if ((name & 1) === 0) continue;
      wholes.set(frame, by);
      pages.set(frame, by);
    }
  });
  return seen.size > before;
}
