/**
 * A domain that shuts itself down, or is shut down: its vCPUs stand still and nothing is freed, until it is destroyed or
 * resumed.
 *
 * Rules: the first shutdown code stands; a suspended domain with a port for it is announced there and nowhere else. The
 * call that suspended answers once the domain is resumed: 0, or 1 when the suspension was given up.
 * Behaviour: xen/common/domain.c, domain_shutdown(), domain_resume(), __domain_finalise_shutdown();
 * xen/common/sched/core.c, do_sched_op().
 */
import { SUSPEND_CANCELLED } from "../shared/abi/domctl.ts";
import { VIRQ_DOM_EXC } from "../shared/abi/event-channel.ts";
import {
  SCHED_REMOTE_SHUTDOWN_DOMAIN,
  SCHED_REMOTE_SHUTDOWN_REASON,
  SCHED_REMOTE_SHUTDOWN_SIZE,
  SCHED_SHUTDOWN_REASON,
  SCHED_SHUTDOWN_SIZE,
  SHUTDOWN_suspend,
} from "../shared/abi/sched.ts";
import { raiseEvent } from "../shared/channel.ts";
import { DOM, PAUSED_FOR_SHUTDOWN } from "../shared/layout.ts";
import { EFAULT, EINVAL, EPERM, ESRCH } from "../shared/status.ts";
import type { DomId } from "../shared/units.ts";
import { sendFrom, sendGlobalVirq } from "./event-channel.ts";
import { copyArgs } from "./guest-access.ts";
import {
  type Caller,
  domainById,
  domainField,
  GAP_SUSPENDED,
  mayManage,
  type Preemptible,
  setDomainField,
  slotsOf,
  type Xen,
} from "./xen.ts";

/** Codes are one byte. */
const CODE_MASK = 0xff;

/** Whether the domain has been shut down and not resumed. */
export const isShutDown = (xen: Xen, domid: number): boolean =>
  (domainField(xen, domid, DOM.PAUSE) & PAUSED_FOR_SHUTDOWN) !== 0;

/** SCHEDOP_shutdown: the caller's own domain. A call that suspends comes back when the domain is resumed. */
export function shutdownSelf(xen: Xen, caller: Caller, arg: number): number | Preemptible {
  if (!copyArgs(xen, caller.domid, arg, SCHED_SHUTDOWN_SIZE)) return -EFAULT;
  const reason = xen.args.u32(SCHED_SHUTDOWN_REASON) & CODE_MASK;
  shutDown(xen, caller.domid, reason);
  return reason === SHUTDOWN_suspend ? suspended(xen, caller.domid) : 0;
}

function* suspended(xen: Xen, domid: DomId): Preemptible {
  yield GAP_SUSPENDED;
  return domainField(xen, domid, DOM.SUSPEND) === SUSPEND_CANCELLED ? 1 : 0;
}

/** SCHEDOP_shutdown_code: what a later shutdown will have for its code, whatever it says itself. */
export function shutdownCode(xen: Xen, caller: Caller, arg: number): number {
  if (!copyArgs(xen, caller.domid, arg, SCHED_SHUTDOWN_SIZE)) return -EFAULT;
  setCode(xen, caller.domid, xen.args.u32(SCHED_SHUTDOWN_REASON) & CODE_MASK);
  return 0;
}

/** SCHEDOP_remote_shutdown: another domain, by whoever may manage it. */
export function remoteShutdown(xen: Xen, caller: Caller, arg: number): number {
  if (!copyArgs(xen, caller.domid, arg, SCHED_REMOTE_SHUTDOWN_SIZE)) return -EFAULT;
  const target = domainById(xen, xen.args.u16(SCHED_REMOTE_SHUTDOWN_DOMAIN));
  if (target === undefined) return -ESRCH;
  if (!mayManage(xen, caller, target)) return -EPERM;
  shutDown(xen, target, xen.args.u32(SCHED_REMOTE_SHUTDOWN_REASON) & CODE_MASK);
  return 0;
}

/** The first code stands. */
export function setCode(xen: Xen, domid: DomId, code: number): void {
  if (domainField(xen, domid, DOM.SHUTDOWN) === 0) {
    setDomainField(xen, domid, DOM.SHUTDOWN, 1 + code);
  }
}

/** Stops every vCPU where it is, and says so. A domain that is shut down already stays so. */
function shutDown(xen: Xen, domid: DomId, code: number): void {
  setCode(xen, domid, code);
  if (isShutDown(xen, domid)) return;
  setDomainField(xen, domid, DOM.PAUSE, domainField(xen, domid, DOM.PAUSE) | PAUSED_FOR_SHUTDOWN);
  const port = domainField(xen, domid, DOM.SUSPEND_PORT);
  if (domainField(xen, domid, DOM.SHUTDOWN) === 1 + SHUTDOWN_suspend && port !== 0) {
    sendFrom(xen, domid, port);
  } else {
    sendGlobalVirq(xen, VIRQ_DOM_EXC);
  }
}

/**
 * XEN_DOMCTL_resumedomain: the vCPUs go on and the code is forgotten. `how` is what the toolstack writes into the
 * registers of a vCPU that suspended: SUSPEND_CANCELLED, or 0.
 */
export function resumeDomain(xen: Xen, domid: DomId, how: number): number {
  if (!isShutDown(xen, domid)) return 0;
  setDomainField(xen, domid, DOM.SHUTDOWN, 0);
  setDomainField(xen, domid, DOM.SUSPEND, how === SUSPEND_CANCELLED ? SUSPEND_CANCELLED : 0);
  setDomainField(xen, domid, DOM.PAUSE, domainField(xen, domid, DOM.PAUSE) & ~PAUSED_FOR_SHUTDOWN);
  for (const slot of slotsOf(xen, domid)) raiseEvent(xen.words, xen.layout, slot);
  return 0;
}

/** XEN_DOMCTL_subscribe: the port on which a suspension is announced; -EINVAL for one that the ABI does not have. */
export function subscribe(xen: Xen, domid: DomId, port: number): number {
  if (port > domainField(xen, domid, DOM.MAX_EVTCHN_PORT)) return -EINVAL;
  setDomainField(xen, domid, DOM.SUSPEND_PORT, port);
  return 0;
}
