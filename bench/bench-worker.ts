/**
 * Worker entry of every job: loads the job that it is told, then times rounds of it.
 */
import { parentPort, workerData } from "node:worker_threads";
import type { Answer, Job, JobName, JobStart, Order, Peer, Setup } from "./worker-api.ts";

type Load = (setup: Setup) => Promise<Job | Peer>;

const pingPong = () => import("./jobs/ping-pong.ts");
const memory = () => import("./jobs/memory.ts");
const hypercalls = () => import("./jobs/hypercalls.ts");
const ring = () => import("./jobs/ring.ts");
const grants = () => import("./jobs/grants.ts");
const grantsAlone = () => import("./jobs/grants-alone.ts");
const gntdev = () => import("./jobs/gntdev.ts");
const access = () => import("./jobs/access.ts");
const disk = () => import("./jobs/disk.ts");
const explore = () => import("./jobs/explore.ts");

const JOBS: Readonly<Record<JobName, Load>> = {
  "spin-ping": async (setup) => (await pingPong()).spinPing(setup),
  "spin-pong": async (setup) => (await pingPong()).spinPong(setup),
  "sleep-ping": async (setup) => (await pingPong()).sleepPing(setup),
  "sleep-pong": async (setup) => (await pingPong()).sleepPong(setup),
  "plain-read": async () => (await memory()).plainRead(),
  "compare-exchange": async () => (await memory()).compareExchange(),
  "wasm-copy": async () => (await memory()).wasmCopy(),
  "view-copy": async () => (await memory()).viewCopy(),
  "wasm-zero": async () => (await memory()).wasmZero(),
  "view-zero": async () => (await memory()).viewZero(),
  "chosen-closure": async () => (await explore()).chosenClosure(),
  hypercall: async (setup) => (await hypercalls()).clientStub(setup),
  "program-1": async (setup) => (await hypercalls()).shallowProgram(setup),
  "program-3": async (setup) => (await hypercalls()).deepProgram(setup),
  "ring-client": async (setup) => (await ring()).ringClient(setup),
  "ring-server": async (setup) => (await ring()).ringServer(setup),
  grants: async (setup) => (await grants()).throughChannel(setup),
  "grants-direct": async (setup) => (await grantsAlone()).handlers(setup),
  "grants-bare": async (setup) => (await grantsAlone()).tables(setup),
  gntdev: async (setup) => (await gntdev()).endToEnd(setup),
  walk: async () => (await access()).walks(),
  "tlb-hit": async () => (await access()).hits(),
  bracket: async () => (await access()).brackets(),
  "guest-word": async () => (await access()).words(),
  "guest-page": async () => (await access()).pages(),
  disk: async (setup) => (await disk()).transfers(setup),
  "file-read": async (setup) => (await disk()).fileReads(setup),
  "explore-points": async () => (await explore()).points(),
  "explore-grants": async () => (await explore()).grantSteps(),
  "explore-hundred": async () => (await explore()).hundredSteps(),
  "explore-fresh": async () => (await explore()).freshMachines(),
  "explore-story": async () => (await import("./jobs/story.ts")).schedules(),
  "explore-story-steps": async () => (await import("./jobs/story.ts")).steps(),
};

const TURNS_MAX = 1 << 24;
const CHUNKS_LEAST = 3;
const SLICES = 64;
const CHUNK_MOST_MS = 200;

function post(answer: Answer): void {
  parentPort?.postMessage(answer);
}

/**
 * Nanoseconds a turn over a run of `turns`, in slices: when a core is taken, a spinning turn costs a scheduler's slice
 * each, and thousands of them would never end.
 */
function timed(job: Job, turns: number): number {
  const slice = Math.ceil(turns / SLICES);
  const startedMs = performance.now();
  let done = 0;
  let elapsedMs = 0;
  while (done < turns && elapsedMs < CHUNK_MOST_MS) {
    job.run(slice);
    done += slice;
    elapsedMs = performance.now() - startedMs;
  }
  return (elapsedMs * 1e6) / done;
}

/** Turns that fill a chunk. The shorter of two runs counts: a neighbour must not end the search early. */
function calibrated(job: Job, chunkUs: number): number {
  job.begin?.();
  let turns = 1;
  const elapsedUs = (): number => (Math.min(timed(job, turns), timed(job, turns)) * turns) / 1000;
  while (elapsedUs() < chunkUs && turns < TURNS_MAX) turns *= 2;
  job.end?.();
  return turns;
}

/** As many chunks as were asked for, or as the time allows; three at least. */
function round(job: Job, turns: number, chunks: number, mostMs: number): Float64Array {
  const samples = new Float64Array(chunks);
  const deadlineMs = performance.now() + mostMs;
  let chunk = 0;
  job.begin?.();
  while (chunk < chunks && (chunk < CHUNKS_LEAST || performance.now() < deadlineMs)) {
    samples[chunk++] = timed(job, turns) / (job.per ?? 1);
  }
  job.end?.();
  return samples.slice(0, chunk);
}

const { job: name, setup } = workerData as JobStart;
const loaded = await JOBS[name](setup);
post({ kind: "ready" });
if ("serve" in loaded) {
  loaded.serve();
} else {
  let turns = 1;
  parentPort?.on("message", (order: Order) => {
    if (order.kind === "calibrate") {
      turns = calibrated(loaded, order.chunkUs);
      post({ kind: "calibrated" });
    } else {
      post({ kind: "samples", samples: round(loaded, turns, order.chunks, order.mostMs) });
    }
  });
}
