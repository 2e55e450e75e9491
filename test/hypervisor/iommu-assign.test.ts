/** assign_device, test_assign_device and deassign_device: who may, in which order it is refused, and what the device then reaches. */
import { describe, expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import {
  ASSIGN_DEV,
  ASSIGN_FLAGS,
  ASSIGN_PATH,
  ASSIGN_PATH_SIZE,
  ASSIGN_SBDF,
  DOMCTL_CMD,
  DOMCTL_DOMAIN,
  DOMCTL_SIZE,
  XEN_DOMCTL_assign_device,
  XEN_DOMCTL_DEV_DT,
  XEN_DOMCTL_DEV_PCI,
  XEN_DOMCTL_DEV_RDM_RELAXED,
  XEN_DOMCTL_deassign_device,
  XEN_DOMCTL_destroydomain,
  XEN_DOMCTL_test_assign_device,
} from "../../shared/abi/domctl.ts";
import { DOMID_INVALID, DOMID_IO, HYPERVISOR_domctl } from "../../shared/abi/xen.ts";
import { DOM, DYING_DYING, domainOf, LINE, WALK_BLOCKED, WALK_TABLE } from "../../shared/layout.ts";
import { ACCESS_WRITE, FAULT_BLOCKED } from "../../shared/mmu.ts";
import {
  EBUSY,
  EFAULT,
  EINVAL,
  ENOBUFS,
  ENODEV,
  EOPNOTSUPP,
  EPERM,
  ESRCH,
} from "../../shared/status.ts";
import { create, domctl, field, lineWord, testDevice } from "./domains.ts";
import { argumentAddress } from "./grants.ts";
import { type Actor, call, type TestMachine, writeGuest } from "./harness.ts";
import { type Board, board, DRV_DISK, dma, firstByte, frameOf } from "./iommu-machine.ts";

interface Ask {
  readonly cmd: number;
  readonly domid: number;
  readonly kind?: number;
  readonly flags?: number;
  readonly sbdf?: number;
  readonly path?: string;
  /** Length and address of the path when they are not those of `path`. */
  readonly size?: number;
  readonly address?: number;
}

/** Issues the domctl as a guest does, with the structure in its own memory. */
function ask(machine: TestMachine, actor: Actor, asked: Ask): number {
  const at = argumentAddress(actor);
  const path = new TextEncoder().encode(asked.path ?? "/disk1");
  const bytes = new Uint8Array(DOMCTL_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint32(DOMCTL_CMD, asked.cmd, true);
  view.setUint16(DOMCTL_DOMAIN, asked.domid, true);
  const isPci = machine.xen.model.arch === "x86";
  view.setUint32(ASSIGN_DEV, asked.kind ?? (isPci ? XEN_DOMCTL_DEV_PCI : XEN_DOMCTL_DEV_DT), true);
  view.setUint32(ASSIGN_FLAGS, asked.flags ?? 0, true);
  if (isPci) view.setUint32(ASSIGN_SBDF, asked.sbdf ?? 2, true);
  else {
    view.setUint32(ASSIGN_PATH_SIZE, asked.size ?? path.length, true);
    view.setBigUint64(ASSIGN_PATH, BigInt(asked.address ?? at + DOMCTL_SIZE), true);
  }
  writeGuest(actor, at, bytes);
  writeGuest(actor, at + DOMCTL_SIZE, path);
  return call(machine, actor, HYPERVISOR_domctl, at);
}

const assign = (from: Board, domid: number, more: Partial<Ask> = {}): number =>
  ask(from.machine, from.dom0, { cmd: XEN_DOMCTL_assign_device, domid, ...more });
const testAssign = (from: Board, domid: number, more: Partial<Ask> = {}): number =>
  ask(from.machine, from.dom0, { cmd: XEN_DOMCTL_test_assign_device, domid, ...more });
const deassign = (from: Board, domid: number, more: Partial<Ask> = {}): number =>
  ask(from.machine, from.dom0, { cmd: XEN_DOMCTL_deassign_device, domid, ...more });

const arm = (): Board => board();
const x86 = (quarantine: "off" | "basic" | "scratch-page" = "basic"): Board =>
  board({ arch: "x86", iommu: { quarantine }, dom0: { directMapped: false } });

describe("on arm64, by path", () => {
  test("a device goes to nobody, where it faults, and from there into another domain's context", () => {
    const from = arm();
    const { xen, machine, drv } = from;
    const late = create(machine, 3);
    expect(testAssign(from, late)).toBe(-EINVAL);
    expect(assign(from, late)).toBe(-EBUSY);
    expect(deassign(from, late)).toBe(-ESRCH);
    expect(deassign(from, drv.domid)).toBe(0);
    expect(lineWord(xen, DRV_DISK, LINE.MODE)).toBe(WALK_BLOCKED);
    expect(dma(from.drvDisk, drv.ram, ACCESS_WRITE)).toBe(FAULT_BLOCKED);
    expect(testAssign(from, late)).toBe(0);
    expect(testAssign(from, DOMID_INVALID)).toBe(0);
    expect(assign(from, late)).toBe(0);
    expect(lineWord(xen, DRV_DISK, LINE.ROOT)).toBe(field(xen, late, DOM.P2M_ROOT));
    const before = firstByte(xen, frameOf(xen, drv.domid, drv.ram));
    expect(dma(from.drvDisk, drv.ram, ACCESS_WRITE, before + 1)).toBe(0);
    expect(firstByte(xen, frameOf(xen, late, drv.ram))).toBe(before + 1);
    expect(firstByte(xen, frameOf(xen, drv.domid, drv.ram))).toBe(before);
    expect(audit(xen)).toEqual([]);
  });

  test("a request is refused for its domain, its caller's rights, the IOMMU, its kind, its flags and its path, in this order", () => {
    const from = arm();
    const { machine, dom0, granter, drv } = from;
    const wrong = { kind: 7, flags: 9, path: "/nothing" } as const;
    const cmd = XEN_DOMCTL_assign_device;
    expect(ask(machine, granter, { cmd, domid: 77, ...wrong })).toBe(-ESRCH);
    expect(assign(from, DOMID_INVALID, wrong)).toBe(-ESRCH);
    expect(testAssign(from, DOMID_IO, wrong)).toBe(-ESRCH);
    expect(ask(machine, drv, { cmd, domid: granter.domid, ...wrong })).toBe(-EPERM);
    expect(assign(from, granter.domid, wrong)).toBe(-EOPNOTSUPP);
    expect(assign(from, drv.domid, wrong)).toBe(-ENODEV);
    expect(assign(from, drv.domid, { ...wrong, kind: XEN_DOMCTL_DEV_PCI })).toBe(-ENODEV);
    expect(assign(from, drv.domid, { flags: 1, path: "/nothing" })).toBe(-EINVAL);
    expect(assign(from, drv.domid, { path: "/nothing" })).toBe(-ESRCH);
    expect(assign(from, drv.domid, { path: "disk1" })).toBe(-ESRCH);
    expect(assign(from, drv.domid, { size: 4097 })).toBe(-ENOBUFS);
    expect(assign(from, drv.domid, { address: 0x9000_0000 })).toBe(-EFAULT);
    expect(assign(from, DOMID_IO)).toBe(-EINVAL);
    expect(deassign(from, DOMID_IO)).toBe(-EINVAL);
    expect(assign(from, drv.domid)).toBe(-EBUSY);
    expect(assign(from, dom0.domid, { path: "/disk" })).toBe(-EBUSY);
    expect(audit(from.xen)).toEqual([]);
  });

  test("a device that the IOMMU does not cover is in nobody's context to give", () => {
    const devices = [testDevice("dom0", { behindIommu: false })];
    const from = board({ model: { devices } });
    expect(assign(from, from.drv.domid, { path: "/disk" })).toBe(-EINVAL);
    expect(deassign(from, 0, { path: "/disk" })).toBe(-EINVAL);
  });

  test("a machine whose IOMMU is off has nothing to assign", () => {
    const from = board({ iommu: { mode: "off" }, dom0: { iommu: false }, drv: { iommu: false } });
    expect(assign(from, from.drv.domid)).toBe(-EOPNOTSUPP);
    expect(testAssign(from, DOMID_INVALID)).toBe(-EOPNOTSUPP);
  });

  test("the domain that loses a device keeps its registers and hears its interrupts until it dies", () => {
    const from = arm();
    const { xen, machine, drv } = from;
    expect(deassign(from, drv.domid)).toBe(0);
    expect(audit(xen)).toEqual([]);
    const late = create(machine, 3);
    expect(assign(from, late)).toBe(0);
    domctl(machine, XEN_DOMCTL_destroydomain, drv.domid);
    expect(lineWord(xen, DRV_DISK, LINE.DOMAIN)).toBe(late);
    domctl(machine, XEN_DOMCTL_destroydomain, late);
    expect(lineWord(xen, DRV_DISK, LINE.MODE)).toBe(WALK_BLOCKED);
    expect(audit(xen)).toEqual([]);
  });
});

describe("on x86, by segment, bus and function", () => {
  test("a device goes to quarantine, from there to a guest or to the hardware domain, and from that one to a guest", () => {
    const from = x86();
    const { xen, machine, drv } = from;
    const late = create(machine, 3);
    expect(assign(from, late)).toBe(-EBUSY);
    expect(testAssign(from, late)).toBe(-EINVAL);
    expect(deassign(from, late)).toBe(-ENODEV);
    expect(deassign(from, drv.domid)).toBe(0);
    expect(lineWord(xen, DRV_DISK, LINE.DOMAIN)).toBe(-1);
    expect(testAssign(from, late)).toBe(0);
    expect(deassign(from, DOMID_IO)).toBe(0);
    expect(lineWord(xen, DRV_DISK, LINE.DOMAIN)).toBe(0);
    expect(assign(from, late, { flags: XEN_DOMCTL_DEV_RDM_RELAXED })).toBe(0);
    expect(lineWord(xen, DRV_DISK, LINE.DOMAIN)).toBe(late);
    expect(audit(xen)).toEqual([]);
  });

  test("a request is refused for its IOMMU, for being about oneself, for its kind, flags, device and owner, in this order", () => {
    const from = x86();
    const { granter, drv } = from;
    const wrong = { kind: 1, flags: 2, sbdf: 99 } as const;
    expect(assign(from, granter.domid, wrong)).toBe(-EOPNOTSUPP);
    expect(assign(from, 0, wrong)).toBe(-EINVAL);
    expect(deassign(from, 0, wrong)).toBe(-EINVAL);
    expect(assign(from, drv.domid, wrong)).toBe(-ENODEV);
    expect(assign(from, drv.domid, { flags: 2, sbdf: 99 })).toBe(-EINVAL);
    expect(testAssign(from, drv.domid, { flags: 1, sbdf: 99 })).toBe(-EINVAL);
    expect(assign(from, drv.domid, { sbdf: 99 })).toBe(-ENODEV);
    expect(assign(from, drv.domid, { sbdf: 0x1_0002 })).toBe(-ENODEV);
    expect(testAssign(from, drv.domid, { sbdf: 99 })).toBe(-EINVAL);
    expect(assign(from, drv.domid)).toBe(-EBUSY);
    expect(audit(from.xen)).toEqual([]);
  });

  test("a device put into quarantine by request goes back there, until it is taken out by request", () => {
    const from = x86("off");
    const { xen, drv } = from;
    expect(deassign(from, drv.domid)).toBe(0);
    expect(lineWord(xen, DRV_DISK, LINE.DOMAIN)).toBe(0);
    expect(assign(from, DOMID_IO)).toBe(0);
    expect(lineWord(xen, DRV_DISK, LINE.DOMAIN)).toBe(-1);
    expect(assign(from, drv.domid)).toBe(0);
    expect(lineWord(xen, DRV_DISK, LINE.MODE)).toBe(WALK_TABLE);
    expect(deassign(from, drv.domid)).toBe(0);
    expect(lineWord(xen, DRV_DISK, LINE.DOMAIN)).toBe(-1);
    expect(deassign(from, DOMID_IO)).toBe(0);
    expect(assign(from, drv.domid)).toBe(0);
    expect(deassign(from, drv.domid)).toBe(0);
    expect(lineWord(xen, DRV_DISK, LINE.DOMAIN)).toBe(0);
    expect(audit(xen)).toEqual([]);
  });

  test("a dying domain is given no device", () => {
    const from = x86();
    const { xen, machine, drv } = from;
    expect(deassign(from, drv.domid)).toBe(0);
    // As it is between two stages of its end.
    const late = create(machine, 3);
    xen.words[domainOf(xen.layout, late) + DOM.DYING] = DYING_DYING;
    expect(assign(from, late)).toBe(-EINVAL);
    expect(deassign(from, late)).toBe(-ENODEV);
  });
});
