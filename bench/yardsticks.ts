/**
 * The yardsticks, each started when it is first asked for and kept for the rows that follow; and whether this machine
 * is quiet enough for rows that need two cores at once.
 *
 *   S spin ping-pong   F sleep ping-pong   R plain read   C compareExchange   W wasm page copy
 *   L bare map+unmap loop   K comlink call   G closure chosen by the seeded generator
 */
import { availableParallelism } from "node:os";
import { startDevice } from "../platform/node.ts";
import {
  type Comparison,
  compare,
  type Pace,
  type Probe,
  type Spread,
  spreadOf,
} from "./measure.ts";
import { type Row, type RowSpec, rowOf } from "./rows.ts";
import type { JobName, Setup } from "./worker-api.ts";
import { startPeer, startProbe } from "./workers.ts";

export type YardstickName = "S" | "F" | "R" | "C" | "W" | "L" | "K" | "G";

/** Words of a ping-pong: two and a flag, each on its own cache line. */
const PING_PONG_BYTES = 3 * 64;
/** Elements of one turn of the bare loop. */
const BARE_BATCH = 32;
/** comlink calls of one chunk. */
const CALLS = 20;
/** A yardstick whose slow chunks take so many times longer than its fast ones measures the neighbours. */
const QUIET = 2;

const STARTS: Readonly<Record<YardstickName, () => Promise<Probe>>> = {
  S: () => pingPong("spin-ping", "spin-pong"),
  F: () => pingPong("sleep-ping", "sleep-pong"),
  R: () => startProbe("plain-read"),
  C: () => startProbe("compare-exchange"),
  W: () => startProbe("wasm-copy"),
  L: () => startProbe("grants-bare", { batch: BARE_BATCH }),
  K: comlinkCalls,
  G: () => startProbe("chosen-closure"),
};

async function pingPong(ping: JobName, pong: JobName): Promise<Probe> {
  const setup: Setup = { words: new SharedArrayBuffer(PING_PONG_BYTES) };
  const peer = await startPeer(pong, setup);
  return await startProbe(ping, setup, [peer]);
}

/** Calls of a worker that has nothing to run, through the platform's own control path. */
async function comlinkCalls(): Promise<Probe> {
  const part = startDevice("comlink", () => {});
  await part.alive(part.api.run());
  return {
    name: "comlink",
    calibrate: async () => {},
    round: async (chunks) => {
      const samples = new Float64Array(chunks);
      for (let chunk = 0; chunk < chunks; chunk++) {
        const startedMs = performance.now();
        for (let call = 0; call < CALLS; call++) await part.api.run();
        samples[chunk] = ((performance.now() - startedMs) * 1e6) / CALLS;
      }
      return samples;
    },
    close: () => part.terminate(),
  };
}

/** Why a row is skipped; `meanwhile` are the spreads of S in the row's own rounds. */
type Skip = (meanwhile: readonly Spread[]) => Promise<string | undefined>;

export class Bench {
  readonly pace: Pace;
  /** The file behind the disk. */
  readonly path: string;
  readonly #started = new Map<YardstickName, Probe>();

  constructor(pace: Pace, path: string) {
    this.pace = pace;
    this.path = path;
  }

  async yardstick(name: YardstickName): Promise<Probe> {
    const known = this.#started.get(name);
    if (known !== undefined) return known;
    const probe = await STARTS[name]();
    this.#started.set(name, probe);
    return probe;
  }

  /** Starts `job`, times it against a yardstick, and ends it. */
  async measure(
    job: JobName | Probe,
    setup: Setup,
    yardstick: YardstickName | Probe,
  ): Promise<Comparison> {
    const other = typeof yardstick === "string" ? await this.yardstick(yardstick) : yardstick;
    const probe = typeof job === "string" ? await startProbe(job, setup) : job;
    try {
      return await compare(probe, other, this.pace);
    } finally {
      if (typeof job === "string") await probe.close();
    }
  }

  /** One row: `measure`, judged. */
  async row(
    spec: Omit<RowSpec, "yardstick"> & { readonly yardstick: YardstickName },
    job: JobName,
    setup: Setup = {},
  ): Promise<Row> {
    return rowOf(spec, await this.measure(job, setup, spec.yardstick));
  }

  /** As `row`, for what needs two quiet cores: S is measured before and after, and the row skipped if it spreads. */
  async rowOnTwoCores(
    spec: Omit<RowSpec, "yardstick"> & { readonly yardstick: YardstickName },
    job: JobName,
    setup: Setup = {},
  ): Promise<Row> {
    return await this.onTwoCores(async (skip) => {
      const comparison = await this.measure(job, setup, spec.yardstick);
      const meanwhile = spec.yardstick === "S" ? [comparison.yardstick] : [];
      return rowOf({ ...spec, skip: await skip(meanwhile) }, comparison);
    });
  }

  /**
   * Calls `measure` with a function that says afterwards why its rows are to be skipped, if they are: S, before, after
   * and `meanwhile`, is not what it was.
   */
  async onTwoCores<Result>(measure: (skip: Skip) => Promise<Result>): Promise<Result> {
    const before = await this.#spinSpread();
    return await measure(async (meanwhile) => {
      if (availableParallelism() < 2) return "fewer than two cores";
      const spreads = [before, ...meanwhile, await this.#spinSpread()];
      const low = Math.min(...spreads.map(({ p10 }) => p10));
      const high = Math.max(...spreads.map(({ p90 }) => p90));
      if (high <= QUIET * low) return undefined;
      return `S itself spreads from ${low.toFixed(0)} to ${high.toFixed(0)} ns: others use the cores`;
    });
  }

  async #spinSpread(): Promise<Spread> {
    const probe = await this.yardstick("S");
    await probe.calibrate(this.pace.chunkUs);
    await probe.round(this.pace.chunks);
    await probe.calibrate(this.pace.chunkUs);
    return spreadOf(await probe.round(2 * this.pace.chunks));
  }

  async close(): Promise<void> {
    for (const probe of this.#started.values()) await probe.close();
  }
}
