/**
 * Advisories about memory calls, page references and the P2M: each test tells the story of one on this machine. Those
 * that are about a table alone stand in p2m.test.ts, those about foreign pages also in foreign.test.ts.
 */
import { describe, expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { frameOwner, frameReferences, isAllocated, isFree } from "../../hypervisor/frame-table.ts";
import { step } from "../../hypervisor/main.ts";
import { entryFrame, P2M_NOTHING, p2mLookup } from "../../hypervisor/p2m.ts";
import { isPresent, type Xen } from "../../hypervisor/xen.ts";
import { XEN_DOMCTL_destroydomain, XEN_DOMCTL_max_mem } from "../../shared/abi/domctl.ts";
import { GNTMAP_host_map, GTF_permit_access } from "../../shared/abi/grant.ts";
import {
  XENMAPSPACE_dev_mmio,
  XENMAPSPACE_gmfn_foreign,
  XENMAPSPACE_grant_table,
  XENMAPSPACE_shared_info,
  XENMEM_decrease_reservation,
  XENMEM_exchange,
  XENMEM_increase_reservation,
  XENMEM_populate_physmap,
} from "../../shared/abi/memory.ts";
import { HYPERVISOR_memory_op } from "../../shared/abi/xen.ts";
import { DOM, MACHINE } from "../../shared/layout.ts";
import { NOT_PRESENT } from "../../shared/limits.ts";
import { ACCESS_OK, ACCESS_READ } from "../../shared/mmu.ts";
import { EFAULT, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP, EPERM } from "../../shared/status.ts";
import { CONTROL_DOMCTL, hypercallTrap, setRecord } from "../../shared/trap.ts";
import { DomId, FrameIndex } from "../../shared/units.ts";
import { create, domctl, field, testDevice, trio } from "./domains.ts";
import { argumentAddress, mapOne, setEntry, unmapOne } from "./grants.ts";
import {
  type Actor,
  call,
  probe,
  pushAndRun,
  readWord,
  type TestMachine,
  testModel,
  writeGuest,
  writeWord,
} from "./harness.ts";
import {
  acquire,
  addBatch,
  addToPhysmap,
  exchange,
  removeFromPhysmap,
  reserve,
} from "./memory-calls.ts";

const HOLE = 0x60000;

const frameAt = ({ xen }: TestMachine, { domid }: Actor, gfn: number): number =>
  entryFrame(p2mLookup(xen, DomId(domid), gfn));
const decrease = (machine: TestMachine, actor: Actor, ...gfns: readonly number[]): number =>
  reserve(machine, actor, XENMEM_decrease_reservation, { gfns });
const populate = (machine: TestMachine, actor: Actor, ...gfns: readonly number[]): number =>
  reserve(machine, actor, XENMEM_populate_physmap, { gfns });
const freeFrames = (xen: Xen): number => xen.words[MACHINE.FREE_FRAMES] ?? 0;

/** An exchange whose lists lie where the test says, and whose progress is what the guest claims. */
function hostileExchange(
  machine: TestMachine,
  actor: Actor,
  list: bigint,
  extents: bigint,
  done: bigint,
): number {
  const bytes = new Uint8Array(72);
  const view = new DataView(bytes.buffer);
  for (const at of [0, 32]) {
    view.setBigUint64(at, list, true);
    view.setBigUint64(at + 8, extents, true);
    view.setUint16(at + 24, actor.domid, true);
  }
  view.setBigUint64(64, done, true);
  writeGuest(actor, argumentAddress(actor), bytes);
  return call(machine, actor, HYPERVISOR_memory_op, XENMEM_exchange, argumentAddress(actor));
}

describe("hostile arguments", () => {
  test("XSA-29: lists of an exchange that lie nowhere, or across the end of everything, are a fault", () => {
    const { machine, granter } = trio();
    const end = BigInt((granter.ram + 256) * 4096);
    for (const list of [0n, 0x7800_0000n, end, end - 4n, 2n ** 48n, 2n ** 53n, 2n ** 64n - 8n]) {
      expect(hostileExchange(machine, granter, list, 1n, 0n)).toBe(-EFAULT);
    }
    expect(audit(machine.xen)).toEqual([]);
  });

  test("XSA-212: progress that a guest makes up is looked at before the list is", () => {
    const { machine, granter } = trio();
    const list = BigInt(granter.ram * 4096);
    expect(hostileExchange(machine, granter, list, 4n, 5n)).toBe(-EINVAL);
    for (const done of [2n ** 30n, 2n ** 50n, 2n ** 61n, 2n ** 63n, 2n ** 64n - 2n]) {
      const ret = hostileExchange(machine, granter, list, 2n ** 64n - 1n, done);
      expect([-EINVAL, -EFAULT]).toContain(ret);
    }
    expect(hostileExchange(machine, granter, list, 2n ** 63n, 2n ** 63n)).toBe(0);
    expect(hostileExchange(machine, granter, list, 2n ** 63n, 2n ** 63n + 1n)).toBe(-EINVAL);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("XSA-31, XSA-158: an order beyond the caller's limit does nothing, however large", () => {
    const { machine, dom0, granter } = trio();
    const free = freeFrames(machine.xen);
    for (const order of [10, 18, 19, 31, 32, 63, 64, 2 ** 31, 2 ** 32 - 1]) {
      for (const op of [XENMEM_populate_physmap, XENMEM_increase_reservation]) {
        expect(reserve(machine, granter, op, { gfns: [HOLE], order })).toBe(0);
      }
      const gfns = [granter.ram];
      expect(reserve(machine, granter, XENMEM_decrease_reservation, { gfns, order })).toBe(0);
      const one = { gfns: [granter.ram], order };
      const refused = order > 18 ? -EPERM : -EINVAL;
      expect([refused, -EOPNOTSUPP]).toContain(exchange(machine, dom0, one, one));
    }
    expect(freeFrames(machine.xen)).toBe(free);
    expect(field(machine.xen, granter.domid, DOM.TOT_PAGES)).toBe(256);
  });

  test("XSA-385: no sum of pages passes max_pages, whatever max_pages is", () => {
    const { machine, granter } = trio();
    const { xen } = machine;
    const pages = (): number => field(xen, granter.domid, DOM.TOT_PAGES);
    for (const max of [2 ** 34, 2 ** 44, 2 ** 53]) {
      domctl(machine, XEN_DOMCTL_max_mem, granter.domid, max);
      expect(field(xen, granter.domid, DOM.MAX_PAGES)).toBe(0x7fffffff);
    }
    domctl(machine, XEN_DOMCTL_max_mem, granter.domid, 256 * 4);
    const gfns = [HOLE];
    for (let order = 0; order <= 9; order++) {
      expect(reserve(machine, granter, XENMEM_increase_reservation, { gfns, order })).toBe(0);
    }
    domctl(machine, XEN_DOMCTL_max_mem, granter.domid, 0);
    expect(populate(machine, granter, HOLE)).toBe(0);
    expect(pages()).toBe(256);
    expect(audit(xen)).toEqual([]);
  });
});

describe("what a page held before", () => {
  test("XSA-100: a page that Xen has used itself reaches a guest empty", () => {
    const { machine, dom0, granter } = trio();
    addToPhysmap(machine, granter, { space: XENMAPSPACE_grant_table, idx: 3, gfn: HOLE });
    for (let at = 0; at < 4096; at += 4) writeWord(granter, HOLE * 4096 + at, 0xdead_beef);
    domctl(machine, XEN_DOMCTL_destroydomain, granter.domid);
    const domid = create(machine, 3);
    const gfns = [HOLE + 1, HOLE + 2, HOLE + 3];
    expect(acquire(machine, dom0, { dom: domid, frame: 1, gfns }).ret).toBe(0);
    for (const gfn of gfns) {
      for (let at = 0; at < 4096; at += 4) expect(readWord(dom0, gfn * 4096 + at)).toBe(0);
    }
  });

  test("XSA-364: a dead domain's page is cleared before anybody else can have it", () => {
    const { machine, granter, mapper } = trio();
    const frame = frameAt(machine, granter, granter.ram + 9);
    writeWord(granter, (granter.ram + 9) * 4096, 0x5ec7e7);
    domctl(machine, XEN_DOMCTL_destroydomain, granter.domid);
    expect(machine.xen.memory.load(FrameIndex(frame), 0)).toBe(0);
    domctl(machine, XEN_DOMCTL_max_mem, mapper.domid, 600 * 4);
    for (let i = 0; i < 200; i++) {
      expect(populate(machine, mapper, HOLE + i)).toBe(1);
      expect(readWord(mapper, (HOLE + i) * 4096)).toBe(0);
    }
  });
});

describe("references", () => {
  test("XSA-147: a page that is put while its owner is being torn down leaves the list once", () => {
    const { machine, granter, mapper } = trio();
    const { xen } = machine;
    setEntry(machine, granter, 8, GTF_permit_access, mapper.domid, granter.ram + 3);
    const op = { gfn: HOLE, flags: GNTMAP_host_map, ref: 8, dom: granter.domid };
    const { handle } = mapOne(machine, mapper, op);
    const { record } = hypercallTrap();
    setRecord(record, CONTROL_DOMCTL, [XEN_DOMCTL_destroydomain, granter.domid]);
    xen.channels[0]?.push(record);
    expect(step(xen)).toBe(true);
    // The killer stands at one of its gaps.
    expect(unmapOne(machine, mapper, { handle, address: HOLE * 4096 })).toBe(0);
    expect(audit(xen)).toEqual([]);
    while (xen.channels[0]?.idle === false) {
      expect(step(xen)).toBe(true);
      expect(audit(xen)).toEqual([]);
    }
    expect(isPresent(xen, granter.domid)).toBe(false);
  });

  test("XSA-276: a frame that was acquired stays when its owner gives it up", () => {
    const { machine, dom0, granter } = trio();
    const { xen } = machine;
    addToPhysmap(machine, granter, { space: XENMAPSPACE_grant_table, idx: 0, gfn: HOLE });
    const frame = frameAt(machine, granter, HOLE);
    acquire(machine, dom0, { dom: granter.domid, gfns: [HOLE] });
    expect(frameReferences(xen, frame)).toBe(2);
    expect(decrease(machine, granter, HOLE)).toBe(1);
    expect(frameReferences(xen, frame)).toBe(1);
    expect(frameOwner(xen, frame)).toBe(granter.domid);
    writeWord(dom0, HOLE * 4096, 1);
    domctl(machine, XEN_DOMCTL_destroydomain, granter.domid);
    expect(isPresent(xen, granter.domid)).toBe(true);
    expect(audit(xen)).toEqual([]);
    removeFromPhysmap(machine, dom0, HOLE);
    expect(isPresent(xen, granter.domid)).toBe(false);
    expect(audit(xen)).toEqual([]);
  });

  test("XSA-287: at every step a page in use has an owner, and an allocated one a reference", () => {
    const { machine, granter } = trio();
    const { xen } = machine;
    const judge = (): void => {
      for (let frame = 0; frame < xen.layout.ramFrames; frame++) {
        if (frameReferences(xen, frame) > 0) expect(frameOwner(xen, frame)).not.toBe(NOT_PRESENT);
        if (isAllocated(xen, frame)) expect(frameReferences(xen, frame)).toBeGreaterThan(0);
      }
    };
    decrease(machine, granter, granter.ram, granter.ram + 1);
    judge();
    populate(machine, granter, HOLE);
    judge();
    const { record } = hypercallTrap();
    setRecord(record, CONTROL_DOMCTL, [XEN_DOMCTL_destroydomain, granter.domid]);
    xen.channels[0]?.push(record);
    while (step(xen)) judge();
  });

  test("XSA-334: a refused acquire_resource leaves the domain as often referenced as before", () => {
    const { machine, dom0, granter } = trio();
    const refs = (): number => field(machine.xen, granter.domid, DOM.REFS);
    const before = refs();
    for (const bad of [
      { pad: 1 },
      { frame: 64, gfns: [HOLE] },
      { type: 0 },
      { gfns: [2n ** 52n] },
    ]) {
      expect(acquire(machine, dom0, { dom: granter.domid, ...bad }).ret).toBeLessThan(0);
      expect(refs()).toBe(before);
    }
    domctl(machine, XEN_DOMCTL_destroydomain, granter.domid);
    expect(isPresent(machine.xen, granter.domid)).toBe(false);
  });

  test("XSA-473: a foreign page that its owner has just given up cannot be mapped", () => {
    const { machine, dom0, granter } = trio();
    const batch = {
      space: XENMAPSPACE_gmfn_foreign,
      extra: granter.domid,
      idxs: [granter.ram],
      gfns: [HOLE],
    };
    const frame = frameAt(machine, granter, granter.ram);
    expect(addBatch(machine, dom0, batch).errs).toEqual([0]);
    decrease(machine, granter, granter.ram);
    // Only the entry keeps it now: a second one finds no page at that gfn any more.
    expect(addBatch(machine, dom0, { ...batch, gfns: [HOLE + 1] }).errs).toEqual([-EINVAL]);
    expect(isFree(machine.xen, frame)).toBe(false);
    expect(audit(machine.xen)).toEqual([]);
    removeFromPhysmap(machine, dom0, HOLE);
    expect(isFree(machine.xen, frame)).toBe(true);
  });
});

test("XSA-181: whichever page of Xen's a creation lacks, it gives everything back", () => {
  const results = new Set<number>();
  for (let xenHeapPages = 118; xenHeapPages < 170; xenHeapPages++) {
    const { machine } = trio({ limits: { ...testModel([]).limits, xenHeapPages } });
    const before = machine.xen.words[MACHINE.XEN_HEAP_FREE];
    const free = freeFrames(machine.xen);
    const created = create(machine, 3);
    results.add(Math.sign(created));
    if (created < 0) {
      expect(created).toBe(-ENOMEM);
      expect(machine.xen.words[MACHINE.XEN_HEAP_FREE]).toBe(before);
      expect(freeFrames(machine.xen)).toBe(free);
    }
    expect(audit(machine.xen)).toEqual([]);
  }
  expect([...results].sort()).toEqual([-1, 1]);
});

describe("what may be taken", () => {
  test("XSA-217: no page of a translated domain is ever stolen", () => {
    const { machine, dom0, granter } = trio();
    const gfns = [granter.ram];
    expect(exchange(machine, granter, { gfns }, { gfns })).toBe(-EOPNOTSUPP);
    expect(exchange(machine, dom0, { gfns: [dom0.ram] }, { gfns: [dom0.ram] })).toBe(-EOPNOTSUPP);
    expect(probe(granter, granter.ram, ACCESS_READ)).toBe(ACCESS_OK);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("XSA-378: generic removers leave device pages and grants alone", () => {
    const { machine, dom0, granter } = trio({ devices: [testDevice("dom0")] });
    const register = 0x0a00_0000 / 4096;
    addToPhysmap(machine, dom0, { space: XENMAPSPACE_dev_mmio, idx: register, gfn: HOLE });
    setEntry(machine, granter, 8, GTF_permit_access, dom0.domid, granter.ram);
    const op = { gfn: HOLE + 1, flags: GNTMAP_host_map, ref: 8, dom: granter.domid };
    mapOne(machine, dom0, op);
    for (const gfn of [register, HOLE, HOLE + 1]) {
      const entry = p2mLookup(machine.xen, DomId(dom0.domid), gfn);
      expect(entry).not.toBe(P2M_NOTHING);
      expect(removeFromPhysmap(machine, dom0, gfn)).toBe(-ENOENT);
      expect(decrease(machine, dom0, gfn)).toBe(0);
      expect(p2mLookup(machine.xen, DomId(dom0.domid), gfn)).toBe(entry);
    }
    expect(audit(machine.xen)).toEqual([]);
  });

  test("XSA-507: Xen's own pages that are ballooned out do not become ordinary memory", () => {
    const { machine, granter } = trio();
    const { xen } = machine;
    addToPhysmap(machine, granter, { space: XENMAPSPACE_shared_info, idx: 0, gfn: HOLE });
    addToPhysmap(machine, granter, { space: XENMAPSPACE_grant_table, idx: 0, gfn: HOLE + 1 });
    const frames = [HOLE, HOLE + 1].map((gfn) => frameAt(machine, granter, gfn));
    const free = freeFrames(xen);
    expect(decrease(machine, granter, HOLE, HOLE + 1)).toBe(2);
    expect(freeFrames(xen)).toBe(free);
    expect(field(xen, granter.domid, DOM.TOT_PAGES)).toBe(256);
    expect(frames.some((frame) => isFree(xen, frame))).toBe(false);
    expect(populate(machine, granter, HOLE)).toBe(0);
    expect(audit(xen)).toEqual([]);
    const { record } = hypercallTrap();
    setRecord(record, CONTROL_DOMCTL, [XEN_DOMCTL_destroydomain, granter.domid]);
    const control = xen.channels[0];
    if (control === undefined) throw new Error("slot 0 is the toolstack's");
    expect(pushAndRun(xen, control, record)).toBe(0);
    expect(isPresent(xen, granter.domid)).toBe(false);
    expect(audit(xen)).toEqual([]);
  });
});
