/**
 * xen_version: what a guest learns about its hypervisor and about its own kind.
 *
 * Rule: only the queries that a guest of this machine needs; the others have a row in the table of things not built.
 * Behaviour: xen/common/kernel.c, do_xen_version(); the feature bits of spec section 1.2, version 4.17.
 */
import {
  FEATURE_INFO_SIZE,
  FEATURE_INFO_SUBMAP,
  FEATURE_INFO_SUBMAP_IDX,
  XENFEAT_ARM_SMCCC_supported,
  XENFEAT_auto_translated_physmap,
  XENFEAT_direct_mapped,
  XENFEAT_dom0,
  XENFEAT_memory_op_vnode_supported,
  XENFEAT_not_direct_mapped,
  XENFEAT_writable_page_tables,
  XENVER_build_id,
  XENVER_capabilities,
  XENVER_changeset,
  XENVER_commandline,
  XENVER_compile_info,
  XENVER_extraversion,
  XENVER_get_features,
  XENVER_guest_handle,
  XENVER_pagesize,
  XENVER_platform_parameters,
  XENVER_version,
} from "../shared/abi/xen.ts";
import { CDF_directmap, CDF_hardware } from "../shared/layout.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import { EFAULT, EINVAL, ENOSYS } from "../shared/status.ts";
import type { DomId } from "../shared/units.ts";
import { copyArgs, copyFieldBack, copyToGuest } from "./guest-access.ts";
import { type Caller, hasFlag, type Xen } from "./xen.ts";

/** 4.17. */
const VERSION = (4 << 16) | 17;
/** First virtual address of the hypervisor on arm64. */
const VIRT_START = 0x200000;

const NOT_BUILT: ReadonlySet<number> = new Set([
  XENVER_extraversion,
  XENVER_compile_info,
  XENVER_capabilities,
  XENVER_changeset,
  XENVER_guest_handle,
  XENVER_commandline,
  XENVER_build_id,
]);

export const xenVersionNotBuilt = (cmd: number): boolean => NOT_BUILT.has(cmd);

/** xen_version(cmd, arg): `arg` is the guest address of the query's structure, or 0. */
export function xenVersion(xen: Xen, caller: Caller, cmd: number, arg: number): number {
  switch (cmd) {
    case XENVER_version:
      return VERSION;
    case XENVER_platform_parameters:
      return platformParameters(xen, caller, arg);
    case XENVER_get_features:
      return getFeatures(xen, caller, arg);
    case XENVER_pagesize:
      // A pointer must be null: the size is the return value.
      return arg === 0 ? PAGE_SIZE : -EINVAL;
    default:
      return -ENOSYS;
  }
}

function platformParameters(xen: Xen, caller: Caller, arg: number): number {
  xen.args.setU64(0, VIRT_START);
  return copyToGuest(xen, caller.domid, arg, xen.args.bytes, 0, 8) ? 0 : -EFAULT;
}

function getFeatures(xen: Xen, caller: Caller, arg: number): number {
  if (!copyArgs(xen, caller.domid, arg, FEATURE_INFO_SIZE)) return -EFAULT;
  if (xen.args.u32(FEATURE_INFO_SUBMAP_IDX) !== 0) return -EINVAL;
  xen.args.setU32(FEATURE_INFO_SUBMAP, featuresOf(xen, caller.domid));
  return copyFieldBack(xen, caller.domid, arg, FEATURE_INFO_SUBMAP, 4) ? 0 : -EFAULT;
}

/** Feature bits of submap 0. Every ARM guest is translated. */
function featuresOf(xen: Xen, domid: DomId): number {
  const mapped = hasFlag(xen, domid, CDF_directmap)
    ? XENFEAT_direct_mapped
    : XENFEAT_not_direct_mapped;
  const always =
    (1 << XENFEAT_writable_page_tables) |
    (1 << XENFEAT_auto_translated_physmap) |
    (1 << XENFEAT_memory_op_vnode_supported) |
    (1 << XENFEAT_ARM_SMCCC_supported);
  const dom0 = hasFlag(xen, domid, CDF_hardware) ? 1 << XENFEAT_dom0 : 0;
  return always | dom0 | (1 << mapped);
}
