/**
 * How long to spin before blocking. No fixed budget is right: spinning wins by two orders of magnitude with
 * free cores and loses as much when a core is taken. So each endpoint runs a two-armed bandit: it times
 * every 8th wait, keeps an average per arm, uses the better arm and retries the other now and then.
 *
 * Ours, from measurement; pure spinning is forbidden, and an explored run never waits at all.
 */
import { at } from "./assert.ts";
import { load, peek, type Words, wait } from "./mem.ts";

/** What the platform injects: a clock in microseconds and the processor's pause. */
export interface Waiter {
  now(): number;
  pause(): void;
}

/** Polls before blocking, per arm. */
const ARMS = Int32Array.of(10, 500);
/** Arms of an endpoint that never spins: deterministic runs, tests, and machines that share their cores. */
export const BLOCK_AT_ONCE = Int32Array.of(0, 0);
const TIMED_EVERY = 8;
const AVERAGE_WEIGHT = 0.2;
/** A sample counts as at most this many times its arm's average: one descheduling must not condemn an arm. */
const SAMPLE_CAP = 4;
/** A plain poll is confirmed by an atomic load at least this often. */
const CONFIRM_EVERY = 64;
/** An endpoint that has not blocked for this long blocks once, so that others get the core. */
const BLOCK_AT_LEAST_EVERY_US = 1000;

export class SpinPolicy {
  readonly #waiter: Waiter;
  readonly #exploreEvery: number;
  readonly #arms: Int32Array;
  readonly #averages = new Float64Array(2);
  #calls = 0;
  #blockedAt = 0;

  /** `exploreEvery`: 37 for a client, 29 for the server, so that the two do not probe in step. */
  constructor(waiter: Waiter, exploreEvery: number, arms: Int32Array = ARMS) {
    this.#waiter = waiter;
    this.#exploreEvery = exploreEvery;
    this.#arms = arms;
  }

  #arm(): number {
    const better = (this.#averages[0] ?? 0) <= (this.#averages[1] ?? 0) ? 0 : 1;
    return this.#calls % this.#exploreEvery === 0 ? 1 - better : better;
  }

  /** Returns once word `index` differs from `seen`. `beforeSleep` states the intent to sleep. */
  until(words: Words, index: number, seen: number, beforeSleep?: () => void): void {
    this.#calls++;
    const arm = this.#arm();
    const timed = this.#calls % TIMED_EVERY === 0 || this.#calls % this.#exploreEvery === 0;
    const started = timed ? this.#waiter.now() : 0;
    const polls = this.#mayspin() ? at(this.#arms, arm) : 0;
    if (!this.#spin(words, index, seen, polls)) this.#block(words, index, seen, beforeSleep);
    if (timed) this.#learn(arm, this.#waiter.now() - started);
  }

  /** As `until`, for a condition of several words: `block` sleeps once and may return early. */
  untilReady(ready: () => boolean, block: () => void): void {
    this.#calls++;
    const arm = this.#arm();
    const timed = this.#calls % TIMED_EVERY === 0 || this.#calls % this.#exploreEvery === 0;
    const started = timed ? this.#waiter.now() : 0;
    const polls = this.#mayspin() ? at(this.#arms, arm) : 0;
    let found = ready();
    for (let i = 0; i < polls && !found; i++) {
      this.#waiter.pause();
      found = ready();
    }
    while (!found) {
      block();
      this.#blockedAt = this.#waiter.now();
      found = ready();
    }
    if (timed) this.#learn(arm, this.#waiter.now() - started);
  }

  #mayspin(): boolean {
    if (this.#calls % 64 !== 0) return true;
    return this.#waiter.now() - this.#blockedAt < BLOCK_AT_LEAST_EVERY_US;
  }

  #spin(words: Words, index: number, seen: number, polls: number): boolean {
    for (let i = 0; i < polls; i++) {
      if (peek(words, index) !== seen || i % CONFIRM_EVERY === CONFIRM_EVERY - 1) {
        if (load(words, index) !== seen) return true;
      }
      this.#waiter.pause();
    }
    return load(words, index) !== seen;
  }

  #block(words: Words, index: number, seen: number, beforeSleep?: () => void): void {
    beforeSleep?.();
    while (load(words, index) === seen) wait(words, index, seen);
    this.#blockedAt = this.#waiter.now();
  }

  #learn(arm: number, elapsed: number): void {
    const average = this.#averages[arm] ?? 0;
    const sample = average === 0 ? elapsed : Math.min(elapsed, SAMPLE_CAP * average);
    this.#averages[arm] = average === 0 ? sample : average + AVERAGE_WEIGHT * (sample - average);
  }
}
