/**
 * Who moves next: the one choice that an explored run is made of.
 *
 * Rules: a scheduler is asked with the candidates in ascending order and answers with one of them; it holds
 * no clock and no state of the machine, so that the same seed gives the same run, always. HYPERVISOR is a
 * candidate like any slot: when it is asked about inside a handler, it means "go on with the handler".
 * Ours; the shape is that of the schedulers of shuttle and loom: begin, choose, number.
 */

/** The candidate that stands for the hypervisor; slots are their own numbers. */
export const HYPERVISOR = -1;

/** What a scheduler may look at besides the candidates. */
export interface Scene {
  /** Name of the memory word that a task's next step touches, doubled, plus 1 for a write; 0: none that is known. */
  pending(task: number): number;
}

export interface Scheduler {
  /** Starts a run; whatever was remembered of the last one is forgotten. */
  begin(seed: number, scene?: Scene): void;
  /** One of the first `count` entries of `candidates`; `count` is at least 1. */
  choose(candidates: Int32Array, count: number): number;
  /** A whole number from 0 to `below` - 1: for choices that are not about who moves (sizes, faults). */
  number(below: number): number;
}

/** Whether two pending accesses conflict: the same word, and one of them writes. */
export const conflict = (one: number, other: number): boolean =>
  one !== 0 && other !== 0 && one >> 1 === other >> 1 && ((one | other) & 1) !== 0;
