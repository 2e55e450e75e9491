/**
 * Advisories about x86 PV: page types, page-table entries, transfer and exchange. Each test tells what went wrong, and
 * shows that it does not here.
 */
import { describe, expect, it } from "vitest";
import { activePin } from "../../hypervisor/active-entry.ts";
import { frameOwner, frameReferences, isAllocated, isFree } from "../../hypervisor/frame-table.ts";
import { statusFrame } from "../../hypervisor/grant-v2.ts";
import { step } from "../../hypervisor/main.ts";
import { isPinned, typeCount, typeOf } from "../../hypervisor/page-type.ts";
import { XEN_DOMCTL_destroydomain, XEN_DOMCTL_max_mem } from "../../shared/abi/domctl.ts";
import {
  GNTMAP_contains_pte,
  GNTMAP_device_map,
  GNTMAP_host_map,
  GNTMAP_readonly,
  GNTTABOP_set_version,
  GTF_accept_transfer,
  GTF_permit_access,
} from "../../shared/abi/grant.ts";
import { XENMEM_decrease_reservation, XENMEM_exchange } from "../../shared/abi/memory.ts";
import {
  MMUEXT_CLEAR_PAGE,
  MMUEXT_PIN_L1_TABLE,
  MMUEXT_UNPIN_TABLE,
} from "../../shared/abi/mmu.ts";
import {
  HYPERVISOR_grant_table_op,
  HYPERVISOR_memory_op,
  HYPERVISOR_mmuext_op,
  HYPERVISOR_update_va_mapping,
} from "../../shared/abi/xen.ts";
import { Channel } from "../../shared/channel.ts";
import { PGT_l1_page_table } from "../../shared/frame-flags.ts";
import { DOM, indexOf, MACHINE, mfnAt } from "../../shared/layout.ts";
import { ACCESS_OK, ACCESS_READ, ACCESS_WRITE, FAULT_PERMISSION, Mmu } from "../../shared/mmu.ts";
import { EBUSY, GNTST_general_error, GNTST_okay } from "../../shared/status.ts";
import { CONTROL_DOMCTL, hypercallTrap, setRecord } from "../../shared/trap.ts";
import { CONTROL_SLOT, domctl, field } from "./domains.ts";
import { argumentAddress, copyOne, entryFlags, mapOne, setEntry } from "./grants.ts";
import {
  type Actor,
  call,
  probe,
  readWord,
  type TestMachine,
  writeGuest,
  writeWord,
} from "./harness.ts";
import { reserve } from "./memory-calls.ts";
import {
  frameOf,
  mfnOf,
  mmuextOp,
  P,
  pteAddress,
  pvPair,
  sound,
  transfer,
  unmapHalves,
  updateVa,
  V0,
} from "./pv.ts";

const REF = 8;
const HOST = GNTMAP_host_map;
const DEVICE = GNTMAP_device_map;

const frameAt = ({ xen }: TestMachine, mfn: number) => indexOf(xen.layout, xen.words, mfn);

function loose(machine: TestMachine, actor: Actor, page: number): number {
  const mfn = mfnOf(machine, actor, page);
  expect(updateVa(machine, actor, page, undefined)).toBe(0);
  return mfn;
}

/** A page of zeroes that its guest has read-only: it may become a level 1 table. */
function emptyTable(machine: TestMachine, actor: Actor, page: number): number {
  const mfn = mfnOf(machine, actor, page);
  expect(mmuextOp(machine, actor, [[MMUEXT_CLEAR_PAGE, mfn]]).ret).toBe(0);
  expect(updateVa(machine, actor, page, mfn, P)).toBe(0);
  return mfn;
}

