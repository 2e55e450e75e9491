/**
 * The litmus tests: the smallest programs whose outcome tells memory models apart, and the shapes that this machine's
 * protocols rest on. A task is a list or a generator of accesses, so that the simulated memory and real threads run the same text.
 *
 * Rules: the outcome examined is a question about registers and final memory; `expected` says for every way of running
 * whether it must be seen, must never be seen, or may be.
 * Sources: the classic names of Alglave, Maranget, Sarkar and Sewell; RING-*, EVT-*, GNT-* are ours, after the ring,
 * event channel and grant entry protocols of Xen's public headers.
 */
import type { MemoryMode, Order } from "./weak-memory.ts";

export type Access =
  | { readonly kind: "load"; readonly cell: number; readonly order: Order }
  | { readonly kind: "store"; readonly cell: number; readonly value: number; readonly order: Order }
  | { readonly kind: "cas"; readonly cell: number; readonly expect: number; readonly value: number }
  | { readonly kind: "add" | "and" | "or"; readonly cell: number; readonly value: number }
  /** Stores the low half of a cell as 16 bits: the mixed width of test MIX, on real threads only. */
  | { readonly kind: "store-low"; readonly cell: number; readonly value: number }
  /** Sleeps while the cell holds `expect`; answers ASLEEP when nobody ever woke it. */
  | { readonly kind: "wait"; readonly cell: number; readonly expect: number }
  | { readonly kind: "notify"; readonly cell: number };

/**
 * A straight list of accesses, or a program that yields them, is resumed with the value loaded (of a modification: the
 * value before it) and returns its registers.
 */
export type Task = readonly Access[] | (() => Generator<Access, readonly number[], number>);

export const ASLEEP = -1;

export type Way = MemoryMode | "threads";
export type Expectation = "seen" | "never" | "maybe";

export interface Litmus {
  readonly name: string;
  /** `plain`, `atomic`, or which cells are atomic. */
  readonly accesses: string;
  readonly cells: readonly number[];
  readonly tasks: readonly Task[];
  /** In words, for the table. */
  readonly outcome: string;
  readonly isSeen: (registers: readonly (readonly number[])[], cells: readonly number[]) => boolean;
  readonly expected: Readonly<Partial<Record<Way, Expectation>>>;
  /** Whether the race detector must report. */
  readonly races: boolean;
}

export const load = (cell: number, order: Order): Access => ({ kind: "load", cell, order });
export const store = (cell: number, value: number, order: Order): Access => ({
  kind: "store",
  cell,
  value,
  order,
});

/** The loads and modifications of a straight list are its registers, in order. */
export const hasRegister = ({ kind }: Access): boolean => kind !== "store" && kind !== "notify";

export function* programOf(task: Task): Generator<Access, readonly number[], number> {
  if (typeof task === "function") return yield* task();
  const registers: number[] = [];
  for (const access of task) {
    const value = yield access;
    if (hasRegister(access)) registers.push(value);
  }
  return registers;
}

export const NEVER: Litmus["expected"] = {
  sc: "never",
  tso: "never",
  relaxed: "never",
  threads: "never",
};
