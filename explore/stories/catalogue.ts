/** The focused stories by name: what `gfn2mfn explore` knows besides scenarios, and what the mutants are shown with. */
import type { Story } from "../story.ts";
import {
  copyMappedStory,
  copyPinnedStory,
  flipReadonlyStory,
  partialUnmapStory,
  recycleStory,
  refusedStory,
  revokeStory,
  rewriteStory,
} from "./grants.ts";

export const STORIES: readonly Story[] = [
  revokeStory,
  copyMappedStory,
  copyPinnedStory,
  flipReadonlyStory,
  rewriteStory,
  refusedStory,
  partialUnmapStory,
  recycleStory,
];

export const storyNamed = (name: string): Story | undefined =>
  STORIES.find((story) => story.name === name);
