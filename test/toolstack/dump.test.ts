/** The readers of a dump, on machines whose state a test has made: what was done is what they show, and no more. */
import { describe, expect, test } from "vitest";
import { XEN_DOMCTL_destroydomain, XEN_DOMCTL_pausedomain } from "../../shared/abi/domctl.ts";
import {
  GNTMAP_host_map,
  GNTMAP_readonly,
  GNTTABOP_set_version,
  GTF_permit_access,
  GTF_readonly,
} from "../../shared/abi/grant.ts";
import { HYPERVISOR_event_channel_op, HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import { mfnAt } from "../../shared/layout.ts";
import { ACCESS_READ } from "../../shared/mmu.ts";
import { FrameIndex } from "../../shared/units.ts";
import {
  type DomainDump,
  diffDumps,
  diffLines,
  domidsOf,
  dumpLines,
  dumpMachine,
} from "../../toolstack/dump.ts";
import { WHATS, type What } from "../../toolstack/dump-section.ts";
import { create, domctl, testDevice, trio } from "../hypervisor/domains.ts";
import { connected, inFifo } from "../hypervisor/fifo-calls.ts";
import { argumentAddress, mapOne, setEntry, unmapOne } from "../hypervisor/grants.ts";
import {
  type Actor,
  bootTestMachine,
  call,
  probe,
  type TestMachine,
  testDom0,
  testDomain,
  testModel,
  writeWord,
} from "../hypervisor/harness.ts";

const HOLE = 0x60000;
const plain = (text: string): string => text;

const dumpOf = (machine: TestMachine, what: readonly What[] = WHATS) =>
  dumpMachine(machine.xen, what, domidsOf(machine.xen));

function domainOf(machine: TestMachine, domid: number, what?: readonly What[]): DomainDump {
  const found = dumpOf(machine, what).domains.find((domain) => domain.domid === domid);
  if (found === undefined) throw new Error(`domain ${domid} has no dump`);
  return found;
}

const rowsOf = (machine: TestMachine, actor: Actor, section: What | string): readonly object[] =>
  domainOf(machine, actor.domid).sections[section] ?? [];

/** G's first page, granted by reference 8 and mapped by M at HOLE; reference 9 is only offered. */
function mapped(flags = GNTMAP_host_map) {
  const story = trio();
  const { machine, granter, mapper } = story;
  setEntry(machine, granter, 8, GTF_permit_access, mapper.domid, granter.ram);
  setEntry(machine, granter, 9, GTF_permit_access | GTF_readonly, 0, granter.ram + 1);
  const op = { gfn: HOLE, flags, ref: 8, dom: granter.domid };
  const { status, handle } = mapOne(machine, mapper, op);
  expect(status).toBe(0);
  return { ...story, handle };
}

describe("a dump shows a grant on both sides", () => {
  test("the entry with its pin, the handle, and the P2M entry of the mapper", () => {
    const { machine, granter, mapper, handle } = mapped();
    const [first] = rowsOf(machine, granter, "p2m") as readonly { first: number; mfn: number }[];
    expect(first?.first).toBe(granter.ram);
    const grants = rowsOf(machine, granter, "grants").filter(
      (row) => (row as { ref: number }).ref >= 8,
    );
    const active = {
      domid: mapper.domid,
      mfn: first?.mfn,
      hostWriters: 1,
      hostReaders: 0,
      deviceWriters: 0,
      deviceReaders: 0,
      start: 0,
      length: 4096,
    };
    const shared = { type: "permit_access", domid: mapper.domid, gfn: granter.ram };
    expect(grants).toEqual([
      { ref: 8, shared: { ...shared, flags: ["reading", "writing"] }, active },
      { ref: 9, shared: { ...shared, flags: ["readonly"], domid: 0, gfn: granter.ram + 1 } },
    ]);
    expect(rowsOf(machine, mapper, "maptrack")).toEqual([
      { handle, granter: granter.domid, ref: 8, flags: ["host"], vcpu: 0 },
    ]);
    expect(rowsOf(machine, mapper, "p2m")).toContainEqual({
      first: HOLE,
      count: 1,
      mfn: first?.mfn,
      type: "grant_map_rw",
      permissions: "rw-",
      block: 1,
    });
  });

  test("what is read is the bytes: a pin that nobody made shows as well", () => {
    const { machine, granter } = mapped(GNTMAP_host_map | GNTMAP_readonly);
    const { words, layout } = machine.xen;
    const row = granter.domid * layout.model.limits.grantFrames * 512 + 8;
    words[layout.actPin + row] = (words[layout.actPin + row] ?? 0) + (3 << 16);
    const grants = rowsOf(machine, granter, "grants") as readonly { active?: object }[];
    expect(grants.find(({ active }) => active !== undefined)?.active).toMatchObject({
      hostReaders: 1,
      hostWriters: 0,
      deviceWriters: 3,
    });
  });

  test("the frame counts a reference more while it is mapped, and the difference names it", () => {
    const { machine, granter, mapper, handle } = mapped();
    const before = dumpOf(machine);
    expect(unmapOne(machine, mapper, { handle, address: HOLE * 4096 })).toBe(0);
    const diffs = diffDumps(before, dumpOf(machine));
    expect(diffs.map(({ name, change }) => [name, change])).toEqual([
      ["G", "changed"],
      ["M", "changed"],
    ]);
    const [g, m] = diffs;
    expect(g?.sections.frames?.removed).toMatchObject([{ count: 1, references: 2 }]);
    expect(g?.sections.frames?.added).toMatchObject([{ count: 1, references: 1 }]);
    expect(m?.head).toEqual({ mappings: [1, 0] });
    expect(m?.sections.p2m).toMatchObject({ removed: [{ first: HOLE }], added: [] });
    expect(m?.sections.maptrack).toMatchObject({ removed: [{ handle }], added: [] });
    const lines = diffLines(diffs, plain);
    expect(lines.filter((line) => /^ +- +0x60000 .*grant_map_rw/.test(line))).toHaveLength(1);
    expect(lines).toContain("  mappings: 1 -> 0");
    expect(diffLines(diffDumps(before, before), plain)).toEqual(["no difference"]);
    expect(granter.domid).toBe(1);
  });

  test("version 2: parts of pages, ways to other domains, and status words", () => {
    const domains = [testDom0(), testDomain("a"), testDomain("b")];
    const machine = bootTestMachine({ ...testModel(domains), arch: "x86" });
    const [, a, b] = machine.actors as [Actor, Actor, Actor];
    const at = argumentAddress(a);
    writeWord(a, at, 2);
    expect(call(machine, a, HYPERVISOR_grant_table_op, GNTTABOP_set_version, at, 1)).toBe(0);
    const { layout, words, memory } = machine.xen;
    const table = FrameIndex(
      words[layout.grantFrame + a.domid * layout.model.limits.grantFrames] ?? -1,
    );
    const store = (ref: number, cells: readonly number[]): void => {
      for (const [i, cell] of cells.entries()) memory.store(table, ref * 16 + i * 4, cell);
    };
    store(8, [(b.domid << 16) | 0x101, (100 << 16) | 40, a.ram + 3, 0]);
    store(9, [(b.domid << 16) | 3, b.domid, 77, 0]);
    store(10, [(b.domid << 16) | 1, 0, a.ram + 4, 0]);
    const op = { gfn: HOLE, flags: GNTMAP_host_map, ref: 10, dom: a.domid };
    expect(mapOne(machine, b, op).status).toBe(0);
    const rows = rowsOf(machine, a, "grants").filter((row) => (row as { ref: number }).ref >= 8);
    expect(rows).toMatchObject([
      { ref: 8, shared: { flags: ["sub_page"], gfn: a.ram + 3, start: 40, length: 100 } },
      { ref: 9, shared: { type: "transitive", toDomain: b.domid, toRef: 77 } },
      { ref: 10, shared: { flags: ["reading", "writing"] }, active: { domid: b.domid } },
    ]);
    expect(domainOf(machine, a.domid).head.grantVersion).toBe(2);
  });
});

describe("a dump shows event channels", () => {
  const send = (machine: TestMachine, by: Actor, port: number): number => {
    writeWord(by, argumentAddress(by), port);
    return call(machine, by, HYPERVISOR_event_channel_op, 4, argumentAddress(by));
  };

  test("both ends of a 2-level channel, and what is pending", () => {
    const { machine, one, other, ports, senders } = connected(1);
    const [port = 0] = ports;
    const [sender = 0] = senders;
    expect(send(machine, other, sender)).toBe(0);
    const row = (actor: Actor, number: number) =>
      rowsOf(machine, actor, "ports").find((one_) => (one_ as { port: number }).port === number);
    expect(row(one, port)).toMatchObject({
      state: "interdomain",
      remoteDomain: other.domid,
      remotePort: sender,
      pending: true,
    });
    expect(row(other, sender)).toMatchObject({ remoteDomain: one.domid, pending: false });
    expect(row(one, 0)).toMatchObject({ state: "reserved" });
  });

  test("FIFO: the bits are those of the event word, with the priority beside them", () => {
    const { machine, one, other, ports, senders } = inFifo(1);
    expect(send(machine, other, senders[0] ?? 0)).toBe(0);
    expect(domainOf(machine, one.domid).head.eventAbi).toBe("FIFO");
    expect(rowsOf(machine, one, "ports")).toContainEqual({
      port: ports[0],
      state: "interdomain",
      vcpu: 0,
      remoteDomain: other.domid,
      remotePort: senders[0],
      pending: true,
      masked: false,
      linked: true,
      priority: 7,
      saved: false,
    });
  });
});

test("a zombie is shown with the page that keeps it, and a domain that came or went is named", () => {
  const { machine, granter, mapper, handle } = mapped();
  const before = dumpOf(machine);
  expect(domctl(machine, XEN_DOMCTL_destroydomain, granter.domid)).toBe(0);
  const zombie = domainOf(machine, granter.domid);
  expect(zombie.head).toMatchObject({ life: "dead", pages: 1, references: 1 });
  expect(zombie.sections.frames).toMatchObject([
    { count: 2, references: 0, flags: ["xen_heap"] },
    { count: 1, references: 1, flags: [] },
  ]);
  expect(domidsOf(machine.xen, "G")).toEqual([granter.domid]);
  expect(unmapOne(machine, mapper, { handle, address: HOLE * 4096 })).toBe(0);
  expect(domidsOf(machine.xen, "G")).toEqual([]);
  const after = dumpOf(machine);
  expect(diffDumps(before, after).filter(({ change }) => change === "went")).toMatchObject([
    { domid: granter.domid, name: "G" },
  ]);
  expect(diffDumps(after, before).filter(({ change }) => change === "came")).toHaveLength(1);
});

test("a device's context, its identity entries, its faults and its cached translations", () => {
  const domains = [testDom0({ iommu: true }), testDomain("U")];
  const machine = bootTestMachine(testModel(domains, { devices: [testDevice("dom0")] }));
  const [dom0, u] = machine.actors as [Actor, Actor];
  setEntry(machine, u, 8, GTF_permit_access, 0, u.ram);
  const op = { gfn: HOLE, flags: GNTMAP_host_map | GNTMAP_readonly, ref: 8, dom: u.domid };
  expect(mapOne(machine, dom0, op).status).toBe(0);
  expect(probe(dom0, HOLE, ACCESS_READ)).toBe(0);
  const { xen } = machine;
  const frame = (rowsOf(machine, u, "p2m") as readonly { mfn: number }[])[0]?.mfn;
  expect(rowsOf(machine, dom0, "iommu")).toMatchObject([
    {
      device: "disk",
      slot: 1,
      mode: "translated",
      owner: 0,
      context: 0,
      tableOf: "P2M",
      faults: 0,
    },
  ]);
  expect(rowsOf(machine, dom0, "iommuIdentity")).toEqual([{ mfn: frame, readers: 1, writers: 0 }]);
  expect(rowsOf(machine, dom0, "tlb")).toContainEqual({
    first: HOLE,
    count: 1,
    mfn: frame,
    slot: expect.any(Number),
    of: "vCPU 0",
    permissions: "r--",
    stale: false,
  });
  const root = (rowsOf(machine, dom0, "iommu") as readonly { table: number }[])[0]?.table;
  expect(root).toBe(mfnAt(xen.layout, xen.words[xen.layout.lines + 32 + 7] ?? -1));
});

test("a device that nobody has is in quarantine, and its owner's table is a second one where tables are separate", () => {
  const domains = [testDom0({ iommu: true }), testDomain("late", { iommu: true, atBoot: false })];
  const machine = bootTestMachine({
    ...testModel(domains, { devices: [testDevice("late")] }),
    arch: "x86",
    iommu: { mode: "on", tables: "separate", quarantine: "scratch-page" },
  });
  const { strayDevices } = dumpOf(machine, ["iommu"]);
  expect(strayDevices).toMatchObject([{ mode: "translated", tableOf: "scratch page", owner: -1 }]);
  const domid = create(machine, 1);
  expect(dumpOf(machine, ["iommu"]).strayDevices).toEqual([]);
  const { sections } = domainOf(machine, domid);
  expect(sections.iommu).toMatchObject([{ owner: domid, context: domid, tableOf: "own table" }]);
  const pages = (rows: readonly object[] = []): number =>
    rows.reduce((sum, row) => sum + (row as { count: number }).count, 0);
  expect(pages(sections.iommuTable)).toBe(pages(sections.p2m));
});

test("the text has a head for each domain, one table a section, and long lists in one line", () => {
  const { machine } = mapped();
  expect(domctl(machine, XEN_DOMCTL_pausedomain, 1)).toBe(0);
  const lines = dumpLines(dumpOf(machine), plain);
  expect(lines.filter((line) => /^d\d /.test(line))).toEqual(["d0 dom0", "d1 G", "d2 M"]);
  expect(lines.find((line) => line.includes("paused 1 times"))).toContain("alive");
  expect(lines.length).toBeLessThan(100);
});
