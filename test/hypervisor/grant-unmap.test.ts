/** GNTTABOP_unmap_grant_ref, copy and the identity entries of a direct-mapped domain. */
import { describe, expect, test } from "vitest";
import { activePin } from "../../hypervisor/active-entry.ts";
import { audit } from "../../hypervisor/audit.ts";
import { frameReferences } from "../../hypervisor/frame-table.ts";
import { identityCounts } from "../../hypervisor/iommu.ts";
import { entryFrame, entryType, p2mLookup } from "../../hypervisor/p2m.ts";
import {
  GNTMAP_host_map,
  GNTMAP_readonly,
  GNTTABOP_unmap_and_replace,
  GNTTABOP_unmap_grant_ref,
  GTF_permit_access,
  GTF_readonly,
} from "../../shared/abi/grant.ts";
import { DOMID_SELF, HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import { mfnAt } from "../../shared/layout.ts";
import { ACCESS_OK, ACCESS_READ } from "../../shared/mmu.ts";
import { p2m_invalid, p2m_iommu_map_ro, p2m_iommu_map_rw } from "../../shared/pte.ts";
import {
  EFAULT,
  GNTST_bad_copy_arg,
  GNTST_bad_domain,
  GNTST_bad_gntref,
  GNTST_bad_handle,
  GNTST_general_error,
  GNTST_okay,
  GNTST_permission_denied,
} from "../../shared/status.ts";
import { DomId } from "../../shared/units.ts";
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
  bootTestMachine,
  call,
  probe,
  readGuest,
  readWord,
  type TestMachine,
  testDom0,
  testDomain,
  testModel,
  writeGuest,
  writeWord,
} from "./harness.ts";

const HOLE = 0x60000;

interface Trio {
  readonly machine: TestMachine;
  readonly dom0: Actor;
  readonly granter: Actor;
  readonly mapper: Actor;
}

function trio(dom0Iommu = false, strict = false): Trio {
  const machine = bootTestMachine(
    testModel([testDom0({ iommu: dom0Iommu }), testDomain("G"), testDomain("M")], {
      iommu: { mode: dom0Iommu ? "on" : "off" },
      hypervisor: strict ? "strict" : "faithful",
    }),
  );
  const [dom0, granter, mapper] = machine.actors;
  if (dom0 === undefined || granter === undefined || mapper === undefined) {
    throw new Error("three domains boot");
  }
  for (const ref of [8, 9]) {
    setEntry(machine, granter, ref, GTF_permit_access, mapper.domid, granter.ram + ref - 8);
  }
  return { machine, dom0, granter, mapper };
}

const op = (granter: Actor, overrides = {}) => ({
  gfn: HOLE,
  flags: GNTMAP_host_map,
  ref: 8,
  dom: granter.domid,
  ...overrides,
});

const typeAt = (machine: TestMachine, domid: number, gfn: number): number =>
  entryType(p2mLookup(machine.xen, DomId(domid), gfn));

test("hypervisor case 39: a handle that does not exist, is free, or comes twice in a batch", () => {
  const { machine, granter, mapper } = trio();
  const address = HOLE * 4096;
  expect(unmapOne(machine, mapper, { handle: 999, address })).toBe(GNTST_bad_handle);
  const { handle } = mapOne(machine, mapper, op(granter));
  expect(unmapOne(machine, mapper, { handle: handle + 1, address })).toBe(GNTST_bad_handle);
  const twice = unmap(machine, mapper, [
    { handle, address },
    { handle, address },
  ]);
  expect(twice.statuses).toEqual([GNTST_okay, GNTST_bad_handle]);
  expect(activePin(machine.xen, granter.domid, 8)).toBe(0);
  expect(audit(machine.xen)).toEqual([]);
});

test("hypervisor case 40, hypervisor case 41: an address of 0 leaves the mapping alone", () => {
  const { machine, granter, mapper } = trio();
  const { handle } = mapOne(machine, mapper, op(granter, { gfn: 0 }));
  expect(unmapOne(machine, mapper, { handle, address: 0 })).toBe(GNTST_okay);
  expect(probe(mapper, 0, ACCESS_READ)).toBe(ACCESS_OK);
  expect(unmapOne(machine, mapper, { handle, address: 4095 })).toBe(GNTST_okay);
  expect(probe(mapper, 0, ACCESS_READ)).not.toBe(ACCESS_OK);
  expect(audit(machine.xen)).toEqual([]);
});

test("hypervisor case 42: an address with other RAM is refused and nothing changes", () => {
  const { machine, granter, mapper } = trio();
  const { handle } = mapOne(machine, mapper, op(granter));
  const wrong = { handle, address: (mapper.ram + 5) * 4096 };
  expect(unmapOne(machine, mapper, wrong)).toBe(GNTST_general_error);
  expect(activePin(machine.xen, granter.domid, 8)).toBe(1);
  expect(probe(mapper, HOLE, ACCESS_READ)).toBe(ACCESS_OK);
});

