/**
 * `gfn2mfn explore`: many schedules of one focused story, or the catalogue of mutants. Rules: stdout is the report, the table, or
 * with `--json` exactly one document; a failure ends with the one command that shows it again; files are written only
 * where the person names them.
 */
import { writeFileSync } from "node:fs";
import { type Exploration, refusal } from "../explore/exploration.ts";
import { MUTANTS } from "../explore/mutants/catalogue.ts";
import type { Mutant } from "../explore/mutants/mutant.ts";
import { isStoryName, type NamedExploration, type NamedStory } from "../explore/named.ts";
import { reportLines } from "../explore/report.ts";
import { htmlReport } from "../explore/report-html.ts";
import { STORIES } from "../explore/stories/catalogue.ts";
import { STRATEGY_NAMES } from "../explore/strategies/portfolio.ts";
import type { MemoryMode } from "../explore/weak-memory.ts";
import { unknownName } from "../shared/nearest.ts";
import type { Setting } from "../shared/settings.ts";
import { buildOf } from "../toolstack/build-hash.ts";
import {
  EXIT_BUG,
  EXIT_EXPECTATION,
  EXIT_INTERRUPTED,
  EXIT_SUCCESS,
  UsageError,
} from "../toolstack/exit-codes.ts";
import { openMutated } from "../toolstack/mutant-hook.ts";
import { openStatusLine, type StatusLine } from "../toolstack/status-line.ts";
import { alignTable } from "../toolstack/table.ts";
import { exploreFaults } from "./explore-faults.ts";
import { exploreScenario } from "./explore-scenario.ts";
import { quoted } from "./machine-options.ts";
import { mutants } from "./mutants.ts";

export interface ExploreOptions {
  /** By default many of a story, few of a scenario. */
  readonly schedules?: number;
  readonly variant?: readonly string[];
  readonly strategy: string;
  readonly seed: number;
  readonly first: number;
  /** sc, or the first that the row of the mutant names. */
  readonly memory?: MemoryMode;
  readonly record?: string;
  readonly html?: string;
  readonly set?: readonly Setting[];
  /** Every fault, or those named, at every point of the calm run. */
  readonly faults?: string | true;
  /** A bug of the catalogue to explore with. */
  readonly mutant?: string;
  readonly mutants?: string | true;
  readonly seeds: number;
  readonly jobs?: number;
  readonly json?: true;
  readonly progress: boolean;
}

const STORY_SCHEDULES = 10_000;
const SCENARIO_SCHEDULES = 20;
/** Runs between two looks at the event loop. */
const SLICE = 500;

export async function explore(wish: string | undefined, options: ExploreOptions): Promise<number> {
  if (options.mutants !== undefined) {
    if (wish !== undefined) throw new UsageError("--mutants brings its own stories");
    return mutants(options);
  }
  const mutant = mutantNamed(options.mutant);
  const name = wish ?? mutant?.story;
  const { faults, ...rest } = options;
  if (name === undefined) {
    if (faults !== undefined) throw new UsageError("--faults: of which story?");
    return listStories(options);
  }
  if (faults !== undefined) {
    const hypervisor = hypervisorOf(options.set ?? []);
    const memory = memoryOf(options, mutant);
    return exploreFaults(
      name,
      { ...options, faults },
      (faulty) => openMutated(mutant, faulty, hypervisor, memory),
      (faulty, schedules) => explore(faulty, { ...rest, strategy: "faults", schedules, first: 0 }),
    );
  }
  if (!isStoryName(name)) {
    if (mutant !== undefined) throw new UsageError(`--mutant: ${name} is no focused story`);
    if (options.memory !== undefined) throw new UsageError(`--memory: ${name} is no focused story`);
    return exploreScenario(name, {
      ...options,
      schedules: options.schedules ?? SCENARIO_SCHEDULES,
    });
  }
  if (options.variant !== undefined) throw new UsageError("--variant: only a scenario has one");
  const memory = memoryOf(options, mutant);
  const refused = refusal(options.strategy, memory);
  if (refused !== undefined) throw new UsageError(`--strategy ${refused}`);
  const story = await openMutated(mutant, name, hypervisorOf(options.set ?? []), memory);
  const status = openStatusLine(process.stderr, options.progress);
  let stopped = false;
  const onSignal = (): void => {
    stopped = true;
  };
  process.once("SIGINT", onSignal);
  status.print(`${name}: seed ${options.seed}, strategy ${options.strategy}, memory ${memory}`);
  try {
    const result = await inSlices(story, name, options, status, () => stopped);
    return print(story, name, options, result, stopped);
  } finally {
    status.end();
    process.off("SIGINT", onSignal);
  }
}

const memoryOf = ({ memory }: ExploreOptions, mutant: Mutant | undefined): MemoryMode =>
  memory ?? mutant?.memory?.[0] ?? "sc";

async function inSlices(
  story: NamedStory,
  name: string,
  options: ExploreOptions,
  status: StatusLine,
  stopped: () => boolean,
): Promise<NamedExploration> {
  const { schedules = STORY_SCHEDULES, seed, strategy, first } = options;
  const open = story.open({ schedules, seed, strategy, first });
  if (open === undefined) {
    throw new UsageError(unknownName("strategy", strategy, STRATEGY_NAMES));
  }
  const startedMs = performance.now();
  for (let done = 0; done < schedules && !stopped(); done += SLICE) {
    if (!open.go(Math.min(SLICE, schedules - done))) break;
    const rate = (done + SLICE) / (performance.now() - startedMs);
    status.update(
      `${name}: ${done + SLICE} of ${schedules} schedules, ${(rate * 1000).toFixed(0)}/s`,
    );
    // A signal is heard only between two turns of the event loop.
    await new Promise((resume) => setImmediate(resume));
  }
  status.update(`${name}: shrinking`);
  return story.finish(open.result());
}

