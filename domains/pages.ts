/**
 * The kernel's struct pages, as columns: RAM that the domain was built with, and ZONE_DEVICE pages that were
 * hot-added over address space with nothing behind it. A page is named by its pfn.
 *
 * Rules: words 1 and 2 of a page are `lru` or, on a ZONE_DEVICE page, `pgmap` and `zone_device_data`: putting such
 * a page on an lru list destroys its pgmap. `private` is one word too: on a 64-bit kernel what is known of a foreign
 * page lies in it, on a 32-bit one it points there; a user that keeps a value of its own there destroys it. A page
 * handed out has reference count 1. The lists here are private memory: no other party can reach them.
 * Behaviour: Linux include/linux/mm_types.h, page-flags.h, include/xen/page.h. The allocator is ours: sorted
 * free runs, contiguous requests from the bottom, single pages from the top, so that neither starves the other.
 */
import { EmulatorBug, item } from "../shared/assert.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import type { Range } from "../shared/machine.ts";
import { Gaddr, Pfn } from "../shared/units.ts";
import { bugOn, bugUnless, KernelBug } from "./bug.ts";
import { type FaultPoints, failsHere, kfree, kmalloc } from "./fault-points.ts";

export const PG_private = 1;
/** PG_owner_priv_1: the page shows another domain's frame. */
export const PG_foreign = 2;
export const PG_reserved = 4;
/** A page type rather than a flag in Linux: the page sits in the balloon. */
export const PG_offline = 8;

/** End of a page list: pfn -1 does not exist. */
export const LIST_END = -1;

/** A run of struct pages of one kind. */
export interface PageSection {
  readonly base: number;
  readonly count: number;
  /** ZONE_DEVICE: hot-added, never given to the page allocator. */
  readonly device: boolean;
  readonly flags: Uint8Array;
  readonly refcount: Int32Array;
  /** lru.next, or pgmap (the base pfn of its range). */
  readonly word1: Float64Array;
  /** lru.prev, or zone_device_data. */
  readonly word2: Float64Array;
  /** page->private: two words a page, low one first. */
  readonly private: Uint32Array;
}

interface FreeRun {
  pfn: number;
  count: number;
}

export interface Pages {
  /** RAM first, then hot-added ranges in the order they came. */
  readonly sections: PageSection[];
  /** Free RAM, ascending, never adjacent to each other. */
  readonly free: FreeRun[];
  freeCount: number;
  /** RAM pages that the allocator manages, free or handed out. */
  managed: number;
  readonly longBits: 32 | 64;
  readonly faults: FaultPoints;
  /** struct xen_page_foreign of a 32-bit kernel, by the number that page->private holds. */
  readonly foreignData: Map<number, PageForeign>;
  lastForeign: number;
}

/** struct xen_page_foreign: whose page it is, by which reference. */
export interface PageForeign {
  readonly domid: number;
  readonly ref: number;
}

export const pageToPhys = (page: Pfn): Gaddr => Gaddr(page * PAGE_SIZE);
export const physToPage = (phys: Gaddr): Pfn => Pfn(Math.floor(phys / PAGE_SIZE));

function createSection(base: number, count: number, device: boolean): PageSection {
  const section: PageSection = {
    base,
    count,
    device,
    flags: new Uint8Array(count),
    refcount: new Int32Array(count),
    word1: new Float64Array(count),
    word2: new Float64Array(count),
    private: new Uint32Array(2 * count),
  };
  if (device) {
    section.refcount.fill(1);
    section.word1.fill(base);
  }
  return section;
}

/** Struct pages for the RAM a kernel boots with, all of it free. */
export function initPages(ram: readonly Range[], faults: FaultPoints, longBits: 32 | 64): Pages {
  const pages: Pages = {
    sections: [],
    free: [],
    freeCount: 0,
    managed: 0,
    longBits,
    faults,
    foreignData: new Map(),
    lastForeign: 0,
  };
  for (const range of ram) {
    const pfn = range.base / PAGE_SIZE;
    const count = range.size / PAGE_SIZE;
    pages.sections.push(createSection(pfn, count, false));
    giveRun(pages, pfn, count);
    pages.managed += count;
  }
  return pages;
}

/** memremap_pages: struct pages over a range with nothing behind it. False when a page exists there already. */
export const addDevicePages = (pages: Pages, pfn: number, count: number): boolean =>
  addSection(pages, pfn, count, true);

/**
 * add_memory_resource with the balloon's online callback: struct pages of RAM that has no backing yet, one reference each.
 * The allocator does not know them before somebody frees them. False when a page exists there already.
 */
export function addMemoryPages(pages: Pages, pfn: number, count: number): boolean {
  if (!addSection(pages, pfn, count, false)) return false;
  pages.sections.at(-1)?.refcount.fill(1);
  return true;
}