describe("hypervisor case 43: an address whose gfn is empty", () => {
  test("the recorded Xen lets go of the pin and leaves the entry; the audit names the hole", () => {
    const { machine, granter, mapper } = trio();
    const { handle } = mapOne(machine, mapper, op(granter));
    expect(unmapOne(machine, mapper, { handle, address: (HOLE + 7) * 4096 })).toBe(GNTST_okay);
    expect(activePin(machine.xen, granter.domid, 8)).toBe(0);
    expect(probe(mapper, HOLE, ACCESS_READ)).toBe(ACCESS_OK);
    const findings = audit(machine.xen);
    expect(findings.length).toBeGreaterThan(0);
    for (const finding of findings) expect(finding).toMatch(/^known finding: /);
  });

  test("a strict hypervisor refuses", () => {
    const { machine, granter, mapper } = trio(false, true);
    const { handle } = mapOne(machine, mapper, op(granter));
    const elsewhere = { handle, address: (HOLE + 7) * 4096 };
    expect(unmapOne(machine, mapper, elsewhere)).toBe(GNTST_general_error);
    expect(activePin(machine.xen, granter.domid, 8)).toBe(1);
    expect(audit(machine.xen)).toEqual([]);
  });
});

test("hypervisor case 48: replacing by an address is refused on a translated domain", () => {
  const { machine, granter, mapper } = trio();
  const { handle } = mapOne(machine, mapper, op(granter));
  const replace = (newAddress: number): number => {
    const bytes = new Uint8Array(24);
    const view = new DataView(bytes.buffer);
    view.setBigUint64(0, BigInt(HOLE * 4096), true);
    view.setBigUint64(8, BigInt(newAddress), true);
    view.setUint32(16, handle, true);
    const at = argumentAddress(mapper);
    writeGuest(mapper, at, bytes);
    call(machine, mapper, HYPERVISOR_grant_table_op, GNTTABOP_unmap_and_replace, at, 1);
    return new DataView(readGuest(mapper, at, 24).buffer).getInt16(20, true);
  };
  expect(replace(0x1000)).toBe(GNTST_general_error);
  expect(replace(0)).toBe(GNTST_okay);
  expect(activePin(machine.xen, granter.domid, 8)).toBe(0);
});

test("hypervisor case 50: a fault at an element completes those before it", () => {
  const { machine, granter, mapper } = trio();
  const first = mapOne(machine, mapper, op(granter));
  const second = mapOne(machine, mapper, op(granter, { gfn: HOLE + 1 }));
  // The second structure lies behind the end of RAM.
  const end = (mapper.ram + 256) * 4096;
  const bytes = new Uint8Array(24);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(HOLE * 4096), true);
  view.setUint32(16, first.handle, true);
  writeGuest(mapper, end - 24, bytes);
  const ret = call(
    machine,
    mapper,
    HYPERVISOR_grant_table_op,
    GNTTABOP_unmap_grant_ref,
    end - 24,
    2,
  );
  expect(ret).toBe(-EFAULT);
  expect(activePin(machine.xen, granter.domid, 8)).toBe(1);
  expect(unmapOne(machine, mapper, { handle: second.handle, address: (HOLE + 1) * 4096 })).toBe(0);
  expect(audit(machine.xen)).toEqual([]);
});

test("a batch beyond one pass of 32 unmaps all of it", () => {
  const { machine, granter, mapper } = trio();
  const handles = Array.from({ length: 70 }, (_, i) =>
    mapOne(machine, mapper, op(granter, { gfn: HOLE + i })),
  );
  const ops = handles.map((result, i) => ({ handle: result.handle, address: (HOLE + i) * 4096 }));
  const { ret, statuses } = unmap(machine, mapper, ops);
  expect(ret).toBe(0);
  expect(new Set(statuses)).toEqual(new Set([GNTST_okay]));
  expect(activePin(machine.xen, granter.domid, 8)).toBe(0);
  expect(audit(machine.xen)).toEqual([]);
});

