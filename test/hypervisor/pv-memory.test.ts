// Pages of PV guests that come, go and change hands: reservations, transfer and exchange.
import { describe, expect, it } from "vitest";
import { grantFrame } from "../../hypervisor/active-entry.ts";
import { frameOwner, isFree, xenHeapGfn } from "../../hypervisor/frame-table.ts";
import { isV2 } from "../../hypervisor/grant-v2.ts";
import { step } from "../../hypervisor/main.ts";
import { entryFrame, p2mLookup } from "../../hypervisor/p2m.ts";
import { XEN_DOMCTL_max_mem } from "../../shared/abi/domctl.ts";
import {
  GNTMAP_host_map,
  GNTTABOP_set_version,
  GTF_accept_transfer,
  GTF_permit_access,
  GTF_transfer_committed,
  GTF_transfer_completed,
} from "../../shared/abi/grant.ts";
import {
  XENMAPSPACE_grant_table,
  XENMEM_decrease_reservation,
  XENMEM_increase_reservation,
  XENMEM_machphys_mapping,
  XENMEM_populate_physmap,
} from "../../shared/abi/memory.ts";
import {
  DOMID_SELF,
  HYPERVISOR_grant_table_op,
  HYPERVISOR_memory_op,
} from "../../shared/abi/xen.ts";
import { DOM, indexOf } from "../../shared/layout.ts";
import { ACCESS_OK, ACCESS_READ, ACCESS_WRITE, FAULT_TRANSLATION, Mmu } from "../../shared/mmu.ts";
import {
  EACCES,
  EINVAL,
  ENOMEM,
  EPERM,
  GNTST_address_too_big,
  GNTST_bad_page,
  GNTST_general_error,
  GNTST_okay,
} from "../../shared/status.ts";
import { hypercallTrap, setRecord } from "../../shared/trap.ts";
import { DomId, FrameIndex } from "../../shared/units.ts";
import { domctl, field } from "./domains.ts";
import { argumentAddress, copyOne, entryFlags, mapOne, setEntry } from "./grants.ts";
import { type Actor, call, probe, readWord, type TestMachine, writeWord } from "./harness.ts";
import { addToPhysmap, exchange, reserve } from "./memory-calls.ts";
import {
  frameOf,
  layTransfer,
  mfnOf,
  pvPair,
  sound,
  tableOf,
  transfer,
  unmapHalves,
  updateVa,
  V0,
} from "./pv.ts";

const REF = 8;
const DONE = GTF_accept_transfer | GTF_transfer_committed | GTF_transfer_completed;

const pages = (machine: TestMachine, { domid }: Actor): number =>
  field(machine.xen, domid, DOM.TOT_PAGES);

/** A virtual page's machine frame, once the guest itself has no entry for it. */
function loose(machine: TestMachine, actor: Actor, page: number): number {
  const mfn = mfnOf(machine, actor, page);
  expect(updateVa(machine, actor, page, undefined)).toBe(0);
  return mfn;
}

const frameAt = ({ xen }: TestMachine, mfn: number): FrameIndex =>
  indexOf(xen.layout, xen.words, mfn);
const list = (actor: Actor, i: number): number =>
  readWord(actor, argumentAddress(actor) + 128 + 8 * i);

/** The second vCPU's way to memory. */
const secondVcpu = ({ xen }: TestMachine, { domid }: Actor): Mmu =>
  new Mmu(xen.words, xen.memory, xen.layout, field(xen, domid, DOM.SLOT + 1));

/** What an exchange has left in its caller's memory: nr_exchanged, and the list of new frames. */
const readExchange = (actor: Actor, count: number) => ({
  exchanged: readWord(actor, argumentAddress(actor) + 64),
  out: Array.from({ length: count }, (_, i) =>
    readWord(actor, argumentAddress(actor) + 256 + 8 * i),
  ),
});

