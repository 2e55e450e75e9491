/**
 * Memory as weak as the language allows for plain accesses, simulated: what one task stored may reach another late, in
 * another order, or not be looked at yet. Atomic accesses are one total order and empty the buffers of their task.
 *
 *   sc        plain accesses hit memory at once
 *   tso       a FIFO of plain stores for each task; draining one entry is a step of its own
 *   relaxed   a buffer a location, drained in any order between locations; a plain load may return any of the last
 *             stores that neither happened-before hides nor this task has already seen past
 *
 * Rules: every choice is asked of the chooser, so that a run is its list of choices. The race detector keeps vector
 * clocks a task and an atomic cell; it reports a pair of accesses that conflict, are unordered, and of which at least
 * one is plain, unless the cell was declared racy.
 * Ours, after the memory model of ECMA-262 (section "Memory Model"); load buffering is out of reach for a simulation that
 * answers each load at once, and is left to the race detector.
 */
import { at, item } from "../shared/assert.ts";

export type MemoryMode = "sc" | "tso" | "relaxed";
export type Order = "plain" | "atomic";

/** One of `count` alternatives, from 0; asked only when there are at least two. */
export type Choose = (count: number) => number;

/** Two accesses that race, as the tasks that made them. */
export interface Race {
  readonly cell: number;
  readonly tasks: readonly [earlier: number, later: number];
}

interface Stored {
  readonly cell: number;
  readonly value: number;
  readonly task: number;
  /** The storing task's own clock then. */
  readonly epoch: number;
}

/** Plain stores of a location that a late load may still return. */
const HISTORY_MAX = 8;

/** Kinds of access that the race detector tells apart: 2 for a write, plus 1 for an atomic access. */
const KINDS = 4;

export class WeakMemory {
  readonly #mode: MemoryMode;
  readonly #choose: Choose;
  readonly #racy: ReadonlySet<number>;
  readonly #tasks: number;
  /** Of each cell, oldest first; the last one is what memory holds. */
  readonly #history: Stored[][];
  /** How many stores of each cell have left the history. */
  readonly #dropped: Int32Array;
  /** Of each task and cell, the place of the newest store that the task has seen. */
  readonly #seen: Int32Array;
  readonly #buffers: Stored[][];
  readonly #clocks: Int32Array[];
  /** Of each cell, what an atomic load of it learns. */
  readonly #published: Int32Array[];
  /** Of each cell, task and kind of access, the task's own clock at the last one. */
  readonly #accesses: Int32Array;
  readonly races: Race[] = [];

  constructor(
    options: {
      readonly mode: MemoryMode;
      readonly tasks: number;
      /** Starting values. */
      readonly cells: readonly number[];
      readonly racy?: ReadonlySet<number>;
    },
    choose: Choose,
  ) {
    const { mode, tasks, cells, racy = new Set() } = options;
    this.#mode = mode;
    this.#choose = choose;
    this.#racy = racy;
    this.#tasks = tasks;
    this.#history = cells.map((value, cell) => [{ cell, value, task: -1, epoch: 0 }]);
    this.#dropped = new Int32Array(cells.length);
    this.#seen = new Int32Array(tasks * cells.length);
    this.#buffers = Array.from({ length: tasks }, () => []);
    this.#clocks = Array.from({ length: tasks }, () => new Int32Array(tasks));
    this.#published = cells.map(() => new Int32Array(tasks));
    this.#accesses = new Int32Array(cells.length * tasks * KINDS);
  }

