/**
 * A scenario on real threads, seed after seed, with random delays at its points, one machine a thread of the pool. Rules: results count in
 * the order of the runs, so that the next call goes on behind the last one that counted; a failure is looked for in the one-thread
 * engine as well: what is found there is a command that shows it again, and otherwise it is said that it was not.
 */
import { availableParallelism } from "node:os";
import { runSeed } from "../explore/exploration.ts";
import { EmulatorBug, item } from "../shared/assert.ts";
import type { Setting } from "../shared/settings.ts";
import { buildOf } from "../toolstack/build-hash.ts";
import {
  EXIT_BUG,
  EXIT_INTERRUPTED,
  EXIT_SUCCESS,
  SetupError,
  worstOf,
} from "../toolstack/exit-codes.ts";
import { type LoadedScenario, loadScenario } from "../toolstack/load.ts";
import { prepare } from "../toolstack/prepare.ts";
import { loadState, saveState } from "../toolstack/state-file.ts";
import { openStatusLine, type StatusLine } from "../toolstack/status-line.ts";
import {
  openRunsPool,
  type StressRunAnswer,
  type StressRunResult,
} from "../toolstack/stress-runs-task.ts";
import { errorOf } from "../toolstack/thrown.ts";
import { settingText } from "./machine-options.ts";
import { openWalk, WALKS } from "./scenario-walk.ts";

export interface ScenarioStressOptions {
  readonly minutes: number;
  /** Runs, at most. */
  readonly schedules?: number;
  readonly seed: number;
  readonly jobs?: number;
  readonly state?: string;
  readonly variant?: readonly string[];
  readonly set?: readonly Setting[];
  readonly json?: true;
  readonly progress: boolean;
}

/** Grant operations of a run that are noted, so that its history is judged. */
const HISTORY: Setting = { path: "machine.historyRecords", value: 60_000 };
/** Cores that one machine keeps busy: hypervisor, domains and devices take turns. */
const CORES_A_MACHINE = 2;
/** Explored runs that look for a failure of the threads. */
const EXPLORED_RUNS = 50;
const SAVE_EVERY_MS = 10_000;

interface Failure extends StressRunResult {
  /** Command that shows it in the one-thread engine too. */
  readonly explored: string | undefined;
}

/** What a campaign has done: the file that it goes on from. */
interface Standing {
  readonly schema: "gfn2mfn/stress-runs@1";
  readonly seed: number;
  readonly source: string;
  /** Scenario, variants and settings. */
  readonly what: readonly string[];
  runs: number;
  seconds: number;
  readonly failures: Failure[];
}

/** A campaign that is under way. */
interface Campaign {
  readonly loaded: LoadedScenario;
  readonly variants: readonly string[];
  readonly settings: readonly Setting[];
  readonly standing: Standing;
  readonly options: ScenarioStressOptions;
  readonly signal: AbortSignal;
  readonly status: StatusLine;
}

export async function stressScenario(id: string, options: ScenarioStressOptions): Promise<number> {
  const loaded = await loadScenario(id);
  const settings = [HISTORY, ...(options.set ?? [])];
  // Whoever asks for what does not exist is told before anything starts.
  const prepared = await prepare(loaded, {
    seed: options.seed,
    settings,
    variants: options.variant ?? [],
  });
  const variants = prepared.map(({ choice }) => choice.variant);
  const standing = standingOf(options, [id, ...variants, ...settings.map(settingText)]);
  const status = openStatusLine(process.stderr, options.progress);
  const abort = new AbortController();
  const onSignal = (): void => abort.abort();
  process.once("SIGINT", onSignal);
  const { signal } = abort;
  try {
    await campaign({ loaded, variants, settings, standing, options, signal, status });
  } finally {
    status.end();
    process.off("SIGINT", onSignal);
    if (options.state !== undefined) saveState(options.state, standing);
  }
  print(id, standing, options);
  return abort.signal.aborted
    ? EXIT_INTERRUPTED
    : worstOf(standing.failures.map(({ code }) => code));
}

function standingOf(options: ScenarioStressOptions, what: readonly string[]): Standing {
  const { source } = buildOf([]);
  const schema = "gfn2mfn/stress-runs@1";
  const fresh: Standing = {
    schema,
    seed: options.seed,
    source,
    what,
    runs: 0,
    seconds: 0,
    failures: [],
  };
  if (options.state === undefined) return fresh;
  const standing = loadState(options.state, "campaign of a scenario", fresh);
  if (standing.what.join("\n") === what.join("\n")) return standing;
  throw new SetupError(`${options.state}: is about ${standing.what.join(", ")}`);
}

