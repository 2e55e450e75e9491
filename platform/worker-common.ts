/**
 * What the worker entries have in common on Node: the way to the main thread, the clock, and how a run ends.
 */
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { parentPort } from "node:worker_threads";
import { expose } from "comlink";
import { assert } from "../shared/assert.ts";
import { BLOCK_AT_ONCE, SpinPolicy, type Waiter } from "../shared/waiting.ts";
import { endpointOf } from "./endpoint.ts";
import type { End, Posted, Waiting } from "./worker-api.ts";

/** Microseconds, and the processor's hint that this is a poll loop. */
const waiter: Waiter = {
  now: () => performance.now() * 1000,
  pause: () => Atomics.pause(),
};

/** Ends of a channel probe their other arm at different intervals (shared/waiting.ts). */
export const CLIENT_PROBES_EVERY = 37;
export const SERVER_PROBES_EVERY = 29;

export const policyOf = (waiting: Waiting, probesEvery: number): SpinPolicy =>
  waiting === "adaptive"
    ? new SpinPolicy(waiter, probesEvery)
    : new SpinPolicy(waiter, probesEvery, BLOCK_AT_ONCE);

/**
 * Loads a module of the machine. `require` takes a graph of files without a trip through the thread pool for each,
 * which is what starting many workers at once would wait for.
 */
export async function loadModule<Module>(url: string): Promise<Module> {
  return url.startsWith("file:")
    ? createRequire(import.meta.url)(fileURLToPath(url))
    : await import(url);
}

/** Answers the main thread's calls. */
export function serve(api: object): void {
  assert(parentPort !== null, "a worker entry runs in a worker");
  expose(api, endpointOf(parentPort));
}

/** Tells the main thread something at once, whatever this thread does next. */
export function post(posted: Posted): void {
  parentPort?.postMessage(posted);
}

/** Runs to the end. What is thrown becomes an answer, so that the main thread can say whose fault it was. */
export function endOf(run: () => End["how"]): End {
  try {
    return { how: run() };
  } catch (error) {
    const name = error instanceof Error ? error.name : "";
    const text = error instanceof Error ? error.message : String(error);
    if (name === "EmulatorBug")
      return { how: "bug", error: error instanceof Error ? (error.stack ?? text) : text };
    return { how: "fault", error: name === "" || name === "Error" ? text : `${name}: ${text}` };
  }
}
