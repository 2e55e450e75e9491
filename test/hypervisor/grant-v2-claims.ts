/**
 * What holds of entries of version 2 tables: parts of pages, ways to other domains, changes of version; and the stories
 * of the advisories about them, on x86.
 * Rule: each claim makes its own machine, so that it can be made of a copy of the sources that carries a planted bug.
 */

import { expect } from "vitest";
import {
  activePin,
  GNTPIN_hstr_inc,
  grantEntries,
  releasePin,
  takePin,
} from "../../hypervisor/active-entry.ts";
import { audit } from "../../hypervisor/audit.ts";
import { frameReferences } from "../../hypervisor/frame-table.ts";
import { entryCell, statusOf } from "../../hypervisor/grant-v2.ts";
import { step } from "../../hypervisor/main.ts";
import { entryFrame, p2mLookup } from "../../hypervisor/p2m.ts";
import {
  COPY_SIZE,
  GNTMAP_host_map,
  GNTMAP_readonly,
  GNTTABOP_copy,
  GTF_permit_access,
  GTF_reading,
  GTF_readonly,
  GTF_writing,
} from "../../shared/abi/grant.ts";
import { DOMID_SELF, HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import { BATCH_GAP } from "../../shared/limits.ts";
import {
  EAGAIN,
  EBUSY,
  ERANGE,
  GNTST_bad_gntref,
  GNTST_general_error,
  GNTST_okay,
} from "../../shared/status.ts";
import { DomId } from "../../shared/units.ts";
import { bootV2, fullPage, recordOf, subPage, V0, versionRecord, wayTo } from "./grant-v2-calls.ts";
import { argumentAddress, copyOne, mapOne, setEntry, unmapOne } from "./grants.ts";
import { type Actor, readGuest, readWord, writeGuest, writeWord } from "./harness.ts";

/** Copies of a batch, all through one reference of `dom`, into the caller's own page. */
function copyBatch(actor: Actor, dom: Actor, ref: number, count: number): Int32Array {
  const at = argumentAddress(actor);
  const bytes = new Uint8Array(count * COPY_SIZE);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < count; i++) {
    view.setUint32(i * COPY_SIZE, ref, true);
    view.setUint16(i * COPY_SIZE + 8, dom.domid, true);
    view.setUint32(i * COPY_SIZE + 16, actor.ram + 2, true);
    view.setUint16(i * COPY_SIZE + 24, DOMID_SELF, true);
    view.setUint16(i * COPY_SIZE + 32, 8, true);
    view.setUint16(i * COPY_SIZE + 34, 1, true);
    view.setInt16(i * COPY_SIZE + 36, 0x55, true);
  }
  writeGuest(actor, at, bytes);
  return recordOf(HYPERVISOR_grant_table_op, GNTTABOP_copy, at, count);
}
const copyStatuses = (actor: Actor, count: number): readonly number[] => {
  const view = new DataView(readGuest(actor, argumentAddress(actor), count * COPY_SIZE).buffer);
  return Array.from({ length: count }, (_, i) => view.getInt16(i * COPY_SIZE + 36, true));
};

