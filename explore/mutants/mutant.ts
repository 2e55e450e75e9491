/**
 * A mutant: a bug of the past, put back into the sources as they are loaded. The sources carry no trace of it.
 *
 * Rule: a patch names a file, a text that stands there exactly once, and what stands there instead; one that no longer applies
 * is an error that names it. Ours; the catalogue is that of stress spec section 11.
 */
import type { MemoryMode } from "../weak-memory.ts";

export interface Patch {
  /** Path below the project. */
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

export interface Mutant {
  readonly id: string;
  readonly name: string;
  /** Advisory, or `classic`. */
  readonly origin: string;
  /** One sentence: what is wrong. */
  readonly mechanism: string;
  readonly patches: readonly Patch[];
  /** Name of the focused story that shows it. */
  readonly story: string;
  /** Memory modes that must each show it; sc, unless named. */
  readonly memory?: readonly MemoryMode[];
  /** Operational depth: one more than the forced switches that it takes. */
  readonly depth: 1 | 2 | 3 | 4;
  /** Ids of the checks that may report it. */
  readonly caughtBy: readonly string[];
}

/** A row of the catalogue that this machine cannot show. */
export interface OutOfReach {
  readonly id: string;
  readonly name: string;
  readonly why: string;
}

/** Schedules within which a mutant of each depth must be found. */
export const BUDGETS: Readonly<Record<Mutant["depth"], number>> = {
  1: 400,
  2: 1_500,
  3: 60_000,
  4: 250_000,
};
