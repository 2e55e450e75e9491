// Grant tables of version 2, in the x86 profile.
import { describe, expect, it } from "vitest";
import { releasePin, takePin } from "../../hypervisor/active-entry.ts";
import { entryCell, statusOf } from "../../hypervisor/grant-v2.ts";
import {
  GNTMAP_host_map,
  GNTTABOP_set_version,
  GTF_permit_access,
  GTF_reading,
  GTF_writing,
} from "../../shared/abi/grant.ts";
import { DOMID_SELF, HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import { EAGAIN, EBUSY, ERANGE } from "../../shared/status.ts";
import { DomId, FrameIndex } from "../../shared/units.ts";
import { argumentAddress, copyOne, mapOne, setEntry } from "./grants.ts";
import {
  type Actor,
  bootTestMachine,
  call,
  testDom0,
  testDomain,
  testModel,
  writeWord,
} from "./harness.ts";

const V0 = 0x60000;
const SUB_PAGE = 0x101;
const TRANSITIVE = 3;

function boot() {
  const domains = [testDom0(), testDomain("a"), testDomain("b"), testDomain("c")];
  const machine = bootTestMachine({ ...testModel(domains), arch: "x86" });
  const [, a, b, c] = machine.actors as [Actor, Actor, Actor, Actor];
  const setVersion = (actor: Actor, version: number): number => {
    const at = argumentAddress(actor);
    writeWord(actor, at, version);
    return call(machine, actor, HYPERVISOR_grant_table_op, GNTTABOP_set_version, at, 1);
  };
  /** Stores the four cells of a version 2 entry. */
  const store = (actor: Actor, ref: number, cells: readonly number[]): void => {
    const { layout, words, memory } = machine.xen;
    const row = layout.grantFrame + actor.domid * layout.model.limits.grantFrames;
    for (const [i, cell] of cells.entries()) {
      memory.store(FrameIndex(words[row] ?? -1), ref * 16 + i * 4, cell);
    }
  };
  const mapFrom = (mapper: Actor, dom: Actor, ref: number, slot = 0): number =>
    mapOne(machine, mapper, { gfn: V0 + slot, flags: GNTMAP_host_map, ref, dom: dom.domid }).status;
  const copyFrom = (by: Actor, dom: Actor, ref: number, offset: number, length: number): number =>
    copyOne(
      machine,
      by,
      { ref, dom: dom.domid, offset },
      { gfn: by.ram + 2, dom: DOMID_SELF },
      length,
    );
  return { machine, a, b, c, setVersion, store, mapFrom, copyFrom };
}

describe("version 2 of a grant table on x86", () => {
  it("hypervisor case 61: an entry in use keeps the version, unless it is a reserved one", () => {
    const { machine, a, b, setVersion, mapFrom } = boot();
    setEntry(machine, a, 7, 1, b.domid, a.ram + 1);
    expect(mapFrom(b, a, 7)).toBe(0);
    setEntry(machine, b, 8, 1, a.domid, b.ram + 1);
    expect(mapFrom(a, b, 8)).toBe(0);
    expect(setVersion(b, 2)).toBe(-EBUSY);
    expect(setVersion(a, 2)).toBe(0);
    // Its reading and writing are in the status word now, and the header has lost them.
    expect(statusOf(machine.xen, a.domid, 7)).toBe(GTF_reading | GTF_writing);
    expect(entryCell(machine.xen, a.domid, 7, 0)).toBe((b.domid << 16) | GTF_permit_access);
  });

  it("hypervisor case 62: the change wipes entries from 8 on and halves their number", () => {
    const { machine, a, b, setVersion, mapFrom } = boot();
    setEntry(machine, a, 8, 1, b.domid, a.ram + 1);
    expect(setVersion(a, 2)).toBe(0);
    expect(mapFrom(b, a, 8)).toBe(-1);
    expect(mapFrom(b, a, 256)).toBe(-3);
  });

  it("hypervisor case 63: a part of a page that is pinned keeps version 2: busy, or try again when it is a reserved entry", () => {
    const { machine, a, b, setVersion, store } = boot();
    expect(setVersion(a, 2)).toBe(0);
    // Only a copy pins a part, and it lets go before anybody else is served: the pins are as one leaves them in between.
    const part = { part: true, start: 100, length: 100 };
    for (const [ref, refusal] of [
      [8, -EBUSY],
      [3, -EAGAIN],
    ] as const) {
      store(a, ref, [SUB_PAGE | (b.domid << 16), 100 | (100 << 16), a.ram + 1, 0]);
      takePin(machine.xen, a.domid, ref, b.domid, 0, true, part);
      expect(setVersion(a, 1)).toBe(refusal);
      releasePin(machine.xen, DomId(a.domid), ref, true);
    }
    expect(setVersion(a, 1)).toBe(0);
  });

  it("hypervisor case 64: a reserved entry with a frame beyond 32 bits has no place in version 1", () => {
    const { a, b, setVersion, store } = boot();
    expect(setVersion(a, 2)).toBe(0);
    store(a, 3, [1 | (b.domid << 16), 0, 0, 1]);
    expect(setVersion(a, 1)).toBe(-ERANGE);
  });

  it("hypervisor case 76: a part of a page is copied from within its window and never mapped", () => {
    const { a, b, setVersion, store, mapFrom, copyFrom } = boot();
    expect(setVersion(a, 2)).toBe(0);
    store(a, 8, [SUB_PAGE | (b.domid << 16), 100 | (100 << 16), a.ram + 1, 0]);
    expect(copyFrom(b, a, 8, 100, 100)).toBe(0);
    expect(copyFrom(b, a, 8, 100, 101)).toBe(-1);
    expect(mapFrom(b, a, 8)).toBe(-1);
  });

  it("hypervisor case 78: a way to another domain's entry is for copies, and one step long", () => {
    const { machine, a, b, c, setVersion, store, mapFrom, copyFrom } = boot();
    setEntry(machine, a, 8, 1, b.domid, a.ram + 1);
    expect(setVersion(b, 2)).toBe(0);
    store(b, 9, [TRANSITIVE | (c.domid << 16), a.domid, 8, 0]);
    expect(copyFrom(c, b, 9, 0, 4)).toBe(0);
    expect(mapFrom(c, b, 9)).toBe(-1);
    store(b, 9, [TRANSITIVE | (c.domid << 16), b.domid, 9, 0]);
    expect(copyFrom(c, b, 9, 0, 4)).toBe(-1);
  });
});
