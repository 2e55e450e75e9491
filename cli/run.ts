/**
 * `gfn2mfn run`: every variant of every scenario named, and what came out of it. Rules: stdout is the table, or
 * with `--json` exactly one document; everything else goes to stderr; a failure ends with the one command that
 * shows it again.
 */
import type { ResultTable, Row } from "../shared/scenario.ts";
import type { Campaign } from "../toolstack/campaign.ts";
import type { EngineName } from "../toolstack/engine.ts";
import { EXIT_INTERRUPTED, EXIT_SUCCESS, UsageError, worstOf } from "../toolstack/exit-codes.ts";
import { type LoadedScenario, loadScenario } from "../toolstack/load.ts";
import { openLog } from "../toolstack/log.ts";
import { type Prepared, prepare } from "../toolstack/prepare.ts";
import { isRecordingName, openRecording, type Recorder } from "../toolstack/recording.ts";
import { type RunWatch, runVariants, type VariantResult } from "../toolstack/run.ts";
import { openStatusLine, type StatusLine } from "../toolstack/status-line.ts";
import { paintFor, resultLines } from "../toolstack/table.ts";
import {
  type MachineOptions,
  quoted,
  repeatOptions,
  SEED_MAX,
  settingsOf,
  settingText,
  wishOf,
} from "./machine-options.ts";

export interface RunOptions extends MachineOptions {
  readonly engine: EngineName;
  readonly repeat: number;
  /** Variants explored at once; absent: one a core. */
  readonly jobs?: number;
  readonly timeout: number;
  readonly record?: string;
  readonly dryRun?: true;
  readonly json?: true;
  readonly jsonl?: true;
  readonly quiet?: true;
  readonly verbose?: true;
  readonly progress: boolean;
  readonly logLevel?: string;
  readonly logFile?: string;
  readonly color: "auto" | "always" | "never";
}

/** One scenario with one seed. */
interface Batch {
  readonly loaded: LoadedScenario;
  readonly seed: number;
  readonly variants: readonly Prepared[];
}

export async function run(ids: readonly string[], options: RunOptions): Promise<number> {
  if (options.json === true && options.jsonl === true) {
    throw new UsageError("--json and --jsonl exclude each other");
  }
  if (options.jobs !== undefined && options.engine !== "explore") {
    throw new UsageError("--jobs: only --engine explore runs variants side by side");
  }
  const batches = await batchesOf(ids, options);
  checkRecord(batches, options);
  const log = await openLog({
    ...(options.logLevel === undefined ? {} : { level: options.logLevel }),
    ...(options.logFile === undefined ? {} : { file: options.logFile }),
  });
  if (options.dryRun === true) return dryRun(batches, options);
  const status = openStatusLine(process.stderr, options.progress && options.quiet !== true);
  const abort = new AbortController();
  const stop = (): void => abort.abort();
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  let done: readonly Done[];
  try {
    done = await runBatches(batches, options, abort.signal, status, log);
  } finally {
    status.end();
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
  }
  printResults(done, options, abort.signal.aborted);
  const codes = done.flatMap(({ results }) => results.map((result) => result.code));
  return abort.signal.aborted ? EXIT_INTERRUPTED : worstOf(codes);
}

/** Runs the batches in order. The result and its order do not depend on how many jobs share the work. */
async function runBatches(
  batches: readonly Batch[],
  options: RunOptions,
  signal: AbortSignal,
  status: StatusLine,
  log: Awaited<ReturnType<typeof openLog>>,
): Promise<readonly Done[]> {
  const { engine, timeout: timeoutMs } = options;
  const campaign = await campaignOf(batches, options, signal);
  try {
    const queued = batches.map(({ variants }) => campaign?.start(variants));
    const done: Done[] = [];
    for (const [i, batch] of batches.entries()) {
      echo(batch, options, status);
      const watch = watchOf(batch, options, status, log);
      const control = { engine, timeoutMs, signal, ...recorderOf(batch, options) };
      const results = await (queued[i]?.follow(watch) ??
        runVariants(batch.variants, control, watch));
      done.push({ batch, results });
      if (signal.aborted) break;
    }
    return done;
  } finally {
    await campaign?.close();
  }
}

