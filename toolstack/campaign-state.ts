/**
 * What a campaign has done so far, as a file that it goes on from. Rule: counts of runs are summed, never dropped; of each kind of
 * failure the shortest recording is kept. Ours; stress spec section 10.
 */
import { loadState } from "./state-file.ts";
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
export const loadCampaign = (path: string, seed: number, source: string): CampaignState =>
  loadState(path, "campaign", newCampaign(seed, source));

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
