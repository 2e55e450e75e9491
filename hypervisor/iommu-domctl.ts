/**
 * assign_device, test_assign_device, deassign_device: a device's translation moves from one domain's context to another's.
 *
 * x86 knows PCI devices (by their segment, bus and function: the id they send to the IOMMU), arm64 nodes of the device
 * tree (by path: "/" and the name in the machine description). Each refuses in an order of its own. Register page and
 * interrupt stay where they are: see docs/FIDELITY.md.
 * Behaviour: xen/drivers/passthrough/iommu.c, iommu_do_domctl(); pci.c, iommu_do_pci_domctl(), assign_device(),
 * deassign_device(); device_tree.c, iommu_do_dt_domctl(); arm/smmu.c, arm_smmu_deassign_dev().
 */
import {
  ASSIGN_DEV,
  ASSIGN_FLAGS,
  ASSIGN_PATH,
  ASSIGN_PATH_SIZE,
  ASSIGN_SBDF,
  XEN_DOMCTL_assign_device,
  XEN_DOMCTL_DEV_DT,
  XEN_DOMCTL_DEV_PCI,
  XEN_DOMCTL_DEV_RDM_RELAXED,
  XEN_DOMCTL_deassign_device,
  XEN_DOMCTL_test_assign_device,
} from "../shared/abi/domctl.ts";
import { DOMID_INVALID, DOMID_IO } from "../shared/abi/xen.ts";
import { item } from "../shared/assert.ts";
import { CONTEXT } from "../shared/iommu-layout.ts";
import { CDF_hardware, CDF_iommu } from "../shared/layout.ts";
import { NOT_PRESENT, PAGE_SIZE } from "../shared/limits.ts";
import { EBUSY, EFAULT, EINVAL, ENOBUFS, ENODEV, EOPNOTSUPP, ESRCH } from "../shared/status.ts";
import type { DomId } from "../shared/units.ts";
import { copyFromGuest } from "./guest-access.ts";
import {
  type Context,
  contextAfter,
  contextDomain,
  domainContext,
  hardwareContext,
  quarantine,
  setContextField,
  switchContext,
} from "./iommu-context.ts";
import { type Caller, hasFlag, isDying, isPresent, type Preemptible, type Xen } from "./xen.ts";

const COMMANDS: readonly number[] = [
  XEN_DOMCTL_assign_device,
  XEN_DOMCTL_test_assign_device,
  XEN_DOMCTL_deassign_device,
];

export const isDeviceDomctl = (cmd: number): boolean => COMMANDS.includes(cmd);

/** What is asked, once it has been copied. */
export interface DeviceRequest {
  readonly cmd: number;
  /** A domain, DOMID_IO (quarantine), or DOMID_INVALID (a test that concerns nobody). */
  readonly domid: number;
  /** XEN_DOMCTL_DEV_*. */
  readonly kind: number;
  readonly flags: number;
  /** Index of the device in the machine, or a negative errno. */
  readonly find: () => number;
}

/** Whether a command may name this id although no domain has it. */
export const mayName = (cmd: number, domid: number): boolean =>
  cmd === XEN_DOMCTL_test_assign_device ? domid === DOMID_INVALID : domid === DOMID_IO;

/** The structure of a guest's call, which has been copied into xen.args. */
export function guestRequest(xen: Xen, caller: Caller, cmd: number, domid: number): DeviceRequest {
  const { args } = xen;
  const sbdf = args.u32(ASSIGN_SBDF);
  const size = args.u32(ASSIGN_PATH_SIZE);
  const path = args.u64(ASSIGN_PATH);
  const find = (): number =>
    xen.model.arch === "x86" ? pciDevice(xen, sbdf) : deviceNode(xen, caller.domid, path, size);
  return { cmd, domid, kind: args.u32(ASSIGN_DEV), flags: args.u32(ASSIGN_FLAGS), find };
}

/** The toolstack's record names a device by its index in the machine description. */
export function controlRequest(
  xen: Xen,
  cmd: number,
  domid: number,
  device: number,
): DeviceRequest {
  const isPci = xen.model.arch === "x86";
  const exists = xen.model.devices[device] !== undefined;
  const find = (): number => (exists ? device : isPci ? -ENODEV : -ESRCH);
  return { cmd, domid, kind: isPci ? XEN_DOMCTL_DEV_PCI : XEN_DOMCTL_DEV_DT, flags: 0, find };
}

/** A function in segment 0 whose requester id is a device's. */
function pciDevice(xen: Xen, sbdf: number): number {
  const device = xen.model.devices.findIndex((d) => d.streamId === sbdf);
  return device === NOT_PRESENT ? -ENODEV : device;
}

