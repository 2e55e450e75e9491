/** add_to_physmap_batch and acquire_resource: the shape of the calls, in Xen's order, and what each element is told. */
import { describe, expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { entryType, p2mLookup } from "../../hypervisor/p2m.ts";
import { domainField } from "../../hypervisor/xen.ts";
import {
  XENMAPSPACE_dev_mmio,
  XENMAPSPACE_gmfn,
  XENMAPSPACE_gmfn_range,
  XENMAPSPACE_grant_table,
  XENMAPSPACE_shared_info,
  XENMEM_decrease_reservation,
} from "../../shared/abi/memory.ts";
import { DOMID_SELF, HYPERVISOR_memory_op } from "../../shared/abi/xen.ts";
import { DOM } from "../../shared/layout.ts";
import { p2m_map_foreign_rw } from "../../shared/pte.ts";
import {
  EBUSY,
  EDOM,
  EFAULT,
  EILSEQ,
  EINVAL,
  EIO,
  ENOSYS,
  EOPNOTSUPP,
  EPERM,
  ESRCH,
} from "../../shared/status.ts";
import { DomId } from "../../shared/units.ts";
import { trio } from "./domains.ts";
import { call, readWord, writeWord } from "./harness.ts";
import {
  acquire,
  addBatch,
  addToPhysmap,
  batchErrors,
  layBatch,
  removeFromPhysmap,
  reserve,
  UNWRITTEN,
} from "./memory-calls.ts";

const HOLE = 0x60000;
const NOBODY = 4660;

describe("batches", () => {
  test("a failing element has its word, and the loop goes on", () => {
    const { machine, granter } = trio();
    const gfns = [HOLE, HOLE + 1, HOLE + 2, HOLE + 3];
    const batch = { space: XENMAPSPACE_grant_table, idxs: [0, 99, 1, 0], gfns };
    expect(addBatch(machine, granter, batch)).toEqual({ ret: 0, errs: [0, -EINVAL, 0, -EBUSY] });
    expect(audit(machine.xen)).toEqual([]);
  });

  test("hypervisor case 94: an all-ones gfn ends the call, and what was before it is done", () => {
    const { machine, granter } = trio();
    const gfns = [HOLE, HOLE + 1, 0xffffffffffffffffn, HOLE + 3];
    const batch = { space: XENMAPSPACE_grant_table, idxs: [0, 1, 2, 3], gfns };
    expect(addBatch(machine, granter, batch)).toEqual({
      ret: -EINVAL,
      errs: [0, 0, UNWRITTEN, UNWRITTEN],
    });
    expect(removeFromPhysmap(machine, granter, HOLE + 1)).toBe(0);
  });

  test("the shape of the call is checked in Xen's order", () => {
    const { machine, dom0, granter } = trio();
    const one = { space: XENMAPSPACE_grant_table, idxs: [0], gfns: [HOLE] };
    const ret = (batch: Partial<Parameters<typeof addBatch>[2]>, by = granter): number =>
      addBatch(machine, by, { ...one, ...batch }).ret;
    expect(call(machine, granter, HYPERVISOR_memory_op, 23, 0x7800_0000)).toBe(-EFAULT);
    expect(ret({ start: 0x10000 })).toBe(-EDOM);
    expect(ret({ space: XENMAPSPACE_gmfn_range, dom: NOBODY })).toBe(-EOPNOTSUPP);
    expect(ret({ dom: NOBODY })).toBe(-ESRCH);
    expect(ret({ dom: dom0.domid })).toBe(-EPERM);
    expect(ret({ size: 0 })).toBe(0);
    expect(ret({ size: 1, start: 1 })).toBe(-EILSEQ);
    expect(ret({ size: 0, start: 1 })).toBe(-EILSEQ);
    expect(ret({ space: XENMAPSPACE_dev_mmio, extra: 1 }, dom0)).toBe(-EOPNOTSUPP);
    const errs = (space: number): readonly number[] =>
      addBatch(machine, granter, { ...one, space }).errs;
    expect(errs(XENMAPSPACE_gmfn)).toEqual([-ENOSYS]);
    expect(errs(99)).toEqual([-ENOSYS]);
    expect(errs(XENMAPSPACE_shared_info)).toEqual([0]);
  });

  test("a list that leaves memory ends the call with -EFAULT, elements before it stay done", () => {
    const { machine, granter } = trio();
    const [cmd = 0, at = 0] = layBatch(granter, {
      space: XENMAPSPACE_grant_table,
      idxs: [0, 1],
      gfns: [HOLE, HOLE + 1],
    });
    // The second gfn lies behind the end of RAM.
    const end = (granter.ram + 256) * 4096;
    reserve(machine, granter, XENMEM_decrease_reservation, { gfns: [] });
    layBatch(granter, { space: XENMAPSPACE_grant_table, idxs: [0, 1], gfns: [HOLE, HOLE + 1] });
    writeWord(granter, end - 8, HOLE);
    writeWord(granter, end - 4, 0);
    writeWord(granter, at + 16, end - 8);
    expect(call(machine, granter, HYPERVISOR_memory_op, cmd, at)).toBe(-EFAULT);
    expect(batchErrors(granter, 2)).toEqual([0, UNWRITTEN]);
    expect(removeFromPhysmap(machine, granter, HOLE)).toBe(0);
    expect(audit(machine.xen)).toEqual([]);
  });
});

describe("hypervisor case 95: acquire_resource", () => {
  test("tells the size of a table, and refuses what is not there", () => {
    const { machine, dom0, granter, mapper } = trio();
    const of = (resource: Partial<Parameters<typeof acquire>[2]>, by = dom0): number =>
      acquire(machine, by, { dom: granter.domid, ...resource }).ret;
    expect(acquire(machine, dom0, { dom: granter.domid })).toEqual({ ret: 0, frames: 4 });
    expect(acquire(machine, dom0, { dom: granter.domid, type: 99 })).toEqual({
      ret: 0,
      frames: 2 ** 32 - EOPNOTSUPP,
    });
    expect(of({ type: 99, gfns: [HOLE] })).toBe(-EOPNOTSUPP);
    expect(of({ dom: dom0.domid })).toBe(-EPERM);
    expect(of({ dom: DOMID_SELF })).toBe(-ESRCH);
    expect(of({ dom: NOBODY })).toBe(-ESRCH);
    expect(of({}, mapper)).toBe(-EPERM);
    expect(of({ id: 1 })).toBe(-EINVAL);
    expect(of({ type: 0 })).toBe(-EINVAL);
    expect(of({ type: 2 })).toBe(-EINVAL);
    expect(of({ pad: 1 })).toBe(-EINVAL);
    expect(of({ count: 1 })).toBe(-EINVAL);
    expect(of({ gfns: [HOLE], count: 0 })).toBe(-EINVAL);
    expect(of({ gfns: [HOLE], frame: 4 })).toBe(-EINVAL);
    expect(of({ gfns: [HOLE], frame: 2n ** 32n })).toBe(-EINVAL);
    expect(of({ gfns: [HOLE], frame: 2 ** 32 - 1 })).toBe(-EINVAL);
    expect(of({ gfns: [2n ** 52n] })).toBe(-EINVAL);
    expect(of({ gfns: [HOLE, HOLE + 1], start: 2 })).toBe(-EINVAL);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("maps grant frames that the owner has not even grown to, and both see the same entries", () => {
    const { machine, dom0, granter } = trio();
    expect(
      acquire(machine, dom0, { dom: granter.domid, gfns: [HOLE, HOLE + 1], frame: 2 }).ret,
    ).toBe(0);
    expect(domainField(machine.xen, granter.domid, DOM.GRANT_FRAMES)).toBe(4);
    addToPhysmap(machine, granter, { space: XENMAPSPACE_grant_table, idx: 2, gfn: HOLE });
    writeWord(dom0, HOLE * 4096, 0xbeef);
    expect(readWord(granter, HOLE * 4096)).toBe(0xbeef);
    expect(entryType(p2mLookup(machine.xen, DomId(dom0.domid), HOLE))).toBe(p2m_map_foreign_rw);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("an entry that fails after the first of its chunk is -EIO, and the first stays", () => {
    const { machine, dom0, granter } = trio();
    const gfns = [HOLE, 2n ** 52n];
    expect(acquire(machine, dom0, { dom: granter.domid, gfns }).ret).toBe(-EIO);
    expect(removeFromPhysmap(machine, dom0, HOLE)).toBe(0);
    expect(audit(machine.xen)).toEqual([]);
  });
});
