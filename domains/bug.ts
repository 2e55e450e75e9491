/**
 * BUG() of a guest kernel: the kernel has found itself wrong and stops. It is the domain's death, never the
 * machine's, so it is not an `EmulatorBug`: a hostile or a badly written kernel may get here.
 * Behaviour: Linux include/asm-generic/bug.h.
 */

/** The guest kernel stops here; the rest of the machine goes on. */
export class KernelBug extends Error {
  override readonly name = "KernelBug";
}

/** Stops the kernel with `what` when `broken` is true (BUG_ON). */
export function bugOn(broken: boolean, what: string): void {
  if (broken) throw new KernelBug(`kernel BUG: ${what}`);
}

/** The same, stated positively, so that the compiler learns what holds afterwards. */
export function bugUnless(holds: boolean, what: string): asserts holds {
  if (!holds) throw new KernelBug(`kernel BUG: ${what}`);
}
