// What the fuzzer has found in the hypervisor and in its audit, each as small as it was shrunk to.
import { describe, expect, test } from "vitest";
import { grantFrame } from "../../hypervisor/active-entry.ts";
import { audit } from "../../hypervisor/audit.ts";
import { setXenHeapGfn, xenHeapGfn } from "../../hypervisor/frame-table.ts";
import { step } from "../../hypervisor/main.ts";
import { XEN_DOMCTL_destroydomain } from "../../shared/abi/domctl.ts";
import {
  GNTMAP_host_map,
  GNTMAP_readonly,
  GNTTABOP_map_grant_ref,
  GTF_permit_access,
  MAP_SIZE,
} from "../../shared/abi/grant.ts";
import {
  XENMAPSPACE_grant_table,
  XENMAPSPACE_shared_info,
  XENMEM_decrease_reservation,
  XENMEM_populate_physmap,
} from "../../shared/abi/memory.ts";
import { HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import { LINE, mfnAt, SLOT_LIVE } from "../../shared/layout.ts";
import { ACCESS_OK, ACCESS_READ, Mmu } from "../../shared/mmu.ts";
import { EFAULT, GNTST_general_error, GNTST_okay } from "../../shared/status.ts";
import { CONTROL_DOMCTL, hypercallTrap, setRecord } from "../../shared/trap.ts";
import {
  create,
  domctl,
  leaveDeadSlots,
  lineWord,
  slotOf,
  type Trio,
  testDevice,
  trio,
} from "./domains.ts";
import { mapOne, setEntry, unmapOne } from "./grants.ts";
import { bootTestMachine, probe, testDom0, testDomain, testModel, writeGuest } from "./harness.ts";
import { addToPhysmap, reserve } from "./memory-calls.ts";

const HOLE = 0x30000;
const REF = 8;

/** `machine` with entry REF of the mapper naming its own first page, for itself. */
function selfGranted(hypervisor: "faithful" | "strict"): Trio & { readonly handle: number } {
  const all = trio({ hypervisor });
  const { machine, mapper } = all;
  setEntry(machine, mapper, REF, GTF_permit_access, mapper.domid, mapper.ram);
  const op = { gfn: HOLE, flags: GNTMAP_host_map, ref: REF, dom: mapper.domid };
  const { status, handle } = mapOne(machine, mapper, op);
  expect(status).toBe(GNTST_okay);
  return { ...all, handle };
}

test("a strict hypervisor refuses to unmap a writable grant where a read-only one of the same page is", () => {
  const { machine, granter, mapper } = trio({ hypervisor: "strict" });
  for (const ref of [REF, REF + 1]) {
    setEntry(machine, granter, ref, GTF_permit_access, mapper.domid, granter.ram);
  }
  const dom = granter.domid;
  const readonly = GNTMAP_host_map | GNTMAP_readonly;
  mapOne(machine, mapper, { gfn: HOLE, flags: readonly, ref: REF, dom });
  const op = { gfn: HOLE + 1, flags: GNTMAP_host_map, ref: REF + 1, dom };
  const { handle } = mapOne(machine, mapper, op);
  expect(unmapOne(machine, mapper, { handle, address: HOLE * 4096 })).toBe(GNTST_general_error);
  expect(audit(machine.xen)).toEqual([]);
  expect(unmapOne(machine, mapper, { handle, address: (HOLE + 1) * 4096 })).toBe(GNTST_okay);
  expect(audit(machine.xen)).toEqual([]);
});

test("a map that takes its own argument away flushes before it answers that it cannot say so", () => {
  const { machine, granter, mapper } = trio();
  const { xen } = machine;
  setEntry(machine, granter, REF, GTF_permit_access, mapper.domid, granter.ram);
  const page = mapper.ram + 9;
  const bytes = new Uint8Array(MAP_SIZE);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(page) * 4096n, true);
  view.setUint32(8, GNTMAP_host_map, true);
  view.setUint32(12, REF, true);
  view.setUint16(16, granter.domid, true);
  writeGuest(mapper, page * 4096, bytes);
  // The same vCPU's MMU is still inside an access to the page that goes.
  expect(mapper.mmu.open(page, ACCESS_READ)).toBe(ACCESS_OK);
  const { record } = hypercallTrap();
  setRecord(record, HYPERVISOR_grant_table_op, [GNTTABOP_map_grant_ref, page * 4096, 1]);
  mapper.channel.push(record);
  while (step(xen));
  expect(mapper.channel.idle).toBe(false);
  expect(audit(xen)).toEqual([]);
  mapper.mmu.close();
  while (step(xen));
  expect(mapper.channel.result()).toBe(-EFAULT);
  expect(audit(xen)).toEqual([]);
});

describe("a domain that gives a page up through a grant of it to itself", () => {
  test("keeps the RAM entry on the recorded Xen; the audit names the hole", () => {
    const { machine, mapper, handle } = selfGranted("faithful");
    expect(reserve(machine, mapper, XENMEM_decrease_reservation, { gfns: [HOLE] })).toBe(1);
    expect(unmapOne(machine, mapper, { handle, address: HOLE * 4096 })).toBe(GNTST_okay);
    expect(probe(mapper, mapper.ram, ACCESS_READ)).toBe(ACCESS_OK);
    const findings = audit(machine.xen);
    expect(findings).toHaveLength(1);
    expect(findings[0]).toMatch(
      /^known finding: gfn \d+ of domain 2 \(ram_rw\) leads to free frame/,
    );
  });

  test("is refused by the strict hypervisor", () => {
    const { machine, mapper, handle } = selfGranted("strict");
    expect(reserve(machine, mapper, XENMEM_decrease_reservation, { gfns: [HOLE] })).toBe(0);
    expect(unmapOne(machine, mapper, { handle, address: HOLE * 4096 })).toBe(GNTST_okay);
    expect(audit(machine.xen)).toEqual([]);
  });
});

