/**
 * Exploring a story by its name: the one door through which a tree of sources with a mutant in it is used. Rule: what goes in
 * and comes out is plain data, because the machine inside is made of other modules than the caller's.
 * Ours.
 */
import { EmulatorBug } from "../shared/assert.ts";
import type { MachineModel } from "../shared/machine.ts";
import {
  type Exploration,
  type Limits,
  type OpenExploration,
  openExploration,
} from "./exploration.ts";
import { faultsOf, SWARM, withFault, withSwarm } from "./faults.ts";
import { type Build, type ReplayFile, replay, replayFileOf } from "./replay-file.ts";
import { type Report, reportOf } from "./report.ts";
import { type Shrunk, shrink } from "./shrink.ts";
import { storyNamed } from "./stories/catalogue.ts";
import { type PreparedStory, prepareStory, type Story } from "./story.ts";
import type { MemoryMode } from "./weak-memory.ts";

export interface NamedExploration {
  readonly exploration: Exploration;
  readonly shrunk: Shrunk | undefined;
}

/** What a failure leaves behind for its reader. */
export interface Told {
  readonly report: Report;
  readonly file: ReplayFile;
}

export interface NamedReplay {
  readonly divergence: string | undefined;
  readonly skipped: number;
  readonly again: boolean;
  readonly findings: readonly string[];
  /** Undefined: the run ended as it should. */
  readonly report: Report | undefined;
}

export interface NamedStory {
  /** Undefined: no strategy has that name. */
  open(limits: Limits): OpenExploration | undefined;
  /** What an exploration has found, its failure shrunk. */
  finish(exploration: Exploration): NamedExploration;
  tell(found: NamedExploration, build: Build): Told | undefined;
  replay(file: ReplayFile): NamedReplay;
}

/** What stands between a story's name and that of the fault in it. */
const WITH = " + ";

/** A story with one of its faults, by name, and the rows of the catalogue that the fault stands for. */
export interface FaultyName {
  readonly name: string;
  readonly fault: string;
  readonly ids: readonly string[];
}

/** A story with each of its faults; none: nobody knows the story. */
export function faultyNames(name: string): readonly FaultyName[] {
  const story = storyNamed(name);
  return story === undefined
    ? []
    : faultsOf(story).map((fault) => ({
        name: `${name}${WITH}${fault.name}`,
        fault: fault.name,
        ids: fault.ids,
      }));
}

/** A story with all its faults, each switched on or off in each run. */
export const swarmName = (name: string): string => `${name}${WITH}${SWARM}`;
export const isSwarmName = (name: string): boolean => name.endsWith(`${WITH}${SWARM}`);

/** Whether a story has that name, with a fault in it or without. */
export const isStoryName = (name: string): boolean => storyOf(name) !== undefined;

function storyOf(name: string): Story | undefined {
  const [base = "", ...rest] = name.split(WITH);
  const plain = storyNamed(base);
  if (plain === undefined || rest.length === 0) return plain;
  const word = rest.join(WITH);
  if (word === SWARM) return withSwarm(plain);
  const fault = faultsOf(plain).find((one) => one.name === word);
  return fault && withFault(plain, fault);
}

/** A story that is booted once and explored as often as wanted; `revoke + kill A` is one with a fault in it. */
export function openStory(
  name: string,
  hypervisor: MachineModel["hypervisor"] = "faithful",
  memory: MemoryMode = "sc",
): NamedStory {
  const story = storyOf(name);
  if (story === undefined) throw new EmulatorBug(`no story is named ${name}`);
  const prepared = { ...prepareStory(story, hypervisor), memory };
  return {
    open: (limits) => openExploration(prepared, limits),
    finish: (exploration) => {
      const { failure } = exploration;
      return { exploration, shrunk: failure === undefined ? undefined : shrink(prepared, failure) };
    },
    tell: ({ exploration: { failure }, shrunk }, build) =>
      failure === undefined || shrunk === undefined
        ? undefined
        : {
            report: reportOf(prepared, failure, shrunk),
            file: replayFileOf(prepared, failure, shrunk, build),
          },
    replay: (file) => replayNamed(prepared, file),
  };
}

function replayNamed(prepared: PreparedStory, file: ReplayFile): NamedReplay {
  const { run, deviations, divergence, skipped, again } = replay(prepared, file);
  const { verdict, findings, steps, traceHash } = run.outcome;
  const numbers = file.values.map(([, value]) => value);
  const failure = {
    id: file.failure.id,
    findings,
    schedule: file.origin.schedule,
    seed: file.seed,
    strategy: file.strategy,
    deviations,
    numbers,
    steps,
    traceHash,
    everyStep: file.config.everyStep,
  };
  const { without } = file.scenario;
  const shrunk = {
    deviations,
    numbers,
    without,
    steps,
    traceHash,
    findings,
    memory: prepared.memory,
    runs: 1,
    replayed: true,
  };
  const report = verdict === "finished" ? undefined : reportOf(prepared, failure, shrunk);
  return { divergence, skipped, again, findings, report };
}
