/** The audit: silent on a machine in use, and every invariant seen to fail on one word planted wrong. */
import { describe, expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { KNOWN_FINDING } from "../../hypervisor/audit-walkers.ts";
import { frameOwner } from "../../hypervisor/frame-table.ts";
import { entryFrame, p2mLookup, p2mSet } from "../../hypervisor/p2m.ts";
import { GTF_permit_access, GTF_reading } from "../../shared/abi/grant.ts";
import { PGC_static } from "../../shared/frame-flags.ts";
import { p2m_grant_map_rw } from "../../shared/pte.ts";
import { GNTST_okay } from "../../shared/status.ts";
import { DomId } from "../../shared/units.ts";
import { HOLE, inUse, PLANTED } from "./audit-planted.ts";
import { PLANTED_BOUNDS } from "./audit-planted-bounds.ts";
import { inUseIommu, PLANTED_IOMMU } from "./audit-planted-iommu.ts";
import { inUsePv, PLANTED_PV } from "./audit-planted-pv.ts";
import { inUseX86, PLANTED_X86 } from "./audit-planted-x86.ts";
import { setEntry, unmapOne } from "./grants.ts";

test("a machine in use is consistent", () => {
  const { xen } = inUse();
  expect(audit(xen)).toEqual([]);
});

describe("one planted fault", () => {
  test.each([...PLANTED, ...PLANTED_BOUNDS])("%s is found", (_what, finding, plant) => {
    const state = inUse();
    plant(state);
    expect(audit(state.xen).join("\n")).toMatch(finding);
  });
});

test("an x86 machine with a version 2 table in use is consistent", () => {
  expect(audit(inUseX86().xen)).toEqual([]);
});

describe("one fault planted on x86", () => {
  test.each(PLANTED_X86)("%s is found", (_what, finding, plant) => {
    const state = inUseX86();
    plant(state);
    expect(audit(state.xen).join("\n")).toMatch(finding);
  });
});

test("a machine with separate tables and cached translations is consistent", () => {
  expect(audit(inUseIommu().xen)).toEqual([]);
});

describe("one fault planted in an IOMMU", () => {
  test.each(PLANTED_IOMMU)("%s is found", (_what, finding, plant) => {
    const state = inUseIommu();
    plant(state);
    expect(audit(state.xen).join("\n")).toMatch(finding);
  });
});

test("an x86 machine with PV domains in use is consistent", () => {
  expect(audit(inUsePv().machine.xen)).toEqual([]);
});

describe("one fault planted in a PV domain", () => {
  test.each(PLANTED_PV)("%s is found", (_what, finding, plant) => {
    const state = inUsePv();
    plant(state);
    expect(audit(state.machine.xen).join("\n")).toMatch(finding);
  });
});

test("a frame of the static reserve counts as free memory that belongs to nobody", () => {
  const { xen, mapper } = inUse();
  const frame = entryFrame(p2mLookup(xen, DomId(mapper.domid), mapper.ram));
  xen.words[xen.layout.frameCount + frame] = PGC_static;
  expect(frameOwner(xen, frame)).toBe(mapper.domid);
  expect(audit(xen).join("\n")).toMatch(/leads to free frame/);
});

test("a flag word of a guest that may write anything is not judged", () => {
  const { machine, xen, granter } = inUse();
  setEntry(machine, granter, 20, GTF_permit_access | GTF_reading, 0, granter.ram);
  expect(audit(xen, { hostile: (domid) => domid === granter.domid })).toEqual([]);
});

describe("an unmap that names an empty guest frame", () => {
  test("leaves an entry that the faithful machine reports as known", () => {
    const { machine, xen, mapper, handle } = inUse();
    expect(unmapOne(machine, mapper, { handle, address: (HOLE + 9) * 4096 })).toBe(GNTST_okay);
    const findings = audit(xen);
    expect(findings).toHaveLength(1);
    expect(findings[0]).toContain(KNOWN_FINDING);
  });

  test("excuses one entry and not two", () => {
    const { machine, xen, mapper, handle, granter } = inUse();
    unmapOne(machine, mapper, { handle, address: (HOLE + 9) * 4096 });
    const page = entryFrame(p2mLookup(xen, DomId(granter.domid), granter.ram + 1));
    p2mSet(xen, DomId(mapper.domid), HOLE + 1, page, p2m_grant_map_rw);
    expect(audit(xen).filter((finding) => !finding.startsWith(KNOWN_FINDING))).toHaveLength(1);
  });

  test("is refused by the strict machine, which has nothing to report", () => {
    const { machine, xen, mapper, handle } = inUse("strict");
    expect(unmapOne(machine, mapper, { handle, address: (HOLE + 9) * 4096 })).not.toBe(GNTST_okay);
    expect(audit(xen)).toEqual([]);
  });
});
