/**
 * Whether a run's grant operations are legal in the order in which the hypervisor committed them: linear in their number, where
 * the search of explore/linearize.ts tries orders.
 *
 *   every reference: marked operations in the order of their marks; what has no mark of its own, such as the end of a
 *   pin, is fitted in where it is needed, and not later than its operation returns
 *
 * Rules: what looks illegal is given to the search before it is reported. If that finds an order, a mark stands in the wrong
 * place (D-2), which is a fault of the marks and not of the machine. Copies have no mark: their references are searched.
 * Ours; stress spec section 3.4.
 */
import { assert, at, item } from "../shared/assert.ts";
import { type HistoryRecord, readHistory } from "../shared/history.ts";
import { HISTORY_WORDS, type Layout } from "../shared/layout.ts";
import type { Words } from "../shared/mem.ts";
import { GNTST_okay } from "../shared/status.ts";
import { TRACE_GRANT_MAP, TRACE_GRANT_REFUSED, TRACE_GRANT_UNMAP } from "../shared/trace.ts";
import type { Commit, CommitLog } from "./commits.ts";
import { type GrantOp, type GrantState, grantModel } from "./grant-model.ts";
import { historiesOf, nameOf, type ReferenceHistory, searchOrder } from "./history.ts";
import type { Model, Operation } from "./linearize.ts";
import type { Machine } from "./state.ts";

/** Judges a run's history; `commits` undefined: there are no marks, and the search alone decides. Findings are H-1 or D-2. */
export function judgeRun(
  records: readonly HistoryRecord[],
  commits: readonly Commit[] | undefined,
): readonly string[] {
  return historiesOf(records).flatMap((history) => {
    const isMarked = history.operations.every(({ op }) => op.f !== "copy");
    if (commits === undefined || !isMarked) return broken(searchOrder(history));
    const illegal = replayCommits(history, commits);
    if (illegal === undefined) return [];
    const found = broken(searchOrder(history));
    return found.length > 0 ? found : [`D-2: grant ${history.key}: ${illegal}`];
  });
}

const broken = (sentences: readonly string[]): readonly string[] =>
  sentences.map((text) => `H-1: ${text}`);

/** Histories that have been judged sound. */
const HISTORIES_MAX = 100_000;

/** `judgeRun` of a machine that is over, but for what has been judged before: most schedules lead to one of few histories. */
export function judgeOnce(
  sound: Set<number>,
  { words, layout }: Machine,
  log: CommitLog,
): readonly string[] {
  log.look();
  const { commits } = log;
  const key = historyKey(words, layout, commits ?? []);
  if (sound.has(key)) return [];
  const { records, lost } = readHistory(words, layout);
  assert(lost === 0, "a story's history has room for all that its programs call");
  const found = judgeRun(records, commits);
  if (found.length === 0 && sound.size < HISTORIES_MAX) sound.add(key);
  return found;
}

function historyKey(words: Words, layout: Layout, commits: readonly Commit[]): number {
  let one = 0x811c9dc5;
  let other = 0x2545f491;
  const mix = (word: number): void => {
    one = Math.imul(one ^ word, 0x01000193);
    other = Math.imul(other + word, 0x85ebca6b) ^ (other >>> 13);
  };
  const end = layout.history + HISTORY_WORDS * (1 + at(words, layout.history));
  for (let i = layout.history; i < end; i++) mix(words[i] ?? 0);
  for (const { at: place, type, domain, granter, ref } of commits) {
    mix(place * 16 + type);
    mix((domain << 24) ^ (granter << 16) ^ ref);
  }
  return (one >>> 0) * 2 ** 21 + ((other >>> 0) & 0x1fffff);
}

/** An operation, with its mark. Undefined: it has none, and is fitted in. */
export interface Marked extends Operation<GrantOp> {
  readonly mark: Mark | undefined;
}

interface Mark {
  /** Between two records of the history. */
  readonly place: number;
  /** Step of the run; undefined: that of the operation's return. */
  readonly step?: number;
  /** Undefined: a guest's own store. */
  readonly commit?: Commit;
}

/** Each operation of a reference with the mark that is its own. */
export function markedOperations(
  { operations, granter, ref }: ReferenceHistory,
  commits: readonly Commit[],
): readonly Marked[] {
  const marks = commits.filter((one) => one.granter === granter && one.ref === ref);
  const taken = new Set<Commit>();
  return operations.map((one) => ({ ...one, mark: markOf(one, marks, taken) }));
}

