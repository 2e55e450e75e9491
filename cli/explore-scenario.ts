/**
 * `gfn2mfn explore` of a whole scenario: its kernels and devices in one thread, every access a point, under a walk, seed after seed.
 * Rules: its runs are long, so nothing is enumerated and nothing shrunk; a failure ends with the command that makes
 * its run again.
 */

import { runSeed } from "../explore/exploration.ts";
import { randomScheduler } from "../explore/random.ts";
import { recorder } from "../explore/strategies/deviations.ts";
import { type Shape, STRATEGY_NAMES, walkNamed } from "../explore/strategies/portfolio.ts";
import { item } from "../shared/assert.ts";
import { unknownName } from "../shared/nearest.ts";
import type { Setting } from "../shared/settings.ts";
import { EXIT_INTERRUPTED, EXIT_SUCCESS, UsageError, worstOf } from "../toolstack/exit-codes.ts";
import { loadScenario } from "../toolstack/load.ts";
import { type Prepared, prepare } from "../toolstack/prepare.ts";
import { type RunWatch, runVariants, type VariantResult } from "../toolstack/run.ts";
import { openStatusLine, type StatusLine } from "../toolstack/status-line.ts";
import { quoted, settingText } from "./machine-options.ts";

export interface ScenarioExploreOptions {
  readonly schedules: number;
  readonly strategy: string;
  readonly seed: number;
  readonly variant?: readonly string[];
  readonly set?: readonly Setting[];
  readonly json?: true;
  readonly progress: boolean;
}

/** The portfolio of a scenario: walks only. */
const WALKS: readonly string[] = ["random(8)", "pct(2)", "random", "pct(3)", "starve"];
const MEASURE_SEED = 1;
/** Longest time for one run. */
const TIMEOUT_MS = 120_000;

const quiet: RunWatch = { started: () => {}, progress: () => {}, ended: () => {} };

interface ScenarioFailure {
  readonly variant: string;
  readonly strategy: string;
  readonly seed: number;
  readonly code: number;
  readonly problems: readonly string[];
  readonly command: string;
}

export async function exploreScenario(
  id: string,
  options: ScenarioExploreOptions,
): Promise<number> {
  const nothing: Shape = { points: 1, steps: [], faults: [] };
  if (options.strategy !== "portfolio" && walkNamed(options.strategy, nothing) === undefined) {
    const walks = STRATEGY_NAMES.filter((name) => walkNamed(name, nothing) !== undefined);
    throw new UsageError(unknownName("walk", options.strategy, [...walks, "portfolio"]));
  }
  const loaded = await loadScenario(id);
  const wish = { settings: options.set ?? [], variants: options.variant ?? [] };
  const status = openStatusLine(process.stderr, options.progress);
  const abort = new AbortController();
  const onSignal = (): void => abort.abort();
  process.once("SIGINT", onSignal);
  status.print(`${id}: seed ${options.seed}, strategy ${options.strategy}`);
  const failures: ScenarioFailure[] = [];
  let runs = 0;
  try {
    const shapes = new Map<number, Shape>();
    for (; runs < options.schedules && !abort.signal.aborted; runs++) {
      const seed = runSeed(options.seed, runs);
      const variants = await prepare(loaded, { ...wish, seed });
      const place = runs % variants.length;
      // With a seed of its own, so that a run that is asked for alone is measured by the same.
      const measuring = await prepare(loaded, { ...wish, seed: MEASURE_SEED });
      const shape = shapes.get(place) ?? (await measured(item(measuring, place), abort.signal));
      shapes.set(place, shape);
      const one = { prepared: item(variants, place), seed, shape, run: runs };
      const failure = await oneRun(id, one, options, abort.signal);
      if (failure !== undefined) failures.push(failure);
      report(status, id, runs + 1, options, failures.length);
    }
  } finally {
    status.end();
    process.off("SIGINT", onSignal);
  }
  print(id, runs, failures, options);
  if (abort.signal.aborted) return EXIT_INTERRUPTED;
  return failures.length === 0 ? EXIT_SUCCESS : worstOf(failures.map(({ code }) => code));
}

const report = (
  status: StatusLine,
  id: string,
  runs: number,
  { schedules }: ScenarioExploreOptions,
  failures: number,
): void => status.update(`${id}: ${runs} of ${schedules} schedules, ${failures} failures`);

/** How long a run is. */
async function measured(prepared: Prepared, signal: AbortSignal): Promise<Shape> {
  const scheduler = recorder(randomScheduler());
  await runVariants(
    [prepared],
    { engine: "explore", timeoutMs: TIMEOUT_MS, signal, scheduler },
    quiet,
  );
  return { points: scheduler.points, steps: [], faults: [] };
}

interface One {
  readonly prepared: Prepared;
  readonly seed: number;
  readonly shape: Shape;
  readonly run: number;
}

async function oneRun(
  id: string,
  { prepared, seed, shape, run }: One,
  options: ScenarioExploreOptions,
  signal: AbortSignal,
): Promise<ScenarioFailure | undefined> {
  const { strategy: wished } = options;
  const strategy = wished === "portfolio" ? item(WALKS, run % WALKS.length) : wished;
  const scheduler = walkNamed(strategy, shape);
  if (scheduler === undefined) return undefined;
  const control = { engine: "explore", timeoutMs: TIMEOUT_MS, signal, scheduler } as const;
  const [result]: readonly (VariantResult | undefined)[] = await runVariants(
    [prepared],
    control,
    quiet,
  );
  if (result === undefined || result.code === EXIT_SUCCESS || signal.aborted) return undefined;
  const { variant, code, problems } = result;
  const settings = (options.set ?? []).map((setting) => ` --set ${quoted(settingText(setting))}`);
  const command =
    `npm run -s gfn2mfn -- explore ${quoted(id)} --variant ${quoted(variant)}` +
    ` --strategy '${strategy}' --seed ${seed} --schedules 1${settings.join("")}`;
  return { variant, strategy, seed, code, problems, command };
}

function print(
  id: string,
  runs: number,
  failures: readonly ScenarioFailure[],
  options: ScenarioExploreOptions,
): void {
  if (options.json === true) {
    const document = { schema: "gfn2mfn/explore@1", scenario: id, schedules: runs, failures };
    process.stdout.write(`${JSON.stringify(document)}\n`);
    return;
  }
  const lines = failures.flatMap(({ variant, strategy, seed, problems, command }) => [
    `FAIL ${id}, ${variant}: ${strategy}, seed ${seed}`,
    ...problems.map((text) => `  ${text}`),
    `  again: ${command}`,
  ]);
  const verdict = failures.length === 0 ? "nothing found" : `${failures.length} failures`;
  process.stdout.write(`${[...lines, `${id}: ${runs} schedules: ${verdict}`].join("\n")}\n`);
}
