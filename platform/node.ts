/**
 * Workers on Node: how each part is started, watched and ended. The only file that creates one.
 *
 * Rules: the literal form of `new Worker(new URL(…))`, as bundlers need it; a call to a worker always races the
 * worker's own end, because nobody answers for the dead; an end that was asked for is no death.
 */
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { type Remote, wrap } from "comlink";
import { endpointOf } from "./endpoint.ts";
import type { DeviceApi, DomainApi, HypervisorApi, Posted } from "./worker-api.ts";

/** A worker has ended although nobody had asked for that. */
export class WorkerDeath extends Error {
  override readonly name = "WorkerDeath";
}

/** A worker and the calls that reach it before it runs. */
export interface Part<Api> {
  readonly api: Remote<Api>;
  /** Settles when the worker is gone; says what it was that ended it, if that was an error. */
  readonly gone: Promise<Error | undefined>;
  /** The result of a call to `api`; refused with WorkerDeath when the worker ends first. */
  alive<Result>(call: Promise<Result>): Promise<Result>;
  /** Ends the worker wherever it stands, in the middle of an access too; settles when it is gone. */
  terminate(): Promise<void>;
}

/** Megabytes. They save a fifth of a worker's memory; typed arrays do not count. */
const RESOURCE_LIMITS = { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 1, stackSizeMb: 1 };

/** Where Node keeps compiled modules: it takes most of the cost of type stripping off every worker but the first. */
const COMPILE_CACHE = process.env.NODE_COMPILE_CACHE ?? join(tmpdir(), "node-compile-cache");

const optionsOf = (name: string) => ({
  name,
  resourceLimits: RESOURCE_LIMITS,
  env: { ...process.env, NODE_COMPILE_CACHE: COMPILE_CACHE },
});

export const startHypervisor = (): Part<HypervisorApi> =>
  partOf(
    new Worker(new URL("./hypervisor-worker.ts", import.meta.url), optionsOf("hypervisor")),
    "hypervisor",
    () => {},
  );

export const startDomain = (name: string, posted: (what: Posted) => void): Part<DomainApi> =>
  partOf(new Worker(new URL("./domain-worker.ts", import.meta.url), optionsOf(name)), name, posted);

export const startDevice = (name: string, posted: (what: Posted) => void): Part<DeviceApi> =>
  partOf(new Worker(new URL("./device-worker.ts", import.meta.url), optionsOf(name)), name, posted);

function partOf<Api>(worker: Worker, name: string, posted: (what: Posted) => void): Part<Api> {
  let error: Error | undefined;
  worker.on("error", (thrown: unknown) => {
    error = thrown instanceof Error ? thrown : new Error(String(thrown));
  });
  worker.on("message", (data: unknown) => {
    if (isPosted(data)) posted(data);
  });
  const gone = new Promise<Error | undefined>((resolve) => {
    worker.once("exit", () => resolve(error));
  });
  const death = gone.then((cause) => {
    throw new WorkerDeath(
      cause === undefined ? `${name}: its worker has ended` : `${name}: ${cause.message}`,
      { cause },
    );
  });
  // A worker that ends while nobody calls it is nobody's unhandled rejection.
  death.catch(() => {});
  return {
    api: wrap<Api>(endpointOf(worker)),
    gone,
    alive: (call) => Promise.race([call, death]),
    terminate: async () => {
      await worker.terminate();
    },
  };
}

/** What a worker says by itself has a kind; comlink's own messages have none. */
const isPosted = (data: unknown): data is Posted =>
  typeof data === "object" && data !== null && "kind" in data;
