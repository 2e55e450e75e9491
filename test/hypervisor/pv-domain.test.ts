// x86 PV domains: page tables of their own, validated by Xen, and page types that keep them from being written.
import { describe, expect, it } from "vitest";
import { frameReferences, xenHeapGfn } from "../../hypervisor/frame-table.ts";
import { isPinned, typeCount, typeOf } from "../../hypervisor/page-type.ts";
import { writePte } from "../../hypervisor/pv-tables.ts";
import { XEN_DOMCTL_destroydomain } from "../../shared/abi/domctl.ts";
import {
  MMU_MACHPHYS_UPDATE,
  MMUEXT_CLEAR_PAGE,
  MMUEXT_NEW_BASEPTR,
  MMUEXT_PIN_L1_TABLE,
  MMUEXT_PIN_L4_TABLE,
  MMUEXT_UNPIN_TABLE,
  UVMF_INVLPG,
} from "../../shared/abi/mmu.ts";
import { DOMID_SELF, HYPERVISOR_update_va_mapping } from "../../shared/abi/xen.ts";
import { at } from "../../shared/assert.ts";
import {
  PGT_l1_page_table,
  PGT_l4_page_table,
  PGT_writable_page,
} from "../../shared/frame-flags.ts";
import { DOM, indexOf, LINE, lineOf, mfnAt } from "../../shared/layout.ts";
import {
  ACCESS_OK,
  ACCESS_READ,
  ACCESS_WRITE,
  FAULT_PERMISSION,
  FAULT_TRANSLATION,
  walkPv,
} from "../../shared/mmu.ts";
import { HIGH_NX } from "../../shared/pte-x86.ts";
import { EBUSY, EINVAL, ENOSYS, EPERM, ESRCH } from "../../shared/status.ts";
import { DomId } from "../../shared/units.ts";
import { domctl, field } from "./domains.ts";
import { call, probe, readWord, writeWord } from "./harness.ts";
import {
  frameOf,
  mfnOf,
  mmuextOp,
  mmuUpdate,
  P,
  pteAddress,
  pvPair,
  RW,
  slotOf,
  sound,
  tableOf,
  updateVa,
  V0,
} from "./pv.ts";
import { SlowMemory } from "./slow-memory.ts";

