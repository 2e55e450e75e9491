/**
 * Yardsticks S and F: two words on two cache lines between two workers, spinning or sleeping. What no channel beats.
 *
 * Rule: the spinning side spins only while its partner times a round, so that it disturbs no other figure.
 */
import { assert } from "../../shared/assert.ts";
import type { Job, Peer, Setup } from "../worker-api.ts";

const PING = 0;
const PONG = 16;
const ACTIVE = 32;

/** A poll loop with a pause every few polls is faster than one of bare loads. */
const PAUSE_EVERY = 8;

function wordsOf(setup: Setup): Int32Array {
  assert(setup.words !== undefined, "a ping-pong has words");
  return new Int32Array(setup.words);
}

function spinUntilChanged(words: Int32Array, word: number, seen: number): number {
  for (let poll = 1; ; poll++) {
    if (words[word] !== seen) {
      const found = Atomics.load(words, word);
      if (found !== seen) return found;
    }
    if (poll % PAUSE_EVERY === 0) Atomics.pause();
    if (poll % 64 === 0) {
      const found = Atomics.load(words, word);
      if (found !== seen) return found;
    }
  }
}

export function spinPing(setup: Setup): Job {
  const words = wordsOf(setup);
  let count = Atomics.load(words, PING);
  return {
    begin: () => {
      Atomics.store(words, ACTIVE, 1);
      Atomics.notify(words, ACTIVE);
    },
    run: (turns) => {
      for (let i = 0; i < turns; i++) {
        count = (count + 1) | 0;
        Atomics.store(words, PING, count);
        let pong = (count - 1) | 0;
        // The partner may still be at the ping that freed it from its last round.
        while (pong !== count) pong = spinUntilChanged(words, PONG, pong);
      }
    },
    end: () => {
      Atomics.store(words, ACTIVE, 0);
      // One more ping frees the partner from its poll.
      count = (count + 1) | 0;
      Atomics.store(words, PING, count);
    },
  };
}

export function spinPong(setup: Setup): Peer {
  const words = wordsOf(setup);
  return {
    serve: () => {
      let seen = 0;
      for (;;) {
        if (Atomics.load(words, ACTIVE) === 0) Atomics.wait(words, ACTIVE, 0);
        seen = spinUntilChanged(words, PING, seen);
        Atomics.store(words, PONG, seen);
      }
    },
  };
}

export function sleepPing(setup: Setup): Job {
  const words = wordsOf(setup);
  let count = 0;
  return {
    run: (turns) => {
      for (let i = 0; i < turns; i++) {
        count = (count + 1) | 0;
        Atomics.store(words, PING, count);
        Atomics.notify(words, PING);
        while (Atomics.load(words, PONG) !== count) Atomics.wait(words, PONG, (count - 1) | 0);
      }
    },
  };
}

export function sleepPong(setup: Setup): Peer {
  const words = wordsOf(setup);
  return {
    serve: () => {
      let seen = 0;
      for (;;) {
        while (Atomics.load(words, PING) === seen) Atomics.wait(words, PING, seen);
        seen = Atomics.load(words, PING);
        Atomics.store(words, PONG, seen);
        Atomics.notify(words, PONG);
      }
    },
  };
}
