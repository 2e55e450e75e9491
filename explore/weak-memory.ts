/**
 * Memory as weak as the language allows for plain accesses, simulated: what one task stored may reach another late, in
 * another order, or not be looked at yet. Atomic accesses are one total order and empty the buffers of their task.
 *
 *   sc        plain accesses hit memory at once
 *   tso       a FIFO of plain stores for each task; draining one entry is a step of its own
 *   relaxed   a buffer a location, drained in any order between locations; a plain load may return any of the last
 *             stores that neither happened-before hides nor this task has already seen past
 *
 * Rules: every choice is asked of the chooser, so that a run is its list of choices. What has arrived lies in the memory
 * behind this; here are the stores on their way, and the values that were there before. The race detector keeps vector
 * clocks a task and an atomic cell; it reports a pair of accesses that conflict, are unordered, and of which at least
 * one is plain, unless the cell was declared racy.
 * Ours, after the memory model of ECMA-262 (section "Memory Model"); load buffering is out of reach for a simulation that
 * answers each load at once, and is left to the race detector.
 */
import { at, item } from "../shared/assert.ts";

export const MEMORY_MODES = ["sc", "tso", "relaxed"] as const;
export type MemoryMode = (typeof MEMORY_MODES)[number];
export type Order = "plain" | "atomic";

/** One of `count` alternatives, from 0; asked only when there are at least two. */
export type Choose = (count: number) => number;

/** Two accesses that race, as the tasks that made them. */
export interface Race {
  readonly cell: number;
  readonly tasks: readonly [earlier: number, later: number];
}

/** Where stores arrive: words by the number of their cell. */
export interface Backing {
  load(cell: number): number;
  store(cell: number, value: number): void;
}

/** A store that has not arrived. */
interface Buffered {
  readonly cell: number;
  readonly value: number;
  /** Bits of the word that are stored. */
  readonly mask: number;
  readonly epoch: number;
}

/** A store that has arrived. */
interface Stored {
  /** What it left in the word; of the newest one, whatever the backing holds. */
  value: number;
  readonly task: number;
  /** The storing task's own clock then. */
  readonly epoch: number;
}

/** Plain stores of a location that a late load may still return. */
const HISTORY_MAX = 8;

/** Kinds of access that the race detector tells apart: 2 for a write, plus 1 for an atomic access. */
const KINDS = 4;

/** Who stored what was there at the start. */
const NOBODY = -1;

const WORD = -1;

interface Cell {
  /** Oldest first; the last one is what memory holds. */
  readonly history: Stored[];
  /** How many stores have left the history. */
  dropped: number;
  /** By task, the place of the newest store that it has seen. */
  readonly seen: Int32Array;
  /** What an atomic load learns. */
  readonly published: Int32Array;
  /** By task and kind of access, the task's own clock at the last one. */
  readonly accesses: Int32Array;
}

export class WeakMemory {
  readonly #mode: MemoryMode;
  readonly #choose: Choose;
  readonly #racy: ReadonlySet<number>;
  readonly #tasks: number;
  readonly #backing: Backing;
  readonly #cells: Cell[] = [];
  readonly #buffers: Buffered[][];
  readonly #clocks: Int32Array[];
  readonly races: Race[] = [];

  constructor(
    options: {
      readonly mode: MemoryMode;
      readonly tasks: number;
      readonly racy?: ReadonlySet<number>;
      readonly backing: Backing;
    },
    choose: Choose,
  ) {
    const { mode, tasks, racy = new Set(), backing } = options;
    this.#mode = mode;
    this.#choose = choose;
    this.#racy = racy;
    this.#tasks = tasks;
    this.#backing = backing;
    this.#buffers = Array.from({ length: tasks }, () => []);
    this.#clocks = Array.from({ length: tasks }, () => new Int32Array(tasks));
  }

