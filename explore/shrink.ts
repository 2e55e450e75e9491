/**
 * Makes a failing schedule small: fewer tasks, fewer departures from the calm schedule, each of them necessary.
 *
 *   0. memory is made stronger         2. departures are left out
 *   1. whole tasks are left out        3. schedules with one and two preemptions are searched for the same failure
 *   5. single calls are left out       4. what is left is moved a little, and cut again
 *
 * Rules: a candidate is accepted if it fails in the same way (id of the check, sentence without its numbers); the original
 * is kept beside it; at most `runs` runs. What a program claims holds for whoever makes all its calls, what a story claims at the
 * end for whoever has everybody take part: with less, such a claim would fail on a sound machine too. Behaviour: stress spec section 7; ddmin after Zeller and Hildebrandt.
 */
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { at } from "../shared/assert.ts";
import { LINE, lineOf } from "../shared/layout.ts";
import { findingId } from "./checks.ts";
import type { Failure } from "./exploration.ts";
import { callOf } from "./left-out.ts";
import type { Outcome } from "./run.ts";
import { type PreparedStory, runStory, type StoryRun } from "./story.ts";
import { preemptSearch } from "./strategies/bounded.ts";
import { type Deviation, deviationScheduler, recorder } from "./strategies/deviations.ts";
import { MEMORY_MODES, type MemoryMode } from "./weak-memory.ts";

/** Runs that shrinking one failure may take. */
export const SHRINK_RUNS = 2_000;
/** Steps of all of them together: a run that comes to no end has tens of thousands. */
const SHRINK_STEPS = 4_000_000;
/** Schedules of each bounded search for a smaller one. */
const SEARCH_RUNS = 500;
/** Schedules that are tried around one that does not fail: leaving out one switch may need others moved. */
const JITTER_RUNS = 60;
const JITTER = 3;

/** A schedule that fails, and what it leaves out. */
export interface Schedule {
  readonly deviations: readonly Deviation[];
  readonly numbers: readonly number[];
  readonly without: readonly string[];
}

export interface Shrunk extends Schedule {
  /** The strongest memory that still shows it. */
  readonly memory: MemoryMode;
  readonly steps: number;
  readonly traceHash: number;
  readonly findings: readonly string[];
  readonly runs: number;
  /** Whether the failure was seen again with its own choices and left the same trace. */
  readonly replayed: boolean;
}

/** What two failures must share to be the same. */
export const signatureOf = (outcome: Pick<Outcome, "verdict" | "findings">): string => {
  const text = outcome.findings[0] ?? "";
  const id = outcome.verdict === "bug" ? "bug" : findingId(text);
  return `${id} ${text.replace(/0x[0-9a-f]+|\d+/g, "#")}`;
};

/** Runs a schedule; `recorded` are the departures that were possible. */
export function replaySchedule(
  prepared: PreparedStory,
  schedule: Schedule,
  seed: number,
  everyStep: boolean,
): { readonly run: StoryRun; readonly recorded: readonly Deviation[] } {
  const scheduler = recorder(deviationScheduler(schedule.deviations, schedule.numbers));
  const { without } = schedule;
  const run = runStory(prepared, { seed, scheduler, everyStep, without });
  return { run, recorded: scheduler.deviations };
}

interface Shrinking {
  prepared: PreparedStory;
  readonly failure: Failure;
  readonly signature: string;
  readonly limit: number;
  runs: number;
  best: Schedule;
}

/** Undefined: the failure cannot be seen again. */
export function shrink(
  prepared: PreparedStory,
  failure: Failure,
  limit = SHRINK_RUNS,
): Shrunk | undefined {
  const start = { deviations: failure.deviations, numbers: failure.numbers, without: [] };
  const { outcome: first, said } = replaySchedule(
    prepared,
    start,
    failure.seed,
    failure.everyStep,
  ).run;
  if (first.verdict === "finished") return undefined;
  const state: Shrinking = {
    prepared,
    failure,
    signature: signatureOf(first),
    limit: Math.min(limit, Math.ceil(SHRINK_STEPS / first.steps)),
    runs: 1,
    best: start,
  };
  strengthenMemory(state);
  // Whoever waits for somebody who is left out waits for ever: that is another failure.
  const mayLack = said !== "judge" && !state.signature.startsWith("L-");
  if (mayLack) leaveOutTasks(state);
  leaveOutDeviations(state);
  searchSmaller(state);
  jitter(state);
  if (mayLack && said !== "program") leaveOutCalls(state);
  const { run } = replaySchedule(state.prepared, state.best, failure.seed, failure.everyStep);
  return {
    ...state.best,
    memory: state.prepared.memory,
    steps: run.outcome.steps,
    traceHash: run.outcome.traceHash,
    findings: run.outcome.findings,
    runs: state.runs,
    replayed: first.traceHash === failure.traceHash,
  };
}

