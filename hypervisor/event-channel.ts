/**
 * event_channel_op, and what the rest of the hypervisor asks of event channels.
 *
 * Rules: the argument structure is copied once; an output structure is written back only when the operation
 * succeeded, and a fault then is -EFAULT with the port already bound. Ports are closed in event-close.ts.
 * Behaviour: xen/common/event_channel.c. Xen 4.17 answers: every domain may bind every VIRQ, and bind_pirq on
 * arm64 never finds an interrupt.
 */
import {
  ALLOC_UNBOUND_DOM,
  ALLOC_UNBOUND_PORT,
  ALLOC_UNBOUND_REMOTE_DOM,
  ALLOC_UNBOUND_SIZE,
  BIND_INTERDOMAIN_LOCAL_PORT,
  BIND_INTERDOMAIN_REMOTE_DOM,
  BIND_INTERDOMAIN_REMOTE_PORT,
  BIND_INTERDOMAIN_SIZE,
  BIND_IPI_PORT,
  BIND_IPI_SIZE,
  BIND_IPI_VCPU,
  BIND_PIRQ_PIRQ,
  BIND_PIRQ_PORT,
  BIND_PIRQ_SIZE,
  BIND_VCPU_PORT,
  BIND_VCPU_SIZE,
  BIND_VCPU_VCPU,
  BIND_VIRQ_PORT,
  BIND_VIRQ_SIZE,
  BIND_VIRQ_VCPU,
  BIND_VIRQ_VIRQ,
  EVTCHNOP_alloc_unbound,
  EVTCHNOP_bind_interdomain,
  EVTCHNOP_bind_ipi,
  EVTCHNOP_bind_pirq,
  EVTCHNOP_bind_vcpu,
  EVTCHNOP_bind_virq,
  EVTCHNOP_close,
  EVTCHNOP_expand_array,
  EVTCHNOP_init_control,
  EVTCHNOP_reset,
  EVTCHNOP_reset_cont,
  EVTCHNOP_send,
  EVTCHNOP_set_priority,
  EVTCHNOP_status,
  EVTCHNOP_unmask,
  EVTCHNSTAT_closed,
  EVTCHNSTAT_interdomain,
  EVTCHNSTAT_ipi,
  EVTCHNSTAT_pirq,
  EVTCHNSTAT_unbound,
  EVTCHNSTAT_virq,
  EXPAND_ARRAY_SIZE,
  INIT_CONTROL_SIZE,
  NR_VIRQS,
  PORT_SIZE,
  RESET_DOM,
  RESET_SIZE,
  SET_PRIORITY_SIZE,
  STATUS_DOM,
  STATUS_PORT,
  STATUS_SIZE,
  STATUS_STATUS,
  STATUS_UNION,
  STATUS_UNION_PORT,
  STATUS_VCPU,
} from "../shared/abi/event-channel.ts";
import { DOMID_SELF } from "../shared/abi/xen.ts";
import { item } from "../shared/assert.ts";
import { CDF_hardware, DOM } from "../shared/layout.ts";
import { NR_IRQS } from "../shared/limits.ts";
import { EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, ENOSYS, EPERM, ESRCH } from "../shared/status.ts";
import type { DomId } from "../shared/units.ts";
import { closePort, resetPorts } from "./event-close.ts";
import { setPending, unmask } from "./event-delivery.ts";
import { expandArray, initControl, setPriority } from "./event-fifo.ts";
import {
  bindPort,
  ECS_INTERDOMAIN,
  ECS_IPI,
  ECS_PIRQ,
  ECS_RESERVED,
  ECS_UNBOUND,
  ECS_VIRQ,
  getFreePort,
  isGlobalVirq,
  isValidPort,
  portRemoteDomain,
  portRemotePort,
  portState,
  portVcpu,
  setPortVcpu,
  virqPort,
} from "./event-ports.ts";
import { copyArgs, copyFieldBack, copyToGuest } from "./guest-access.ts";
import { isPv } from "./page-type.ts";
import { profileOf } from "./profile.ts";
import {
  type Caller,
  domainByAnyId,
  domainField,
  hasFlag,
  isPresent,
  isPrivileged,
  mayTarget,
  type Preemptible,
  type Xen,
} from "./xen.ts";

