/** When a device can no longer use what was taken away: at once, in a batch, or never; through registers or the queue. */
import { describe, expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { frameOwner } from "../../hypervisor/frame-table.ts";
import { nextDeadline, step } from "../../hypervisor/main.ts";
import { XEN_DOMCTL_deassign_device, XEN_DOMCTL_destroydomain } from "../../shared/abi/domctl.ts";
import {
  GNTMAP_host_map,
  GNTMAP_readonly,
  GNTTABOP_unmap_grant_ref,
} from "../../shared/abi/grant.ts";
import { XENMEM_decrease_reservation } from "../../shared/abi/memory.ts";
import { HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import { queuedDescriptors } from "../../shared/invalidation-queue.ts";
import { QUEUE } from "../../shared/iommu-layout.ts";
import { LINE, MACHINE } from "../../shared/layout.ts";
import { IOTLB_LAZY_FLUSHES, IOTLB_LAZY_MS, NOT_PRESENT } from "../../shared/limits.ts";
import type { IommuModel } from "../../shared/machine.ts";
import {
  ACCESS_OK,
  ACCESS_READ,
  ACCESS_WRITE,
  FAULT_BLOCKED,
  FAULT_PERMISSION,
  FAULT_TRANSLATION,
} from "../../shared/mmu.ts";
import { GNTST_okay } from "../../shared/status.ts";
import { CONTROL_DOMCTL, hypercallTrap, setRecord } from "../../shared/trap.ts";
import { create, domctl, lineWord } from "./domains.ts";
import { argumentAddress, mapOne, unmapOne } from "./grants.ts";
import { type Actor, readGuest, writeGuest } from "./harness.ts";
import { type Board, board, dma, firstByte, frameOf, HOLE, REF } from "./iommu-machine.ts";
import { reserve } from "./memory-calls.ts";

type Flush = NonNullable<IommuModel["iotlb"]>["flush"];
const withFlush = (flush: Flush, more: Partial<IommuModel> = {}): Board =>
  board({ iommu: { ...more, iotlb: { entries: 64, flush } } });

const mapAt = (from: Board, gfn = HOLE, flags = GNTMAP_host_map) =>
  mapOne(from.machine, from.drv, { gfn, flags, ref: REF + 1, dom: from.granter.domid });
const unmapAt = (from: Board, handle: number, gfn = HOLE): number =>
  unmapOne(from.machine, from.drv, { handle, address: gfn * 4096 });

/** The granter gives the page up, and a newcomer gets the frame as its first page. */
function reuse(from: Board): number {
  const gfns = [from.granter.ram];
  expect(reserve(from.machine, from.granter, XENMEM_decrease_reservation, { gfns })).toBe(1);
  const late = create(from.machine, 3);
  expect(frameOwner(from.xen, from.frame)).toBe(late);
  expect(frameOf(from.xen, late, from.drv.ram)).toBe(from.frame);
  return late;
}

/** Pushes an unmap and steps the hypervisor until it has nothing to do. True: it was answered. */
function pushUnmap(from: Board, actor: Actor, handle: number, gfn: number): boolean {
  const bytes = new Uint8Array(24);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(gfn) * 4096n, true);
  view.setUint32(16, handle, true);
  writeGuest(actor, argumentAddress(actor), bytes);
  const { record } = hypercallTrap();
  const args = [GNTTABOP_unmap_grant_ref, argumentAddress(actor), 1];
  setRecord(record, HYPERVISOR_grant_table_op, args);
  actor.channel.push(record);
  while (step(from.xen));
  return actor.channel.idle;
}

const statusOf = (actor: Actor): number =>
  new DataView(readGuest(actor, argumentAddress(actor), 24).buffer).getInt16(20, true);

describe.each([
  ["registers", "shared"],
  ["queue", "shared"],
  ["queue", "separate"],
] as const)("strict, by %s, tables %s", (invalidation, tables) => {
  test("a device that has cached a page faults on it as soon as the unmap has returned", () => {
    const from = withFlush("strict", { invalidation, tables });
    const { handle } = mapAt(from);
    expect(dma(from.drvDisk, HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
    expect(unmapAt(from, handle)).toBe(GNTST_okay);
    expect(dma(from.drvDisk, HOLE, ACCESS_WRITE)).toBe(FAULT_TRANSLATION);
    expect(audit(from.xen)).toEqual([]);
  });

  test("an unmap waits for the burst that a device is in, and the page is let go only then", () => {
    const from = withFlush("strict", { invalidation, tables });
    const { xen, drv } = from;
    const { handle } = mapAt(from);
    expect(from.drvDisk.open(HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
    expect(pushUnmap(from, drv, handle, HOLE)).toBe(false);
    expect(audit(xen)).toEqual([]);
    from.drvDisk.close();
    while (step(xen));
    expect(drv.channel.idle).toBe(true);
    expect(statusOf(drv)).toBe(GNTST_okay);
    expect(dma(from.drvDisk, HOLE, ACCESS_WRITE)).toBe(FAULT_TRANSLATION);
    expect(audit(xen)).toEqual([]);
  });

  test("a permission that is taken back is gone from the IOTLB too", () => {
    const from = withFlush("strict", { invalidation, tables });
    const { handle } = mapAt(from);
    expect(dma(from.drvDisk, HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
    mapAt(from, HOLE, GNTMAP_host_map | GNTMAP_readonly);
    expect(dma(from.drvDisk, HOLE, ACCESS_WRITE)).toBe(FAULT_PERMISSION);
    expect(handle).toBe(0);
  });
});

describe("the invalidation queue", () => {
  test("works in order: behind a wait that is not over nothing is invalidated, and everybody waits", () => {
    const from = withFlush("strict", { invalidation: "queue" });
    const { xen, machine, dom0, drv } = from;
    const own = mapAt(from);
    const other = mapOne(machine, dom0, {
      gfn: HOLE,
      flags: GNTMAP_host_map,
      ref: REF,
      dom: from.granter.domid,
    });
    // drv's disk is inside a burst; dom0's disk has the page in its IOTLB and is idle.
    expect(dma(from.dom0Disk, HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
    expect(from.drvDisk.open(HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
    const generation = lineWord(xen, 1, LINE.GENERATION);
    expect(pushUnmap(from, drv, own.handle, HOLE)).toBe(false);
    expect(pushUnmap(from, dom0, other.handle, HOLE)).toBe(false);
    expect(queuedDescriptors(xen.words, xen.layout)).toBe(3);
    expect(lineWord(xen, 1, LINE.GENERATION)).toBe(generation);
    expect(dma(from.dom0Disk, HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
    expect(audit(xen)).toEqual([]);
    from.drvDisk.close();
    while (step(xen));
    expect([drv.channel.idle, dom0.channel.idle]).toEqual([true, true]);
    expect(queuedDescriptors(xen.words, xen.layout)).toBe(0);
    expect(dma(from.dom0Disk, HOLE, ACCESS_WRITE)).toBe(FAULT_TRANSLATION);
    expect(audit(xen)).toEqual([]);
  });

  test("XSA-373: a wait has no time-out, however long the device takes", () => {
    const from = withFlush("strict", { invalidation: "queue" });
    const { xen, drv } = from;
    const { handle } = mapAt(from);
    expect(from.drvDisk.open(HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
    expect(pushUnmap(from, drv, handle, HOLE)).toBe(false);
    for (let late = 0; late < 100; late++) {
      xen.words[MACHINE.TICK] = (xen.words[MACHINE.TICK] ?? 0) + 60_000;
      while (step(xen));
      expect(drv.channel.idle).toBe(false);
    }
    from.drvDisk.close();
    while (step(xen));
    expect(drv.channel.idle).toBe(true);
    // What was finished late was the wait for it, and no other was taken for done.
    expect(xen.words[xen.layout.invalidations + QUEUE.WAIT_STATUS]).toBe(
      xen.words[xen.layout.invalidations + QUEUE.WAITS],
    );
  });

  test("a domain that is killed while its unmap waits in the queue goes as soon as the device lets it", () => {
    const from = withFlush("strict", { invalidation: "queue" });
    const { xen, drv } = from;
    const { handle } = mapAt(from);
    expect(from.drvDisk.open(HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
    expect(pushUnmap(from, drv, handle, HOLE)).toBe(false);
    const { record } = hypercallTrap();
    setRecord(record, CONTROL_DOMCTL, [XEN_DOMCTL_destroydomain, drv.domid]);
    xen.channels[0]?.push(record);
    while (step(xen));
    expect(xen.channels[0]?.idle).toBe(false);
    expect(audit(xen)).toEqual([]);
    from.drvDisk.close();
    while (step(xen));
    expect(xen.channels[0]?.idle).toBe(true);
    expect(audit(xen)).toEqual([]);
    expect(dma(from.drvDisk, HOLE, ACCESS_WRITE)).toBe(FAULT_BLOCKED);
  });
});

describe.each(["registers", "queue"] as const)("lazy, by %s", (invalidation) => {
  test("a stale DMA lands in the frame of its new owner until the batch, and never after", () => {
    const from = withFlush("lazy", { invalidation });
    const { xen } = from;
    const { handle } = mapAt(from);
    expect(dma(from.drvDisk, HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
    expect(unmapAt(from, handle)).toBe(GNTST_okay);
    const late = reuse(from);
    expect(dma(from.drvDisk, HOLE, ACCESS_WRITE, 0x66)).toBe(ACCESS_OK);
    expect(firstByte(xen, frameOf(xen, late, from.drv.ram))).toBe(0x66);
    expect(audit(xen)).toEqual([]);
    expect(nextDeadline(xen)).toBe(IOTLB_LAZY_MS);
    expect(step(xen)).toBe(false);
    xen.words[MACHINE.TICK] = IOTLB_LAZY_MS;
    expect(step(xen)).toBe(true);
    expect(nextDeadline(xen)).toBe(NOT_PRESENT);
    expect(dma(from.drvDisk, HOLE, ACCESS_WRITE, 0x67)).toBe(FAULT_TRANSLATION);
    expect(firstByte(xen, frameOf(xen, late, from.drv.ram))).toBe(0x66);
    expect(audit(xen)).toEqual([]);
  });

  test("what was never cached is not reached, stale or not", () => {
    const from = withFlush("lazy", { invalidation });
    const { handle } = mapAt(from);
    expect(unmapAt(from, handle)).toBe(GNTST_okay);
    expect(dma(from.drvDisk, HOLE, ACCESS_WRITE)).toBe(FAULT_TRANSLATION);
  });

  test("a batch does not wait for time when enough has been put off", () => {
    const from = withFlush("lazy", { invalidation });
    const { xen } = from;
    const batches = () => xen.words[xen.layout.invalidations + QUEUE.BATCHES];
    for (let i = 0; i < IOTLB_LAZY_FLUSHES; i++) {
      const { handle } = mapAt(from);
      expect(dma(from.drvDisk, HOLE, ACCESS_READ)).toBe(ACCESS_OK);
      expect(batches()).toBe(0);
      expect(unmapAt(from, handle)).toBe(GNTST_okay);
    }
    expect(batches()).toBe(1);
    expect(dma(from.drvDisk, HOLE, ACCESS_READ)).toBe(FAULT_TRANSLATION);
    expect(nextDeadline(xen)).toBe(NOT_PRESENT);
  });

  test("nobody waits for a device inside a burst, and the audit knows why", () => {
    const from = withFlush("lazy", { invalidation });
    const { xen, drv } = from;
    const { handle } = mapAt(from);
    expect(from.drvDisk.open(HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
    expect(pushUnmap(from, drv, handle, HOLE)).toBe(true);
    reuse(from);
    expect(audit(xen)).toEqual([]);
    xen.words[MACHINE.TICK] = IOTLB_LAZY_MS;
    step(xen);
    expect(audit(xen)).toEqual([]);
    from.drvDisk.close();
    expect(audit(xen)).toEqual([]);
  });

  test("a change of context is not put off", () => {
    const from = withFlush("lazy", { invalidation });
    const { xen, machine, drv } = from;
    const { handle } = mapAt(from);
    expect(dma(from.drvDisk, HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
    expect(unmapAt(from, handle)).toBe(GNTST_okay);
    expect(domctl(machine, XEN_DOMCTL_deassign_device, drv.domid, 1)).toBe(0);
    expect(dma(from.drvDisk, HOLE, ACCESS_WRITE)).toBe(FAULT_BLOCKED);
    expect(audit(xen)).toEqual([]);
  });
});

describe("never", () => {
  test("a stale DMA lands in the frame of its new owner for good, and the audit says so", () => {
    const from = withFlush("never");
    const { xen } = from;
    const { handle } = mapAt(from);
    expect(dma(from.drvDisk, HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
    expect(unmapAt(from, handle)).toBe(GNTST_okay);
    expect(audit(xen).join()).toMatch(/slot 2 would still reach frame \d+ through gfn 393216/);
    reuse(from);
    xen.words[MACHINE.TICK] = 1000 * IOTLB_LAZY_MS;
    expect(step(xen)).toBe(false);
    expect(dma(from.drvDisk, HOLE, ACCESS_WRITE, 0x66)).toBe(ACCESS_OK);
    expect(firstByte(xen, from.frame)).toBe(0x66);
  });
});

test("an IOTLB of one entry forgets a page when it meets the next, so nothing stale is left of the first", () => {
  const from = board({ iommu: { iotlb: { entries: 1, flush: "never" } } });
  const { handle } = mapAt(from);
  expect(dma(from.drvDisk, HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
  expect(dma(from.drvDisk, from.drv.ram, ACCESS_WRITE)).toBe(ACCESS_OK);
  expect(unmapAt(from, handle)).toBe(GNTST_okay);
  expect(dma(from.drvDisk, HOLE, ACCESS_WRITE)).toBe(FAULT_TRANSLATION);
  expect(audit(from.xen)).toEqual([]);
});

test("the CPU is flushed at once in every mode", () => {
  for (const flush of ["strict", "lazy", "never"] as const) {
    const from = withFlush(flush);
    const { handle } = mapAt(from);
    expect(from.drv.mmu.open(HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
    from.drv.mmu.close();
    expect(unmapAt(from, handle)).toBe(GNTST_okay);
    expect(from.drv.mmu.open(HOLE, ACCESS_WRITE)).toBe(FAULT_TRANSLATION);
  }
});
