/** GNTTABOP_map_grant_ref: the order of its checks, what it enters and what a refusal leaves behind. */
import { describe, expect, test } from "vitest";
import { activePin } from "../../hypervisor/active-entry.ts";
import { audit } from "../../hypervisor/audit.ts";
import { frameReferences } from "../../hypervisor/frame-table.ts";
import { entryFrame, entryType, p2mLookup } from "../../hypervisor/p2m.ts";
import {
  GNTMAP_application_map,
  GNTMAP_contains_pte,
  GNTMAP_device_map,
  GNTMAP_host_map,
  GNTMAP_readonly,
  GTF_accept_transfer,
  GTF_permit_access,
  GTF_reading,
  GTF_readonly,
  GTF_transitive,
  GTF_writing,
} from "../../shared/abi/grant.ts";
import { DOMID_SELF, HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import { DOM, DYING_ALIVE, DYING_DYING, domainOf } from "../../shared/layout.ts";
import { ACCESS_OK, ACCESS_READ, ACCESS_WRITE } from "../../shared/mmu.ts";
import { p2m_grant_map_ro, p2m_grant_map_rw } from "../../shared/pte.ts";
import {
  EINVAL,
  ENOSYS,
  GNTST_bad_domain,
  GNTST_bad_gntref,
  GNTST_bad_page,
  GNTST_general_error,
  GNTST_no_space,
  GNTST_okay,
} from "../../shared/status.ts";
import { argumentAddress, entryFlags, map, mapOne, setEntry, unmapOne } from "./grants.ts";
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

const HOLE = 0x60000;

interface Pair {
  readonly machine: TestMachine;
  readonly granter: Actor;
  readonly mapper: Actor;
}

/** Granter and mapper are two plain DomUs; the granter's reference 8 grants its first frame writable. */
function pair(): Pair {
  const machine = bootTestMachine(testModel([testDom0(), testDomain("G"), testDomain("M")]));
  const [, granter, mapper] = machine.actors;
  if (granter === undefined || mapper === undefined) throw new Error("three domains boot");
  setEntry(machine, granter, 8, GTF_permit_access, mapper.domid, granter.ram);
  return { machine, granter, mapper };
}

const op = (granter: Actor, overrides = {}) => ({
  gfn: HOLE,
  flags: GNTMAP_host_map,
  ref: 8,
  dom: granter.domid,
  ...overrides,
});

describe("flags and names are checked before anything is looked at", () => {
  const rows: readonly (readonly [string, Record<string, number>, number])[] = [
    ["hypervisor case 1: no half asked for", { flags: 0 }, GNTST_bad_gntref],
    ["hypervisor case 2: read-only and no half", { flags: GNTMAP_readonly }, GNTST_bad_gntref],
    ["hypervisor case 3: a device mapping", { flags: GNTMAP_device_map }, GNTST_general_error],
    [
      "hypervisor case 3: a device mapping beside a host one",
      { flags: GNTMAP_device_map | GNTMAP_host_map },
      GNTST_general_error,
    ],
    [
      "hypervisor case 4: an application mapping",
      { flags: GNTMAP_host_map | GNTMAP_application_map },
      GNTST_general_error,
    ],
    [
      "hypervisor case 4: a page-table entry's address",
      { flags: GNTMAP_host_map | GNTMAP_contains_pte },
      GNTST_general_error,
    ],
    ["hypervisor case 6: DOMID_SELF is no domain here", { dom: DOMID_SELF }, GNTST_bad_domain],
    ["hypervisor case 8: a domain that does not exist", { dom: 7 }, GNTST_bad_domain],
    ["hypervisor case 8: flags come before the domain", { dom: 7, flags: 0 }, GNTST_bad_gntref],
    ["hypervisor case 9: a reference beyond the table", { ref: 512 }, GNTST_bad_gntref],
    ["hypervisor case 9: the last reference, empty", { ref: 511 }, GNTST_general_error],
    ["hypervisor case 10: an entry of zeroes", { ref: 9 }, GNTST_general_error],
  ];
  test.each(rows)("%s", (_, overrides, status) => {
    const { machine, granter, mapper } = pair();
    const result = mapOne(machine, mapper, op(granter, overrides));
    expect(result.status).toBe(status);
    // hypervisor case 35: a failed element keeps the caller's values.
    expect(result.handle).toBe(0xa5a5a5a5);
    expect(activePin(machine.xen, granter.domid, 8)).toBe(0);
    expect(audit(machine.xen)).toEqual([]);
  });
});

test("hypervisor case 5: a stray flag passes the first checks and fails at the mapping, leaving no trace", () => {
  const { machine, granter, mapper } = pair();
  const result = mapOne(machine, mapper, op(granter, { flags: GNTMAP_host_map | 0x10000 }));
  expect(result.status).toBe(GNTST_general_error);
  expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access);
  expect(activePin(machine.xen, granter.domid, 8)).toBe(0);
  expect(audit(machine.xen)).toEqual([]);
});

