/** Which pages may be granted, and batches that are watched from outside while they are cut. */
import { expect, test } from "vitest";
import { activePin } from "../../hypervisor/active-entry.ts";
import { audit } from "../../hypervisor/audit.ts";
import { frameReferences } from "../../hypervisor/frame-table.ts";
import { step } from "../../hypervisor/main.ts";
import { entryFrame, entryType, p2mLookup } from "../../hypervisor/p2m.ts";
import {
  GNTMAP_host_map,
  GNTMAP_readonly,
  GNTTABOP_unmap_grant_ref,
  GTF_permit_access,
  GTF_readonly,
  UNMAP_SIZE,
} from "../../shared/abi/grant.ts";
import { XENMAPSPACE_gmfn_foreign } from "../../shared/abi/memory.ts";
import { DOMID_SELF, HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import { p2m_mmio_direct_dev } from "../../shared/pte.ts";
import { GNTST_bad_page, GNTST_general_error, GNTST_okay } from "../../shared/status.ts";
import { hypercallTrap, setRecord } from "../../shared/trap.ts";
import { DomId, FrameIndex } from "../../shared/units.ts";
import { testDevice, trio } from "./domains.ts";
import { argumentAddress, copyOne, entryFlags, mapOne, setEntry } from "./grants.ts";
import {
  type Actor,
  readGuest,
  readWord,
  type TestMachine,
  writeGuest,
  writeWord,
} from "./harness.ts";
import { addBatch } from "./memory-calls.ts";

const HOLE = 0x60000;
const at = (granter: Actor, overrides = {}) => ({
  gfn: HOLE,
  flags: GNTMAP_host_map,
  ref: 8,
  dom: granter.domid,
  ...overrides,
});
const frameAt = ({ xen }: TestMachine, { domid }: Actor, gfn: number): number =>
  entryFrame(p2mLookup(xen, DomId(domid), gfn));

test("hypervisor case 26: a foreign page is not its mapper's to grant", () => {
  const { machine, dom0, granter, mapper } = trio();
  const foreign = { space: XENMAPSPACE_gmfn_foreign, extra: granter.domid };
  addBatch(machine, dom0, { ...foreign, idxs: [granter.ram], gfns: [HOLE] });
  expect(frameAt(machine, dom0, HOLE)).toBe(frameAt(machine, granter, granter.ram));
  setEntry(machine, dom0, 8, GTF_permit_access, mapper.domid, HOLE);
  expect(mapOne(machine, mapper, at(dom0)).status).toBe(GNTST_bad_page);
  expect(entryFlags(machine, dom0, 8)).toBe(GTF_permit_access);
  expect(audit(machine.xen)).toEqual([]);
});

test("hypervisor case 27: a register page has no RAM type and cannot be granted", () => {
  const { machine, granter, mapper } = trio({ devices: [testDevice("G")] });
  const gfn = 0x0a00_0000 / 4096;
  const entry = p2mLookup(machine.xen, DomId(granter.domid), gfn);
  expect(entryType(entry)).toBe(p2m_mmio_direct_dev);
  setEntry(machine, granter, 8, GTF_permit_access, mapper.domid, gfn);
  expect(mapOne(machine, mapper, at(granter)).status).toBe(GNTST_bad_page);
  expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access);
  expect(audit(machine.xen)).toEqual([]);
});

test("hypervisor case 49: the first 32 of 33 unmaps are over before the last is looked at", () => {
  const { machine, granter, mapper } = trio();
  const { xen } = machine;
  setEntry(machine, granter, 8, GTF_permit_access, mapper.domid, granter.ram);
  const frame = frameAt(machine, granter, granter.ram);
  const bytes = new Uint8Array(UNMAP_SIZE * 33);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < 33; i++) {
    const { handle } = mapOne(machine, mapper, at(granter, { gfn: HOLE + i }));
    view.setBigUint64(i * UNMAP_SIZE, BigInt(HOLE + i) * 4096n, true);
    view.setUint32(i * UNMAP_SIZE + 16, handle, true);
    view.setInt16(i * UNMAP_SIZE + 20, 0x5a5a, true);
  }
  const uop = argumentAddress(mapper);
  writeGuest(mapper, uop, bytes);
  const { record } = hypercallTrap();
  setRecord(record, HYPERVISOR_grant_table_op, [GNTTABOP_unmap_grant_ref, uop, 33]);
  mapper.channel.push(record);
  const seen: string[] = [];
  while (!mapper.channel.idle) {
    expect(step(xen)).toBe(true);
    const after = new DataView(readGuest(mapper, uop, bytes.length).buffer);
    const done = Array.from({ length: 33 }, (_, i) => after.getInt16(i * UNMAP_SIZE + 20, true));
    const settled = done.filter((status) => status === GNTST_okay).length;
    seen.push(`${settled} ${activePin(xen, granter.domid, 8)} ${frameReferences(xen, frame)}`);
  }
  expect(seen).toContain("32 1 2");
  expect(seen.at(-1)).toBe("33 0 1");
  expect(audit(xen)).toEqual([]);
});

test("hypervisor case 80: copies through an entry that never holds still take a page it has named, or none", () => {
  const { machine, granter, mapper } = trio();
  const { xen } = machine;
  const { memory, words, layout } = xen;
  const row = layout.grantFrame + granter.domid * layout.model.limits.grantFrames;
  const table = FrameIndex(words[row] ?? -1);
  for (const page of [0, 1, 2]) writeWord(granter, (granter.ram + page) * 4096, 100 + page);
  setEntry(machine, granter, 8, GTF_permit_access, mapper.domid, granter.ram);
  const headers = [GTF_permit_access, GTF_permit_access | GTF_readonly, 0, GTF_permit_access];
  const gfns = [granter.ram, granter.ram + 1, HOLE];
  const answers = new Set<string>();
  for (let round = 0; round < 60; round++) {
    let touched = round;
    memory.onGuestWord = () => {
      touched++;
      memory.store(table, 8 * 8 + 4, gfns[touched % 3] ?? 0);
      memory.store(table, 8 * 8, (mapper.domid << 16) | (headers[(touched >> 1) % 4] ?? 0));
    };
    const own = { gfn: mapper.ram, dom: DOMID_SELF };
    writeWord(mapper, mapper.ram * 4096, 7);
    const status = copyOne(machine, mapper, { ref: 8, dom: granter.domid }, own, 4);
    memory.onGuestWord = undefined;
    answers.add(`${status}: ${readWord(mapper, mapper.ram * 4096)}`);
    expect(activePin(xen, granter.domid, 8)).toBe(0);
    for (const page of [0, 1, 2]) {
      expect(frameReferences(xen, frameAt(machine, granter, granter.ram + page))).toBe(1);
    }
  }
  const allowed = ["0: 100", "0: 101", `${GNTST_general_error}: 7`, `${GNTST_bad_page}: 7`];
  for (const answer of answers) expect(allowed).toContain(answer);
  expect(answers.size).toBeGreaterThan(1);
  setEntry(machine, granter, 8, GTF_permit_access, mapper.domid, granter.ram);
  const readonly = GNTMAP_host_map | GNTMAP_readonly;
  expect(mapOne(machine, mapper, at(granter, { flags: readonly })).status).toBe(GNTST_okay);
});
