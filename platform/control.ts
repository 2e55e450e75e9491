/**
 * The control slot, from the main thread: records to the hypervisor, answers awaited without blocking.
 *
 * Rules: one record at a time, in the order of the calls; the event loop is held open while an answer is
 * awaited, as Atomics.waitAsync does not do that; an answer that will never come is a refusal, not a silence.
 */
import { Channel } from "../shared/channel.ts";
import type { Layout } from "../shared/layout.ts";
import { RECORD_WORDS } from "../shared/limits.ts";
import { load, type Words } from "../shared/mem.ts";
import { setRecord } from "../shared/trap.ts";

const CONTROL_SLOT = 0;
/** An interval that nobody waits for: it only keeps the event loop open. */
const HOLD_OPEN_MS = 1 << 30;

export class ControlSlot {
  readonly #words: Words;
  readonly #channel: Channel;
  readonly #record = new Int32Array(RECORD_WORDS);
  /** Rejects when the hypervisor is gone. */
  readonly #gone: Promise<never>;
  #last: Promise<unknown> = Promise.resolve();

  constructor(words: Words, layout: Layout, gone: Promise<never>) {
    this.#words = words;
    this.#channel = new Channel(words, layout, CONTROL_SLOT);
    this.#gone = gone;
  }

  /** Pushes a record with `op` (CONTROL_* of shared/trap.ts) and its arguments; resolves to the return value. */
  call(op: number, args: readonly number[]): Promise<number> {
    const answer = this.#last.then(() => this.#ask(op, args));
    this.#last = answer.catch(() => {});
    return answer;
  }

  async #ask(op: number, args: readonly number[]): Promise<number> {
    const channel = this.#channel;
    setRecord(this.#record, op, args);
    const holder = setInterval(() => {}, HOLD_OPEN_MS);
    try {
      channel.push(this.#record);
      while (!channel.idle) await this.#reply();
      return channel.result();
    } finally {
      clearInterval(holder);
    }
  }

  /** Sleeps until the reply word has changed; returns at once when it has already. */
  async #reply(): Promise<void> {
    const word = this.#channel.replyWord;
    const seen = load(this.#words, word);
    this.#channel.wantReply();
    if (this.#channel.idle) return;
    const waiting = Atomics.waitAsync(this.#words, word, seen);
    if (waiting.async) await Promise.race([waiting.value, this.#gone]);
  }
}
