/**
 * Binding of event channels to interrupts: allocate, bind, let through, count users, notify, close.
 *
 *   port -> IrqInfo (masked: EXPLICIT) -> requestIrq lets it through -> wait(kernel, port) -> closePort
 *
 * Rules: a port is masked until it is bound here; a bound port is waited for with wait(kernel, port). A late one stays
 * masked from its event until xenIrqLateeoi. An errno of the hypervisor is returned as it is. Notifying ignores errors.
 * Behaviour: Linux drivers/xen/events/events_base.c. The delivery is event-upcall.ts, the end event-eoi.ts.
 */
import {
  EVTCHNOP_close,
  EVTCHNOP_send,
  EVTCHNOP_set_priority,
  EVTCHNOP_unmask,
  EVTCHNSTAT_virq,
  SET_PRIORITY_PORT,
  SET_PRIORITY_PRIORITY,
  SET_PRIORITY_SIZE,
} from "../shared/abi/event-channel.ts";
import { EVTCHN_2L_PORTS, EVTCHN_FIFO_PORTS } from "../shared/limits.ts";
import { EEXIST, EINVAL, ENOENT, ENOMEM } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { bugOn } from "./bug.ts";
import { setupFifoPort } from "./event-fifo-setup.ts";
import { EVT_MASK_REASON_EXPLICIT, type IrqInfo } from "./event-state.ts";
import { maskIrq, unmaskIrq } from "./event-upcall.ts";
import {
  allocUnbound,
  bindInterdomain,
  bindVirq,
  eventChannelOp,
  evtchnStatus,
  freshArguments,
  portOp,
} from "./hypercalls.ts";
import type { Kernel } from "./kernel.ts";

/** How a port is bound. */
export interface BindOptions {
  /** Its handler ends each event itself, with xenIrqLateeoi. */
  readonly late?: true;
  /** Of a late port: spurious events that cost nothing (xenbus devices: 1). */
  readonly spuriousThreshold?: number;
}

/** Most users that evtchn_get counts. */
const REFCNT_MAX = 0x7fff;

/** xen_evtchn_max_channels: ports of the ABI in use. */
export const evtchnMaxChannels = (kernel: Kernel): number =>
  kernel.events.abi === "fifo" ? EVTCHN_FIFO_PORTS : EVTCHN_2L_PORTS;

/** bind_evtchn_to_irq: the port's interrupt, masked, or a negative errno. One that is bound already is found again. */
export function* bindEvtchnToIrq(
  kernel: Kernel,
  port: number,
  options: BindOptions & { readonly virq?: number } = {},
): Program<IrqInfo | number> {
  const { events } = kernel;
  const bound = events.irqs[port];
  if (bound !== undefined) return bound;
  if (port < 1 || port >= evtchnMaxChannels(kernel)) return -ENOMEM;
  const setup = events.abi === "fifo" ? yield* setupFifoPort(kernel, port) : 0;
  if (setup < 0) return setup;
  const info: IrqInfo = {
    port,
    irq: ++events.lastIrq,
    type: options.virq === undefined ? "evtchn" : "virq",
    virq: options.virq ?? -1,
    late: options.late ?? false,
    spuriousThreshold: options.spuriousThreshold ?? 0,
    refcnt: -1,
    maskReason: EVT_MASK_REASON_EXPLICIT,
    isActive: false,
    arrived: false,
    spuriousCount: 0,
    irqEpoch: 0,
    eoiTime: 0,
  };
  events.irqs[port] = info;
  return info;
}

/** Takes a reason to mask away; an event that is pending already is delivered. */
export function* letThrough(kernel: Kernel, info: IrqInfo, reason: number): Program {
  const owed = yield* unmaskIrq(kernel.cpu, kernel.events, info, reason);
  if (owed === 1) yield* portOp(kernel, EVTCHNOP_unmask, info.port);
}

/** request_irq: binds `port` and lets its events through. The port, or a negative errno: it is closed again then. */
export function* requestIrq(
  kernel: Kernel,
  port: number,
  options: BindOptions & { readonly virq?: number } = {},
): Program<number> {
  const info = yield* bindEvtchnToIrq(kernel, port, options);
  if (typeof info === "number") {
    yield* portOp(kernel, EVTCHNOP_close, port);
    return info;
  }
  yield* letThrough(kernel, info, EVT_MASK_REASON_EXPLICIT);
  return port;
}

/** A port that `remote` may bind: the port, or a negative errno. */
export function* allocPort(
  kernel: Kernel,
  remote: number,
  options: BindOptions = {},
): Program<number> {
  const port = yield* allocUnbound(kernel, remote);
  return port > 0 ? yield* requestIrq(kernel, port, options) : port;
}

