/**
 * One mutant, explored with as many seeds as asked for: the task of a pool's thread, and what `gfn2mfn explore --mutants` does
 * itself without one. Rules: a mutant counts as found only by a check that its row names; one that needs weak memory must
 * be found in each mode that its row names, and of a seed's explorations the last to find it counts.
 * Ours.
 */

import { MUTANTS } from "../explore/mutants/catalogue.ts";
import { BUDGETS, type Mutant } from "../explore/mutants/mutant.ts";
import type { NamedExploration, NamedStory } from "../explore/named.ts";
import { EmulatorBug } from "../shared/assert.ts";
import { openMutated } from "./mutant-hook.ts";
import { openPool, type Pool } from "./pool.ts";

export interface MutantTask {
  readonly id: string;
  readonly seeds: number;
}

export interface MutantResult {
  readonly id: string;
  readonly name: string;
  /** Whether every seed has found it within the budget. */
  readonly found: boolean;
  readonly seeds: number;
  /** Seeds that have found it. */
  readonly foundSeeds: number;
  /** Null: no seed has. */
  readonly schedulesMedian: number | null;
  readonly schedulesMax: number | null;
  readonly budget: number;
  /** Check that has reported it, most often. */
  readonly check: string | null;
  /** Departures from the calm schedule after shrinking: median. */
  readonly forcedSwitches: number | null;
  /** Longest shrinking of a seed's failure. */
  readonly shrinkMs: number;
  /** Failures whose own choices, made again, left the same trace. */
  readonly replayed: number;
  /** What was seen instead, once each. */
  readonly others: readonly string[];
  readonly schedules: number;
  readonly durationMs: number;
}

/** Campaign seeds of the gate: the same ones each time, so that it gives the same answer each time. */
const gateSeed = (i: number): number => 1 + i;

export async function runMutant({ id, seeds }: MutantTask): Promise<MutantResult> {
  const mutant = MUTANTS.find((one) => one.id === id);
  if (mutant === undefined) throw new EmulatorBug(`no mutant is named ${id}`);
  const startedMs = performance.now();
  const modes = mutant.memory ?? ["sc"];
  const stories = await Promise.all(
    modes.map((memory) => openMutated(mutant, mutant.story, "faithful", memory)),
  );
  const runs = Array.from({ length: seeds }, (_, i) => {
    const found = stories.map((story) => exploreOnce(story, mutant, gateSeed(i)));
    return found.reduce((worst, one) => (isWorse(one, worst) ? one : worst));
  });
  return judged(mutant, seeds, runs, performance.now() - startedMs);
}

interface Found extends NamedExploration {
  readonly shrinkMs: number;
}

function exploreOnce(story: NamedStory, { depth }: Mutant, seed: number): Found {
  const budget = BUDGETS[depth];
  const open = story.open({ schedules: budget, seed, strategy: "portfolio", depth });
  if (open === undefined) throw new EmulatorBug("the portfolio is a strategy");
  open.go(budget);
  const startedMs = performance.now();
  const found = story.finish(open.result());
  return { ...found, shrinkMs: Math.round(performance.now() - startedMs) };
}

const schedulesOf = ({ exploration: { failure } }: NamedExploration): number =>
  failure === undefined ? Number.POSITIVE_INFINITY : failure.schedule;

const isWorse = (one: NamedExploration, other: NamedExploration): boolean =>
  schedulesOf(one) > schedulesOf(other);

function judged(
  mutant: Mutant,
  seeds: number,
  runs: readonly Found[],
  durationMs: number,
): MutantResult {
  const failures = runs.flatMap(({ exploration, shrunk }) =>
    exploration.failure === undefined ? [] : [{ failure: exploration.failure, shrunk }],
  );
  const right = failures.filter(({ failure }) => mutant.caughtBy.includes(failure.id));
  const wrong = failures.filter(({ failure }) => !mutant.caughtBy.includes(failure.id));
  const schedules = right.map(({ failure }) => failure.schedule);
  return {
    id: mutant.id,
    name: mutant.name,
    found: right.length === seeds,
    seeds,
    foundSeeds: right.length,
    schedulesMedian: middle(schedules),
    schedulesMax: schedules.length === 0 ? null : Math.max(...schedules),
    budget: BUDGETS[mutant.depth],
    check: mostOften(right.map(({ failure }) => failure.id)),
    forcedSwitches: middle(
      right.flatMap(({ shrunk }) => (shrunk === undefined ? [] : [shrunk.deviations.length])),
    ),
    shrinkMs: Math.max(...runs.map((run) => run.shrinkMs)),
    replayed: right.filter(({ shrunk }) => shrunk?.replayed === true).length,
    others: [...new Set(wrong.map(({ failure }) => failure.findings[0] ?? failure.id))],
    schedules: runs.reduce((sum, { exploration }) => sum + exploration.schedules, 0),
    durationMs,
  };
}

function middle(values: readonly number[]): number | null {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? null;
}

function mostOften(ids: readonly string[]): string | null {
  const counts = new Map<string, number>();
  for (const id of ids) counts.set(id, (counts.get(id) ?? 0) + 1);
  return [...counts].toSorted((a, b) => b[1] - a[1])[0]?.[0] ?? null;
}

export const openMutantPool = (jobs: number): Pool<MutantTask, MutantResult> =>
  openPool("./mutant-task.ts", "runMutant", jobs);