test("hypervisor case 7: a domain maps its own grant as a grant, with no identity entry", () => {
  const { machine, granter } = pair();
  setEntry(machine, granter, 9, GTF_permit_access, granter.domid, granter.ram + 1);
  expect(mapOne(machine, granter, op(granter, { ref: 9 })).status).toBe(GNTST_okay);
  expect(entryType(p2mLookup(machine.xen, granter.domid as never, HOLE))).toBe(p2m_grant_map_rw);
  expect(audit(machine.xen)).toEqual([]);
});

describe("the shared entry decides who may map, and how", () => {
  const rows: readonly (readonly [string, number, number, number, number])[] = [
    ["hypervisor case 11: accept_transfer", GTF_accept_transfer, 2, 0, GNTST_general_error],
    ["hypervisor case 11: transitive", GTF_transitive, 2, 0, GNTST_general_error],
    ["hypervisor case 12: granted to another domain", GTF_permit_access, 0, 0, GNTST_general_error],
    [
      "hypervisor case 13: a read-only grant for writing",
      GTF_permit_access | GTF_readonly,
      2,
      0,
      GNTST_general_error,
    ],
    [
      "hypervisor case 14: a read-only grant for reading",
      GTF_permit_access | GTF_readonly,
      2,
      GNTMAP_readonly,
      GNTST_okay,
    ],
  ];
  test.each(rows)("%s", (_, flags, grantee, mode, status) => {
    const { machine, granter, mapper } = pair();
    setEntry(machine, granter, 9, flags, grantee, granter.ram + 1);
    const result = mapOne(machine, mapper, op(granter, { ref: 9, flags: GNTMAP_host_map | mode }));
    expect(result.status).toBe(status);
    const expected = status === GNTST_okay ? flags | GTF_reading : flags;
    expect(entryFlags(machine, granter, 9)).toBe(expected);
    expect(audit(machine.xen)).toEqual([]);
  });
});

test("hypervisor case 15, hypervisor case 16: reading and writing follow the pins, one mapping at a time", () => {
  const { machine, granter, mapper } = pair();
  const reader = mapOne(machine, mapper, op(granter, { flags: GNTMAP_host_map | GNTMAP_readonly }));
  expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access | GTF_reading);
  const writer = mapOne(machine, mapper, op(granter, { gfn: HOLE + 1 }));
  expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access | GTF_reading | GTF_writing);
  expect(activePin(machine.xen, granter.domid, 8)).toBe(0x0101);
  expect(unmapOne(machine, mapper, { handle: writer.handle, address: (HOLE + 1) * 4096 })).toBe(0);
  expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access | GTF_reading);
  expect(unmapOne(machine, mapper, { handle: reader.handle, address: HOLE * 4096 })).toBe(0);
  expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access);
  expect(audit(machine.xen)).toEqual([]);
});

