/**
 * What a thread of the pool does with one run of a scenario: its machine on real threads, with random delays at its points. Rules: a run
 * is decided by its variant and seed as far as threads can be; whatever is thrown is answered too.
 * Ours.
 */

import { item } from "../shared/assert.ts";
import type { Setting } from "../shared/settings.ts";
import { loadAgain, type ScenarioSource } from "./load.ts";
import { openPool, type Pool } from "./pool.ts";
import { prepare } from "./prepare.ts";
import { runVariants } from "./run.ts";
import { type Thrown, thrownOf } from "./thrown.ts";

export interface StressRun {
  readonly source: ScenarioSource;
  readonly variant: string;
  readonly settings: readonly Setting[];
  readonly seed: number;
}

export interface StressRunResult {
  readonly variant: string;
  readonly seed: number;
  readonly code: number;
  readonly problems: readonly string[];
}

export type StressRunAnswer = { readonly result: StressRunResult } | { readonly thrown: Thrown };

/** Longest time for one run, delays included. */
const TIMEOUT_MS = 120_000;

/** The pool ends a thread that is no longer wanted, and with it the machine's, so no signal arrives here. */
export async function stressRun(task: StressRun): Promise<StressRunAnswer> {
  try {
    const { source, variant, settings, seed } = task;
    const variants = await prepare(await loadAgain(source), {
      seed,
      settings,
      variants: [variant],
    });
    const { signal } = new AbortController();
    const control = { engine: "threads", timeoutMs: TIMEOUT_MS, signal, delaySeed: seed } as const;
    const quiet = { started: () => {}, progress: () => {}, ended: () => {} };
    const { code, problems } = item(await runVariants(variants, control, quiet), 0);
    return { result: { variant, seed, code, problems } };
  } catch (error) {
    return { thrown: thrownOf(error) };
  }
}

export const openRunsPool = (jobs: number): Pool<StressRun, StressRunAnswer> =>
  openPool("./stress-runs-task.ts", "stressRun", jobs);
