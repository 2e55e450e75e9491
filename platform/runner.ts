/**
 * Drives a program on a thread of its own: carries out each trap, and blocks the thread until it may go on.
 *
 *   hypercall -> push the record, wait for the reply      block -> wait for the event word
 *   sleep     -> wait for a timeout                       host  -> read or hash right here
 *
 * Rules: between two traps the program runs undisturbed; a slot that is no longer live goes no further, and a
 * vCPU whose domain is paused stands still at its next trap. Nothing here allocates per hypercall.
 */
import { at, unreachable } from "../shared/assert.ts";
import { Channel } from "../shared/channel.ts";
import {
  DOM,
  domainOf,
  type Layout,
  LINE,
  lineOf,
  MACHINE,
  SLOT_KIND_VCPU,
  SLOT_LIVE,
} from "../shared/layout.ts";
import { load, peek, type Words, wait, wordsOf } from "../shared/mem.ts";
import {
  type BlockTrap,
  type Host,
  type HostHashTrap,
  type HypercallTrap,
  type Program,
  TRAP_BLOCK,
  TRAP_HOST_HASH,
  TRAP_HOST_READ,
  TRAP_HYPERCALL,
  TRAP_POINT,
  TRAP_REPORT,
  TRAP_SLEEP,
  type Trap,
} from "../shared/trap.ts";
import type { SpinPolicy } from "../shared/waiting.ts";

/** What the runner of a slot needs. */
export interface RunnerOptions {
  readonly words: Words;
  readonly layout: Layout;
  readonly slot: number;
  readonly policy: SpinPolicy;
  readonly host: Host;
  readonly report: (key: string, value: string | number) => void;
  /** What happens at a point of a program that yields them: a delay of a stress run. */
  readonly delay?: () => void;
}

/** A slot that was taken from its program: the domain has been destroyed, or the machine is over. */
export const SLOT_LOST = "slot lost";

export class Runner {
  readonly #options: RunnerOptions;
  readonly #words: Words;
  readonly #channel: Channel;
  readonly #wantReply: () => void;
  readonly #state: number;
  readonly #event: number;
  /** Word that holds the pause count of the slot's domain; of a device, its state word, which is never awaited. */
  readonly #pause: number;
  readonly #isVcpu: boolean;
  /** Nobody ever wakes this word: sleeping is waiting for it. */
  readonly #never = wordsOf(new SharedArrayBuffer(4));
  #hash: ReturnType<Host["sha256"]> | undefined;

  constructor(options: RunnerOptions) {
    const { words, layout, slot } = options;
    const line = lineOf(layout, slot);
    const channel = new Channel(words, layout, slot);
    this.#options = options;
    this.#words = words;
    this.#channel = channel;
    this.#wantReply = () => channel.wantReply();
    this.#state = line + LINE.STATE;
    this.#event = line + LINE.EVENT;
    this.#isVcpu = at(words, line + LINE.KIND) === SLOT_KIND_VCPU;
    this.#pause = this.#isVcpu
      ? domainOf(layout, at(words, line + LINE.DOMAIN)) + DOM.PAUSE
      : this.#state;
  }

  /** Runs `program` to its end. Returns its result, or SLOT_LOST when the slot died under it. */
  run<Result>(program: Program<Result>): Result | typeof SLOT_LOST {
    let input = 0;
    for (;;) {
      if (!this.#mayGo()) return SLOT_LOST;
      const step = program.next(input);
      if (step.done === true) return step.value;
      input = this.#serve(step.value);
    }
  }

  /** Waits while the domain is paused; false when the slot is not live any more, or the machine is over. */
  #mayGo(): boolean {
    const words = this.#words;
    if (peek(words, MACHINE.STOP) !== 0) return false;
    while (this.#isVcpu && peek(words, this.#pause) > 0) {
      // Unpausing and destroying a domain both raise its event word after they have changed the state.
      const seen = load(words, this.#event);
      if (load(words, this.#state) !== SLOT_LIVE) return false;
      if (load(words, this.#pause) > 0) wait(words, this.#event, seen);
    }
    return peek(words, this.#state) === SLOT_LIVE;
  }

  #serve(trap: Trap): number {
    switch (trap.kind) {
      case TRAP_HYPERCALL:
        return this.#call(trap);
      case TRAP_POINT:
        this.#options.delay?.();
        return 0;
      case TRAP_BLOCK:
        this.#block(trap);
        return load(this.#words, this.#event);
      case TRAP_SLEEP:
        wait(this.#never, 0, 0, trap.timeMs);
        return 0;
      case TRAP_REPORT:
        this.#options.report(trap.key, trap.value);
        return 0;
      case TRAP_HOST_READ:
        return this.#options.host.readAt(trap.offset, trap.into, trap.length);
      case TRAP_HOST_HASH:
        this.#hashBytes(trap);
        return 0;
      default:
        return unreachable(trap);
    }
  }

  /** A finite time is slept for at once: whoever arms a timer has nothing to do. */
  #block({ seen, timeoutMs = Number.POSITIVE_INFINITY }: BlockTrap): void {
    if (timeoutMs === Number.POSITIVE_INFINITY) {
      this.#options.policy.until(this.#words, this.#event, seen);
    } else {
      wait(this.#words, this.#event, seen, timeoutMs);
    }
  }

  /** One record at a time: the reply word changes once, when the answer is there. */
  #call(trap: HypercallTrap): number {
    const channel = this.#channel;
    const replyWord = channel.replyWord;
    const seen = load(this.#words, replyWord);
    channel.push(trap.record);
    this.#options.policy.until(this.#words, replyWord, seen, this.#wantReply);
    return channel.result();
  }

  #hashBytes(trap: HostHashTrap): void {
    this.#hash ??= this.#options.host.sha256();
    this.#hash.update(trap.bytes.subarray(0, trap.length));
    if (!trap.finish) return;
    trap.hex = this.#hash.hex();
    this.#hash = undefined;
  }
}