function deviceNode(xen: Xen, domid: DomId, address: number, size: number): number {
  if (size > PAGE_SIZE) return -ENOBUFS;
  const bytes = new Uint8Array(size);
  if (!copyFromGuest(xen, domid, address, bytes, size)) return -EFAULT;
  const path = String.fromCharCode(...bytes);
  const device = xen.model.devices.findIndex(({ name }) => path === `/${name}`);
  return device === NOT_PRESENT ? -ESRCH : device;
}

/** Answers a request of a caller that may control domains. -EOPNOTSUPP: the domain has no IOMMU. */
export function deviceDomctl(
  xen: Xen,
  caller: Caller,
  request: DeviceRequest,
): number | Preemptible {
  if (!hasIommu(xen, request.domid)) return -EOPNOTSUPP;
  return xen.model.arch === "x86" ? pci(xen, caller, request) : node(xen, caller, request);
}

const hasIommu = (xen: Xen, domid: number): boolean =>
  isPresent(xen, domid) ? hasFlag(xen, domid, CDF_iommu) : xen.iommu.mode === "on";

const isGoing = (xen: Xen, domid: number): boolean => isPresent(xen, domid) && isDying(xen, domid);

/** Domain that a PCI device belongs to: quarantine, when it is in no domain's context. */
function pciOwner(xen: Xen, device: number): number {
  const domid = contextDomain(xen, device);
  return domid === NOT_PRESENT ? DOMID_IO : domid;
}

function pci(xen: Xen, caller: Caller, request: DeviceRequest): number | Preemptible {
  const { cmd, domid, kind, flags } = request;
  if (domid === caller.domid) return -EINVAL;
  if (kind !== XEN_DOMCTL_DEV_PCI) return -ENODEV;
  const allowed = cmd === XEN_DOMCTL_assign_device ? XEN_DOMCTL_DEV_RDM_RELAXED : 0;
  if ((flags & ~allowed) !== 0) return -EINVAL;
  if (cmd === XEN_DOMCTL_assign_device && isGoing(xen, domid)) return -EINVAL;
  const device = request.find();
  if (cmd === XEN_DOMCTL_deassign_device) return pciDeassign(xen, caller, domid, device);
  const taken = device < 0 ? device : isTaken(xen, device) ? -EBUSY : 0;
  if (cmd === XEN_DOMCTL_test_assign_device) return taken === 0 ? 0 : -EINVAL;
  if (taken !== 0) return taken;
  // A function that no remapping unit covers cannot be translated for anybody.
  if (!item(xen.model.devices, device).behindIommu) return -ENODEV;
  if (domid === DOMID_IO) {
    setContextField(xen, device, CONTEXT.QUARANTINED, 1);
    return move(xen, caller, device, quarantine(xen, device));
  }
  return move(xen, caller, device, domainContext(xen, device, domid));
}

/** Only the hardware domain and quarantine give a device away. */
function isTaken(xen: Xen, device: number): boolean {
  const owner = pciOwner(xen, device);
  return owner !== DOMID_IO && !hasFlag(xen, owner, CDF_hardware);
}

/** Back to quarantine, or from there to the hardware domain. */
function pciDeassign(
  xen: Xen,
  caller: Caller,
  domid: number,
  device: number,
): number | Preemptible {
  if (device < 0 || pciOwner(xen, device) !== domid) return -ENODEV;
  if (!item(xen.model.devices, device).behindIommu) return -ENODEV;
  if (domid === DOMID_IO) setContextField(xen, device, CONTEXT.QUARANTINED, 0);
  const to = domid === DOMID_IO ? hardwareContext(xen, device) : contextAfter(xen, device);
  return move(xen, caller, device, to);
}

function node(xen: Xen, caller: Caller, request: DeviceRequest): number | Preemptible {
  const { cmd, domid, kind, flags } = request;
  if (kind !== XEN_DOMCTL_DEV_DT) return -ENODEV;
  if (flags !== 0) return -EINVAL;
  if (cmd !== XEN_DOMCTL_deassign_device && isGoing(xen, domid)) return -EINVAL;
  const device = request.find();
  if (device < 0) return device;
  const assigned = contextDomain(xen, device);
  if (cmd === XEN_DOMCTL_test_assign_device) return assigned === NOT_PRESENT ? 0 : -EINVAL;
  if (domid === DOMID_IO) return -EINVAL;
  if (!item(xen.model.devices, device).behindIommu) return -EINVAL;
  if (cmd === XEN_DOMCTL_deassign_device) {
    if (assigned !== domid) return -ESRCH;
    return move(xen, caller, device, contextAfter(xen, device));
  }
  if (assigned !== NOT_PRESENT) return -EBUSY;
  return move(xen, caller, device, domainContext(xen, device, domid));
}

function* move(xen: Xen, caller: Caller, device: number, to: Context): Preemptible {
  yield* switchContext(xen, caller.slot, device, to);
  return 0;
}