/** The command that makes one run again, or the search that leads to it. */
function commandOf(name: string, options: ExploreOptions, { failure }: Exploration): string {
  const strict = hypervisorOf(options.set ?? []) === "strict" ? ` --set ${HYPERVISOR}=strict` : "";
  const memory = options.memory === undefined ? "" : ` --memory ${options.memory}`;
  const mutant =
    (options.mutant === undefined ? "" : ` --mutant ${options.mutant}`) + strict + memory;
  const again = (strategy: string, seed: number, schedules: number): string =>
    `npm run -s gfn2mfn -- explore ${quoted(name)}${mutant} --strategy '${strategy}' --seed ${seed} --schedules ${schedules}`;
  if (options.record !== undefined) return `npm run -s gfn2mfn -- replay ${quoted(options.record)}`;
  if (failure === undefined)
    return again(options.strategy, options.seed, options.schedules ?? STORY_SCHEDULES);
  // An enumeration has to be walked to the run; a walk is decided by its seed.
  const walked = /^(delay|preempt|dpor|guided|faults)/.test(failure.strategy) || failure.everyStep;
  return walked
    ? again(options.strategy, options.seed, options.first + failure.schedule)
    : again(failure.strategy, failure.seed, 1);
}

function print(
  story: NamedStory,
  name: string,
  options: ExploreOptions,
  found: NamedExploration,
  stopped: boolean,
): number {
  const { exploration, shrunk } = found;
  const command = commandOf(name, options, exploration);
  const told = story.tell(found, buildOf(options.mutant === undefined ? [] : [options.mutant]));
  if (told !== undefined && options.record !== undefined) {
    writeFileSync(options.record, `${JSON.stringify(told.file, undefined, 1)}\n`);
  }
  if (told !== undefined && options.html !== undefined) {
    writeFileSync(options.html, htmlReport(told.report, command));
  }
  const vacuous = exploration.failure === undefined && !stopped && exploration.never.length > 0;
  if (options.json === true) {
    const { failure, ...rest } = exploration;
    const shown = failure && {
      ...failure,
      shrunk,
      report: told?.report.necessary,
      file: told?.file,
    };
    const document = {
      schema: "gfn2mfn/explore@1",
      story: name,
      strategy: options.strategy,
      memory: memoryOf(options, mutantNamed(options.mutant)),
      seed: options.seed,
    };
    process.stdout.write(
      `${JSON.stringify({ ...document, ...rest, failure: shown ?? null, command })}\n`,
    );
  } else {
    const lines = told === undefined ? [] : reportLines(told.report, command);
    process.stdout.write(`${[...lines, ...summaryOf(name, exploration, stopped)].join("\n")}\n`);
  }
  if (exploration.failure?.id === "bug") return EXIT_BUG;
  if (exploration.failure !== undefined || vacuous) return EXIT_EXPECTATION;
  return stopped ? EXIT_INTERRUPTED : EXIT_SUCCESS;
}

function summaryOf(name: string, exploration: Exploration, stopped: boolean): readonly string[] {
  const { schedules, steps, points, finished, never, known, failure } = exploration;
  const end =
    finished === undefined
      ? ""
      : finished
        ? "; finished: there is no other schedule within the bound"
        : "; not finished: there are more schedules within the bound";
  const verdict =
    failure === undefined ? (stopped ? "stopped, nothing found" : "nothing found") : "one failure";
  return [
    `${name}: ${schedules} schedules, ${steps} steps, ${points} contested points a run: ${verdict}${end}`,
    ...(failure === undefined && !stopped
      ? never.map((text) => `vacuous: never seen: ${text}`)
      : []),
    ...known.map((text) => `known: ${text}`),
  ];
}

function listStories(options: ExploreOptions): number {
  if (options.json === true) {
    const stories = STORIES.map((story) => ({ name: story.name, about: story.about }));
    process.stdout.write(`${JSON.stringify({ schema: "gfn2mfn/stories@1", stories })}\n`);
    return EXIT_SUCCESS;
  }
  const lines = alignTable(
    ["story", "about"],
    STORIES.map((story) => [story.name, story.about]),
    ["left", "left"],
  );
  process.stdout.write(`${lines.join("\n")}\n`);
  return EXIT_SUCCESS;
}

/** The one field of a focused story's machine that can be set. */
const HYPERVISOR = "machine.hypervisor";

function hypervisorOf(settings: readonly Setting[]): "faithful" | "strict" {
  const last = settings.at(-1);
  for (const { path, value } of settings) {
    if (path !== HYPERVISOR)
      throw new UsageError(`--set: a story has no ${path}, only ${HYPERVISOR}`);
    if (value !== "faithful" && value !== "strict") {
      throw new UsageError(`--set ${HYPERVISOR}: it is faithful or strict`);
    }
  }
  return last?.value === "strict" ? "strict" : "faithful";
}

function mutantNamed(id: string | undefined): Mutant | undefined {
  if (id === undefined) return undefined;
  const found = MUTANTS.find((mutant) => mutant.id === id);
  const known = MUTANTS.map((mutant) => mutant.id);
  if (found === undefined) throw new UsageError(unknownName("mutant", id, known));
  return found;
}
