// Grant mappings of PV guests: entries of their own page tables, and device halves.
import { describe, expect, it } from "vitest";
import { activePin } from "../../hypervisor/active-entry.ts";
import { frameReferences } from "../../hypervisor/frame-table.ts";
import { step } from "../../hypervisor/main.ts";
import { typeCount } from "../../hypervisor/page-type.ts";
import { XEN_DOMCTL_destroydomain } from "../../shared/abi/domctl.ts";
import {
  GNTMAP_application_map,
  GNTMAP_contains_pte,
  GNTMAP_device_map,
  GNTMAP_host_map,
  GNTMAP_readonly,
  GNTTABOP_unmap_grant_ref,
  GTF_permit_access,
  GTF_reading,
  GTF_writing,
} from "../../shared/abi/grant.ts";
import { HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import { Channel } from "../../shared/channel.ts";
import { DOM, domainOf } from "../../shared/layout.ts";
import {
  ACCESS_OK,
  ACCESS_READ,
  ACCESS_WRITE,
  FAULT_PERMISSION,
  FAULT_TRANSLATION,
  Mmu,
} from "../../shared/mmu.ts";
import {
  GNTST_bad_dev_addr,
  GNTST_bad_handle,
  GNTST_bad_page,
  GNTST_general_error,
  GNTST_okay,
} from "../../shared/status.ts";
import { hypercallTrap, setRecord } from "../../shared/trap.ts";
import { domctl, field } from "./domains.ts";
import { argumentAddress, entryFlags, map, mapOne, setEntry } from "./grants.ts";
import { probe, readWord, writeGuest, writeWord } from "./harness.ts";
import {
  frameOf,
  mfnOf,
  type PvPair,
  pteAddress,
  pvPair,
  replace,
  sound,
  tableOf,
  unmapHalves,
  updateVa,
  V0,
} from "./pv.ts";

const REF = 8;
const HOST = GNTMAP_host_map;
const DEVICE = GNTMAP_device_map;
const IN_USE = GTF_permit_access | GTF_reading | GTF_writing;

/** A grants its page 5 to B. */
function granted(pair: PvPair = pvPair()) {
  const { machine, a, b } = pair;
  setEntry(machine, a, REF, GTF_permit_access, b.domid, mfnOf(machine, a, 5));
  const op = (page: number, flags: number, offset = 0) => ({
    gfn: page,
    flags,
    ref: REF,
    dom: a.domid,
    offset,
  });
  const mapAt = (page: number, flags = HOST) => mapOne(machine, b, op(page, flags));
  return { ...pair, op, mapAt, frame: frameOf(machine, a, 5) };
}

describe("a grant mapping of a PV guest", () => {
  it("is an entry of its page tables, with the references of the host half", () => {
    const { machine, a, b, mapAt, frame } = granted();
    writeWord(a, 5 * 4096, 0x11);
    const { status, handle, devBusAddr } = mapAt(V0);
    expect(status).toBe(GNTST_okay);
    expect(devBusAddr).toBe(mfnOf(machine, a, 5) * 4096);
    expect(readWord(b, V0 * 4096)).toBe(0x11);
    expect(frameOf(machine, b, V0)).toBe(frame);
    expect([frameReferences(machine.xen, frame), typeCount(machine.xen, frame)]).toEqual([3, 2]);
    sound(machine);
    expect(unmapHalves(machine, b, [{ handle, host: V0 * 4096 }])).toEqual([GNTST_okay]);
    expect(probe(b, V0, ACCESS_READ)).toBe(FAULT_TRANSLATION);
    expect([frameReferences(machine.xen, frame), typeCount(machine.xen, frame)]).toEqual([2, 1]);
    expect(entryFlags(machine, a, REF)).toBe(GTF_permit_access);
    sound(machine);
  });

  it("lets nobody write through a read-only one", () => {
    const { machine, b, mapAt } = granted();
    expect(mapAt(V0, HOST | GNTMAP_readonly).status).toBe(GNTST_okay);
    expect(probe(b, V0, ACCESS_WRITE)).toBe(FAULT_PERMISSION);
    expect(probe(b, V0, ACCESS_READ)).toBe(ACCESS_OK);
    sound(machine);
  });

  it("needs a level 1 table at its address, and takes nothing when there is none", () => {
    const { machine, a, mapAt, frame } = granted();
    for (const page of [0x100000, 2 ** 35, 2 ** 36 - 1]) {
      expect(mapAt(page).status).toBe(GNTST_general_error);
    }
    expect([frameReferences(machine.xen, frame), typeCount(machine.xen, frame)]).toEqual([2, 1]);
    expect(entryFlags(machine, a, REF)).toBe(GTF_permit_access);
    sound(machine);
  });

  it("replaces what stands at its address, and the former handle then has no entry to give back", () => {
    const { machine, a, b, mapAt } = granted();
    setEntry(machine, a, REF + 1, GTF_permit_access, b.domid, mfnOf(machine, a, 6));
    writeWord(a, 6 * 4096, 0x66);
    const first = mapAt(V0);
    const other = { gfn: V0, flags: HOST, ref: REF + 1, dom: a.domid };
    const second = mapOne(machine, b, other);
    expect(second.status).toBe(GNTST_okay);
    expect(readWord(b, V0 * 4096)).toBe(0x66);
    // The page of the first mapping has lost the entry's references; the pin is still there.
    expect(frameReferences(machine.xen, frameOf(machine, a, 5))).toBe(2);
    expect(entryFlags(machine, a, REF)).toBe(IN_USE);
    sound(machine);
    const host = V0 * 4096;
    expect(unmapHalves(machine, b, [{ handle: first.handle, host }])).toEqual([
      GNTST_general_error,
    ]);
    expect(unmapHalves(machine, b, [{ handle: second.handle, host }])).toEqual([GNTST_okay]);
    expect(unmapHalves(machine, b, [{ handle: first.handle, host }])).toEqual([
      GNTST_general_error,
    ]);
    sound(machine);
    expect(domctl(machine, XEN_DOMCTL_destroydomain, b.domid)).toBe(0);
    expect(entryFlags(machine, a, REF)).toBe(GTF_permit_access);
    sound(machine);
  });

  it("cannot be dropped like a page of one's own and then unmapped, but leaves nothing behind", () => {
    const { machine, b, mapAt, frame } = granted();
    const { handle } = mapAt(V0);
    writeWord(b, V0 * 4096, 1);
    expect(updateVa(machine, b, V0, undefined)).toBe(0);
    expect(probe(b, V0, ACCESS_READ)).toBe(FAULT_TRANSLATION);
    expect(frameReferences(machine.xen, frame)).toBe(2);
    sound(machine);
    expect(unmapHalves(machine, b, [{ handle, host: V0 * 4096 }])).toEqual([GNTST_general_error]);
  });

  it("whose entry was dropped holds nobody, and its unmap crashes the mapper once the granter is gone", () => {
    const { machine, a, b, mapAt } = granted();
    const { handle } = mapAt(V0);
    expect(updateVa(machine, b, V0, undefined)).toBe(0);
    expect(domctl(machine, XEN_DOMCTL_destroydomain, a.domid)).toBe(0);
    expect(field(machine.xen, a.domid, DOM.STATE)).toBe(0);
    expect(activePin(machine.xen, a.domid, REF)).toBe(0);
    sound(machine);
    unmapHalves(machine, b, [{ handle, host: V0 * 4096 }], false);
    expect(field(machine.xen, b.domid, DOM.SHUTDOWN)).toBeGreaterThan(0);
    expect(domctl(machine, XEN_DOMCTL_destroydomain, b.domid)).toBe(0);
    sound(machine);
  });

  it("is undone as a whole in any order of its addresses when both have the same frame", () => {
    const { machine, a, b, mapAt } = granted();
    const one = mapAt(V0);
    const two = mapAt(V0 + 1);
    expect(
      unmapHalves(machine, b, [
        { handle: one.handle, host: (V0 + 1) * 4096 },
        { handle: two.handle, host: V0 * 4096 },
      ]),
    ).toEqual([GNTST_okay, GNTST_okay]);
    expect(entryFlags(machine, a, REF)).toBe(GTF_permit_access);
    sound(machine);
  });

  it("may be named by the machine address of its entry", () => {
    const { machine, a, b, op } = granted();
    const address = pteAddress(machine, b, V0 + 3);
    const flags = HOST | GNTMAP_contains_pte | GNTMAP_application_map | 0x10000;
    const at = op(Math.floor(address / 4096), flags, address % 4096);
    const { status, handle } = mapOne(machine, b, at);
    expect(status).toBe(GNTST_okay);
    writeWord(b, (V0 + 3) * 4096, 0x33);
    expect(readWord(a, 5 * 4096)).toBe(0x33);
    sound(machine);
    // The address of the page is not that of the entry; and an entry cannot be replaced by another address.
    expect(unmapHalves(machine, b, [{ handle, host: (V0 + 3) * 4096 }])).toEqual([
      GNTST_general_error,
    ]);
    expect(replace(machine, b, { handle, host: address, device: V0 * 4096 })).toBe(
      GNTST_general_error,
    );
    expect(unmapHalves(machine, b, [{ handle, host: address }])).toEqual([GNTST_okay]);
    expect(probe(b, V0 + 3, ACCESS_READ)).toBe(FAULT_TRANSLATION);
    sound(machine);
  });

  it("is refused at an entry that is not in a level 1 table of the guest's own", () => {
    const { machine, a, b, op } = granted();
    const own = pteAddress(machine, b, V0);
    const level2 = tableOf(machine, b, V0, 2).mfn * 4096;
    const addresses = [pteAddress(machine, a, V0), level2, mfnOf(machine, b, 9) * 4096, own + 4];
    for (const address of addresses) {
      const at = op(Math.floor(address / 4096), HOST | GNTMAP_contains_pte, address % 4096);
      expect(mapOne(machine, b, at).status).toBe(GNTST_general_error);
    }
    sound(machine);
  });

  it("cannot be made of another's mapping, nor of a page table that is to be written", () => {
    const { machine, a, b, mapAt } = granted();
    mapAt(V0);
    setEntry(machine, b, REF, GTF_permit_access, a.domid, mfnOf(machine, a, 5));
    const back = { gfn: V0, flags: HOST, ref: REF, dom: b.domid };
    expect(mapOne(machine, a, back).status).toBe(GNTST_bad_page);
    setEntry(machine, a, REF + 1, GTF_permit_access, b.domid, tableOf(machine, a, 0, 1).mfn);
    const table = { gfn: V0 + 1, ref: REF + 1, dom: a.domid };
    expect(mapOne(machine, b, { ...table, flags: HOST }).status).toBe(GNTST_general_error);
    expect(mapOne(machine, b, { ...table, flags: DEVICE }).status).toBe(GNTST_general_error);
    expect(mapOne(machine, b, { ...table, flags: HOST | GNTMAP_readonly }).status).toBe(0);
    sound(machine);
  });

  it("gives its place to the entry of another address", () => {
    const { machine, a, b, mapAt } = granted();
    const { handle } = mapAt(V0);
    writeWord(b, 9 * 4096, 0x99);
    expect(replace(machine, b, { handle, host: V0 * 4096, device: 9 * 4096 })).toBe(GNTST_okay);
    expect(readWord(b, V0 * 4096)).toBe(0x99);
    expect(probe(b, 9, ACCESS_READ)).toBe(FAULT_TRANSLATION);
    expect(entryFlags(machine, a, REF)).toBe(GTF_permit_access);
    sound(machine);
  });

  it("loses that entry also when the replacement is refused", () => {
    const { machine, b, mapAt } = granted();
    const { handle } = mapAt(V0);
    expect(replace(machine, b, { handle, host: (V0 + 1) * 4096, device: 9 * 4096 })).toBe(
      GNTST_general_error,
    );
    expect(probe(b, 9, ACCESS_READ)).toBe(FAULT_TRANSLATION);
    expect(probe(b, V0, ACCESS_READ)).toBe(ACCESS_OK);
    expect(replace(machine, b, { handle, host: V0 * 4096, device: 2 ** 40 })).toBe(
      GNTST_general_error,
    );
    sound(machine);
  });

  it("of a translated granter's page has no type reference, and one of a PV page by a translated domain has", () => {
    const { machine, dom0, a, b, frame } = granted();
    setEntry(machine, dom0, REF, GTF_permit_access, b.domid, dom0.ram + 3);
    const op = { gfn: V0, flags: HOST, ref: REF, dom: dom0.domid };
    const { handle } = mapOne(machine, b, op);
    sound(machine);
    setEntry(machine, a, REF + 1, GTF_permit_access, dom0.domid, mfnOf(machine, a, 5));
    const mapped = mapOne(machine, dom0, { gfn: 0x60000, flags: HOST, ref: REF + 1, dom: a.domid });
    expect(mapped.status).toBe(GNTST_okay);
    expect(typeCount(machine.xen, frame)).toBe(2);
    sound(machine);
    expect(unmapHalves(machine, b, [{ handle, host: V0 * 4096 }])).toEqual([GNTST_okay]);
    const { handle: other } = mapped;
    expect(unmapHalves(machine, dom0, [{ handle: other, host: 0x60000 * 4096 }])).toEqual([0]);
    expect(typeCount(machine.xen, frame)).toBe(1);
    sound(machine);
  });

  it("ends with its mapper, device halves too", () => {
    const { machine, a, b, mapAt, frame } = granted();
    mapAt(V0, HOST | DEVICE);
    mapAt(V0 + 1, DEVICE | GNTMAP_readonly);
    expect(frameReferences(machine.xen, frame)).toBe(5);
    sound(machine);
    expect(domctl(machine, XEN_DOMCTL_destroydomain, b.domid)).toBe(0);
    expect([frameReferences(machine.xen, frame), typeCount(machine.xen, frame)]).toEqual([2, 1]);
    expect(entryFlags(machine, a, REF)).toBe(GTF_permit_access);
    sound(machine);
  });

  it("keeps its granter's page when the granter goes", () => {
    const { machine, a, b, mapAt } = granted();
    writeWord(a, 5 * 4096, 0x55);
    const { handle } = mapAt(V0);
    expect(domctl(machine, XEN_DOMCTL_destroydomain, a.domid)).toBe(0);
    expect(readWord(b, V0 * 4096)).toBe(0x55);
    sound(machine);
    expect(unmapHalves(machine, b, [{ handle, host: V0 * 4096 }])).toEqual([GNTST_okay]);
    expect(machine.xen.words[domainOf(machine.xen.layout, a.domid) + DOM.STATE]).toBe(0);
    sound(machine);
  });
});

describe("the halves of a mapping", () => {
  it("hypervisor case 44: a device half wants its exact bus address, and else the host half stays too", () => {
    const { machine, a, b, mapAt } = granted();
    const { handle, devBusAddr } = mapAt(V0, HOST | DEVICE);
    const host = V0 * 4096;
    expect(unmapHalves(machine, b, [{ handle, host, device: devBusAddr + 1 }])).toEqual([
      GNTST_bad_dev_addr,
    ]);
    expect(probe(b, V0, ACCESS_WRITE)).toBe(ACCESS_OK);
    expect(entryFlags(machine, a, REF)).toBe(IN_USE);
    expect(unmapHalves(machine, b, [{ handle, host, device: devBusAddr }])).toEqual([GNTST_okay]);
    expect(entryFlags(machine, a, REF)).toBe(GTF_permit_access);
    sound(machine);
  });

  it("hypervisor case 45: without its host half a handle lives on, and the device pin keeps the bits", () => {
    const { machine, a, b, mapAt, frame } = granted();
    const { handle, devBusAddr } = mapAt(V0, HOST | DEVICE);
    expect(activePin(machine.xen, a.domid, REF)).toBe(0x10001);
    expect([frameReferences(machine.xen, frame), typeCount(machine.xen, frame)]).toEqual([4, 3]);
    expect(unmapHalves(machine, b, [{ handle, host: V0 * 4096 }])).toEqual([GNTST_okay]);
    expect(activePin(machine.xen, a.domid, REF)).toBe(0x10000);
    expect(entryFlags(machine, a, REF)).toBe(IN_USE);
    sound(machine);
    // A second time there is no host half, and nothing happens.
    expect(unmapHalves(machine, b, [{ handle, host: V0 * 4096 }])).toEqual([GNTST_okay]);
    expect(unmapHalves(machine, b, [{ handle, device: devBusAddr }])).toEqual([GNTST_okay]);
    expect(entryFlags(machine, a, REF)).toBe(GTF_permit_access);
    expect(unmapHalves(machine, b, [{ handle, device: devBusAddr }])).toEqual([GNTST_bad_handle]);
    sound(machine);
  });

  it("are counted apart, up to 128 each", () => {
    const { machine, b, op } = granted();
    const many = (page: number, flags: number) =>
      map(
        machine,
        b,
        Array.from({ length: 64 }, () => op(page, flags)),
      ).results.filter(({ status }) => status === GNTST_okay).length;
    expect(many(V0, DEVICE) + many(V0, DEVICE)).toBe(128);
    expect(many(V0, DEVICE)).toBe(0);
    expect(many(V0, DEVICE | HOST)).toBe(0);
    expect(many(V0, DEVICE | GNTMAP_readonly)).toBe(64);
    expect(many(V0, HOST)).toBe(64);
    sound(machine);
  });
});

/** B with a second vCPU, as the test drives it. */
function twoVcpus() {
  const pair = granted(pvPair({}, { vcpus: 2 }));
  const { machine, b } = pair;
  const { xen } = machine;
  const slot = xen.words[domainOf(xen.layout, b.domid) + DOM.SLOT + 1] ?? -1;
  const channel = new Channel(xen.words, xen.layout, slot);
  const mmu = new Mmu(xen.words, xen.memory, xen.layout, slot);
  /** Pushes an unmap without stepping; its argument lies on another page for each vCPU. */
  const push = (vcpu: 0 | 1, handle: number): number => {
    const at = argumentAddress(b) + vcpu * 4096;
    const bytes = new Uint8Array(24);
    const view = new DataView(bytes.buffer);
    view.setBigUint64(0, BigInt(V0 * 4096), true);
    view.setUint32(16, handle, true);
    writeGuest(b, at, bytes);
    const { record } = hypercallTrap();
    setRecord(record, HYPERVISOR_grant_table_op, [GNTTABOP_unmap_grant_ref, at, 1]);
    (vcpu === 0 ? b.channel : channel).push(record);
    return at;
  };
  const run = (): void => {
    for (let steps = 0; step(xen); steps++) expect(steps).toBeLessThan(1000);
  };
  const statusAt = (at: number): number => (readWord(b, at + 20) << 16) >> 16;
  return { ...pair, mmu, push, run, statusAt };
}

describe("two vCPUs of a mapper", () => {
  it("hypervisor case 46: unmap one handle once, and the pin goes down by one", () => {
    const { machine, a, mapAt, push, run, statusAt } = twoVcpus();
    const { handle } = mapAt(V0);
    mapAt(V0 + 1);
    expect(activePin(machine.xen, a.domid, REF)).toBe(2);
    const places = [push(0, handle), push(1, handle)];
    run();
    expect(places.map(statusAt).sort()).toEqual([GNTST_bad_handle, GNTST_okay].sort());
    expect(activePin(machine.xen, a.domid, REF)).toBe(1);
    sound(machine);
  });

  it("hypervisor case 47: the granter's bits stay while one of them is still inside an access", () => {
    const { machine, a, mapAt, push, run, mmu, statusAt } = twoVcpus();
    const { handle } = mapAt(V0);
    expect(mmu.open(V0, ACCESS_WRITE)).toBe(ACCESS_OK);
    const at = push(0, handle);
    run();
    expect(entryFlags(machine, a, REF)).toBe(IN_USE);
    mmu.store(0, 0x77);
    mmu.close();
    run();
    expect(statusAt(at)).toBe(GNTST_okay);
    expect(entryFlags(machine, a, REF)).toBe(GTF_permit_access);
    expect(mmu.open(V0, ACCESS_READ)).toBe(FAULT_TRANSLATION);
    expect(readWord(a, 5 * 4096)).toBe(0x77);
    sound(machine);
  });
});