test("a grant frame that its domain maps once more by a grant keeps the gfn of its first entry", () => {
  const { machine, mapper } = trio();
  const { xen } = machine;
  const first = HOLE + 4;
  expect(
    addToPhysmap(machine, mapper, { space: XENMAPSPACE_grant_table, idx: 0, gfn: first }),
  ).toBe(0);
  setEntry(machine, mapper, REF, GTF_permit_access, mapper.domid, first);
  const op = { gfn: HOLE, flags: GNTMAP_host_map, ref: REF, dom: mapper.domid };
  const { status, handle } = mapOne(machine, mapper, op);
  expect(status).toBe(GNTST_okay);
  expect(audit(xen)).toEqual([]);
  expect(unmapOne(machine, mapper, { handle, address: HOLE * 4096 })).toBe(GNTST_okay);
  expect(xenHeapGfn(xen, grantFrame(xen, mapper.domid, 0))).toBe(first);
  expect(audit(xen)).toEqual([]);
});

test("the audit still finds a grant frame that is recorded elsewhere than it is mapped", () => {
  const { machine, mapper } = trio();
  const { xen } = machine;
  addToPhysmap(machine, mapper, { space: XENMAPSPACE_grant_table, idx: 0, gfn: HOLE });
  setXenHeapGfn(xen, grantFrame(xen, mapper.domid, 0), HOLE + 1);
  expect(audit(xen).join()).toMatch(/xen heap frame \d+ is mapped at gfn/);
});

test("a device on a bare bus may end the access in which its owner's death found it", () => {
  const devices = [testDevice("G", { behindIommu: false })];
  const machine = bootTestMachine(testModel([testDom0(), testDomain("G")], { devices }));
  const { xen } = machine;
  const bus = new Mmu(xen.words, xen.memory, xen.layout, 1);
  // A frame of dom0, which only a bus without an IOMMU leads to.
  expect(bus.open(0x40200, ACCESS_READ)).toBe(ACCESS_OK);
  const { record } = hypercallTrap();
  setRecord(record, CONTROL_DOMCTL, [XEN_DOMCTL_destroydomain, 1]);
  xen.channels[0]?.push(record);
  while (step(xen));
  expect(audit(xen)).toEqual([]);
  bus.close();
  while (step(xen));
  expect(xen.channels[0]?.idle).toBe(true);
  expect(audit(xen)).toEqual([]);
});

test("a page of Xen that its x86 owner grants to itself is nowhere else, and may be placed anew", () => {
  const { machine, mapper } = trio({ arch: "x86" });
  const { xen } = machine;
  const first = HOLE + 4;
  const place = { space: XENMAPSPACE_shared_info, idx: 0 };
  expect(addToPhysmap(machine, mapper, { ...place, gfn: first })).toBe(0);
  setEntry(machine, mapper, REF, GTF_permit_access, mapper.domid, first);
  const op = { gfn: HOLE, flags: GNTMAP_host_map, ref: REF, dom: mapper.domid };
  expect(mapOne(machine, mapper, op).status).toBe(GNTST_okay);
  expect(probe(mapper, first, ACCESS_READ)).not.toBe(ACCESS_OK);
  expect(audit(xen)).toEqual([]);
  expect(addToPhysmap(machine, mapper, { ...place, gfn: first })).toBe(0);
  expect(audit(xen)).toEqual([]);
});

test("a direct-mapped domain cannot enter its own grant frame as RAM", () => {
  const { machine, dom0 } = trio();
  const { xen } = machine;
  const gfn = mfnAt(xen.layout, grantFrame(xen, dom0.domid, 0));
  expect(reserve(machine, dom0, XENMEM_populate_physmap, { gfns: [gfn] })).toBe(0);
  expect(probe(dom0, gfn, ACCESS_READ)).not.toBe(ACCESS_OK);
  expect(audit(xen)).toEqual([]);
});

test("a domain that has crashed keeps its slot, and the table that its vCPU walks, until its end", () => {
  const { machine, granter, mapper } = trio({ arch: "x86" });
  const { xen } = machine;
  setEntry(machine, granter, REF, GTF_permit_access, mapper.domid, granter.ram);
  const op = { gfn: HOLE, flags: GNTMAP_host_map, ref: REF, dom: granter.domid };
  expect(mapOne(machine, mapper, op).status).toBe(GNTST_okay);
  const slot = slotOf(xen, mapper.domid);
  // A second mapping over the first one is the end of the mapper.
  expect(mapOne(machine, mapper, op).status).toBe(GNTST_general_error);
  leaveDeadSlots(xen);
  const early = create(machine, 3);
  expect(slotOf(xen, early)).not.toBe(slot);
  domctl(machine, XEN_DOMCTL_destroydomain, mapper.domid);
  expect(lineWord(xen, slotOf(xen, early), LINE.STATE)).toBe(SLOT_LIVE);
  expect(slotOf(xen, create(machine, 3))).toBe(slot);
  expect(audit(xen)).toEqual([]);
});
