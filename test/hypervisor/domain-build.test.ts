/** Building domains: what a new one has, and that a failed one leaves nothing behind. */
import { describe, expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { portRemoteDomain, portState } from "../../hypervisor/event-ports.ts";
import { frameOwner, isReserved } from "../../hypervisor/frame-table.ts";
import { entryFrame, entryType, p2mLookup, walkSteps } from "../../hypervisor/p2m.ts";
import { XEN_DOMCTL_destroydomain } from "../../shared/abi/domctl.ts";
import { EVTCHNSTAT_unbound } from "../../shared/abi/event-channel.ts";
import { GTF_permit_access } from "../../shared/abi/grant.ts";
import { CONTEXT, contextOf } from "../../shared/iommu-layout.ts";
import {
  DOM,
  LINE,
  MACHINE,
  SLOT_FREE,
  SLOT_LIVE,
  WALK_BARE,
  WALK_BLOCKED,
  WALK_TABLE,
} from "../../shared/layout.ts";
import { ACCESS_OK, ACCESS_WRITE } from "../../shared/mmu.ts";
import { p2m_mmio_direct_dev, p2m_ram_rw } from "../../shared/pte.ts";
import { EINVAL, ENOMEM } from "../../shared/status.ts";
import { DomId, FrameIndex } from "../../shared/units.ts";
import {
  create,
  domctl,
  field,
  leaveDeadSlots,
  lineWord,
  slotOf,
  testDevice,
  trio,
} from "./domains.ts";
import { bootTestMachine, probe, testDom0, testDomain, testModel } from "./harness.ts";

const MIB = 1024 ** 2;

describe("a new domain", () => {
  test("has its pages at ramGfn, is paused once and not yet finished", () => {
    const { machine } = trio();
    const domid = create(machine, 3);
    const { xen } = machine;
    expect(domid).toBe(3);
    expect(field(xen, domid, DOM.TOT_PAGES)).toBe(256);
    expect(field(xen, domid, DOM.PAUSE)).toBe(1);
    expect(entryType(p2mLookup(xen, DomId(domid), 0x40000))).toBe(p2m_ram_rw);
    expect(p2mLookup(xen, DomId(domid), 0x40100)).toBe(0);
    expect(audit(xen)).toEqual([]);
  });

  test("finds xenstored through a zeroed page, a reserved grant and a port of its own", () => {
    const { machine, granter } = trio();
    const { xen } = machine;
    const gfn = field(xen, granter.domid, DOM.STORE_GFN);
    expect(gfn).toBe(granter.ram + 255);
    const frame =
      field(xen, granter.domid, DOM.GRANT_FRAMES) > 0
        ? (xen.words[xen.layout.grantFrame + granter.domid * xen.model.limits.grantFrames] ?? -1)
        : -1;
    expect(xen.memory.load(FrameIndex(frame), 8)).toBe(GTF_permit_access);
    expect(xen.memory.load(FrameIndex(frame), 12)).toBe(gfn);
    const port = field(xen, granter.domid, DOM.STORE_PORT);
    expect(port).toBe(1);
    expect(portState(xen, granter.domid, port)).toBe(EVTCHNSTAT_unbound + 1);
    expect(portRemoteDomain(xen, granter.domid, port)).toBe(0);
  });

  test("without a store has no page, grant or port", () => {
    const machine = bootTestMachine(
      testModel([testDom0(), testDomain("plain", { store: "none" })]),
    );
    expect(field(machine.xen, 1, DOM.STORE_GFN)).toBe(0);
    expect(field(machine.xen, 1, DOM.STORE_PORT)).toBe(0);
  });

  test("that is direct-mapped has every frame at the guest frame of the same number", () => {
    const { machine, dom0 } = trio();
    const frame = entryFrame(p2mLookup(machine.xen, DomId(0), dom0.ram + 7));
    expect(frame).toBe(dom0.ram - 0x40000 + 7);
    expect(probe(dom0, dom0.ram + 7, ACCESS_WRITE)).toBe(ACCESS_OK);
  });

  test("of a contiguous machine gets 2 MiB blocks, of a scattered one single pages", () => {
    const domain = testDomain("big", { memoryPages: 512 });
    for (const [allocator, levels] of [
      ["contiguous", 2],
      ["scattered", 3],
    ] as const) {
      const { xen } = bootTestMachine(testModel([testDom0(), domain], { allocator }));
      expect(walkSteps(xen, DomId(1), 0x40005).at(-1)?.level).toBe(levels);
      expect(audit(xen)).toEqual([]);
    }
  });
});

describe("static memory", () => {
  const fixed = testDomain("fixed", {
    atBoot: false,
    staticMemory: [{ base: 0x4060_0000, size: MIB }],
  });

  test("of a domain that does not exist yet is kept from everybody", () => {
    const { xen } = bootTestMachine(testModel([testDom0(), fixed]));
    expect(isReserved(xen, 0x600)).toBe(true);
    expect(audit(xen)).toEqual([]);
  });

  test("goes back to its reserve at the death of its domain, and serves the next one", () => {
    const machine = bootTestMachine(testModel([testDom0(), fixed]));
    const free = machine.xen.words[MACHINE.FREE_FRAMES];
    for (const expected of [1, 2]) {
      const domid = create(machine, 1);
      expect(domid).toBe(expected);
      expect(frameOwner(machine.xen, 0x600)).toBe(domid);
      expect(domctl(machine, XEN_DOMCTL_destroydomain, domid)).toBe(0);
      leaveDeadSlots(machine.xen);
      expect(isReserved(machine.xen, 0x600)).toBe(true);
      expect(machine.xen.words[MACHINE.FREE_FRAMES]).toBe(free);
      expect(audit(machine.xen)).toEqual([]);
    }
  });

  test("that somebody has cannot be given twice", () => {
    const machine = bootTestMachine(testModel([testDom0(), fixed]));
    expect(create(machine, 1)).toBe(1);
    expect(create(machine, 1)).toBe(-ENOMEM);
    expect(audit(machine.xen)).toEqual([]);
  });
});

describe("what cannot be built", () => {
  test("is refused when the model does not know it", () => {
    expect(create(trio().machine, 99)).toBe(-EINVAL);
  });

  test.each([
    ["RAM", { memoryPages: 4096 }],
    ["pages of the Xen heap", { p2mPoolPages: 4000 }],
    ["table pages", { p2mPoolPages: 1 }],
    ["slots", { vcpus: 4 }],
  ])("leaves nothing behind when %s run out", (what, overrides) => {
    const late = testDomain("late", { atBoot: false, ...overrides });
    const limits = { ...testModel([]).limits, slots: what === "slots" ? 4 : 16 };
    const machine = bootTestMachine(testModel([testDom0(), late], { limits }));
    const { xen } = machine;
    const before = [xen.words[MACHINE.FREE_FRAMES], xen.words[MACHINE.XEN_HEAP_FREE]];
    expect(create(machine, 1)).toBe(-ENOMEM);
    expect([xen.words[MACHINE.FREE_FRAMES], xen.words[MACHINE.XEN_HEAP_FREE]]).toEqual(before);
    expect(audit(xen)).toEqual([]);
    const states = [2, 3].map((slot) => lineWord(xen, slot, LINE.STATE));
    expect(states).toEqual([SLOT_FREE, SLOT_FREE]);
  });
});

describe("ids and slots", () => {
  test("an id is not given again before all others have been", () => {
    const { machine } = trio();
    const seen: number[] = [];
    for (let i = 0; i < 8; i++) {
      const domid = create(machine, 3);
      seen.push(domid);
      expect(domctl(machine, XEN_DOMCTL_destroydomain, domid)).toBe(0);
      leaveDeadSlots(machine.xen);
    }
    expect(seen).toEqual([3, 4, 5, 6, 7, 3, 4, 5]);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("a dead vCPU's slot waits for its runner to notice before it gets a new vCPU", () => {
    const { machine } = trio();
    const first = create(machine, 3);
    const slot = slotOf(machine.xen, first);
    domctl(machine, XEN_DOMCTL_destroydomain, first);
    const second = create(machine, 3);
    expect(slotOf(machine.xen, second)).toBe(slot + 1);
    domctl(machine, XEN_DOMCTL_destroydomain, second);
    leaveDeadSlots(machine.xen);
    const third = create(machine, 3);
    expect(slotOf(machine.xen, third)).toBe(slot);
    expect(lineWord(machine.xen, slot, LINE.STATE)).toBe(SLOT_LIVE);
  });
});

describe("devices", () => {
  test.each([
    [WALK_TABLE, true, true, "walks its owner's table behind an IOMMU"],
    [WALK_BLOCKED, true, false, "is blocked behind an IOMMU whose owner has no context"],
    [WALK_BARE, false, false, "addresses the machine where there is no IOMMU"],
  ])("mode %i: a device %4$s", (mode, behindIommu, iommu) => {
    const domains = [testDom0(), testDomain("drv", { iommu })];
    const { xen } = bootTestMachine(
      testModel(domains, { devices: [testDevice("drv", { behindIommu })] }),
    );
    expect(lineWord(xen, 1, LINE.MODE)).toBe(mode);
    expect(xen.words[contextOf(xen.layout, 0) + CONTEXT.OWNER]).toBe(1);
    expect(lineWord(xen, 1, LINE.DOMAIN)).toBe(mode === WALK_BLOCKED ? -1 : 1);
    const entry = p2mLookup(xen, DomId(1), 0xa000);
    expect([entryType(entry), entryFrame(entry)]).toEqual([
      p2m_mmio_direct_dev,
      xen.layout.ramFrames,
    ]);
    expect(audit(xen)).toEqual([]);
  });
});
