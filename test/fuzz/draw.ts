/**
 * A command's choices: a short list of 32-bit numbers, read one after the other and stretched when it runs out. What
 * a number means is decided when it is read, from the state of the machine at that moment, so that any list is a legal
 * command and a shrunk list is one too.
 */
export class Draw {
  readonly #picks: readonly number[];
  #read = 0;

  constructor(picks: readonly number[]) {
    this.#picks = picks;
  }

  /** The next number, 0 to 2^32 - 1. */
  u32(): number {
    const round = Math.floor(this.#read / this.#picks.length);
    const pick = this.#picks[this.#read % this.#picks.length] ?? 0;
    this.#read++;
    if (round === 0) return pick;
    const mixed = Math.imul((pick ^ (round * 0x9e37_79b9)) >>> 0, 0x85eb_ca6b);
    return (mixed ^ (mixed >>> 15)) >>> 0;
  }

  /** A number from 0 to `end` - 1. The high bits decide, so that the small numbers of a shrunk list mean the first. */
  below(end: number): number {
    return Math.floor((this.u32() / 2 ** 32) * end);
  }

  /** True once in `times`. False is the simpler choice. */
  once(times: number): boolean {
    return this.below(times) === times - 1;
  }

  oneOf<Value>(list: readonly Value[]): Value {
    const value = list[this.below(list.length)];
    if (value === undefined) throw new Error("a choice needs something to choose from");
    return value;
  }
}
