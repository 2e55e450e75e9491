/**
 * `gfn2mfn stress`: a campaign. Focused stories are explored in one thread each, on all cores; a scenario runs on real threads with
 * random delays at its points. Rules: Ctrl-C keeps what was found; with `--state` the next call goes on where this one stopped;
 * each campaign carries a canary, a bug that it must find, or it is blind.
 */
import { availableParallelism } from "node:os";
import { MUTANTS } from "../explore/mutants/catalogue.ts";
import { BUDGETS } from "../explore/mutants/mutant.ts";
import { isStoryName, isSwarmName, swarmName } from "../explore/named.ts";
import { STORIES } from "../explore/stories/catalogue.ts";
import { item } from "../shared/assert.ts";
import { unknownName } from "../shared/nearest.ts";
import { buildOf } from "../toolstack/build-hash.ts";
import {
  addSlice,
  beginSlice,
  type CampaignState,
  loadCampaign,
  newCampaign,
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

/** Schedules of one slice: a second or so. In a swarm domains are created and destroyed, which takes some five times as long. */
const SLICE = 4_000;
const SWARM_SLICE = 1_000;
const SAVE_EVERY_MS = 2_000;

export async function stress(
  names: readonly string[],
  options: ScenarioStressOptions,
): Promise<number> {
  const plain = STORIES.map(({ name }) => name);
  // Each story as it is, and with its faults switched on or off in each run.
  const known = [...plain, ...plain.map(swarmName)];
  const [first] = names;
  if (names.length === 1 && first !== undefined && !isStoryName(first)) {
    return stressScenario(first, options);
  }
  for (const name of names) {
    if (!isStoryName(name)) throw new UsageError(unknownName("story", name, known));
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
  // What was begun before this call, and not done.
  const left = state.begun.filter(({ story }) => stories.includes(story));
  const done = (): number =>
    Object.values(state.stories).reduce((sum, { schedules }) => sum + schedules, 0);
  const target = options.schedules ?? Number.POSITIVE_INFINITY;
  const over = (): boolean =>
    abort.signal.aborted || performance.now() - startedMs > minutes * 60_000 || done() >= target;
  const worker = async (): Promise<void> => {
    while (!over()) {
      const slice = left.shift() ?? beginSlice(state, stories, sizeOf);
      const { story } = slice;
      try {
        addSlice(state, await pool.run({ ...slice, seed }, abort.signal));
      } catch (error) {
        // What was not done is done by the next call.
        if (!abort.signal.aborted) throw error;
        return;
      }
      state.seconds = before + (performance.now() - startedMs) / 1000;
      const rate = perSecond(done(), state.seconds);
      status.update(`${done()} schedules, ${rate}/s, ${state.failures.length} failures; ${story}`);
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

const sizeOf = (story: string): number => (isSwarmName(story) ? SWARM_SLICE : SLICE);

const perSecond = (count: number, seconds: number): number =>
  Math.round(count / Math.max(seconds, 0.001));

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
  const rows = Object.entries(state.stories).map(([name, { schedules, steps, seconds }]) =>
    [name, schedules, steps, perSecond(schedules, seconds)].map(String),
  );
  const aligns = ["left", "right", "right", "right"] as const;
  const lines = alignTable(["story", "schedules", "steps", "schedules/s a core"], rows, aligns);
  const failures = state.failures.flatMap(({ report }) => ["", ...report]);
  const verdict =
    state.failures.length === 0 ? "no alarm" : `${state.failures.length} kinds of failure`;
  const eyes = blind === undefined ? [] : [`blind: the canary ${blind} was not found`];
  const known = state.known.map((text) => `known: ${text}`);
  const least = Math.min(...Object.values(state.stories).map(({ schedules }) => schedules));
  const summary =
    `${total} schedules in ${state.seconds.toFixed(0)} s, ${perSecond(total, state.seconds)}/s, ` +
    `at least ${least} of each story: ${verdict}`;
  process.stdout.write(`${[...lines, ...failures, ...known, ...eyes, summary].join("\n")}\n`);
}