/** The recording of the only variant. */
function recorderOf({ variants }: Batch, options: RunOptions): { readonly recorder?: Recorder } {
  const [only] = variants;
  if (options.record === undefined || only === undefined) return {};
  return { recorder: openRecording(options.record, only, options.engine) };
}

/** A recording is of one run. */
function checkRecord(batches: readonly Batch[], options: RunOptions): void {
  if (options.record === undefined) return;
  if (!isRecordingName(options.record)) {
    throw new UsageError(`--record: ${options.record} does not end in .jsonl or .jsonl.gz`);
  }
  const runs = batches.reduce((sum, { variants }) => sum + variants.length, 0);
  if (runs === 1) return;
  throw new UsageError(`--record: these are ${runs} runs; name one variant by --variant`);
}

/** A pool, if there is anything to share out among more than one thread. */
async function campaignOf(
  batches: readonly Batch[],
  options: RunOptions,
  signal: AbortSignal,
): Promise<Campaign | undefined> {
  if (options.engine !== "explore") return undefined;
  const count = batches.reduce((sum, { variants }) => sum + variants.length, 0);
  const jobs = Math.min(options.jobs ?? 1, count);
  if (jobs < 2) return undefined;
  const { openCampaign } = await import("../toolstack/campaign.ts");
  return openCampaign({ jobs, timeoutMs: options.timeout, signal });
}

interface Done {
  readonly batch: Batch;
  readonly results: readonly VariantResult[];
}

/** Everything is resolved before anything starts. */
async function batchesOf(ids: readonly string[], options: RunOptions): Promise<readonly Batch[]> {
  const batches: Batch[] = [];
  if (options.seed + options.repeat - 1 > SEED_MAX) {
    throw new UsageError(`--repeat: the last seed would be above ${SEED_MAX}`);
  }
  for (const id of ids) {
    const loaded = await loadScenario(id);
    for (let i = 0; i < options.repeat; i++) {
      const seed = options.seed + i;
      batches.push({ loaded, seed, variants: await prepare(loaded, wishOf(options, seed)) });
    }
  }
  return batches;
}

function dryRun(batches: readonly Batch[], options: RunOptions): number {
  for (const { loaded, seed, variants } of batches) {
    const names = variants.map((prepared) => prepared.resolved.variant);
    process.stderr.write(`${loaded.id}: seed ${seed}, engine ${options.engine}, would run\n`);
    if (options.quiet !== true) process.stdout.write(`${names.join("\n")}\n`);
  }
  return EXIT_SUCCESS;
}

/** Seed, engine and overrides of a run, before its first step. */
function echo(batch: Batch, options: RunOptions, status: StatusLine): void {
  if (options.quiet === true) return;
  const overrides = settingsOf(options).map(settingText);
  const text = overrides.length === 0 ? "no overrides" : `overrides ${overrides.join(" ")}`;
  status.print(`${batch.loaded.id}: seed ${batch.seed}, engine ${options.engine}, ${text}`);
}

function watchOf(
  batch: Batch,
  options: RunOptions,
  status: StatusLine,
  log: Awaited<ReturnType<typeof openLog>>,
): RunWatch {
  let place = "";
  return {
    started: (prepared, index, count) => {
      const { variant } = prepared.resolved;
      place = `${batch.loaded.id} ${index + 1}/${count} ${variant}`;
      log?.info({ scenario: batch.loaded.id, variant, seed: batch.seed }, "variant started");
      status.update(place);
    },
    progress: (_prepared, text) => status.update(`${place}: ${text}`),
    ended: (result) => {
      const { variant, code, problems, durationMs } = result;
      log?.info(
        { scenario: batch.loaded.id, variant, code, durationMs, problems },
        "variant ended",
      );
      if (options.verbose === true) verbose(result, status);
      if (options.jsonl === true) {
        printEvent({
          event: "variant",
          scenario: batch.loaded.id,
          ...result.row,
          name: variant,
          code,
          problems,
        });
      }
      if (code !== EXIT_SUCCESS) complain(batch, result, options, status);
    },
  };
}

