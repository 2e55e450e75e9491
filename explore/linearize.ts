/**
 * Whether a history of overlapping operations could have been made one at a time: the search of Wing and Gong with Lowe's
 * memory of what was tried.
 *
 * An operation takes effect at one point between its call and its return. One that never returned may have taken
 * effect or not. The search takes, again and again, some operation that nobody still outstanding precedes and
 * that the model allows next; a set of operations done that led to the same state before is not tried twice.
 *
 * Rules: "violation" is certain; "inconclusive" says that the bound was reached, and is nobody's success.
 * Ours, after Lowe, "Testing for linearizability" (2017).
 */
import { at, item } from "../shared/assert.ts";

export interface Operation<Op> {
  readonly op: Op;
  /** Place of the call and of the return in the order of the history; no return: pending. */
  readonly called: number;
  readonly returned: number | undefined;
  /** Index of an operation that must take effect before this one: the first half of a split operation. */
  readonly after?: number;
}

export interface Model<State, Op> {
  readonly start: State;
  /** The state after `op` took effect with the result that it had; undefined when that is not possible. */
  step(state: State, op: Op): State | undefined;
  /** Equal for equal states only. */
  key(state: State): string;
}

export type Verdict =
  | { readonly kind: "linearizable" }
  | {
      readonly kind: "violation";
      /** The longest order found, as indices. */
      readonly prefix: readonly number[];
      /** What could have come next and was not allowed. */
      readonly stuck: readonly number[];
    }
  | { readonly kind: "inconclusive" };

/** Steps of one search: some seconds. */
const STEPS_MAX = 2_000_000;

/** Which operations are done, 32 a word. */
class Done {
  readonly #words: Int32Array;
  constructor(count: number) {
    this.#words = new Int32Array(Math.ceil(count / 32));
  }
  has(index: number): boolean {
    return (at(this.#words, index >>> 5) & (1 << (index & 31))) !== 0;
  }
  flip(index: number): void {
    this.#words[index >>> 5] = at(this.#words, index >>> 5) ^ (1 << (index & 31));
  }
  get key(): string {
    return this.#words.join();
  }
}

interface Choice<State> {
  readonly state: State;
  readonly next: readonly number[];
  /** Of `next`, the one to be tried. */
  tried: number;
}

export function linearize<State, Op>(
  model: Model<State, Op>,
  operations: readonly Operation<Op>[],
): Verdict {
  const done = new Done(operations.length);
  const seen = new Set<string>();
  const path: number[] = [];
  let best: { prefix: readonly number[]; stuck: readonly number[] } = { prefix: [], stuck: [] };
  const stack: Choice<State>[] = [choiceOf(operations, done, model.start)];
  for (let steps = 0; steps < STEPS_MAX; steps++) {
    const top = item(stack, stack.length - 1);
    if (isComplete(operations, done)) return { kind: "linearizable" };
    const index = top.next[top.tried];
    if (index === undefined) {
      stack.pop();
      const undone = path.pop();
      if (undone === undefined) return { kind: "violation", ...best };
      done.flip(undone);
      continue;
    }
    top.tried += 1;
    const state = model.step(top.state, item(operations, index).op);
    if (state === undefined) continue;
    done.flip(index);
    const key = `${done.key};${model.key(state)}`;
    if (seen.has(key)) {
      done.flip(index);
      continue;
    }
    seen.add(key);
    path.push(index);
    const choice = choiceOf(operations, done, state);
    if (path.length > best.prefix.length) best = { prefix: [...path], stuck: choice.next };
    stack.push(choice);
  }
  return { kind: "inconclusive" };
}

/** What returned must have taken effect; what is pending need not. */
const isComplete = (operations: readonly Operation<unknown>[], done: Done): boolean =>
  operations.every(({ returned }, index) => returned === undefined || done.has(index));

/** Operations that may take effect next: called before anything outstanding has returned. */
function choiceOf<State>(
  operations: readonly Operation<unknown>[],
  done: Done,
  state: State,
): Choice<State> {
  let first = Number.POSITIVE_INFINITY;
  for (const [index, { returned }] of operations.entries()) {
    if (!done.has(index) && returned !== undefined && returned < first) first = returned;
  }
  const next: number[] = [];
  for (const [index, { called, after }] of operations.entries()) {
    if (done.has(index) || called > first) continue;
    if (after === undefined || done.has(after)) next.push(index);
  }
  return { state, next, tried: 0 };
}
