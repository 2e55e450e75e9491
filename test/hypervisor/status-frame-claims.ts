/**
 * What holds of the status frames of version 2 tables, and the stories of the advisories about them, on x86.
 * Rule: each claim makes its own machine, so that it can be made of a copy of the sources that carries a planted bug.
 */

import { expect } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { frameReferences, getPage, putPage } from "../../hypervisor/frame-table.ts";
import { statusFrame } from "../../hypervisor/grant-v2.ts";
import { step } from "../../hypervisor/main.ts";
import { p2mLookup } from "../../hypervisor/p2m.ts";
import { allocXenPage, freeXenPage } from "../../hypervisor/xen-heap.ts";
import {
  ADD_TO_PHYSMAP_GPFN,
  ADD_TO_PHYSMAP_IDX,
  ADD_TO_PHYSMAP_SIZE,
  ADD_TO_PHYSMAP_SPACE,
  XENMAPSPACE_grant_table,
  XENMEM_add_to_physmap,
} from "../../shared/abi/memory.ts";
import { DOMID_SELF, HYPERVISOR_memory_op } from "../../shared/abi/xen.ts";
import { MACHINE } from "../../shared/layout.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { ACCESS_OK, ACCESS_READ, ACCESS_WRITE } from "../../shared/mmu.ts";
import { EBUSY, EINVAL, ENOMEM, GNTST_okay } from "../../shared/status.ts";
import { DomId } from "../../shared/units.ts";
import { bootV2, recordOf, STATUS_FRAME_0, V0, versionRecord } from "./grant-v2-calls.ts";
import { argumentAddress, setEntry } from "./grants.ts";
import { type Actor, probe, writeGuest } from "./harness.ts";
import { addToPhysmap } from "./memory-calls.ts";

const heapFree = (xen: { readonly words: Int32Array }): number =>
  xen.words[MACHINE.XEN_HEAP_FREE] ?? -1;
const status = { space: XENMAPSPACE_grant_table, idx: STATUS_FRAME_0 };

/** As the second vCPU of `actor` asks for status frame 0 at a gfn. */
function placeRecord(actor: Actor, gfn: number): Int32Array {
  const at = argumentAddress(actor) + PAGE_SIZE;
  const bytes = new Uint8Array(ADD_TO_PHYSMAP_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, DOMID_SELF, true);
  view.setUint32(ADD_TO_PHYSMAP_SPACE, XENMAPSPACE_grant_table, true);
  view.setUint32(ADD_TO_PHYSMAP_IDX, STATUS_FRAME_0, true);
  view.setUint32(ADD_TO_PHYSMAP_GPFN, gfn, true);
  writeGuest(actor, at, bytes);
  return recordOf(HYPERVISOR_memory_op, XENMEM_add_to_physmap, at);
}

