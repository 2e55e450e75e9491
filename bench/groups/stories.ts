/**
 * The focused stories under the portfolio: what one schedule of each costs on one core, with everything that belongs to it (a
 * fresh machine, its programs, the checks, each 64th twice, each 256th audited from nothing), against an empty step.
 *
 * Rule: a sample is as many schedules as the rarest of these needs; the yardstick is timed after each sample.
 */
import { type OpenExploration, openExploration } from "../../explore/exploration.ts";
import { STORIES } from "../../explore/stories/catalogue.ts";
import { prepareStory } from "../../explore/story.ts";
import { assert } from "../../shared/assert.ts";
import { type Comparison, FULL_PACE, type Probe, percentile, spreadOf } from "../measure.ts";
import { type Row, rowOf, short } from "../rows.ts";
import { startProbe } from "../workers.ts";
import type { Bench } from "../yardsticks.ts";

const SEED = 7;
const SCHEDULES = 256;
const ROUNDS = { full: 5, quick: 3 };
/** Chunks of the yardstick beside each sample. */
const CHUNKS = 4;

interface Figure {
  readonly name: string;
  readonly comparison: Comparison;
}

/** A row for each story, the slowest first. */
export async function storyRows(bench: Bench): Promise<readonly Row[]> {
  const figures = (await figuresOf(bench)).toSorted((one, other) => nsOf(other) - nsOf(one));
  return [
    ...summaryRows(figures),
    ...figures.map(({ name, comparison }) =>
      rowOf(specOf(name, comparison.measured.p50), comparison),
    ),
  ];
}

/** What a schedule costs over all stories. */
export async function storySummary(bench: Bench): Promise<readonly Row[]> {
  return summaryRows(await figuresOf(bench));
}

const nsOf = ({ comparison }: Figure): number => comparison.measured.p50;

const specOf = (name: string, ns: number, said = "") => ({
  name,
  unit: "us",
  scale: 1000,
  yardstick: "empty step",
  note: `${short(1e9 / ns)} schedules/s a core${said}`,
});

function summaryRows(figures: readonly Figure[]): readonly Row[] {
  const costs = Float64Array.from(figures, nsOf).toSorted();
  const steps = Float64Array.from(figures, ({ comparison }) => comparison.yardstick.p50).toSorted();
  const step = percentile(steps, 0.5);
  const mean = costs.reduce((sum, ns) => sum + ns, 0) / costs.length;
  const slowest = costs.at(-1) ?? Number.NaN;
  const name = figures.find((figure) => nsOf(figure) === slowest)?.name ?? "";
  const row = (title: string, ns: number, said: string): Row =>
    rowOf(specOf(title, ns, said), {
      measured: { ...spreadOf(costs), p50: ns },
      yardstick: spreadOf(steps),
      ratio: ns / step,
    });
  return [
    row(`focused schedule, mean of ${figures.length} stories`, mean, ", as many of each"),
    row("focused schedule, the median story", percentile(costs, 0.5), "; aimed at: 5000"),
    row(`focused schedule, the slowest story: ${name}`, slowest, ""),
  ];
}

async function figuresOf(bench: Bench): Promise<readonly Figure[]> {
  const step = await startProbe("explore-points");
  try {
    await step.calibrate(bench.pace.chunkUs);
    const rounds = bench.pace === FULL_PACE ? ROUNDS.full : ROUNDS.quick;
    const figures: Figure[] = [];
    for (const story of STORIES) {
      const limits = { schedules: 0, seed: SEED, strategy: "portfolio" };
      const open = openExploration(prepareStory(story), limits);
      assert(open !== undefined, "the portfolio is a strategy");
      // Once unmeasured, so that what is hot has been compiled.
      scheduleNs(open);
      figures.push({ name: story.name, comparison: await timed(open, step, rounds) });
      assert(open.result().failure === undefined, "the machine is sound");
    }
    return figures;
  } finally {
    await step.close();
  }
}

async function timed(open: OpenExploration, step: Probe, rounds: number): Promise<Comparison> {
  const own: number[] = [];
  const other: number[] = [];
  for (let round = 0; round < rounds; round++) {
    own.push(scheduleNs(open));
    other.push(...(await step.round(CHUNKS)));
  }
  const measured = spreadOf(Float64Array.from(own));
  const yardstick = spreadOf(Float64Array.from(other));
  return { measured, yardstick, ratio: measured.p50 / yardstick.p50 };
}

/** Of this thread's own time: a sample is long enough for a neighbour to take the core in the middle of it. */
function scheduleNs(open: OpenExploration): number {
  const before = process.threadCpuUsage();
  open.go(SCHEDULES);
  const { user, system } = process.threadCpuUsage(before);
  return ((user + system) * 1000) / SCHEDULES;
}
