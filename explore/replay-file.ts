/**
 * A failure as a file: what it takes to make the run again, and what must be seen on the way.
 *
 *   strict:    every mark of the trace must match; the first that does not is where the sources changed
 *   continue:  a choice that is not possible is skipped, and the calm schedule goes on: after code has changed
 *
 * Rule: tasks go by name and choices by the number of contested choices since the last one, so that a file of any length loads and
 * can be read. Ours; the format is that of stress spec section 8.
 */
import type { Failure } from "./exploration.ts";
import { pointsHash } from "./points.ts";
import { HYPERVISOR } from "./scheduler.ts";
import type { Shrunk } from "./shrink.ts";
import { type PreparedStory, runStory, type StoryRun } from "./story.ts";
import { type Deviation, deviationScheduler } from "./strategies/deviations.ts";
import { taskName } from "./watch.ts";
import type { MemoryMode } from "./weak-memory.ts";

export const REPLAY_FORMAT = "schedule/1";
/** Steps between two marks. */
const MARK_EVERY = 8;

export interface ReplayFile {
  readonly format: typeof REPLAY_FORMAT;
  readonly build: { readonly source: string; readonly points: string; readonly node: string };
  readonly scenario: { readonly name: string; readonly without: readonly string[] };
  readonly config: {
    readonly engine: "explore";
    readonly lanes: 1;
    readonly memory: MemoryMode;
    readonly mutants: readonly string[];
    readonly everyStep: boolean;
  };
  readonly seed: number;
  readonly strategy: string;
  /** Faults that came to something, with their rows in the catalogue. */
  readonly faults: readonly { readonly ids: readonly string[]; readonly name: string }[];
  readonly choices: readonly (readonly [after: number, task: string])[];
  readonly values: readonly (readonly ["number", number])[];
  readonly trace: {
    readonly steps: number;
    readonly hash: number;
    readonly marks: readonly (readonly [step: number, hash: number])[];
  };
  readonly failure: { readonly id: string; readonly step: number; readonly text: string };
  readonly origin: {
    readonly steps: number;
    readonly deviations: number;
    readonly schedule: number;
  };
}

export interface Build {
  readonly source: string;
  readonly node: string;
  readonly mutants: readonly string[];
}

/** Task numbers of a story, by name. */
function tasksOf(prepared: PreparedStory): ReadonlyMap<string, number> {
  const tasks = new Map<string, number>([["hypervisor", HYPERVISOR]]);
  runStory(prepared, {
    seed: 0,
    scheduler: deviationScheduler([]),
    watch: (machine) => {
      for (const actor of machine.actors) {
        if (actor === undefined) continue;
        for (const task of [actor.slot, machine.actors.length + actor.slot])
          tasks.set(taskName(machine, task), task);
      }
    },
  });
  return tasks;
}

interface Marked {
  readonly run: StoryRun;
  readonly marks: readonly (readonly [number, number])[];
}

function markedRun(
  prepared: PreparedStory,
  deviations: readonly Deviation[],
  file: Pick<ReplayFile, "seed"> & {
    numbers: readonly number[];
    without: readonly string[];
    everyStep: boolean;
  },
): Marked & { readonly skipped: number } {
  const marks: (readonly [number, number])[] = [];
  const scheduler = deviationScheduler(deviations, file.numbers);
  const run = runStory(prepared, {
    seed: file.seed,
    scheduler,
    everyStep: file.everyStep,
    without: file.without,
    watch: (machine) => {
      machine.log = {
        step: () => {
          if (machine.steps % MARK_EVERY === 0)
            marks.push([machine.steps, machine.traceHash >>> 0]);
        },
      };
    },
  });
  return { run, marks, skipped: scheduler.skipped };
}

/** The file of a shrunk failure. */
export function replayFileOf(
  prepared: PreparedStory,
  failure: Failure,
  shrunk: Shrunk,
  build: Build,
): ReplayFile {
  const { seed, everyStep } = failure;
  const { numbers, without, memory } = shrunk;
  const { run, marks } = markedRun({ ...prepared, memory }, shrunk.deviations, {
    seed,
    numbers,
    without,
    everyStep,
  });
  const names = new Map([...tasksOf(prepared)].map(([name, task]) => [task, name]));
  return {
    format: REPLAY_FORMAT,
    build: { source: build.source, points: pointsHash(), node: build.node },
    scenario: { name: prepared.story.name, without },
    config: { engine: "explore", lanes: 1, memory, mutants: build.mutants, everyStep },
    seed,
    strategy: failure.strategy,
    faults: (prepared.story.faults ?? [])
      .filter(({ fired }) => fired(run.machine, run.notes))
      .map(({ ids, name }) => ({ ids, name })),
    choices: shrunk.deviations.map(({ after, task }) => [after, names.get(task) ?? String(task)]),
    values: numbers.map((value) => ["number", value]),
    trace: { steps: run.outcome.steps, hash: run.outcome.traceHash, marks },
    failure: {
      id: failure.id,
      step: run.outcome.steps,
      text: run.outcome.findings[0] ?? "",
    },
    origin: {
      steps: failure.steps,
      deviations: failure.deviations.length,
      schedule: failure.schedule,
    },
  };
}

export interface Replayed {
  readonly run: StoryRun;
  readonly deviations: readonly Deviation[];
  /** Where the run first differs from the file's; undefined: nowhere. */
  readonly divergence: string | undefined;
  /** Choices that were not possible. */
  readonly skipped: number;
  /** Whether the file's failure has been seen again. */
  readonly again: boolean;
}

/** Makes the run of a file again. */
export function replay(prepared: PreparedStory, file: ReplayFile): Replayed {
  const tasks = tasksOf(prepared);
  const deviations = file.choices.map(([after, name]) => ({
    after,
    // A task that is not there any more is one that can never move.
    task: tasks.get(name) ?? Number.MAX_SAFE_INTEGER,
  }));
  const { everyStep } = file.config;
  const numbers = file.values.map(([, value]) => value);
  const { without } = file.scenario;
  const { run, marks, skipped } = markedRun(prepared, deviations, {
    seed: file.seed,
    numbers,
    without,
    everyStep,
  });
  const bad = file.trace.marks.findIndex(([step, hash], i) => {
    const mark = marks[i];
    return mark?.[0] !== step || mark[1] !== hash;
  });
  const text = run.outcome.findings[0] ?? "";
  return {
    run,
    deviations,
    divergence: divergenceOf(file, run, bad),
    skipped,
    again: run.outcome.verdict !== "finished" && text === file.failure.text,
  };
}

function divergenceOf(file: ReplayFile, run: StoryRun, bad: number): string | undefined {
  const { traceHash, steps } = run.outcome;
  if (bad >= 0) {
    const until = file.trace.marks[bad]?.[0] ?? 0;
    const from = file.trace.marks[bad - 1]?.[0] ?? 0;
    const moved = run.machine.schedule
      .slice(from, until)
      .map((task) => taskName(run.machine, task));
    return `the run differs between steps ${from} and ${until}, where these moved: ${moved.join(", ")}`;
  }
  if (steps !== file.trace.steps || traceHash !== file.trace.hash) {
    return `the run differs after step ${file.trace.marks.at(-1)?.[0] ?? 0}: ${steps} steps, ${file.trace.steps} recorded`;
  }
  return undefined;
}
