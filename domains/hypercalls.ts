/**
 * Typed wrappers: a structure is put together in the argument area, its address goes into the record, and
 * its output fields are read back. Real numbers and layouts; nothing is checked here that Xen checks.
 *
 * Rules: results are what the hypervisor returned: 0 or more, or a negative errno. A wrapper that returns an
 * output returns it only with success; the negative errno otherwise. Batches fit the argument area.
 * Behaviour: Linux include/xen/interface, arch/arm64/include/asm/xen/hypercall.h.
 */
import {
  DOMCTL_CMD,
  DOMCTL_DOMAIN,
  DOMCTL_SIZE,
  DOMINFO_DOMAIN,
  DOMINFO_FLAGS,
  XEN_DOMCTL_getdomaininfo,
} from "../shared/abi/domctl.ts";
import {
  ALLOC_UNBOUND_DOM,
  ALLOC_UNBOUND_PORT,
  ALLOC_UNBOUND_REMOTE_DOM,
  ALLOC_UNBOUND_SIZE,
  BIND_INTERDOMAIN_LOCAL_PORT,
  BIND_INTERDOMAIN_REMOTE_DOM,
  BIND_INTERDOMAIN_REMOTE_PORT,
  BIND_INTERDOMAIN_SIZE,
  BIND_VIRQ_PORT,
  BIND_VIRQ_SIZE,
  BIND_VIRQ_VCPU,
  BIND_VIRQ_VIRQ,
  EVTCHNOP_alloc_unbound,
  EVTCHNOP_bind_interdomain,
  EVTCHNOP_bind_virq,
  EVTCHNOP_status,
  PORT_SIZE,
  STATUS_DOM,
  STATUS_PORT,
  STATUS_SIZE,
  STATUS_STATUS,
  STATUS_UNION,
  STATUS_VCPU,
} from "../shared/abi/event-channel.ts";
import {
  ADD_TO_PHYSMAP_DOMID,
  ADD_TO_PHYSMAP_GPFN,
  ADD_TO_PHYSMAP_IDX,
  ADD_TO_PHYSMAP_SIZE,
  ADD_TO_PHYSMAP_SPACE,
  XENMEM_add_to_physmap,
} from "../shared/abi/memory.ts";
import {
  DOMID_SELF,
  FEATURE_INFO_SIZE,
  FEATURE_INFO_SUBMAP,
  HVM_PARAM_SIZE,
  HVMOP_get_param,
  HYPERVISOR_domctl,
  HYPERVISOR_event_channel_op,
  HYPERVISOR_grant_table_op,
  HYPERVISOR_hvm_op,
  HYPERVISOR_memory_op,
  HYPERVISOR_xen_version,
  XENVER_get_features,
} from "../shared/abi/xen.ts";
import type { Program } from "../shared/trap.ts";
import { noteCalls, noteReturns } from "./history.ts";
import { type Caller, hypercall, readArguments, writeArguments } from "./kernel.ts";

/** Clears the first `size` bytes of the argument area and returns a view on it. */
export function freshArguments(caller: Caller, size: number): DataView {
  caller.arguments.bytes.fill(0, 0, size);
  return caller.arguments.view;
}

/** Writes a frame number or byte address as a 64-bit field. */
export function setU64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value % 4294967296, true);
  view.setUint32(offset + 4, Math.floor(value / 4294967296), true);
}

/** Reads a 64-bit field; above 2^53 the precision that is lost does not matter to anyone. */
export const getU64 = (view: DataView, offset: number): number =>
  view.getUint32(offset + 4, true) * 4294967296 + view.getUint32(offset, true);

/** Passes the `size` bytes of arguments that the caller has put together; reads them back. */
export function* callWithArguments(
  caller: Caller,
  op: number,
  command: number,
  size: number,
): Program<number> {
  yield* writeArguments(caller, size);
  const result = yield* hypercall(caller, op, command, caller.arguments.gaddr);
  yield* readArguments(caller, size);
  return result;
}

/** memory_op with one structure in the argument area. */
export function* memoryOp(caller: Caller, command: number, size: number): Program<number> {
  return yield* callWithArguments(caller, HYPERVISOR_memory_op, command, size);
}

/** grant_table_op on `count` structures that fill the first `size` bytes of the argument area. */
export function* grantTableOp(
  caller: Caller,
  command: number,
  size: number,
  count: number,
): Program<number> {
  const { gaddr, view } = caller.arguments;
  yield* writeArguments(caller, size);
  const noted = noteCalls(caller.cpu, view, command, count);
  const result = yield* hypercall(caller, HYPERVISOR_grant_table_op, command, gaddr, count);
  yield* readArguments(caller, size);
  if (noted !== undefined) noteReturns(caller.cpu, view, noted);
  return result;
}

/** event_channel_op with one structure in the argument area. */
export function* eventChannelOp(caller: Caller, command: number, size: number): Program<number> {
  return yield* callWithArguments(caller, HYPERVISOR_event_channel_op, command, size);
}

/** Operations whose structure is a port alone: close, send, unmask. */
export function* portOp(caller: Caller, command: number, port: number): Program<number> {
  freshArguments(caller, PORT_SIZE).setUint32(0, port, true);
  return yield* eventChannelOp(caller, command, PORT_SIZE);
}