/** Binds the port that `remote` has allocated for this domain. The new port has an event pending at once. */
export function* bindPort(
  kernel: Kernel,
  remote: number,
  remotePort: number,
  options: BindOptions = {},
): Program<number> {
  const port = yield* bindInterdomain(kernel, remote, remotePort);
  return port > 0 ? yield* requestIrq(kernel, port, options) : port;
}

/** Binds a virtual interrupt of vCPU 0, or a global one. One that this kernel has bound is found again. */
export function* bindVirqPort(
  kernel: Kernel,
  virq: number,
  options: BindOptions = {},
): Program<number> {
  const known = kernel.events.irqs.find((info) => info?.virq === virq);
  if (known !== undefined) return known.port;
  const answer = yield* bindVirq(kernel, virq);
  const port = answer === -EEXIST ? yield* findVirq(kernel, virq) : answer;
  return port > 0 ? yield* requestIrq(kernel, port, { ...options, virq }) : port;
}

/** find_virq: the port that a virtual interrupt of vCPU 0 is bound to although this kernel has not bound it. */
function* findVirq(kernel: Kernel, virq: number): Program<number> {
  for (let port = 0; port < evtchnMaxChannels(kernel); port++) {
    const status = yield* evtchnStatus(kernel, port);
    // Beyond the last port that exists, or not ours to ask about.
    if (typeof status === "number") return -ENOENT;
    if (status.status !== EVTCHNSTAT_virq || status.virq !== virq) continue;
    return status.vcpu === 0 ? port : -EEXIST;
  }
  return -ENOENT;
}

/** xen_set_irq_priority: FIFO queue that the port's next event is put into; 0 is the most urgent, 15 the least. */
export function* setPriority(kernel: Kernel, port: number, priority: number): Program<number> {
  const view = freshArguments(kernel, SET_PRIORITY_SIZE);
  view.setUint32(SET_PRIORITY_PORT, port, true);
  view.setUint32(SET_PRIORITY_PRIORITY, priority, true);
  return yield* eventChannelOp(kernel, EVTCHNOP_set_priority, SET_PRIORITY_SIZE);
}

/** Sends an event to the other end; a send that the hypervisor refuses is ignored. */
export function* notifyPort(kernel: Kernel, port: number): Program {
  yield* portOp(kernel, EVTCHNOP_send, port);
}

/** Holds events of a port that is bound here back; they stay pending. */
export function* maskPort(kernel: Kernel, port: number): Program {
  const info = kernel.events.irqs[port];
  if (info !== undefined) yield* maskIrq(kernel.cpu, kernel.events, info, EVT_MASK_REASON_EXPLICIT);
}

/**
 * unbind_from_irq: masks and closes a port that was bound here. Events nobody has taken are forgotten. While counted
 * users are left, only the count goes down.
 */
export function* closePort(kernel: Kernel, port: number): Program {
  const info = kernel.events.irqs[port];
  if (info === undefined) return;
  if (info.refcnt > 0 && --info.refcnt > 0) return;
  yield* maskPort(kernel, port);
  forget(kernel, info);
  const result = yield* portOp(kernel, EVTCHNOP_close, port);
  bugOn(result !== 0, `closing port ${port} answered ${result}`);
}

/** The port is nobody's, and no end of its interrupt is owed any more. */
export function forget(kernel: Kernel, info: IrqInfo): void {
  const { irqs, lateEois } = kernel.events;
  const late = lateEois.indexOf(info);
  if (late >= 0) lateEois.splice(late, 1);
  irqs[info.port] = undefined;
  info.port = 0;
}

/** evtchn_make_refcounted: from here on users of the port are counted. */
export function evtchnMakeRefcounted(kernel: Kernel, port: number): number {
  const info = kernel.events.irqs[port];
  if (info === undefined) return -ENOENT;
  info.refcnt = 1;
  return 0;
}

/** evtchn_get: one more user of a counted port; a driver's own is not lent. */
export function evtchnGet(kernel: Kernel, port: number): number {
  if (port >= evtchnMaxChannels(kernel)) return -EINVAL;
  const info = kernel.events.irqs[port];
  if (info === undefined) return -ENOENT;
  if (info.refcnt <= 0 || info.refcnt === REFCNT_MAX) return -EINVAL;
  info.refcnt++;
  return 0;
}

/** evtchn_put: one user less; the last one closes the port. */
export function* evtchnPut(kernel: Kernel, port: number): Program {
  yield* closePort(kernel, port);
}
