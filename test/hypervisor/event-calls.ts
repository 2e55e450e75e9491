/** Event channel operations as a test spells them: arguments are laid out in the actor's own memory. */
import {
  ALLOC_UNBOUND_SIZE,
  BIND_INTERDOMAIN_SIZE,
  BIND_IPI_SIZE,
  BIND_VCPU_SIZE,
  BIND_VIRQ_SIZE,
  EVTCHNOP_alloc_unbound,
  EVTCHNOP_bind_interdomain,
  EVTCHNOP_bind_ipi,
  EVTCHNOP_bind_vcpu,
  EVTCHNOP_bind_virq,
  EVTCHNOP_status,
  STATUS_SIZE,
} from "../../shared/abi/event-channel.ts";
import {
  DOMID_SELF,
  HYPERVISOR_event_channel_op,
  SHARED_INFO_EVTCHN_MASK,
  SHARED_INFO_EVTCHN_PENDING,
  VCPU_INFO_PENDING_SEL,
  VCPU_INFO_UPCALL_PENDING,
} from "../../shared/abi/xen.ts";
import { DOM, domainOf } from "../../shared/layout.ts";
import { FrameIndex } from "../../shared/units.ts";
import { argumentAddress } from "./grants.ts";
import { type Actor, call, readGuest, type TestMachine, writeGuest } from "./harness.ts";

/** One operation: `fill` writes the inputs, the view holds the structure as it came back. */
function operate(
  machine: TestMachine,
  actor: Actor,
  cmd: number,
  size: number,
  fill: (view: DataView) => void,
): { readonly ret: number; readonly out: DataView } {
  const bytes = new Uint8Array(size);
  fill(new DataView(bytes.buffer));
  const at = argumentAddress(actor);
  writeGuest(actor, at, bytes);
  const ret = call(machine, actor, HYPERVISOR_event_channel_op, cmd, at);
  return { ret, out: new DataView(readGuest(actor, at, size).buffer) };
}

/** The port that an operation bound, or its negative errno. */
const portAt = (reply: { readonly ret: number; readonly out: DataView }, offset: number): number =>
  reply.ret === 0 ? reply.out.getUint32(offset, true) : reply.ret;

export function allocUnbound(
  machine: TestMachine,
  actor: Actor,
  remote: number,
  dom: number = DOMID_SELF,
): number {
  const fill = (view: DataView): void => {
    view.setUint16(0, dom, true);
    view.setUint16(2, remote, true);
  };
  return portAt(operate(machine, actor, EVTCHNOP_alloc_unbound, ALLOC_UNBOUND_SIZE, fill), 4);
}

export function bindInterdomain(
  machine: TestMachine,
  actor: Actor,
  remote: number,
  remotePort: number,
): number {
  const fill = (view: DataView): void => {
    view.setUint16(0, remote, true);
    view.setUint32(4, remotePort, true);
  };
  return portAt(operate(machine, actor, EVTCHNOP_bind_interdomain, BIND_INTERDOMAIN_SIZE, fill), 8);
}

export function bindVirq(machine: TestMachine, actor: Actor, virq: number, vcpu = 0): number {
  const fill = (view: DataView): void => {
    view.setUint32(0, virq, true);
    view.setUint32(4, vcpu, true);
  };
  return portAt(operate(machine, actor, EVTCHNOP_bind_virq, BIND_VIRQ_SIZE, fill), 8);
}

export const bindIpi = (machine: TestMachine, actor: Actor, vcpu: number): number => {
  const fill = (view: DataView): void => view.setUint32(0, vcpu, true);
  return portAt(operate(machine, actor, EVTCHNOP_bind_ipi, BIND_IPI_SIZE, fill), 4);
};

export function bindVcpu(machine: TestMachine, actor: Actor, port: number, vcpu: number): number {
  return operate(machine, actor, EVTCHNOP_bind_vcpu, BIND_VCPU_SIZE, (view) => {
    view.setUint32(0, port, true);
    view.setUint32(4, vcpu, true);
  }).ret;
}

/** close, send, unmask, reset and set_priority: one or two numbers, no output. */
export function portOp(
  machine: TestMachine,
  actor: Actor,
  cmd: number,
  port: number,
  second = 0,
): number {
  return operate(machine, actor, cmd, 8, (view) => {
    view.setUint32(0, port, true);
    view.setUint32(4, second, true);
  }).ret;
}

export interface PortStatus {
  readonly ret: number;
  readonly status: number;
  readonly vcpu: number;
  readonly dom: number;
  readonly port: number;
}

export function portStatus(
  machine: TestMachine,
  actor: Actor,
  port: number,
  dom: number = DOMID_SELF,
): PortStatus {
  const { ret, out } = operate(machine, actor, EVTCHNOP_status, STATUS_SIZE, (view) => {
    view.setUint16(0, dom, true);
    view.setUint32(4, port, true);
  });
  return {
    ret,
    status: out.getUint32(8, true),
    vcpu: out.getUint32(12, true),
    dom: out.getUint16(16, true),
    port: out.getUint32(20, true),
  };
}

/** The bits of one port and the flags of vCPU 0 as the shared info page holds them. */
export interface EventBits {
  readonly pending: boolean;
  readonly masked: boolean;
  readonly selector: number;
  readonly upcall: number;
}

const sharedInfo = ({ xen }: TestMachine, actor: Actor): FrameIndex =>
  FrameIndex(xen.words[domainOf(xen.layout, actor.domid) + DOM.SHARED_INFO] ?? -1);

export function eventBits(machine: TestMachine, actor: Actor, port: number): EventBits {
  const { memory } = machine.xen;
  const frame = sharedInfo(machine, actor);
  const bit = (base: number): boolean =>
    ((memory.load(frame, base + (port >> 5) * 4) >>> (port & 31)) & 1) === 1;
  return {
    pending: bit(SHARED_INFO_EVTCHN_PENDING),
    masked: bit(SHARED_INFO_EVTCHN_MASK),
    selector: memory.load(frame, VCPU_INFO_PENDING_SEL),
    upcall: memory.load(frame, VCPU_INFO_UPCALL_PENDING) & 0xff,
  };
}

/** What the guest does before it looks for events: flags and selector cleared. */
export function clearFlags(machine: TestMachine, actor: Actor): void {
  const frame = sharedInfo(machine, actor);
  machine.xen.memory.store(frame, VCPU_INFO_UPCALL_PENDING, 0);
  machine.xen.memory.store(frame, VCPU_INFO_PENDING_SEL, 0);
}

/** The guest clears the pending bit, or sets the mask bit, of a port. */
export function clearPending(machine: TestMachine, actor: Actor, port: number): void {
  const offset = SHARED_INFO_EVTCHN_PENDING + (port >> 5) * 4;
  machine.xen.memory.and(sharedInfo(machine, actor), offset, ~(1 << (port & 31)));
}
export function mask(machine: TestMachine, actor: Actor, port: number): void {
  const offset = SHARED_INFO_EVTCHN_MASK + (port >> 5) * 4;
  machine.xen.memory.or(sharedInfo(machine, actor), offset, 1 << (port & 31));
}
