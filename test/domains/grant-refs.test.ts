import { describe, expect, test } from "vitest";
import {
  createGrantRefs,
  GNTTAB_LIST_END,
  type GrantRefs,
  growRefs,
  nextRef,
  putRef,
  tailRunLength,
  takeRefs,
  takeSortedRun,
  takeTailRun,
} from "../../domains/grant-refs.ts";
import { GrantRef } from "../../shared/units.ts";

/** Counts the list three ways; they must agree (guest.md section 10, item 1). */
function recount(refs: GrantRefs): number {
  let length = 0;
  for (let ref = refs.freeHead; ref !== GNTTAB_LIST_END; ref = nextRef(refs, ref)) {
    expect(refs.freeMap[ref]).toBe(1);
    expect(ref).toBeGreaterThanOrEqual(8);
    length++;
    if (length > refs.size) throw new Error("the list has a loop");
  }
  expect(refs.freeMap.filter((one) => one === 1).length).toBe(length);
  expect(refs.freeCount).toBe(length);
  return length;
}

describe("the list of free grant references", () => {
  test("guest case 22: the first reference after boot is 8", () => {
    expect(takeRefs(createGrantRefs(), 1)).toBe(8);
  });

  test("guest case 23: one frame has 504 references for grants, and the next frame begins at 512", () => {
    const refs = createGrantRefs();
    expect(recount(refs)).toBe(504);
    takeRefs(refs, 504);
    expect(refs.freeHead).toBe(GNTTAB_LIST_END);
    growRefs(refs, 1);
    expect(takeRefs(refs, 1)).toBe(512);
    expect(recount(refs)).toBe(511);
  });

  test("guest case 24: the reference freed last is handed out first", () => {
    const refs = createGrantRefs();
    takeRefs(refs, 100);
    putRef(refs, GrantRef(20));
    putRef(refs, GrantRef(30));
    expect(takeRefs(refs, 1)).toBe(30);
    expect(takeRefs(refs, 1)).toBe(20);
  });

  test("guest case 25: freeing a reserved reference is ignored", () => {
    const refs = createGrantRefs();
    putRef(refs, GrantRef(3));
    expect(recount(refs)).toBe(504);
    expect(takeRefs(refs, 1)).toBe(8);
  });

  test("references taken together stay chained, and the last one ends the chain", () => {
    const refs = createGrantRefs();
    const first = takeRefs(refs, 3);
    expect(nextRef(refs, first)).toBe(9);
    expect(nextRef(refs, 9)).toBe(10);
    expect(nextRef(refs, 10)).toBe(GNTTAB_LIST_END);
    recount(refs);
  });

  test("guest case 31: three consecutive references out of {8, 10, 11, 12} are 10 to 12, found by sorting", () => {
    const refs = createGrantRefs();
    takeRefs(refs, 504);
    for (const ref of [12, 8, 11, 10]) putRef(refs, GrantRef(ref));
    expect(tailRunLength(refs)).toBeLessThan(3);
    expect(takeSortedRun(refs, 3)).toBe(10);
    expect(recount(refs)).toBe(1);
    expect(takeRefs(refs, 1)).toBe(8);
  });

  test("consecutive references come from the start of the run at the end of the list", () => {
    const refs = createGrantRefs();
    takeRefs(refs, 2);
    putRef(refs, GrantRef(8));
    expect(tailRunLength(refs)).toBe(502);
    expect(takeTailRun(refs, 3)).toBe(10);
    expect(takeRefs(refs, 2)).toBe(8);
    expect(refs.freeHead).toBe(14);
    recount(refs);
  });

  test("a run taken whole leaves a list that can grow again without losing a reference", () => {
    const refs = createGrantRefs();
    takeRefs(refs, 2);
    putRef(refs, GrantRef(8));
    takeTailRun(refs, 502);
    growRefs(refs, 1);
    expect(recount(refs)).toBe(1 + 512);
    expect(takeTailRun(refs, 512)).toBe(512);
    expect(recount(refs)).toBe(1);
  });

  test("a thousand takes and puts in a fixed disorder keep the three counts equal", () => {
    const refs = createGrantRefs();
    const held: number[] = [];
    let seed = 12345;
    const next = (bound: number): number => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return (seed >>> 8) % bound;
    };
    for (let i = 0; i < 1000; i++) {
      if (held.length < 400 && next(3) !== 0) held.push(takeRefs(refs, 1));
      else if (held.length > 0) putRef(refs, GrantRef(held.splice(next(held.length), 1)[0] ?? 0));
      if (i % 50 === 49) {
        const run = takeSortedRun(refs, 4);
        if (run !== undefined) for (let k = 3; k >= 0; k--) putRef(refs, GrantRef(run + k));
      }
    }
    expect(recount(refs) + held.length).toBe(504);
  });

  test("the recount notices a list that lost a reference", () => {
    const refs = createGrantRefs();
    refs.freeHead = 9;
    expect(() => recount(refs)).toThrow();
  });
});
