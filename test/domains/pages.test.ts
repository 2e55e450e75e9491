import { describe, expect, test } from "vitest";
import { KernelBug } from "../../domains/bug.ts";
import { createFaultPoints } from "../../domains/fault-points.ts";
import {
  addDevicePages,
  allocForeignData,
  allocPage,
  allocPages,
  freeForeignData,
  freePage,
  freePages,
  getPage,
  initPages,
  isZoneDevicePage,
  PG_private,
  pageForeign,
  pageRefcount,
  pfnValid,
  pgmapOf,
  putPage,
  reservePages,
  setFlag,
  setLru,
  setPageForeign,
  setPagePrivate,
  setZoneDeviceData,
  zoneDeviceData,
} from "../../domains/pages.ts";
import { Pfn } from "../../shared/units.ts";

const PAGE = 4096;
const BANKS = [
  { base: 0x100 * PAGE, size: 16 * PAGE },
  { base: 0x110 * PAGE, size: 16 * PAGE },
];
const twoBanks = (longBits: 32 | 64 = 64) => initPages(BANKS, createFaultPoints(), longBits);

describe("struct pages", () => {
  test("a page handed out has one reference, and the last put frees it", () => {
    const pages = twoBanks();
    const page = allocPage(pages) ?? Pfn(0);
    getPage(pages, page);
    putPage(pages, page);
    expect(pageRefcount(pages, page)).toBe(1);
    expect(pages.freeCount).toBe(31);
    freePage(pages, page);
    expect(pages.freeCount).toBe(32);
    expect(() => putPage(pages, page)).toThrow(KernelBug);
  });

  test("a page with a flag set is not freed", () => {
    const pages = twoBanks();
    const page = allocPage(pages) ?? Pfn(0);
    setFlag(pages, page, PG_private);
    expect(() => freePage(pages, page)).toThrow(KernelBug);
  });

  test("contiguous pages lie in one bank even when two banks touch", () => {
    const pages = twoBanks();
    reservePages(pages, Pfn(0x100), 2);
    expect(allocPages(pages, 15)).toBe(0x110);
    expect(allocPages(pages, 15)).toBeUndefined();
    expect(allocPages(pages, 14)).toBe(0x102);
  });

  test("freed runs join again and serve a request of their whole length", () => {
    const pages = twoBanks();
    const a = allocPages(pages, 4) ?? Pfn(0);
    const b = allocPages(pages, 4) ?? Pfn(0);
    const c = allocPages(pages, 8) ?? Pfn(0);
    freePages(pages, a, 4);
    freePages(pages, c, 8);
    expect(allocPages(pages, 12, 0x10f)).toBeUndefined();
    freePages(pages, b, 4);
    expect(allocPages(pages, 16, 0x10f)).toBe(0x100);
  });

  test("no page above the limit is given", () => {
    const pages = twoBanks();
    expect(allocPages(pages, 4, 0x102)).toBeUndefined();
    expect(allocPages(pages, 4, 0x103)).toBe(0x100);
  });

  test("no memory left is an answer, not an error", () => {
    const pages = initPages([{ base: 0, size: PAGE }], createFaultPoints(), 64);
    allocPage(pages);
    expect(allocPage(pages)).toBeUndefined();
  });

  test("hot-added pages are ZONE_DEVICE, never enter the allocator, and may not overlap", () => {
    const pages = twoBanks();
    expect(addDevicePages(pages, 0x1000, 8)).toBe(true);
    expect(addDevicePages(pages, 0x1007, 8)).toBe(false);
    expect(addDevicePages(pages, 0x10f, 1)).toBe(false);
    expect(isZoneDevicePage(pages, Pfn(0x1003))).toBe(true);
    expect(pages.freeCount).toBe(32);
    expect(() => putPage(pages, Pfn(0x1003))).toThrow(KernelBug);
    expect(pfnValid(pages, 0x1008)).toBe(false);
  });

  test("zone_device_data leaves pgmap alone; an lru list destroys it; foreign data survives both", () => {
    const pages = twoBanks();
    addDevicePages(pages, 0x1000, 8);
    const page = Pfn(0x1003);
    setPageForeign(pages, page, { domid: 2, ref: 8 });
    setZoneDeviceData(pages, page, 0x1002);
    expect(pgmapOf(pages, page)).toBe(0x1000);
    setLru(pages, page, 7, 9);
    expect(pgmapOf(pages, page)).toBe(7);
    expect(zoneDeviceData(pages, page)).toBe(9);
    expect(pageForeign(pages, page)).toEqual({ domid: 2, ref: 8 });
  });

  test("a value of one's own in page->private destroys what a 64-bit kernel knows of a foreign page", () => {
    const pages = twoBanks();
    const page = allocPage(pages) ?? Pfn(0);
    setPageForeign(pages, page, { domid: 2, ref: 8 });
    setPagePrivate(pages, page, 0x1234);
    expect(pageForeign(pages, page)).toEqual({ domid: 0x1234, ref: 0 });
  });

  test("a 32-bit kernel has a pointer there: without its object it stops, and each object is freed once", () => {
    const pages = twoBanks(32);
    const page = allocPage(pages) ?? Pfn(0);
    expect(() => setPageForeign(pages, page, { domid: 2, ref: 8 })).toThrow(KernelBug);
    expect(allocForeignData(pages, page)).toBe(true);
    expect(pages.faults.objects).toBe(1);
    setPageForeign(pages, page, { domid: 2, ref: 8 });
    expect(pageForeign(pages, page)).toEqual({ domid: 2, ref: 8 });
    freeForeignData(pages, page);
    expect(pages.faults.objects).toBe(0);
    expect(() => freeForeignData(pages, page)).toThrow(KernelBug);
    expect(() => pageForeign(pages, page)).toThrow(KernelBug);
  });
});