/** EVTCHNOP_alloc_unbound for this domain: the new port, or a negative errno. */
export function* allocUnbound(caller: Caller, remote: number): Program<number> {
  const view = freshArguments(caller, ALLOC_UNBOUND_SIZE);
  view.setUint16(ALLOC_UNBOUND_DOM, DOMID_SELF, true);
  view.setUint16(ALLOC_UNBOUND_REMOTE_DOM, remote, true);
  const result = yield* eventChannelOp(caller, EVTCHNOP_alloc_unbound, ALLOC_UNBOUND_SIZE);
  return result < 0 ? result : view.getUint32(ALLOC_UNBOUND_PORT, true);
}

/** EVTCHNOP_bind_interdomain: the local port, or a negative errno. */
export function* bindInterdomain(
  caller: Caller,
  remote: number,
  remotePort: number,
): Program<number> {
  const view = freshArguments(caller, BIND_INTERDOMAIN_SIZE);
  view.setUint16(BIND_INTERDOMAIN_REMOTE_DOM, remote, true);
  view.setUint32(BIND_INTERDOMAIN_REMOTE_PORT, remotePort, true);
  const result = yield* eventChannelOp(caller, EVTCHNOP_bind_interdomain, BIND_INTERDOMAIN_SIZE);
  return result < 0 ? result : view.getUint32(BIND_INTERDOMAIN_LOCAL_PORT, true);
}

/** EVTCHNOP_bind_virq on vCPU 0: the local port, or a negative errno. */
export function* bindVirq(caller: Caller, virq: number): Program<number> {
  const view = freshArguments(caller, BIND_VIRQ_SIZE);
  view.setUint32(BIND_VIRQ_VIRQ, virq, true);
  view.setUint32(BIND_VIRQ_VCPU, 0, true);
  const result = yield* eventChannelOp(caller, EVTCHNOP_bind_virq, BIND_VIRQ_SIZE);
  return result < 0 ? result : view.getUint32(BIND_VIRQ_PORT, true);
}

/** What EVTCHNOP_status tells of a port of this domain. */
export interface PortStatus {
  /** EVTCHNSTAT_* */
  readonly status: number;
  readonly vcpu: number;
  /** Of a port of a virtual interrupt. */
  readonly virq: number;
}

/** EVTCHNOP_status of a port of this domain, or a negative errno. */
export function* evtchnStatus(caller: Caller, port: number): Program<PortStatus | number> {
  const view = freshArguments(caller, STATUS_SIZE);
  view.setUint16(STATUS_DOM, DOMID_SELF, true);
  view.setUint32(STATUS_PORT, port, true);
  const result = yield* eventChannelOp(caller, EVTCHNOP_status, STATUS_SIZE);
  if (result < 0) return result;
  return {
    status: view.getUint32(STATUS_STATUS, true),
    vcpu: view.getUint32(STATUS_VCPU, true),
    virq: view.getUint32(STATUS_UNION, true),
  };
}

/** XENMEM_add_to_physmap of this domain: 0 or a negative errno. */
export function* addToPhysmap(
  caller: Caller,
  space: number,
  index: number,
  gpfn: number,
): Program<number> {
  const view = freshArguments(caller, ADD_TO_PHYSMAP_SIZE);
  view.setUint16(ADD_TO_PHYSMAP_DOMID, DOMID_SELF, true);
  view.setUint32(ADD_TO_PHYSMAP_SPACE, space, true);
  setU64(view, ADD_TO_PHYSMAP_IDX, index);
  setU64(view, ADD_TO_PHYSMAP_GPFN, gpfn);
  return yield* memoryOp(caller, XENMEM_add_to_physmap, ADD_TO_PHYSMAP_SIZE);
}

/** HVMOP_get_param: the value, or a negative errno. */
export function* getHvmParam(caller: Caller, domid: number, index: number): Program<number> {
  const view = freshArguments(caller, HVM_PARAM_SIZE);
  view.setUint16(0, domid, true);
  view.setUint32(4, index, true);
  const result = yield* callWithArguments(
    caller,
    HYPERVISOR_hvm_op,
    HVMOP_get_param,
    HVM_PARAM_SIZE,
  );
  return result < 0 ? result : getU64(view, 8);
}

/** XENVER_get_features, submap 0: the feature bits, or a negative errno. */
export function* getFeatures(caller: Caller): Program<number> {
  const view = freshArguments(caller, FEATURE_INFO_SIZE);
  const result = yield* callWithArguments(
    caller,
    HYPERVISOR_xen_version,
    XENVER_get_features,
    FEATURE_INFO_SIZE,
  );
  return result < 0 ? result : view.getUint32(FEATURE_INFO_SUBMAP, true);
}

/** One domain as XEN_DOMCTL_getdomaininfo describes it. */
export interface DomainInfo {
  readonly domid: number;
  /** XEN_DOMINF_* */
  readonly flags: number;
}

/** The domain with the lowest id that is `first` or higher, or a negative errno (-ESRCH: there is none). */
export function* getDomainInfo(caller: Caller, first: number): Program<DomainInfo | number> {
  const view = freshArguments(caller, DOMCTL_SIZE);
  view.setUint32(DOMCTL_CMD, XEN_DOMCTL_getdomaininfo, true);
  view.setUint16(DOMCTL_DOMAIN, first, true);
  yield* writeArguments(caller, DOMCTL_SIZE);
  const result = yield* hypercall(caller, HYPERVISOR_domctl, caller.arguments.gaddr);
  yield* readArguments(caller, DOMCTL_SIZE);
  if (result < 0) return result;
  return {
    domid: view.getUint16(DOMINFO_DOMAIN, true),
    flags: view.getUint32(DOMINFO_FLAGS, true),
  };
}
