/** Mutants on the threads of a pool: each thread loads the trees of the mutants that it is given. Ours. */
import { Piscina } from "piscina";
import type { MutantResult, MutantTask } from "./mutant-task.ts";

export interface MutantPool {
  run(task: MutantTask, signal: AbortSignal): Promise<MutantResult>;
  close(): Promise<void>;
}

export function openMutantPool(jobs: number): MutantPool {
  const pool = new Piscina<MutantTask, MutantResult>({
    filename: new URL("./mutant-task.ts", import.meta.url).href,
    name: "runMutant",
    minThreads: jobs,
    maxThreads: jobs,
  });
  return {
    run: (task, signal) => pool.run(task, { signal }),
    close: () => pool.destroy(),
  };
}