function verbose(result: VariantResult, status: StatusLine): void {
  status.print(`${result.variant}: ${(result.durationMs / 1000).toFixed(2)} s`);
  for (const { domain, key, value } of result.reports)
    status.print(`  ${domain} ${key} = ${value}`);
}

function complain(
  batch: Batch,
  result: VariantResult,
  options: RunOptions,
  status: StatusLine,
): void {
  for (const problem of result.problems) {
    status.print(`✗ ${batch.loaded.id}, ${result.variant}: ${problem}`);
  }
  if (result.code === EXIT_INTERRUPTED) return;
  status.print(`again: ${repeatCommand(batch, result, options)}`);
}

/** The one command that shows a failure again. */
function repeatCommand(batch: Batch, result: VariantResult, options: RunOptions): string {
  const words = ["npm run -s gfn2mfn -- run", quoted(batch.loaded.id), "--engine", options.engine];
  return [
    ...words,
    ...repeatOptions(options, result.seed),
    "--variant",
    quoted(result.variant),
  ].join(" ");
}

const printEvent = (event: Readonly<Record<string, unknown>>): void => {
  process.stdout.write(`${JSON.stringify({ schema: "gfn2mfn/event@1", ...event })}\n`);
};

/** A variant's line in JSON: its own row, or what stopped it from having one. */
const jsonRow = (result: VariantResult): Row =>
  result.row ?? { name: result.variant, verdict: "failed", problems: result.problems };

function printResults(done: readonly Done[], options: RunOptions, interrupted: boolean): void {
  const ok =
    !interrupted && done.every(({ results }) => results.every(({ code }) => code === EXIT_SUCCESS));
  if (options.jsonl === true) printEvent({ event: "end", ok });
  else if (options.json === true) process.stdout.write(`${JSON.stringify(documentOf(done, ok))}\n`);
  else if (options.quiet !== true) for (const one of done) printTable(one, options, interrupted);
}

/** One scenario and seed: its variants on top; several: a list of such documents. */
function documentOf(done: readonly Done[], ok: boolean): unknown {
  const schema = "gfn2mfn/result@1";
  const [only] = done;
  if (done.length === 1 && only !== undefined) {
    return { schema, variants: only.results.map(jsonRow), ok };
  }
  const runs = done.map(({ batch, results }) => ({
    scenario: batch.loaded.id,
    seed: batch.seed,
    variants: results.map(jsonRow),
    ok: results.every(({ code }) => code === EXIT_SUCCESS),
  }));
  return { schema, runs, ok };
}

const PLAIN_TABLE: ResultTable = {
  columns: [
    { title: "variant", text: (row) => String(row.name) },
    {
      title: "outcome",
      text: (row) => (row.verdict === "failed" ? "failed" : "as expected"),
      mark: (row) => (row.verdict === "failed" ? "bad" : "good"),
    },
  ],
};

function printTable({ batch, results }: Done, options: RunOptions, interrupted: boolean): void {
  const paint = paintFor(options.color, process.stdout);
  const own = batch.loaded.scenario.table;
  const rows = results.map((result) =>
    own === undefined && result.code !== EXIT_SUCCESS
      ? { name: result.variant, verdict: "failed" }
      : jsonRow(result),
  );
  // A run that did not come to its end has no row of the scenario's own; stderr has said why.
  const shown =
    own === undefined ? rows : results.flatMap(({ row }) => (row === undefined ? [] : [row]));
  if (shown.length > 0) {
    process.stdout.write(`${resultLines(own ?? PLAIN_TABLE, shown, paint).join("\n")}\n`);
  }
  const { moral } = batch.loaded.scenario;
  if (moral !== undefined && shown.length > 0) process.stdout.write(`\n${moral}\n`);
  const good = results.filter(({ code }) => code === EXIT_SUCCESS).length;
  const total = batch.variants.length;
  const sentence = `${interrupted ? "interrupted, " : ""}${good} of ${total} as expected`;
  process.stdout.write(
    `\n${good === total && !interrupted ? paint("green", `✓ ${sentence}`) : paint("red", `✗ ${sentence}`)}\n`,
  );
}
