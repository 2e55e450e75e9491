/** Slices of a campaign on the threads of a pool. Ours. */
import { Piscina } from "piscina";
import type { SliceResult, StressSlice } from "./stress-task.ts";

export interface StressPool {
  run(slice: StressSlice, signal: AbortSignal): Promise<SliceResult>;
  close(): Promise<void>;
}

export function openStressPool(jobs: number): StressPool {
  const pool = new Piscina<StressSlice, SliceResult>({
    filename: new URL("./stress-task.ts", import.meta.url).href,
    name: "stressSlice",
    minThreads: jobs,
    maxThreads: jobs,
  });
  return {
    run: (slice, signal) => pool.run(slice, { signal }),
    close: () => pool.destroy(),
  };
}
