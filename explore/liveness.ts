/**
 * Whether everybody gets on. A run has two phases: chaos, by the strategy, and then, if it is not over, settling, by a fair
 * schedule and without new faults. Liveness is judged when nobody can move any more, or at the bound of the settling phase.
 *
 *   L-1  nobody can move, and somebody waits for ever
 *   L-2  nobody can move, and what a sleeper waits for has come: a wake-up was lost
 *   L-3  an operation does not return while others do        (settling)
 *   L-4  the machine goes in circles and no operation returns (settling)
 *   L-5  the machine does not come to rest                    (settling)
 *
 * L-6 is teardown.ts, L-7 is counted by the machine. Rules: a run that ends calmly pays a counter; what tells L-3, L-4 and L-5
 * apart is looked at in the last steps before the bound. Ours; stress spec section 4.1.
 */
import { at } from "../shared/assert.ts";
import { raiseEvent } from "../shared/channel.ts";
import { CHANNEL, channelOf, LINE, LINE_WORDS } from "../shared/layout.ts";
import { isOver } from "./actor.ts";
import { callName } from "./call-names.ts";
import type { MachineImage } from "./image.ts";
import { sleepersWithEvents } from "./quiet-watch.ts";
import { roundRobin } from "./round-robin.ts";
import { type Outcome, run } from "./run.ts";
import type { Scheduler } from "./scheduler.ts";
import { type Actor, FNV_OFFSET, type Machine, mix } from "./state.ts";
import { waitGraph } from "./wait-graph.ts";

/** Steps of the settling phase, within which everybody must come to an end. */
export const SETTLE_STEPS = 20_000;
/** An operation must return within 50 times so many steps a task. */
const POINTS_A_TASK = 40;
/** Last steps of the settling phase, in which states are compared. */
const CIRCLE_STEPS = 256;
/** Steps in which those who were woken to look again must come to rest. */
const RECHECK_STEPS = 2_000;

/** What is remembered of the settling phase. */
interface Settling {
  steps: number;
  /** By slot, requests published when operations had to return soon; -1: none was open. */
  readonly open: Int32Array;
  /** Operations that had returned by then, and when circles began to be looked for. */
  returnedThen: number;
  returnedLast: number;
  hash: number;
  circles: boolean;
}

export interface Liveness {
  readonly scheduler: Scheduler;
  /** Before the first step. */
  begin(machine: Machine, image: MachineImage): void;
  /** What the end of a run means. */
  judge(outcome: Outcome): Outcome;
}

/** `steps` of the chaos phase at most; `strategy` chooses in it. */
export function watchLiveness(strategy: Scheduler, steps: number): Liveness {
  const fair = roundRobin();
  let taken = 0;
  let machine: Machine | undefined;
  let image: MachineImage | undefined;
  let settling: Settling | undefined;
  return {
    scheduler: {
      begin(seed, scene) {
        fair.begin(seed);
        strategy.begin(seed, scene);
      },
      choose(candidates, count) {
        if (taken < steps && machine?.settling !== true) {
          const choice = strategy.choose(candidates, count);
          if (++taken === steps && machine !== undefined) settling = beginSettling(machine, choice);
          return choice;
        }
        if (machine !== undefined && image !== undefined && settling !== undefined) {
          lookAt(settling, machine, image);
        }
        return fair.choose(candidates, count);
      },
      number(below) {
        const drawn = strategy.number(below);
        // What is drawn is part of the trace.
        if (machine !== undefined) mix(machine, drawn);
        return drawn;
      },
    },
    begin(booted, from) {
      machine = booted;
      image = from;
    },
    judge(end) {
      if (machine === undefined || end.verdict === "violation" || end.verdict === "bug") return end;
      const outcome = machine.lostWakeups > 0 ? afterWatchdog(machine, end) : end;
      if (outcome.verdict === "violation" || outcome.verdict === "bug") return outcome;
      const waiting = outcome.verdict === "finished" ? [] : waitGraph(machine);
      const findings =
        outcome.verdict === "exhausted"
          ? [...machine.findings, ...restless(machine, settling, outcome.findings)]
          : atRest(machine, outcome.findings, waiting);
      if (findings.length === 0) return outcome;
      return { ...outcome, verdict: "violation", findings, waiting };
    },
  };
}

/** Who was chosen last moves before anybody else does. */
function beginSettling(machine: Machine, chosen: number): Settling {
  machine.settling = true;
  for (const actor of machine.actors) {
    // A fault that has not begun does not come any more.
    if (actor?.part.isFault !== true || actor.slot === chosen) continue;
    if (!machine.schedule.includes(actor.slot)) actor.state = "done";
  }
  const open = new Int32Array(machine.actors.length).fill(-1);
  return { steps: 0, open, returnedThen: 0, returnedLast: 0, hash: 0, circles: false };
}

const tasksOf = ({ actors }: Machine): number =>
  1 + actors.reduce((count, actor) => count + (actor === undefined ? 0 : 1), 0);

/** Requests that have been answered, and programs that have ended. */
function returned({ words, layout, actors, model }: Machine): number {
  let sum = 0;
  for (let slot = 0; slot < model.limits.slots; slot++) {
    sum += at(words, channelOf(layout, slot) + CHANNEL.CONSUMER);
  }
  for (const actor of actors) if (actor !== undefined && isOver(actor)) sum++;
  return sum;
}

