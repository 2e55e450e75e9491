/**
 * What the benchmark and its workers say to each other. Each variant of a hot function has a worker of its own: a
 * call site that has seen two of them is no longer inlined, which has inverted rankings.
 */

import type { MemoryHandle } from "../platform/page-ops.ts";
import type { Waiting } from "../platform/worker-api.ts";
import type { MachineModel } from "../shared/machine.ts";

/** Machine memory and control words that a hypervisor in another worker owns. */
export interface SharedMachine {
  readonly model: MachineModel;
  readonly control: SharedArrayBuffer;
  readonly memory: MemoryHandle;
  readonly waiting: Waiting;
}

export interface Setup {
  readonly machine?: SharedMachine;
  /** Words of a ping-pong or a ring. */
  readonly words?: SharedArrayBuffer;
  /** Elements of one batch. */
  readonly batch?: number;
  /** A file to read. */
  readonly path?: string;
}

export type JobName =
  | "spin-ping"
  | "spin-pong"
  | "sleep-ping"
  | "sleep-pong"
  | "plain-read"
  | "compare-exchange"
  | "wasm-copy"
  | "view-copy"
  | "wasm-zero"
  | "view-zero"
  | "chosen-closure"
  | "hypercall"
  | "program-1"
  | "program-3"
  | "grants"
  | "grants-direct"
  | "grants-bare"
  | "gntdev"
  | "walk"
  | "tlb-hit"
  | "bracket"
  | "guest-word"
  | "guest-page"
  | "ring-client"
  | "ring-server"
  | "disk"
  | "file-read"
  | "explore-points"
  | "explore-grants"
  | "explore-hundred"
  | "explore-fresh"
  | "explore-story"
  | "explore-story-steps";

/** What a worker times. */
export interface Job {
  /** Operations that one turn of `run` counts for; 1 by default. */
  readonly per?: number;
  run(turns: number): void;
  /** Around a round. `end` throws when what was timed has not worked. */
  begin?(): void;
  end?(): void;
}

/** A job that is the other side of another worker's: it never returns, and is terminated. */
export interface Peer {
  serve(): void;
}

export interface JobStart {
  readonly job: JobName;
  readonly setup: Setup;
}

/** To the worker. */
export type Order =
  | { readonly kind: "calibrate"; readonly chunkUs: number }
  | { readonly kind: "round"; readonly chunks: number; readonly mostMs: number };

/** From the worker: ready once, then an answer an order. */
export type Answer =
  | { readonly kind: "ready" }
  | { readonly kind: "calibrated" }
  | { readonly kind: "samples"; readonly samples: Float64Array };
