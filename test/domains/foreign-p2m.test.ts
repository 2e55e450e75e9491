import { describe, expect, test } from "vitest";
import {
  bfnToPfn,
  createForeignP2m,
  lookupForeign,
  pfnToBfn,
  setPhysToMachine,
} from "../../domains/foreign-p2m.ts";
import { Bfn, Pfn } from "../../shared/units.ts";

describe("the foreign table of an ARM kernel", () => {
  test("guest case 71: with an empty table a page's bus frame is its own number, and again after the last unmap", () => {
    const table = createForeignP2m();
    expect(pfnToBfn(table, Pfn(5))).toBe(5);
    setPhysToMachine(table, Pfn(5), Bfn(0x9a100));
    expect(pfnToBfn(table, Pfn(5))).toBe(0x9a100);
    expect(setPhysToMachine(table, Pfn(5), undefined)).toBe(true);
    expect(table.entries).toEqual([]);
    expect(pfnToBfn(table, Pfn(5))).toBe(5);
  });

  test("guest case 100: two pages may stand for the same bus frame", () => {
    const table = createForeignP2m();
    expect(setPhysToMachine(table, Pfn(5), Bfn(7))).toBe(true);
    expect(setPhysToMachine(table, Pfn(6), Bfn(7))).toBe(true);
    expect(pfnToBfn(table, Pfn(6))).toBe(7);
  });

  test("an equal key is refused and the first entry stays", () => {
    const table = createForeignP2m();
    setPhysToMachine(table, Pfn(5), Bfn(7));
    expect(setPhysToMachine(table, Pfn(5), Bfn(8))).toBe(false);
    expect(lookupForeign(table, Pfn(5))).toBe(7);
  });

  test("a run is found by any of its pages and erased whole by any of them", () => {
    const table = createForeignP2m();
    setPhysToMachine(table, Pfn(10), Bfn(100), 4);
    expect(lookupForeign(table, Pfn(13))).toBe(103);
    expect(lookupForeign(table, Pfn(14))).toBeUndefined();
    setPhysToMachine(table, Pfn(12), undefined);
    expect(lookupForeign(table, Pfn(10))).toBeUndefined();
  });

  test("erasing a page that has no entry succeeds", () => {
    expect(setPhysToMachine(createForeignP2m(), Pfn(1), undefined)).toBe(true);
  });

  test("the way back is the identity: a machine frame is taken for a page of that number", () => {
    const table = createForeignP2m();
    setPhysToMachine(table, Pfn(5), Bfn(7));
    expect(bfnToPfn(Bfn(7))).toBe(7);
  });

  test("many entries inserted out of order are all found", () => {
    const table = createForeignP2m();
    for (let i = 0; i < 100; i++) setPhysToMachine(table, Pfn((i * 37) % 101), Bfn(1000 + i));
    for (let i = 0; i < 100; i++) expect(lookupForeign(table, Pfn((i * 37) % 101))).toBe(1000 + i);
  });
});
