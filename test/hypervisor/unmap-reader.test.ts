// An unmap by one vCPU while another one of the same domain reads the page: who sees what, and when.
import { expect, test } from "vitest";
import { activePin } from "../../hypervisor/active-entry.ts";
import { audit } from "../../hypervisor/audit.ts";
import { step } from "../../hypervisor/main.ts";
import { p2mLookup } from "../../hypervisor/p2m.ts";
import {
  GNTMAP_host_map,
  GNTTABOP_unmap_grant_ref,
  GTF_permit_access,
  GTF_reading,
  GTF_writing,
  UNMAP_HANDLE,
  UNMAP_HOST_ADDR,
  UNMAP_SIZE,
  UNMAP_STATUS,
} from "../../shared/abi/grant.ts";
import { HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import { Channel } from "../../shared/channel.ts";
import { DOM } from "../../shared/layout.ts";
import { ACCESS_OK, ACCESS_READ } from "../../shared/mmu.ts";
import { GNTST_okay } from "../../shared/status.ts";
import { hypercallTrap, setRecord } from "../../shared/trap.ts";
import { DomId } from "../../shared/units.ts";
import { field } from "./domains.ts";
import { argumentAddress, entryFlags, mapOne, setEntry } from "./grants.ts";
import {
  type Actor,
  bootTestMachine,
  probe,
  readGuest,
  testDom0,
  testDomain,
  testModel,
  writeGuest,
  writeWord,
} from "./harness.ts";

const HOLE = 0x60000;
const REF = 8;

test("hypervisor case 47: the granter's status bits go only when no reader can reach the page any more", () => {
  const domains = [testDom0(), testDomain("G"), testDomain("M", { vcpus: 2 })];
  const machine = bootTestMachine(testModel(domains));
  const { xen } = machine;
  const [, granter, mapper] = machine.actors as [Actor, Actor, Actor];
  writeWord(granter, granter.ram * 4096, 0x600d);
  setEntry(machine, granter, REF, GTF_permit_access, mapper.domid, granter.ram);
  const op = { gfn: HOLE, flags: GNTMAP_host_map, ref: REF, dom: granter.domid };
  const { handle } = mapOne(machine, mapper, op);
  const at = argumentAddress(mapper);
  const argument = new Uint8Array(UNMAP_SIZE);
  const view = new DataView(argument.buffer);
  view.setUint32(UNMAP_HOST_ADDR, HOLE * 4096, true);
  view.setUint32(UNMAP_HANDLE, handle, true);
  view.setInt16(UNMAP_STATUS, 1, true);
  writeGuest(mapper, at, argument);
  const other = new Channel(xen.words, xen.layout, field(xen, mapper.domid, DOM.SLOT + 1));
  const { record } = hypercallTrap();
  setRecord(record, HYPERVISOR_grant_table_op, [GNTTABOP_unmap_grant_ref, at, 1]);

  // The first vCPU reads on and on; the second one unmaps.
  expect(mapper.mmu.open(HOLE, ACCESS_READ)).toBe(ACCESS_OK);
  other.push(record);
  for (let turn = 0; turn < 20; turn++) {
    while (step(xen));
    expect(mapper.mmu.load(0)).toBe(0x600d);
    expect(p2mLookup(xen, DomId(mapper.domid), HOLE)).toBe(0);
    expect(entryFlags(machine, granter, REF) & (GTF_reading | GTF_writing)).toBe(
      GTF_reading | GTF_writing,
    );
    expect(other.idle).toBe(false);
    expect(audit(xen)).toEqual([]);
  }
  mapper.mmu.close();
  while (step(xen));
  expect(entryFlags(machine, granter, REF)).toBe(GTF_permit_access);
  expect(activePin(xen, granter.domid, REF)).toBe(0);
  expect(probe(mapper, HOLE, ACCESS_READ)).not.toBe(ACCESS_OK);
  const status = new DataView(readGuest(mapper, at, UNMAP_SIZE).buffer).getInt16(
    UNMAP_STATUS,
    true,
  );
  expect([other.result(), status]).toEqual([0, GNTST_okay]);
  expect(audit(xen)).toEqual([]);
});

test("a batch that is asked to let go after each element while it waits for its flush unmaps each of them once", () => {
  const domains = [testDom0(), testDomain("G"), testDomain("M", { vcpus: 2 })];
  const machine = bootTestMachine(testModel(domains));
  const { xen } = machine;
  const [, granter, mapper] = machine.actors as [Actor, Actor, Actor];
  const at = argumentAddress(mapper);
  const count = 3;
  const argument = new Uint8Array(count * UNMAP_SIZE);
  const view = new DataView(argument.buffer);
  for (let i = 0; i < count; i++) {
    setEntry(machine, granter, REF + i, GTF_permit_access, mapper.domid, granter.ram + i);
    const op = { gfn: HOLE + i, flags: GNTMAP_host_map, ref: REF + i, dom: granter.domid };
    const { handle } = mapOne(machine, mapper, op);
    view.setUint32(i * UNMAP_SIZE + UNMAP_HOST_ADDR, (HOLE + i) * 4096, true);
    view.setUint32(i * UNMAP_SIZE + UNMAP_HANDLE, handle, true);
  }
  writeGuest(mapper, at, argument);
  const other = new Channel(xen.words, xen.layout, field(xen, mapper.domid, DOM.SLOT + 1));
  const { record } = hypercallTrap();
  setRecord(record, HYPERVISOR_grant_table_op, [GNTTABOP_unmap_grant_ref, at, count]);
  expect(mapper.mmu.open(HOLE, ACCESS_READ)).toBe(ACCESS_OK);
  other.push(record);
  while (step(xen));
  xen.gapMask = 0;
  mapper.mmu.close();
  while (step(xen));
  const answers = new DataView(readGuest(mapper, at, count * UNMAP_SIZE).buffer);
  const statuses = Array.from({ length: count }, (_, i) =>
    answers.getInt16(i * UNMAP_SIZE + UNMAP_STATUS, true),
  );
  expect(statuses).toEqual([GNTST_okay, GNTST_okay, GNTST_okay]);
});
