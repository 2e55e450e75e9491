/** Devices of a PV domain: they reach its writable pages, and what it has mapped by grants, at gfn == mfn and nothing else. */
import { describe, expect, test } from "vitest";
import { takeCensus } from "../../hypervisor/audit-census.ts";
import { ownTables } from "../../hypervisor/audit-iommu.ts";
import { identityCounts } from "../../hypervisor/iommu.ts";
import { hasOwnTable } from "../../hypervisor/iommu-table.ts";
import { ramFrames } from "../../hypervisor/pv-build.ts";
import { XEN_DOMCTL_assign_device, XEN_DOMCTL_destroydomain } from "../../shared/abi/domctl.ts";
import { GNTMAP_device_map, GNTMAP_host_map, GNTMAP_readonly } from "../../shared/abi/grant.ts";
import { HYPERVISOR_update_va_mapping } from "../../shared/abi/xen.ts";
import { mfnAt } from "../../shared/layout.ts";
import {
  ACCESS_OK,
  ACCESS_READ,
  ACCESS_WRITE,
  FAULT_BLOCKED,
  FAULT_PERMISSION,
  FAULT_TRANSLATION,
} from "../../shared/mmu.ts";
import { GNTST_okay } from "../../shared/status.ts";
import { DomId } from "../../shared/units.ts";
import { domctl } from "./domains.ts";
import { mapOne, unmapOne } from "./grants.ts";
import { call } from "./harness.ts";
import { type Board, board, dma, firstByte, REF } from "./iommu-machine.ts";

const PAGES = 256;
/** A page of the room behind the RAM. */
const ROOM = 300;

interface PvBoard extends Board {
  /** Machine frame number of a page of drv's RAM. */
  readonly mfnOf: (page: number) => number;
}

function pv(tables: "shared" | "separate" = "separate"): PvBoard {
  const from = board({
    arch: "x86",
    iommu: { tables },
    dom0: { directMapped: false, staticMemory: [] },
    drv: { guest: "pv", ramGfn: 0, memoryPages: PAGES },
    model: { ipaBits: 44 },
  });
  const frames = ramFrames(from.xen, DomId(from.drv.domid), PAGES);
  expect(domctl(from.machine, XEN_DOMCTL_assign_device, from.drv.domid, 1)).toBe(0);
  return { ...from, mfnOf: (page) => mfnAt(from.xen.layout, frames[page] ?? -1) };
}

const recount = ({ xen }: Board): readonly string[] => ownTables(xen, takeCensus(xen));
const map = (from: Board, flags: number, page = ROOM) =>
  mapOne(from.machine, from.drv, { gfn: page, flags, ref: REF + 1, dom: from.granter.domid });

describe.each(["separate", "shared"] as const)("with %s tables", (tables) => {
  test("a PV domain's devices have a table of their own, and reach its writable pages at their machine numbers", () => {
    const from = pv(tables);
    const { xen, drv, drvDisk } = from;
    expect(hasOwnTable(xen, drv.domid)).toBe(true);
    expect(dma(drvDisk, from.mfnOf(3), ACCESS_WRITE, 0x33)).toBe(ACCESS_OK);
    expect(drv.mmu.open(3, ACCESS_READ)).toBe(ACCESS_OK);
    expect(drv.mmu.load(0) & 0xff).toBe(0x33);
    drv.mmu.close();
    // The page number is no machine frame of its own.
    expect(dma(drvDisk, 3, ACCESS_WRITE)).toBe(FAULT_TRANSLATION);
    expect(recount(from)).toEqual([]);
  });

  test("XSA-288: an entry follows the page's type, so a page table is out of a device's reach", () => {
    const from = pv(tables);
    // The last pages of the RAM are page tables.
    expect(dma(from.drvDisk, from.mfnOf(PAGES - 1), ACCESS_WRITE)).toBe(FAULT_TRANSLATION);
    expect(dma(from.drvDisk, from.mfnOf(PAGES - 1), ACCESS_READ)).toBe(FAULT_TRANSLATION);
  });
});

test("a grant is entered at gfn == mfn, with the rights of the strongest mapping, until the last one goes", () => {
  const from = pv();
  const { xen, machine, drv, drvDisk, frame } = from;
  const mfn = mfnAt(xen.layout, frame);
  const reader = map(from, GNTMAP_host_map | GNTMAP_readonly);
  expect(reader.status).toBe(GNTST_okay);
  expect(dma(drvDisk, mfn, ACCESS_READ)).toBe(ACCESS_OK);
  expect(dma(drvDisk, mfn, ACCESS_WRITE)).toBe(FAULT_PERMISSION);
  const writer = map(from, GNTMAP_host_map, ROOM + 1);
  expect(identityCounts(xen, drv.domid, frame)).toEqual([1, 1]);
  expect(dma(drvDisk, mfn, ACCESS_WRITE, 0x44)).toBe(ACCESS_OK);
  expect(firstByte(xen, frame)).toBe(0x44);
  expect(recount(from)).toEqual([]);
  unmapOne(machine, drv, { handle: writer.handle, address: (ROOM + 1) * 4096 });
  expect(dma(drvDisk, mfn, ACCESS_WRITE)).toBe(FAULT_PERMISSION);
  unmapOne(machine, drv, { handle: reader.handle, address: ROOM * 4096 });
  expect(dma(drvDisk, mfn, ACCESS_READ)).toBe(FAULT_TRANSLATION);
  expect(identityCounts(xen, drv.domid, frame)).toEqual([0, 0]);
  expect(recount(from)).toEqual([]);
});

test("hypervisor case 56: a mapping of both halves counts once, and loses its entry with the second half", () => {
  const from = pv();
  const { xen, machine, drv, drvDisk, frame } = from;
  const mfn = mfnAt(xen.layout, frame);
  const { handle } = map(from, GNTMAP_host_map | GNTMAP_device_map);
  expect(identityCounts(xen, drv.domid, frame)).toEqual([0, 1]);
  unmapOne(machine, drv, { handle, address: ROOM * 4096 });
  expect(identityCounts(xen, drv.domid, frame)).toEqual([0, 1]);
  expect(dma(drvDisk, mfn, ACCESS_WRITE)).toBe(ACCESS_OK);
});

test("XSA-285: a page that is writable no more is out of reach at once, though the device had it in its IOTLB", () => {
  const from = pv();
  const { machine, drv, drvDisk } = from;
  expect(dma(drvDisk, from.mfnOf(5), ACCESS_WRITE)).toBe(ACCESS_OK);
  // Its one entry goes.
  expect(call(machine, drv, HYPERVISOR_update_va_mapping, 5 * 4096, 0, 0)).toBe(0);
  expect(dma(drvDisk, from.mfnOf(5), ACCESS_WRITE)).toBe(FAULT_TRANSLATION);
  expect(recount(from)).toEqual([]);
});

test("the devices of a PV domain that dies are in quarantine, and its table goes with it", () => {
  const from = pv();
  const { xen, machine, drv, drvDisk } = from;
  map(from, GNTMAP_host_map);
  const mfn = from.mfnOf(3);
  expect(domctl(machine, XEN_DOMCTL_destroydomain, drv.domid)).toBe(0);
  expect(dma(drvDisk, mfn, ACCESS_WRITE)).toBe(FAULT_BLOCKED);
  expect(hasOwnTable(xen, drv.domid)).toBe(false);
});
