/**
 * Runs litmus tests in every way: exhaustively in each simulated memory, and many times on real threads.
 *
 * Rule: a row agrees when what must be seen was seen, what must never be seen was not, and the race detector reported
 * just where it must.
 */
import { Piscina } from "piscina";
import type { Litmus, Way } from "../explore/litmus.ts";
import { litmusTests } from "../explore/litmus-catalogue.ts";
import { outcomesOf } from "../explore/litmus-run.ts";
import type { MemoryMode } from "../explore/weak-memory.ts";
import { at, item } from "../shared/assert.ts";
import { CELL_STRIDE, type LitmusTask, REGISTERS_MAX } from "./litmus-task.ts";

export interface LitmusRow {
  readonly name: string;
  readonly accesses: string;
  readonly outcome: string;
  readonly way: Way;
  readonly expected: "seen" | "never" | "maybe";
  readonly runs: number;
  /** Runs that ended in the outcome. */
  readonly hits: number;
  readonly agrees: boolean;
}

/** Instances between two meetings of the threads: their cells fit a cache level that both cores share. */
const BATCH = 5000;
/** The most tasks of any test. */
const THREADS = 4;

const agreesOf = (litmus: Litmus, way: Way, hits: number): boolean => {
  const expected = litmus.expected[way];
  return expected === "maybe" || (expected === "seen") === hits > 0;
};

function rowOf(litmus: Litmus, way: Way, runs: number, hits: number): Omit<LitmusRow, "agrees"> {
  const { name, accesses, outcome, expected } = litmus;
  return { name, accesses, outcome, way, expected: expected[way] ?? "maybe", runs, hits };
}

/** Exhaustive, in one simulated memory. */
export function simulated(litmus: Litmus, way: MemoryMode): LitmusRow {
  const { runs, hits, raced } = outcomesOf(litmus, way);
  const agrees = agreesOf(litmus, way, hits) && raced === litmus.races;
  return { ...rowOf(litmus, way, runs, hits), agrees };
}

/** Threads that play litmus tests. Close it. */
export class LitmusThreads {
  readonly #pool = new Piscina<LitmusTask, void>({
    filename: new URL("./litmus-task.ts", import.meta.url).href,
    name: "playLitmus",
    minThreads: THREADS,
    maxThreads: THREADS,
    concurrentTasksPerWorker: 1,
  });

  /** At least `iterations` runs of the `test`-th test of the catalogue, fewer when stopped. */
  async run(test: number, iterations: number, stop?: AbortSignal): Promise<LitmusRow> {
    const litmus = litmusTests()[test];
    if (litmus === undefined) throw new RangeError(`no litmus test ${test}`);
    let hits = 0;
    let runs = 0;
    while (runs < iterations && stop?.aborted !== true) {
      hits += await this.#batch(litmus, test);
      runs += BATCH;
    }
    return { ...rowOf(litmus, "threads", runs, hits), agrees: agreesOf(litmus, "threads", hits) };
  }

  /** Ends the threads. */
  async close(): Promise<void> {
    await this.#pool.destroy();
  }

  /** Hits of one batch. */
  async #batch({ tasks, cells: start, isSeen }: Litmus, test: number): Promise<number> {
    const cellsOf = start.length * CELL_STRIDE;
    const cells = new Int32Array(new SharedArrayBuffer(BATCH * cellsOf * 4));
    for (let i = 0; i < BATCH * start.length; i++) {
      cells[i * CELL_STRIDE] = item(start, i % start.length);
    }
    const registers = new Int32Array(
      new SharedArrayBuffer(tasks.length * BATCH * REGISTERS_MAX * 4),
    );
    const shared = {
      test,
      instances: BATCH,
      meeting: new SharedArrayBuffer((1 + tasks.length) * 4),
      cells: cells.buffer,
      registers: registers.buffer,
    };
    await Promise.all(tasks.map((_, task) => this.#pool.run({ ...shared, task })));
    let hits = 0;
    for (let instance = 0; instance < BATCH; instance++) {
      const seen = tasks.map((_, task) => {
        const place = (task * BATCH + instance) * REGISTERS_MAX;
        return [...registers.subarray(place, place + REGISTERS_MAX)];
      });
      const ends = start.map((_, cell) => at(cells, instance * cellsOf + cell * CELL_STRIDE));
      hits += isSeen(seen, ends) ? 1 : 0;
    }
    return hits;
  }
}