function addSection(pages: Pages, pfn: number, count: number, device: boolean): boolean {
  const overlaps = (one: PageSection): boolean =>
    pfn < one.base + one.count && one.base < pfn + count;
  if (pages.sections.some(overlaps)) return false;
  pages.sections.push(createSection(pfn, count, device));
  return true;
}

/** The section of a page, or undefined: pfn_valid says no. */
export function sectionOf(pages: Pages, pfn: number): PageSection | undefined {
  for (const section of pages.sections) {
    if (pfn >= section.base && pfn < section.base + section.count) return section;
  }
  return undefined;
}

/** Whether the kernel has a struct page for this frame number. */
export const pfnValid = (pages: Pages, pfn: number): boolean => sectionOf(pages, pfn) !== undefined;

function section(pages: Pages, page: Pfn): PageSection {
  const found = sectionOf(pages, page);
  if (found === undefined) throw new KernelBug(`kernel BUG: no struct page for pfn ${page}`);
  return found;
}

function cell(words: { readonly [n: number]: number }, index: number): number {
  const word = words[index];
  if (word === undefined) throw new EmulatorBug(`cell ${index} outside its section`);
  return word;
}

/** is_zone_device_page. */
export const isZoneDevicePage = (pages: Pages, page: Pfn): boolean => section(pages, page).device;

export function testFlag(pages: Pages, page: Pfn, flag: number): boolean {
  const home = section(pages, page);
  return (cell(home.flags, page - home.base) & flag) !== 0;
}
export function setFlag(pages: Pages, page: Pfn, flag: number): void {
  const home = section(pages, page);
  home.flags[page - home.base] = cell(home.flags, page - home.base) | flag;
}
export function clearFlag(pages: Pages, page: Pfn, flag: number): void {
  const home = section(pages, page);
  home.flags[page - home.base] = cell(home.flags, page - home.base) & ~flag;
}

/** page->private. A value that is no number of bytes of a kernel is cut to 64 bits. */
export function pagePrivate(pages: Pages, page: Pfn): number {
  const home = section(pages, page);
  const at = 2 * (page - home.base);
  return cell(home.private, at) + cell(home.private, at + 1) * 4294967296;
}
export function setPagePrivate(pages: Pages, page: Pfn, value: number): void {
  const home = section(pages, page);
  const at = 2 * (page - home.base);
  home.private[at] = value;
  home.private[at + 1] = Math.floor(value / 4294967296);
}

/** A 32-bit kernel's struct xen_page_foreign for a page (kzalloc); false: no memory. A 64-bit one needs none. */
export function allocForeignData(pages: Pages, page: Pfn): boolean {
  if (pages.longBits === 64) return true;
  if (!kmalloc(pages.faults)) return false;
  pages.lastForeign++;
  pages.foreignData.set(pages.lastForeign, { domid: 0, ref: 0 });
  setPagePrivate(pages, page, pages.lastForeign);
  return true;
}

/** The end of it, on a 32-bit kernel. */
export function freeForeignData(pages: Pages, page: Pfn): void {
  if (pages.longBits === 64) return;
  const known = pages.foreignData.delete(pagePrivate(pages, page));
  bugUnless(known, `kfree of page->private of pfn ${page}, which is no pointer`);
  kfree(pages.faults);
  setPagePrivate(pages, page, 0);
}

/** SetPageForeign with its data: domid in the low half of `private`, reference in the high half, or where it points. */
export function setPageForeign(pages: Pages, page: Pfn, foreign: PageForeign): void {
  setFlag(pages, page, PG_foreign);
  if (pages.longBits === 64) {
    setPagePrivate(pages, page, foreign.domid + foreign.ref * 4294967296);
    return;
  }
  const pointer = pagePrivate(pages, page);
  bugUnless(pages.foreignData.has(pointer), `page->private of pfn ${page} points nowhere`);
  pages.foreignData.set(pointer, foreign);
}

/** xen_page_foreign: undefined unless the page is marked foreign. */
export function pageForeign(pages: Pages, page: Pfn): PageForeign | undefined {
  if (!testFlag(pages, page, PG_foreign)) return undefined;
  const value = pagePrivate(pages, page);
  if (pages.longBits === 64) {
    return { domid: value % 65536, ref: Math.floor(value / 4294967296) };
  }
  const known = pages.foreignData.get(value);
  bugUnless(known !== undefined, `page->private of pfn ${page} points nowhere`);
  return known;
}

/** page->pgmap: base pfn of the hot-added range, unless an lru list has overwritten it. */
export function pgmapOf(pages: Pages, page: Pfn): number {
  const home = section(pages, page);
  return cell(home.word1, page - home.base);
}
export function zoneDeviceData(pages: Pages, page: Pfn): number {
  const home = section(pages, page);
  return cell(home.word2, page - home.base);
}
export function setZoneDeviceData(pages: Pages, page: Pfn, value: number): void {
  const home = section(pages, page);
  home.word2[page - home.base] = value;
}
/** page->lru.next: the same word as pgmap. */
export const lruNext = pgmapOf;
export function setLru(pages: Pages, page: Pfn, next: number, previous: number): void {
  const home = section(pages, page);
  home.word1[page - home.base] = next;
  home.word2[page - home.base] = previous;
}