describe("transfer and exchange", () => {
  // The receiver's page lock and its grant lock were taken in two orders. The room for the page is now counted first,
  // without the entry, so a receiver that is full has its entry left alone.
  it("XSA-73: a receiver without room is refused before its entry is looked at", () => {
    const { machine, a, b } = pvPair();
    setEntry(machine, a, REF, GTF_accept_transfer, b.domid, 0);
    const mfn = loose(machine, b, 5);
    expect(transfer(machine, b, [{ mfn, dom: a.domid, ref: REF }]).statuses).toEqual([-1]);
    expect(entryFlags(machine, a, REF)).toBe(GTF_accept_transfer);
    expect(isFree(machine.xen, frameAt(machine, mfn))).toBe(true);
    sound(machine);
  });

  // A domain that died in the middle of an exchange could not be given its new pages, and Xen had assumed that it could.
  it("XSA-159: a domain that dies between two chunks is given nothing more, and all is accounted for", () => {
    const { machine, dom0, a } = pvPair();
    const { xen } = machine;
    const mfns = Array.from({ length: 8 }, (_, i) => loose(machine, a, 5 + i));
    const at = argumentAddress(dom0);
    const bytes = new Uint8Array(72);
    const view = new DataView(bytes.buffer);
    for (const [offset, list] of [
      [0, at + 128],
      [32, at + 256],
    ] as const) {
      view.setBigUint64(offset, BigInt(list), true);
      view.setBigUint64(offset + 8, 8n, true);
      view.setUint16(offset + 24, a.domid, true);
    }
    writeGuest(dom0, at, bytes);
    mfns.forEach((mfn, i) => {
      writeWord(dom0, at + 128 + 8 * i, mfn);
    });
    const { record } = hypercallTrap();
    setRecord(record, HYPERVISOR_memory_op, [XENMEM_exchange, at]);
    dom0.channel.push(record);
    const kill = hypercallTrap().record;
    setRecord(kill, CONTROL_DOMCTL, [XEN_DOMCTL_destroydomain, a.domid, 0]);
    // Some chunks are done, then the toolstack's call comes in between.
    for (let steps = 0; steps < 3; steps++) step(xen);
    xen.channels[CONTROL_SLOT]?.push(kill);
    while (step(xen));
    const exchanged = readWord(dom0, at + 64);
    expect(exchanged).toBeGreaterThan(0);
    expect(exchanged).toBeLessThan(8);
    expect(field(xen, a.domid, DOM.STATE)).toBe(0);
    sound(machine);
  });

  // A page that had to be replaced by another one on its way came without its allocation reference, and the entry named
  // the page that was gone.
  it("XSA-284: what arrives is an allocated page, and the one that the entry names", () => {
    const { machine, a, b } = pvPair();
    domctl(machine, XEN_DOMCTL_max_mem, a.domid, 4096);
    setEntry(machine, a, REF, GTF_accept_transfer, b.domid, 0);
    const mfn = loose(machine, b, 5);
    expect(transfer(machine, b, [{ mfn, dom: a.domid, ref: REF }]).statuses).toEqual([0]);
    const { words, layout, memory } = machine.xen;
    const table = words[layout.grantFrame + a.domid * layout.model.limits.grantFrames] ?? -1;
    const named = memory.load(table as never, REF * 8 + 4);
    const frame = frameAt(machine, named);
    expect(frameOwner(machine.xen, frame)).toBe(a.domid);
    expect(isAllocated(machine.xen, frame)).toBe(true);
    expect(frameReferences(machine.xen, frame)).toBe(1);
    expect(reserve(machine, a, XENMEM_decrease_reservation, { gfns: [named] })).toBe(1);
    sound(machine);
  });
});

