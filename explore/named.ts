/**
 * Exploring a story by its name: the one door through which a tree of sources with a mutant in it is used. Rule: what goes in
 * and comes out is plain data, because the machine inside is made of other modules than the caller's.
 * Ours.
 */
import { EmulatorBug } from "../shared/assert.ts";
import { type Exploration, explore, type Limits } from "./exploration.ts";
import { type Shrunk, shrink } from "./shrink.ts";
import { storyNamed } from "./stories/catalogue.ts";
import { type PreparedStory, prepareStory } from "./story.ts";

export interface NamedExploration {
  readonly exploration: Exploration;
  readonly shrunk: Shrunk | undefined;
}

export interface NamedStory {
  explore(limits: Limits): NamedExploration;
}

/** A story that is booted once and explored as often as wanted. */
export function openStory(name: string): NamedStory {
  const story = storyNamed(name);
  if (story === undefined) throw new EmulatorBug(`no story is named ${name}`);
  const prepared: PreparedStory = prepareStory(story);
  return {
    explore(limits) {
      const exploration = explore(prepared, limits);
      if (exploration === undefined) throw new EmulatorBug(`no strategy ${limits.strategy}`);
      const { failure } = exploration;
      return { exploration, shrunk: failure === undefined ? undefined : shrink(prepared, failure) };
    },
  };
}