export function pageRefcount(pages: Pages, page: Pfn): number {
  const home = section(pages, page);
  return cell(home.refcount, page - home.base);
}
export function getPage(pages: Pages, page: Pfn): void {
  const home = section(pages, page);
  const count = cell(home.refcount, page - home.base);
  bugOn(count <= 0, `a reference to the free page ${page}`);
  home.refcount[page - home.base] = count + 1;
}
/** Drops a reference; the last one gives a RAM page back to the allocator. */
export function putPage(pages: Pages, page: Pfn): void {
  const home = section(pages, page);
  const count = cell(home.refcount, page - home.base) - 1;
  bugOn(count < 0, `the free page ${page} is put`);
  home.refcount[page - home.base] = count;
  if (count > 0) return;
  bugOn(home.device, `the ZONE_DEVICE page ${page} has no page_free operation`);
  bugOn(cell(home.flags, page - home.base) !== 0, `the page ${page} is freed with flags set`);
  giveRun(pages, page, 1);
}

function giveRun(pages: Pages, pfn: number, count: number): void {
  let low = 0;
  let high = pages.free.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (item(pages.free, middle).pfn < pfn) low = middle + 1;
    else high = middle;
  }
  const before = pages.free[low - 1];
  const after = pages.free[low];
  // A run never crosses from one bank into the next, even when they touch.
  const home = section(pages, Pfn(pfn));
  const joinsBefore =
    before !== undefined && before.pfn + before.count === pfn && before.pfn >= home.base;
  const joinsAfter =
    after !== undefined && pfn + count === after.pfn && after.pfn < home.base + home.count;
  if (joinsBefore) {
    before.count += count + (joinsAfter ? after.count : 0);
    if (joinsAfter) pages.free.splice(low, 1);
  } else if (joinsAfter) {
    after.pfn = pfn;
    after.count += count;
  } else {
    pages.free.splice(low, 0, { pfn, count });
  }
  pages.freeCount += count;
}

/** Cuts `count` pages at `pfn` out of the free run at `index`. */
function cutRun(pages: Pages, index: number, pfn: number, count: number): void {
  const run = item(pages.free, index);
  const tail = run.pfn + run.count - (pfn + count);
  const head = pfn - run.pfn;
  const parts: FreeRun[] = [];
  if (head > 0) parts.push({ pfn: run.pfn, count: head });
  if (tail > 0) parts.push({ pfn: pfn + count, count: tail });
  pages.free.splice(index, 1, ...parts);
  pages.freeCount -= count;
}

function markAllocated(pages: Pages, pfn: number, count: number): Pfn {
  const home = section(pages, Pfn(pfn));
  home.refcount.fill(1, pfn - home.base, pfn - home.base + count);
  return Pfn(pfn);
}

/** A free page, or undefined: no memory. Its contents are whatever was there. */
export function allocPage(pages: Pages): Pfn | undefined {
  const run = pages.free.at(-1);
  if (failsHere(pages.faults, "pages") || run === undefined) return undefined;
  const pfn = run.pfn + run.count - 1;
  cutRun(pages, pages.free.length - 1, pfn, 1);
  return markAllocated(pages, pfn, 1);
}

/** `count` consecutive pages of one RAM bank, none above `last`; undefined when there is no such run. */
export function allocPages(
  pages: Pages,
  count: number,
  last = Number.POSITIVE_INFINITY,
): Pfn | undefined {
  if (count <= 0 || failsHere(pages.faults, "pages")) return undefined;
  for (let i = 0; i < pages.free.length; i++) {
    const run = item(pages.free, i);
    if (run.count < count || run.pfn + count - 1 > last) continue;
    const start = run.pfn;
    cutRun(pages, i, start, count);
    return markAllocated(pages, start, count);
  }
  return undefined;
}

export function freePages(pages: Pages, page: Pfn, count: number): void {
  for (let i = 0; i < count; i++) putPage(pages, Pfn(page + i));
}
export const freePage = putPage;

/** memblock_reserve: takes pages out of the allocator for good, such as a ring the domain builder made. */
export function reservePages(pages: Pages, page: Pfn, count: number): void {
  const index = pages.free.findIndex(
    (run) => page >= run.pfn && page + count <= run.pfn + run.count,
  );
  bugOn(index < 0, `reserving pages ${page} to ${page + count - 1}, which are not free`);
  cutRun(pages, index, page, count);
  markAllocated(pages, page, count);
  for (let i = 0; i < count; i++) setFlag(pages, Pfn(page + i), PG_reserved);
  pages.managed -= count;
}
