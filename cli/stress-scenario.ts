/**
 * A scenario on real threads, seed after seed, with random delays at its points. Rule: a failure is looked for in the one-thread
 * engine as well; what it finds there is a command that shows the failure again, and otherwise it says that it has found none.
 */
import { EXIT_BUG, EXIT_INTERRUPTED, EXIT_SUCCESS, worstOf } from "../toolstack/exit-codes.ts";
import { loadScenario } from "../toolstack/load.ts";
import { type Prepared, prepare } from "../toolstack/prepare.ts";
import { type RunWatch, runVariants, type VariantResult } from "../toolstack/run.ts";
import { openStatusLine, type StatusLine } from "../toolstack/status-line.ts";

export interface ScenarioStressOptions {
  readonly minutes: number;
  /** Runs, at most. */
  readonly schedules?: number;
  readonly seed: number;
  readonly json?: true;
  readonly progress: boolean;
}

/** Grant operations of a run that are noted, so that its history is judged. */
const HISTORY = { path: "machine.historyRecords", value: 60_000 } as const;

/** Longest time for one variant, delays included. */
const TIMEOUT_MS = 120_000;
/** Explored seeds that look for a failure of the threads. */
const EXPLORED_SEEDS = 50;

const quiet: RunWatch = { started: () => {}, progress: () => {}, ended: () => {} };

interface Failure {
  readonly variant: string;
  readonly seed: number;
  readonly problems: readonly string[];
  /** Seed that shows it in the one-thread engine too. */
  readonly explored: number | undefined;
}

export async function stressScenario(id: string, options: ScenarioStressOptions): Promise<number> {
  const loaded = await loadScenario(id);
  const status = openStatusLine(process.stderr, options.progress);
  const abort = new AbortController();
  const onSignal = (): void => abort.abort();
  process.once("SIGINT", onSignal);
  const startedMs = performance.now();
  const failures: Failure[] = [];
  const codes: number[] = [];
  let runs = 0;
  try {
    const until = startedMs + options.minutes * 60_000;
    const most = options.schedules ?? Number.POSITIVE_INFINITY;
    for (let seed = options.seed; performance.now() < until && runs < most; seed++) {
      const variants = await prepare(loaded, { seed, settings: [HISTORY], variants: [] });
      const control = {
        engine: "threads",
        timeoutMs: TIMEOUT_MS,
        signal: abort.signal,
        delaySeed: seed,
      } as const;
      const results = await runVariants(variants.slice(0, most - runs), control, quiet);
      if (abort.signal.aborted) break;
      runs += results.length;
      codes.push(...results.map(({ code }) => code));
      for (const result of results.filter(({ code }) => code !== EXIT_SUCCESS)) {
        failures.push(await explored(variants, result, abort.signal, status));
      }
      status.update(`${id}: ${runs} runs on threads, ${failures.length} failures, seed ${seed}`);
    }
  } finally {
    status.end();
    process.off("SIGINT", onSignal);
  }
  print(id, runs, (performance.now() - startedMs) / 1000, failures, options);
  return abort.signal.aborted ? EXIT_INTERRUPTED : worstOf(codes);
}

/** The same variant in the one-thread engine, under many seeds: the first that fails too. */
async function explored(
  variants: readonly Prepared[],
  result: VariantResult,
  signal: AbortSignal,
  status: StatusLine,
): Promise<Failure> {
  const { variant, seed, problems } = result;
  const prepared = variants.find(({ choice }) => choice.variant === variant);
  for (let other = seed; prepared !== undefined && other < seed + EXPLORED_SEEDS; other++) {
    status.update(`${variant}: looking for its failure in the one-thread engine, seed ${other}`);
    const choice = { ...prepared.choice, seed: other };
    const control = { engine: "explore", timeoutMs: TIMEOUT_MS, signal } as const;
    const [again] = await runVariants([{ ...prepared, choice }], control, quiet);
    if (again === undefined || signal.aborted) break;
    if (again.code !== EXIT_SUCCESS && again.code !== EXIT_BUG) {
      return { variant, seed, problems, explored: other };
    }
  }
  return { variant, seed, problems, explored: undefined };
}

function print(
  id: string,
  runs: number,
  seconds: number,
  failures: readonly Failure[],
  options: ScenarioStressOptions,
): void {
  if (options.json === true) {
    const document = { schema: "gfn2mfn/stress@1", scenario: id, engine: "threads", runs, seconds };
    process.stdout.write(`${JSON.stringify({ ...document, failures })}\n`);
    return;
  }
  const lines = failures.flatMap(({ variant, seed, problems, explored: again }) => [
    `FAIL ${id}, ${variant}, seed ${seed}`,
    ...problems.map((text) => `  ${text}`),
    again === undefined
      ? `  not seen in the one-thread engine with seeds ${seed} to ${seed + EXPLORED_SEEDS - 1}`
      : `  again: npm run -s gfn2mfn -- run ${id} --variant '${variant}' --engine explore --seed ${again} --set ${HISTORY.path}=${HISTORY.value}`,
  ]);
  const verdict = failures.length === 0 ? "no failure" : `${failures.length} failures`;
  const summary = `${id}: ${runs} runs on threads with delays in ${seconds.toFixed(0)} s: ${verdict}`;
  process.stdout.write(`${[...lines, summary].join("\n")}\n`);
}