function lookAt(settling: Settling, machine: Machine, image: MachineImage): void {
  const left = SETTLE_STEPS - settling.steps++;
  if (left === Math.min(50 * tasksOf(machine) * POINTS_A_TASK, SETTLE_STEPS)) {
    settling.returnedThen = returned(machine);
    for (const actor of machine.actors) {
      if (actor?.state === "calling") settling.open[actor.slot] = published(machine, actor);
    }
  }
  if (left > CIRCLE_STEPS) return;
  const hash = stateHash(machine, image);
  if (left === CIRCLE_STEPS) {
    settling.hash = hash;
    settling.returnedLast = returned(machine);
  } else if (hash === settling.hash) {
    settling.circles = true;
  }
}

const published = ({ words, layout }: Machine, { slot }: Actor): number =>
  at(words, channelOf(layout, slot) + CHANNEL.PRODUCER);

/** Words of a line that count what happens, and say nothing of where anybody stands. */
const COUNTERS: readonly number[] = [LINE.ACCESS, LINE.GENERATION, LINE.EVENT, LINE.HYPERCALLS];

/** Where everybody stands: the hypervisor's tables without what only counts, memory, and what each task does next. */
function stateHash(machine: Machine, image: MachineImage): number {
  const { words, layout, actors } = machine;
  let hash = FNV_OFFSET | 0;
  const add = (word: number): void => {
    hash = Math.imul(hash ^ word, 0x01000193);
  };
  for (let i = layout.frameCount; i < layout.frameGeneration; i++) add(words[i] ?? 0);
  for (let i = layout.holds; i < layout.faults; i++) add(words[i] ?? 0);
  for (let i = layout.lines; i < layout.channels; i++) {
    if (!COUNTERS.includes((i - layout.lines) % LINE_WORDS)) add(words[i] ?? 0);
  }
  for (const frame of image.memory.dirty) {
    image.memory.compare(frame, image.frames[frame], (index, word) => add(index ^ word));
  }
  for (const actor of actors) {
    if (actor === undefined) continue;
    add(actor.slot);
    add(actor.state.length);
    add(actor.pendingAddress);
    add(actor.pendingAccess);
    for (const word of actor.called) add(word);
  }
  return hash;
}

/** The bound on steps is reached. */
function restless(
  machine: Machine,
  settling: Settling | undefined,
  findings: readonly string[],
): readonly string[] {
  const now = returned(machine);
  if (settling?.circles === true && settling.returnedLast === now) {
    const movers = machine.actors.flatMap((actor) =>
      actor === undefined || isOver(actor) ? [] : [actor.part.name],
    );
    return [`L-4: the machine goes in circles, and nothing of ${movers.join(", ")} returns`];
  }
  const starved = machine.actors.flatMap((actor) => {
    if (actor?.state !== "calling" || actor.channel.idle) return [];
    if (settling?.open[actor.slot] !== published(machine, actor)) return [];
    return [`L-3: ${actor.part.name}: ${callName(actor.called)} does not return while others do`];
  });
  if (starved.length > 0 && settling !== undefined && settling.returnedThen !== now) return starved;
  return findings.map((text) => `L-5: ${text}`);
}

/** A wake-up that was lost on purpose is made up for by a watchdog, which wakes every sleeper to look again. */
function afterWatchdog(machine: Machine, end: Outcome): Outcome {
  if (end.verdict === "exhausted") return end;
  machine.settling = true;
  for (const actor of machine.actors) {
    if (actor === undefined) continue;
    actor.losesWakeup = false;
    if (actor.state === "blocked") raiseEvent(machine.words, machine.layout, actor.slot);
  }
  const after = run(machine, { command: "", maxSteps: RECHECK_STEPS });
  return { ...after, command: end.command };
}

/** Nobody can move. `stuck` says of whom that must not be. */
function atRest(
  machine: Machine,
  stuck: readonly string[],
  waiting: readonly string[],
): readonly string[] {
  machine.auditing = true;
  const owed = sleepersWithEvents(machine);
  machine.auditing = false;
  const unseen = unseenCalls(machine);
  if (owed.length + unseen.length > 0) {
    return [...owed, ...owed.map((text) => text.replace("I-27", "L-2")), ...unseen];
  }
  if (stuck.length === 0) return [];
  const lost = wokenInVain(machine);
  if (lost.length > 0) return lost.map((text) => `L-2: ${text}`);
  return [`L-1: nobody can move: ${waiting.join("; ")}`];
}

/** Requests that stand in their channels although nobody has anything to do. */
const unseenCalls = ({ actors, xen }: Machine): readonly string[] =>
  actors.flatMap((actor) =>
    actor?.state === "calling" && !actor.channel.idle && xen.pending[actor.slot] === undefined
      ? [`L-2: ${actor.part.name}: the hypervisor does not see ${callName(actor.called)}`]
      : [],
  );

/**
 * Sleepers that are woken to look again, and find what they wait for. A program whose condition does not hold goes back to
 * sleep, as after any wake-up without cause.
 */
function wokenInVain(machine: Machine): readonly string[] {
  const sleepers = machine.actors.flatMap((actor) =>
    actor?.state === "blocked" ? [{ actor, calls: published(machine, actor) }] : [],
  );
  // The run is over for whoever tells it.
  machine.log = undefined;
  machine.settling = true;
  for (const { actor } of sleepers) raiseEvent(machine.words, machine.layout, actor.slot);
  run(machine, { command: "", maxSteps: RECHECK_STEPS });
  return sleepers.flatMap(({ actor, calls }) =>
    actor.state === "done" || published(machine, actor) !== calls
      ? [`${actor.part.name}: sleeps although what it waits for has come`]
      : [],
  );
}
