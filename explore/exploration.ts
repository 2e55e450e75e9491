/**
 * Many runs of one story, until something is found or the limit is reached.
 *
 *   measure: a few runs with fixed seeds show how long a run is
 *   run i:   strategy -> scheduler -> run with the i-th seed -> judged
 *
 * Rules: an exploration is decided by story, strategy and seed. Every 64th run is made twice and must leave the same trace
 * (D-1); every 256th is audited from nothing after each step.
 * Ours; stress spec sections 2.2, 2.5 and 4.
 */

import { at } from "../shared/assert.ts";
import { DOM, domainOf } from "../shared/layout.ts";
import { findingId } from "./checks.ts";
import { randomScheduler } from "./random.ts";
import type { Outcome } from "./run.ts";
import { type PreparedStory, runStory, type StoryRun, type StoryTask } from "./story.ts";
import type { FaultTasks } from "./strategies/bounded.ts";
import { type Deviation, deviationScheduler, recorder } from "./strategies/deviations.ts";
import { type Shape, type Strategy, strategyNamed } from "./strategies/portfolio.ts";
import type { MemoryMode } from "./weak-memory.ts";

/** Runs that measure a story. */
const MEASURE_RUNS = 4;
const CHECK_TWICE_EVERY = 64;
const AUDIT_EVERY = 256;

export interface Failure {
  /** Id of what is broken: `I-13`, `L-2`, `D-1`; `bug` for an assertion of the emulator. */
  readonly id: string;
  readonly findings: readonly string[];
  /** Number of the run, from 1. */
  readonly schedule: number;
  readonly seed: number;
  readonly strategy: string;
  readonly deviations: readonly Deviation[];
  readonly numbers: readonly number[];
  readonly steps: number;
  readonly traceHash: number;
  /** Whether the whole audit ran after each step. */
  readonly everyStep: boolean;
}

export interface Exploration {
  readonly failure: Failure | undefined;
  readonly schedules: number;
  readonly steps: number;
  /** Contested choices of a run, as measured. */
  readonly points: number;
  /** Whether an enumeration has made every run; undefined: the strategy has no end. */
  readonly finished: boolean | undefined;
  /** `sometimes` conditions that never held. */
  readonly never: readonly string[];
  /** Findings that the recorded Xen has as well. */
  readonly known: readonly string[];
  /** Runs in which each fault of the story has come to something, by its name. */
  readonly fired: Readonly<Record<string, number>>;
}

export interface Limits {
  readonly schedules: number;
  readonly seed: number;
  readonly strategy: string;
  /** Makes every pct run of the portfolio one of this depth. */
  readonly depth?: number;
  /** Number of the first run, from 0. */
  readonly first?: number;
  readonly without?: readonly string[];
}

/** Seed of a run: the first one's is the exploration's own, so that one run can be asked for by its seed. */
export const runSeed = (seed: number, run: number): number =>
  run === 0 ? seed | 0 : mixSeeds(seed, run);

function mixSeeds(seed: number, run: number): number {
  let hash = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(run, 0xc2b2ae35);
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  return (hash ^ (hash >>> 13)) >>> 0;
}

/** How long a run is. */
export function measureStory(prepared: PreparedStory, without: readonly string[] = []): Shape {
  const steps: number[] = [];
  let points = 0;
  for (let seed = 1; seed <= MEASURE_RUNS; seed++) {
    const scheduler = recorder(randomScheduler());
    const { machine } = runStory(prepared, { seed, scheduler, without });
    points = Math.max(points, scheduler.points);
    const taken: number[] = [];
    for (const task of machine.schedule) taken[task + 1] = (taken[task + 1] ?? 0) + 1;
    taken.forEach((count, task) => {
      steps[task] = Math.max(steps[task] ?? 0, count);
    });
  }
  return { points, steps, faults: faultsIn(prepared, without) };
}

/** Faults that the story has by itself, and those that were put into it. */
function faultsIn(
  { story, image }: PreparedStory,
  without: readonly string[],
): readonly FaultTasks[] {
  const own = (story.others ?? []).flatMap(({ isFault, name, slot }) =>
    isFault === true && !without.includes(name) ? [{ tasks: [slot], lasts: false }] : [],
  );
  const { bootWords, layout } = image;
  const slotOf = ({ domain, vcpu = 0 }: StoryTask): number =>
    at(bootWords, domainOf(layout, domain) + DOM.SLOT + vcpu);
  const put = (story.faults ?? [])
    .filter(({ tasks }) => tasks.length > 0)
    .map(({ tasks, lasts }) => ({
      tasks: story.tasks.filter(({ name }) => tasks.includes(name)).map(slotOf),
      lasts,
    }));
  return [...own, ...put];
}

