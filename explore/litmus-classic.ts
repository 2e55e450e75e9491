/**
 * The classic litmus tests, once with plain accesses and once with atomic ones.
 *
 * Rules: with atomic accesses an outcome examined is forbidden everywhere; with plain ones the relaxed memory must show
 * it, except load buffering and read-read coherence, which the simulation cannot or does not produce.
 */
import { type Litmus, load, NEVER, store } from "./litmus.ts";
import type { Order } from "./weak-memory.ts";

const X = 0;
const Y = 1;
const Z = 2;

type Shape = (x: Order, y: Order, z: Order) => Pick<Litmus, "tasks" | "outcome" | "isSeen">;

const SB: Shape = (x, y) => ({
  tasks: [
    [store(X, 1, x), load(Y, y)],
    [store(Y, 1, y), load(X, x)],
  ],
  outcome: "both read 0",
  isSeen: ([a, b]) => a?.[0] === 0 && b?.[0] === 0,
});

const MP: Shape = (x, y) => ({
  tasks: [
    [store(X, 1, x), store(Y, 1, y)],
    [load(Y, y), load(X, x)],
  ],
  outcome: "flag read, data old",
  isSeen: ([, b]) => b?.[0] === 1 && b[1] === 0,
});

const LB: Shape = (x, y) => ({
  tasks: [
    [load(X, x), store(Y, 1, y)],
    [load(Y, y), store(X, 1, x)],
  ],
  outcome: "both read 1",
  isSeen: ([a, b]) => a?.[0] === 1 && b?.[0] === 1,
});

const IRIW: Shape = (x, y) => ({
  tasks: [[store(X, 1, x)], [store(Y, 1, y)], [load(X, x), load(Y, y)], [load(Y, y), load(X, x)]],
  outcome: "readers disagree on the order",
  isSeen: ([, , c, d]) => c?.[0] === 1 && c[1] === 0 && d?.[0] === 1 && d[1] === 0,
});

const WRC: Shape = (x, y) => ({
  tasks: [[store(X, 1, x)], [load(X, x), store(Y, 1, y)], [load(Y, y), load(X, x)]],
  outcome: "passed on, data old",
  isSeen: ([, b, c]) => b?.[0] === 1 && c?.[0] === 1 && c[1] === 0,
});

const ISA2: Shape = (x, y, z) => ({
  tasks: [
    [store(X, 1, x), store(Y, 1, y)],
    [load(Y, y), store(Z, 1, z)],
    [load(Z, z), load(X, x)],
  ],
  outcome: "two flags on, data old",
  isSeen: ([, b, c]) => b?.[0] === 1 && c?.[0] === 1 && c[1] === 0,
});

const TWO_PLUS_TWO_W: Shape = (x, y) => ({
  tasks: [
    [store(X, 1, x), store(Y, 2, y)],
    [store(Y, 1, y), store(X, 2, x)],
  ],
  outcome: "both first stores last",
  isSeen: (_, cells) => cells[X] === 1 && cells[Y] === 1,
});

const R: Shape = (x, y) => ({
  tasks: [
    [store(X, 1, x), store(Y, 1, y)],
    [store(Y, 2, y), load(X, x)],
  ],
  outcome: "y ends as 2, x read as 0",
  isSeen: ([, b], cells) => cells[Y] === 2 && b?.[0] === 0,
});

const S: Shape = (x, y) => ({
  tasks: [
    [store(X, 2, x), store(Y, 1, y)],
    [load(Y, y), store(X, 1, x)],
  ],
  outcome: "flag read, x ends as 2",
  isSeen: ([, b], cells) => b?.[0] === 1 && cells[X] === 2,
});

const COHERENCE_RR: Shape = (x) => ({
  tasks: [[store(X, 1, x)], [load(X, x), load(X, x)]],
  outcome: "new, then old",
  isSeen: ([, b]) => b?.[0] === 1 && b[1] === 0,
});

const COHERENCE_WW: Shape = (x) => ({
  tasks: [[store(X, 1, x), store(X, 2, x)]],
  outcome: "first store last",
  isSeen: (_, cells) => cells[X] !== 2,
});

const COHERENCE_WR: Shape = (x) => ({
  tasks: [[store(X, 1, x), load(X, x)]],
  outcome: "own store not seen",
  isSeen: ([a]) => a?.[0] !== 1,
});

const COHERENCE_RW: Shape = (x) => ({
  tasks: [[load(X, x), store(X, 1, x)]],
  outcome: "own later store seen",
  isSeen: ([a]) => a?.[0] !== 0,
});

/** Seen in relaxed; real threads may show it or not. */
const WEAK: Litmus["expected"] = { sc: "never", tso: "never", relaxed: "seen", threads: "maybe" };
/** A FIFO store buffer is enough to show it. */
const BUFFERED: Litmus["expected"] = { ...WEAK, tso: "seen" };
/** Allowed by the language, out of the simulation's reach. */
const UNSIMULATED: Litmus["expected"] = { ...NEVER, threads: "maybe" };

const plain = (name: string, shape: Shape, expected: Litmus["expected"], races = true): Litmus => ({
  name,
  accesses: "plain",
  cells: [0, 0, 0],
  ...shape("plain", "plain", "plain"),
  expected,
  races,
});

const atomic = (name: string, shape: Shape): Litmus => ({
  name,
  accesses: "atomic",
  cells: [0, 0, 0],
  ...shape("atomic", "atomic", "atomic"),
  expected: NEVER,
  races: false,
});

/** Both columns of one row. */
const both = (name: string, shape: Shape, expected: Litmus["expected"], races = true): Litmus[] => [
  plain(name, shape, expected, races),
  atomic(name, shape),
];

export const classicTests = (): readonly Litmus[] => [
  ...both("SB", SB, BUFFERED),
  ...both("MP", MP, WEAK),
  { ...atomic("MP", MP), ...MP("plain", "atomic", "plain"), accesses: "f atomic", races: true },
  ...both("LB", LB, UNSIMULATED),
  ...both("IRIW", IRIW, WEAK),
  ...both("WRC", WRC, WEAK),
  ...both("ISA2", ISA2, WEAK),
  {
    ...atomic("ISA2", ISA2),
    ...ISA2("plain", "atomic", "atomic"),
    accesses: "f, g atomic",
    races: true,
  },
  ...both("2+2W", TWO_PLUS_TWO_W, WEAK),
  ...both("R", R, BUFFERED),
  ...both("S", S, WEAK),
  ...both("CoRR", COHERENCE_RR, UNSIMULATED),
  ...both("CoWW", COHERENCE_WW, NEVER, false),
  ...both("CoWR", COHERENCE_WR, NEVER, false),
  ...both("CoRW", COHERENCE_RW, NEVER, false),
];
