/**
 * `gfn2mfn explore` of a whole scenario: its kernels and devices in one thread, every access a point, under a walk, seed after seed.
 * Rules: its runs are long, so nothing is enumerated and nothing shrunk; a failure ends with the command that makes
 * its run again.
 */

import { runSeed } from "../explore/exploration.ts";
import { type Shape, STRATEGY_NAMES, walkNamed } from "../explore/strategies/portfolio.ts";
import { item } from "../shared/assert.ts";
import { unknownName } from "../shared/nearest.ts";
import type { Setting } from "../shared/settings.ts";
import { EXIT_INTERRUPTED, EXIT_SUCCESS, UsageError, worstOf } from "../toolstack/exit-codes.ts";
import { loadScenario } from "../toolstack/load.ts";
import { prepare } from "../toolstack/prepare.ts";
import { openStatusLine, type StatusLine } from "../toolstack/status-line.ts";
import { openWalk, type VariantWalk, type WalkFailure } from "./scenario-walk.ts";

export interface ScenarioExploreOptions {
  readonly schedules: number;
  readonly strategy: string;
  readonly seed: number;
  readonly variant?: readonly string[];
  readonly set?: readonly Setting[];
  readonly json?: true;
  readonly progress: boolean;
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
  const failures: WalkFailure[] = [];
  const walks: VariantWalk[] = [];
  let runs = 0;
  try {
    const variants = await prepare(loaded, { ...wish, seed: options.seed });
    const walk = options.strategy === "portfolio" ? undefined : options.strategy;
    for (; runs < options.schedules && !abort.signal.aborted; runs++) {
      const place = runs % variants.length;
      const { variant } = item(variants, place).choice;
      walks[place] ??= await openWalk(loaded, variant, wish.settings, abort.signal);
      const failure = await walks[place].go(runSeed(options.seed, runs), runs, walk);
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

function print(
  id: string,
  runs: number,
  failures: readonly WalkFailure[],
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
