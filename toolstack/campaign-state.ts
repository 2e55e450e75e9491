/**
 * What a campaign has done so far, as a file that it goes on from. Rule: counts of runs are summed, never dropped; of each kind of
 * failure the shortest recording is kept. Ours; stress spec section 10.
 */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { SetupError } from "./exit-codes.ts";
import type { SliceFailure, SliceResult } from "./stress-task.ts";

export const CAMPAIGN_FORMAT = "gfn2mfn/campaign@1";

export interface StoryProgress {
  /** Number of the next run. */
  next: number;
  schedules: number;
  steps: number;
}

export interface CampaignState {
  readonly schema: typeof CAMPAIGN_FORMAT;
  readonly seed: number;
  /** Hash of the sources: a campaign does not go on over others. */
  readonly source: string;
  readonly stories: Record<string, StoryProgress>;
  readonly failures: SliceFailure[];
  readonly known: string[];
  seconds: number;
}

export const newCampaign = (seed: number, source: string): CampaignState => ({
  schema: CAMPAIGN_FORMAT,
  seed,
  source,
  stories: {},
  failures: [],
  known: [],
  seconds: 0,
});

/** The campaign of a file, or a new one when there is no file. Another seed or other sources are a SetupError. */
export function loadCampaign(path: string, seed: number, source: string): CampaignState {
  if (!existsSync(path)) return newCampaign(seed, source);
  let state: Partial<CampaignState>;
  try {
    state = JSON.parse(readFileSync(path, "utf8"));
  } catch {
    throw new SetupError(`${path}: is no campaign`);
  }
  if (state.schema !== CAMPAIGN_FORMAT) throw new SetupError(`${path}: is no campaign`);
  if (state.seed !== seed) throw new SetupError(`${path}: was begun with seed ${state.seed}`);
  if (state.source !== source) {
    throw new SetupError(`${path}: was begun with sources ${state.source}, these are ${source}`);
  }
  return state as CampaignState;
}

/** Written beside itself first, so that an interruption leaves the old one or the new one. */
export function saveCampaign(path: string, state: CampaignState): void {
  writeFileSync(`${path}.new`, `${JSON.stringify(state)}\n`);
  renameSync(`${path}.new`, path);
}

/** Adds what a slice has done. */
export function addSlice(state: CampaignState, result: SliceResult): void {
  const progress = progressOf(state, result.story);
  progress.schedules += result.schedules;
  progress.steps += result.steps;
  for (const text of result.known) if (!state.known.includes(text)) state.known.push(text);
  const { failure } = result;
  if (failure === undefined) return;
  const same = state.failures.findIndex(
    ({ story, id }) => story === failure.story && id === failure.id,
  );
  const kept = state.failures[same];
  if (kept === undefined) state.failures.push(failure);
  else if (failure.file.choices.length < kept.file.choices.length) state.failures[same] = failure;
}

export function progressOf(state: CampaignState, story: string): StoryProgress {
  state.stories[story] ??= { next: 0, schedules: 0, steps: 0 };
  return state.stories[story];
}