/** Whether a candidate fails in the same way; it is the best one then, without the departures that were not possible. */
function accept(state: Shrinking, candidate: Schedule): boolean {
  if (state.runs >= state.limit) return false;
  state.runs++;
  const { failure, prepared } = state;
  const { run, recorded } = replaySchedule(prepared, candidate, failure.seed, failure.everyStep);
  if (run.outcome.verdict === "finished" || signatureOf(run.outcome) !== state.signature)
    return false;
  const before = state.best;
  const smaller =
    recorded.length < before.deviations.length || candidate.without.length > before.without.length;
  const settled = recorded.length <= candidate.deviations.length ? recorded : candidate.deviations;
  if (smaller) state.best = { ...candidate, deviations: settled };
  return smaller;
}

/** The strongest memory in which the same choices fail in the same way. */
function strengthenMemory(state: Shrinking): void {
  const { prepared, failure } = state;
  for (const memory of MEMORY_MODES) {
    if (memory === prepared.memory) return;
    const stronger = { ...prepared, memory };
    state.runs++;
    const { seed, everyStep } = failure;
    const { run, recorded } = replaySchedule(stronger, state.best, seed, everyStep);
    if (run.outcome.verdict === "finished" || signatureOf(run.outcome) !== state.signature)
      continue;
    state.prepared = stronger;
    state.best = { ...state.best, deviations: recorded };
    return;
  }
}

function leaveOutTasks(state: Shrinking): void {
  const { story } = state.prepared;
  for (const { name } of [...story.tasks, ...(story.others ?? [])]) {
    accept(state, { ...state.best, without: [...state.best.without, name] });
  }
}

/** The last calls first: those before them then happen where they did. */
function leaveOutCalls(state: Shrinking): void {
  const { prepared, failure, best } = state;
  const { machine } = replaySchedule(prepared, best, failure.seed, failure.everyStep).run;
  for (const actor of machine.actors) {
    if (actor === undefined) continue;
    const field = lineOf(machine.layout, actor.slot) + LINE.HYPERCALLS;
    const made = at(machine.words, field) - at(prepared.image.bootWords, field);
    for (let call = made; call > 0; call--) {
      const name = callOf(actor.part.name, call);
      accept(state, { ...state.best, without: [...state.best.without, name] });
    }
  }
}

/** ddmin: halves, quarters, ... single departures. The distance of what is left out goes to the next one. */
function leaveOutDeviations(state: Shrinking): void {
  let size = Math.max(1, Math.floor(state.best.deviations.length / 2));
  for (;;) {
    let removed = false;
    for (let from = 0; from < state.best.deviations.length; ) {
      const deviations = cut(state.best.deviations, from, size);
      if (accept(state, { ...state.best, deviations })) removed = true;
      else from += size;
    }
    if (size === 1 && !removed) return;
    if (size > 1) size = Math.floor(size / 2);
    if (state.runs >= state.limit) return;
  }
}

/** The list without `size` departures from `from` on; the next one keeps its place in the run. */
function cut(deviations: readonly Deviation[], from: number, size: number): readonly Deviation[] {
  const gone = deviations.slice(from, from + size);
  const lost = gone.reduce((sum, { after }) => sum + after + 1, 0);
  const next = deviations[from + size];
  const rest = deviations.slice(from + size + 1);
  const before = deviations.slice(0, from);
  return next === undefined ? before : [...before, { ...next, after: next.after + lost }, ...rest];
}

/** The same failure with fewer preemptions, if a bounded search finds it. Numbers that were drawn are drawn again. */
function searchSmaller(state: Shrinking): void {
  for (let bound = 1; bound <= 2 && bound < state.best.deviations.length; bound++) {
    const search = preemptSearch(bound);
    for (let left = SEARCH_RUNS; left > 0 && state.runs < state.limit; left--) {
      const scheduler = search.next();
      if (scheduler === undefined) break;
      state.runs++;
      const { numbers, without } = state.best;
      const recorded = recorder({ ...scheduler, number: numbersOf(numbers) });
      const { seed, everyStep } = state.failure;
      const run = runStory(state.prepared, { seed, scheduler: recorded, everyStep, without });
      if (run.outcome.verdict === "finished") continue;
      if (signatureOf(run.outcome) !== state.signature) continue;
      if (recorded.deviations.length >= state.best.deviations.length) continue;
      state.best = { numbers, without, deviations: recorded.deviations };
      leaveOutDeviations(state);
      break;
    }
  }
}

/** The numbers of an earlier run, in order; 0 after them. */
function numbersOf(numbers: readonly number[]): (below: number) => number {
  let drawn = 0;
  return (below) => (numbers[drawn++] ?? 0) % below;
}

/** Leaves one out while the others move by up to three choices. */
function jitter(state: Shrinking): void {
  const generator = xoroshiro128plus(state.failure.seed | 0);
  const number = (below: number): number => (generator.next() >>> 0) % below;
  for (let round = 0; round < JITTER_RUNS && state.best.deviations.length > 1; round++) {
    const { deviations } = state.best;
    const shorter = cut(deviations, number(deviations.length), 1);
    const moved = shorter.map(({ after, task }) => ({
      after: Math.max(0, after + number(2 * JITTER + 1) - JITTER),
      task,
    }));
    if (accept(state, { ...state.best, deviations: moved })) leaveOutDeviations(state);
  }
}