/** Why a strategy is none for a memory; undefined: it is one. */
export const refusal = (strategy: string, memory: MemoryMode): string | undefined =>
  memory === "relaxed" && strategy === "dpor"
    ? "dpor: in relaxed memory a load has several answers, which it does not tell apart"
    : undefined;

/** An exploration that goes on where it stood. */
export interface OpenExploration {
  /** Makes up to `schedules` runs more; false: something was found, or there are no more. */
  go(schedules: number): boolean;
  result(): Exploration;
}

/** Undefined: no strategy has that name. */
export function explore(prepared: PreparedStory, limits: Limits): Exploration | undefined {
  const open = openExploration(prepared, limits);
  open?.go(limits.schedules);
  return open?.result();
}

type Sometimes = NonNullable<PreparedStory["story"]["sometimes"]>[string];

/** What has been seen so far. */
interface Seen {
  /** `sometimes` conditions that have not held yet. */
  readonly open: Map<string, Sometimes>;
  readonly known: Set<string>;
  readonly fired: Record<string, number>;
  done: number;
  steps: number;
  failure: Failure | undefined;
}

/** Undefined: no strategy has that name. */
export function openExploration(
  prepared: PreparedStory,
  limits: Limits,
): OpenExploration | undefined {
  const shape = measureStory(prepared, limits.without);
  const strategy = strategyNamed(limits.strategy, shape, limits.depth);
  if (strategy === undefined) return undefined;
  const open = new Map(Object.entries(prepared.story.sometimes ?? {}));
  const seen: Seen = { open, known: new Set(), fired: {}, done: 0, steps: 0, failure: undefined };
  return {
    go(schedules) {
      for (let left = schedules; left > 0; left--) {
        if (seen.failure !== undefined || !oneRun(prepared, limits, strategy, seen)) return false;
      }
      return seen.failure === undefined;
    },
    result: () => ({
      failure: seen.failure,
      schedules: seen.done,
      steps: seen.steps,
      points: shape.points,
      // Which of its values a load returns is not enumerated.
      finished: strategy.finished() && prepared.memory !== "relaxed",
      never: [...seen.open.keys()],
      known: [...seen.known],
      fired: seen.fired,
    }),
  };
}

/** The next run of an exploration; false: there is none. */
function oneRun(prepared: PreparedStory, limits: Limits, strategy: Strategy, seen: Seen): boolean {
  const number = (limits.first ?? 0) + seen.done;
  const turn = strategy.next(number);
  if (turn === undefined) return false;
  const scheduler = recorder(turn.scheduler);
  const seed = runSeed(limits.seed, number);
  const everyStep = number % AUDIT_EVERY === AUDIT_EVERY - 1;
  const without = limits.without ?? [];
  const watch = turn.watch === undefined ? {} : { watch: turn.watch };
  const run = runStory(prepared, { seed, scheduler, everyStep, without, ...watch });
  seen.done++;
  seen.steps += run.outcome.steps;
  noteSometimes(run, seen);
  for (const { name, fired } of prepared.story.faults ?? []) {
    if (fired(run.machine, run.notes)) seen.fired[name] = (seen.fired[name] ?? 0) + 1;
  }
  for (const hole of run.known) seen.known.add(hole);
  const isTwice = number % CHECK_TWICE_EVERY === CHECK_TWICE_EVERY - 1;
  const isCalm = run.outcome.verdict === "finished";
  const again = isTwice && isCalm ? differs(prepared, run.outcome, scheduler, without) : undefined;
  if (isCalm && again === undefined) return true;
  const findings = again === undefined ? run.outcome.findings : [again];
  seen.failure = {
    id: idOf(run.outcome, findings),
    findings,
    schedule: seen.done,
    seed,
    strategy: turn.strategy,
    deviations: scheduler.deviations,
    numbers: scheduler.numbers,
    steps: run.outcome.steps,
    traceHash: run.outcome.traceHash,
    everyStep,
  };
  return true;
}

function noteSometimes(run: StoryRun, { open }: Seen): void {
  for (const [name, holds] of open) if (holds(run.notes, run.machine)) open.delete(name);
}

const idOf = (outcome: Outcome, findings: readonly string[]): string =>
  outcome.verdict === "bug" ? "bug" : findingId(findings[0] ?? "");

/** Makes the same choices again: the trace must be the same (D-1). An audit leaves none. */
function differs(
  prepared: PreparedStory,
  outcome: Outcome,
  scheduler: { readonly deviations: readonly Deviation[]; readonly numbers: readonly number[] },
  without: readonly string[],
): string | undefined {
  const { seed, traceHash } = outcome;
  const again = deviationScheduler(scheduler.deviations, scheduler.numbers);
  const second = runStory(prepared, { seed, scheduler: again, without });
  if (second.outcome.traceHash === traceHash) return undefined;
  return `D-1: the same choices left trace ${second.outcome.traceHash}, not ${traceHash}`;
}
