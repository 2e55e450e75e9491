/**
 * The single-producer single-consumer channel of a slot, the doorbell and the sleep marks.
 *
 *   client: write record -> store PRODUCER -> ring doorbell -> wait until CONSUMER reaches it -> read the return value
 *   server: take doorbell -> copy record once -> handle -> write return value -> store CONSUMER -> wake if wanted
 *
 * Rules: free-running 32-bit indexes compared by (a - b) | 0; the record is written before the index that
 * publishes it; a sleeper states its intent, re-checks, then waits; a producer publishes, then reads the intent.
 * Ours; the wake-up by index is that of RING_PUSH_REQUESTS_AND_CHECK_NOTIFY in xen/include/public/io/ring.h.
 */
import { assert, at } from "./assert.ts";
import { CHANNEL, channelOf, type Layout, LINE, lineOf, MACHINE } from "./layout.ts";
import { CHANNEL_RECORDS, RECORD_WORDS } from "./limits.ts";
import type { Words } from "./mem.ts";
import { RECORD_RET, setPair, signedPair } from "./trap.ts";

/** Tells the hypervisor that `slot` has something for it, and wakes it if it sleeps. */
export function ringDoorbell(words: Words, slot: number): void {
  Atomics.or(words, MACHINE.DOORBELL + (slot >> 5), 1 << (slot & 31));
  wakeHypervisor(words);
}

/** Wakes the hypervisor if it sleeps; whoever takes the mark owes the wake-up. */
export function wakeHypervisor(words: Words): void {
  if (Atomics.load(words, MACHINE.ASLEEP) === 0) return;
  if (Atomics.exchange(words, MACHINE.ASLEEP, 0) === 1) Atomics.notify(words, MACHINE.ASLEEP);
}

/** Tells a slot that something may have happened to it, and wakes it if it sleeps on its event word. */
export function raiseEvent(words: Words, layout: Layout, slot: number): void {
  const event = lineOf(layout, slot) + LINE.EVENT;
  Atomics.add(words, event, 1);
  Atomics.notify(words, event);
}

/** Both ends of one slot's channel; each end uses its own half of the methods. */
export class Channel {
  readonly #words: Words;
  readonly #base: number;
  readonly #slot: number;
  /** The other side's index as last seen. It only grows: what it admits is true, what it denies is looked up. */
  #seenConsumer: number;
  #seenProducer: number;

  constructor(words: Words, layout: Layout, slot: number) {
    this.#words = words;
    this.#base = channelOf(layout, slot);
    this.#slot = slot;
    this.#seenConsumer = Atomics.load(words, this.#base + CHANNEL.CONSUMER);
    this.#seenProducer = Atomics.load(words, this.#base + CHANNEL.PRODUCER);
  }

  /** Both: the control buffer has been put back to another time. */
  lookAgain(): void {
    this.#seenConsumer = Atomics.load(this.#words, this.#base + CHANNEL.CONSUMER);
    this.#seenProducer = Atomics.load(this.#words, this.#base + CHANNEL.PRODUCER);
  }

  #record(index: number): number {
    return this.#base + CHANNEL.RECORDS + (index & (CHANNEL_RECORDS - 1)) * RECORD_WORDS;
  }

  /** Client: whether every request has been answered. */
  get idle(): boolean {
    const words = this.#words;
    // The client alone writes PRODUCER, so a plain load of it is exact.
    return at(words, this.#base) === Atomics.load(words, this.#base + CHANNEL.CONSUMER);
  }

  /** Client: room for one more request. */
  get hasRoom(): boolean {
    const producer = at(this.#words, this.#base);
    if ((producer - this.#seenConsumer) >>> 0 < CHANNEL_RECORDS) return true;
    this.#seenConsumer = Atomics.load(this.#words, this.#base + CHANNEL.CONSUMER);
    return (producer - this.#seenConsumer) >>> 0 < CHANNEL_RECORDS;
  }

  /** Client: publishes one record (RECORD_WORDS words, copied) and rings the doorbell. */
  push(record: Int32Array): void {
    assert(this.hasRoom, "the producer checked for room");
    const words = this.#words;
    const producer = at(words, this.#base + CHANNEL.PRODUCER);
    const to = this.#record(producer);
    for (let i = 0; i < RECORD_WORDS; i++) words[to + i] = record[i] ?? 0;
    Atomics.store(words, this.#base + CHANNEL.PRODUCER, (producer + 1) | 0);
    ringDoorbell(words, this.#slot);
  }

  /** Client: return value of the newest request, once `idle`. */
  result(): number {
    const newest = this.#record((at(this.#words, this.#base + CHANNEL.PRODUCER) - 1) | 0);
    return signedPair(this.#words, newest + RECORD_RET);
  }

  /** Client: index of the word that changes when an answer arrives. */
  get replyWord(): number {
    return this.#base + CHANNEL.CONSUMER;
  }

  /** Client: asks to be woken at the answer to the newest request; the caller re-checks `idle`, then waits. */
  wantReply(): void {
    const words = this.#words;
    Atomics.store(
      words,
      this.#base + CHANNEL.REPLY_WANTED,
      at(words, this.#base + CHANNEL.PRODUCER),
    );
  }

  /** Server: copies the next request into `record`; false when there is none. */
  take(record: Int32Array): boolean {
    if (!this.pending) return false;
    const words = this.#words;
    const taken = at(words, this.#base + CHANNEL.TAKEN);
    const from = this.#record(taken);
    for (let i = 0; i < RECORD_WORDS; i++) record[i] = words[from + i] ?? 0;
    words[this.#base + CHANNEL.TAKEN] = (taken + 1) | 0;
    return true;
  }

  /** Server: whether a request waits. */
  get pending(): boolean {
    const taken = at(this.#words, this.#base + CHANNEL.TAKEN);
    if (((this.#seenProducer - taken) | 0) > 0) return true;
    this.#seenProducer = Atomics.load(this.#words, this.#base + CHANNEL.PRODUCER);
    return this.#seenProducer !== taken;
  }

  /** Server: answers the oldest taken request, and wakes the client if it asked for that. */
  reply(value: number): void {
    const words = this.#words;
    const consumer = at(words, this.#base + CHANNEL.CONSUMER);
    setPair(words, this.#record(consumer) + RECORD_RET, value);
    const next = (consumer + 1) | 0;
    Atomics.store(words, this.#base + CHANNEL.CONSUMER, next);
    if (Atomics.load(words, this.#base + CHANNEL.REPLY_WANTED) === next) {
      Atomics.notify(words, this.#base + CHANNEL.CONSUMER);
    }
  }

  /** Server: forgets every request, answered or not: the slot's worker has died. */
  reset(): void {
    this.#words.fill(0, this.#base, this.#base + CHANNEL.RECORDS);
    this.#seenConsumer = 0;
    this.#seenProducer = 0;
  }
}
