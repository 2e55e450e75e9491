/**
 * What a schedule leaves out: whole tasks, by name, and single hypercalls of a task. `B.0#2` is the second call of the task B.0.
 *
 * Rule: a call that is left out is answered as one that the hypervisor does not know, and never reaches it, so nothing of it
 * has happened; what its program makes of that is its own matter, as with any other answer.
 * Ours; stress spec section 7.3.
 */
import { ENOSYS } from "../shared/status.ts";
import { type Program, TRAP_HYPERCALL } from "../shared/trap.ts";

/** Names the call number `n`, from 1, of a task. */
export const callOf = (task: string, n: number): string => `${task}#${n}`;

/** The program, without those of its calls that are left out. */
export function leavingOut(
  task: string,
  program: Program<unknown>,
  without: readonly string[],
): Program<unknown> {
  const some = without.some((name) => name.startsWith(`${task}#`));
  return some ? skipping(task, program, without) : program;
}

function* skipping(
  task: string,
  program: Program<unknown>,
  without: readonly string[],
): Program<unknown> {
  let calls = 0;
  let next = program.next(0);
  while (next.done !== true) {
    const isCall = next.value.kind === TRAP_HYPERCALL;
    if (isCall) calls++;
    const isLeftOut = isCall && without.includes(callOf(task, calls));
    next = program.next(isLeftOut ? -ENOSYS : yield next.value);
  }
  return next.value;
}
