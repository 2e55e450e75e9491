/**
 * `gfn2mfn stress`: a campaign. Focused stories are explored in one thread each, on all cores; a scenario runs on real threads with
 * random delays at its points. Rules: Ctrl-C keeps what was found; with `--state` the next call goes on where this one stopped;
 * each campaign carries a canary, a bug that it must find, or it is blind.
 */
import { availableParallelism } from "node:os";
import { MUTANTS } from "../explore/mutants/catalogue.ts";
import { BUDGETS } from "../explore/mutants/mutant.ts";
import { STORIES } from "../explore/stories/catalogue.ts";
import { item } from "../shared/assert.ts";
import { unknownName } from "../shared/nearest.ts";
import { buildOf } from "../toolstack/build-hash.ts";
import {
  addSlice,
  type CampaignState,
  loadCampaign,
  newCampaign,
  progressOf,
} from "../toolstack/campaign-state.ts";
import {
  EXIT_EXPECTATION,
  EXIT_INTERRUPTED,
  EXIT_SUCCESS,
  UsageError,
} from "../toolstack/exit-codes.ts";
import { saveState } from "../toolstack/state-file.ts";
import { openStatusLine, type StatusLine } from "../toolstack/status-line.ts";
import { openStressPool } from "../toolstack/stress-task.ts";
import { alignTable } from "../toolstack/table.ts";
import { type ScenarioStressOptions, stressScenario } from "./stress-scenario.ts";

/** Schedules of one slice: a second or so. */
const SLICE = 2_000;
const SAVE_EVERY_MS = 10_000;

export async function stress(
  names: readonly string[],
  options: ScenarioStressOptions,
): Promise<number> {
  const known = STORIES.map(({ name }) => name);
  const [first] = names;
  if (names.length === 1 && first !== undefined && !known.includes(first)) {
    return stressScenario(first, options);
  }
  for (const name of names) {
    if (!known.includes(name)) throw new UsageError(unknownName("story", name, known));
  }
  for (const flag of ["variant", "set"] as const) {
    if (options[flag] !== undefined) throw new UsageError(`--${flag}: only a scenario has one`);
  }
  const stories = names.length === 0 ? known : names;
  const { source } = buildOf([]);
  const state =
    options.state === undefined
      ? newCampaign(options.seed, source)
      : loadCampaign(options.state, options.seed, source);
  const status = openStatusLine(process.stderr, options.progress);
  const abort = new AbortController();
  const onSignal = (): void => abort.abort();
  process.once("SIGINT", onSignal);
  try {
    const blind = await campaign(state, stories, options, abort, status);
    if (options.state !== undefined) saveState(options.state, state);
    status.end();
    print(state, blind, options);
    if (state.failures.length > 0 || blind !== undefined) return EXIT_EXPECTATION;
    return abort.signal.aborted && options.minutes > 0 ? EXIT_INTERRUPTED : EXIT_SUCCESS;
  } finally {
    status.end();
    process.off("SIGINT", onSignal);
  }
}

/** Slices until time, schedules or the person's patience are up; the canary that was not found, if it was not. */
async function campaign(
  state: CampaignState,
  stories: readonly string[],
  options: ScenarioStressOptions,
  abort: AbortController,
  status: StatusLine,
): Promise<string | undefined> {
  const { jobs = availableParallelism(), seed, minutes } = options;
  const pool = openStressPool(jobs);
  const startedMs = performance.now();
  const before = state.seconds;
  let savedMs = startedMs;
  let turn = 0;
  const done = (): number =>
    Object.values(state.stories).reduce((sum, { schedules }) => sum + schedules, 0);
  const target = options.schedules ?? Number.POSITIVE_INFINITY;
  const over = (): boolean =>
    abort.signal.aborted || performance.now() - startedMs > minutes * 60_000 || done() >= target;
  const worker = async (): Promise<void> => {
    while (!over()) {
      const story = item(stories, turn++ % stories.length);
      const progress = progressOf(state, story);
      const first = progress.next;
      progress.next += SLICE;
      try {
        addSlice(state, await pool.run({ story, seed, first, schedules: SLICE }, abort.signal));
      } catch (error) {
        // What was not done is done by the next call.
        progress.next = Math.min(progress.next, first);
        if (!abort.signal.aborted) throw error;
        return;
      }
      state.seconds = before + (performance.now() - startedMs) / 1000;
      const rate = done() / Math.max(state.seconds, 0.001);
      status.update(
        `${done()} schedules, ${rate.toFixed(0)}/s, ${state.failures.length} failures; ${story}`,
      );
      if (options.state !== undefined && performance.now() - savedMs > SAVE_EVERY_MS) {
        savedMs = performance.now();
        saveState(options.state, state);
      }
    }
  };
  try {
    const missed = await canary(pool, seed, abort.signal);
    await Promise.all(Array.from({ length: jobs }, worker));
    return missed;
  } finally {
    await pool.close();
  }
}

/** One bug of the catalogue, chosen by the seed, must be found within its budget. */
async function canary(
  pool: ReturnType<typeof openStressPool>,
  seed: number,
  signal: AbortSignal,
): Promise<string | undefined> {
  const { id, story, depth } = item(MUTANTS, seed % MUTANTS.length);
  const slice = { story, seed, first: 0, schedules: BUDGETS[depth], mutant: id };
  try {
    return (await pool.run(slice, signal)).failure === undefined ? id : undefined;
  } catch (error) {
    if (signal.aborted) return undefined;
    throw error;
  }
}

function print(
  state: CampaignState,
  blind: string | undefined,
  options: ScenarioStressOptions,
): void {
  const total = Object.values(state.stories).reduce((sum, { schedules }) => sum + schedules, 0);
  if (options.json === true) {
    const { stories, failures, known, seed, seconds } = state;
    const document = {
      schema: "gfn2mfn/stress@1",
      seed,
      seconds,
      schedules: total,
      blind: blind ?? null,
    };
    process.stdout.write(`${JSON.stringify({ ...document, stories, failures, known })}\n`);
    return;
  }
  const rows = Object.entries(state.stories).map(([name, { schedules, steps }]) => [
    name,
    String(schedules),
    String(steps),
  ]);
  const lines = alignTable(["story", "schedules", "steps"], rows, ["left", "right", "right"]);
  const failures = state.failures.flatMap(({ report }) => ["", ...report]);
  const rate = (total / Math.max(state.seconds, 0.001)).toFixed(0);
  const verdict =
    state.failures.length === 0 ? "no alarm" : `${state.failures.length} kinds of failure`;
  const eyes = blind === undefined ? [] : [`blind: the canary ${blind} was not found`];
  const known = state.known.map((text) => `known: ${text}`);
  const summary = `${total} schedules in ${state.seconds.toFixed(0)} s, ${rate}/s: ${verdict}`;
  process.stdout.write(`${[...lines, ...failures, ...known, ...eyes, summary].join("\n")}\n`);
}
