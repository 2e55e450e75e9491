// Tables that an extent of RAM fills, and the block that takes their place.
import { expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { step } from "../../hypervisor/main.ts";
import { entryFrame, p2mLookup, walkSteps } from "../../hypervisor/p2m.ts";
import { domainField, setDomainField } from "../../hypervisor/xen.ts";
import {
  XENMEM_current_reservation,
  XENMEM_decrease_reservation,
  XENMEM_populate_physmap,
} from "../../shared/abi/memory.ts";
import { DOM } from "../../shared/layout.ts";
import { ACCESS_OK, ACCESS_READ } from "../../shared/mmu.ts";
import { DomId } from "../../shared/units.ts";
import {
  type Actor,
  bootTestMachine,
  type TestMachine,
  testDom0,
  testDomain,
  testModel,
} from "./harness.ts";
import { pushReservation, queryMemory, reserve } from "./memory-calls.ts";

function boot(pages: number): { readonly machine: TestMachine; readonly domU: Actor } {
  const domains = [testDom0(), testDomain("domU", { memoryPages: pages })];
  const machine = bootTestMachine(testModel(domains));
  const [, domU] = machine.actors;
  if (domU === undefined) throw new Error("two domains were booted");
  return { machine, domU };
}

const decrease = (machine: TestMachine, actor: Actor, gfn: number): number =>
  reserve(machine, actor, XENMEM_decrease_reservation, { gfns: [gfn] });
const reservation = (machine: TestMachine, actor: Actor): number =>
  queryMemory(machine, actor, XENMEM_current_reservation);
const frameAt = ({ xen }: TestMachine, { domid }: Actor, gfn: number): number =>
  entryFrame(p2mLookup(xen, DomId(domid), gfn));

test("an order 9 extent that fills a table takes its place, and a grant mapped into it splits it again", () => {
  const { machine, domU } = boot(600);
  const { xen } = machine;
  setDomainField(xen, domU.domid, DOM.MAX_PAGES, 4096);
  decrease(machine, domU, domU.ram);
  const pages = domainField(xen, domU.domid, DOM.P2M_PAGE_COUNT);
  const pool = domainField(xen, domU.domid, DOM.P2M_POOL_FREE);
  expect(reserve(machine, domU, XENMEM_populate_physmap, { gfns: [domU.ram], order: 9 })).toBe(1);
  expect(walkSteps(xen, DomId(domU.domid), domU.ram).at(-1)?.level).toBe(2);
  expect(frameAt(machine, domU, domU.ram + 511) - frameAt(machine, domU, domU.ram)).toBe(511);
  expect(reservation(machine, domU)).toBe(599 + 512);
  expect(domainField(xen, domU.domid, DOM.P2M_PAGE_COUNT)).toBe(pages - 1);
  expect(domainField(xen, domU.domid, DOM.P2M_POOL_FREE)).toBe(pool + 1);
  expect(audit(xen)).toEqual([]);
  decrease(machine, domU, domU.ram + 7);
  expect(walkSteps(xen, DomId(domU.domid), domU.ram).at(-1)?.level).toBe(3);
  expect(domainField(xen, domU.domid, DOM.P2M_POOL_FREE)).toBe(pool);
  expect(audit(xen)).toEqual([]);
});

test("XSA-480: the table that a block has replaced is not used again while a walker may be in it", () => {
  const { machine, domU } = boot(600);
  const { xen } = machine;
  setDomainField(xen, domU.domid, DOM.MAX_PAGES, 4096);
  // The domain's first block gives way to a table.
  decrease(machine, domU, domU.ram);
  const pool = domainField(xen, domU.domid, DOM.P2M_POOL_FREE);
  const extents = { gfns: [domU.ram], order: 9 };
  pushReservation(domU, XENMEM_populate_physmap, extents);
  expect(domU.mmu.open(domU.ram + 550, ACCESS_READ)).toBe(ACCESS_OK);
  for (let steps = 0; steps < 50; steps++) step(xen);
  expect(domainField(xen, domU.domid, DOM.P2M_POOL_FREE)).toBe(pool);
  expect(audit(xen)).toEqual([]);
  domU.mmu.close();
  for (let steps = 0; steps < 1000 && !domU.channel.idle; steps++) step(xen);
  expect(domU.channel.result()).toBe(1);
  expect(domainField(xen, domU.domid, DOM.P2M_POOL_FREE)).toBe(pool + 1);
  expect(audit(xen)).toEqual([]);
});

test("a table that holds something else than the extent stays a table", () => {
  const { machine, domU } = boot(600);
  const { xen } = machine;
  setDomainField(xen, domU.domid, DOM.MAX_PAGES, 4096);
  const order = 8;
  expect(reserve(machine, domU, XENMEM_populate_physmap, { gfns: [domU.ram], order })).toBe(1);
  expect(walkSteps(xen, DomId(domU.domid), domU.ram).at(-1)?.level).toBe(3);
  expect(audit(xen)).toEqual([]);
});

test("single pages that come to follow each other stay single, whichever comes back last", () => {
  const memory = { memoryPages: 1024, staticMemory: [{ base: 0x4040_0000, size: 1024 * 4096 }] };
  const { xen, actors } = bootTestMachine(testModel([testDom0(memory)]));
  const dom0 = actors[0] as Actor;
  const machine = { xen, actors };
  // The first page of a block, so that the others are in place when it comes back to its own gfn.
  const gfn = dom0.ram + 512;
  expect(walkSteps(xen, DomId(dom0.domid), gfn).at(-1)?.level).toBe(2);
  expect(decrease(machine, dom0, gfn)).toBe(1);
  expect(reserve(machine, dom0, XENMEM_populate_physmap, { gfns: [gfn] })).toBe(1);
  expect(frameAt(machine, dom0, gfn + 511) - frameAt(machine, dom0, gfn)).toBe(511);
  expect(walkSteps(xen, DomId(dom0.domid), gfn).at(-1)?.level).toBe(3);
  expect(audit(xen)).toEqual([]);
});
