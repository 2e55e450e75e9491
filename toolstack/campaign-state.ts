/**
 * What a campaign has done so far, as a file that it goes on from. Rule: counts of runs are summed, never dropped, and each run is
 * counted once, whenever the campaign was killed; of each kind of failure the shortest recording is kept. Ours; stress spec section 10.
 */
import { loadState } from "./state-file.ts";
import type { Slice, SliceFailure, SliceResult } from "./stress-task.ts";

export const CAMPAIGN_FORMAT = "gfn2mfn/campaign@1";

export interface StoryProgress {
  /** Number of the first run that no slice has begun. */
  next: number;
  schedules: number;
  steps: number;
  /** Of one core. */
  seconds: number;
}

export interface CampaignState {
  readonly schema: typeof CAMPAIGN_FORMAT;
  readonly seed: number;
  /** Hash of the sources: a campaign does not go on over others. */
  readonly source: string;
  readonly stories: Record<string, StoryProgress>;
  /** Slices that are not done: somebody is at them, or was when the campaign was interrupted. */
  begun: readonly Slice[];
  readonly failures: SliceFailure[];
  readonly known: string[];
  seconds: number;
}

export const newCampaign = (seed: number, source: string): CampaignState => ({
  schema: CAMPAIGN_FORMAT,
  seed,
  source,
  stories: {},
  begun: [],
  failures: [],
  known: [],
  seconds: 0,
});

/** The campaign of a file, or a new one when there is no file. Another seed or other sources are a SetupError. */
export const loadCampaign = (path: string, seed: number, source: string): CampaignState =>
  loadState(path, "campaign", newCampaign(seed, source));

/** The next slice of the story that has had the fewest; `sizeOf` says how many runs a slice of a story has. */
export function beginSlice(
  state: CampaignState,
  stories: readonly string[],
  sizeOf: (story: string) => number,
): Slice {
  const turns = (story: string): number => progressOf(state, story).next / sizeOf(story);
  const story = stories.reduce((least, name) => (turns(name) < turns(least) ? name : least));
  const progress = progressOf(state, story);
  const slice = { story, first: progress.next, schedules: sizeOf(story) };
  progress.next += slice.schedules;
  state.begun = [...state.begun, slice];
  return slice;
}

/** Adds what a slice has done, which is begun no more. */
export function addSlice(state: CampaignState, result: SliceResult): void {
  const { story, first } = result;
  state.begun = state.begun.filter((slice) => slice.story !== story || slice.first !== first);
  const progress = progressOf(state, story);
  progress.schedules += result.schedules;
  progress.steps += result.steps;
  progress.seconds += result.seconds;
  for (const text of result.known) if (!state.known.includes(text)) state.known.push(text);
  const { failure } = result;
  if (failure === undefined) return;
  const same = state.failures.findIndex(
    (one) => one.story === failure.story && one.id === failure.id,
  );
  const kept = state.failures[same];
  if (kept === undefined) state.failures.push(failure);
  else if (failure.file.choices.length < kept.file.choices.length) state.failures[same] = failure;
}

export function progressOf(state: CampaignState, story: string): StoryProgress {
  state.stories[story] ??= { next: 0, schedules: 0, steps: 0, seconds: 0 };
  return state.stories[story];
}