export const CLAIMS: Readonly<Record<string, () => void>> = {
  "hypervisor case 61: an entry in use keeps the version, unless it is a reserved one": () => {
    const { machine, a, b, setVersion, mapFrom } = bootV2();
    setEntry(machine, a, 7, 1, b.domid, a.ram + 1);
    expect(mapFrom(b, a, 7)).toBe(0);
    setEntry(machine, b, 8, 1, a.domid, b.ram + 1);
    expect(mapFrom(a, b, 8)).toBe(0);
    expect(setVersion(b, 2)).toBe(-EBUSY);
    expect(setVersion(a, 2)).toBe(0);
    // Its reading and writing are in the status word now, and the header has lost them.
    expect(statusOf(machine.xen, a.domid, 7)).toBe(GTF_reading | GTF_writing);
    expect(entryCell(machine.xen, a.domid, 7, 0)).toBe((b.domid << 16) | GTF_permit_access);
  },

  "hypervisor case 62: the change wipes entries from 8 on and halves their number": () => {
    const { machine, a, b, setVersion, mapFrom } = bootV2();
    setEntry(machine, a, 8, 1, b.domid, a.ram + 1);
    // Bytes that are the tenth entry of version 2.
    setEntry(machine, a, 20, 1, b.domid, a.ram + 1);
    expect(setVersion(a, 2)).toBe(0);
    expect(entryCell(machine.xen, a.domid, 10, 0)).toBe(0);
    expect(mapFrom(b, a, 8)).toBe(-1);
    expect(mapFrom(b, a, 256)).toBe(-3);
  },

  "hypervisor case 64: a reserved entry with a frame beyond 32 bits has no place in version 1":
    () => {
      const { a, b, setVersion, store } = bootV2();
      expect(setVersion(a, 2)).toBe(0);
      store(a, 3, [1 | (b.domid << 16), 0, 0, 1]);
      expect(setVersion(a, 1)).toBe(-ERANGE);
    },

  "hypervisor case 76: a part of a page is copied from within its window and never mapped": () => {
    const { a, b, setVersion, store, mapFrom, copyFrom } = bootV2();
    expect(setVersion(a, 2)).toBe(0);
    store(a, 8, subPage(b, a.ram + 1, 100, 100));
    expect(copyFrom(b, a, 8, 100, 100)).toBe(0);
    expect(copyFrom(b, a, 8, 100, 101)).toBe(-1);
    expect(mapFrom(b, a, 8)).toBe(-1);
  },

  "hypervisor case 78: a way to another domain's entry is for copies, and one step long": () => {
    const { machine, a, b, c, setVersion, store, mapFrom, copyFrom } = bootV2();
    setEntry(machine, a, 8, 1, b.domid, a.ram + 1);
    expect(setVersion(b, 2)).toBe(0);
    store(b, 9, wayTo(c, a, 8));
    expect(copyFrom(c, b, 9, 0, 4)).toBe(0);
    expect(mapFrom(c, b, 9)).toBe(-1);
    // To an entry of its own, that would let it in.
    store(b, 10, fullPage(b, b.ram + 1));
    store(b, 9, wayTo(c, b, 10));
    expect(copyFrom(c, b, 9, 0, 4)).toBe(-1);
  },

  "XSA-226: a way is one step long, and the entry behind it is asked at every copy": () => {
    const { xen, a, b, c, machine, setVersion, store, copyFrom } = bootV2();
    for (const actor of [a, b]) expect(setVersion(actor, 2)).toBe(0);
    store(a, 8, fullPage(b, a.ram + 1));
    store(b, 9, wayTo(c, a, 8));
    expect(copyFrom(c, b, 9, 0, 8)).toBe(GNTST_okay);
    // The entry behind is closed: nothing remembers that it was open.
    store(a, 8, [0, 0, 0, 0]);
    expect(copyFrom(c, b, 9, 0, 8)).toBe(GNTST_general_error);
    // A way behind a way, each of which would let its grantee in.
    setEntry(machine, c, 9, 1, a.domid, c.ram + 1);
    store(a, 8, wayTo(b, c, 9));
    expect(copyFrom(c, b, 9, 0, 8)).toBe(GNTST_general_error);
    for (const [actor, ref] of [
      [a, 8],
      [b, 9],
    ] as const) {
      expect([activePin(xen, actor.domid, ref), statusOf(xen, actor.domid, ref)]).toEqual([0, 0]);
    }
    expect(audit(machine.xen)).toEqual([]);
  },

  "XSA-226: a way that turns whenever it is pinned lets nobody in, and leaves nothing": () => {
    const { machine, xen, a, b, c, setVersion, store } = bootV2();
    expect(setVersion(b, 2)).toBe(0);
    for (const ref of [8, 9]) setEntry(machine, a, ref, 1, b.domid, a.ram + ref);
    store(b, 9, wayTo(c, a, 8));
    const place = { ref: 9, dom: b.domid };
    const to = { ...place, offset: 2048 };
    expect(copyOne(machine, c, { ...place, offset: 0 }, to, 8)).toBe(GNTST_okay);
    xen.memory.onGuestWord = () =>
      store(b, 9, wayTo(c, a, activePin(xen, b.domid, 9) === 0 ? 8 : 9));
    expect(copyOne(machine, c, { ...place, offset: 0 }, to, 8)).toBe(GNTST_general_error);
    xen.memory.onGuestWord = undefined;
    expect([activePin(xen, b.domid, 9), statusOf(xen, b.domid, 9)]).toEqual([0, 0]);
    expect(audit(xen)).toEqual([]);
  },

  "XSA-411: a copy that fails behind a way gives back what it held before it": () => {
    const { xen, machine, a, b, c, setVersion, store, copyInto, copyFrom } = bootV2();
    for (const actor of [a, b]) expect(setVersion(actor, 2)).toBe(0);
    store(a, 8, fullPage(b, a.ram + 1, GTF_readonly));
    store(b, 9, wayTo(c, a, 8));
    const frame = entryFrame(p2mLookup(xen, DomId(a.domid), a.ram + 1));
    expect(copyInto(c, b, 9, 0, 8)).toBe(GNTST_general_error);
    expect(frameReferences(xen, frame)).toBe(1);
    expect([statusOf(xen, a.domid, 8), statusOf(xen, b.domid, 9)]).toEqual([0, 0]);
    expect(audit(machine.xen)).toEqual([]);
    expect(copyFrom(c, b, 9, 0, 8)).toBe(GNTST_okay);
  },

  "XSA-501: a table that changes between two copies of a batch is looked at anew": () => {
    const { xen, machine, a, b, c, setVersion, store, second } = bootV2();
    expect(setVersion(a, 2)).toBe(0);
    expect(setVersion(b, 2)).toBe(0);
    store(a, 8, fullPage(b, a.ram + 1));
    store(b, 9, wayTo(c, a, 8));
    const count = 2 * BATCH_GAP;
    c.channel.push(copyBatch(c, b, 9, count));
    const change = versionRecord(b, 1);
    expect(step(xen)).toBe(true);
    second(b).push(change);
    while (step(xen));
    const statuses = copyStatuses(c, count);
    expect(statuses.slice(0, BATCH_GAP)).toEqual(new Array(BATCH_GAP).fill(GNTST_okay));
    expect(statuses.slice(BATCH_GAP)).toEqual(new Array(BATCH_GAP).fill(GNTST_general_error));
    expect([c.channel.result(), second(b).result()]).toEqual([0, 0]);
    expect(audit(machine.xen)).toEqual([]);
  },

  "XSA-501: a reference that a smaller table has no entry for is refused in the middle of a batch":
    () => {
      const { xen, machine, a, c, second } = bootV2();
      setEntry(machine, a, 400, 1, c.domid, a.ram + 1);
      const count = 2 * BATCH_GAP;
      c.channel.push(copyBatch(c, a, 400, count));
      const change = versionRecord(a, 2);
      expect(step(xen)).toBe(true);
      second(a).push(change);
      while (step(xen));
      const statuses = copyStatuses(c, count);
      expect(statuses.slice(0, BATCH_GAP)).toEqual(new Array(BATCH_GAP).fill(GNTST_okay));
      expect(statuses.slice(BATCH_GAP)).toEqual(new Array(BATCH_GAP).fill(GNTST_bad_gntref));
      expect(grantEntries(xen, a.domid)).toBe(256);
      expect(audit(machine.xen)).toEqual([]);
    },

  "XSA-500: page and reference are those of the pin, whatever the entry says by now": () => {
    const { xen, machine, a, b, setVersion, store, copyFrom, copyInto } = bootV2();
    expect(setVersion(a, 2)).toBe(0);
    writeWord(a, (a.ram + 1) * 4096, 0x1111);
    writeWord(a, (a.ram + 3) * 4096, 0x3333);
    store(a, 8, fullPage(b, a.ram + 1));
    const op = { gfn: V0, flags: GNTMAP_host_map, ref: 8, dom: a.domid };
    const { handle } = mapOne(machine, b, op);
    store(a, 8, fullPage(b, a.ram + 3));
    expect(copyFrom(b, a, 8, 0, 4)).toBe(GNTST_okay);
    expect(readWord(b, (b.ram + 2) * 4096)).toBe(0x1111);
    writeWord(b, (b.ram + 2) * 4096, 0x2222);
    expect(copyInto(b, a, 8, 0, 4)).toBe(GNTST_okay);
    expect([1, 3].map((n) => readWord(a, (a.ram + n) * 4096))).toEqual([0x2222, 0x3333]);
    const references = [1, 3].map((n) =>
      frameReferences(xen, entryFrame(p2mLookup(xen, DomId(a.domid), a.ram + n))),
    );
    expect(references).toEqual([2, 1]);
    expect(unmapOne(machine, b, { handle, address: V0 * 4096 })).toBe(GNTST_okay);
    expect(copyFrom(b, a, 8, 0, 4)).toBe(GNTST_okay);
    expect(readWord(b, (b.ram + 2) * 4096)).toBe(0x3333);
    expect(audit(xen)).toEqual([]);
  },

  "hypervisor case 81: a page that is pinned as a whole is copied as a whole, when its entry is a part by now":
    () => {
      const { machine, a, b, setVersion, store, copyFrom, copyInto } = bootV2();
      expect(setVersion(a, 2)).toBe(0);
      store(a, 8, fullPage(b, a.ram + 1));
      const flags = GNTMAP_host_map | GNTMAP_readonly;
      expect(mapOne(machine, b, { gfn: V0, flags, ref: 8, dom: a.domid }).status).toBe(GNTST_okay);
      store(a, 8, subPage(b, a.ram + 1, 100, 100));
      expect(copyFrom(b, a, 8, 0, 4096)).toBe(GNTST_okay);
      // The first writer: the frame is the same, and the pin is no part of a page.
      expect(copyInto(b, a, 8, 0, 4096)).toBe(GNTST_okay);
      // A part that is pinned as one keeps its window: nobody is left of the pin above.
      store(a, 9, subPage(b, a.ram + 1, 100, 100));
      expect(copyFrom(b, a, 9, 0, 4)).toBe(GNTST_general_error);
      expect(audit(machine.xen)).toEqual([]);
    },

  "hypervisor case 63: a part of a page in use keeps version 2, with -EAGAIN when its entry is a reserved one":
    () => {
      const { xen, a, b, setVersion, store } = bootV2();
      expect(setVersion(a, 2)).toBe(0);
      const gfn = a.ram + 1;
      const frame = entryFrame(p2mLookup(xen, DomId(a.domid), gfn));
      // No copy lasts longer than a step here: its pin is taken by hand, as another lane of a hypervisor would.
      const window = { start: 100, length: 100, part: true };
      for (const [ref, answer] of [
        [8, -EBUSY],
        [3, -EAGAIN],
      ] as const) {
        store(a, ref, subPage(b, gfn, 100, 100));
        takePin(xen, a.domid, ref, b.domid, frame, true, window);
        expect(activePin(xen, a.domid, ref)).toBe(GNTPIN_hstr_inc);
        expect(setVersion(a, 1)).toBe(answer);
        releasePin(xen, DomId(a.domid), ref, true);
      }
      expect(setVersion(a, 1)).toBe(0);
      expect(audit(xen)).toEqual([]);
    },
};
