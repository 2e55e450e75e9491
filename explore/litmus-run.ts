/**
 * Runs a litmus test in the simulated memory, in every way there is: who moves, which store arrives, what a load returns.
 *
 * Rule: the runs are enumerated by their lists of choices, depth first, so the answer is exhaustive or there is none:
 * beyond RUNS_MAX it refuses.
 */
import { assert, item, unreachable } from "../shared/assert.ts";
import { type Access, ASLEEP, type Litmus, programOf } from "./litmus.ts";
import { type Choose, type MemoryMode, type WeakMemory, weakMemory } from "./weak-memory.ts";

/** The largest of the catalogue needs a tenth of it. */
const RUNS_MAX = 2_000_000;

export interface Outcomes {
  readonly runs: number;
  /** Runs that ended in the outcome examined. */
  readonly hits: number;
  readonly raced: boolean;
}

export function outcomesOf(litmus: Litmus, mode: MemoryMode): Outcomes {
  let runs = 0;
  let hits = 0;
  let raced = false;
  const taken: number[] = [];
  const ways: number[] = [];
  do {
    let depth = 0;
    const choose: Choose = (count) => {
      if (depth === taken.length) {
        taken.push(0);
        ways.push(count);
      }
      depth += 1;
      return item(taken, depth - 1);
    };
    const end = runOnce(litmus, mode, choose);
    runs += 1;
    hits += litmus.isSeen(end.registers, end.cells) ? 1 : 0;
    raced ||= end.raced;
    assert(runs <= RUNS_MAX, `litmus test ${litmus.name} has too many runs to enumerate`);
  } while (advance(taken, ways));
  return { runs, hits, raced };
}

/** The next list of choices in depth-first order, in place; false when there is none. */
function advance(taken: number[], ways: number[]): boolean {
  for (;;) {
    const last = taken.length - 1;
    if (last < 0) return false;
    const next = item(taken, last) + 1;
    if (next < item(ways, last)) {
      taken[last] = next;
      return true;
    }
    taken.pop();
    ways.pop();
  }
}

interface Running {
  readonly program: Generator<Access, readonly number[], number>;
  /** What it asked for last; undefined once it has ended. */
  access: Access | undefined;
  registers: readonly number[];
  /** The cell whose notify it sleeps for. */
  sleeping: number | undefined;
}

function runOnce(litmus: Litmus, mode: MemoryMode, choose: Choose) {
  const { tasks, cells } = litmus;
  const memory = weakMemory({ mode, tasks: tasks.length, cells }, choose);
  const running = tasks.map((task): Running => {
    const program = programOf(task);
    return take({ program, access: undefined, registers: [], sleeping: undefined }, program.next());
  });
  for (;;) {
    const moves = running.map(({ access, sleeping }, task) => {
      const steps = access !== undefined && sleeping === undefined ? 1 : 0;
      return steps + memory.drainable(task);
    });
    const total = moves.reduce((sum, count) => sum + count, 0);
    if (total === 0) break;
    let which = total === 1 ? 0 : choose(total);
    let task = 0;
    while (which >= item(moves, task)) {
      which -= item(moves, task);
      task += 1;
    }
    step(memory, running, task, which);
  }
  for (const one of running) {
    if (one.sleeping !== undefined) take(one, one.program.next(ASLEEP));
  }
  return {
    registers: running.map(({ registers }) => registers),
    cells: cells.map((_, cell) => memory.valueOf(cell)),
    raced: memory.races.length > 0,
  };
}

/** The task's next access, or, after that, one of its stores that arrive. */
function step(memory: WeakMemory, running: readonly Running[], task: number, which: number): void {
  const one = item(running, task);
  const moves = one.access !== undefined && one.sleeping === undefined;
  if (!moves || which > 0) {
    memory.drain(task, which - (moves ? 1 : 0));
    return;
  }
  assert(one.access !== undefined, "the task that moves has an access");
  const value = perform(memory, running, task, one.access);
  if (one.sleeping === undefined) take(one, one.program.next(value));
}

function perform(memory: WeakMemory, running: readonly Running[], task: number, access: Access) {
  const { kind, cell } = access;
  switch (kind) {
    case "load":
      return memory.load(task, cell, access.order);
    case "store":
      memory.store(task, cell, access.value, access.order);
      return 0;
    case "cas":
      return memory.modify(task, cell, (v) => (v === access.expect ? access.value : undefined));
    case "add":
      return memory.modify(task, cell, (v) => v + access.value);
    case "and":
      return memory.modify(task, cell, (v) => v & access.value);
    case "or":
      return memory.modify(task, cell, (v) => v | access.value);
    case "wait":
      if (memory.modify(task, cell, undefined) === access.expect) {
        item(running, task).sleeping = cell;
      }
      return 0;
    case "notify":
      memory.modify(task, cell, undefined);
      for (const other of running) if (other.sleeping === cell) wake(other);
      return 0;
    case "store-low":
      throw new Error("the simulated memory has one width");
    default:
      return unreachable(kind);
  }
}

function wake(one: Running): void {
  one.sleeping = undefined;
  take(one, one.program.next(0));
}

function take(one: Running, result: IteratorResult<Access, readonly number[]>): Running {
  one.access = result.done === true ? undefined : result.value;
  if (result.done === true) one.registers = result.value;
  return one;
}
