/**
 * xen_version: what a guest learns about its hypervisor and about its own kind.
 *
 * Rule: what a build of Xen says about itself is short here, and a plain guest is denied what only a control domain
 * may know.
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
import { EFAULT, EINVAL, ENODATA, ENOSYS, EPERM } from "../shared/status.ts";
import type { DomId } from "../shared/units.ts";
import { copyArgs, copyFieldBack, copyToGuest } from "./guest-access.ts";
import { type Caller, hasFlag, isPrivileged, type Xen } from "./xen.ts";

/** 4.17. */
const VERSION = (4 << 16) | 17;
/** First virtual address of the hypervisor on arm64. */
const VIRT_START = 0x200000;

/** What is told of the build: texts, each in an array of its own size that is written whole. */
const EXTRA_VERSION = ".7";
const CAPABILITIES = "xen-3.0-aarch64 xen-3.0-armv7l ";
const EXTRA_VERSION_SIZE = 16;
/** compiler 64, compile_by 16, compile_domain 32, compile_date 32: nobody compiles this hypervisor. */
const COMPILE_INFO_SIZE = 144;
const CAPABILITIES_SIZE = 1024;
const CHANGESET_SIZE = 64;
const GUEST_HANDLE_SIZE = 16;
const COMMANDLINE_SIZE = 1024;
/** What a domain reads that may not know (Xen: xen_deny()). */
const DENIED = "<denied>";

/** xen_version(cmd, arg): `arg` is the guest address of the query's structure, or 0. */
export function xenVersion(xen: Xen, caller: Caller, cmd: number, arg: number): number {
  switch (cmd) {
    case XENVER_version:
      return VERSION;
    case XENVER_platform_parameters:
      return platformParameters(xen, caller, arg);
    case XENVER_get_features:
      return getFeatures(xen, caller, arg);
    case XENVER_extraversion:
      return text(xen, caller, arg, EXTRA_VERSION, EXTRA_VERSION_SIZE);
    case XENVER_compile_info:
      return text(xen, caller, arg, "", COMPILE_INFO_SIZE);
    case XENVER_capabilities:
      return text(xen, caller, arg, CAPABILITIES, CAPABILITIES_SIZE);
    case XENVER_changeset:
      return text(xen, caller, arg, "", CHANGESET_SIZE);
    case XENVER_guest_handle:
      return text(xen, caller, arg, "", GUEST_HANDLE_SIZE);
    case XENVER_commandline:
      return text(xen, caller, arg, isPrivileged(xen, caller) ? "" : DENIED, COMMANDLINE_SIZE);
    case XENVER_build_id:
      return isPrivileged(xen, caller) ? -ENODATA : -EPERM;
    case XENVER_pagesize:
      // A pointer must be null: the size is the return value.
      return arg === 0 ? PAGE_SIZE : -EINVAL;
    default:
      return -ENOSYS;
  }
}

/** Writes a text and zeroes behind it, `size` bytes in all. */
function text(xen: Xen, caller: Caller, arg: number, what: string, size: number): number {
  const { bytes } = xen.args;
  for (let done = 0; done < size; done += bytes.length) {
    const part = Math.min(bytes.length, size - done);
    for (let i = 0; i < part; i++) {
      bytes[i] = done + i < what.length ? what.charCodeAt(done + i) : 0;
    }
    if (!copyToGuest(xen, caller.domid, arg + done, bytes, 0, part)) return -EFAULT;
  }
  return 0;
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
  // An old Xen says neither: its dom0 is direct-mapped, and no other domain is.
  const mapping = xen.model.lacks?.includes("mapping_features") === true ? 0 : 1 << mapped;
  return always | dom0 | mapping;
}