describe("page tables", () => {
  // The address of an entry was not checked to be that of a whole entry: half of two neighbours could be overwritten.
  it("XSA-227: the machine address of an entry is a multiple of 8", () => {
    const { machine, a, b } = pvPair();
    setEntry(machine, a, REF, GTF_permit_access, b.domid, mfnOf(machine, a, 5));
    const address = pteAddress(machine, b, V0);
    for (let off = 1; off < 8; off++) {
      const at = address + off;
      const flags = HOST | GNTMAP_contains_pte;
      const op = { gfn: Math.floor(at / 4096), offset: at % 4096, flags, ref: REF, dom: a.domid };
      expect(mapOne(machine, b, op).status).toBe(GNTST_general_error);
    }
    expect(readWord(b, V0 * 4096 - 4096 * (V0 - 5))).toBe(readWord(b, 5 * 4096));
    expect(probe(b, V0, ACCESS_READ)).not.toBe(ACCESS_OK);
    sound(machine);
  });

  // The unmap compared the frame only: a read-only entry could be given for a writable mapping, whose entry then stayed.
  it("XSA-234: an entry with the right frame and another permission is not the mapping's", () => {
    const { machine, a, b } = pvPair();
    setEntry(machine, a, REF, GTF_permit_access, b.domid, mfnOf(machine, a, 5));
    const op = { ref: REF, dom: a.domid };
    const writable = mapOne(machine, b, { ...op, gfn: V0, flags: HOST });
    mapOne(machine, b, { ...op, gfn: V0 + 1, flags: HOST | GNTMAP_readonly });
    const wrong = { handle: writable.handle, host: (V0 + 1) * 4096 };
    expect(unmapHalves(machine, b, [wrong])).toEqual([GNTST_general_error]);
    expect(probe(b, V0, ACCESS_WRITE)).toBe(ACCESS_OK);
    sound(machine);
  });

  // The references that a mapping takes depended on wrong combinations of host, device and writable.
  it("XSA-224: each combination of halves and permission takes its references, and gives them back", () => {
    const { machine, a, b } = pvPair();
    setEntry(machine, a, REF, GTF_permit_access, b.domid, mfnOf(machine, a, 5));
    const frame = frameOf(machine, a, 5);
    for (const halves of [HOST, DEVICE, HOST | DEVICE]) {
      for (const access of [0, GNTMAP_readonly]) {
        const op = { gfn: V0, flags: halves | access, ref: REF, dom: a.domid };
        const { handle, devBusAddr } = mapOne(machine, b, op);
        const count = halves === (HOST | DEVICE) ? 2 : 1;
        expect(frameReferences(machine.xen, frame)).toBe(2 + count);
        expect(typeCount(machine.xen, frame)).toBe(access === 0 ? 1 + count : 1);
        sound(machine);
        const undo = { handle, host: V0 * 4096, device: devBusAddr };
        expect(unmapHalves(machine, b, [undo])).toEqual([GNTST_okay]);
        expect(frameReferences(machine.xen, frame)).toBe(2);
        expect(typeCount(machine.xen, frame)).toBe(1);
      }
    }
  });

  // The last type reference of a table could be dropped without what its entries refer to: the domain never went away.
  it("XSA-242: with its last type reference a table gives back what its entries refer to", () => {
    const { machine, a } = pvPair();
    const target = frameOf(machine, a, 6);
    const mfn = mfnOf(machine, a, 5);
    expect(mmuextOp(machine, a, [[MMUEXT_CLEAR_PAGE, mfn]]).ret).toBe(0);
    writeWord(a, 5 * 4096, mfnOf(machine, a, 6) * 4096 + P);
    expect(updateVa(machine, a, 5, mfn, P)).toBe(0);
    expect(mmuextOp(machine, a, [[MMUEXT_PIN_L1_TABLE, mfn]]).ret).toBe(0);
    expect(frameReferences(machine.xen, target)).toBe(3);
    expect(mmuextOp(machine, a, [[MMUEXT_UNPIN_TABLE, mfn]]).ret).toBe(0);
    expect(frameReferences(machine.xen, target)).toBe(2);
    expect(mmuextOp(machine, a, [[MMUEXT_PIN_L1_TABLE, mfn]]).ret).toBe(0);
    expect(domctl(machine, XEN_DOMCTL_destroydomain, a.domid)).toBe(0);
    expect(field(machine.xen, a.domid, DOM.STATE)).toBe(0);
    sound(machine);
  });

  // Giving a pinned table back unpinned it on the way, behind the back of whoever was just validating it.
  it("XSA-252: a pinned table that is given back stays what it is until its guest unpins it", () => {
    const { machine, a } = pvPair();
    const mfn = emptyTable(machine, a, 5);
    const frame = frameOf(machine, a, 5);
    expect(mmuextOp(machine, a, [[MMUEXT_PIN_L1_TABLE, mfn]]).ret).toBe(0);
    loose(machine, a, 5);
    expect(reserve(machine, a, XENMEM_decrease_reservation, { gfns: [mfn] })).toBe(1);
    expect(isPinned(machine.xen, frame)).toBe(true);
    expect(frameOwner(machine.xen, frame)).toBe(a.domid);
    sound(machine);
    expect(mmuextOp(machine, a, [[MMUEXT_UNPIN_TABLE, mfn]]).ret).toBe(0);
    expect(isFree(machine.xen, frame)).toBe(true);
    sound(machine);
  });

  // The flush came before the type was claimed: a second vCPU could take and drop the page as writable in between, and
  // then write to a page table through its TLB.
  it("XSA-401: a page that was writable becomes a table only when no TLB can write to it", () => {
    const { machine, a } = pvPair({}, { vcpus: 2 });
    const { xen } = machine;
    const frame = frameOf(machine, a, 5);
    const mfn = emptyTable(machine, a, 5);
    expect(updateVa(machine, a, V0, mfn)).toBe(0);
    const { mmu } = vcpuOf(machine, a, 1);
    expect(mmu.open(V0, ACCESS_WRITE)).toBe(ACCESS_OK);
    expect(updateVa(machine, a, V0, undefined)).toBe(0);
    pushPin(machine, a, mfn);
    // The other vCPU is inside an access, so the page is no table yet and what it writes will be looked at.
    expect(typeOf(xen, frame)).not.toBe(PGT_l1_page_table);
    mmu.store(0, 0);
    mmu.close();
    while (step(xen));
    expect(a.channel.result()).toBe(0);
    expect(typeOf(xen, frame)).toBe(PGT_l1_page_table);
    expect(mmu.open(V0, ACCESS_WRITE)).not.toBe(ACCESS_OK);
    expect(probe(a, 5, ACCESS_WRITE)).toBe(FAULT_PERMISSION);
    sound(machine);
  });
});