  load(task: number, cell: number, order: Order): number {
    if (order === "atomic") return this.modify(task, cell, undefined);
    this.#note(task, cell, 0);
    const own = item(this.#buffers, task).findLast((stored) => stored.cell === cell);
    if (own !== undefined) return own.value;
    const history = item(this.#history, cell);
    return this.#mode === "relaxed"
      ? this.#late(task, cell)
      : item(history, history.length - 1).value;
  }

  store(task: number, cell: number, value: number, order: Order): void {
    if (order === "atomic") {
      this.modify(task, cell, () => value, { learns: false });
      return;
    }
    this.#note(task, cell, 2);
    const stored = { cell, value, task, epoch: at(item(this.#clocks, task), task) };
    if (this.#mode === "sc") this.#arrive(stored);
    else item(this.#buffers, task).push(stored);
  }

  /**
   * An atomic access: everything stored before it arrives, then memory is read and, unless `change` is absent or answers
   * undefined, written. Returns the value before it.
   */
  modify(
    task: number,
    cell: number,
    change: ((value: number) => number | undefined) | undefined,
    { learns = true } = {},
  ): number {
    while (this.drainable(task) > 0) this.drain(task, 0);
    const clock = item(this.#clocks, task);
    const published = item(this.#published, cell);
    if (learns) {
      for (let other = 0; other < this.#tasks; other++) {
        clock[other] = Math.max(at(clock, other), at(published, other));
      }
    }
    const before = this.valueOf(cell);
    const value = change?.(before);
    this.#note(task, cell, value === undefined ? 1 : 3);
    this.#see(task, cell);
    if (value !== undefined) {
      this.#arrive({ cell, value, task, epoch: at(clock, task) });
      published.set(clock);
    }
    return before;
  }

  /** In how many ways one store of this task can arrive as the next step. */
  drainable(task: number): number {
    const buffer = item(this.#buffers, task);
    if (this.#mode !== "relaxed") return Math.min(buffer.length, 1);
    return new Set(buffer.map(({ cell }) => cell)).size;
  }

  /** The `which`-th of the locations that this task has stored to, in order of its first store, gets its oldest one. */
  drain(task: number, which: number): void {
    const buffer = item(this.#buffers, task);
    const cells = [...new Set(buffer.map(({ cell }) => cell))];
    const cell = this.#mode === "relaxed" ? item(cells, which) : item(buffer, 0).cell;
    const index = buffer.findIndex((stored) => stored.cell === cell);
    this.#arrive(item(buffer, index));
    buffer.splice(index, 1);
  }

  /** What memory holds. */
  valueOf(cell: number): number {
    const history = item(this.#history, cell);
    return item(history, history.length - 1).value;
  }

  /** A store that this task may still come upon, by choice. */
  #late(task: number, cell: number): number {
    const history = item(this.#history, cell);
    const clock = item(this.#clocks, task);
    const seen = at(this.#seen, this.#seenAt(task, cell)) - at(this.#dropped, cell);
    let oldest = history.length - 1;
    for (; oldest > 0 && oldest > seen; oldest--) {
      const { task: writer, epoch } = item(history, oldest);
      // A store that happened before this load hides every store before it.
      if (writer === -1 || epoch <= at(clock, writer)) break;
    }
    const ways = history.length - Math.max(oldest, 0);
    const back = ways === 1 ? 0 : this.#choose(ways);
    const place = history.length - 1 - back;
    this.#seen[this.#seenAt(task, cell)] = place + at(this.#dropped, cell);
    return item(history, place).value;
  }

  #arrive(stored: Stored): void {
    const history = item(this.#history, stored.cell);
    history.push(stored);
    if (history.length > HISTORY_MAX) {
      history.shift();
      this.#dropped[stored.cell] = at(this.#dropped, stored.cell) + 1;
    }
    // Who reads a plain store learns nothing; an atomic one publishes its clock after this.
    item(this.#published, stored.cell).fill(0);
    this.#see(stored.task, stored.cell);
  }

  #see(task: number, cell: number): void {
    const newest = item(this.#history, cell).length - 1 + at(this.#dropped, cell);
    this.#seen[this.#seenAt(task, cell)] = newest;
  }

  #seenAt(task: number, cell: number): number {
    return task * this.#history.length + cell;
  }

  /** Enters an access of `kind` into the race detector. */
  #note(task: number, cell: number, kind: number): void {
    const clock = item(this.#clocks, task);
    clock[task] = at(clock, task) + 1;
    const isWrite = kind >= 2;
    const isPlain = kind % 2 === 0;
    const base = cell * this.#tasks * KINDS;
    for (let other = 0; other < this.#tasks; other++) {
      if (other === task || this.#racy.has(cell)) continue;
      for (let earlier = isWrite ? 0 : 2; earlier < KINDS; earlier++) {
        if (!isPlain && earlier % 2 === 1) continue;
        const epoch = at(this.#accesses, base + other * KINDS + earlier);
        if (epoch > at(clock, other)) this.races.push({ cell, tasks: [other, task] });
      }
    }
    this.#accesses[base + task * KINDS + kind] = at(clock, task);
  }
}