test("hypervisor case 17: while it is pinned, later maps get the old frame whatever the entry names", () => {
  const { machine, granter, mapper } = pair();
  writeWord(granter, granter.ram * 4096, 111);
  writeWord(granter, (granter.ram + 1) * 4096, 222);
  mapOne(machine, mapper, op(granter));
  setEntry(machine, granter, 8, entryFlags(machine, granter, 8), mapper.domid, granter.ram + 1);
  mapOne(machine, mapper, op(granter, { gfn: HOLE + 1 }));
  expect(readWord(mapper, (HOLE + 1) * 4096)).toBe(111);
  expect(audit(machine.xen)).toEqual([]);
});

test("hypervisor case 18: while it is pinned, the grantee of the pin counts and not the entry's", () => {
  const { machine, granter, mapper } = pair();
  mapOne(machine, mapper, op(granter));
  const flags = entryFlags(machine, granter, 8);
  setEntry(machine, granter, 8, flags, 0, granter.ram);
  const [dom0] = machine.actors;
  if (dom0 === undefined) throw new Error("dom0 boots");
  expect(mapOne(machine, dom0, op(granter)).status).toBe(GNTST_general_error);
  const again = op(granter, { gfn: HOLE + 1, flags: GNTMAP_host_map | GNTMAP_readonly });
  expect(mapOne(machine, mapper, again).status).toBe(GNTST_okay);
});

test("hypervisor case 19, hypervisor case 20: over a read-only pin only GTF_readonly is looked at again", () => {
  const { machine, granter, mapper } = pair();
  const reader = op(granter, { flags: GNTMAP_host_map | GNTMAP_readonly });
  mapOne(machine, mapper, reader);
  setEntry(machine, granter, 8, GTF_reading, mapper.domid, granter.ram);
  expect(mapOne(machine, mapper, { ...reader, gfn: HOLE + 1 }).status).toBe(GNTST_okay);
  setEntry(machine, granter, 8, GTF_reading | GTF_readonly, mapper.domid, granter.ram);
  expect(mapOne(machine, mapper, op(granter, { gfn: HOLE + 2 })).status).toBe(GNTST_general_error);
  expect(activePin(machine.xen, granter.domid, 8)).toBe(0x0200);
  setEntry(machine, granter, 8, GTF_reading, mapper.domid, granter.ram);
  expect(mapOne(machine, mapper, op(granter, { gfn: HOLE + 2 })).status).toBe(GNTST_okay);
  expect(entryFlags(machine, granter, 8)).toBe(GTF_reading | GTF_writing);
});

test("hypervisor case 21: a pin counter holds 128 and refuses the next, while the other counter has room", () => {
  const { machine, granter, mapper } = pair();
  for (let i = 0; i < 128; i++) {
    expect(mapOne(machine, mapper, op(granter, { gfn: HOLE + i })).status).toBe(GNTST_okay);
  }
  expect(mapOne(machine, mapper, op(granter, { gfn: HOLE + 200 })).status).toBe(
    GNTST_general_error,
  );
  const reader = op(granter, { gfn: HOLE + 201, flags: GNTMAP_host_map | GNTMAP_readonly });
  expect(mapOne(machine, mapper, reader).status).toBe(GNTST_okay);
  expect(audit(machine.xen)).toEqual([]);
});

test("hypervisor case 22: a domain without maptrack cannot map", () => {
  const machine = bootTestMachine(
    testModel([testDom0(), testDomain("G"), testDomain("M", { maxMaptrackFrames: 0 })]),
  );
  const [, granter, mapper] = machine.actors;
  if (granter === undefined || mapper === undefined) throw new Error("three domains boot");
  setEntry(machine, granter, 8, GTF_permit_access, mapper.domid, granter.ram);
  expect(mapOne(machine, mapper, op(granter)).status).toBe(GNTST_no_space);
});