describe("the reservation of a PV guest", () => {
  it("shrinks by machine frames, and grows by frames that it is told", () => {
    const { machine, a } = pvPair();
    const mfn = loose(machine, a, 5);
    expect(reserve(machine, a, XENMEM_decrease_reservation, { gfns: [mfn, mfn] })).toBe(1);
    expect(isFree(machine.xen, frameAt(machine, mfn))).toBe(true);
    expect(pages(machine, a)).toBe(255);
    sound(machine);
    expect(reserve(machine, a, XENMEM_increase_reservation, { gfns: [0] })).toBe(1);
    const given = list(a, 0);
    expect(frameOwner(machine.xen, frameAt(machine, given))).toBe(a.domid);
    expect(updateVa(machine, a, 5, given)).toBe(0);
    expect(probe(a, 5, ACCESS_WRITE)).toBe(ACCESS_OK);
    sound(machine);
  });

  it("is populated at places of the M2P, and told the frames", () => {
    const { machine, a } = pvPair();
    const mfn = loose(machine, a, 5);
    expect(reserve(machine, a, XENMEM_decrease_reservation, { gfns: [mfn] })).toBe(1);
    expect(reserve(machine, a, XENMEM_populate_physmap, { gfns: [5] })).toBe(1);
    const frame = frameAt(machine, list(a, 0));
    expect(xenHeapGfn(machine.xen, frame)).toBe(5);
    sound(machine);
  });

  it("keeps a page that others refer to until they let go", () => {
    const { machine, a, b } = pvPair();
    setEntry(machine, a, REF, GTF_permit_access, b.domid, mfnOf(machine, a, 5));
    const op = { gfn: V0, flags: GNTMAP_host_map, ref: REF, dom: a.domid };
    const { handle } = mapOne(machine, b, op);
    writeWord(a, 5 * 4096, 9);
    const mfn = loose(machine, a, 5);
    expect(reserve(machine, a, XENMEM_decrease_reservation, { gfns: [mfn] })).toBe(1);
    expect(pages(machine, a)).toBe(256);
    // Its own translation was flushed before it gave the page up.
    expect(probe(a, 5, ACCESS_READ)).toBe(FAULT_TRANSLATION);
    sound(machine);
    expect(unmapHalves(machine, b, [{ handle, host: V0 * 4096 }])).toEqual([0]);
    expect(pages(machine, a)).toBe(255);
    expect(isFree(machine.xen, frameAt(machine, mfn))).toBe(true);
    sound(machine);
  });

  it("does not shrink by what is not its own, and has no physmap", () => {
    const { machine, a, b } = pvPair();
    const gfns = [mfnOf(machine, b, 5)];
    expect(reserve(machine, a, XENMEM_decrease_reservation, { gfns })).toBe(0);
    expect(reserve(machine, a, XENMEM_decrease_reservation, { gfns: [2 ** 40] })).toBe(0);
    expect(addToPhysmap(machine, a, { space: 1, idx: 0, gfn: 9 })).toBe(-EACCES);
    sound(machine);
  });

  it("is told where the M2P would be", () => {
    const { machine, a, dom0 } = pvPair();
    const at = argumentAddress(a);
    expect(call(machine, a, HYPERVISOR_memory_op, XENMEM_machphys_mapping, at)).toBe(0);
    expect(readWord(a, at + 4)).toBe(0xffff8000);
    const his = argumentAddress(dom0);
    expect(call(machine, dom0, HYPERVISOR_memory_op, XENMEM_machphys_mapping, his)).toBeLessThan(0);
  });
});

