/**
 * One run of a whole scenario in the one-thread engine, every access a point, under a walk. Rule: a failure comes with the command
 * that makes its run again: strategy, seed and length of a run decide everything.
 */
import { randomScheduler } from "../explore/random.ts";
import { recorder } from "../explore/strategies/deviations.ts";
import { type Shape, walkNamed } from "../explore/strategies/portfolio.ts";
import { item } from "../shared/assert.ts";
import type { Setting } from "../shared/settings.ts";
import { EXIT_SUCCESS } from "../toolstack/exit-codes.ts";
import type { LoadedScenario } from "../toolstack/load.ts";
import { type Prepared, prepare } from "../toolstack/prepare.ts";
import { type RunWatch, runVariants } from "../toolstack/run.ts";
import { quoted, settingText } from "./machine-options.ts";

/** The portfolio of a scenario: walks only. */
export const WALKS: readonly string[] = ["random(8)", "pct(2)", "random", "pct(3)", "starve"];
const MEASURE_SEED = 1;
/** Longest time for one run. */
const TIMEOUT_MS = 120_000;

const quiet: RunWatch = { started: () => {}, progress: () => {}, ended: () => {} };

export interface WalkFailure {
  readonly variant: string;
  readonly strategy: string;
  readonly seed: number;
  readonly code: number;
  readonly problems: readonly string[];
  readonly command: string;
}

/** Runs of one variant. */
export interface VariantWalk {
  /** One run; `walk` is the portfolio's choice when it is left out. Undefined: nothing found, or stopped, or no such walk. */
  go(seed: number, run: number, walk?: string): Promise<WalkFailure | undefined>;
}

/** Opens the runs of a variant: how long one is, is measured with a seed of its own, so that a run asked for alone is the same. */
export async function openWalk(
  loaded: LoadedScenario,
  variant: string,
  settings: readonly Setting[],
  signal: AbortSignal,
): Promise<VariantWalk> {
  const one = async (seed: number): Promise<Prepared> =>
    item(await prepare(loaded, { settings, variants: [variant], seed }), 0);
  const shape = await measured(await one(MEASURE_SEED), signal);
  return {
    go: async (seed, run, walk = item(WALKS, run % WALKS.length)) => {
      const scheduler = walkNamed(walk, shape);
      if (scheduler === undefined) return undefined;
      const control = { engine: "explore", timeoutMs: TIMEOUT_MS, signal, scheduler } as const;
      const [result] = await runVariants([await one(seed)], control, quiet);
      if (result === undefined || result.code === EXIT_SUCCESS || signal.aborted) return undefined;
      const { code, problems } = result;
      const set = settings.map((setting) => ` --set ${quoted(settingText(setting))}`);
      const command =
        `npm run -s gfn2mfn -- explore ${quoted(loaded.id)} --variant ${quoted(variant)}` +
        ` --strategy ${quoted(walk)} --seed ${seed} --schedules 1${set.join("")}`;
      return { variant, strategy: walk, seed, code, problems, command };
    },
  };
}

/** How long a run is. */
async function measured(prepared: Prepared, signal: AbortSignal): Promise<Shape> {
  const scheduler = recorder(randomScheduler());
  const control = { engine: "explore", timeoutMs: TIMEOUT_MS, signal, scheduler } as const;
  await runVariants([prepared], control, quiet);
  return { points: scheduler.points, steps: [], faults: [] };
}
