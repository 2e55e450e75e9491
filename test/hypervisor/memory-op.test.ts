/** memory_op: reservations, physmap and queries, on a direct-mapped dom0 and an ordinary domain. */
import { describe, expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { frameOwner, frameReferences, isFree } from "../../hypervisor/frame-table.ts";
import { step } from "../../hypervisor/main.ts";
import { entryFrame, entryType, P2M_NOTHING, p2mLookup, walkSteps } from "../../hypervisor/p2m.ts";
import { domainField, setDomainField } from "../../hypervisor/xen.ts";
import { GNTMAP_host_map, GTF_permit_access } from "../../shared/abi/grant.ts";
import {
  XENMAPSPACE_dev_mmio,
  XENMAPSPACE_gmfn,
  XENMAPSPACE_gmfn_foreign,
  XENMAPSPACE_gmfn_range,
  XENMAPSPACE_grant_table,
  XENMAPSPACE_shared_info,
  XENMEM_add_to_physmap,
  XENMEM_current_reservation,
  XENMEM_decrease_reservation,
  XENMEM_increase_reservation,
  XENMEM_maximum_gpfn,
  XENMEM_maximum_ram_page,
  XENMEM_maximum_reservation,
  XENMEM_populate_physmap,
  XENMEMF_populate_on_demand,
} from "../../shared/abi/memory.ts";
import { HYPERVISOR_memory_op } from "../../shared/abi/xen.ts";
import { DOM, mfnAt } from "../../shared/layout.ts";
import { ACCESS_OK, ACCESS_READ } from "../../shared/mmu.ts";
import { isGrant } from "../../shared/pte.ts";
import {
  EACCES,
  EBUSY,
  EFAULT,
  EILSEQ,
  EINVAL,
  ENOENT,
  ENOSYS,
  EOPNOTSUPP,
  EOVERFLOW,
  EPERM,
  ESRCH,
} from "../../shared/status.ts";
import { DomId } from "../../shared/units.ts";
import { argumentAddress, mapOne, setEntry, unmapOne } from "./grants.ts";
import {
  type Actor,
  bootTestMachine,
  call,
  probe,
  readWord,
  type TestMachine,
  testDom0,
  testDomain,
  testModel,
  writeWord,
} from "./harness.ts";
import {
  addToPhysmap,
  exchange,
  pushReservation,
  queryMemory,
  removeFromPhysmap,
  reserve,
} from "./memory-calls.ts";

const HOLE = 0x60000;

interface Pair {
  readonly machine: TestMachine;
  readonly dom0: Actor;
  readonly domU: Actor;
}

function boot(pages = 256): Pair {
  const machine = bootTestMachine(
    testModel([testDom0(), testDomain("domU", { memoryPages: pages })]),
  );
  const [dom0, domU] = machine.actors;
  if (dom0 === undefined || domU === undefined) throw new Error("two domains were booted");
  return { machine, dom0, domU };
}

const decrease = (machine: TestMachine, actor: Actor, ...gfns: readonly number[]): number =>
  reserve(machine, actor, XENMEM_decrease_reservation, { gfns });
const populate = (machine: TestMachine, actor: Actor, ...gfns: readonly number[]): number =>
  reserve(machine, actor, XENMEM_populate_physmap, { gfns });
const reservation = (machine: TestMachine, actor: Actor): number =>
  queryMemory(machine, actor, XENMEM_current_reservation);
const frameAt = ({ xen }: TestMachine, { domid }: Actor, gfn: number): number =>
  entryFrame(p2mLookup(xen, DomId(domid), gfn));

describe("reservations", () => {
  test("a domain gives pages back and gets the newest freed frame with its contents", () => {
    const { machine, domU } = boot();
    writeWord(domU, domU.ram * 4096, 1);
    writeWord(domU, (domU.ram + 1) * 4096, 2);
    expect(decrease(machine, domU, domU.ram, domU.ram + 1)).toBe(2);
    expect(reservation(machine, domU)).toBe(254);
    expect(probe(domU, domU.ram, ACCESS_READ)).not.toBe(ACCESS_OK);
    expect(populate(machine, domU, domU.ram)).toBe(1);
    expect(readWord(domU, domU.ram * 4096)).toBe(2);
    expect(reservation(machine, domU)).toBe(255);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("hypervisor case 57: a direct-mapped domain keeps what it balloons out and gets only that back", () => {
    const { machine, dom0, domU } = boot();
    const gfn = dom0.ram + 3;
    const frame = frameAt(machine, dom0, gfn);
    expect(decrease(machine, dom0, gfn)).toBe(1);
    expect(frameOwner(machine.xen, frame)).toBe(dom0.domid);
    expect(reservation(machine, dom0)).toBe(256);
    expect(probe(dom0, gfn, ACCESS_READ)).not.toBe(ACCESS_OK);
    const foreign = mfnAt(machine.xen.layout, frameAt(machine, domU, domU.ram));
    expect(populate(machine, dom0, foreign)).toBe(0);
    expect(populate(machine, dom0, HOLE)).toBe(0);
    expect(populate(machine, dom0, gfn)).toBe(1);
    expect(frameAt(machine, dom0, gfn)).toBe(frame);
    expect(mfnAt(machine.xen.layout, frame)).toBe(gfn);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("hypervisor case 58: decrease stops at a grant mapping and leaves it alone", () => {
    const { machine, dom0, domU } = boot();
    setEntry(machine, domU, 8, GTF_permit_access, dom0.domid, domU.ram);
    const op = { gfn: HOLE, flags: GNTMAP_host_map, ref: 8, dom: domU.domid };
    expect(mapOne(machine, dom0, op).status).toBe(0);
    expect(decrease(machine, dom0, dom0.ram, HOLE, dom0.ram + 1)).toBe(1);
    const entry = p2mLookup(machine.xen, DomId(dom0.domid), HOLE);
    expect(isGrant(entryType(entry))).toBe(true);
    expect(entryFrame(entry)).toBe(frameAt(machine, domU, domU.ram));
    expect(probe(dom0, dom0.ram + 1, ACCESS_READ)).toBe(ACCESS_OK);
  });

  test("hypervisor case 59: a page ballooned in replaces the grant mapping on its gfn", () => {
    const { machine, dom0, domU } = boot();
    const gfn = dom0.ram + 5;
    setEntry(machine, domU, 8, GTF_permit_access, dom0.domid, domU.ram);
    decrease(machine, dom0, gfn);
    const op = { gfn, flags: GNTMAP_host_map, ref: 8, dom: domU.domid };
    const mapped = mapOne(machine, dom0, op);
    expect(mapped.status).toBe(0);
    expect(populate(machine, dom0, gfn)).toBe(1);
    expect(mfnAt(machine.xen.layout, frameAt(machine, dom0, gfn))).toBe(gfn);
    expect(unmapOne(machine, dom0, { handle: mapped.handle, address: gfn * 4096 })).toBe(-1);
  });

  test("hypervisor case 83: without rights over the domain the three answer 0 extents", () => {
    const { machine, dom0, domU } = boot();
    for (const op of [
      XENMEM_increase_reservation,
      XENMEM_decrease_reservation,
      XENMEM_populate_physmap,
    ]) {
      const extents = { gfns: [dom0.ram], dom: dom0.domid };
      expect(reserve(machine, domU, op, extents)).toBe(0);
      expect(reserve(machine, domU, op, { gfns: [dom0.ram], dom: 4660 })).toBe(0);
      expect(reserve(machine, domU, op, { gfns: [0, 0, 0], count: 3, start: 3 })).toBe(3);
    }
    expect(
      reserve(machine, dom0, XENMEM_decrease_reservation, { gfns: [domU.ram], dom: domU.domid }),
    ).toBe(1);
    expect(reservation(machine, domU)).toBe(255);
  });

  test("hypervisor case 84: an extent that fails in its middle is not counted and its first page is gone", () => {
    const { machine, domU } = boot();
    decrease(machine, domU, domU.ram + 1);
    const extents = { gfns: [domU.ram], order: 1 };
    expect(reserve(machine, domU, XENMEM_decrease_reservation, extents)).toBe(0);
    expect(p2mLookup(machine.xen, DomId(domU.domid), domU.ram)).toBe(P2M_NOTHING);
    expect(reservation(machine, domU)).toBe(254);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("hypervisor case 85: an ordinary domain may use order 9, entered as one block, but not order 10", () => {
    const { machine, domU } = boot();
    setDomainField(machine.xen, domU.domid, DOM.MAX_PAGES, 4096);
    const gfn = 0x50000;
    expect(reserve(machine, domU, XENMEM_populate_physmap, { gfns: [gfn], order: 10 })).toBe(0);
    expect(reserve(machine, domU, XENMEM_populate_physmap, { gfns: [gfn], order: 9 })).toBe(1);
    expect(walkSteps(machine.xen, DomId(domU.domid), gfn + 5).at(-1)?.level).toBe(2);
    expect(reservation(machine, domU)).toBe(256 + 512);
    expect(decrease(machine, domU, gfn + 5)).toBe(1);
    expect(walkSteps(machine.xen, DomId(domU.domid), gfn + 6).at(-1)?.level).toBe(3);
    expect(probe(domU, gfn + 6, ACCESS_READ)).toBe(ACCESS_OK);
    expect(probe(domU, gfn + 5, ACCESS_READ)).not.toBe(ACCESS_OK);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("hypervisor case 86: exchange is checked like everything else, then no page can be stolen", () => {
    const { machine, dom0, domU } = boot();
    const page = { gfns: [domU.ram] };
    const place = { gfns: [HOLE] };
    expect(exchange(machine, domU, page, place)).toBe(-EOPNOTSUPP);
    expect(exchange(machine, domU, { ...page, order: 10 }, { ...place, order: 10 })).toBe(-EPERM);
    expect(exchange(machine, domU, page, { gfns: [HOLE, HOLE + 1] })).toBe(-EINVAL);
    expect(exchange(machine, domU, place, page)).toBe(-EINVAL);
    expect(exchange(machine, domU, page, place, 1)).toBe(0);
    expect(exchange(machine, domU, page, place, 2)).toBe(-EINVAL);
    const others = { dom: dom0.domid };
    expect(exchange(machine, domU, { ...page, ...others }, { ...place, ...others })).toBe(-EPERM);
    expect(exchange(machine, domU, { ...page, dom: 4660 }, { ...place, dom: 4660 })).toBe(-ESRCH);
  });

  test("hypervisor case 98: with max_pages below the reservation nothing comes in until enough has gone", () => {
    const { machine, domU } = boot();
    setDomainField(machine.xen, domU.domid, DOM.MAX_PAGES, 255);
    expect(decrease(machine, domU, domU.ram)).toBe(1);
    expect(populate(machine, domU, domU.ram)).toBe(0);
    expect(decrease(machine, domU, domU.ram + 1)).toBe(1);
    expect(populate(machine, domU, domU.ram)).toBe(1);
    expect(queryMemory(machine, domU, XENMEM_maximum_reservation)).toBe(255);
  });

  test("populate stops at a gfn that no table can hold, and the page stays owned but unmapped", () => {
    const { machine, domU } = boot();
    decrease(machine, domU, domU.ram, domU.ram + 1, domU.ram + 2);
    const gfns = [domU.ram, 0x1000000000000000n, domU.ram + 1];
    expect(reserve(machine, domU, XENMEM_populate_physmap, { gfns })).toBe(1);
    expect(reservation(machine, domU)).toBe(255);
    expect(populate(machine, domU, domU.ram + 1, domU.ram + 2)).toBe(1);
  });

  test("increase adds pages that are mapped nowhere, and flags of other machines are refused", () => {
    const { machine, domU } = boot();
    decrease(machine, domU, domU.ram, domU.ram + 1);
    const op = XENMEM_increase_reservation;
    expect(reserve(machine, domU, op, { gfns: [], count: 1 })).toBe(1);
    expect(reservation(machine, domU)).toBe(255);
    expect(probe(domU, domU.ram, ACCESS_READ)).not.toBe(ACCESS_OK);
    expect(reserve(machine, domU, op, { gfns: [], count: 1, flags: 12 })).toBe(0);
    expect(reserve(machine, domU, op, { gfns: [], count: 1, flags: 20 })).toBe(0);
    expect(reserve(machine, domU, op, { gfns: [], count: 1, flags: 48 })).toBe(1);
    const onDemand = { gfns: [domU.ram], flags: XENMEMF_populate_on_demand };
    expect(reserve(machine, domU, XENMEM_populate_physmap, onDemand)).toBe(0);
  });

  test("a batch longer than a hold list gives back every page, and other slots are served in between", () => {
    const { machine, dom0, domU } = boot();
    const gfns = Array.from({ length: 100 }, (_, i) => domU.ram + i);
    pushReservation(domU, XENMEM_decrease_reservation, { gfns });
    step(machine.xen);
    expect(domU.channel.idle).toBe(false);
    expect(reservation(machine, dom0)).toBe(256);
    for (let i = 0; i < 100 && !domU.channel.idle; i++) step(machine.xen);
    expect(domU.channel.result()).toBe(100);
    expect(reservation(machine, domU)).toBe(156);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("a page that is being read is freed only when the access is over", () => {
    const { machine, domU } = boot();
    const frame = frameAt(machine, domU, domU.ram);
    pushReservation(domU, XENMEM_decrease_reservation, { gfns: [domU.ram] });
    expect(domU.mmu.open(domU.ram, ACCESS_READ)).toBe(ACCESS_OK);
    while (step(machine.xen));
    expect(domU.channel.idle).toBe(false);
    expect(isFree(machine.xen, frame)).toBe(false);
    expect(frameReferences(machine.xen, frame)).toBe(1);
    domU.mmu.close();
    while (step(machine.xen));
    expect(domU.channel.result()).toBe(1);
    expect(isFree(machine.xen, frame)).toBe(true);
    expect(probe(domU, domU.ram, ACCESS_READ)).not.toBe(ACCESS_OK);
  });
});

describe("the physmap", () => {
  const grant = (idx: number | bigint, gfn: number | bigint) => ({
    space: XENMAPSPACE_grant_table,
    idx,
    gfn,
  });

  test("hypervisor case 87: spaces that arm64 does not have answer -ENOSYS", () => {
    const { machine, domU } = boot();
    for (const space of [XENMAPSPACE_gmfn_foreign, XENMAPSPACE_gmfn, 99]) {
      expect(addToPhysmap(machine, domU, { space, idx: domU.ram, gfn: HOLE })).toBe(-ENOSYS);
    }
    const range = { space: XENMAPSPACE_gmfn_range, idx: domU.ram, gfn: HOLE };
    expect(addToPhysmap(machine, domU, range)).toBe(0);
    expect(addToPhysmap(machine, domU, { ...range, size: 1 })).toBe(-ENOSYS);
    const high = { ...range, idx: 0xffffffffffffffffn, size: 2 };
    expect(addToPhysmap(machine, domU, high)).toBe(-EOVERFLOW);
    addToPhysmap(machine, domU, range);
    const started = XENMEM_add_to_physmap + 64;
    const at = argumentAddress(domU);
    expect(call(machine, domU, HYPERVISOR_memory_op, started, at)).toBe(-EILSEQ);
  });

  test("hypervisor case 88: a grant frame's index grows the table up to its limit", () => {
    const { machine, domU } = boot();
    expect(addToPhysmap(machine, domU, grant(3, HOLE))).toBe(0);
    expect(domainField(machine.xen, domU.domid, DOM.GRANT_FRAMES)).toBe(4);
    expect(addToPhysmap(machine, domU, grant(4, HOLE + 1))).toBe(-EINVAL);
    expect(addToPhysmap(machine, domU, grant(0x80000000, HOLE + 1))).toBe(-EINVAL);
    expect(addToPhysmap(machine, domU, grant(0x1_0000_0000n, HOLE + 1))).toBe(0);
    expect(addToPhysmap(machine, domU, grant(0, 0xffffffffffffffffn))).toBe(-EINVAL);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("hypervisor case 89: a grant frame is mapped once, and elsewhere only after it was removed", () => {
    const { machine, domU } = boot();
    expect(addToPhysmap(machine, domU, grant(0, HOLE))).toBe(0);
    expect(addToPhysmap(machine, domU, grant(0, HOLE + 1))).toBe(-EBUSY);
    expect(addToPhysmap(machine, domU, grant(0, HOLE))).toBe(-EBUSY);
    expect(removeFromPhysmap(machine, domU, HOLE)).toBe(0);
    expect(addToPhysmap(machine, domU, grant(0, HOLE + 1))).toBe(0);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("a grant frame given back with decrease can never be placed again", () => {
    const { machine, domU } = boot();
    addToPhysmap(machine, domU, grant(0, HOLE));
    expect(decrease(machine, domU, HOLE)).toBe(1);
    expect(addToPhysmap(machine, domU, grant(0, HOLE))).toBe(-EBUSY);
    expect(reservation(machine, domU)).toBe(256);
  });

  test("the shared info page replaces RAM without a word, and the RAM stays owned", () => {
    const { machine, domU } = boot();
    const info = { space: XENMAPSPACE_shared_info, idx: 0, gfn: domU.ram };
    expect(addToPhysmap(machine, domU, { ...info, idx: 1 })).toBe(-EINVAL);
    const frame = frameAt(machine, domU, domU.ram);
    expect(addToPhysmap(machine, domU, info)).toBe(0);
    expect(frameAt(machine, domU, domU.ram)).toBe(
      domainField(machine.xen, domU.domid, DOM.SHARED_INFO),
    );
    expect(frameOwner(machine.xen, frame)).toBe(domU.domid);
    expect(removeFromPhysmap(machine, domU, domU.ram)).toBe(0);
    expect(addToPhysmap(machine, domU, { ...info, gfn: HOLE })).toBe(0);
  });

  test("hypervisor case 90: remove takes own pages away and knows no empty or grant-mapped gfn", () => {
    const { machine, dom0, domU } = boot();
    setEntry(machine, domU, 8, GTF_permit_access, dom0.domid, domU.ram);
    mapOne(machine, dom0, { gfn: HOLE, flags: GNTMAP_host_map, ref: 8, dom: domU.domid });
    expect(removeFromPhysmap(machine, dom0, HOLE)).toBe(-ENOENT);
    expect(removeFromPhysmap(machine, dom0, HOLE + 1)).toBe(-ENOENT);
    expect(removeFromPhysmap(machine, domU, dom0.ram, dom0.domid)).toBe(-EPERM);
    expect(removeFromPhysmap(machine, domU, HOLE, 4660)).toBe(-ESRCH);
    expect(removeFromPhysmap(machine, domU, domU.ram)).toBe(0);
    expect(reservation(machine, domU)).toBe(256);
    expect(probe(domU, domU.ram, ACCESS_READ)).not.toBe(ACCESS_OK);
  });

  test("hypervisor case 93: dev_mmio is the hardware domain's, and a page it may not have is not mapped", () => {
    const { machine, dom0, domU } = boot();
    const place = { space: XENMAPSPACE_dev_mmio, idx: domU.ram, gfn: HOLE };
    expect(addToPhysmap(machine, domU, place)).toBe(-EACCES);
    expect(addToPhysmap(machine, dom0, place)).toBe(0);
    expect(p2mLookup(machine.xen, DomId(dom0.domid), HOLE)).toBe(P2M_NOTHING);
  });
});

describe("queries", () => {
  test("a domain asks about itself, a control domain about everybody", () => {
    const { machine, dom0, domU } = boot();
    expect(queryMemory(machine, dom0, XENMEM_current_reservation, domU.domid)).toBe(256);
    expect(queryMemory(machine, domU, XENMEM_current_reservation, dom0.domid)).toBe(-EPERM);
    expect(queryMemory(machine, domU, XENMEM_maximum_reservation, 4660)).toBe(-ESRCH);
    expect(queryMemory(machine, domU, XENMEM_maximum_gpfn)).toBe(domU.ram + 255);
    expect(queryMemory(machine, domU, XENMEM_maximum_ram_page)).toBe(0x40800);
  });

  test("an unreadable argument is -EFAULT, a start extent -EINVAL, an unknown operation -ENOSYS", () => {
    const { machine, domU } = boot();
    const hole = HOLE * 4096;
    expect(call(machine, domU, HYPERVISOR_memory_op, XENMEM_current_reservation, hole)).toBe(
      -EFAULT,
    );
    expect(call(machine, domU, HYPERVISOR_memory_op, XENMEM_decrease_reservation, hole)).toBe(0);
    expect(call(machine, domU, HYPERVISOR_memory_op, XENMEM_current_reservation + 64, hole)).toBe(
      -EINVAL,
    );
    expect(call(machine, domU, HYPERVISOR_memory_op, 13, hole)).toBe(-ENOSYS);
  });
});
