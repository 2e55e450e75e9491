/**
 * Starts the workers that time something. A worker that dies ends the benchmark: its figures would be nobody's.
 */
import { Worker } from "node:worker_threads";
import type { Probe } from "./measure.ts";
import type { Answer, JobName, JobStart, Order, Setup } from "./worker-api.ts";

const RESOURCE_LIMITS = { maxOldGenerationSizeMb: 256, maxYoungGenerationSizeMb: 16 };

/** A round that takes so many times longer than it should is cut short: others use the cores. */
const PATIENCE = 5;

interface Started {
  ask(order: Order): Promise<Answer>;
  close(): Promise<void>;
}

async function start(job: JobName, setup: Setup): Promise<Started> {
  const workerData: JobStart = { job, setup };
  const worker = new Worker(new URL("./bench-worker.ts", import.meta.url), {
    name: job,
    workerData,
    resourceLimits: RESOURCE_LIMITS,
  });
  let settle: ((answer: Answer) => void) | undefined;
  let refuse: ((error: Error) => void) | undefined;
  const next = (): Promise<Answer> =>
    new Promise((resolve, reject) => {
      settle = resolve;
      refuse = reject;
    });
  const ready = next();
  worker.on("message", (answer: Answer) => settle?.(answer));
  worker.on("error", (error: Error) => refuse?.(error));
  worker.on("exit", () => refuse?.(new Error(`the worker of ${job} has ended`)));
  await ready;
  return {
    ask: (order) => {
      const answer = next();
      worker.postMessage(order);
      return answer;
    },
    close: async () => {
      refuse = undefined;
      await worker.terminate();
    },
  };
}

/** A worker that serves another one until it is closed. */
export async function startPeer(job: JobName, setup: Setup): Promise<{ close(): Promise<void> }> {
  return await start(job, setup);
}

/** A job in a worker of its own; `peers` are closed with it. */
export async function startProbe(
  job: JobName,
  setup: Setup = {},
  peers: readonly { close(): Promise<void> }[] = [],
): Promise<Probe> {
  const worker = await start(job, setup);
  let chunkMs = 1;
  return {
    name: job,
    calibrate: async (chunkUs) => {
      chunkMs = chunkUs / 1000;
      await worker.ask({ kind: "calibrate", chunkUs });
    },
    round: async (chunks) => {
      const mostMs = PATIENCE * chunks * chunkMs;
      const answer = await worker.ask({ kind: "round", chunks, mostMs });
      if (answer.kind !== "samples") throw new Error(`${job} answered ${answer.kind}`);
      return answer.samples;
    },
    close: async () => {
      await worker.close();
      for (const peer of peers) await peer.close();
    },
  };
}