test("hypervisor case 23: one maptrack page holds 255 handles beside its sentinel", () => {
  const machine = bootTestMachine(
    testModel([testDom0(), testDomain("G"), testDomain("M", { maxMaptrackFrames: 1 })]),
  );
  const [, granter, mapper] = machine.actors;
  if (granter === undefined || mapper === undefined) throw new Error("three domains boot");
  for (const ref of [8, 9])
    setEntry(machine, granter, ref, GTF_permit_access, mapper.domid, granter.ram);
  for (let i = 0; i < 255; i++) {
    const result = mapOne(machine, mapper, op(granter, { gfn: HOLE + i, ref: i < 128 ? 8 : 9 }));
    expect([result.status, result.handle]).toEqual([GNTST_okay, i]);
  }
  expect(mapOne(machine, mapper, op(granter, { gfn: HOLE + 255, ref: 9 })).status).toBe(
    GNTST_no_space,
  );
  expect(audit(machine.xen)).toEqual([]);
});

test("hypervisor case 24, hypervisor case 25: a gfn that is empty or holds somebody else's page cannot be granted", () => {
  const { machine, granter, mapper } = pair();
  setEntry(machine, granter, 9, GTF_permit_access, mapper.domid, HOLE);
  expect(mapOne(machine, mapper, op(granter, { ref: 9 })).status).toBe(GNTST_bad_page);
  expect(entryFlags(machine, granter, 9)).toBe(GTF_permit_access);
  // The mapper grants on what it has mapped of the granter.
  mapOne(machine, mapper, op(granter));
  setEntry(machine, mapper, 8, GTF_permit_access, granter.domid, HOLE);
  expect(mapOne(machine, granter, op(mapper, { gfn: HOLE + 9 })).status).toBe(GNTST_bad_page);
  expect(audit(machine.xen)).toEqual([]);
});

test("hypervisor case 28, hypervisor case 34: low address bits do not matter, and dev_bus_addr is the frame's", () => {
  const { machine, granter, mapper } = pair();
  const result = mapOne(machine, mapper, op(granter, { offset: 8 }));
  expect(result.status).toBe(GNTST_okay);
  const { xen } = machine;
  const frame = entryFrame(p2mLookup(xen, granter.domid as never, granter.ram));
  expect(entryFrame(p2mLookup(xen, mapper.domid as never, HOLE))).toBe(frame);
  // One bank at 0x4000_0000, so a frame's index and its address differ by the base alone.
  expect(result.devBusAddr).toBe(0x4000_0000 + frame * 4096);
  expect(unmapOne(machine, mapper, { handle: result.handle, address: HOLE * 4096 + 16 })).toBe(0);
});

test("hypervisor case 29: an address beyond the table is refused, never truncated", () => {
  const { machine, granter, mapper } = pair();
  const result = mapOne(machine, mapper, op(granter, { gfn: 2 ** 28 + HOLE }));
  expect(result.status).toBe(GNTST_general_error);
  expect(probe(mapper, HOLE, ACCESS_READ)).not.toBe(ACCESS_OK);
  expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access);
  expect(audit(machine.xen)).toEqual([]);
});

test("hypervisor case 30: a mapping over RAM replaces it, and the gfn is empty afterwards", () => {
  const { machine, granter, mapper } = pair();
  writeWord(granter, granter.ram * 4096, 77);
  const over = mapper.ram + 3;
  const { xen } = machine;
  const before = entryFrame(p2mLookup(xen, mapper.domid as never, over));
  const result = mapOne(machine, mapper, op(granter, { gfn: over }));
  expect(readWord(mapper, over * 4096)).toBe(77);
  expect(frameReferences(xen, before)).toBe(1);
  expect(unmapOne(machine, mapper, { handle: result.handle, address: over * 4096 })).toBe(0);
  expect(probe(mapper, over, ACCESS_READ)).not.toBe(ACCESS_OK);
  expect(audit(xen)).toEqual([]);
});

