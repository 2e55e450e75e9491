/**
 * A run told step by step: who moved, what they touched, what changed. Rule: it looks and changes nothing, so the run that it
 * watches is the run that was made without it.
 * Ours.
 */
import { at } from "../shared/assert.ts";
import { PGC_xen_heap } from "../shared/frame-flags.ts";
import { isRecorded } from "../shared/history.ts";
import { DOM, domainOf } from "../shared/layout.ts";
import { load, TOUCH_WRITE } from "../shared/mem.ts";
import { hypervisorRing, traceCount, traceRecord } from "../shared/trace.ts";
import { isOver } from "./actor.ts";
import { callName, tracePhrase } from "./call-names.ts";
import type { MachineImage } from "./image.ts";
import { HYPERVISOR } from "./scheduler.ts";
import type { Machine } from "./state.ts";
import { calmChoice } from "./strategies/deviations.ts";

/** One step. */
export interface Told {
  /** From 1. */
  readonly step: number;
  /** Records of the history before it. */
  readonly noted: number;
  readonly task: number;
  readonly name: string;
  /** Whether the calm schedule would have let another one go on. */
  forced: boolean;
  readonly phrases: string[];
  /** Words touched, by name, and whether they were written. */
  readonly touched: Map<string, boolean>;
}

export interface Watch {
  readonly steps: readonly Told[];
  /** Finishes the last step. */
  end(): void;
}

/** Names of tasks and domains, for reports. */
export function taskName(machine: Machine, task: number): string {
  const slots = machine.actors.length;
  if (task >= slots) return `${taskName(machine, task - slots)}'s stores`;
  return task === HYPERVISOR ? "hypervisor" : (machine.actors[task]?.part.name ?? `slot ${task}`);
}

const domainName = (machine: Machine, domid: number): string =>
  machine.model.domains[domid]?.name ?? (domid < 0 ? "control" : `domain ${domid}`);

/** Watches a machine from its next step on. */
export function watchMachine(machine: Machine, image: MachineImage): Watch {
  const steps: Told[] = [];
  const { memory } = image;
  const ring = hypervisorRing(machine.layout);
  let current = HYPERVISOR;
  let traced = traceCount(machine.words, machine.layout, ring);
  let looking = false;

  const finish = (): void => {
    const told = steps.at(-1);
    if (told === undefined) return;
    looking = true;
    for (const [name, written] of told.touched) {
      if (told.phrases.length < PHRASES_MAX)
        told.phrases.push(`${written ? "writes" : "reads"} ${name}`);
    }
    const actor = told.task === HYPERVISOR ? undefined : machine.actors[told.task];
    if (actor?.state === "calling") told.phrases.push(`calls ${callName(actor.called)}`);
    if (actor?.state === "blocked") told.phrases.push("sleeps");
    if (actor !== undefined && isOver(actor))
      told.phrases.push(actor.state === "done" ? "ends" : actor.state);
    const count = traceCount(machine.words, machine.layout, ring);
    for (; traced < count; traced++) {
      const record = traceRecord(machine.words, machine.layout, ring, traced);
      const phrase = record && tracePhrase(record, (domid) => domainName(machine, domid));
      if (phrase !== undefined) told.phrases.push(phrase);
    }
    looking = false;
  };
  const before = memory.onTouch;
  memory.onTouch = (kind, frame, offset, length) => {
    before?.(kind, frame, offset, length);
    const told = steps.at(-1);
    if (looking || machine.auditing || told === undefined) return;
    const name = wordName(machine, frame, offset);
    if (name === undefined) return;
    told.touched.set(name, told.touched.get(name) === true || (kind & TOUCH_WRITE) !== 0);
  };
  machine.log = {
    step(choice, candidates, count) {
      finish();
      const forced = count > 1 && choice !== calmChoice(candidates, count, current);
      current = choice;
      steps.push({
        step: steps.length + 1,
        noted: isRecorded(machine.layout) ? load(machine.words, machine.layout.history) : 0,
        task: choice,
        name: taskName(machine, choice),
        forced,
        phrases: [],
        touched: new Map(),
      });
    },
  };
  return { steps, end: finish };
}

const PHRASES_MAX = 6;

/** A word of memory as a reader would call it; undefined: page tables and arguments, which are nobody's story. */
export function wordName(machine: Machine, frame: number, offset: number): string | undefined {
  const { words, layout } = machine;
  const owner = frame < layout.ramFrames ? at(words, layout.frameOwner + frame) : -1;
  if (owner < 0) return frame >= layout.ramFrames ? `device register ${offset}` : undefined;
  const name = domainName(machine, owner);
  if ((at(words, layout.frameCount + frame) & PGC_xen_heap) === 0) {
    return `page ${frame} of ${name} +${offset}`;
  }
  const info = at(words, domainOf(layout, owner) + DOM.SHARED_INFO);
  if (frame === info) return `shared info of ${name} +${offset}`;
  return `${offset % 8 === 0 ? "header" : "frame word"} of ref ${offset >> 3} of ${name}`;
}
