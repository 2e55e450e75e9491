/**
 * memory_op: dispatch and queries. Reservations are memory-reservation.ts, the physmap memory-physmap.ts.
 *
 * Rule: the low bits of the command name the operation, the rest is the extent to start at. Operations without a
 * list refuse a start, each in its own way.
 * Behaviour: xen/common/memory.c, do_memory_op(); xen/arch/arm/mm.c, arch_memory_op().
 */
import {
  MEMOP_CMD_MASK,
  MEMORY_DOMAIN_SIZE,
  RDM_MAP_FLAGS,
  RDM_MAP_NR_ENTRIES,
  RDM_MAP_SIZE,
  VNUMA_INFO_DOMID,
  VNUMA_INFO_PAD,
  VNUMA_INFO_SIZE,
  XENMEM_acquire_resource,
  XENMEM_add_to_physmap,
  XENMEM_add_to_physmap_batch,
  XENMEM_claim_pages,
  XENMEM_current_reservation,
  XENMEM_decrease_reservation,
  XENMEM_exchange,
  XENMEM_get_sharing_freed_pages,
  XENMEM_get_sharing_shared_pages,
  XENMEM_get_vnumainfo,
  XENMEM_increase_reservation,
  XENMEM_machphys_mapping,
  XENMEM_maximum_gpfn,
  XENMEM_maximum_ram_page,
  XENMEM_maximum_reservation,
  XENMEM_populate_physmap,
  XENMEM_RDM_ALL,
  XENMEM_remove_from_physmap,
  XENMEM_reserved_device_memory_map,
} from "../shared/abi/memory.ts";
import { DOM } from "../shared/layout.ts";
import { EFAULT, EINVAL, ENOSYS, EOPNOTSUPP, EPERM, ESRCH } from "../shared/status.ts";
import { copyArgs, copyToGuest } from "./guest-access.ts";
import { maxPage } from "./heap-frames.ts";
import { claimPages } from "./memory-claim.ts";
import { exchange } from "./memory-exchange.ts";
import { addToPhysmap, addToPhysmapBatch, removeFromPhysmap } from "./memory-physmap.ts";
import { adjustReservation } from "./memory-reservation.ts";
import { acquireResource } from "./memory-resource.ts";
import { isPv } from "./page-type.ts";
import { domainProfile } from "./profile.ts";
import {
  type Caller,
  domainByAnyId,
  domainField,
  domainPair,
  mayTarget,
  type Preemptible,
  type Xen,
} from "./xen.ts";

const OPERATIONS = MEMOP_CMD_MASK + 1;

/** memory_op(cmd, arg). */
export function memoryOp(xen: Xen, caller: Caller, cmd: number, arg: number): number | Preemptible {
  const op = cmd % OPERATIONS;
  const start = Math.floor(cmd / OPERATIONS);
  switch (op) {
    case XENMEM_increase_reservation:
    case XENMEM_decrease_reservation:
    case XENMEM_populate_physmap:
      return adjustReservation(xen, caller, op, start, arg);
    case XENMEM_exchange:
      return exchange(xen, caller, arg);
    case XENMEM_maximum_ram_page:
      return start === 0 ? maxPage(xen) : -EINVAL;
    case XENMEM_current_reservation:
    case XENMEM_maximum_reservation:
    case XENMEM_maximum_gpfn:
      return query(xen, caller, op, start, arg);
    case XENMEM_add_to_physmap:
      return addToPhysmap(xen, caller, start, arg);
    case XENMEM_add_to_physmap_batch:
      return addToPhysmapBatch(xen, caller, start, arg);
    case XENMEM_claim_pages:
      return claimPages(xen, caller, start, arg);
    case XENMEM_acquire_resource:
      return acquireResource(xen, caller, start, arg);
    case XENMEM_machphys_mapping:
      return isPv(xen, caller.domid) ? machphysMapping(xen, caller, arg) : -ENOSYS;
    case XENMEM_get_vnumainfo:
      return vnumaInfo(xen, caller, start, arg);
    case XENMEM_reserved_device_memory_map:
      return reservedDeviceMemory(xen, caller, start, arg);
    case XENMEM_remove_from_physmap:
      return removeFromPhysmap(xen, caller, start, arg);
    case XENMEM_get_sharing_freed_pages:
    case XENMEM_get_sharing_shared_pages:
      // Memory sharing is an x86 matter: nothing is shared and nothing was saved by it.
      return 0;
    default:
      return domainProfile(xen, caller.domid).refusals[op] ?? -ENOSYS;
  }
}

function query(xen: Xen, caller: Caller, op: number, start: number, arg: number): number {
  if (start !== 0) return -EINVAL;
  if (!copyArgs(xen, caller.domid, arg, MEMORY_DOMAIN_SIZE)) return -EFAULT;
  const domid = domainByAnyId(xen, caller, xen.args.u16(0));
  if (domid === undefined) return -ESRCH;
  if (!mayTarget(xen, caller, domid)) return -EPERM;
  if (op === XENMEM_current_reservation) return domainField(xen, domid, DOM.TOT_PAGES);
  if (op === XENMEM_maximum_reservation) return domainField(xen, domid, DOM.MAX_PAGES);
  // A table that never held anything has no highest gfn: Xen's field starts at 0.
  return Math.max(0, domainPair(xen, domid, DOM.P2M_MAX_GFN));
}

/** Where a 64-bit PV guest finds the M2P, and its last entry: three u64. */
function machphysMapping(xen: Xen, caller: Caller, arg: number): number {
  const words = [0, 0xffff8000, 0, 0xffff8040, 0xffffffff, 7];
  for (const [i, word] of words.entries()) xen.args.setU32(4 * i, word);
  return copyToGuest(xen, caller.domid, arg, xen.args.bytes, 0, 24) ? 0 : -EFAULT;
}

/** No domain of this machine has virtual NUMA nodes. */
function vnumaInfo(xen: Xen, caller: Caller, start: number, arg: number): number {
  if (start !== 0) return -EINVAL;
  if (!copyArgs(xen, caller.domid, arg, VNUMA_INFO_SIZE)) return -EFAULT;
  if (xen.args.u16(VNUMA_INFO_PAD) !== 0) return -EINVAL;
  const domid = domainByAnyId(xen, caller, xen.args.u16(VNUMA_INFO_DOMID));
  if (domid === undefined) return -ESRCH;
  return mayTarget(xen, caller, domid) ? -EOPNOTSUPP : -EPERM;
}

/** Memory that firmware keeps for devices: the IOMMU of an arm64 machine reports none. */
function reservedDeviceMemory(xen: Xen, caller: Caller, start: number, arg: number): number {
  const { args } = xen;
  if (start !== 0) return -EINVAL;
  if (!copyArgs(xen, caller.domid, arg, RDM_MAP_SIZE)) return -EFAULT;
  if ((args.u32(RDM_MAP_FLAGS) & ~XENMEM_RDM_ALL) !== 0) return -EINVAL;
  args.setU32(RDM_MAP_NR_ENTRIES, 0);
  return copyToGuest(xen, caller.domid, arg, args.bytes, 0, RDM_MAP_SIZE) ? 0 : -EFAULT;
}