  /** The next cell, from 0; what is in it was there at the start. */
  addCell(): number {
    return (
      this.#cells.push({
        history: [{ value: 0, task: NOBODY, epoch: 0 }],
        dropped: 0,
        seen: new Int32Array(this.#tasks),
        published: new Int32Array(this.#tasks),
        accesses: new Int32Array(this.#tasks * KINDS),
      }) - 1
    );
  }

  load(task: number, cell: number, order: Order): number {
    if (order === "atomic") return this.modify(task, cell, undefined);
    this.#tick(task);
    this.#note(task, cell, 0);
    let value: number | undefined;
    for (const stored of item(this.#buffers, task)) {
      if (stored.cell !== cell) continue;
      value = stored.mask === WORD ? stored.value : merged(value ?? this.valueOf(cell), stored);
    }
    return value ?? (this.#mode === "relaxed" ? this.#late(task, cell) : this.valueOf(cell));
  }

  /** `mask`: the bits of the word that are stored. */
  store(task: number, cell: number, value: number, order: Order, mask = WORD): void {
    if (order === "atomic") {
      this.modify(task, cell, () => value, { learns: false });
      return;
    }
    this.#tick(task);
    this.#note(task, cell, 2);
    const stored = { cell, value, mask, epoch: at(item(this.#clocks, task), task) };
    if (this.#mode === "sc") this.#arrive(task, stored);
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
    this.drainAll(task);
    const before = this.valueOf(cell);
    const value = change?.(before);
    this.touch(task, cell, { reads: learns, writes: value !== undefined, atomic: true });
    if (value !== undefined) this.#backing.store(cell, value);
    return before;
  }

  /**
   * An access that is made straight to the memory behind, right after this call. `judged`: the race detector hears of it.
   */
  touch(
    task: number,
    cell: number,
    access: { readonly reads: boolean; readonly writes: boolean; readonly atomic: boolean },
    { judged = true } = {},
  ): void {
    const { reads, writes, atomic } = access;
    const { published } = item(this.#cells, cell);
    const clock = item(this.#clocks, task);
    this.#tick(task);
    if (reads && atomic) join(clock, published);
    if (judged) this.#note(task, cell, (writes ? 2 : 0) + (atomic ? 1 : 0));
    if (!writes) {
      this.#see(task, cell);
      return;
    }
    this.#renew(cell, task, at(clock, task));
    // Who reads a plain store learns nothing.
    if (atomic) published.set(clock);
    else published.fill(0);
    this.#see(task, cell);
  }

  /** `later` learns whatever `earlier` knows. */
  order(earlier: number, later: number): void {
    join(item(this.#clocks, later), item(this.#clocks, earlier));
  }

  /** In how many ways one store of this task can arrive as the next step. */
  drainable(task: number): number {
    const buffer = item(this.#buffers, task);
    if (this.#mode !== "relaxed") return Math.min(buffer.length, 1);
    return new Set(buffer.map(({ cell }) => cell)).size;
  }

  /** The cell whose store is the oldest on its way; undefined: there is none. */
  oldest(task: number): number | undefined {
    return item(this.#buffers, task)[0]?.cell;
  }

  /** The `which`-th of the locations that this task has stored to, in order of its first store, gets its oldest one. */
  drain(task: number, which: number): void {
    const buffer = item(this.#buffers, task);
    const cells = [...new Set(buffer.map(({ cell }) => cell))];
    const cell = this.#mode === "relaxed" ? item(cells, which) : item(buffer, 0).cell;
    const index = buffer.findIndex((stored) => stored.cell === cell);
    this.#arrive(task, item(buffer, index));
    buffer.splice(index, 1);
  }

  /** Everything that this task has stored arrives. */
  drainAll(task: number): void {
    for (const stored of item(this.#buffers, task).splice(0)) this.#arrive(task, stored);
  }

  /** What memory holds. */
  valueOf(cell: number): number {
    return this.#backing.load(cell);
  }

  /** A store that this task may still come upon, by choice. */
  #late(task: number, cell: number): number {
    const { history, seen, dropped } = item(this.#cells, cell);
    const clock = item(this.#clocks, task);
    let oldest = history.length - 1;
    for (; oldest > 0 && oldest > at(seen, task) - dropped; oldest--) {
      const { task: writer, epoch } = item(history, oldest);
      // A store that happened before this load hides every store before it.
      if (writer === NOBODY || epoch <= at(clock, writer)) break;
    }
    const ways = history.length - Math.max(oldest, 0);
    const back = ways === 1 ? 0 : this.#choose(ways);
    const place = history.length - 1 - back;
    seen[task] = place + dropped;
    return back === 0 ? this.valueOf(cell) : item(history, place).value;
  }

  #arrive(task: number, stored: Buffered): void {
    const { cell } = stored;
    this.#renew(cell, task, stored.epoch);
    this.#backing.store(cell, merged(this.valueOf(cell), stored));
    item(this.#cells, cell).published.fill(0);
    this.#see(task, cell);
  }

  /** What the cell holds becomes one of its older values. */
  #renew(cell: number, task: number, epoch: number): void {
    const state = item(this.#cells, cell);
    const { history } = state;
    item(history, history.length - 1).value = this.valueOf(cell);
    history.push({ value: 0, task, epoch });
    if (history.length <= HISTORY_MAX) return;
    history.shift();
    state.dropped++;
  }

  #see(task: number, cell: number): void {
    const { history, seen, dropped } = item(this.#cells, cell);
    seen[task] = history.length - 1 + dropped;
  }

  #tick(task: number): void {
    const clock = item(this.#clocks, task);
    clock[task] = at(clock, task) + 1;
  }

  /** Enters an access of `kind` into the race detector. */
  #note(task: number, cell: number, kind: number): void {
    const clock = item(this.#clocks, task);
    const { accesses } = item(this.#cells, cell);
    const isWrite = kind >= 2;
    const isPlain = kind % 2 === 0;
    for (let other = 0; other < this.#tasks; other++) {
      if (other === task || this.#racy.has(cell)) continue;
      for (let earlier = isWrite ? 0 : 2; earlier < KINDS; earlier++) {
        if (!isPlain && earlier % 2 === 1) continue;
        const epoch = at(accesses, other * KINDS + earlier);
        if (epoch > at(clock, other)) this.races.push({ cell, tasks: [other, task] });
      }
    }
    accesses[task * KINDS + kind] = at(clock, task);
  }
}

/** A memory of its own: `cells` are its starting values. */
export function weakMemory(
  options: {
    readonly mode: MemoryMode;
    readonly tasks: number;
    readonly cells: readonly number[];
    readonly racy?: ReadonlySet<number>;
  },
  choose: Choose,
): WeakMemory {
  const { cells, ...rest } = options;
  const words = [...cells];
  const backing: Backing = {
    load: (cell) => item(words, cell),
    store: (cell, value) => {
      words[cell] = value;
    },
  };
  const memory = new WeakMemory({ ...rest, backing }, choose);
  for (const _ of cells) memory.addCell();
  return memory;
}

const merged = (word: number, { value, mask }: Pick<Buffered, "value" | "mask">): number =>
  (word & ~mask) | (value & mask);

/** The later of two clocks, task by task. */
function join(clock: Int32Array, other: Int32Array): void {
  for (let task = 0; task < clock.length; task++) {
    clock[task] = Math.max(at(clock, task), at(other, task));
  }
}