describe("a transfer", () => {
  it("moves a page that nobody refers to, and completes the receiver's entry", () => {
    const { machine, a, b } = pvPair();
    domctl(machine, XEN_DOMCTL_max_mem, a.domid, 4096);
    setEntry(machine, a, REF, GTF_accept_transfer, b.domid, 77);
    writeWord(b, 5 * 4096, 0x77);
    const mfn = loose(machine, b, 5);
    expect(transfer(machine, b, [{ mfn, dom: a.domid, ref: REF }])).toEqual({
      ret: 0,
      statuses: [0],
    });
    expect(entryFlags(machine, a, REF)).toBe(DONE);
    expect([pages(machine, a), pages(machine, b)]).toEqual([257, 255]);
    expect(xenHeapGfn(machine.xen, frameAt(machine, mfn))).toBe(77);
    // The giver's translation is out of its TLB.
    expect(probe(b, 5, ACCESS_READ)).toBe(FAULT_TRANSLATION);
    expect(updateVa(machine, a, V0, mfn)).toBe(0);
    expect(readWord(a, V0 * 4096)).toBe(0x77);
    sound(machine);
  });

  it("fails for a page in use, and that page stays", () => {
    const { machine, a, b } = pvPair();
    domctl(machine, XEN_DOMCTL_max_mem, a.domid, 4096);
    setEntry(machine, a, REF, GTF_accept_transfer, b.domid, 0);
    const op = { dom: a.domid, ref: REF };
    const bad = [mfnOf(machine, b, 5), mfnOf(machine, a, 5), 2 ** 40, 0];
    const ops = bad.map((mfn) => ({ mfn, ...op }));
    expect(transfer(machine, b, ops).statuses).toEqual([-9, -9, -9, -9]);
    expect(pages(machine, b)).toBe(256);
    expect(entryFlags(machine, a, REF)).toBe(GTF_accept_transfer);
    sound(machine);
  });

  it("loses the page when the receiver is not there, or does not accept it", () => {
    const { machine, a, b } = pvPair();
    domctl(machine, XEN_DOMCTL_max_mem, a.domid, 4096);
    setEntry(machine, a, REF, GTF_permit_access, b.domid, 0);
    setEntry(machine, a, REF + 1, GTF_accept_transfer, a.domid, 0);
    const give = (page: number, dom: number, ref: number): readonly number[] =>
      transfer(machine, b, [{ mfn: loose(machine, b, page), dom, ref }]).statuses;
    expect(give(5, 99, REF)).toEqual([-2]);
    expect(give(6, DOMID_SELF, REF)).toEqual([-2]);
    expect(give(7, a.domid, REF)).toEqual([-1]);
    expect(give(8, a.domid, REF + 1)).toEqual([-1]);
    expect(give(9, a.domid, 5000)).toEqual([-1]);
    expect([pages(machine, a), pages(machine, b)]).toEqual([256, 251]);
    sound(machine);
  });

  it("reaches a version 2 entry, and a translated receiver at the gfn that it names", () => {
    const { machine, dom0, a, b } = pvPair();
    domctl(machine, XEN_DOMCTL_max_mem, a.domid, 4096);
    domctl(machine, XEN_DOMCTL_max_mem, dom0.domid, 4096);
    const at = argumentAddress(a);
    writeWord(a, at, 2);
    expect(call(machine, a, HYPERVISOR_grant_table_op, GNTTABOP_set_version, at, 1)).toBe(0);
    expect(isV2(machine.xen, a.domid)).toBe(true);
    const { words, layout, memory } = machine.xen;
    const table = FrameIndex(words[layout.grantFrame + a.domid * 4] ?? -1);
    memory.store(table, REF * 16, GTF_accept_transfer | (b.domid << 16));
    const mfn = loose(machine, b, 5);
    expect(transfer(machine, b, [{ mfn, dom: a.domid, ref: REF }]).statuses).toEqual([0]);
    expect(memory.load(table, REF * 16) & 0xffff).toBe(DONE);
    expect(memory.load(table, REF * 16 + 8)).toBe(mfn);
    setEntry(machine, dom0, REF, GTF_accept_transfer, b.domid, 0x60000);
    writeWord(b, 6 * 4096, 0x66);
    const other = { mfn: loose(machine, b, 6), dom: dom0.domid, ref: REF };
    expect(transfer(machine, b, [other]).statuses).toEqual([0]);
    expect(readWord(dom0, 0x60000 * 4096)).toBe(0x66);
    sound(machine);
  });

  it("to a translated receiver replaces what stands at the gfn, and nobody goes on using that", () => {
    const { machine, dom0, b } = pvPair();
    domctl(machine, XEN_DOMCTL_max_mem, dom0.domid, 4096);
    const ram = dom0.ram + 3;
    const table = 0x60000;
    const { memory } = machine.xen;
    const place = { space: XENMAPSPACE_grant_table, idx: 0, gfn: table };
    expect(addToPhysmap(machine, dom0, place)).toBe(0);
    for (const [page, gfn] of [ram, table].entries()) {
      setEntry(machine, dom0, REF, GTF_accept_transfer, b.domid, gfn);
      // It is cached.
      readWord(dom0, gfn * 4096);
      writeWord(b, (5 + page) * 4096, 0x55 + page);
      const mfn = loose(machine, b, 5 + page);
      expect(transfer(machine, b, [{ mfn, dom: dom0.domid, ref: REF }]).statuses).toEqual([0]);
      expect(readWord(dom0, gfn * 4096)).toBe(0x55 + page);
      sound(machine);
    }
    expect(xenHeapGfn(machine.xen, grantFrame(machine.xen, dom0.domid, 0))).toBe(-1);
    expect(memory.load(grantFrame(machine.xen, dom0.domid, 0), REF * 8) & 0xffff).toBe(DONE);
  });

  it("to a translated receiver crashes that over a mapping of its own, which stands", () => {
    const { machine, dom0, a, b } = pvPair();
    const { xen } = machine;
    domctl(machine, XEN_DOMCTL_max_mem, dom0.domid, 4096);
    setEntry(machine, a, 9, GTF_permit_access, dom0.domid, mfnOf(machine, a, 7));
    const op = { flags: GNTMAP_host_map, ref: 9, dom: a.domid, gfn: 0x60000 };
    expect(mapOne(machine, dom0, op).status).toBe(0);
    setEntry(machine, dom0, REF, GTF_accept_transfer, b.domid, 0x60000);
    const owned = pages(machine, dom0);
    const gift = { mfn: loose(machine, b, 5), dom: dom0.domid, ref: REF };
    expect(transfer(machine, b, [gift]).statuses).toEqual([0]);
    expect(entryFrame(p2mLookup(xen, DomId(dom0.domid), 0x60000))).toBe(frameOf(machine, a, 7));
    expect(field(xen, dom0.domid, DOM.PAUSE)).not.toBe(0);
    expect(pages(machine, dom0)).toBe(owned + 1);
    sound(machine);
  });

  it("gives a copy below 16 TiB to an entry of version 1, or none", () => {
    const low = { base: 0x4000_0000, size: 4 * 1024 ** 2 };
    const { machine, a, b } = pvPair({ banks: [low, { base: 2 ** 44, size: 2 * 1024 ** 2 }] });
    domctl(machine, XEN_DOMCTL_max_mem, a.domid, 4096);
    setEntry(machine, a, REF, GTF_accept_transfer, b.domid, 77);
    const isHigh = (page: number): boolean => mfnOf(machine, b, page) >= 2 ** 32;
    const [first = -1, second = -1] = Array.from({ length: 200 }, (_, page) => page).filter(isHigh);
    const give = (page: number) =>
      transfer(machine, b, [{ mfn: loose(machine, b, page), dom: a.domid, ref: REF }]).statuses;
    while (reserve(machine, a, XENMEM_increase_reservation, { gfns: [0] }) === 1);
    expect(give(first)).toEqual([GNTST_address_too_big]);
    expect(entryFlags(machine, a, REF)).toBe(GTF_accept_transfer);
    const below = loose(machine, a, 5);
    expect(reserve(machine, a, XENMEM_decrease_reservation, { gfns: [below] })).toBe(1);
    writeWord(b, second * 4096, 0x77);
    expect(give(second)).toEqual([GNTST_okay]);
    expect(entryFlags(machine, a, REF)).toBe(DONE);
    expect(updateVa(machine, a, V0, below)).toBe(0);
    expect(readWord(a, V0 * 4096)).toBe(0x77);
    sound(machine);
  });

  it("waits for a vCPU that is still inside an access to the page", () => {
    const { machine, a, b } = pvPair({}, { vcpus: 2 });
    const { xen } = machine;
    domctl(machine, XEN_DOMCTL_max_mem, a.domid, 4096);
    setEntry(machine, a, REF, GTF_accept_transfer, b.domid, 0);
    const mmu = secondVcpu(machine, b);
    expect(mmu.open(5, ACCESS_WRITE)).toBe(ACCESS_OK);
    const mfn = loose(machine, b, 5);
    const { record } = hypercallTrap();
    setRecord(record, HYPERVISOR_grant_table_op, layTransfer(b, { mfn, dom: a.domid, ref: REF }));
    b.channel.push(record);
    while (step(xen));
    expect(frameOwner(xen, frameAt(machine, mfn))).toBe(b.domid);
    mmu.store(0, 0x5a);
    mmu.close();
    while (step(xen));
    expect(frameOwner(xen, frameAt(machine, mfn))).toBe(a.domid);
    expect(mmu.open(5, ACCESS_WRITE)).toBe(FAULT_TRANSLATION);
    sound(machine);
  });
});

