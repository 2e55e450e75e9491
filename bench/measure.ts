/**
 * How a figure is taken: chunks of operations are timed, never single ones; the measured thing and its yardstick run
 * alternately, so that a neighbour on the machine slows both; medians are compared.
 *
 *   calibrate (operations that fill a chunk) -> warm up until two rounds agree -> rounds: measured, yardstick, …
 *
 * Rule: absolute times differ by a factor of two and more between runs on a shared machine, ratios much less.
 */

/** What can be timed in rounds. Samples are nanoseconds an operation, one a chunk. */
export interface Probe {
  readonly name: string;
  /** Finds the number of operations that fill a chunk of `chunkUs` microseconds. */
  calibrate(chunkUs: number): Promise<void>;
  round(chunks: number): Promise<Float64Array>;
  close(): Promise<void>;
}

/** How long a comparison takes. */
export interface Pace {
  readonly rounds: number;
  readonly chunks: number;
  readonly chunkUs: number;
}

export const FULL_PACE: Pace = { rounds: 7, chunks: 40, chunkUs: 1500 };
export const QUICK_PACE: Pace = { rounds: 5, chunks: 20, chunkUs: 500 };

/** Two successive rounds that differ by less than this have warmed up. */
const SETTLED = 0.1;
const WARM_ROUNDS_MAX = 6;

/** Percentiles over the chunks of all rounds. p10 is the undisturbed machine. */
export interface Spread {
  readonly p10: number;
  readonly p50: number;
  readonly p90: number;
}

export interface Comparison {
  readonly measured: Spread;
  readonly yardstick: Spread;
  /** Median of the measured rounds over the median of the yardstick's. */
  readonly ratio: number;
}

export function percentile(sorted: Float64Array, part: number): number {
  if (sorted.length === 0) return Number.NaN;
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN;
}

export function spreadOf(samples: Float64Array): Spread {
  const sorted = samples.toSorted();
  const [p10, p50, p90] = [0.1, 0.5, 0.9].map((part) => percentile(sorted, part));
  return { p10: p10 ?? Number.NaN, p50: p50 ?? Number.NaN, p90: p90 ?? Number.NaN };
}

const median = (samples: Float64Array): number => percentile(samples.toSorted(), 0.5);

/** Runs rounds until two successive medians agree. */
async function warmUp(probe: Probe, pace: Pace): Promise<void> {
  await probe.calibrate(pace.chunkUs);
  let before = Number.POSITIVE_INFINITY;
  for (let round = 0; round < WARM_ROUNDS_MAX; round++) {
    const now = median(await probe.round(pace.chunks));
    if (Math.abs(now - before) < SETTLED * before) break;
    before = now;
  }
  // What was compiled meanwhile runs faster: the chunk is measured out once more.
  await probe.calibrate(pace.chunkUs);
}

/** Times both alternately. */
export async function compare(measured: Probe, yardstick: Probe, pace: Pace): Promise<Comparison> {
  await warmUp(measured, pace);
  await warmUp(yardstick, pace);
  const own: Float64Array[] = [];
  const other: Float64Array[] = [];
  for (let round = 0; round < pace.rounds; round++) {
    own.push(await measured.round(pace.chunks));
    other.push(await yardstick.round(pace.chunks));
  }
  return {
    measured: spreadOf(joined(own)),
    yardstick: spreadOf(joined(other)),
    ratio: medianOfRounds(own) / medianOfRounds(other),
  };
}

const medianOfRounds = (rounds: readonly Float64Array[]): number =>
  median(Float64Array.from(rounds, median));

function joined(rounds: readonly Float64Array[]): Float64Array {
  return Float64Array.from(rounds.flatMap((round) => [...round]));
}

/** A probe in this thread, for what takes milliseconds and is awaited: a chunk is one operation. */
export function awaitedProbe(name: string, operation: () => Promise<void>): Probe {
  return {
    name,
    calibrate: async () => {},
    round: async (chunks) => {
      const samples = new Float64Array(chunks);
      for (let chunk = 0; chunk < chunks; chunk++) {
        const startedMs = performance.now();
        await operation();
        samples[chunk] = (performance.now() - startedMs) * 1e6;
      }
      return samples;
    },
    close: async () => {},
  };
}
