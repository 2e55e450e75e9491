/**
 * Exit codes of every command, and which one wins when several things went wrong.
 * Ours; the numbers are those of Xen's test framework (xtf-runner).
 */
export const EXIT_SUCCESS = 0;
/** The emulator itself is wrong. */
export const EXIT_BUG = 1;
/** Unknown command, option or value. */
export const EXIT_USAGE = 2;
export const EXIT_SKIPPED = 3;
/** The scenario cannot be set up. */
export const EXIT_SETUP = 4;
/** An expectation or an invariant does not hold. */
export const EXIT_EXPECTATION = 5;
/** A guest or device died, or hangs, and nobody asked for it. */
export const EXIT_DOMAIN = 6;
export const EXIT_INTERRUPTED = 130;

const BY_SEVERITY = [
  EXIT_INTERRUPTED,
  EXIT_BUG,
  EXIT_DOMAIN,
  EXIT_EXPECTATION,
  EXIT_SETUP,
  EXIT_SKIPPED,
  EXIT_SUCCESS,
];

/** The worst of several outcomes. */
export const worstOf = (codes: readonly number[]): number =>
  BY_SEVERITY.find((code) => codes.includes(code)) ?? EXIT_SUCCESS;

/** The person typed something wrong: one line on stderr, no stack. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** What the scenario needs is not there or does not fit. */
export class SetupError extends Error {
  override readonly name = "SetupError";
}

/** A file does not say what a scenario must say; the message begins with its place. */
export class LoadError extends SetupError {}
