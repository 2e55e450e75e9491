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

export interface Scheduler {
  /** Starts a run; whatever was remembered of the last one is forgotten. */
  begin(seed: number): void;
  /** One of the first `count` entries of `candidates`; `count` is at least 1. */
  choose(candidates: Int32Array, count: number): number;
  /** A whole number from 0 to `below` - 1: for choices that are not about who moves (sizes, faults). */
  number(below: number): number;
}