describe("a PV domain", () => {
  it("begins with its RAM at virtual page 0, and page tables that it may only read", () => {
    const { machine, a } = pvPair();
    writeWord(a, 7 * 4096, 99);
    expect(readWord(a, 7 * 4096)).toBe(99);
    const table = frameOf(machine, a, 248);
    expect(typeOf(machine.xen, table)).toBe(PGT_l4_page_table);
    // One for the pin, one for the vCPU.
    expect(typeCount(machine.xen, table)).toBe(2);
    expect(isPinned(machine.xen, table)).toBe(true);
    expect(probe(a, 248, ACCESS_READ)).toBe(ACCESS_OK);
    expect(probe(a, 248, ACCESS_WRITE)).toBe(FAULT_PERMISSION);
    expect(probe(a, V0, ACCESS_READ)).toBe(FAULT_TRANSLATION);
    const page = frameOf(machine, a, 7);
    expect(typeOf(machine.xen, page)).toBe(PGT_writable_page);
    expect(frameReferences(machine.xen, page)).toBe(2);
    expect(xenHeapGfn(machine.xen, page)).toBe(7);
    sound(machine);
  });

  it("maps a page of its own once more, and drops it again", () => {
    const { machine, a } = pvPair();
    const page = frameOf(machine, a, 5);
    writeWord(a, 5 * 4096, 0x1234);
    expect(updateVa(machine, a, V0, mfnOf(machine, a, 5))).toBe(0);
    expect(readWord(a, V0 * 4096)).toBe(0x1234);
    expect(typeCount(machine.xen, page)).toBe(2);
    expect(frameReferences(machine.xen, page)).toBe(3);
    sound(machine);
    expect(updateVa(machine, a, V0, undefined, 0, UVMF_INVLPG)).toBe(0);
    expect(probe(a, V0, ACCESS_READ)).toBe(FAULT_TRANSLATION);
    expect(typeCount(machine.xen, page)).toBe(1);
    sound(machine);
  });

  it("keeps using a translation that it has dropped without a flush", () => {
    const { machine, a } = pvPair();
    expect(updateVa(machine, a, V0, mfnOf(machine, a, 5))).toBe(0);
    writeWord(a, V0 * 4096, 1);
    expect(updateVa(machine, a, V0, undefined)).toBe(0);
    expect(probe(a, V0, ACCESS_WRITE)).toBe(ACCESS_OK);
    sound(machine);
  });

  it("cannot map what is not its own, nor set bits that are Xen's", () => {
    const { machine, a, b, dom0 } = pvPair();
    expect(updateVa(machine, a, V0, mfnOf(machine, b, 5))).toBe(-EBUSY);
    expect(updateVa(machine, a, V0, dom0.ram)).toBe(-EBUSY);
    expect(updateVa(machine, a, V0, 0x1000)).toBe(-EPERM);
    expect(updateVa(machine, a, V0, 2 ** 40 - 1)).toBe(-EINVAL);
    // A cache attribute, and in the entry of a table a superpage.
    expect(updateVa(machine, a, V0, mfnOf(machine, a, 5), RW | 0x10)).toBe(-EINVAL);
    const above = tableOf(machine, a, 0, 2);
    const block = mfnOf(machine, a, 5) * 4096 + (RW | 0x80);
    expect(mmuUpdate(machine, a, [[above.mfn * 4096 + 100 * 8, block]]).ret).toBe(-EINVAL);
    // No level 1 table there.
    expect(updateVa(machine, a, 0x100000, mfnOf(machine, a, 5))).toBe(-EINVAL);
    expect(updateVa(machine, a, 2 ** 36, mfnOf(machine, a, 5))).toBe(-EINVAL);
    sound(machine);
  });

  it("cannot have a page table writable, and cannot make a table of a page that is", () => {
    const { machine, a } = pvPair();
    const table = tableOf(machine, a, 0, 1);
    expect(updateVa(machine, a, V0, table.mfn)).toBe(-EBUSY);
    expect(updateVa(machine, a, V0, table.mfn, P)).toBe(0);
    expect(mmuextOp(machine, a, [[MMUEXT_PIN_L1_TABLE, mfnOf(machine, a, 5)]]).ret).toBe(-EINVAL);
    sound(machine);
  });

  it("makes a page a table once nobody has it writable, and pins and unpins it", () => {
    const { machine, a } = pvPair();
    const page = frameOf(machine, a, 5);
    const mfn = mfnOf(machine, a, 5);
    writeWord(a, 5 * 4096, 0);
    expect(mmuextOp(machine, a, [[MMUEXT_CLEAR_PAGE, mfn]]).ret).toBe(0);
    expect(updateVa(machine, a, 5, mfn, P)).toBe(0);
    expect(mmuextOp(machine, a, [[MMUEXT_PIN_L1_TABLE, mfn]]).ret).toBe(0);
    expect(typeOf(machine.xen, page)).toBe(PGT_l1_page_table);
    sound(machine);
    expect(mmuextOp(machine, a, [[MMUEXT_PIN_L1_TABLE, mfn]]).ret).toBe(-EINVAL);
    // It may stand in the tree, below a level 2 table.
    const above = tableOf(machine, a, 0, 2);
    const entry = above.mfn * 4096 + 100 * 8;
    expect(mmuUpdate(machine, a, [[entry, mfn * 4096 + 7]])).toEqual({ ret: 0, done: 1 });
    expect(typeCount(machine.xen, page)).toBe(2);
    expect(updateVa(machine, a, 100 * 512, mfnOf(machine, a, 6))).toBe(0);
    writeWord(a, 100 * 512 * 4096, 3);
    expect(readWord(a, 6 * 4096)).toBe(3);
    sound(machine);
    expect(mmuUpdate(machine, a, [[entry, 0]]).ret).toBe(0);
    expect(mmuextOp(machine, a, [[MMUEXT_UNPIN_TABLE, mfn]]).ret).toBe(0);
    expect(typeCount(machine.xen, page)).toBe(0);
    expect(probe(a, 100 * 512, ACCESS_READ)).toBe(FAULT_TRANSLATION);
    expect(updateVa(machine, a, 5, mfn)).toBe(0);
    sound(machine);
  });

  it("refuses a table with one entry that is not allowed, and keeps nothing of the others", () => {
    const { machine, a, b } = pvPair();
    const mfn = mfnOf(machine, a, 5);
    const other = frameOf(machine, a, 6);
    expect(mmuextOp(machine, a, [[MMUEXT_CLEAR_PAGE, mfn]]).ret).toBe(0);
    writeWord(a, 5 * 4096, mfnOf(machine, a, 6) * 4096 + RW);
    writeWord(a, 5 * 4096 + 8, mfnOf(machine, b, 6) * 4096 + RW);
    expect(updateVa(machine, a, 5, mfn, P)).toBe(0);
    const before = frameReferences(machine.xen, other);
    expect(mmuextOp(machine, a, [[MMUEXT_PIN_L1_TABLE, mfn]]).ret).toBe(-EBUSY);
    expect(frameReferences(machine.xen, other)).toBe(before);
    sound(machine);
  });

  it("changes entries of a batch until one is refused, and is told how many", () => {
    const { machine, a, b } = pvPair();
    const entry = (page: number): number => pteAddress(machine, a, page);
    const own = mfnOf(machine, a, 5) * 4096 + RW;
    const done = mmuUpdate(machine, a, [
      [entry(V0), own],
      [entry(V0 + 1), mfnOf(machine, b, 5) * 4096 + RW],
      [entry(V0 + 2), own],
    ]);
    expect(done).toEqual({ ret: -EBUSY, done: 1 });
    expect(probe(a, V0, ACCESS_WRITE)).toBe(ACCESS_OK);
    expect(probe(a, V0 + 2, ACCESS_READ)).toBe(FAULT_TRANSLATION);
    // A page that is no table is simply written to.
    expect(mmuUpdate(machine, a, [[mfnOf(machine, a, 9) * 4096 + 16, 77]]).ret).toBe(0);
    expect(readWord(a, 9 * 4096 + 16)).toBe(77);
    expect(mmuUpdate(machine, a, [[entry(V0) + 3, own]]).ret).toBe(-ENOSYS);
    expect(mmuUpdate(machine, a, [[entry(V0), own]], b.domid).ret).toBe(-EPERM);
    expect(mmuUpdate(machine, a, [[entry(V0), own]], 99).ret).toBe(-ESRCH);
    sound(machine);
  });

  it("numbers its pages in the M2P", () => {
    const { machine, a, b } = pvPair();
    const page = frameOf(machine, a, 5);
    const ptr = mfnOf(machine, a, 5) * 4096 + MMU_MACHPHYS_UPDATE;
    expect(mmuUpdate(machine, a, [[ptr, 4711]]).ret).toBe(0);
    expect(xenHeapGfn(machine.xen, page)).toBe(4711);
    const strange = mfnOf(machine, b, 5) * 4096 + MMU_MACHPHYS_UPDATE;
    expect(mmuUpdate(machine, a, [[strange, 1]]).ret).toBe(-EINVAL);
  });

  it("moves to another address space and goes on there", () => {
    const { machine, a } = pvPair();
    const root = tableOf(machine, a, 0, 4);
    const next = mfnOf(machine, a, 5);
    // A second root with the same entry: its first 512 GiB are those of the first.
    const entry = machine.xen.memory.peek(frameOf(machine, a, 248), 0);
    expect(mmuextOp(machine, a, [[MMUEXT_CLEAR_PAGE, next]]).ret).toBe(0);
    writeWord(a, 5 * 4096, entry);
    expect(updateVa(machine, a, 5, next, P)).toBe(0);
    expect(mmuextOp(machine, a, [[MMUEXT_NEW_BASEPTR, next]]).ret).toBe(0);
    expect(tableOf(machine, a, 0, 4).mfn).toBe(next);
    sound(machine);
    expect(mmuextOp(machine, a, [[MMUEXT_PIN_L4_TABLE, next]]).ret).toBe(0);
    expect(mmuextOp(machine, a, [[MMUEXT_UNPIN_TABLE, root.mfn]]).ret).toBe(0);
    writeWord(a, 6 * 4096, 5);
    sound(machine);
    expect(mmuextOp(machine, a, [[MMUEXT_NEW_BASEPTR, mfnOf(machine, a, 6)]]).ret).toBe(-EINVAL);
    expect(domctl(machine, XEN_DOMCTL_destroydomain, a.domid)).toBe(0);
    sound(machine);
    expect(field(machine.xen, a.domid, DOM.STATE)).toBe(0);
  });

  it("is gone with all its pages when it is destroyed", () => {
    const { machine, a } = pvPair();
    updateVa(machine, a, V0, mfnOf(machine, a, 5));
    expect(domctl(machine, XEN_DOMCTL_destroydomain, a.domid)).toBe(0);
    expect(field(machine.xen, a.domid, DOM.STATE)).toBe(0);
    sound(machine);
  });

  it("is alone in having these calls", () => {
    const { machine, dom0 } = pvPair();
    expect(call(machine, dom0, HYPERVISOR_update_va_mapping, 0, 0, 0)).toBe(-ENOSYS);
    expect(mmuUpdate(machine, dom0, [[0, 0]], DOMID_SELF).ret).toBe(-ENOSYS);
    expect(mmuextOp(machine, dom0, [[MMUEXT_UNPIN_TABLE, 0]]).ret).toBe(-ENOSYS);
  });
});

describe("an entry of a PV guest that is replaced under a walker", () => {
  it("XSA-347: is taken for neither half of what was and is to be", () => {
    const { machine, a } = pvPair();
    const { layout, words, memory } = machine.xen;
    const frame = frameOf(machine, a, 5);
    const { mfn, slot } = tableOf(machine, a, 5, 1);
    const table = indexOf(layout, words, mfn);
    // Word 0 names the frame, word 1 says that nothing there may be executed.
    const next = { low: mfnAt(layout, frame + 1) * 4096 + P, high: HIGH_NX };
    const replace = () => writePte(machine.xen, DomId(a.domid), { table, slot }, next);
    const slow = new SlowMemory(memory, table * 4096 + slot * 8 + 4, replace);
    const root = at(words, lineOf(layout, slotOf(machine, a)) + LINE.ROOT);
    const seen = () => walkPv(layout, words, slow, root, 5);
    expect(seen()).toBe(-FAULT_TRANSLATION);
    expect(seen()).toBe((frame + 1) * 8 + ACCESS_READ);
  });
});
