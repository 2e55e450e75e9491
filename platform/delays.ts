/**
 * Random delays at the points of a program that runs on a thread: what a stress run has instead of a scheduler. Mostly
 * nothing, now and then some microseconds of spinning, rarely a sleep that lets everybody else go by.
 *
 * Rule: one in `SPIN_OF` points spins; the numbers come from the seed and the slot, so that two slots do not march in step.
 * Ours; stress spec section 2.2.
 */
import { wait, wordsOf } from "../shared/mem.ts";

const SPIN_OF = 8;
const SLEEP_OF = 512;
const SPINS_MAX = 4096;

/** A delay for the points of one slot. */
export function delaysOf(seed: number, slot: number): () => void {
  // A xorshift: nobody needs better numbers, and it costs nothing between two accesses.
  let state = (Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(slot + 1, 0xc2b2ae35)) | 1;
  const never = wordsOf(new SharedArrayBuffer(4));
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    const number = state >>> 0;
    if (number % SLEEP_OF === 0) wait(never, 0, 0, 1);
    else if (number % SPIN_OF === 0) spin(never, number % SPINS_MAX);
  };
}

function spin(word: Int32Array, times: number): void {
  for (let i = 0; i < times; i++) if (word[0] !== 0) return;
}
