/** Death: corner cases 118 to 122 of the specification, and what becomes of devices, holds and other killers. */
import { describe, expect, test } from "vitest";
import { activePin } from "../../hypervisor/active-entry.ts";
import { audit } from "../../hypervisor/audit.ts";
import { ECS_UNBOUND, portState } from "../../hypervisor/event-ports.ts";
import { frameOwner, frameReferences, isFree } from "../../hypervisor/frame-table.ts";
import { step } from "../../hypervisor/main.ts";
import { entryFrame, p2mLookup } from "../../hypervisor/p2m.ts";
import { isPresent } from "../../hypervisor/xen.ts";
import { XEN_DOMCTL_destroydomain, XEN_DOMCTL_unpausedomain } from "../../shared/abi/domctl.ts";
import {
  GNTMAP_host_map,
  GNTTABOP_unmap_grant_ref,
  GTF_permit_access,
  GTF_reading,
  GTF_writing,
} from "../../shared/abi/grant.ts";
import { HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import {
  DOM,
  DYING_ALIVE,
  DYING_DEAD,
  LINE,
  MACHINE,
  SLOT_DEAD,
  WALK_BLOCKED,
} from "../../shared/layout.ts";
import {
  ACCESS_OK,
  ACCESS_READ,
  ACCESS_WRITE,
  FAULT_BLOCKED,
  leaveForDead,
  Mmu,
} from "../../shared/mmu.ts";
import { GNTST_bad_domain, GNTST_bad_page, GNTST_okay } from "../../shared/status.ts";
import { CONTROL_DOMCTL, hypercallTrap, setRecord } from "../../shared/trap.ts";
import { DomId, FrameIndex } from "../../shared/units.ts";
import {
  domctl,
  field,
  leaveDeadSlots,
  lineWord,
  slotOf,
  type Trio,
  testDevice,
  trio,
  workerEnds,
} from "./domains.ts";
import { argumentAddress, entryFlags, mapOne, setEntry, unmapOne } from "./grants.ts";
import {
  bootTestMachine,
  probe,
  readWord,
  testDom0,
  testDomain,
  testModel,
  writeGuest,
  writeWord,
} from "./harness.ts";

const HOLE = 0x60000;

/** The granter's first page, granted by reference 8 and mapped writable at HOLE. */
function mapped(): Trio & { readonly frame: number; readonly handle: number } {
  const story = trio();
  const { machine, granter, mapper } = story;
  setEntry(machine, granter, 8, GTF_permit_access, mapper.domid, granter.ram);
  setEntry(machine, granter, 9, GTF_permit_access, mapper.domid, granter.ram + 1);
  writeWord(granter, granter.ram * 4096, 0xfeed);
  const { status, handle } = mapOne(machine, mapper, {
    gfn: HOLE,
    flags: GNTMAP_host_map,
    ref: 8,
    dom: granter.domid,
  });
  if (status !== GNTST_okay) throw new Error(`map answered ${status}`);
  const frame = entryFrame(p2mLookup(machine.xen, DomId(granter.domid), granter.ram));
  return { ...story, frame, handle };
}

const kill = (story: Trio, domid: number): number =>
  domctl(story.machine, XEN_DOMCTL_destroydomain, domid);

describe("hypervisor case 118: the mapper dies", () => {
  test("the granter's bits clear and its page count returns to the allocation reference", () => {
    const story = mapped();
    const { machine, granter, mapper, frame } = story;
    expect(frameReferences(machine.xen, frame)).toBe(2);
    expect(kill(story, mapper.domid)).toBe(0);
    expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access);
    expect(activePin(machine.xen, granter.domid, 8)).toBe(0);
    expect(frameReferences(machine.xen, frame)).toBe(1);
    expect(isPresent(machine.xen, mapper.domid)).toBe(false);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("the grant is released before the granter's event channel turns unbound", () => {
    const story = mapped();
    const { machine, granter, mapper } = story;
    const { xen } = machine;
    const port = field(xen, granter.domid, DOM.STORE_PORT);
    // The two ends of an interdomain channel, as bind_interdomain leaves them.
    const row = (domid: number, p: number): number => domid * xen.model.limits.ports + p;
    for (const [from, fromPort, to, toPort] of [
      [granter.domid, port, mapper.domid, 2],
      [mapper.domid, 2, granter.domid, port],
    ] as const) {
      xen.words[xen.layout.portState + row(from, fromPort)] = 3;
      xen.words[xen.layout.portRemoteDomain + row(from, fromPort)] = to;
      xen.words[xen.layout.portRemotePort + row(from, fromPort)] = toPort;
    }
    const { record } = hypercallTrap();
    setRecord(record, CONTROL_DOMCTL, [XEN_DOMCTL_destroydomain, mapper.domid]);
    xen.channels[0]?.push(record);
    while (portState(xen, granter.domid, port) !== ECS_UNBOUND) {
      if ((entryFlags(machine, granter, 8) & GTF_reading) === 0) {
        expect(portState(xen, granter.domid, port)).not.toBe(ECS_UNBOUND);
      }
      expect(step(xen)).toBe(true);
    }
    expect(entryFlags(machine, granter, 8) & (GTF_reading | GTF_writing)).toBe(0);
  });
});

describe("hypervisor case 119: the granter dies with a page mapped", () => {
  test("the mapper keeps the page, the rest is freed, and its last unmap takes the domain along", () => {
    const story = mapped();
    const { machine, granter, mapper, frame, handle } = story;
    const free = machine.xen.words[MACHINE.FREE_FRAMES] ?? 0;
    expect(kill(story, granter.domid)).toBe(0);
    expect(field(machine.xen, granter.domid, DOM.DYING)).toBe(DYING_DEAD);
    expect(field(machine.xen, granter.domid, DOM.TOT_PAGES)).toBe(1);
    expect(machine.xen.words[MACHINE.FREE_FRAMES]).toBe(free + 255);
    expect(readWord(mapper, HOLE * 4096)).toBe(0xfeed);
    writeWord(mapper, HOLE * 4096, 0xcafe);
    expect(audit(machine.xen)).toEqual([]);
    expect(unmapOne(machine, mapper, { handle, address: HOLE * 4096 })).toBe(GNTST_okay);
    expect(isPresent(machine.xen, granter.domid)).toBe(false);
    expect(isFree(machine.xen, frame)).toBe(true);
    expect(audit(machine.xen)).toEqual([]);
  });
});

test("hypervisor case 120: a dying granter's pinned page can still be mapped, its others cannot, and a gone one is unknown", () => {
  const story = mapped();
  const { machine, granter, mapper, handle } = story;
  kill(story, granter.domid);
  const op = { gfn: HOLE + 1, flags: GNTMAP_host_map, ref: 8, dom: granter.domid };
  const again = mapOne(machine, mapper, op);
  expect(again.status).toBe(GNTST_okay);
  expect(mapOne(machine, mapper, { ...op, gfn: HOLE + 2, ref: 9 }).status).toBe(GNTST_bad_page);
  unmapOne(machine, mapper, { handle: again.handle, address: (HOLE + 1) * 4096 });
  unmapOne(machine, mapper, { handle, address: HOLE * 4096 });
  expect(mapOne(machine, mapper, op).status).toBe(GNTST_bad_domain);
  expect(audit(machine.xen)).toEqual([]);
});

test("hypervisor case 121: a page that its owner's death freed after the unmap is scrubbed", () => {
  const story = mapped();
  const { machine, granter, mapper, frame, handle } = story;
  kill(story, granter.domid);
  writeWord(mapper, HOLE * 4096, 0xcafe);
  unmapOne(machine, mapper, { handle, address: HOLE * 4096 });
  expect(machine.xen.memory.load(FrameIndex(frame), 0)).toBe(0);
});

test("hypervisor case 122: a mapper that dies between the two passes of its unmap drops each reference once", () => {
  const story = mapped();
  const { machine, granter, mapper, frame, handle } = story;
  const { xen } = machine;
  const bytes = new Uint8Array(24);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, HOLE * 4096, true);
  view.setUint32(16, handle, true);
  writeGuest(mapper, argumentAddress(mapper), bytes);
  // A second walker of the mapper's table is inside an access, so the unmap waits for its flush.
  expect(mapper.mmu.open(HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
  const { record } = hypercallTrap();
  setRecord(record, HYPERVISOR_grant_table_op, [
    GNTTABOP_unmap_grant_ref,
    argumentAddress(mapper),
    1,
  ]);
  mapper.channel.push(record);
  expect(step(xen)).toBe(true);
  const slot = slotOf(xen, mapper.domid);
  expect(lineWord(xen, slot, LINE.HELD)).toBe(1);
  expect(audit(xen)).toEqual([]);
  expect(frameReferences(xen, frame)).toBe(2);
  expect(workerEnds(machine, slot)).toBe(0);
  expect(lineWord(xen, slot, LINE.HELD)).toBe(0);
  expect(frameReferences(xen, frame)).toBe(1);
  expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access);
  expect(audit(xen)).toEqual([]);
});

describe("walkers of a dying domain", () => {
  test("a kill waits for an access that is open, and nothing is freed before it is closed", () => {
    const story = trio();
    const { machine, mapper } = story;
    const { xen } = machine;
    expect(mapper.mmu.open(mapper.ram, ACCESS_WRITE)).toBe(ACCESS_OK);
    const { record } = hypercallTrap();
    setRecord(record, CONTROL_DOMCTL, [XEN_DOMCTL_destroydomain, mapper.domid]);
    xen.channels[0]?.push(record);
    while (step(xen));
    expect(xen.channels[0]?.idle).toBe(false);
    expect(field(xen, mapper.domid, DOM.TOT_PAGES)).toBe(256);
    expect(audit(xen)).toEqual([]);
    mapper.mmu.close();
    while (step(xen));
    expect(xen.channels[0]?.idle).toBe(true);
    expect(isPresent(xen, mapper.domid)).toBe(false);
    expect(audit(xen)).toEqual([]);
  });

  test("a killed vCPU that has not noticed yet translates nothing", () => {
    const story = trio();
    expect(probe(story.mapper, story.mapper.ram, ACCESS_READ)).toBe(ACCESS_OK);
    kill(story, story.mapper.domid);
    expect(probe(story.mapper, story.mapper.ram, ACCESS_READ)).toBe(FAULT_BLOCKED);
  });

  test("a device leaves the context of its dying owner and is handed to the next domain of that name", () => {
    const domains = [testDom0(), testDomain("drv", { iommu: true })];
    const machine = bootTestMachine(testModel(domains, { devices: [testDevice("drv")] }));
    const { xen } = machine;
    const port = new Mmu(xen.words, xen.memory, xen.layout, 1);
    expect(port.open(0x40000, ACCESS_WRITE)).toBe(ACCESS_OK);
    port.close();
    expect(domctl(machine, XEN_DOMCTL_destroydomain, 1)).toBe(0);
    expect(lineWord(xen, 1, LINE.MODE)).toBe(WALK_BLOCKED);
    expect(port.open(0x40000, ACCESS_WRITE)).toBe(FAULT_BLOCKED);
    expect(audit(xen)).toEqual([]);
  });
});

describe("killers", () => {
  test("destroying a dead domain again answers 0 while it is a zombie", () => {
    const story = mapped();
    expect(kill(story, story.granter.domid)).toBe(0);
    expect(kill(story, story.granter.domid)).toBe(0);
    expect(domctl(story.machine, XEN_DOMCTL_unpausedomain, story.granter.domid)).toBeLessThan(0);
  });

  test("a domain whose killer dies half-way is torn down to its end", () => {
    const story = mapped();
    const { machine, dom0, mapper } = story;
    const { xen } = machine;
    // The victim is inside an access, so dom0's destroydomain stands at a gap.
    expect(mapper.mmu.open(mapper.ram, ACCESS_READ)).toBe(ACCESS_OK);
    const bytes = new Uint8Array(128);
    new DataView(bytes.buffer).setUint32(0, XEN_DOMCTL_destroydomain, true);
    new DataView(bytes.buffer).setUint16(8, mapper.domid, true);
    writeGuest(dom0, argumentAddress(dom0), bytes);
    const { record } = hypercallTrap();
    setRecord(record, 36, [argumentAddress(dom0)]);
    dom0.channel.push(record);
    while (step(xen));
    expect(field(xen, mapper.domid, DOM.DYING)).not.toBe(DYING_ALIVE);
    mapper.mmu.close();
    expect(workerEnds(machine, slotOf(xen, dom0.domid))).toBe(0);
    expect(isPresent(xen, mapper.domid)).toBe(false);
    expect(isPresent(xen, dom0.domid)).toBe(false);
    expect(audit(xen)).toEqual([]);
  });

  test("the end of a worker kills its domain, and the frames come back for a new one", () => {
    const story = mapped();
    const { machine, granter, frame } = story;
    const slot = slotOf(machine.xen, granter.domid);
    expect(workerEnds(machine, slot)).toBe(0);
    expect(lineWord(machine.xen, slot, LINE.STATE)).toBe(SLOT_DEAD);
    expect(frameOwner(machine.xen, frame)).toBe(granter.domid);
    leaveDeadSlots(machine.xen);
    leaveForDead(machine.xen.words, machine.xen.layout, slot);
    expect(audit(machine.xen)).toEqual([]);
  });
});
