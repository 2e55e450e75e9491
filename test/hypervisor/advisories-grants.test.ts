/**
 * Advisories about grant tables: each test tells the story of one on this machine. Those that need version 2, PV guests
 * or two lanes of a hypervisor have none on arm64 (docs/FIDELITY.md).
 */
import { describe, expect, test } from "vitest";
import { activePin } from "../../hypervisor/active-entry.ts";
import { audit } from "../../hypervisor/audit.ts";
import { frameReferences } from "../../hypervisor/frame-table.ts";
import { identityCounts } from "../../hypervisor/iommu.ts";
import { step } from "../../hypervisor/main.ts";
import { entryFrame, entryType, p2mLookup } from "../../hypervisor/p2m.ts";
import { allocXenPage, freeXenPage } from "../../hypervisor/xen-heap.ts";
import { XEN_DOMCTL_destroydomain, XEN_DOMCTL_unpausedomain } from "../../shared/abi/domctl.ts";
import {
  COPY_SIZE,
  GNTMAP_device_map,
  GNTMAP_host_map,
  GNTMAP_readonly,
  GNTTABOP_copy,
  GTF_permit_access,
  GTF_reading,
  GTF_writing,
} from "../../shared/abi/grant.ts";
import {
  XENMAPSPACE_grant_table,
  XENMEM_decrease_reservation,
  XENMEM_populate_physmap,
} from "../../shared/abi/memory.ts";
import { DOMID_SELF } from "../../shared/abi/xen.ts";
import { mfnAt } from "../../shared/layout.ts";
import { MAPTRACK_PER_FRAME } from "../../shared/limits.ts";
import { p2m_ram_rw } from "../../shared/pte.ts";
import {
  EINVAL,
  ENOSYS,
  EPERM,
  GNTST_bad_domain,
  GNTST_bad_gntref,
  GNTST_bad_handle,
  GNTST_general_error,
  GNTST_okay,
} from "../../shared/status.ts";
import { CONTROL_DOMCTL, hypercallTrap, setRecord } from "../../shared/trap.ts";
import { DomId, FrameIndex } from "../../shared/units.ts";
import { create, domctl, trio } from "./domains.ts";
import {
  flushCache,
  getStatusFrames,
  grantOp,
  setupTable,
  setVersion,
  swap,
} from "./grant-op-calls.ts";
import {
  argumentAddress,
  copyOne,
  entryFlags,
  mapOne,
  setEntry,
  unmap,
  unmapOne,
} from "./grants.ts";
import {
  type Actor,
  actorOf,
  bootTestMachine,
  readGuest,
  readWord,
  type TestMachine,
  testDom0,
  testDomain,
  testModel,
  writeGuest,
  writeWord,
} from "./harness.ts";
import { addToPhysmap, reserve } from "./memory-calls.ts";

const HOLE = 0x60000;
const ONES = 0xffff_ffff_ffff_ffffn;

/** The granter's reference 8 grants its first page to `grantee`, writable. */
function granted(grantee: "mapper" | "dom0" = "mapper") {
  const set = trio();
  setEntry(set.machine, set.granter, 8, GTF_permit_access, set[grantee].domid, set.granter.ram);
  return set;
}

const at = (granter: Actor, overrides = {}) => ({
  gfn: HOLE,
  flags: GNTMAP_host_map,
  ref: 8,
  dom: granter.domid,
  ...overrides,
});
const frameAt = ({ xen }: TestMachine, { domid }: Actor, gfn: number): number =>
  entryFrame(p2mLookup(xen, DomId(domid), gfn));