/** Bytes of each operation's structure. An operation that is not here is unknown. */
const ARGUMENT_SIZES: Readonly<Record<number, number>> = {
  [EVTCHNOP_bind_interdomain]: BIND_INTERDOMAIN_SIZE,
  [EVTCHNOP_bind_virq]: BIND_VIRQ_SIZE,
  [EVTCHNOP_bind_pirq]: BIND_PIRQ_SIZE,
  [EVTCHNOP_close]: PORT_SIZE,
  [EVTCHNOP_send]: PORT_SIZE,
  [EVTCHNOP_status]: STATUS_SIZE,
  [EVTCHNOP_alloc_unbound]: ALLOC_UNBOUND_SIZE,
  [EVTCHNOP_bind_ipi]: BIND_IPI_SIZE,
  [EVTCHNOP_bind_vcpu]: BIND_VCPU_SIZE,
  [EVTCHNOP_unmask]: PORT_SIZE,
  [EVTCHNOP_reset]: RESET_SIZE,
  [EVTCHNOP_init_control]: INIT_CONTROL_SIZE,
  [EVTCHNOP_expand_array]: EXPAND_ARRAY_SIZE,
  [EVTCHNOP_set_priority]: SET_PRIORITY_SIZE,
  [EVTCHNOP_reset_cont]: RESET_SIZE,
};

/** event_channel_op(cmd, arg). */
export function eventChannelOp(
  xen: Xen,
  caller: Caller,
  cmd: number,
  arg: number,
): number | Preemptible {
  const size = ARGUMENT_SIZES[cmd];
  if (size === undefined) return -ENOSYS;
  if (!copyArgs(xen, caller.domid, arg, size)) return -EFAULT;
  const port = xen.args.u32(0);
  switch (cmd) {
    case EVTCHNOP_bind_interdomain:
      return portReply(xen, caller, arg, BIND_INTERDOMAIN_LOCAL_PORT, bindInterdomain(xen, caller));
    case EVTCHNOP_bind_virq:
      return portReply(xen, caller, arg, BIND_VIRQ_PORT, bindVirq(xen, caller));
    case EVTCHNOP_bind_pirq:
      return portReply(xen, caller, arg, BIND_PIRQ_PORT, bindPirq(xen, caller));
    case EVTCHNOP_close:
      return closePort(xen, caller.domid, port);
    case EVTCHNOP_send:
      return sendFrom(xen, caller.domid, port);
    case EVTCHNOP_status:
      return status(xen, caller, arg);
    case EVTCHNOP_alloc_unbound:
      return portReply(xen, caller, arg, ALLOC_UNBOUND_PORT, allocUnboundOp(xen, caller));
    case EVTCHNOP_bind_ipi:
      return portReply(xen, caller, arg, BIND_IPI_PORT, bindIpi(xen, caller));
    case EVTCHNOP_bind_vcpu:
      return bindVcpu(xen, caller.domid);
    case EVTCHNOP_unmask:
      return unmaskPort(xen, caller.domid, port);
    case EVTCHNOP_reset:
      return reset(xen, caller, false);
    case EVTCHNOP_reset_cont:
      return reset(xen, caller, true);
    case EVTCHNOP_init_control:
      return initControl(xen, caller, arg);
    case EVTCHNOP_expand_array:
      return expandArray(xen, caller);
    case EVTCHNOP_set_priority:
      return setPriority(xen, caller.domid);
    default:
      return -ENOSYS;
  }
}

/** A port that was bound goes into the structure; the answer is 0 then. */
function portReply(xen: Xen, caller: Caller, arg: number, offset: number, port: number): number {
  if (port < 0) return port;
  xen.args.setU32(offset, port);
  return copyFieldBack(xen, caller.domid, arg, offset, 4) ? 0 : -EFAULT;
}

/** Whether `domid` has a vCPU of that number. */
const hasVcpu = (xen: Xen, domid: DomId, vcpu: number): boolean =>
  vcpu < domainField(xen, domid, DOM.VCPUS);

/** SILO: a channel between two domains needs a control domain as caller or at one end. */
const siloAllows = (xen: Xen, caller: Caller, one: DomId, other: DomId): boolean =>
  xen.model.xsm !== "silo" ||
  one === other ||
  isPrivileged(xen, caller) ||
  isPrivileged(xen, { slot: caller.slot, domid: one }) ||
  isPrivileged(xen, { slot: caller.slot, domid: other });

