/** Separate IOMMU tables: they follow the P2M, hold identity entries beside it, and are recounted. */
import { describe, expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { identityCounts } from "../../hypervisor/iommu.ts";
import {
  contextRoot,
  hasOwnTable,
  IOMMUF_readable,
  iommuMap,
  iommuPageCount,
  iommuUnmap,
} from "../../hypervisor/iommu-table.ts";
import { p2mLookup } from "../../hypervisor/p2m.ts";
import {
  XEN_DOMCTL_destroydomain,
  XEN_DOMCTL_get_paging_mempool_size,
  XEN_DOMCTL_set_paging_mempool_size,
} from "../../shared/abi/domctl.ts";
import { GNTMAP_host_map, GNTMAP_readonly } from "../../shared/abi/grant.ts";
import { DOM, LINE, MACHINE, mfnAt, SLOT_DEAD } from "../../shared/layout.ts";
import {
  ACCESS_READ,
  ACCESS_WRITE,
  FAULT_PERMISSION,
  FAULT_TRANSLATION,
  rootGfnEnd,
  walk,
} from "../../shared/mmu.ts";
import { EINVAL, GNTST_general_error, GNTST_okay } from "../../shared/status.ts";
import { DomId } from "../../shared/units.ts";
import { create, domctl, field, lineWord, slotOf } from "./domains.ts";
import { mapOne, unmapOne } from "./grants.ts";
import { type Board, board, DRV_DISK, dma, firstByte, HOLE, REF } from "./iommu-machine.ts";

const separate = (): Board => board({ iommu: { tables: "separate" } });

const mapFor = (from: Board, actor: Board["dom0"], ref: number, flags = GNTMAP_host_map) =>
  mapOne(from.machine, actor, { gfn: HOLE, flags, ref, dom: from.granter.domid });

/** Gives every page that the Xen heap has left to the granter's pool of table pages. */
function drainHeap({ xen, machine, granter }: Board): void {
  const pages = domctl(machine, XEN_DOMCTL_get_paging_mempool_size, granter.domid) / 4096;
  const free = xen.words[MACHINE.XEN_HEAP_FREE] ?? 0;
  const size = (pages + free) * 4096;
  expect(domctl(machine, XEN_DOMCTL_set_paging_mempool_size, granter.domid, size)).toBe(0);
  expect(xen.words[MACHINE.XEN_HEAP_FREE]).toBe(0);
}

/** What a device finds at a dfn of the domain's own table: frame index * 8 + rights, or a negative FAULT_*. */
const lookup = ({ xen }: Board, domid: number, dfn: number): number =>
  walk(xen.layout, xen.words, xen.memory, contextRoot(xen, domid), dfn);

describe("a table of the devices' own", () => {
  test("is another one than the P2M, and says the same of RAM", () => {
    const from = separate();
    const { xen, drv } = from;
    expect(hasOwnTable(xen, drv.domid)).toBe(true);
    expect(lineWord(xen, DRV_DISK, LINE.ROOT)).toBe(contextRoot(xen, drv.domid));
    expect(contextRoot(xen, drv.domid)).not.toBe(field(xen, drv.domid, DOM.P2M_ROOT));
    for (const gfn of [drv.ram, drv.ram + 255]) {
      expect(lookup(from, drv.domid, gfn) >>> 3).toBe(p2mLookup(xen, DomId(drv.domid), gfn) >>> 4);
    }
    expect(lookup(from, drv.domid, drv.ram + 256)).toBe(-FAULT_TRANSLATION);
    expect(audit(xen)).toEqual([]);
  });

  test("follows a grant mapping and its end: the device reaches the page at the gfn chosen, and then no more", () => {
    const from = separate();
    const { xen, machine, drv, frame } = from;
    expect(dma(from.drvDisk, HOLE, ACCESS_WRITE)).toBe(FAULT_TRANSLATION);
    const { status, handle } = mapFor(from, drv, REF + 1);
    expect(status).toBe(GNTST_okay);
    expect(dma(from.drvDisk, HOLE, ACCESS_WRITE, 0x77)).toBe(0);
    expect(firstByte(xen, frame)).toBe(0x77);
    expect(audit(xen)).toEqual([]);
    expect(unmapOne(machine, drv, { handle, address: HOLE * 4096 })).toBe(GNTST_okay);
    expect(dma(from.drvDisk, HOLE, ACCESS_WRITE)).toBe(FAULT_TRANSLATION);
    expect(audit(xen)).toEqual([]);
  });

  test("holds the identity entry of a direct-mapped domain, which its CPU does not see", () => {
    const from = separate();
    const { xen, machine, dom0, frame } = from;
    const mfn = mfnAt(xen.layout, frame);
    const reader = mapFor(from, dom0, REF, GNTMAP_host_map | GNTMAP_readonly);
    expect(p2mLookup(xen, DomId(0), mfn)).toBe(0);
    expect(dma(from.dom0Disk, mfn, ACCESS_READ)).toBe(0);
    expect(dma(from.dom0Disk, mfn, ACCESS_WRITE)).toBe(FAULT_PERMISSION);
    const writer = mapOne(machine, dom0, {
      gfn: HOLE + 1,
      flags: GNTMAP_host_map,
      ref: REF,
      dom: from.granter.domid,
    });
    expect(identityCounts(xen, 0, frame)).toEqual([1, 1]);
    expect(dma(from.dom0Disk, mfn, ACCESS_WRITE)).toBe(0);
    expect(audit(xen)).toEqual([]);
    unmapOne(machine, dom0, { handle: writer.handle, address: (HOLE + 1) * 4096 });
    expect(dma(from.dom0Disk, mfn, ACCESS_WRITE)).toBe(FAULT_PERMISSION);
    unmapOne(machine, dom0, { handle: reader.handle, address: HOLE * 4096 });
    expect(dma(from.dom0Disk, mfn, ACCESS_READ)).toBe(FAULT_TRANSLATION);
    expect(identityCounts(xen, 0, frame)).toEqual([0, 0]);
    expect(audit(xen)).toEqual([]);
  });

  test("shows what the P2M says at gfn == mfn again when the last identity entry goes", () => {
    const from = separate();
    const { xen, machine, dom0, frame } = from;
    const mfn = mfnAt(xen.layout, frame);
    const { handle } = mapOne(machine, dom0, {
      gfn: HOLE,
      flags: GNTMAP_host_map,
      ref: REF,
      dom: from.granter.domid,
    });
    // The same frame, read-only, at the gfn of its own number: the identity entry stands over it and lets write.
    const second = mapOne(machine, dom0, {
      gfn: mfn,
      flags: GNTMAP_host_map | GNTMAP_readonly,
      ref: REF,
      dom: from.granter.domid,
    });
    expect(dma(from.dom0Disk, mfn, ACCESS_WRITE)).toBe(0);
    expect(audit(xen)).toEqual([]);
    expect(unmapOne(machine, dom0, { handle, address: HOLE * 4096 })).toBe(GNTST_okay);
    expect(unmapOne(machine, dom0, { handle: second.handle, address: mfn * 4096 })).toBe(
      GNTST_okay,
    );
    expect(dma(from.dom0Disk, mfn, ACCESS_READ)).toBe(FAULT_TRANSLATION);
    expect(audit(xen)).toEqual([]);
  });

  test("refuses an entry without rights and one beyond its root, and answers 0 to a domain that has none", () => {
    const { xen, granter, drv, frame } = separate();
    const drvId = DomId(drv.domid);
    expect(iommuMap(xen, drvId, HOLE, frame, 0)).toBe(-EINVAL);
    expect(iommuMap(xen, drvId, rootGfnEnd(xen.layout), frame, IOMMUF_readable)).toBe(-EINVAL);
    expect(iommuMap(xen, DomId(granter.domid), HOLE, frame, IOMMUF_readable)).toBe(0);
    expect(iommuUnmap(xen, DomId(granter.domid), HOLE)).toBe(0);
    expect(iommuUnmap(xen, drvId, HOLE)).toBe(0);
    expect(audit(xen)).toEqual([]);
  });

  test("an update that finds no table page leaves nothing behind, and its domain is crashed for it", () => {
    const from = separate();
    const { xen, drv } = from;
    const slot = slotOf(xen, drv.domid);
    drainHeap(from);
    // The P2M's pool has pages for this gfn, the Xen heap has none for the second table.
    const { status } = mapFor(from, drv, REF + 1);
    expect(status).toBe(GNTST_general_error);
    expect(iommuPageCount(xen, drv.domid)).toBeGreaterThan(0);
    expect(field(xen, drv.domid, DOM.SHUTDOWN)).toBe(1 + 3);
    expect(lineWord(xen, slot, LINE.STATE)).toBe(SLOT_DEAD);
    expect(audit(xen)).toEqual([]);
  });

  test("the hardware domain is only refused, as it may go on without", () => {
    const from = separate();
    const { xen, dom0 } = from;
    drainHeap(from);
    expect(mapFor(from, dom0, REF).status).toBe(GNTST_general_error);
    expect(field(xen, 0, DOM.SHUTDOWN)).toBe(0);
    expect(audit(xen)).toEqual([]);
  });

  test("goes with its domain, page by page, and a newcomer has a fresh one", () => {
    const from = separate();
    const { xen, machine, drv } = from;
    const free = xen.words[MACHINE.XEN_HEAP_FREE] ?? 0;
    const late = create(machine, 3);
    expect(hasOwnTable(xen, late)).toBe(true);
    expect(audit(xen)).toEqual([]);
    domctl(machine, XEN_DOMCTL_destroydomain, late);
    expect(xen.words[MACHINE.XEN_HEAP_FREE]).toBe(free);
    mapFor(from, drv, REF + 1);
    domctl(machine, XEN_DOMCTL_destroydomain, drv.domid);
    expect(hasOwnTable(xen, drv.domid)).toBe(false);
    expect(audit(xen)).toEqual([]);
  });
});
