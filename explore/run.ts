/**
 * One explored run from its first step to its verdict. Rules: the number of steps is bounded, because a schedule
 * may be unfair and a program may loop; a failure carries the seed, the schedule and the one line that repeats it.
 * An EmulatorBug is caught here and nowhere below: this is the outermost runner of the one-thread engine. What a guest
 * or device throws has become its death before; any other error that comes this far is the emulator's too. Ours.
 */
import { EmulatorBug } from "../shared/assert.ts";
import { isOver } from "./actor.ts";
import { assign, step } from "./machine.ts";
import { type Death, type Machine, type Part, type Report, RunOver } from "./state.ts";

/** Steps of one run; a run of a small machine takes some hundreds. */
export const STEPS_MAX = 1_000_000;

/**
 * finished: every program that must finish has ended, and nobody can move. stuck: nobody can move, but somebody
 * had to finish. exhausted: the bound on steps. violation: the audit found something. bug: the emulator is wrong.
 */
export type Verdict = "finished" | "stuck" | "exhausted" | "violation" | "bug";

export interface Outcome {
  readonly verdict: Verdict;
  /** One sentence each: what is wrong. Empty for a finished run. */
  readonly findings: readonly string[];
  readonly seed: number;
  readonly steps: number;
  readonly traceHash: number;
  readonly schedule: readonly number[];
  readonly reports: readonly Report[];
  readonly deaths: readonly Death[];
  /** Who waits for what, when liveness is what is wrong. */
  readonly waiting?: readonly string[];
  /** The line that repeats this run. */
  readonly command: string;
}

export interface RunOptions {
  readonly maxSteps?: number;
  /** What the person typed, without the seed: `run which-address --engine explore`. */
  readonly command: string;
  /** Asked before every step: true ends the run as finished. */
  readonly until?: (machine: Machine) => boolean;
}

/** Steps the machine until it is over. */
export function run(machine: Machine, options: RunOptions): Outcome {
  const steps = options.maxSteps ?? STEPS_MAX;
  machine.limit = machine.steps + steps;
  try {
    while (machine.steps < machine.limit) {
      if (options.until?.(machine) === true) return outcome(machine, options, "finished", []);
      if (!step(machine)) return judge(machine, options);
    }
  } catch (error) {
    if (!(error instanceof RunOver)) return outcome(machine, options, "bug", [bugText(error)]);
  }
  return outcome(machine, options, "exhausted", [`the run is not over after ${steps} steps`]);
}

/** An assertion says what is wrong; any other error is found by where it was thrown. */
function bugText(error: unknown): string {
  if (error instanceof EmulatorBug) return error.message;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

function judge(machine: Machine, options: RunOptions): Outcome {
  if (machine.findings.length > 0) {
    return outcome(machine, options, "violation", machine.findings);
  }
  const stuck: string[] = [];
  for (const actor of machine.actors) {
    if (actor === undefined || isOver(actor)) continue;
    if (actor.state === "calling")
      stuck.push(`${actor.part.name}: its hypercall is never answered`);
    else if (actor.part.mustFinish)
      stuck.push(`${actor.part.name}: waits for ever (${actor.state})`);
  }
  return outcome(machine, options, stuck.length === 0 ? "finished" : "stuck", stuck);
}

function outcome(
  machine: Machine,
  options: RunOptions,
  verdict: Verdict,
  findings: readonly string[],
): Outcome {
  const { seed } = machine.options;
  return {
    verdict,
    findings,
    seed,
    steps: machine.steps,
    traceHash: machine.traceHash >>> 0,
    schedule: machine.schedule,
    reports: machine.reports,
    deaths: machine.deaths,
    command: `npm run -s gfn2mfn -- ${options.command} --seed ${seed}`,
  };
}

/** Puts `part` on a slot and steps the machine until it has ended; undefined when it cannot end within `maxSteps`. */
export function runPart(machine: Machine, slot: number, part: Part, maxSteps = STEPS_MAX): unknown {
  const actor = assign(machine, slot, part);
  const limit = machine.steps + maxSteps;
  while (!isOver(actor) && machine.steps < limit) {
    if (!step(machine)) break;
  }
  if (actor.state === "oops") throw actor.error;
  return actor.result;
}