/** A vCPU of A beside the first, with its own way to memory and to the hypervisor. */
function vcpuOf({ xen }: TestMachine, { domid }: Actor, vcpu: number) {
  const slot = field(xen, domid, DOM.SLOT + vcpu);
  const channel = new Channel(xen.words, xen.layout, slot);
  const mmu = new Mmu(xen.words, xen.memory, xen.layout, slot);
  const push = (op: number, ...args: readonly number[]): void => {
    const { record } = hypercallTrap();
    setRecord(record, op, args);
    channel.push(record);
    while (step(xen));
  };
  return { channel, mmu, push };
}

/** Pushes a pin of a level 1 table from A's first vCPU, and steps as far as it gets. */
function pushPin({ xen }: TestMachine, actor: Actor, mfn: number): void {
  const at = argumentAddress(actor);
  const bytes = new Uint8Array(24);
  new DataView(bytes.buffer).setBigUint64(8, BigInt(mfn), true);
  writeGuest(actor, at, bytes);
  const { record } = hypercallTrap();
  setRecord(record, HYPERVISOR_mmuext_op, [at, 1, 0, 0x7ff0]);
  actor.channel.push(record);
  while (step(xen));
}

describe("time stamps of flushes", () => {
  // A stamp that was read early and stored late was too old, and the flush that it called for did not happen.
  it("XSA-241: a page that is given up as writable while a flush is under way asks for another one", () => {
    const { machine, a } = pvPair({}, { vcpus: 3 });
    const { xen } = machine;
    const frame = frameOf(machine, a, 5);
    const mfn = emptyTable(machine, a, 5);
    const [slow, quick] = [vcpuOf(machine, a, 1), vcpuOf(machine, a, 2)];
    expect(slow.mmu.open(6, ACCESS_READ)).toBe(ACCESS_OK);
    pushPin(machine, a, mfn);
    // The flush waits for the slow vCPU. The quick one has the page writable once more, and lets go of its entry.
    quick.push(HYPERVISOR_update_va_mapping, V0 * 4096, mfn * 4096 + 3, 0);
    expect(quick.mmu.open(V0, ACCESS_WRITE)).toBe(ACCESS_OK);
    quick.mmu.close();
    quick.push(HYPERVISOR_update_va_mapping, V0 * 4096, 0, 0);
    slow.mmu.close();
    while (step(xen));
    expect(typeOf(xen, frame)).toBe(PGT_l1_page_table);
    expect(quick.mmu.open(V0, ACCESS_WRITE)).not.toBe(ACCESS_OK);
    sound(machine);
  });

  // Whether to flush was decided by the type that a page was to have, not by the one that it had.
  it("XSA-408: a flush is asked for by what a page was, not by what it becomes", () => {
    const { machine, a } = pvPair();
    const { words } = machine.xen;
    const flushes = (): number => words[MACHINE.FLUSHES] ?? 0;
    const written = emptyTable(machine, a, 5);
    const before = flushes();
    expect(mmuextOp(machine, a, [[MMUEXT_PIN_L1_TABLE, written]]).ret).toBe(0);
    expect(flushes()).toBe(before + 1);
    // Unpinning flushes once, and the same page pinned again has not been writable since.
    expect(mmuextOp(machine, a, [[MMUEXT_UNPIN_TABLE, written]]).ret).toBe(0);
    expect(flushes()).toBe(before + 2);
    expect(mmuextOp(machine, a, [[MMUEXT_PIN_L1_TABLE, written]]).ret).toBe(0);
    expect(flushes()).toBe(before + 2);
    sound(machine);
  });
});