describe("references, tables and versions", () => {
  test("XSA-18: swapping with a reference beyond the table is refused on either side", () => {
    const { machine, granter } = granted();
    // The first entries of the next domain's state lie behind this table's.
    for (const beyond of [512, 513, 2047, 2048, 0x7fff_ffff, 0xffff_ffff]) {
      expect(swap(machine, granter, [beyond, 8], [8, beyond]).statuses).toEqual([
        GNTST_bad_gntref,
        GNTST_bad_gntref,
      ]);
    }
    expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("XSA-101: the list of a table that is nowhere in the address space tells nothing of its past", () => {
    const { machine, granter, mapper } = granted();
    // The mapper's table frame had a place once, and its page is of the kind the granter is given next.
    const place = { space: XENMAPSPACE_grant_table, idx: 1, gfn: HOLE };
    expect(addToPhysmap(machine, mapper, place)).toBe(0);
    domctl(machine, XEN_DOMCTL_destroydomain, mapper.domid);
    expect(setupTable(machine, granter, 4).list.slice(0, 4)).toEqual([ONES, ONES, ONES, ONES]);
  });

  test("XSA-134: every grant operation of a domain that never set its table up is answered", () => {
    const { machine } = trio();
    const domid = create(machine, 3);
    const late = actorOf(machine.xen, domid, testDomain("late"));
    domctl(machine, XEN_DOMCTL_unpausedomain, domid);
    for (let cmd = 0; cmd <= 13; cmd++) {
      writeGuest(late, argumentAddress(late), new Uint8Array(64));
      expect(grantOp(machine, late, cmd)).toBeLessThanOrEqual(0);
    }
    expect(swap(machine, late, [8, 9]).statuses).toEqual([GNTST_okay]);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("XSA-235: a refused placement of a table frame leaves nothing that the next call would wait for", () => {
    const { machine, granter } = granted();
    const place = (idx: number) =>
      addToPhysmap(machine, granter, { space: XENMAPSPACE_grant_table, idx, gfn: HOLE });
    expect(place(4)).toBe(-EINVAL);
    expect(place(0x8000_0000)).toBe(-EINVAL);
    expect(place(0)).toBe(0);
    expect(setupTable(machine, granter, 1).list[0]).toBe(BigInt(HOLE));
    expect(audit(machine.xen)).toEqual([]);
  });

  test("XSA-268: a guest of arm64 cannot bring its table to version 2, whatever it tries", () => {
    const { machine, granter, mapper } = granted();
    mapOne(machine, mapper, at(granter));
    for (let i = 0; i < 3; i++) {
      expect(setVersion(machine, granter, 2)).toEqual({ ret: -ENOSYS, version: 1 });
      expect(setVersion(machine, granter, 1)).toEqual({ ret: 0, version: 1 });
    }
    expect(activePin(machine.xen, granter.domid, 8)).toBe(1);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("XSA-382: a list of status frames is never written beyond the frames there are, which is none", () => {
    const { machine, granter } = granted();
    for (const frames of [0, 1, 2, 8, 0xffff_ffff]) {
      const { list } = getStatusFrames(machine, granter, frames);
      expect(new Set(list)).toEqual(new Set([0x5a5a_5a5a_5a5a_5a5an]));
    }
  });

  test("XSA-232: cache maintenance on a page without an owner is refused, be it free or Xen's own", () => {
    const { machine, granter } = granted();
    const { xen } = machine;
    const bus = (frame: number) => ({ address: mfnAt(xen.layout, frame) * 4096 });
    const own = allocXenPage(xen);
    expect(flushCache(machine, granter, bus(own))).toBe(-EPERM);
    freeXenPage(xen, own);
    expect(flushCache(machine, granter, bus(own))).toBe(-EPERM);
    // What Xen shares with the guest is the guest's.
    const { words, layout } = xen;
    const table = words[layout.grantFrame + granter.domid * layout.model.limits.grantFrames] ?? -1;
    expect(flushCache(machine, granter, bus(table))).toBe(0);
    expect(audit(xen)).toEqual([]);
  });
});

describe("pins, status bits and page references", () => {
  test("XSA-218: the granter sees an entry free only when the last of two mappings is gone", () => {
    const { machine, granter, mapper } = granted();
    const first = mapOne(machine, mapper, at(granter));
    const second = mapOne(machine, mapper, at(granter, { gfn: HOLE + 1 }));
    const both = GTF_permit_access | GTF_reading | GTF_writing;
    unmapOne(machine, mapper, { handle: first.handle, address: HOLE * 4096 });
    expect(entryFlags(machine, granter, 8)).toBe(both);
    expect(frameReferences(machine.xen, frameAt(machine, granter, granter.ram))).toBe(2);
    // The same handle again gives nothing back a second time.
    expect(unmapOne(machine, mapper, { handle: first.handle, address: HOLE * 4096 })).toBe(
      GNTST_bad_handle,
    );
    expect(activePin(machine.xen, granter.domid, 8)).toBe(1);
    unmapOne(machine, mapper, { handle: second.handle, address: (HOLE + 1) * 4096 });
    expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("XSA-224: an unmap that fails or names no half gives nothing back, and a device half is not made", () => {
    const { machine, granter, mapper } = granted();
    const { xen } = machine;
    const device = mapOne(machine, mapper, at(granter, { flags: GNTMAP_device_map }));
    expect(device.status).toBe(GNTST_general_error);
    expect(p2mLookup(xen, DomId(mapper.domid), HOLE)).toBe(
      p2mLookup(xen, DomId(mapper.domid), HOLE + 9),
    );
    const { handle } = mapOne(machine, mapper, at(granter));
    const frame = frameAt(machine, granter, granter.ram);
    const wrong = { handle, address: mapper.ram * 4096 };
    const { statuses } = unmap(machine, mapper, [wrong, { handle, address: 0 }, wrong]);
    expect(statuses).toEqual([GNTST_general_error, GNTST_okay, GNTST_general_error]);
    expect([activePin(xen, granter.domid, 8), frameReferences(xen, frame)]).toEqual([1, 2]);
    expect(unmapOne(machine, mapper, { handle, address: HOLE * 4096 })).toBe(GNTST_okay);
    expect([activePin(xen, granter.domid, 8), frameReferences(xen, frame)]).toEqual([0, 1]);
    expect(audit(xen)).toEqual([]);
  });

  test("XSA-230: a copy that ends leaves the status bits that a mapping still justifies", () => {
    const { machine, granter, mapper } = granted();
    mapOne(machine, mapper, at(granter));
    const source = { ref: 8, dom: granter.domid };
    const own = { gfn: mapper.ram, dom: DOMID_SELF };
    expect(copyOne(machine, mapper, source, own, 16)).toBe(GNTST_okay);
    expect(copyOne(machine, mapper, own, source, 16)).toBe(GNTST_okay);
    expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access | GTF_reading | GTF_writing);
    expect(activePin(machine.xen, granter.domid, 8)).toBe(1);
  });

  test("XSA-234: a handle does not unmap what stands at its address now", () => {
    const { machine, granter, mapper } = granted();
    const { xen } = machine;
    const { handle } = mapOne(machine, mapper, at(granter));
    reserve(machine, mapper, XENMEM_decrease_reservation, { gfns: [mapper.ram + 9] });
    expect(reserve(machine, mapper, XENMEM_populate_physmap, { gfns: [HOLE] })).toBe(1);
    expect(unmapOne(machine, mapper, { handle, address: HOLE * 4096 })).toBe(GNTST_general_error);
    expect(entryType(p2mLookup(xen, DomId(mapper.domid), HOLE))).toBe(p2m_ram_rw);
    expect(activePin(xen, granter.domid, 8)).toBe(1);
    expect(audit(xen)).toEqual([]);
  });

  test("XSA-236, hypervisor case 79: a pin is no proof of a live page: copying through one of a dying granter is refused", () => {
    const { machine, granter, mapper } = granted();
    mapOne(machine, mapper, at(granter));
    domctl(machine, XEN_DOMCTL_destroydomain, granter.domid);
    const own = { gfn: mapper.ram, dom: DOMID_SELF };
    const status = copyOne(machine, mapper, { ref: 8, dom: granter.domid }, own, 16);
    expect(status).toBe(GNTST_bad_domain);
    expect(activePin(machine.xen, granter.domid, 8)).toBe(1);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("XSA-394, hypervisor case 56: an identity entry is counted out with its handle, not with every unmap that is tried", () => {
    const machine = bootTestMachine(
      testModel([testDom0({ iommu: true }), testDomain("G")], { iommu: { mode: "on" } }),
    );
    const [dom0, granter] = machine.actors;
    if (dom0 === undefined || granter === undefined) throw new Error("two domains boot");
    const { xen } = machine;
    setEntry(machine, granter, 8, GTF_permit_access, 0, granter.ram);
    const frame = frameAt(machine, granter, granter.ram);
    const { handle } = mapOne(machine, dom0, at(granter));
    for (const address of [0, 0, dom0.ram * 4096]) unmapOne(machine, dom0, { handle, address });
    expect(identityCounts(xen, 0, frame)).toEqual([0, 1]);
    unmapOne(machine, dom0, { handle, address: HOLE * 4096 });
    expect(identityCounts(xen, 0, frame)).toEqual([0, 0]);
    expect(audit(xen)).toEqual([]);
  });
});

describe("guests that do not hold still", () => {
  test("XSA-295: a guest that rewrites its entry without end stalls nobody: five tries, then a refusal", () => {
    const { machine, granter, mapper } = granted();
    const { memory, words, layout } = machine.xen;
    const table = words[layout.grantFrame + granter.domid * layout.model.limits.grantFrames] ?? -1;
    let touched = 0;
    memory.onGuestWord = () => {
      touched++;
      memory.store(
        FrameIndex(table),
        8 * 8,
        (mapper.domid << 16) | GTF_permit_access | ((touched % 2) << 9),
      );
    };
    const { status } = mapOne(machine, mapper, at(granter));
    memory.onGuestWord = undefined;
    expect(status).toBe(GNTST_general_error);
    expect(touched).toBeLessThan(40);
    expect(activePin(machine.xen, granter.domid, 8)).toBe(0);
    expect(audit(machine.xen)).toEqual([]);
    expect(mapOne(machine, mapper, at(granter)).status).toBe(GNTST_okay);
  });

  test("XSA-318: a batch of copies that is cut comes to its end, with every status written", () => {
    const { machine, granter, mapper } = granted();
    writeWord(granter, granter.ram * 4096, 4711);
    const count = 90;
    const bytes = new Uint8Array(COPY_SIZE * count);
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < count; i++) {
      const base = i * COPY_SIZE;
      view.setUint32(base, 8, true);
      view.setUint16(base + 8, granter.domid, true);
      view.setUint32(base + 16, mapper.ram + i, true);
      view.setUint16(base + 24, DOMID_SELF, true);
      view.setUint16(base + 32, 4, true);
      view.setUint16(base + 34, 1, true);
      view.setInt16(base + 36, 0x5a5a, true);
    }
    const uop = argumentAddress(mapper);
    writeGuest(mapper, uop, bytes);
    expect(grantOp(machine, mapper, GNTTABOP_copy, uop, count)).toBe(0);
    const after = new DataView(readGuest(mapper, uop, bytes.length).buffer);
    for (let i = 0; i < count; i++) {
      expect(after.getInt16(i * COPY_SIZE + 36, true)).toBe(GNTST_okay);
      expect(readWord(mapper, (mapper.ram + i) * 4096)).toBe(4711);
    }
  });

  test("XSA-380: a mapper with many mappings is torn down in steps, and every one is given back", () => {
    const { machine, granter, mapper } = granted();
    const { xen } = machine;
    setEntry(machine, granter, 9, GTF_permit_access, mapper.domid, granter.ram);
    for (let i = 0; i < 400; i++) {
      const flags = i % 2 === 0 ? GNTMAP_host_map : GNTMAP_host_map | GNTMAP_readonly;
      const request = at(granter, { gfn: HOLE + i, ref: i < 200 ? 8 : 9, flags });
      expect(mapOne(machine, mapper, request).status).toBe(GNTST_okay);
    }
    const frame = frameAt(machine, granter, granter.ram);
    expect(frameReferences(xen, frame)).toBe(401);
    const { record } = hypercallTrap();
    setRecord(record, CONTROL_DOMCTL, [XEN_DOMCTL_destroydomain, mapper.domid]);
    xen.channels[0]?.push(record);
    let most = 0;
    while (xen.channels[0]?.idle === false) {
      const before = frameReferences(xen, frame);
      expect(step(xen)).toBe(true);
      most = Math.max(most, before - frameReferences(xen, frame));
    }
    expect(most).toBeLessThanOrEqual(MAPTRACK_PER_FRAME);
    expect(frameReferences(xen, frame)).toBe(1);
    expect(activePin(xen, granter.domid, 8)).toBe(0);
    expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access);
    expect(audit(xen)).toEqual([]);
  });
});
