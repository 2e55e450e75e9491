/**
 * A slice of a campaign: some schedules of one story, from one run number on. Rule: a slice is decided by its numbers, so doing it
 * twice changes nothing. Ours; stress spec section 10.
 */

import { MUTANTS } from "../explore/mutants/catalogue.ts";
import type { NamedStory } from "../explore/named.ts";
import type { ReplayFile } from "../explore/replay-file.ts";
import { reportLines } from "../explore/report.ts";
import { EmulatorBug } from "../shared/assert.ts";
import { buildOf } from "./build-hash.ts";
import { openMutated } from "./mutant-hook.ts";
import { openPool, type Pool } from "./pool.ts";

/** Runs of a story from number `first` on. */
export interface Slice {
  readonly story: string;
  readonly first: number;
  readonly schedules: number;
}

export interface StressSlice extends Slice {
  readonly seed: number;
  /** Canary: the story is explored with this bug in it. */
  readonly mutant?: string;
}

export interface SliceFailure {
  readonly story: string;
  readonly id: string;
  readonly text: string;
  readonly report: readonly string[];
  readonly file: ReplayFile;
}

export interface SliceResult {
  readonly story: string;
  readonly first: number;
  readonly schedules: number;
  readonly steps: number;
  readonly seconds: number;
  readonly known: readonly string[];
  readonly failure: SliceFailure | undefined;
}

/** Stories that this thread has booted. */
const booted = new Map<string, Promise<NamedStory>>();

export async function stressSlice(slice: StressSlice): Promise<SliceResult> {
  const { first, schedules, seed, mutant } = slice;
  const key = `${slice.story} ${mutant ?? ""}`;
  const found = MUTANTS.find(({ id }) => id === mutant);
  const memory = found?.memory?.[0] ?? "sc";
  const opening = booted.get(key) ?? openMutated(found, slice.story, "faithful", memory);
  booted.set(key, opening);
  const story = await opening;
  const startedMs = performance.now();
  const open = story.open({ schedules, seed, first, strategy: "portfolio" });
  if (open === undefined) throw new EmulatorBug("the portfolio is a strategy");
  open.go(schedules);
  const seconds = (performance.now() - startedMs) / 1000;
  const finished = story.finish(open.result());
  const { exploration } = finished;
  const told = story.tell(finished, buildOf(mutant === undefined ? [] : [mutant]));
  const failure = told && {
    story: slice.story,
    id: exploration.failure?.id ?? "?",
    text: told.file.failure.text,
    report: reportLines(told.report, "gfn2mfn replay FILE"),
    file: told.file,
  };
  return {
    story: slice.story,
    first,
    schedules: exploration.schedules,
    steps: exploration.steps,
    seconds,
    known: exploration.known,
    failure,
  };
}

export const openStressPool = (jobs: number): Pool<StressSlice, SliceResult> =>
  openPool("./stress-task.ts", "stressSlice", jobs);
