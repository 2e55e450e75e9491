/**
 * What a thread does in a litmus test: plays one task over many instances of the test, each with cells of its own.
 *
 * Rules: the threads meet before each batch and keep in step every few instances, which is what makes weak outcomes show;
 * a thread that the others cannot wait for is left behind. Each cell has a cache line; plain accesses are element accesses that nothing orders. This is the language's own memory, so `Atomics` and
 * a 16-bit view stand here openly.
 * Ours; batches of instances between meetings are how the litmus7 tool does it.
 */
import { type Access, ASLEEP, hasRegister, programOf, type Task } from "../explore/litmus.ts";
import { litmusTests } from "../explore/litmus-catalogue.ts";
import { item, unreachable } from "../shared/assert.ts";

/** Words between cells: a cache line. */
export const CELL_STRIDE = 16;
/** Registers that a task may return. */
export const REGISTERS_MAX = 4;
/** Instances between two looks at how far the others are. */
const STEP = 2;
/** Looks before a thread goes on alone: about as long as two threads on two cores are ever apart. */
const PROBES_MAX = 400;
/** Longer than any thread is kept from running; a sleeper who is not woken by then was lost. */
const LOST_MS = 2000;

export interface LitmusTask {
  /** Index in the catalogue. */
  readonly test: number;
  readonly task: number;
  readonly instances: number;
  /** Word 0 counts the threads that have arrived; word 1 + n is the instance that thread n is at. */
  readonly meeting: SharedArrayBuffer;
  /** Cells of all instances. */
  readonly cells: SharedArrayBuffer;
  /** Int32Array[tasks * instances * REGISTERS_MAX]. */
  readonly registers: SharedArrayBuffer;
}

/** Entry of the pool. */
export function playLitmus({ test, task, instances, meeting, cells, registers }: LitmusTask): void {
  const { tasks, cells: start } = item(litmusTests(), test);
  const program = item(tasks, task);
  const play = typeof program === "function" ? playProgram : playList;
  const memory = new Int32Array(cells);
  const results = new Int32Array(registers);
  const words = new Int32Array(meeting);
  meet(words, tasks.length);
  for (let instance = 0; instance < instances; instance++) {
    if (instance % STEP === 0) keepStep(words, task, tasks.length, instance);
    const base = instance * start.length * CELL_STRIDE;
    play(memory, base, program, results, (task * instances + instance) * REGISTERS_MAX);
  }
}

/** A list is played without a generator's own work between its accesses, which would hide what is late. */
function playList(words: Int32Array, base: number, task: Task, into: Int32Array, place: number) {
  if (typeof task === "function") return;
  let register = place;
  for (let i = 0; i < task.length; i++) {
    const access = item(task, i);
    const value = perform(words, base, access);
    if (hasRegister(access)) into[register++] = value;
  }
}

function playProgram(words: Int32Array, base: number, task: Task, into: Int32Array, place: number) {
  const run = programOf(task);
  let step = run.next();
  while (step.done !== true) step = run.next(perform(words, base, step.value));
  into.set(step.value, place);
}

/** Returns when every thread of the test is here. */
function meet(words: Int32Array, threads: number): void {
  if (Atomics.add(words, 0, 1) === threads - 1) {
    Atomics.notify(words, 0);
    return;
  }
  for (let here = Atomics.load(words, 0); here < threads; here = Atomics.load(words, 0)) {
    Atomics.wait(words, 0, here, 1);
  }
}

/** Says how far this thread is and waits a little for the others. */
function keepStep(words: Int32Array, task: number, threads: number, instance: number): void {
  Atomics.store(words, 1 + task, instance);
  for (let other = 0; other < threads; other++) {
    for (let probe = 0; probe < PROBES_MAX; probe++) {
      if (Atomics.load(words, 1 + other) >= instance) break;
    }
  }
}

function perform(memory: Int32Array, base: number, access: Access): number {
  const at = base + access.cell * CELL_STRIDE;
  switch (access.kind) {
    case "load":
      return access.order === "plain" ? (memory[at] ?? 0) : Atomics.load(memory, at);
    case "store":
      if (access.order === "plain") memory[at] = access.value;
      else Atomics.store(memory, at, access.value);
      return 0;
    case "cas":
      return Atomics.compareExchange(memory, at, access.expect, access.value);
    case "add":
      return Atomics.add(memory, at, access.value);
    case "and":
      return Atomics.and(memory, at, access.value);
    case "or":
      return Atomics.or(memory, at, access.value);
    case "store-low":
      Atomics.store(new Int16Array(memory.buffer), at * 2, access.value);
      return 0;
    case "wait":
      return Atomics.wait(memory, at, access.expect, LOST_MS) === "timed-out" ? ASLEEP : 0;
    case "notify":
      Atomics.notify(memory, at);
      return 0;
    default:
      return unreachable(access);
  }
}