/** A sentence about the first operation that is not legal where its mark stands. */
function replayCommits(history: ReferenceHistory, commits: readonly Commit[]): string | undefined {
  const steps = markedOperations(history, commits);
  const stray = commits.find(
    (commit) =>
      commit.type === TRACE_GRANT_MAP &&
      commit.granter === history.granter &&
      commit.ref === history.ref &&
      steps.every(({ mark }) => mark?.commit !== commit),
  );
  if (stray !== undefined) return `d${stray.domain} has mapped it, which nobody called`;
  return new Replay(grantModel(history.ref), steps).run();
}

function markOf(
  one: Operation<GrantOp>,
  marks: readonly Commit[],
  taken: Set<Commit>,
): Mark | undefined {
  const { op, called, returned } = one;
  // A guest's own store and its note are one step, and the log has looked before it.
  if (op.f === "grant" || op.f === "end") {
    return returned === undefined ? undefined : { place: returned - 0.25 };
  }
  if (op.f !== "map" && op.f !== "unmap") return undefined;
  const mark = marks.find(
    (candidate) =>
      !taken.has(candidate) &&
      candidate.domain === op.dom &&
      fits(candidate, op, returned) &&
      candidate.at > called &&
      candidate.at <= (returned ?? Number.POSITIVE_INFINITY),
  );
  if (mark === undefined) return undefined;
  taken.add(mark);
  return { place: mark.at - 0.5, step: mark.step, commit: mark };
}

/** Whether a mark is of what the operation was answered; whoever has no answer may have been refused. */
function fits({ type }: Commit, op: GrantOp, returned: number | undefined): boolean {
  if (op.f === "unmap") return type === TRACE_GRANT_UNMAP && op.status === GNTST_okay;
  if (op.f !== "map") return false;
  const wanted = op.status === GNTST_okay ? TRACE_GRANT_MAP : TRACE_GRANT_REFUSED;
  return type === wanted && (returned !== undefined || type === TRACE_GRANT_MAP);
}

class Replay {
  readonly #model: Model<GrantState, GrantOp>;
  readonly #steps: readonly Marked[];
  readonly #done: boolean[] = [];
  #state: GrantState;

  constructor(model: Model<GrantState, GrantOp>, steps: readonly Marked[]) {
    this.#model = model;
    this.#steps = steps;
    this.#state = model.start;
  }

  run(): string | undefined {
    const marked = [...this.#steps.keys()].filter((i) => item(this.#steps, i).mark !== undefined);
    marked.sort((a, b) => this.#markOf(a) - this.#markOf(b));
    for (const i of marked) {
      const late = this.#before(this.#markOf(i));
      if (late !== undefined) return late;
      if (!this.#take(i) && !this.#makeRoom(i) && !this.#isMarked(i)) return this.#illegal(i);
    }
    return this.#before(Number.POSITIVE_INFINITY);
  }

  /** Whether the granter was refused by the bits of a map that sets them first and commits afterwards. */
  #isMarked(i: number): boolean {
    const place = this.#markOf(i);
    const { op } = item(this.#steps, i);
    if (op.f !== "end" || op.done) return false;
    return this.#steps.some(
      (other) => other.op.f === "map" && other.called < place && (other.mark?.place ?? 0) > place,
    );
  }

  /** Fits in what has returned before `place`, and what changes nothing and is legal now. */
  #before(place: number): string | undefined {
    for (const [i, { mark, called, returned, op }] of this.#steps.entries()) {
      if (mark !== undefined || this.#done[i] === true || called >= place) continue;
      const isDue = returned !== undefined && returned <= place;
      if (!isDue && !isInert(op)) continue;
      if (!this.#take(i) && isDue) return this.#illegal(i);
    }
    return undefined;
  }

  /** Fits in ends of pins that were due at any time, one by one, until step `i` is legal. */
  #makeRoom(i: number): boolean {
    const place = this.#markOf(i);
    for (const [other, { mark, called, op }] of this.#steps.entries()) {
      if (mark !== undefined || this.#done[other] === true || called >= place) continue;
      // A map that left no mark never happened.
      if (isInert(op) || op.f === "map") continue;
      if (this.#take(other) && this.#take(i)) return true;
    }
    return false;
  }

  #take(i: number): boolean {
    const { op, after } = item(this.#steps, i);
    if (after !== undefined && this.#done[after] !== true) return false;
    const next = this.#model.step(this.#state, op);
    if (next === undefined) return false;
    this.#state = next;
    this.#done[i] = true;
    return true;
  }

  #markOf(i: number): number {
    return item(this.#steps, i).mark?.place ?? Number.POSITIVE_INFINITY;
  }

  #illegal(i: number): string {
    return `"${nameOf(item(this.#steps, i).op)}" is not legal where it took effect`;
  }
}

/** Refusals change nothing. */
const isInert = (op: GrantOp): boolean =>
  (op.f === "map" || op.f === "unmap") && op.status !== GNTST_okay;