describe("an exchange", () => {
  const swap = (machine: TestMachine, actor: Actor, mfns: readonly number[], order = 0) =>
    exchange(
      machine,
      actor,
      { gfns: mfns },
      { gfns: Array.from({ length: mfns.length / 2 ** order }, (_, i) => 100 + i), order },
    );

  it("gives other pages for those that nobody refers to", () => {
    const { machine, a } = pvPair();
    const mfn = loose(machine, a, 5);
    expect(swap(machine, a, [mfn])).toBe(0);
    const { exchanged, out } = readExchange(a, 1);
    expect(exchanged).toBe(1);
    expect(frameOwner(machine.xen, frameAt(machine, out[0] ?? -1))).toBe(a.domid);
    expect(xenHeapGfn(machine.xen, frameAt(machine, out[0] ?? -1))).toBe(100);
    expect(pages(machine, a)).toBe(256);
    expect(updateVa(machine, a, V0, out[0])).toBe(0);
    sound(machine);
  });

  it("makes single pages a run, and a run single pages", () => {
    const { machine, a } = pvPair();
    const mfns = [loose(machine, a, 5), loose(machine, a, 6)];
    expect(swap(machine, a, mfns, 1)).toBe(0);
    const run = readExchange(a, 1).out[0] ?? -1;
    expect(run % 2).toBe(0);
    expect(frameOwner(machine.xen, frameAt(machine, run + 1))).toBe(a.domid);
    sound(machine);
    const out = { gfns: [1, 2] };
    expect(exchange(machine, a, { gfns: [run], order: 1 }, out)).toBe(0);
    expect(readExchange(a, 2).exchanged).toBe(1);
    sound(machine);
  });

  it("fails at a page in use, and keeps what it had taken of that chunk", () => {
    const { machine, a } = pvPair();
    const mfn = loose(machine, a, 5);
    const used = mfnOf(machine, a, 6);
    expect(swap(machine, a, [mfn, used])).toBe(-EINVAL);
    expect(readExchange(a, 2).exchanged).toBe(1);
    const other = loose(machine, a, 7);
    expect(swap(machine, a, [other, used], 1)).toBe(-EINVAL);
    expect(frameOwner(machine.xen, frameAt(machine, other))).toBe(a.domid);
    expect(swap(machine, a, [other, other], 1)).toBe(-EINVAL);
    expect(pages(machine, a)).toBe(256);
    sound(machine);
  });

  it("fails without memory for the new pages, and the old ones stay", () => {
    const { machine, a, b, dom0 } = pvPair();
    const mfn = loose(machine, a, 5);
    domctl(machine, XEN_DOMCTL_max_mem, dom0.domid, 2 ** 30);
    while (reserve(machine, dom0, XENMEM_increase_reservation, { gfns: [0] }) === 1);
    expect(swap(machine, a, [mfn])).toBe(-ENOMEM);
    expect(frameOwner(machine.xen, frameAt(machine, mfn))).toBe(a.domid);
    expect(exchange(machine, a, { gfns: [mfn], dom: b.domid }, { gfns: [0], dom: b.domid })).toBe(
      -EPERM,
    );
    sound(machine);
  });
});

describe("a copy in a PV guest", () => {
  it("names machine frames of its own, and writes to no page table", () => {
    const { machine, a, b } = pvPair();
    setEntry(machine, a, REF, GTF_permit_access, b.domid, mfnOf(machine, a, 5));
    writeWord(a, 5 * 4096, 0x5a5a);
    const from = { ref: REF, dom: a.domid };
    const to = (mfn: number) => ({ gfn: mfn, dom: DOMID_SELF });
    expect(copyOne(machine, b, from, to(mfnOf(machine, b, 6)), 4)).toBe(GNTST_okay);
    expect(readWord(b, 6 * 4096)).toBe(0x5a5a);
    expect(copyOne(machine, b, from, to(mfnOf(machine, a, 6)), 4)).toBe(GNTST_bad_page);
    const table = tableOf(machine, b, 0, 1).mfn;
    expect(copyOne(machine, b, from, to(table), 4)).toBe(GNTST_general_error);
    expect(copyOne(machine, b, to(table), to(mfnOf(machine, b, 6)), 4)).toBe(GNTST_okay);
    sound(machine);
  });
});
