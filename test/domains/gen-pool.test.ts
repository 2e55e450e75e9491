import { describe, expect, test } from "vitest";
import { KernelBug } from "../../domains/bug.ts";
import {
  genPoolAddVirt,
  genPoolAlloc,
  genPoolAvail,
  genPoolCreate,
  genPoolDestroy,
  genPoolFree,
  genPoolHasAddr,
  genPoolSize,
  genPoolVirtToPhys,
} from "../../domains/gen-pool.ts";

const PAGE = 4096;
const BASE = 0x1_0000_0000;
const poolOf = (pages: number) => {
  const pool = genPoolCreate(12);
  genPoolAddVirt(pool, BASE, BASE, pages * PAGE);
  return pool;
};

describe("a pool of address space", () => {
  test("guest case 5: a hole that fits exactly is reused before a smaller request opens the big tail", () => {
    const pool = poolOf(64);
    const a = genPoolAlloc(pool, 10 * PAGE);
    genPoolAlloc(pool, 10 * PAGE);
    genPoolFree(pool, a ?? 0, 10 * PAGE);
    expect(genPoolAlloc(pool, 10 * PAGE)).toBe(a);
    genPoolFree(pool, a ?? 0, 10 * PAGE);
    expect(genPoolAlloc(pool, 4 * PAGE)).toBe(a);
  });

  test("best fit takes the smallest run that is long enough, the first among equals", () => {
    const pool = poolOf(32);
    const parts = [4, 1, 3, 1, 3, 1].map((pages) => ({
      at: genPoolAlloc(pool, pages * PAGE) ?? 0,
      size: pages * PAGE,
    }));
    for (const i of [0, 2, 4]) genPoolFree(pool, parts[i]?.at ?? 0, parts[i]?.size ?? 0);
    expect(genPoolAlloc(pool, 2 * PAGE)).toBe(parts[2]?.at);
  });

  test("guest case 13: freeing a chunk twice stops the kernel", () => {
    const pool = poolOf(8);
    const a = genPoolAlloc(pool, 2 * PAGE) ?? 0;
    genPoolFree(pool, a, 2 * PAGE);
    expect(() => genPoolFree(pool, a, 2 * PAGE)).toThrow(KernelBug);
  });

  test("a free that leaves its chunk or is in no chunk stops the kernel", () => {
    const pool = poolOf(8);
    genPoolAlloc(pool, 8 * PAGE);
    expect(() => genPoolFree(pool, BASE + 7 * PAGE, 2 * PAGE)).toThrow(KernelBug);
    expect(() => genPoolFree(pool, 0x1000, PAGE)).toThrow(KernelBug);
  });

  test("an allocation never spans two adjacent chunks, and the newest chunk is searched first", () => {
    const pool = poolOf(8);
    genPoolAddVirt(pool, BASE + 8 * PAGE, BASE + 8 * PAGE, 8 * PAGE);
    expect(genPoolAlloc(pool, 10 * PAGE)).toBeUndefined();
    expect(genPoolAlloc(pool, PAGE)).toBe(BASE + 8 * PAGE);
    expect(genPoolHasAddr(pool, BASE + 7 * PAGE, 2 * PAGE)).toBe(false);
  });

  test("available bytes are the clear granules, and a request of no size is refused", () => {
    const pool = poolOf(8);
    genPoolAlloc(pool, 3 * PAGE);
    expect(genPoolAvail(pool)).toBe(5 * PAGE);
    expect(genPoolSize(pool)).toBe(8 * PAGE);
    expect(genPoolAlloc(pool, 0)).toBeUndefined();
    expect(genPoolVirtToPhys(pool, BASE + 5)).toBe(BASE + 5);
    expect(genPoolVirtToPhys(pool, 5)).toBe(-1);
  });

  test("a pool with anything allocated is not destroyed", () => {
    const pool = poolOf(8);
    const a = genPoolAlloc(pool, PAGE) ?? 0;
    expect(() => genPoolDestroy(pool)).toThrow(KernelBug);
    genPoolFree(pool, a, PAGE);
    genPoolDestroy(pool);
    expect(pool.chunks).toEqual([]);
  });
});
