/**
 * Suspend and resume of a kernel: what happens around the one hypercall in which the machine may be another one.
 *
 *   gnttab_suspend -> HYPERVISOR_suspend -> gnttab_resume, always -> interrupts and timers, unless it was cancelled
 *
 * Rules: the free list of references and every entry stay as they are: drivers grant again what they need. A suspend that
 * is cancelled (any answer but 0) leaves event channels alone.
 * Behaviour: Linux drivers/xen/manage.c, xen_suspend().
 */
import { SCHEDOP_shutdown, SHUTDOWN_suspend } from "../shared/abi/sched.ts";
import { HYPERVISOR_sched_op } from "../shared/abi/xen.ts";
import type { Program } from "../shared/trap.ts";
import { xenIrqResume } from "./event-eoi.ts";
import { gnttabResume, gnttabSuspend } from "./grant-setup.ts";
import { callWithArguments, freshArguments } from "./hypercalls.ts";
import type { Caller, Kernel } from "./kernel.ts";

export interface SuspendOutcome {
  /** What HYPERVISOR_suspend answered: 0 on a machine that was resumed, else it was cancelled. */
  readonly cancelled: number;
  /** What gnttab_resume answered. */
  readonly grants: number;
}

/** HYPERVISOR_suspend: sched_op(shutdown) with the reason suspend. */
export function* hypervisorSuspend(caller: Caller): Program<number> {
  freshArguments(caller, 4).setUint32(0, SHUTDOWN_suspend, true);
  return yield* callWithArguments(caller, HYPERVISOR_sched_op, SCHEDOP_shutdown, 4);
}

/** Suspends by `suspend` and resumes; `resumeIrqs` sets events and timers up again on the other side. */
export function* xenSuspend(
  kernel: Kernel,
  suspend: Program<number>,
  resumeIrqs: () => Program = () => xenIrqResume(kernel),
): Program<SuspendOutcome> {
  gnttabSuspend();
  const cancelled = yield* suspend;
  const grants = yield* gnttabResume(kernel);
  if (cancelled === 0) yield* resumeIrqs();
  return { cancelled, grants };
}