function allocUnboundOp(xen: Xen, caller: Caller): number {
  const domid = domainByAnyId(xen, caller, xen.args.u16(ALLOC_UNBOUND_DOM));
  if (domid === undefined) return -ESRCH;
  const remote = xen.args.u16(ALLOC_UNBOUND_REMOTE_DOM);
  // Ports come first: a caller without rights learns of a full table before it learns that it has none.
  const port = getFreePort(xen, domid);
  if (port < 0) return port;
  if (xen.model.xsm === "silo") {
    const other = domainByAnyId(xen, caller, remote);
    if (other === undefined) return -ESRCH;
    if (!siloAllows(xen, caller, domid, other)) return -EPERM;
  }
  if (!mayTarget(xen, caller, domid)) return -EPERM;
  bindPort(xen, domid, port, ECS_UNBOUND, remote === DOMID_SELF ? caller.domid : remote);
  return port;
}

/** A port of `domid` that `remote` may bind, on behalf of the domain builder. Returns it, or -EINVAL or -ENOSPC. */
export function allocUnbound(xen: Xen, domid: DomId, remote: DomId): number {
  const port = getFreePort(xen, domid);
  if (port > 0) bindPort(xen, domid, port, ECS_UNBOUND, remote);
  return port;
}

function bindInterdomain(xen: Xen, caller: Caller): number {
  const local = caller.domid;
  const remote = domainByAnyId(xen, caller, xen.args.u16(BIND_INTERDOMAIN_REMOTE_DOM));
  const remotePort = xen.args.u32(BIND_INTERDOMAIN_REMOTE_PORT);
  if (remote === undefined) return -ESRCH;
  const port = getFreePort(xen, local);
  if (port < 0) return port;
  if (!isValidPort(xen, remote, remotePort)) return -EINVAL;
  if (portState(xen, remote, remotePort) !== ECS_UNBOUND) return -EINVAL;
  if (portRemoteDomain(xen, remote, remotePort) !== local) return -EINVAL;
  if (!siloAllows(xen, caller, local, remote)) return -EPERM;
  bindPort(xen, local, port, ECS_INTERDOMAIN, remote, remotePort);
  bindPort(xen, remote, remotePort, ECS_INTERDOMAIN, local, port);
  // What the peer sent while its port was unbound is lost, so this end is told once for nothing.
  setPending(xen, local, port);
  return port;
}

function bindVirq(xen: Xen, caller: Caller): number {
  const virq = xen.args.u32(BIND_VIRQ_VIRQ);
  const vcpu = xen.args.u32(BIND_VIRQ_VCPU);
  if (virq >= NR_VIRQS) return -EINVAL;
  if (isGlobalVirq(virq) && vcpu !== 0) return -EINVAL;
  if (!hasVcpu(xen, caller.domid, vcpu)) return -ENOENT;
  if (virqPort(xen, caller.domid, virq, vcpu) !== 0) return -EEXIST;
  const port = getFreePort(xen, caller.domid);
  if (port < 0) return port;
  bindPort(xen, caller.domid, port, ECS_VIRQ, undefined, virq);
  setPortVcpu(xen, caller.domid, port, vcpu);
  return port;
}

function bindIpi(xen: Xen, caller: Caller): number {
  const vcpu = xen.args.u32(BIND_IPI_VCPU);
  if (!hasVcpu(xen, caller.domid, vcpu)) return -ENOENT;
  const port = getFreePort(xen, caller.domid);
  if (port < 0) return port;
  bindPort(xen, caller.domid, port, ECS_IPI);
  setPortVcpu(xen, caller.domid, port, vcpu);
  return port;
}

/** Physical interrupts are routed by the virtual GIC on arm64, so there is no record of one to bind a port to. */
function bindPirq(xen: Xen, caller: Caller): number {
  const pirq = xen.args.u32(BIND_PIRQ_PIRQ);
  const { guestPirqs } = profileOf(xen);
  const isForbidden = isPv(xen, caller.domid);
  if (pirq >= (guestPirqs === 0 ? NR_IRQS : guestPirqs)) return -EINVAL;
  // A PV guest's interrupts are real ones, and none has been given to it.
  if (isForbidden) return -EPERM;
  if (guestPirqs > 0 && isPirqBound(xen, caller.domid, pirq)) return -EEXIST;
  const port = getFreePort(xen, caller.domid);
  if (port < 0) return port;
  if (guestPirqs === 0) return -ENOMEM;
  bindPort(xen, caller.domid, port, ECS_PIRQ, undefined, pirq);
  return port;
}

