/** Foreign pages, and grant frames acquired as resources: references that live as long as their entries. */
import { describe, expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { KNOWN_FINDING } from "../../hypervisor/audit-walkers.ts";
import { frameOwner, frameReferences, isFree } from "../../hypervisor/frame-table.ts";
import { step } from "../../hypervisor/main.ts";
import { entryFrame, P2M_NOTHING, p2mLookup } from "../../hypervisor/p2m.ts";
import { domainField, isPresent } from "../../hypervisor/xen.ts";
import { XEN_DOMCTL_destroydomain } from "../../shared/abi/domctl.ts";
import { GNTMAP_host_map, GTF_permit_access } from "../../shared/abi/grant.ts";
import {
  XENMAPSPACE_gmfn_foreign,
  XENMAPSPACE_grant_table,
  XENMEM_decrease_reservation,
  XENMEM_populate_physmap,
} from "../../shared/abi/memory.ts";
import { DOMID_IO, DOMID_SELF, DOMID_XEN, HYPERVISOR_memory_op } from "../../shared/abi/xen.ts";
import { DOM, LINE } from "../../shared/layout.ts";
import {
  ACCESS_EXECUTE,
  ACCESS_OK,
  ACCESS_READ,
  ACCESS_WRITE,
  FAULT_PERMISSION,
  FAULT_TRANSLATION,
} from "../../shared/mmu.ts";
import { EBUSY, EINVAL, EPERM, ESRCH } from "../../shared/status.ts";
import { CONTROL_DOMCTL, hypercallTrap, setRecord } from "../../shared/trap.ts";
import { DomId } from "../../shared/units.ts";
import { domctl, lineWord, slotOf, type Trio, trio, workerEnds } from "./domains.ts";
import { mapOne, setEntry, unmap, unmapOne } from "./grants.ts";
import { type Actor, probe, readWord, type TestMachine, writeWord } from "./harness.ts";
import {
  acquire,
  addBatch,
  addToPhysmap,
  batchErrors,
  layBatch,
  removeFromPhysmap,
  reserve,
} from "./memory-calls.ts";

const HOLE = 0x60000;
const NOBODY = 4660;

const frameAt = ({ xen }: TestMachine, { domid }: Actor, gfn: number): number =>
  entryFrame(p2mLookup(xen, DomId(domid), gfn));

/** dom0 maps pages of `owner` from HOLE on. */
const foreign = (
  story: Trio,
  owner: Actor,
  pages: readonly number[],
  at = HOLE,
): ReturnType<typeof addBatch> =>
  addBatch(story.machine, story.dom0, {
    space: XENMAPSPACE_gmfn_foreign,
    extra: owner.domid,
    idxs: pages,
    gfns: pages.map((_, i) => at + i),
  });

describe("hypervisor case 91: who may map whose page", () => {
  test("errors are words of the elements, and the call answers 0", () => {
    const { machine, dom0, granter } = trio();
    const by = (actor: Actor, extra: number, idx: number, dom?: number): number | undefined =>
      addBatch(machine, actor, {
        space: XENMAPSPACE_gmfn_foreign,
        extra,
        idxs: [idx],
        gfns: [HOLE],
        ...(dom === undefined ? {} : { dom }),
      }).errs[0];
    expect(by(dom0, dom0.domid, dom0.ram)).toBe(-ESRCH);
    expect(by(dom0, DOMID_SELF, dom0.ram)).toBe(-EINVAL);
    expect(by(dom0, NOBODY, granter.ram)).toBe(-ESRCH);
    expect(by(granter, 0, dom0.ram)).toBe(-EPERM);
    expect(by(granter, 2, granter.ram)).toBe(-EPERM);
    for (const special of [DOMID_IO, DOMID_XEN]) {
      expect(by(dom0, special, granter.ram)).toBe(-EINVAL);
      expect(by(granter, special, granter.ram)).toBe(-EPERM);
    }
    // The mapper is judged, not who asks for it.
    expect(by(dom0, 2, granter.ram, granter.domid)).toBe(-EPERM);
    expect(by(dom0, granter.domid, granter.ram, granter.domid)).toBe(-EINVAL);
    expect(by(dom0, granter.domid, HOLE)).toBe(-EINVAL);
    setEntry(machine, dom0, 8, GTF_permit_access, granter.domid, dom0.ram);
    mapOne(machine, granter, { gfn: HOLE, flags: GNTMAP_host_map, ref: 8, dom: dom0.domid });
    expect(by(dom0, granter.domid, HOLE)).toBe(-EINVAL);
    expect(p2mLookup(machine.xen, DomId(dom0.domid), HOLE)).toBe(P2M_NOTHING);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("hypervisor case 105: a foreign page is read and written, but never executed", () => {
    const story = trio();
    const { machine, dom0, granter } = story;
    expect(foreign(story, granter, [granter.ram])).toEqual({ ret: 0, errs: [0] });
    writeWord(granter, granter.ram * 4096, 0xfeed);
    expect(readWord(dom0, HOLE * 4096)).toBe(0xfeed);
    expect(probe(dom0, HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
    expect(probe(dom0, HOLE, ACCESS_EXECUTE)).toBe(FAULT_PERMISSION);
    expect(frameReferences(machine.xen, frameAt(machine, granter, granter.ram))).toBe(2);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("hypervisor case 90: removing a foreign page drops its reference, a decrease cannot", () => {
    const story = trio();
    const { machine, dom0, granter } = story;
    foreign(story, granter, [granter.ram]);
    const frame = frameAt(machine, granter, granter.ram);
    expect(reserve(machine, dom0, XENMEM_decrease_reservation, { gfns: [HOLE] })).toBe(0);
    expect(removeFromPhysmap(machine, dom0, HOLE)).toBe(0);
    expect(frameReferences(machine.xen, frame)).toBe(1);
    expect(probe(dom0, HOLE, ACCESS_READ)).toBe(FAULT_TRANSLATION);
    expect(audit(machine.xen)).toEqual([]);
  });
});

describe("hypervisor case 92: a foreign page over a foreign page", () => {
  test("another frame: the old reference goes once, the new one is held", () => {
    const story = trio();
    const { machine, granter } = story;
    foreign(story, granter, [granter.ram]);
    foreign(story, granter, [granter.ram + 1]);
    expect(frameReferences(machine.xen, frameAt(machine, granter, granter.ram))).toBe(1);
    expect(frameReferences(machine.xen, frameAt(machine, granter, granter.ram + 1))).toBe(2);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("the same frame again: nothing leaks, and one removal drops everything", () => {
    const story = trio();
    const { machine, dom0, granter } = story;
    const frame = frameAt(machine, granter, granter.ram);
    for (let i = 0; i < 3; i++) expect(foreign(story, granter, [granter.ram]).errs).toEqual([0]);
    expect(frameReferences(machine.xen, frame)).toBe(2);
    expect(removeFromPhysmap(machine, dom0, HOLE)).toBe(0);
    expect(frameReferences(machine.xen, frame)).toBe(1);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("a grant of the page at the same address, mapped and unmapped, takes the reference along", () => {
    const story = trio();
    const { machine, dom0, granter } = story;
    const frame = frameAt(machine, granter, granter.ram);
    setEntry(machine, granter, 8, GTF_permit_access, dom0.domid, granter.ram);
    const op = { gfn: HOLE + 1, flags: GNTMAP_host_map, ref: 8, dom: granter.domid };
    const { handle } = mapOne(machine, dom0, op);
    foreign(story, granter, [granter.ram]);
    // The handle is unmapped where the foreign page stands: the frame is the same, so that entry goes.
    expect(unmapOne(machine, dom0, { handle, address: HOLE * 4096 })).toBe(0);
    expect(frameReferences(machine.xen, frame)).toBe(1);
    expect(p2mLookup(machine.xen, DomId(dom0.domid), HOLE)).toBe(P2M_NOTHING);
    foreign(story, granter, [granter.ram]);
    const again = mapOne(machine, dom0, { ...op, gfn: HOLE });
    expect(again.status).toBe(0);
    expect(frameReferences(machine.xen, frame)).toBe(2);
  });
});

test("thirty-two unmaps at once may each find a foreign page at their address", () => {
  const story = trio();
  const { machine, dom0, granter } = story;
  const pages = Array.from({ length: 32 }, (_, i) => granter.ram + i);
  const ops = pages.map((gfn, i) => {
    setEntry(machine, granter, 8 + i, GTF_permit_access, dom0.domid, gfn);
    return { gfn: HOLE + 64 + i, flags: GNTMAP_host_map, ref: 8 + i, dom: granter.domid };
  });
  const handles = ops.map((op) => mapOne(machine, dom0, op).handle);
  foreign(story, granter, pages);
  const unmaps = handles.map((handle, i) => ({ handle, address: (HOLE + i) * 4096 }));
  expect(unmap(machine, dom0, unmaps).statuses).toEqual(pages.map(() => 0));
  for (const gfn of pages) {
    expect(frameReferences(machine.xen, frameAt(machine, granter, gfn))).toBe(1);
  }
  // What is left are the grant entries that no handle stands for any more: the hole of recorded.md 12.
  expect(audit(machine.xen).every((finding) => finding.startsWith(KNOWN_FINDING))).toBe(true);
});

test("SILO is about grants and ports between guests: a control domain's foreign map is no matter of it", () => {
  const story = trio({ xsm: "silo" });
  expect(foreign(story, story.granter, [story.granter.ram]).errs).toEqual([0]);
  expect(acquire(story.machine, story.dom0, { dom: story.granter.domid }).ret).toBe(0);
});

describe("death", () => {
  test("hypervisor case 96: acquired grant frames keep their dead domain until they are unmapped", () => {
    const { machine, dom0, granter } = trio();
    acquire(machine, dom0, { dom: granter.domid, gfns: [HOLE, HOLE + 1] });
    expect(domctl(machine, XEN_DOMCTL_destroydomain, granter.domid)).toBe(0);
    expect(isPresent(machine.xen, granter.domid)).toBe(true);
    expect(domainField(machine.xen, granter.domid, DOM.TOT_PAGES)).toBe(0);
    writeWord(dom0, HOLE * 4096, 1);
    expect(audit(machine.xen)).toEqual([]);
    expect(removeFromPhysmap(machine, dom0, HOLE)).toBe(0);
    expect(isPresent(machine.xen, granter.domid)).toBe(true);
    expect(removeFromPhysmap(machine, dom0, HOLE + 1)).toBe(0);
    expect(isPresent(machine.xen, granter.domid)).toBe(false);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("a zombie's table still answers its size, and frames it never had cannot be acquired", () => {
    const story = trio();
    const { machine, dom0, granter } = story;
    foreign(story, granter, [granter.ram], HOLE + 9);
    domctl(machine, XEN_DOMCTL_destroydomain, granter.domid);
    expect(acquire(machine, dom0, { dom: granter.domid }).frames).toBe(4);
    expect(acquire(machine, dom0, { dom: granter.domid, gfns: [HOLE], frame: 3 }).ret).toBe(
      -EINVAL,
    );
    expect(foreign(story, granter, [granter.ram]).errs).toEqual([-EINVAL]);
    expect(removeFromPhysmap(machine, dom0, HOLE + 9)).toBe(0);
    expect(isPresent(machine.xen, granter.domid)).toBe(false);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("a foreign page outlives its owner, and is scrubbed when the entry goes", () => {
    const story = trio();
    const { machine, dom0, granter } = story;
    writeWord(granter, granter.ram * 4096, 0xfeed);
    foreign(story, granter, [granter.ram]);
    const frame = frameAt(machine, dom0, HOLE);
    domctl(machine, XEN_DOMCTL_destroydomain, granter.domid);
    expect(readWord(dom0, HOLE * 4096)).toBe(0xfeed);
    expect(frameOwner(machine.xen, frame)).toBe(granter.domid);
    removeFromPhysmap(machine, dom0, HOLE);
    expect(isFree(machine.xen, frame)).toBe(true);
    expect(isPresent(machine.xen, granter.domid)).toBe(false);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("a dying mapper gives its foreign pages back, also those of a zombie", () => {
    const story = trio();
    const { machine, dom0, granter } = story;
    foreign(story, granter, [granter.ram, granter.ram + 1]);
    domctl(machine, XEN_DOMCTL_destroydomain, granter.domid);
    workerEnds(machine, slotOf(machine.xen, dom0.domid));
    expect(isPresent(machine.xen, granter.domid)).toBe(false);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("hypervisor case 104: a dying domain is given nothing, and the page's reference goes at once", () => {
    const story = trio();
    const { machine, dom0, granter, mapper } = story;
    setEntry(machine, granter, 8, GTF_permit_access, dom0.domid, granter.ram);
    mapOne(machine, dom0, { gfn: HOLE, flags: GNTMAP_host_map, ref: 8, dom: granter.domid });
    domctl(machine, XEN_DOMCTL_destroydomain, granter.domid);
    const place = { space: XENMAPSPACE_grant_table, idx: 0, gfn: HOLE, dom: granter.domid };
    expect(addToPhysmap(machine, dom0, place)).toBe(-EBUSY);
    const populate = { gfns: [HOLE], dom: granter.domid };
    expect(reserve(machine, dom0, XENMEM_populate_physmap, populate)).toBe(0);
    const batch = { space: XENMAPSPACE_gmfn_foreign, extra: mapper.domid, dom: granter.domid };
    // The dead domain has no right over anybody, so its own page is what dom0 cannot give it either.
    expect(addBatch(machine, dom0, { ...batch, idxs: [mapper.ram], gfns: [HOLE] }).errs).toEqual([
      -EPERM,
    ]);
    expect(audit(machine.xen)).toEqual([]);
  });
});

describe("the flush comes before the reference goes", () => {
  test("XSA-493: a reader inside a foreign page keeps it until it has left, whatever replaces the entry", () => {
    const story = trio();
    const { machine, dom0, granter } = story;
    const { xen } = machine;
    foreign(story, granter, [granter.ram]);
    const frame = frameAt(machine, granter, granter.ram);
    const args = layBatch(dom0, {
      space: XENMAPSPACE_gmfn_foreign,
      extra: granter.domid,
      idxs: [granter.ram + 1],
      gfns: [HOLE],
    });
    expect(dom0.mmu.open(HOLE, ACCESS_READ)).toBe(ACCESS_OK);
    const { record } = hypercallTrap();
    setRecord(record, HYPERVISOR_memory_op, args);
    dom0.channel.push(record);
    step(xen);
    expect(lineWord(xen, slotOf(xen, dom0.domid), LINE.HELD)).toBe(1);
    // Meanwhile the owner gives the page up: it must not become free.
    reserve(machine, granter, XENMEM_decrease_reservation, { gfns: [granter.ram] });
    expect(frameReferences(xen, frame)).toBe(1);
    expect(audit(xen)).toEqual([]);
    dom0.mmu.close();
    while (!dom0.channel.idle) expect(step(xen)).toBe(true);
    expect(isFree(xen, frame)).toBe(true);
    expect(batchErrors(dom0, 1)).toEqual([0]);
    expect(audit(xen)).toEqual([]);
  });
});

test("a walker that is inside a foreign page when its domain dies keeps the page until it has left", () => {
  const story = trio();
  const { machine, dom0, granter } = story;
  const { xen } = machine;
  foreign(story, granter, [granter.ram]);
  const frame = frameAt(machine, dom0, HOLE);
  const held = frameReferences(xen, frame);
  expect(dom0.mmu.open(HOLE, ACCESS_READ)).toBe(ACCESS_OK);
  const { record } = hypercallTrap();
  setRecord(record, CONTROL_DOMCTL, [XEN_DOMCTL_destroydomain, dom0.domid]);
  xen.channels[0]?.push(record);
  while (step(xen));
  expect(frameReferences(xen, frame)).toBe(held);
  expect(audit(xen)).toEqual([]);
  dom0.mmu.close();
  while (step(xen));
  expect(frameReferences(xen, frame)).toBe(held - 1);
  expect(audit(xen)).toEqual([]);
});
