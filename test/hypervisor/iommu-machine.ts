/** A machine with an IOMMU of any kind: dom0 (direct-mapped), a granter and a driver domain, each with a disk of its own. */
import { entryFrame, p2mLookup } from "../../hypervisor/p2m.ts";
import type { Xen } from "../../hypervisor/xen.ts";
import { GTF_permit_access } from "../../shared/abi/grant.ts";
import type { DomainModel, IommuModel, MachineModel } from "../../shared/machine.ts";
import { Mmu } from "../../shared/mmu.ts";
import { DomId } from "../../shared/units.ts";
import { testDevice } from "./domains.ts";
import { setEntry } from "./grants.ts";
import {
  type Actor,
  bootTestMachine,
  type TestMachine,
  testDom0,
  testDomain,
  testModel,
} from "./harness.ts";

/** A gfn where nothing is. */
export const HOLE = 0x60000;
export const REF = 8;

export interface Board {
  readonly machine: TestMachine;
  readonly xen: Xen;
  readonly dom0: Actor;
  readonly granter: Actor;
  readonly drv: Actor;
  /** IOMMU ports of dom0's and drv's disk. */
  readonly dom0Disk: Mmu;
  readonly drvDisk: Mmu;
  /** Frame of the granter's first page, granted to dom0 and drv for writing by REF and REF + 1. */
  readonly frame: number;
}

export const DOM0_DISK = 1;
export const DRV_DISK = 2;

export interface BoardOptions {
  readonly iommu?: Partial<IommuModel>;
  readonly arch?: MachineModel["arch"];
  readonly dom0?: Partial<DomainModel>;
  readonly drv?: Partial<DomainModel>;
  readonly model?: Partial<MachineModel>;
}

export function boardModel(options: BoardOptions): MachineModel {
  const domains = [
    testDom0({ iommu: true, ...options.dom0 }),
    testDomain("G"),
    testDomain("drv", { iommu: true, ...options.drv }),
    testDomain("late", { atBoot: false, iommu: true }),
  ];
  const devices = [
    testDevice("dom0"),
    testDevice("drv", { name: "disk1", registers: 0x0a00_1000, streamId: 2, line: 4 }),
  ];
  const iommu = { mode: "on", ...options.iommu } as const;
  return testModel(domains, { devices, iommu, arch: options.arch ?? "arm64", ...options.model });
}

export function board(options: BoardOptions = {}): Board {
  const model = boardModel(options);
  const machine = bootTestMachine(model);
  const [dom0, granter, drv] = machine.actors;
  if (dom0 === undefined || granter === undefined || drv === undefined) throw new Error("boot");
  setEntry(machine, granter, REF, GTF_permit_access, dom0.domid, granter.ram);
  setEntry(machine, granter, REF + 1, GTF_permit_access, drv.domid, granter.ram);
  const { xen } = machine;
  const port = (slot: number): Mmu =>
    new Mmu(xen.words, xen.memory, xen.layout, slot, xen.iommu.iotlb.entries);
  return {
    machine,
    xen,
    dom0,
    granter,
    drv,
    dom0Disk: port(DOM0_DISK),
    drvDisk: port(DRV_DISK),
    frame: frameOf(xen, granter.domid, granter.ram),
  };
}

export const frameOf = (xen: Xen, domid: number, gfn: number): number =>
  entryFrame(p2mLookup(xen, DomId(domid), gfn));

/** One DMA access of a device: 0, or the FAULT_* that ended it. Writes `byte` to the start of the page when it may. */
export function dma(port: Mmu, dfn: number, kind: number, byte = 0x5a): number {
  const fault = port.open(dfn, kind);
  if (fault !== 0) return fault;
  if (kind === 2) port.burst(0, Uint8Array.of(byte), 0, 1);
  port.close();
  return 0;
}

/** First byte of a machine frame. */
export function firstByte(xen: Xen, frame: number): number {
  const byte = new Uint8Array(1);
  xen.memory.read(frame as never, 0, byte, 0, 1);
  return byte[0] ?? -1;
}