test("hypervisor case 31: two references at one gfn; the first unmap is refused until the gfn is empty", () => {
  const { machine, granter, mapper } = pair();
  setEntry(machine, granter, 9, GTF_permit_access, mapper.domid, granter.ram + 1);
  const first = mapOne(machine, mapper, op(granter));
  const second = mapOne(machine, mapper, op(granter, { ref: 9 }));
  const address = HOLE * 4096;
  expect(unmapOne(machine, mapper, { handle: first.handle, address })).toBe(GNTST_general_error);
  expect(unmapOne(machine, mapper, { handle: second.handle, address })).toBe(GNTST_okay);
  expect(unmapOne(machine, mapper, { handle: first.handle, address })).toBe(GNTST_okay);
  expect(audit(machine.xen)).toEqual([]);
});

test("hypervisor case 33: of a mapper that is dying already the P2M takes nothing, and nothing is left", () => {
  const { machine, granter, mapper } = pair();
  setEntry(machine, granter, 8, GTF_permit_access, mapper.domid, granter.ram);
  const dying = domainOf(machine.xen.layout, mapper.domid) + DOM.DYING;
  machine.xen.words[dying] = DYING_DYING;
  expect(mapOne(machine, mapper, op(granter)).status).toBe(GNTST_general_error);
  expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access);
  machine.xen.words[dying] = DYING_ALIVE;
  expect(audit(machine.xen)).toEqual([]);
});

test("hypervisor case 32: with no table page left the map fails and takes nothing with it", () => {
  const machine = bootTestMachine(
    testModel([testDom0(), testDomain("G"), testDomain("M", { p2mPoolPages: 5 })]),
  );
  const [, granter, mapper] = machine.actors;
  if (granter === undefined || mapper === undefined) throw new Error("three domains boot");
  setEntry(machine, granter, 8, GTF_permit_access, mapper.domid, granter.ram);
  let refused = 0;
  // Each mapping lies in another GiB, so each needs table pages of its own.
  for (let gib = 4; gib < 12; gib++) {
    const { status } = mapOne(machine, mapper, op(granter, { gfn: gib * 2 ** 18 }));
    if (status !== GNTST_okay) {
      expect(status).toBe(GNTST_general_error);
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(0);
  expect(audit(machine.xen)).toEqual([]);
});

test("hypervisor case 36: a failing element does not stop its batch", () => {
  const { machine, granter, mapper } = pair();
  const { ret, results } = map(machine, mapper, [
    op(granter),
    op(granter, { ref: 600 }),
    op(granter, { gfn: HOLE + 1 }),
  ]);
  expect(ret).toBe(0);
  expect(results.map((result) => result.status)).toEqual([0, GNTST_bad_gntref, 0]);
});

test("hypervisor case 37, hypervisor case 38: counts and operations that cannot be", () => {
  const { machine, mapper } = pair();
  const at = argumentAddress(mapper);
  const grantTableOp = (cmd: number, count: number) =>
    call(machine, mapper, HYPERVISOR_grant_table_op, cmd, at, count);
  expect(grantTableOp(0, 0x80000000)).toBe(-EINVAL);
  expect(grantTableOp(0, 0)).toBe(0);
  expect(grantTableOp(0x1000, 1)).toBe(-EINVAL);
  expect(grantTableOp(13, 1)).toBe(-ENOSYS);
  expect(grantTableOp(3, 1)).toBe(-ENOSYS);
});

test("a writable mapping carries stores to the granter, a read-only one refuses them", () => {
  const { machine, granter, mapper } = pair();
  mapOne(machine, mapper, op(granter));
  writeWord(mapper, HOLE * 4096, 4711);
  expect(readWord(granter, granter.ram * 4096)).toBe(4711);
  mapOne(machine, mapper, op(granter, { gfn: HOLE + 1, flags: GNTMAP_host_map | GNTMAP_readonly }));
  expect(probe(mapper, HOLE + 1, ACCESS_READ)).toBe(ACCESS_OK);
  expect(probe(mapper, HOLE + 1, ACCESS_WRITE)).not.toBe(ACCESS_OK);
  expect(entryType(p2mLookup(machine.xen, mapper.domid as never, HOLE + 1))).toBe(p2m_grant_map_ro);
});
