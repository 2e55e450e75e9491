/**
 * What each step of a run has touched, so that two steps can be told to depend on each other or not.
 *
 *   words of memory    named by frame and offset, read or written; a page that is zeroed or copied has one name
 *   a slot's line      its accesses, against flushes and its death      (one name a slot)
 *   a slot's event     a raise, against a sleeper                       (one name a slot)
 *   the work           requests pushed and answered, against the hypervisor's turn
 *
 * Rule: rather too much than too little: a dependency that is not there costs runs, one that is missed costs a schedule.
 * What the programs of a story tell each other by notes is not seen. Ours; stress spec 2.4, dpor.
 */
import { at } from "../shared/assert.ts";
import { LINE, lineOf, MACHINE } from "../shared/layout.ts";
import { PAGE_SIZE, WORDS_PER_PAGE } from "../shared/limits.ts";
import { TOUCH_WRITE } from "../shared/mem.ts";
import type { MachineImage } from "./image.ts";
import { HYPERVISOR } from "./scheduler.ts";
import type { Machine } from "./state.ts";

export interface Step {
  readonly task: number;
  /** Who could have moved instead, the task itself among them. */
  readonly enabled: readonly number[];
  /** Names of what was touched: doubled, plus 1 for a write. */
  readonly touched: Set<number>;
  /** Frames that were touched from end to end: doubled, plus 1 for a write. */
  readonly pages: number[];
  /** A fault that may have changed anything: the order of its steps matters to everybody. */
  readonly isFault: boolean;
}

export interface Trace {
  readonly steps: Step[];
  /** Adds to the last step what it has changed; may be called more than once. */
  end(): void;
}

const WORK = -1;
const lineName = (slot: number): number => -2 - 2 * slot;
const eventName = (slot: number): number => -3 - 2 * slot;
const read = (name: number): number => name * 2;
const written = (name: number): number => name * 2 + 1;

/** Frame of a name of a word; below 0 for any other name. */
export const frameOf = (name: number): number => Math.floor(name / (2 * WORDS_PER_PAGE));

/** Whether the order of two steps matters. */
export function dependent(one: Step, other: Step): boolean {
  if (one.task === other.task || one.isFault || other.isFault) return true;
  if (meet(one.touched, other.touched)) return true;
  return (
    one.pages.some((page) => covers(page, other)) || other.pages.some((page) => covers(page, one))
  );
}

function meet(some: ReadonlySet<number>, others: ReadonlySet<number>): boolean {
  const [few, many] = some.size < others.size ? [some, others] : [others, some];
  for (const name of few) {
    // Odd is a write, which conflicts with both; even is a read, which conflicts with a write.
    if (many.has(name | 1) || ((name & 1) === 1 && many.has(name - 1))) return true;
  }
  return false;
}

/** Whether an access of a whole page conflicts with an access of a step's. */
function covers(page: number, { touched, pages }: Step): boolean {
  const conflicts = (frame: number, kind: number): boolean =>
    frame === page >> 1 && ((page | kind) & 1) === 1;
  for (const name of touched) if (conflicts(frameOf(name), name)) return true;
  return pages.some((other) => conflicts(other >> 1, other));
}

/** Watches a machine from its next step on. */
export function traceSteps(machine: Machine, image: MachineImage): Trace {
  const { words, layout } = machine;
  const steps: Step[] = [];
  const slots = layout.model.limits.slots;
  const events = new Int32Array(slots);
  const states = new Int32Array(slots);
  let flushes = 0;
  let wasCalling = false;
  const field = (slot: number, name: number): number => at(words, lineOf(layout, slot) + name);
  const remember = (): void => {
    flushes = at(words, MACHINE.FLUSHES);
    for (let slot = 0; slot < slots; slot++) {
      events[slot] = field(slot, LINE.EVENT);
      states[slot] = field(slot, LINE.STATE);
    }
  };
  const finish = (): void => {
    const step = steps.at(-1);
    if (step === undefined) return;
    const { touched, task } = step;
    for (let slot = 0; slot < slots; slot++) {
      if (field(slot, LINE.EVENT) !== events[slot]) touched.add(written(eventName(slot)));
      const died = field(slot, LINE.STATE) !== states[slot];
      const flushed = at(words, MACHINE.FLUSHES) !== flushes;
      if (died || (task === HYPERVISOR && flushed)) touched.add(written(lineName(slot)));
    }
    const actor = task === HYPERVISOR ? undefined : machine.actors[task];
    if (actor?.state === "blocked") touched.add(read(eventName(task)));
    if (actor?.state === "calling" || wasCalling) touched.add(read(WORK));
  };
  noteTouches(machine, image, steps);
  machine.log = {
    step(choice, candidates, count) {
      finish();
      remember();
      const touched = new Set<number>();
      const enabled = Array.from(candidates.subarray(0, count));
      const { isFault = false } = machine.actors[choice]?.part ?? {};
      // What the toolstack does it does by calls.
      steps.push({ task: choice, enabled, touched, pages: [], isFault: isFault && choice > 0 });
      wasCalling = false;
      if (choice !== HYPERVISOR) {
        const state = machine.actors[choice]?.state;
        wasCalling = state === "calling";
        // It may enter or leave an access, and a flush looks at that.
        touched.add(written(lineName(choice)));
        if (state === "blocked") touched.add(read(eventName(choice)));
        return;
      }
      touched.add(written(WORK));
      // A handler that waits for a flush looks at every line to see whether it may go on.
      if (machine.xen.gaps.includes(1)) {
        for (let slot = 0; slot < slots; slot++) touched.add(read(lineName(slot)));
      }
    },
  };
  return { steps, end: finish };
}

function noteTouches(machine: Machine, { memory }: MachineImage, steps: readonly Step[]): void {
  const before = memory.onTouch;
  memory.onTouch = (kind, frame, offset, length) => {
    before?.(kind, frame, offset, length);
    const last = steps.at(-1);
    if (last !== undefined && !machine.auditing) addTouch(last, kind, frame, offset, length);
  };
}

function addTouch(
  { touched, pages }: Step,
  kind: number,
  frame: number,
  offset: number,
  length: number,
): void {
  const isWrite = (kind & TOUCH_WRITE) !== 0;
  if (length === PAGE_SIZE) {
    pages.push(isWrite ? written(frame) : read(frame));
    return;
  }
  const first = frame * WORDS_PER_PAGE + (offset >> 2);
  const last = frame * WORDS_PER_PAGE + ((offset + length - 1) >> 2);
  for (let word = first; word <= last; word++) {
    touched.add(isWrite ? written(word) : read(word));
  }
}