describe("grant tables of PV guests", () => {
  // Back to version 1 the status frames were freed although the guest still had them mapped.
  it("XSA-255: a table keeps version 2 while its guest has a status frame mapped", () => {
    const { machine, a } = pvPair();
    const { xen } = machine;
    const at = argumentAddress(a);
    const setVersion = (version: number): number => {
      writeWord(a, at, version);
      return call(machine, a, HYPERVISOR_grant_table_op, GNTTABOP_set_version, at, 1);
    };
    expect(setVersion(2)).toBe(0);
    const frame = statusFrame(xen, a.domid, 0);
    expect(updateVa(machine, a, V0, mfnAt(xen.layout, frame))).toBe(0);
    expect(setVersion(1)).toBe(-EBUSY);
    expect(readWord(a, at)).toBe(2);
    expect(readWord(a, V0 * 4096)).toBe(0);
    expect(updateVa(machine, a, V0, undefined)).toBe(0);
    // Without a flush of the guest's own, too: what is Xen's leaves its TLB at once.
    expect(probe(a, V0, ACCESS_READ)).not.toBe(ACCESS_OK);
    expect(setVersion(1)).toBe(0);
    sound(machine);
  });
});

describe("a change of version", () => {
  // Status frames that were freed on the way back to version 1 were left in their owner's list.
  it("XSA-26: status frames leave their owner's list before they are freed", () => {
    const { machine, a } = pvPair();
    const at = argumentAddress(a);
    const before = field(machine.xen, a.domid, DOM.XENHEAP_PAGES);
    for (const version of [2, 1, 2, 1]) {
      writeWord(a, at, version);
      expect(call(machine, a, HYPERVISOR_grant_table_op, GNTTABOP_set_version, at, 1)).toBe(0);
      expect(field(machine.xen, a.domid, DOM.XENHEAP_PAGES)).toBe(before + (version - 1));
      sound(machine);
    }
  });
});

describe("a pinned entry of version 2", () => {
  it("hypervisor case 81: that becomes a part of a page is copied through as it was pinned", () => {
    const { machine, a, b } = pvPair();
    const { words, layout, memory } = machine.xen;
    const at = argumentAddress(a);
    writeWord(a, at, 2);
    expect(call(machine, a, HYPERVISOR_grant_table_op, GNTTABOP_set_version, at, 1)).toBe(0);
    const table = (words[layout.grantFrame + a.domid * layout.model.limits.grantFrames] ??
      -1) as never;
    const header = (flags: number): number => flags | (b.domid << 16);
    memory.store(table, REF * 16 + 8, mfnOf(machine, a, 5));
    memory.store(table, REF * 16, header(GTF_permit_access));
    const op = { gfn: V0, flags: HOST | GNTMAP_readonly, ref: REF, dom: a.domid };
    expect(mapOne(machine, b, op).status).toBe(GNTST_okay);
    // Bytes 100 to 199 only, from here on.
    memory.store(table, REF * 16 + 4, 100 | (100 << 16));
    memory.store(table, REF * 16, header(0x101));
    const granted = { ref: REF, dom: a.domid };
    const own = { gfn: mfnOf(machine, b, 6), dom: 0x7ff0 };
    expect(copyOne(machine, b, granted, own, 8)).toBe(GNTST_okay);
    expect(copyOne(machine, b, own, granted, 8)).toBe(GNTST_okay);
    expect(activePin(machine.xen, a.domid, REF)).toBe(0x100);
    sound(machine);
  });
});
