/**
 * Hypercall to handler, and every other record a slot may push. The tables can be read: an operation that is not in
 * them is unknown to Xen (-ENOSYS) or known and not answered yet (`notBuilt`).
 *
 * Rule: a vCPU may issue hypercalls, a device may raise and report faults, control may do everything else. A record
 * of the wrong kind is refused with -ENOSYS; no record reaches an assertion.
 * Behaviour: xen/arch/arm/traps.c, do_trap_hypercall(), arm_hypercall_table.
 */
import {
  HYPERVISOR_domctl,
  HYPERVISOR_event_channel_op,
  HYPERVISOR_grant_table_op,
  HYPERVISOR_hvm_op,
  HYPERVISOR_memory_op,
  HYPERVISOR_mmu_update,
  HYPERVISOR_mmuext_op,
  HYPERVISOR_sched_op,
  HYPERVISOR_update_va_mapping,
  HYPERVISOR_xen_version,
} from "../shared/abi/xen.ts";
import { at } from "../shared/assert.ts";
import { LINE, SLOT_KIND_CONTROL, SLOT_KIND_DEVICE } from "../shared/layout.ts";
import { ENOSYS } from "../shared/status.ts";
import {
  CONTROL_AUDIT,
  CONTROL_CREATE,
  CONTROL_DOMCTL,
  CONTROL_HOLD,
  CONTROL_STOP,
  CONTROL_VCPU_DIED,
  DEVICE_FAULT,
  DEVICE_RAISE,
  RECORD_OP,
  recordArg,
} from "../shared/trap.ts";
import { audit } from "./audit.ts";
import { createDomain } from "./domain-build.ts";
import { vcpuDied } from "./domain-death.ts";
import { controlDomctl, domctlNotBuilt, domctlOp } from "./domctl.ts";
import { eventChannelOp } from "./event-channel.ts";
import { grantTableOp } from "./grant-table.ts";
import { hvmOp } from "./hvm-op.ts";
import { deviceRaise } from "./iommu-devices.ts";
import { deviceFault } from "./iommu-faults.ts";
import { memoryOp } from "./memory-op.ts";
import { mmuextOp, mmuUpdate, updateVaMapping } from "./pv-mmu.ts";
import { schedNotBuilt, schedOp } from "./sched-op.ts";
import { type Caller, lineField, type Preemptible, type Xen } from "./xen.ts";
import { xenVersion } from "./xen-version.ts";

/** What a handler answers: a return value, or a generator that lets go at its gaps. */
export type Answer = number | Preemptible;

/** Whether Xen knows this operation but this hypervisor does not answer it yet. */
export function notBuilt(op: number, cmd: number): boolean {
  switch (op) {
    case HYPERVISOR_domctl:
      return domctlNotBuilt(cmd);
    case HYPERVISOR_sched_op:
      return schedNotBuilt(cmd);
    default:
      return false;
  }
}

/** Handles the record in `xen.record` for `caller`. */
export function dispatch(xen: Xen, caller: Caller): Answer {
  const kind = lineField(xen, caller.slot, LINE.KIND);
  if (kind === SLOT_KIND_CONTROL) return controlRecord(xen, caller);
  if (kind === SLOT_KIND_DEVICE) return deviceRecord(xen, caller);
  return hypercall(xen, caller);
}

function hypercall(xen: Xen, caller: Caller): Answer {
  const { record } = xen;
  const a0 = recordArg(record, 0);
  const a1 = recordArg(record, 1);
  const a2 = recordArg(record, 2);
  switch (at(record, RECORD_OP)) {
    case HYPERVISOR_grant_table_op:
      return grantTableOp(xen, caller, a0, a1, a2);
    case HYPERVISOR_mmu_update:
      return mmuUpdate(xen, caller, a0, a1, a2, recordArg(record, 3));
    case HYPERVISOR_update_va_mapping:
      return updateVaMapping(xen, caller, a0, a2);
    case HYPERVISOR_mmuext_op:
      return mmuextOp(xen, caller, a0, a1, a2, recordArg(record, 3));
    case HYPERVISOR_memory_op:
      return memoryOp(xen, caller, a0, a1);
    case HYPERVISOR_event_channel_op:
      return eventChannelOp(xen, caller, a0, a1);
    case HYPERVISOR_sched_op:
      return schedOp(xen, caller, a0, a1);
    case HYPERVISOR_hvm_op:
      return hvmOp(xen, caller, a0, a1);
    case HYPERVISOR_xen_version:
      return xenVersion(xen, caller, a0, a1);
    case HYPERVISOR_domctl:
      return domctlOp(xen, caller, a0);
    default:
      return -ENOSYS;
  }
}

function deviceRecord(xen: Xen, caller: Caller): Answer {
  const { record } = xen;
  switch (at(record, RECORD_OP)) {
    case DEVICE_RAISE:
      return deviceRaise(xen, caller.slot, recordArg(record, 0));
    case DEVICE_FAULT: {
      const write = recordArg(record, 1);
      return deviceFault(xen, caller.slot, recordArg(record, 0), write, recordArg(record, 2));
    }
    default:
      return -ENOSYS;
  }
}

function controlRecord(xen: Xen, caller: Caller): Answer {
  const { record } = xen;
  const a0 = recordArg(record, 0);
  switch (at(record, RECORD_OP)) {
    case CONTROL_AUDIT:
      return audit(xen).length;
    case CONTROL_VCPU_DIED:
      return vcpuDied(xen, caller.slot, a0);
    case CONTROL_CREATE:
      return createDomain(xen, a0);
    case CONTROL_DOMCTL:
      return controlDomctl(xen, caller, a0, recordArg(record, 1), recordArg(record, 2));
    case CONTROL_HOLD:
    case CONTROL_STOP:
      return 0;
    default:
      return -ENOSYS;
  }
}