function isPirqBound(xen: Xen, domid: DomId, pirq: number): boolean {
  for (let port = 1; isValidPort(xen, domid, port); port++) {
    if (portState(xen, domid, port) !== ECS_PIRQ) continue;
    if (portRemotePort(xen, domid, port) === pirq) return true;
  }
  return false;
}

function bindVcpu(xen: Xen, domid: DomId): number {
  const port = xen.args.u32(BIND_VCPU_PORT);
  const vcpu = xen.args.u32(BIND_VCPU_VCPU);
  if (!hasVcpu(xen, domid, vcpu)) return -ENOENT;
  if (!isValidPort(xen, domid, port)) return -EINVAL;
  const state = portState(xen, domid, port);
  const movable =
    state === ECS_UNBOUND ||
    state === ECS_INTERDOMAIN ||
    (state === ECS_VIRQ && isGlobalVirq(portRemotePort(xen, domid, port)));
  if (!movable) return -EINVAL;
  setPortVcpu(xen, domid, port, vcpu);
  return 0;
}

/** EVTCHNOP_send by `domid`. */
export function sendFrom(xen: Xen, domid: DomId, port: number): number {
  if (!isValidPort(xen, domid, port)) return -EINVAL;
  switch (portState(xen, domid, port)) {
    case ECS_INTERDOMAIN: {
      const peer = portRemoteDomain(xen, domid, port);
      setPending(xen, peer, portRemotePort(xen, domid, port));
      return 0;
    }
    case ECS_IPI:
      setPending(xen, domid, port);
      return 0;
    case ECS_UNBOUND:
      // Nobody is there to hear it: the event is dropped without a word.
      return 0;
    default:
      return -EINVAL;
  }
}

function unmaskPort(xen: Xen, domid: DomId, port: number): number {
  if (!isValidPort(xen, domid, port)) return -EINVAL;
  if (portState(xen, domid, port) > ECS_RESERVED) unmask(xen, domid, port);
  return 0;
}

/** Status number that a guest sees, by internal state. */
const STATUS_OF_STATE: readonly number[] = [
  EVTCHNSTAT_closed,
  EVTCHNSTAT_closed,
  EVTCHNSTAT_unbound,
  EVTCHNSTAT_interdomain,
  EVTCHNSTAT_pirq,
  EVTCHNSTAT_virq,
  EVTCHNSTAT_ipi,
];

function status(xen: Xen, caller: Caller, arg: number): number {
  const { args } = xen;
  const domid = domainByAnyId(xen, caller, args.u16(STATUS_DOM));
  if (domid === undefined) return -ESRCH;
  const port = args.u32(STATUS_PORT);
  if (!isValidPort(xen, domid, port)) return -EINVAL;
  if (!mayTarget(xen, caller, domid)) return -EPERM;
  const state = portState(xen, domid, port);
  args.setU32(STATUS_STATUS, item(STATUS_OF_STATE, state));
  args.setU32(STATUS_VCPU, portVcpu(xen, domid, port));
  if (state === ECS_UNBOUND || state === ECS_INTERDOMAIN) {
    args.setU16(STATUS_UNION, portRemoteDomain(xen, domid, port));
  }
  if (state === ECS_INTERDOMAIN) args.setU32(STATUS_UNION_PORT, portRemotePort(xen, domid, port));
  if (state === ECS_VIRQ || state === ECS_PIRQ)
    args.setU32(STATUS_UNION, portRemotePort(xen, domid, port));
  return copyToGuest(xen, caller.domid, arg, args.bytes, 0, STATUS_SIZE) ? 0 : -EFAULT;
}

function reset(xen: Xen, caller: Caller, resuming: boolean): number | Preemptible {
  const domid = domainByAnyId(xen, caller, xen.args.u16(RESET_DOM));
  if (domid === undefined) return -ESRCH;
  if (!mayTarget(xen, caller, domid)) return -EPERM;
  return resetPorts(xen, caller, domid, resuming);
}

/** Raises a global VIRQ at the domain that handles it, which is the hardware domain, if that has bound it. */
export function sendGlobalVirq(xen: Xen, virq: number): void {
  for (let domid = 0; domid < xen.model.limits.domains; domid++) {
    if (!isPresent(xen, domid) || !hasFlag(xen, domid, CDF_hardware)) continue;
    const port = virqPort(xen, domid, virq, 0);
    if (port !== 0) setPending(xen, domid, port);
    return;
  }
}
