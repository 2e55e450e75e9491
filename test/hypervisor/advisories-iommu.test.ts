/**
 * Advisories about IOMMUs and passed-through devices: each test tells the story of one on this machine. XSA-302, 306 and
 * 445 stand in iommu-quarantine.test.ts, XSA-373 in iommu-flush.test.ts.
 */
import { describe, expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { frameReferences } from "../../hypervisor/frame-table.ts";
import { contextRoot } from "../../hypervisor/iommu-table.ts";
import { step } from "../../hypervisor/main.ts";
import {
  XEN_DOMCTL_assign_device,
  XEN_DOMCTL_deassign_device,
  XEN_DOMCTL_destroydomain,
} from "../../shared/abi/domctl.ts";
import { GNTMAP_host_map, GNTMAP_readonly } from "../../shared/abi/grant.ts";
import {
  ADD_TO_PHYSMAP_SIZE,
  XENMAPSPACE_gmfn_range,
  XENMEM_add_to_physmap,
  XENMEM_decrease_reservation,
} from "../../shared/abi/memory.ts";
import { DOMID_SELF, HYPERVISOR_memory_op } from "../../shared/abi/xen.ts";
import {
  DOM,
  LINE,
  MACHINE,
  mfnAt,
  WALK_BLOCKED,
  WALK_OFF,
  WALK_TABLE,
} from "../../shared/layout.ts";
import { IOMMU_FAULT_THRESHOLD } from "../../shared/limits.ts";
import {
  ACCESS_OK,
  ACCESS_READ,
  ACCESS_WRITE,
  FAULT_BLOCKED,
  FAULT_PERMISSION,
  FAULT_TRANSLATION,
  walk,
} from "../../shared/mmu.ts";
import { EINVAL, GNTST_okay } from "../../shared/status.ts";
import { CONTROL_DOMCTL, DEVICE_FAULT, hypercallTrap, setRecord } from "../../shared/trap.ts";
import type { FrameIndex } from "../../shared/units.ts";
import { create, domctl, field, lineWord, slotOf } from "./domains.ts";
import { argumentAddress, mapOne, unmapOne } from "./grants.ts";
import { actorOf, pushAndRun, writeGuest } from "./harness.ts";
import {
  type Board,
  board,
  DRV_DISK,
  dma,
  firstByte,
  frameOf,
  HOLE,
  REF,
} from "./iommu-machine.ts";
import { addToPhysmap, pushReservation, reserve } from "./memory-calls.ts";

const KINDS = [
  { tables: "shared", invalidation: "registers" },
  { tables: "separate", invalidation: "queue" },
] as const;
/** Two guests at the same gfns on x86, where PCI devices go from one to the other. */
const x86 = (options: Parameters<typeof board>[0] = {}): Board =>
  board({
    arch: "x86",
    ...options,
    dom0: { directMapped: false, staticMemory: [], ramGfn: 0x40000 },
  });

describe.each(KINDS)("tables %s", (iommu) => {
  test("XSA-78: whatever takes a present entry away, the IOTLB hears of it", () => {
    // The flush looked at whether an entry is present, after it had been cleared: it never was, so nothing was flushed.
    const from = board({ iommu });
    const { machine, drv, drvDisk } = from;
    expect(dma(drvDisk, drv.ram, ACCESS_WRITE)).toBe(ACCESS_OK);
    const gfns = [drv.ram];
    expect(reserve(machine, drv, XENMEM_decrease_reservation, { gfns })).toBe(1);
    expect(dma(drvDisk, drv.ram, ACCESS_WRITE)).toBe(FAULT_TRANSLATION);
    const op = { gfn: HOLE, flags: GNTMAP_host_map, ref: REF + 1, dom: from.granter.domid };
    const { handle } = mapOne(machine, drv, op);
    expect(dma(drvDisk, HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
    unmapOne(machine, drv, { handle, address: HOLE * 4096 });
    expect(dma(drvDisk, HOLE, ACCESS_WRITE)).toBe(FAULT_TRANSLATION);
  });

  test("XSA-275: a device that has cached the right to write loses it when only the right is taken back", () => {
    // The flush was skipped when an entry kept its frame and only its permissions changed.
    const from = board({ iommu });
    const { machine, xen, dom0, dom0Disk, frame } = from;
    const op = { ref: REF, dom: from.granter.domid };
    mapOne(machine, dom0, { ...op, gfn: HOLE, flags: GNTMAP_host_map | GNTMAP_readonly });
    const writer = mapOne(machine, dom0, { ...op, gfn: HOLE + 1, flags: GNTMAP_host_map });
    const mfn = mfnAt(xen.layout, frame);
    expect(dma(dom0Disk, mfn, ACCESS_WRITE)).toBe(ACCESS_OK);
    unmapOne(machine, dom0, { handle: writer.handle, address: (HOLE + 1) * 4096 });
    expect(dma(dom0Disk, mfn, ACCESS_WRITE)).toBe(FAULT_PERMISSION);
    expect(dma(dom0Disk, mfn, ACCESS_READ)).toBe(ACCESS_OK);
  });

  test("XSA-347: whoever walks while an entry is replaced finds the old one, the new one or none", () => {
    // Live entries were written field by field; a device could meet a frame of one with the rights of the other.
    const from = board({ iommu });
    const { machine, xen, dom0, frame } = from;
    const mfn = mfnAt(xen.layout, frame);
    const seen = new Set<number>();
    const look = (): void => {
      const { layout, words, memory } = xen;
      seen.add(walk(layout, words, memory, contextRoot(xen, 0), mfn) & ~4);
    };
    const { memory } = xen;
    const original = memory.store.bind(memory);
    memory.store = (to: FrameIndex, offset: number, value: number) => {
      original(to, offset, value);
      look();
    };
    const op = { ref: REF, dom: from.granter.domid };
    mapOne(machine, dom0, { ...op, gfn: HOLE, flags: GNTMAP_host_map | GNTMAP_readonly });
    const writer = mapOne(machine, dom0, { ...op, gfn: HOLE + 1, flags: GNTMAP_host_map });
    unmapOne(machine, dom0, { handle: writer.handle, address: (HOLE + 1) * 4096 });
    memory.store = original;
    const nothing = -FAULT_TRANSLATION & ~4;
    expect(seen).toEqual(new Set([nothing, frame * 8 + ACCESS_READ, frame * 8 + 3]));
  });

  test.each([40, 44] as const)(
    "XSA-390: with %i address bits a device starts at the root that belongs to its table",
    (ipaBits) => {
      // With fewer levels than the CPU has, a shared table was entered at the wrong page.
      const from = board({ iommu, model: { ipaBits } });
      const { xen, drv, drvDisk } = from;
      const before = firstByte(xen, frameOf(xen, drv.domid, drv.ram + 5));
      expect(dma(drvDisk, drv.ram + 5, ACCESS_WRITE, before + 1)).toBe(ACCESS_OK);
      expect(firstByte(xen, frameOf(xen, drv.domid, drv.ram + 5))).toBe(before + 1);
    },
  );
});

test("XSA-207: a domain that never had a device leaves nothing of its IOMMU table behind", () => {
  // The teardown was skipped for a domain without devices, which may have had tables all the same.
  const { xen, machine } = board({ iommu: { tables: "separate" } });
  const free = xen.words[MACHINE.XEN_HEAP_FREE];
  for (let life = 0; life < 3; life++) {
    domctl(machine, XEN_DOMCTL_destroydomain, create(machine, 3));
    expect(xen.words[MACHINE.XEN_HEAP_FREE]).toBe(free);
  }
});

const range = (size: number, from: number, to: number) => ({
  space: XENMAPSPACE_gmfn_range,
  size,
  idx: from,
  gfn: to,
});

describe("a range that is moved", () => {
  test("comes to its place whole, also where the ends overlap", () => {
    const { xen, machine, drv } = x86();
    const frames = (first: number): number[] =>
      Array.from({ length: 40 }, (_, i) => frameOf(xen, drv.domid, first + i));
    const before = frames(drv.ram + 10);
    expect(addToPhysmap(machine, drv, range(40, drv.ram + 10, HOLE))).toBe(0);
    expect(frames(HOLE)).toEqual(before);
    expect(addToPhysmap(machine, drv, range(40, HOLE, HOLE + 7))).toBe(0);
    expect(frames(HOLE + 7)).toEqual(before);
    expect(addToPhysmap(machine, drv, range(40, HOLE + 7, HOLE + 2))).toBe(0);
    expect(frames(HOLE + 2)).toEqual(before);
    expect(field(xen, drv.domid, DOM.TOT_PAGES)).toBe(256);
    expect(audit(xen)).toEqual([]);
  });

  test("XSA-80: a move that fails half-way leaves no flush undone, nor the next one", () => {
    // A switch that keeps IOTLBs from being flushed during the move stayed on when the move failed.
    const { xen, machine, drv, drvDisk } = x86();
    expect(dma(drvDisk, drv.ram + 254, ACCESS_WRITE)).toBe(ACCESS_OK);
    // The third source is beyond the RAM.
    expect(addToPhysmap(machine, drv, range(5, drv.ram + 254, HOLE))).toBe(-EINVAL);
    expect(dma(drvDisk, drv.ram + 254, ACCESS_WRITE)).toBe(FAULT_TRANSLATION);
    expect(dma(drvDisk, HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
    const gfns = [HOLE];
    expect(reserve(machine, drv, XENMEM_decrease_reservation, { gfns })).toBe(1);
    expect(dma(drvDisk, HOLE, ACCESS_WRITE)).toBe(FAULT_TRANSLATION);
    expect(audit(xen)).toEqual([]);
  });

  test("XSA-346, XSA-355: a moved page is kept until no device reaches it at its old place, even if it is given up at the new one", () => {
    // The flush was put off to the end of the move, and another vCPU could free a page through its new gfn before.
    const from = x86({ drv: { vcpus: 2 } });
    const { xen, drv, drvDisk } = from;
    const second = actorOf(xen, drv.domid, xen.model.domains[2] ?? expect.fail());
    const channel = xen.channels[slotOf(xen, drv.domid) + 1] ?? expect.fail();
    const frame = frameOf(xen, drv.domid, drv.ram);
    expect(drvDisk.open(drv.ram, ACCESS_WRITE)).toBe(ACCESS_OK);
    const bytes = new Uint8Array(ADD_TO_PHYSMAP_SIZE);
    const view = new DataView(bytes.buffer);
    view.setUint16(0, DOMID_SELF, true);
    view.setUint16(2, 20, true);
    view.setUint32(4, XENMAPSPACE_gmfn_range, true);
    view.setBigUint64(8, BigInt(drv.ram), true);
    view.setBigUint64(16, BigInt(HOLE), true);
    writeGuest(drv, argumentAddress(drv), bytes);
    const { record } = hypercallTrap();
    setRecord(record, HYPERVISOR_memory_op, [XENMEM_add_to_physmap, argumentAddress(drv)]);
    drv.channel.push(record);
    while (step(xen));
    expect(drv.channel.idle).toBe(false);
    // The allocation's reference, and the mover's.
    expect(frameReferences(xen, frame)).toBe(2);
    pushReservation({ ...second, channel }, XENMEM_decrease_reservation, { gfns: [HOLE] });
    while (step(xen));
    expect(frameReferences(xen, frame)).toBeGreaterThan(0);
    expect(audit(xen)).toEqual([]);
    drvDisk.close();
    while (step(xen));
    expect([drv.channel.idle, channel.idle]).toEqual([true, true]);
    expect(frameReferences(xen, frame)).toBe(0);
    expect(audit(xen)).toEqual([]);
  });
});

describe("a device that changes hands", () => {
  test("XSA-386: leaves a dying domain whatever state it is in", () => {
    // A step of the deassignment that failed ended it: the device stayed with the domain that was going.
    const from = x86({ iommu: { quarantine: "basic" } });
    const { xen, drv, drvDisk } = from;
    const { record } = hypercallTrap();
    for (let n = 0; n < IOMMU_FAULT_THRESHOLD; n++) {
      setRecord(record, DEVICE_FAULT, [HOLE, 1, FAULT_TRANSLATION]);
      pushAndRun(xen, xen.channels[DRV_DISK] ?? expect.fail(), record);
    }
    expect(lineWord(xen, DRV_DISK, LINE.MODE)).toBe(WALK_OFF);
    domctl(from.machine, XEN_DOMCTL_destroydomain, drv.domid);
    expect(lineWord(xen, DRV_DISK, LINE.DOMAIN)).toBe(-1);
    expect(lineWord(xen, DRV_DISK, LINE.MODE)).toBe(WALK_BLOCKED);
    expect(dma(drvDisk, drv.ram, ACCESS_WRITE)).toBe(FAULT_BLOCKED);
    expect(audit(xen)).toEqual([]);
  });

  test.each(["strict", "lazy", "never"] as const)(
    "XSA-399: reaches nothing of a former domain through a later one of the same id, IOTLBs %s",
    (flush) => {
      // An id was given to a new domain while the tables that map ids still had the old one.
      const from = x86({ iommu: { iotlb: { entries: 64, flush } } });
      const { xen, machine, drv, drvDisk } = from;
      const op = { gfn: HOLE, flags: GNTMAP_host_map, ref: REF + 1, dom: from.granter.domid };
      expect(mapOne(machine, drv, op).status).toBe(GNTST_okay);
      expect(dma(drvDisk, HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
      domctl(machine, XEN_DOMCTL_destroydomain, drv.domid);
      let late = create(machine, 3);
      while (late !== drv.domid) {
        domctl(machine, XEN_DOMCTL_destroydomain, late);
        late = create(machine, 3);
      }
      expect(domctl(machine, XEN_DOMCTL_assign_device, late, 1)).toBe(0);
      expect(dma(drvDisk, HOLE, ACCESS_WRITE)).toBe(FAULT_TRANSLATION);
      expect(audit(xen)).toEqual([]);
    },
  );

  test("XSA-400: is in its old context or in its new one, and never between the two", () => {
    // Its mappings were removed and made again, while it went on with its DMA.
    const from = x86({ iommu: { quarantine: "off" } });
    const { xen, machine, drv, drvDisk } = from;
    expect(domctl(machine, XEN_DOMCTL_deassign_device, drv.domid, 1)).toBe(0);
    expect(lineWord(xen, DRV_DISK, LINE.DOMAIN)).toBe(0);
    expect(drvDisk.open(drv.ram, ACCESS_WRITE)).toBe(ACCESS_OK);
    const { record } = hypercallTrap();
    setRecord(record, CONTROL_DOMCTL, [XEN_DOMCTL_assign_device, drv.domid, 1]);
    xen.channels[0]?.push(record);
    while (step(xen));
    // The assignment waits for the burst, which began in the hardware domain's table, but the device could go on.
    expect(xen.channels[0]?.idle).toBe(false);
    expect(lineWord(xen, DRV_DISK, LINE.MODE)).toBe(WALK_TABLE);
    expect(lineWord(xen, DRV_DISK, LINE.ROOT)).toBe(contextRoot(xen, drv.domid));
    expect(audit(xen)).toEqual([]);
    drvDisk.close();
    expect(dma(drvDisk, drv.ram, ACCESS_WRITE, 0x42)).toBe(ACCESS_OK);
    while (step(xen));
    expect(firstByte(xen, frameOf(xen, drv.domid, drv.ram))).toBe(0x42);
    expect(audit(xen)).toEqual([]);
  });

  test.each(KINDS)("XSA-442: has lost what it had cached of its old context, %s", (iommu) => {
    // The entry of the device table was flushed, the IOTLB was not.
    const from = x86({ iommu });
    const { xen, machine, drv, drvDisk } = from;
    const late = create(machine, 3);
    const own = frameOf(xen, drv.domid, drv.ram);
    expect(dma(drvDisk, drv.ram, ACCESS_WRITE, 0x11)).toBe(ACCESS_OK);
    expect(domctl(machine, XEN_DOMCTL_deassign_device, drv.domid, 1)).toBe(0);
    expect(domctl(machine, XEN_DOMCTL_assign_device, late, 1)).toBe(0);
    expect(dma(drvDisk, drv.ram, ACCESS_WRITE, 0x22)).toBe(ACCESS_OK);
    expect(firstByte(xen, own)).toBe(0x11);
    expect(firstByte(xen, frameOf(xen, late, drv.ram))).toBe(0x22);
  });

  test.each(["registers", "queue"] as const)(
    "a domain that a device is leaving waits for it as well before it lets a page go, by %s",
    (invalidation) => {
      const from = x86({ iommu: { quarantine: "off", invalidation } });
      const { xen, machine, dom0, drv, drvDisk } = from;
      expect(domctl(machine, XEN_DOMCTL_deassign_device, drv.domid, 1)).toBe(0);
      // The device is inside a burst to dom0's page, and is on its way to drv.
      expect(drvDisk.open(dom0.ram, ACCESS_WRITE)).toBe(ACCESS_OK);
      const { record } = hypercallTrap();
      setRecord(record, CONTROL_DOMCTL, [XEN_DOMCTL_assign_device, drv.domid, 1]);
      xen.channels[0]?.push(record);
      while (step(xen));
      const frame = frameOf(xen, 0, dom0.ram);
      pushReservation(dom0, XENMEM_decrease_reservation, { gfns: [dom0.ram] });
      while (step(xen));
      expect(dom0.channel.idle).toBe(false);
      expect(frameReferences(xen, frame)).toBe(1);
      expect(audit(xen)).toEqual([]);
      drvDisk.close();
      while (step(xen));
      expect(dom0.channel.idle).toBe(true);
      expect(frameReferences(xen, frame)).toBe(0);
      expect(audit(xen)).toEqual([]);
    },
  );
});
