/** Threads that do one kind of task each, as many at once as there are jobs; a signal takes a task away with its thread. Ours. */
import { Piscina } from "piscina";

export interface Pool<Task, Answer> {
  /** Rejects with what the task throws, and when `signal` takes it away. */
  run(task: Task, signal: AbortSignal): Promise<Answer>;
  close(): Promise<void>;
}

/** `file` lies beside this one and exports the function `name`. */
export function openPool<Task, Answer>(
  file: string,
  name: string,
  jobs: number,
): Pool<Task, Answer> {
  const pool = new Piscina<Task, Answer>({
    filename: new URL(file, import.meta.url).href,
    name,
    minThreads: jobs,
    maxThreads: jobs,
  });
  return {
    run: (task, signal) => pool.run(task, { signal }),
    close: () => pool.destroy(),
  };
}
