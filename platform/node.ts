/**
 * Workers on Node: how each part is started, watched and ended. The only file that creates one.
 *
 * Rules: a call to a worker always races the worker's own end, because nobody answers for the dead; an end that was
 * asked for is no death; a worker plays one part at a time, and is given another only after its run has returned.
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
  /** What the worker was: `hypervisor`, `domain guest`, `device disk0`. */
  readonly part: string;

  constructor(part: string, cause: Error | undefined) {
    super(cause === undefined ? "its worker has ended" : cause.message, { cause });
    this.part = part;
  }
}

/** A worker and the calls that reach it before it runs. */
export interface Part<Api> {
  readonly api: Remote<Api>;
  /** The result of a call to `api`; refused with WorkerDeath when the worker ends first. */
  alive<Result>(call: Promise<Result>): Promise<Result>;
  /** Ends the worker wherever it stands, in the middle of an access too; settles when it is gone. */
  terminate(): Promise<void>;
  /** Gives a worker whose run has returned back, for a part of the next machine: it has loaded its role already. */
  recycle(): void;
}

type Role = "hypervisor" | "domain" | "device";

/** A worker for as long as it lives; it may play a part in several machines, one after the other. */
interface Hand {
  readonly worker: Worker;
  readonly api: Remote<unknown>;
  /** Settles when the worker is gone; says what it was that ended it, if that was an error. */
  readonly gone: Promise<Error | undefined>;
  /** Takes what the worker says by itself. */
  posted: (what: Posted) => void;
}

/** Workers that wait for a part. They keep nobody's event loop alive. */
const idle: Record<Role, Hand[]> = { hypervisor: [], domain: [], device: [] };

/** Megabytes. They save a fifth of a worker's memory; typed arrays do not count. */
const RESOURCE_LIMITS = { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 8, stackSizeMb: 1 };

/** Where Node keeps compiled modules: it takes most of the cost of type stripping off every worker but the first. */
const COMPILE_CACHE = process.env.NODE_COMPILE_CACHE ?? join(tmpdir(), "node-compile-cache");

const optionsOf = (role: Role) => ({
  name: role,
  resourceLimits: RESOURCE_LIMITS,
  env: { ...process.env, NODE_COMPILE_CACHE: COMPILE_CACHE },
});

/** The literal form for each role, as bundlers need it. */
function workerOf(role: Role): Worker {
  switch (role) {
    case "hypervisor":
      return new Worker(new URL("./hypervisor-worker.ts", import.meta.url), optionsOf(role));
    case "domain":
      return new Worker(new URL("./domain-worker.ts", import.meta.url), optionsOf(role));
    case "device":
      return new Worker(new URL("./device-worker.ts", import.meta.url), optionsOf(role));
  }
}

function hire(role: Role): Hand {
  const waiting = idle[role].pop();
  if (waiting !== undefined) {
    waiting.worker.ref();
    return waiting;
  }
  const worker = workerOf(role);
  let error: Error | undefined;
  worker.on("error", (thrown: unknown) => {
    error = thrown instanceof Error ? thrown : new Error(String(thrown));
  });
  const hand: Hand = {
    worker,
    api: wrap<unknown>(endpointOf(worker)),
    gone: new Promise<Error | undefined>((resolve) => {
      worker.once("exit", () => {
        idle[role] = idle[role].filter((one) => one !== hand);
        resolve(error);
      });
    }),
    posted: () => {},
  };
  worker.on("message", (data: unknown) => {
    if (isPosted(data)) hand.posted(data);
  });
  return hand;
}

export const startHypervisor = (): Part<HypervisorApi> =>
  partOf("hypervisor", "hypervisor", () => {});

export const startDomain = (name: string, posted: (what: Posted) => void): Part<DomainApi> =>
  partOf("domain", name, posted);

export const startDevice = (name: string, posted: (what: Posted) => void): Part<DeviceApi> =>
  partOf("device", name, posted);

function partOf<Api>(role: Role, name: string, posted: (what: Posted) => void): Part<Api> {
  const hand = hire(role);
  hand.posted = posted;
  const death = hand.gone.then((cause) => {
    throw new WorkerDeath(role === "hypervisor" ? role : `${role} ${name}`, cause);
  });
  // A worker that ends while nobody calls it is nobody's unhandled rejection.
  death.catch(() => {});
  return {
    api: hand.api as Remote<Api>,
    alive: (call) => Promise.race([call, death]),
    terminate: async () => {
      await hand.worker.terminate();
    },
    recycle: () => {
      hand.posted = () => {};
      hand.worker.unref();
      idle[role].push(hand);
    },
  };
}

/** What a worker says by itself has a kind; comlink's own messages have none. */
const isPosted = (data: unknown): data is Posted =>
  typeof data === "object" && data !== null && "kind" in data;