/** Runs until time, runs or the person's patience are up. */
async function campaign(campaign: Campaign): Promise<void> {
  const { standing, options, signal, status, loaded } = campaign;
  const jobs = options.jobs ?? Math.max(1, Math.floor(availableParallelism() / CORES_A_MACHINE));
  const pool = openRunsPool(jobs);
  const startedMs = performance.now();
  const before = standing.seconds;
  const until = startedMs + options.minutes * 60_000;
  const most = options.schedules ?? Number.POSITIVE_INFINITY;
  let savedMs = startedMs;
  let started = standing.runs;
  const waiting: Promise<StressRunAnswer | undefined>[] = [];
  try {
    while (!signal.aborted) {
      while (waiting.length < jobs && started < most && performance.now() < until) {
        waiting.push(startRun(pool, campaign, started++));
      }
      const answer = await waiting.shift();
      if (answer === undefined) break;
      if ("thrown" in answer) throw errorOf(answer.thrown);
      standing.runs++;
      const { result } = answer;
      if (result.code !== EXIT_SUCCESS) {
        standing.failures.push({ ...result, explored: await explored(campaign, result) });
      }
      standing.seconds = before + (performance.now() - startedMs) / 1000;
      const { runs, failures } = standing;
      status.update(`${loaded.id}: ${runs} runs on threads, ${failures.length} failures`);
      if (options.state !== undefined && performance.now() - savedMs > SAVE_EVERY_MS) {
        savedMs = performance.now();
        saveState(options.state, standing);
      }
    }
  } finally {
    await pool.close();
  }
}

/** Undefined: the person has stopped it. */
async function startRun(
  pool: ReturnType<typeof openRunsPool>,
  { loaded, variants, settings, options, signal }: Campaign,
  run: number,
): Promise<StressRunAnswer | undefined> {
  const { id, module, file, composition } = loaded;
  const source =
    composition === undefined ? { id, module, file } : { id, module, file, composition };
  const variant = item(variants, run % variants.length);
  const seed = runSeed(options.seed, Math.floor(run / variants.length));
  try {
    return await pool.run({ source, variant, settings, seed }, signal);
  } catch (error) {
    if (signal.aborted) return undefined;
    throw new EmulatorBug(`the thread of ${variant}, seed ${seed}, died: ${String(error)}`);
  }
}

/** What a problem says without the numbers of this one run. */
const kindOf = (problems: readonly string[]): string =>
  (problems[0] ?? "").replace(/; .*/s, "").replace(/\d+/g, "#");

/** The same variant in the one-thread engine, under walks of many seeds: the command of the first run that fails in the same way. */
async function explored(
  { loaded, settings, signal, status }: Campaign,
  { variant, seed, problems }: StressRunResult,
): Promise<string | undefined> {
  const walk = await openWalk(loaded, variant, settings, signal);
  for (let run = 0; run < EXPLORED_RUNS && !signal.aborted; run++) {
    status.update(`${variant}: looking for its failure in the one-thread engine, run ${run + 1}`);
    const found = await walk.go(runSeed(seed, run), run);
    if (found === undefined || found.code === EXIT_BUG) continue;
    if (kindOf(found.problems) === kindOf(problems)) return found.command;
  }
  return undefined;
}

function print(id: string, standing: Standing, options: ScenarioStressOptions): void {
  const { runs, seconds, failures } = standing;
  if (options.json === true) {
    const document = { schema: "gfn2mfn/stress@1", scenario: id, engine: "threads", runs, seconds };
    process.stdout.write(`${JSON.stringify({ ...document, failures })}\n`);
    return;
  }
  const lines = failures.flatMap(({ variant, seed, problems, explored: again }) => [
    `FAIL ${id}, ${variant}, seed ${seed}`,
    ...problems.map((text) => `  ${text}`),
    again === undefined
      ? `  not seen in the one-thread engine in ${EXPLORED_RUNS} runs (${WALKS.join(", ")})`
      : `  again: ${again}`,
  ]);
  const verdict = failures.length === 0 ? "no failure" : `${failures.length} failures`;
  const summary = `${id}: ${runs} runs on threads with delays in ${seconds.toFixed(0)} s: ${verdict}`;
  process.stdout.write(`${[...lines, summary].join("\n")}\n`);
}
