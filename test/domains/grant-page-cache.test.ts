import { describe, expect, test } from "vitest";
import {
  createPageCache,
  gnttabPageCacheGet,
  gnttabPageCachePut,
  gnttabPageCacheShrink,
} from "../../domains/grant-page-cache.ts";
import { gnttabAllocPages } from "../../domains/grant-pages.ts";
import type { Kernel } from "../../domains/kernel.ts";
import {
  isZoneDevicePage,
  PG_private,
  pageForeign,
  pgmapOf,
  setPageForeign,
  testFlag,
} from "../../domains/pages.ts";
import type { KernelOptions, Range } from "../../shared/machine.ts";
import { EBUSY } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import type { Pfn } from "../../shared/units.ts";
import { testDom0, testDomain } from "../hypervisor/harness.ts";
import { EXTENDED, guestModel, kernelOptions, now, runGuests, stillKernel } from "./guest.ts";

function* some(kernel: Kernel, count: number): Program<readonly Pfn[]> {
  const pages = yield* gnttabAllocPages(kernel, count);
  if (typeof pages === "number") throw new Error(`answered ${pages}`);
  return pages;
}

function inGuest(
  options: Partial<KernelOptions>,
  extendedRegions: readonly Range[],
  program: (kernel: Kernel) => Program,
): void {
  const guest = testDomain("guest", { kernel: kernelOptions(options), extendedRegions });
  const run = runGuests(guestModel([testDom0({ runs: false }), guest]), { guest: program });
  expect(run.findings).toEqual([]);
}

describe("the grant page cache", () => {
  test("hands out the page that was put last, private all the while, and a new one when it is empty", () => {
    const kernel = stillKernel();
    const cache = createPageCache();
    const [a, b] = now(some(kernel, 2));
    if (a === undefined || b === undefined) throw new Error("two pages");
    gnttabPageCachePut(kernel, cache, [a, b]);
    expect(testFlag(kernel.memory.pages, a, PG_private)).toBe(true);
    expect(now(gnttabPageCacheGet(kernel, cache))).toBe(b);
    expect(now(gnttabPageCacheGet(kernel, cache))).toBe(a);
    expect(cache.count).toBe(0);
    expect(now(gnttabPageCacheGet(kernel, cache))).toBe(b + 1);
  });

  test("guest case 95: twelve pages are freed as ten and two, in the order of the cache, one page at a time", () => {
    for (const unpopulatedAlloc of ["pool", "list"] as const) {
      const kernel = stillKernel({ unpopulatedAlloc });
      const cache = createPageCache();
      const pages = now(some(kernel, 12));
      gnttabPageCachePut(
        kernel,
        cache,
        [5, 0, 7, 3, 11, 1, 9, 2, 10, 4, 8, 6].map((i) => pages[i] ?? pages[0]) as Pfn[],
      );
      gnttabPageCacheShrink(kernel, cache, 0);
      expect(cache.count).toBe(0);
      expect(pages.some((page) => testFlag(kernel.memory.pages, page, PG_private))).toBe(false);
      expect(new Set(now(some(kernel, 12)))).toEqual(new Set(pages));
    }
  });

  test("guest case 95: a kernel that frees each group as one range stops", () => {
    const kernel = stillKernel({ poolFree: "range" });
    const cache = createPageCache();
    gnttabPageCachePut(kernel, cache, now(some(kernel, 12)));
    expect(() => gnttabPageCacheShrink(kernel, cache, 0)).toThrow("kernel BUG");
  });

  test("pages of the kernel's balloon are chained by zone_device_data or, without unpopulated pages, by lru", () => {
    for (const unpopulatedAlloc of ["pool", "off"] as const) {
      inGuest({ unpopulatedAlloc }, [], function* (kernel) {
        const cache = createPageCache();
        const pages = yield* some(kernel, 3);
        const { pages: structs } = kernel.memory;
        const before = pages.map((page) => pgmapOf(structs, page));
        gnttabPageCachePut(kernel, cache, pages);
        const after = pages.map((page) => pgmapOf(structs, page));
        // The first word of a RAM page is lru.next: it changes only when lru is what chains.
        if (unpopulatedAlloc === "pool") expect(after).toEqual(before);
        else expect(after).toEqual([-1, pages[0], pages[1]]);
        gnttabPageCacheShrink(kernel, cache, 1);
        expect(cache.count).toBe(1);
        expect(kernel.memory.balloon.balloonLow).toBe(2);
      });
    }
  });

  test("a chained ZONE_DEVICE page keeps its pgmap and what is known of it", () => {
    const kernel = stillKernel();
    const cache = createPageCache();
    const pages = now(some(kernel, 2));
    for (const page of pages) setPageForeign(kernel.memory.pages, page, { domid: 3, ref: 9 });
    const pgmaps = pages.map((page) => pgmapOf(kernel.memory.pages, page));
    gnttabPageCachePut(kernel, cache, pages);
    for (const [i, page] of pages.entries()) {
      expect(isZoneDevicePage(kernel.memory.pages, page)).toBe(true);
      expect(pgmapOf(kernel.memory.pages, page)).toBe(pgmaps[i]);
      expect(pageForeign(kernel.memory.pages, page)).toEqual({ domid: 3, ref: 9 });
    }
  });

  test("with nothing left to hand out the errno of the allocation is answered", () => {
    const kernel = stillKernel();
    now(some(kernel, EXTENDED.size / 4096));
    expect(now(gnttabPageCacheGet(kernel, createPageCache()))).toBe(-EBUSY);
  });
});