export const CLAIMS: Readonly<Record<string, () => void>> = {
  "XSA-26: a change of version and back leaves no page on any list, and one that fails shares nothing":
    () => {
      const { machine, xen, a, b, setVersion, mapFrom } = bootV2();
      const free = heapFree(xen);
      for (let round = 0; round < 3; round++) {
        expect(setVersion(a, 2)).toBe(0);
        expect(heapFree(xen)).toBe(free - 1);
        expect(setVersion(a, 1)).toBe(0);
        expect(heapFree(xen)).toBe(free);
        expect(audit(xen)).toEqual([]);
      }
      setEntry(machine, a, 9, 1, b.domid, a.ram + 1);
      const taken: number[] = [];
      for (let frame = allocXenPage(xen); frame >= 0; frame = allocXenPage(xen)) taken.push(frame);
      expect(setVersion(a, 2)).toBe(-ENOMEM);
      for (const frame of taken) freeXenPage(xen, frame);
      expect(heapFree(xen)).toBe(free);
      expect(audit(xen)).toEqual([]);
      expect(mapFrom(b, a, 9)).toBe(GNTST_okay);
    },

  "XSA-255: a status frame that is mapped leaves the address space before it is freed": () => {
    const { xen, machine, a, setVersion } = bootV2();
    expect(setVersion(a, 2)).toBe(0);
    const frame = statusFrame(xen, a.domid, 0);
    expect(addToPhysmap(machine, a, { ...status, gfn: V0 })).toBe(0);
    expect(probe(a, V0, ACCESS_READ)).toBe(ACCESS_OK);
    expect(setVersion(a, 1)).toBe(0);
    expect(frameReferences(xen, frame)).toBe(0);
    expect(probe(a, V0, ACCESS_READ)).not.toBe(ACCESS_OK);
    expect(audit(xen)).toEqual([]);
  },

  "XSA-255: a status frame that somebody else refers to keeps the version": () => {
    const { xen, a, setVersion } = bootV2();
    expect(setVersion(a, 2)).toBe(0);
    const frame = statusFrame(xen, a.domid, 0);
    expect(getPage(xen, frame, a.domid)).toBe(true);
    expect(setVersion(a, 1)).toBe(-EBUSY);
    expect(statusFrame(xen, a.domid, 0)).toBe(frame);
    putPage(xen, frame);
    expect(setVersion(a, 1)).toBe(0);
    expect(audit(xen)).toEqual([]);
  },

  "XSA-379: a status frame that two vCPUs place at once stands at one gfn": () => {
    const { xen, machine, a, setVersion, second } = bootV2();
    expect(setVersion(a, 2)).toBe(0);
    const other = second(a);
    other.push(placeRecord(a, V0 + 1));
    expect(addToPhysmap(machine, a, { ...status, gfn: V0 })).toBe(0);
    while (step(xen));
    expect(other.result()).toBe(0);
    const there = [V0, V0 + 1].filter((gfn) => p2mLookup(xen, DomId(a.domid), gfn) !== 0);
    expect(there).toHaveLength(1);
    expect(audit(xen)).toEqual([]);
    expect(setVersion(a, 1)).toBe(0);
    expect(p2mLookup(xen, DomId(a.domid), there[0] ?? 0)).toBe(0);
    expect(audit(xen)).toEqual([]);
  },

  "XSA-384: a status frame is not freed under a placement that waits for its flush": () => {
    const { xen, a, setVersion, second } = bootV2();
    expect(setVersion(a, 2)).toBe(0);
    const free = heapFree(xen);
    // The placement replaces a page that the first vCPU is still inside, so it waits.
    const page = a.ram + 8;
    const [placement, change] = [placeRecord(a, page), versionRecord(a, 1)];
    expect(a.mmu.open(page, ACCESS_WRITE)).toBe(ACCESS_OK);
    const [placing, changing] = [second(a), a.channel];
    placing.push(placement);
    while (step(xen));
    expect(placing.idle).toBe(false);
    changing.push(change);
    while (step(xen));
    expect(audit(xen)).toEqual([]);
    a.mmu.close();
    while (step(xen));
    expect([placing.result(), changing.result()]).toEqual([0, 0]);
    expect(heapFree(xen)).toBe(free + 1);
    expect(p2mLookup(xen, DomId(a.domid), page)).toBe(0);
    expect(audit(xen)).toEqual([]);
  },

  "XSA-486: a status frame cannot be placed anew while its table is being made smaller": () => {
    const { xen, machine, a, setVersion, second } = bootV2();
    expect(setVersion(a, 2)).toBe(0);
    expect(addToPhysmap(machine, a, { ...status, gfn: V0 })).toBe(0);
    const placement = placeRecord(a, V0 + 1);
    const change = versionRecord(a, 1);
    // The first vCPU is inside the status frame, so the change waits for it before it frees the page.
    expect(a.mmu.open(V0, ACCESS_READ)).toBe(ACCESS_OK);
    const other = second(a);
    other.push(change);
    while (step(xen));
    expect(other.idle).toBe(false);
    a.channel.push(placement);
    while (step(xen));
    expect(a.channel.result()).toBe(-EINVAL);
    expect(audit(xen)).toEqual([]);
    a.mmu.close();
    while (step(xen));
    expect(other.result()).toBe(0);
    expect(audit(xen)).toEqual([]);
  },
};