describe("a direct-mapped dom0 with an IOMMU", () => {
  test("hypervisor case 51, hypervisor case 52: the identity entry follows the strongest mapping", () => {
    const { machine, dom0, granter } = trio(true);
    setEntry(machine, granter, 8, GTF_permit_access, 0, granter.ram);
    const { xen } = machine;
    const frame = entryFrame(p2mLookup(xen, DomId(granter.domid), granter.ram));
    const mfn = mfnAt(xen.layout, frame);
    const reader = mapOne(machine, dom0, op(granter, { flags: GNTMAP_host_map | GNTMAP_readonly }));
    expect(typeAt(machine, 0, mfn)).toBe(p2m_iommu_map_ro);
    const writer = mapOne(machine, dom0, op(granter, { gfn: HOLE + 1 }));
    expect(typeAt(machine, 0, mfn)).toBe(p2m_iommu_map_rw);
    expect(identityCounts(xen, 0, frame)).toEqual([1, 1]);
    expect(frameReferences(xen, frame)).toBe(3);
    unmapOne(machine, dom0, { handle: writer.handle, address: (HOLE + 1) * 4096 });
    expect(typeAt(machine, 0, mfn)).toBe(p2m_iommu_map_ro);
    unmapOne(machine, dom0, { handle: reader.handle, address: HOLE * 4096 });
    expect(typeAt(machine, 0, mfn)).toBe(p2m_invalid);
    expect(frameReferences(xen, frame)).toBe(1);
    expect(audit(xen)).toEqual([]);
  });

  test("hypervisor case 53: two references to one frame share one identity entry", () => {
    const { machine, dom0, granter } = trio(true);
    for (const ref of [8, 9]) setEntry(machine, granter, ref, GTF_permit_access, 0, granter.ram);
    const { xen } = machine;
    const frame = entryFrame(p2mLookup(xen, DomId(granter.domid), granter.ram));
    const first = mapOne(machine, dom0, op(granter));
    mapOne(machine, dom0, op(granter, { gfn: HOLE + 1, ref: 9 }));
    expect(identityCounts(xen, 0, frame)).toEqual([0, 2]);
    unmapOne(machine, dom0, { handle: first.handle, address: HOLE * 4096 });
    expect(typeAt(machine, 0, mfnAt(xen.layout, frame))).toBe(p2m_iommu_map_rw);
    expect(audit(xen)).toEqual([]);
  });

  test("hypervisor case 54, hypervisor case 55: no identity entry for a domain that is not 1:1, nor for own pages", () => {
    const { machine, dom0, granter, mapper } = trio(true);
    const { xen } = machine;
    const frame = entryFrame(p2mLookup(xen, DomId(granter.domid), granter.ram));
    mapOne(machine, mapper, op(granter));
    expect(typeAt(machine, mapper.domid, mfnAt(xen.layout, frame))).toBe(p2m_invalid);
    setEntry(machine, dom0, 8, GTF_permit_access, 0, dom0.ram + 2);
    mapOne(machine, dom0, op(dom0));
    const own = entryFrame(p2mLookup(xen, DomId(0), dom0.ram + 2));
    expect(identityCounts(xen, 0, own)).toEqual([0, 0]);
    expect(audit(xen)).toEqual([]);
  });
});

describe("copy", () => {
  test("hypervisor case 73: a length of 0 is checked like any other, as recorded", () => {
    const { machine, granter, mapper } = trio();
    const dest = { gfn: mapper.ram, dom: DOMID_SELF };
    const source = { ref: 8, dom: granter.domid, offset: 4095 };
    expect(copyOne(machine, mapper, source, dest, 0)).toBe(GNTST_okay);
    expect(copyOne(machine, mapper, { ...source, ref: 999 }, dest, 0)).toBe(GNTST_bad_gntref);
    expect(copyOne(machine, mapper, { ...source, dom: 77 }, dest, 0)).toBe(GNTST_bad_domain);
  });

  test("hypervisor case 74: a side that is no reference must say DOMID_SELF exactly", () => {
    const { machine, granter, mapper } = trio();
    const source = { gfn: mapper.ram, dom: mapper.domid };
    const status = copyOne(machine, mapper, source, { ref: 8, dom: granter.domid }, 4);
    expect(status).toBe(GNTST_permission_denied);
  });

  test("hypervisor case 75: bounds are looked at after both sides were acquired", () => {
    const { machine, granter, mapper } = trio();
    const dest = { gfn: mapper.ram, dom: DOMID_SELF };
    const crossing = { ref: 8, dom: granter.domid, offset: 4095 };
    expect(copyOne(machine, mapper, crossing, dest, 2)).toBe(GNTST_bad_copy_arg);
    expect(copyOne(machine, mapper, { ...crossing, ref: 600 }, dest, 2)).toBe(GNTST_bad_gntref);
    expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access);
  });

  test("hypervisor case 77: a read-only grant is a source and no destination", () => {
    const { machine, granter, mapper } = trio();
    setEntry(machine, granter, 9, GTF_permit_access | GTF_readonly, mapper.domid, granter.ram + 1);
    const own = { gfn: mapper.ram, dom: DOMID_SELF };
    const ref = { ref: 9, dom: granter.domid };
    expect(copyOne(machine, mapper, ref, own, 4)).toBe(GNTST_okay);
    expect(copyOne(machine, mapper, own, ref, 4)).toBe(GNTST_general_error);
  });

  test("bytes arrive where they were sent, and nothing stays pinned", () => {
    const { machine, granter, mapper } = trio();
    writeWord(granter, granter.ram * 4096 + 100, 31337);
    const source = { ref: 8, dom: granter.domid, offset: 100 };
    const dest = { gfn: mapper.ram + 2, dom: DOMID_SELF, offset: 8 };
    expect(copyOne(machine, mapper, source, dest, 4)).toBe(GNTST_okay);
    expect(readWord(mapper, (mapper.ram + 2) * 4096 + 8)).toBe(31337);
    expect(activePin(machine.xen, granter.domid, 8)).toBe(0);
    expect(audit(machine.xen)).toEqual([]);
  });
});
