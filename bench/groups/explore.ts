/**
 * The one-thread engine: steps a second, and what a fresh machine costs against a run of it.
 */
import { type Row, rowOf, short } from "../rows.ts";
import { startProbe } from "../workers.ts";
import type { Bench } from "../yardsticks.ts";
import { storySummary } from "./stories.ts";

export async function exploreRows(bench: Bench): Promise<readonly Row[]> {
  const mapping = await bench.measure("explore-grants", {}, "G");
  const step = await startProbe("explore-points");
  const schedule = await bench.measure("explore-story", {}, step);
  const storyStep = await bench.measure("explore-story-steps", {}, step);
  await step.close();
  const run = await startProbe("explore-hundred");
  const fresh = await bench.measure("explore-fresh", {}, run);
  await run.close();
  return [
    await bench.row(
      { name: "explorer step: choose, resume, return (26)", yardstick: "G", target: { most: 4 } },
      "explore-points",
    ),
    rowOf(
      {
        name: "explorer step, two domains that map and look",
        yardstick: "G",
        note: `${short(1e9 / mapping.measured.p50)} steps/s`,
      },
      mapping,
    ),
    rowOf(
      {
        name: "focused schedule of revoke: fresh machine, run, checks",
        unit: "us",
        scale: 1000,
        yardstick: "empty step",
        note: `${short(1e9 / schedule.measured.p50)} schedules/s a core`,
      },
      schedule,
    ),
    rowOf(
      {
        name: "focused schedule of revoke, a step",
        yardstick: "empty step",
        note: `${short(1e9 / storyStep.measured.p50)} points/s`,
      },
      storyStep,
    ),
    ...(await storySummary(bench)),
    rowOf(
      {
        name: "fresh machine for the next run, to 100 steps (31)",
        unit: "us",
        scale: 1000,
        yardstick: "run",
        target: { most: 0.5 },
      },
      fresh,
    ),
  ];
}
