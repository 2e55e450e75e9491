/**
 * Assertions. They guard what the hypervisor alone controls: no guest, device or person can reach one.
 * Rules: one claim per assertion, stated positively; catch `EmulatorBug` only at the outermost runner.
 * Ours, because a broken invariant must stop the machine instead of being reported to a guest.
 */

/** The emulator itself is wrong. Everything stops. */
export class EmulatorBug extends Error {
  override readonly name = "EmulatorBug";
}

/** Throws `EmulatorBug` with `claim` when `holds` is false. `claim` says what should have been true. */
export function assert(holds: boolean, claim: string): asserts holds {
  if (!holds) throw new EmulatorBug(`broken: ${claim}`);
}

/** For the end of a `switch` over a closed union: the compiler proves that nothing gets here. */
export function unreachable(value: never): never {
  throw new EmulatorBug(`a value outside its type: ${String(value)}`);
}

/** Reads one word of a table that only its owner writes. An index outside the table is a bug of ours. */
export function at(words: Int32Array, index: number): number {
  const word = words[index];
  if (word === undefined) throw new EmulatorBug(`word ${index} of a table of ${words.length}`);
  return word;
}

/** Reads one element of a list whose length the caller has checked. */
export function item<Element>(list: readonly Element[], index: number): Element {
  const element = list[index];
  if (element === undefined) throw new EmulatorBug(`element ${index} of a list of ${list.length}`);
  return element;
}
