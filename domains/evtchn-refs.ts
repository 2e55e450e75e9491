/**
 * Event channels that user space has bound, and how many use each: the device file that bound it, and every
 * notification that names it.
 *
 * Rules: only a port that was made refcounted can be taken; one of a kernel driver cannot, whatever a process names.
 * The last user closes the channel, so a notification can outlive the file that bound its port.
 * Behaviour: Linux drivers/xen/events/events_base.c, evtchn_make_refcounted(), evtchn_get(), evtchn_put().
 */
import { EVTCHN_2L_PORTS } from "../shared/limits.ts";
import { EINVAL, ENOENT } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { closePort } from "./events.ts";
import type { Kernel } from "./kernel.ts";

/** evtchn_make_refcounted: the port that was just bound has one user. */
export function evtchnMakeRefcounted(kernel: Kernel, port: number): void {
  kernel.user.portUsers.set(port, 1);
}

/** evtchn_get: one more user. -EINVAL beyond the last port, -ENOENT when no process has bound it. */
export function evtchnGet(kernel: Kernel, port: number): number {
  if (port >= EVTCHN_2L_PORTS) return -EINVAL;
  const users = kernel.user.portUsers.get(port);
  if (users === undefined) return -ENOENT;
  kernel.user.portUsers.set(port, users + 1);
  return 0;
}

/** evtchn_put: the last user closes the channel. */
export function* evtchnPut(kernel: Kernel, port: number): Program {
  const users = kernel.user.portUsers.get(port) ?? 0;
  if (users > 1) {
    kernel.user.portUsers.set(port, users - 1);
    return;
  }
  kernel.user.portUsers.delete(port);
  yield* closePort(kernel, port);
}
