import { describe, expect, test } from "vitest";
import { KernelBug } from "../../domains/bug.ts";
import { dmaBitMask } from "../../domains/dma-device.ts";
import { targetResourceOf } from "../../domains/memory-init.ts";
import { isZoneDevicePage } from "../../domains/pages.ts";
import {
  isXenUnpopulatedPage,
  xenAllocUnpopulatedContiguousPages,
  xenAllocUnpopulatedPages,
  xenFreeUnpopulatedContiguousPages,
  xenFreeUnpopulatedPages,
} from "../../domains/unpopulated.ts";
import type { KernelOptions } from "../../shared/machine.ts";
import { EBUSY, EINVAL, ENODEV, EPERM } from "../../shared/status.ts";
import { Pfn } from "../../shared/units.ts";
import { EXTENDED_BASE, now, SECTION, stillKernel } from "./guest.ts";

const FIRST = EXTENDED_BASE / 4096;
const MASK64 = dmaBitMask(64);
type Kernel = ReturnType<typeof stillKernel>;
const alloc = (kernel: Kernel, count: number) => now(xenAllocUnpopulatedPages(kernel, count));
const pagesOf = (got: readonly Pfn[] | number): readonly Pfn[] =>
  typeof got === "number" ? [] : got;
const contiguous = (kernel: Kernel, count: number, mask = MASK64) =>
  now(xenAllocUnpopulatedContiguousPages(kernel, mask, count));
const noRegion = (options: Partial<KernelOptions> = {}) =>
  stillKernel(options, { extendedRegions: [] });
const run = (from: number, count: number, step: 1 | -1) =>
  Array.from({ length: count }, (_, i) => from + step * i);

describe("unpopulated pages, design list", () => {
  const list = () => stillKernel({ unpopulatedAlloc: "list" });

  test("guest case 1: no pages are asked for, none are filled", () => {
    const kernel = list();
    expect(alloc(kernel, 0)).toEqual([]);
    expect(kernel.memory.pages.sections.length).toBe(1);
  });

  test("guest case 2: five pages after a fresh fill come in descending order from the top of the section", () => {
    expect(alloc(list(), 5)).toEqual(run(FIRST + SECTION - 1, 5, -1));
  });

  test("guest case 4: what was freed last comes first", () => {
    const kernel = list();
    const got = pagesOf(alloc(kernel, 9));
    const [p9, p2] = [got[8] ?? Pfn(0), got[1] ?? Pfn(0)];
    xenFreeUnpopulatedPages(kernel, [p9, p2]);
    expect(alloc(kernel, 2)).toEqual([p2, p9]);
  });

  test("guest case 15: a RAM page freed here is accepted and joins the list", () => {
    const kernel = list();
    xenFreeUnpopulatedPages(kernel, [Pfn(0x40010)]);
    expect(alloc(kernel, 1)).toEqual([0x40010]);
  });

  test("guest case 8: without a region a wrong mask is not even looked at", () => {
    const kernel = stillKernel({ unpopulatedAlloc: "rfc" }, { extendedRegions: [] });
    expect(contiguous(kernel, 2, dmaBitMask(32))).toBe(-ENODEV);
  });

  test("the mainline kernel has nothing contiguous, nor one that is built without unpopulated pages", () => {
    expect(contiguous(list(), 2)).toBe(-EPERM);
    expect(contiguous(stillKernel({ unpopulatedAlloc: "off" }), 1)).toBe(-EPERM);
  });

  test("the RFC's contiguous pages come from a second pool and never mix with the list", () => {
    const kernel = stillKernel({ unpopulatedAlloc: "rfc" });
    const listed = pagesOf(alloc(kernel, 3));
    const buffer = pagesOf(contiguous(kernel, 3));
    expect(buffer).toEqual(run(FIRST + SECTION, 3, 1));
    expect(listed.every((page) => !isXenUnpopulatedPage(kernel, page))).toBe(true);
    expect(buffer.every((page) => isXenUnpopulatedPage(kernel, page))).toBe(true);
  });
});

