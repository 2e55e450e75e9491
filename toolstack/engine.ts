/**
 * What the two engines have in common: a machine is started from a prepared variant and ends in one way.
 * The runner (run.ts) knows nothing else of them.
 * Ours.
 */
import type { Scheduler } from "../explore/scheduler.ts";
import type { Layout } from "../shared/layout.ts";
import type { MachineMemory, Words } from "../shared/mem.ts";
import type { Report } from "../shared/scenario.ts";
import type { Prepared } from "./prepare.ts";
import type { Recorder } from "./recording.ts";

export const ENGINES = ["threads", "explore"] as const;
export type EngineName = (typeof ENGINES)[number];

/** How a machine's run came to its end. */
export type Ending =
  /** Every awaited program has ended. */
  | { readonly kind: "finished" }
  /** A guest or device died that nobody had asked to: `domain guest`, `device disk0`. */
  | { readonly kind: "crashed"; readonly part: string; readonly reason: string }
  /** Nobody moves any more, or time is up: what is awaited, and what was seen last. */
  | {
      readonly kind: "hung";
      readonly awaited: readonly string[];
      readonly lines: readonly string[];
    }
  /** The emulator is wrong. */
  | { readonly kind: "bug"; readonly reason: string; readonly lines: readonly string[] }
  /** The person stopped it. */
  | { readonly kind: "interrupted" };

export interface Finished {
  readonly ending: Ending;
  readonly reports: readonly Report[];
  readonly words: Words;
  readonly memory: MachineMemory;
  readonly layout: Layout;
  /** Findings of the whole-state audit after the run. */
  readonly audit: readonly string[];
}

export interface EngineOptions {
  readonly timeoutMs: number;
  /** Aborted when the person stops the run. */
  readonly signal: AbortSignal;
  /** What happens, in words, for the status line. */
  readonly progress: (text: string) => void;
  /** Where the run is written down. */
  readonly recorder?: Recorder;
  /** One-thread engine: who chooses instead of the seeded walk; every access is a point then. */
  readonly scheduler?: Scheduler;
  /** Delays the programs of a threaded machine at their points. */
  readonly delaySeed?: number;
}

/** A machine that has booted; `run` starts its programs and settles at their end, with nothing left running. */
export interface BootedMachine {
  run(): Promise<Finished>;
  /** Gives it up without running it. */
  discard(): Promise<void>;
}

/** Boots the machine of one variant. */
export type Engine = (prepared: Prepared, options: EngineOptions) => Promise<BootedMachine>;

/** Domains whose program the run waits for. */
export const awaitedNames = (prepared: Prepared): readonly string[] =>
  prepared.resolved.model.domains
    .filter((_, index) => prepared.resolved.awaited[index] === true)
    .map((domain) => domain.name);
