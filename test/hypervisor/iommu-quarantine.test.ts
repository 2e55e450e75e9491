/** Devices whose domain has died or given them back: where their DMA goes, and devices that fault too often. */
import { describe, expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { scratchPages } from "../../hypervisor/iommu-context.ts";
import { step } from "../../hypervisor/main.ts";
import {
  XEN_DOMCTL_assign_device,
  XEN_DOMCTL_deassign_device,
  XEN_DOMCTL_destroydomain,
} from "../../shared/abi/domctl.ts";
import { CONTEXT, contextOf, FAULT_WORDS } from "../../shared/iommu-layout.ts";
import { LINE, MACHINE, WALK_OFF, WALK_TABLE } from "../../shared/layout.ts";
import { IOMMU_FAULT_MS, IOMMU_FAULT_THRESHOLD, IOMMU_FAULTS_KEPT } from "../../shared/limits.ts";
import type { IommuModel } from "../../shared/machine.ts";
import {
  ACCESS_OK,
  ACCESS_READ,
  ACCESS_WRITE,
  FAULT_BLOCKED,
  FAULT_OFF,
  FAULT_TRANSLATION,
  rootGfnEnd,
} from "../../shared/mmu.ts";
import { CONTROL_DOMCTL, DEVICE_FAULT, hypercallTrap, setRecord } from "../../shared/trap.ts";
import { create, domctl, lineWord } from "./domains.ts";
import { pushAndRun } from "./harness.ts";
import { type Board, board, DRV_DISK, dma, firstByte, frameOf, HOLE } from "./iommu-machine.ts";

/** On x86 dom0 has its RAM at the same gfns as drv, so that whose page is hit shows. */
const with_ = (quarantine: IommuModel["quarantine"], more: Partial<IommuModel> = {}): Board =>
  board({
    arch: "x86",
    iommu: { ...more, ...(quarantine === undefined ? {} : { quarantine }) },
    dom0: { directMapped: false, staticMemory: [], ramGfn: 0x40000 },
  });

const kill = (from: Board): number =>
  domctl(from.machine, XEN_DOMCTL_destroydomain, from.drv.domid);
const scratchOf = ({ xen }: Board): number =>
  xen.words[contextOf(xen.layout, 1) + CONTEXT.SCRATCH_PAGE] ?? -1;

describe("the device of a dead domain", () => {
  test("XSA-302, XSA-306: goes on with its DMA into quarantine, and not into the hardware domain", () => {
    // The device of a dead guest used to go straight back to Dom0, its DMA still under way: what it had been told by the
    // guest, addresses and all, then hit Dom0's memory.
    const from = with_("basic");
    const { xen, drv } = from;
    const dom0Page = frameOf(xen, 0, drv.ram);
    const before = firstByte(xen, dom0Page);
    expect(dma(from.drvDisk, drv.ram, ACCESS_WRITE)).toBe(ACCESS_OK);
    expect(kill(from)).toBe(0);
    expect(dma(from.drvDisk, drv.ram, ACCESS_WRITE, before + 1)).toBe(FAULT_BLOCKED);
    expect(firstByte(xen, dom0Page)).toBe(before);
    expect(audit(xen)).toEqual([]);
  });

  test("with quarantine off its DMA hits the hardware domain's page of the same number", () => {
    const from = with_("off");
    const { xen, drv } = from;
    const dom0Page = frameOf(xen, 0, drv.ram);
    const before = firstByte(xen, dom0Page);
    expect(kill(from)).toBe(0);
    expect(dma(from.drvDisk, drv.ram, ACCESS_WRITE, before + 1)).toBe(ACCESS_OK);
    expect(firstByte(xen, dom0Page)).toBe(before + 1);
    expect(audit(xen)).toEqual([]);
  });

  test.each([40, 44] as const)(
    "XSA-445, XSA-390: with a scratch page every address of %i bits leads there, whatever the levels of the table",
    (ipaBits) => {
      const from = board({
        arch: "x86",
        iommu: { quarantine: "scratch-page" },
        dom0: { directMapped: false },
        model: { ipaBits },
      });
      const { xen, drv } = from;
      expect(kill(from)).toBe(0);
      const last = rootGfnEnd(xen.layout) - 1;
      for (const [i, dfn] of [0, drv.ram, HOLE, 0xfffff, last].entries()) {
        expect(dma(from.drvDisk, dfn, ACCESS_WRITE, 0x10 + i)).toBe(ACCESS_OK);
        expect(firstByte(xen, scratchOf(from))).toBe(0x10 + i);
        expect(audit(xen)).toEqual([]);
      }
    },
  );

  test("each device has a scratch page of its own, which is wiped before somebody else's device is there", () => {
    const from = with_("scratch-page");
    const { xen, machine } = from;
    expect(scratchPages(xen)).toBe(2 * 5);
    expect(kill(from)).toBe(0);
    expect(dma(from.drvDisk, 77, ACCESS_WRITE, 0x99)).toBe(ACCESS_OK);
    expect(firstByte(xen, scratchOf(from))).toBe(0x99);
    const late = create(machine, 3);
    expect(domctl(machine, XEN_DOMCTL_assign_device, late, 1)).toBe(0);
    expect(domctl(machine, XEN_DOMCTL_deassign_device, late, 1)).toBe(0);
    expect(firstByte(xen, scratchOf(from))).toBe(0);
    expect(audit(xen)).toEqual([]);
  });

  test.each(["basic", "scratch-page", "off"] as const)(
    "a kill waits for the burst that the device is in, quarantine %s, and the page is freed only then",
    (quarantine) => {
      const from = with_(quarantine);
      const { xen, drv } = from;
      const frame = frameOf(xen, drv.domid, drv.ram);
      const generation = xen.words[xen.layout.frameGeneration + frame];
      expect(from.drvDisk.open(drv.ram, ACCESS_WRITE)).toBe(ACCESS_OK);
      const { record } = hypercallTrap();
      setRecord(record, CONTROL_DOMCTL, [XEN_DOMCTL_destroydomain, drv.domid]);
      xen.channels[0]?.push(record);
      while (step(xen));
      expect(xen.channels[0]?.idle).toBe(false);
      expect(xen.words[xen.layout.frameGeneration + frame]).toBe(generation);
      expect(audit(xen)).toEqual([]);
      from.drvDisk.close();
      while (step(xen));
      expect(xen.channels[0]?.idle).toBe(true);
      expect(xen.words[xen.layout.frameGeneration + frame]).not.toBe(generation);
      expect(audit(xen)).toEqual([]);
    },
  );

  test("a machine without quarantine tables keeps no page for them, nor does one whose IOMMU is off", () => {
    expect(scratchPages(with_("basic").xen)).toBe(0);
    const off = { mode: "off", quarantine: "scratch-page" } as const;
    expect(scratchPages(board({ iommu: off, dom0: { iommu: false } }).xen)).toBe(0);
  });
});

/** The device tells of one aborted write. */
function fault(from: Board, dfn: number): void {
  const code = dma(from.drvDisk, dfn, ACCESS_WRITE);
  if (code === ACCESS_OK || code === FAULT_OFF) return;
  const { record } = hypercallTrap();
  setRecord(record, DEVICE_FAULT, [dfn, 1, code]);
  const channel = from.xen.channels[DRV_DISK];
  if (channel !== undefined) pushAndRun(from.xen, channel, record);
}

describe("faults", () => {
  test("are kept, the newest of them, with device, domain, address and reason; the domain goes on", () => {
    const from = board();
    const { xen } = from;
    for (let n = 0; n < IOMMU_FAULTS_KEPT + 3; n++) fault(from, HOLE + n);
    expect(xen.words[MACHINE.FAULT_COUNT]).toBe(IOMMU_FAULTS_KEPT + 3);
    expect(lineWord(xen, DRV_DISK, LINE.FAULTS)).toBe(IOMMU_FAULTS_KEPT + 3);
    const kept = Array.from({ length: IOMMU_FAULTS_KEPT }, (_, i) => {
      const row = xen.layout.faults + i * FAULT_WORDS;
      return [...xen.words.subarray(row, row + 6)];
    });
    const newest = HOLE + IOMMU_FAULTS_KEPT + 2;
    expect(kept[2]).toEqual([DRV_DISK, from.drv.domid, newest, 0, 1, FAULT_TRANSLATION]);
    expect(kept[3]).toEqual([DRV_DISK, from.drv.domid, HOLE + 3, 0, 1, FAULT_TRANSLATION]);
    expect(dma(from.drvDisk, from.drv.ram, ACCESS_READ)).toBe(ACCESS_OK);
    expect(audit(xen)).toEqual([]);
  });

  test("do not stop a device of arm64, however many there are", () => {
    const from = board();
    for (let n = 0; n < 5 * IOMMU_FAULT_THRESHOLD; n++) fault(from, HOLE);
    expect(lineWord(from.xen, DRV_DISK, LINE.MODE)).toBe(WALK_TABLE);
  });

  test("keep a device of x86 off its bus at the tenth in a short time, until it is assigned anew", () => {
    const from = with_("basic");
    const { xen, machine, drv } = from;
    expect(dma(from.drvDisk, drv.ram, ACCESS_WRITE)).toBe(ACCESS_OK);
    for (let n = 1; n < IOMMU_FAULT_THRESHOLD; n++) fault(from, HOLE);
    expect(lineWord(xen, DRV_DISK, LINE.MODE)).toBe(WALK_TABLE);
    fault(from, HOLE);
    expect(lineWord(xen, DRV_DISK, LINE.MODE)).toBe(WALK_OFF);
    // Not even where it could go a moment ago, and nobody is told any more.
    expect(dma(from.drvDisk, drv.ram, ACCESS_WRITE)).toBe(FAULT_OFF);
    for (let n = 0; n < 5; n++) fault(from, HOLE);
    expect(lineWord(xen, DRV_DISK, LINE.FAULTS)).toBe(IOMMU_FAULT_THRESHOLD);
    expect(audit(xen)).toEqual([]);
    expect(domctl(machine, XEN_DOMCTL_deassign_device, drv.domid, 1)).toBe(0);
    expect(domctl(machine, XEN_DOMCTL_assign_device, drv.domid, 1)).toBe(0);
    expect(dma(from.drvDisk, drv.ram, ACCESS_WRITE)).toBe(ACCESS_OK);
    expect(xen.words[contextOf(xen.layout, 1) + CONTEXT.FAULT_LEVEL]).toBe(0);
  });

  test("count half when more than ten milliseconds have passed since the last one", () => {
    const from = with_("basic");
    const { xen } = from;
    const level = () => xen.words[contextOf(xen.layout, 1) + CONTEXT.FAULT_LEVEL];
    for (let n = 0; n < 8; n++) fault(from, HOLE);
    expect(level()).toBe(8);
    xen.words[MACHINE.TICK] = IOMMU_FAULT_MS;
    fault(from, HOLE);
    expect(level()).toBe(9);
    xen.words[MACHINE.TICK] = 2 * IOMMU_FAULT_MS + 1;
    fault(from, HOLE);
    expect(level()).toBe(5);
    // One every eleven milliseconds never adds up.
    for (let n = 1; n < 50; n++) {
      xen.words[MACHINE.TICK] = 2 * IOMMU_FAULT_MS + 1 + n * (IOMMU_FAULT_MS + 1);
      fault(from, HOLE);
    }
    expect(lineWord(xen, DRV_DISK, LINE.MODE)).toBe(WALK_TABLE);
  });

  test("count in quarantine too: a device that nobody has is kept off its bus as well", () => {
    const from = with_("basic");
    kill(from);
    for (let n = 0; n < IOMMU_FAULT_THRESHOLD; n++) fault(from, HOLE);
    expect(lineWord(from.xen, DRV_DISK, LINE.MODE)).toBe(WALK_OFF);
    expect(audit(from.xen)).toEqual([]);
  });
});
