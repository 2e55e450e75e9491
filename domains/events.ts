/**
 * Binding of event channels: allocate, bind, unmask, notify, close.
 *
 * Rules: a port is masked until it is bound here; a bound port is waited for with wait(kernel, port). An
 * errno of the hypervisor is returned as it is. Notifying ignores errors, as the kernel does.
 * Behaviour: Linux drivers/xen/events/events_base.c.
 */
import { EVTCHNOP_close, EVTCHNOP_send, EVTCHNOP_unmask } from "../shared/abi/event-channel.ts";
import type { Program } from "../shared/trap.ts";
import { bugOn } from "./bug.ts";
import { clearMask, mask, takePort } from "./events-2l.ts";
import { allocUnbound, bindInterdomain, bindVirq, portOp } from "./hypercalls.ts";
import type { Kernel } from "./kernel.ts";

/** Lets events of `port` through; one that is pending already is delivered. */
export function* unmaskPort(kernel: Kernel, port: number): Program {
  const owed = yield* clearMask(kernel.cpu, kernel.events, port);
  if (owed === 1) yield* portOp(kernel, EVTCHNOP_unmask, port);
}

/** Holds events of `port` back; they stay pending. */
export function* maskPort(kernel: Kernel, port: number): Program {
  yield* mask(kernel.cpu, kernel.events, port);
}

/** A port that `remote` may bind: the port, or a negative errno. */
export function* allocPort(kernel: Kernel, remote: number): Program<number> {
  const port = yield* allocUnbound(kernel, remote);
  if (port > 0) yield* unmaskPort(kernel, port);
  return port;
}

/** Binds the port that `remote` has allocated for this domain. The new port has an event pending at once. */
export function* bindPort(kernel: Kernel, remote: number, remotePort: number): Program<number> {
  const port = yield* bindInterdomain(kernel, remote, remotePort);
  if (port > 0) yield* unmaskPort(kernel, port);
  return port;
}

/** Binds a virtual interrupt of vCPU 0, or a global one. */
export function* bindVirqPort(kernel: Kernel, virq: number): Program<number> {
  const port = yield* bindVirq(kernel, virq);
  if (port > 0) yield* unmaskPort(kernel, port);
  return port;
}

/** Sends an event to the other end; a send that the hypervisor refuses is ignored. */
export function* notifyPort(kernel: Kernel, port: number): Program {
  yield* portOp(kernel, EVTCHNOP_send, port);
}

/** Masks and closes a port that was bound here. Events nobody has taken are forgotten. */
export function* closePort(kernel: Kernel, port: number): Program {
  yield* maskPort(kernel, port);
  const result = yield* portOp(kernel, EVTCHNOP_close, port);
  bugOn(result !== 0, `closing port ${port} answered ${result}`);
  takePort(kernel.events, port);
}