describe("unpopulated pages, design pool", () => {
  test("guest case 1: a request for no pages is an error", () => {
    expect(alloc(stillKernel(), 0)).toBe(-EINVAL);
  });

  test("guest case 3: five pages after a fresh fill are consecutive from the start of the section", () => {
    const kernel = stillKernel();
    expect(alloc(kernel, 5)).toEqual(run(FIRST, 5, 1));
    expect(isZoneDevicePage(kernel.memory.pages, Pfn(FIRST))).toBe(true);
  });

  test("guest case 7: a device whose mask is not 64 bits is refused before anything else", () => {
    expect(contiguous(stillKernel(), 4, dmaBitMask(32))).toBe(-EINVAL);
    expect(contiguous(noRegion(), 4, dmaBitMask(32))).toBe(-EINVAL);
  });

  test("guest case 6: without a region contiguous pages are refused; V1 as posted refuses more than one", () => {
    expect(contiguous(noRegion(), 2)).toBe(-ENODEV);
    expect(contiguous(noRegion(), 1)).toBe(-ENODEV);
    const posted = noRegion({ patchFaults: ["single-page-hole"] });
    expect(contiguous(posted, 2)).toBe(-ENODEV);
  });

  test("guest case 9: with the region used up the answer is EBUSY", () => {
    const kernel = stillKernel();
    expect(pagesOf(contiguous(kernel, 8 * SECTION)).length).toBe(8 * SECTION);
    expect(contiguous(kernel, 1)).toBe(-EBUSY);
    expect(alloc(kernel, 1)).toBe(-EBUSY);
  });

  test("guest case 10: a region without an aligned section serves nobody", () => {
    const region = { base: EXTENDED_BASE + 4096, size: SECTION * 4096 };
    expect(alloc(stillKernel({}, { extendedRegions: [region] }), 1)).toBe(-EBUSY);
  });

  test("guest case 14: a page of the pool that is free is still a page of the pool", () => {
    const kernel = stillKernel();
    const got = pagesOf(contiguous(kernel, 3));
    xenFreeUnpopulatedContiguousPages(kernel, got);
    expect(isXenUnpopulatedPage(kernel, got[0] ?? Pfn(0))).toBe(true);
    expect(isXenUnpopulatedPage(kernel, Pfn(0x40010))).toBe(false);
  });

  test("guest case 15: a RAM page freed here stops the kernel", () => {
    const kernel = stillKernel();
    alloc(kernel, 1);
    expect(() => xenFreeUnpopulatedPages(kernel, [Pfn(0x40010)])).toThrow(KernelBug);
  });

  test("guest case 93: a request larger than a section takes whole sections of one hole, or none", () => {
    const kernel = stillKernel();
    expect(pagesOf(contiguous(kernel, SECTION + 1)).length).toBe(SECTION + 1);
    expect(kernel.memory.pages.sections.at(-1)?.count).toBe(2 * SECTION);
    expect(contiguous(kernel, 7 * SECTION)).toBe(-EBUSY);
  });

  test("guest case 94: free pages of two adjacent sections do not serve one contiguous request", () => {
    const kernel = stillKernel();
    alloc(kernel, SECTION / 2 + 1);
    alloc(kernel, SECTION / 2 + 1);
    const got = pagesOf(contiguous(kernel, SECTION - 4));
    expect(got[0]).toBe(FIRST + 2 * SECTION);
  });

  test("guest case 95: unrelated pages in one array are freed one by one", () => {
    const kernel = stillKernel();
    const got = pagesOf(alloc(kernel, 12));
    xenFreeUnpopulatedPages(
      kernel,
      [7, 2, 11].map((i) => got[i] ?? Pfn(0)),
    );
    expect(alloc(kernel, 1)).toEqual([FIRST + 2]);
  });
});

describe("extended regions", () => {
  const region = (base: number) => ({ base, size: 0x1000_0000 });

  test("guest case 11: none are announced, so there is no resource", () => {
    expect(targetResourceOf([])).toBeUndefined();
  });

  test("guest case 12: regions in descending or overlapping order are all refused", () => {
    expect(targetResourceOf([region(0x2000_0000), region(0x1000_0000)])).toBeUndefined();
    expect(targetResourceOf([region(0x1000_0000), region(0x1800_0000)])).toBeUndefined();
    expect(targetResourceOf([region(0x1000_0000), region(0x2000_0000)])?.regions.length).toBe(2);
  });

  test("the lowest aligned hole of any region is taken first", () => {
    const size = SECTION * 4096;
    const regions = [
      { base: EXTENDED_BASE + 4096, size },
      { base: EXTENDED_BASE + 4 * size, size: 2 * size },
    ];
    expect(alloc(stillKernel({}, { extendedRegions: regions }), 1)).toEqual([FIRST + 4 * SECTION]);
  });
});
