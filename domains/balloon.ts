/**
 * The balloon: RAM given to Xen, page by page, and taken back; and the source of pages without backing when no
 * extended region is usable.
 *
 * Rules: a page on the list is offline and has no RAM behind it; lists go through `lru`, so only RAM pages may be
 * here. Freeing to the balloon does not populate: the balloon thread does that later, because the credit
 * (target - current) then wants it. gnttab_dma_alloc_pages bypasses these statistics, as in Linux. Memory that is
 * hot-added comes onto the list without backing and raises the total.
 * Behaviour: Linux drivers/xen/balloon.c.
 */
import { BALLOON_BATCH, PAGE_SIZE } from "../shared/limits.ts";
import { ENOMEM } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { Pfn } from "../shared/units.ts";
import { bugOn, bugUnless } from "./bug.ts";
import { allocateResource, releaseResource } from "./extended-regions.ts";
import { failsHere, kfree, kmalloc } from "./fault-points.ts";
import { type Kernel, mightSleep, waitUntil } from "./kernel.ts";
import { xenmemReservationDecrease, xenmemReservationIncrease } from "./mem-reservation.ts";
import { zeroPage } from "./memory.ts";
import {
  addMemoryPages,
  allocPage,
  clearFlag,
  freePage,
  LIST_END,
  lruNext,
  PG_offline,
  pageToPhys,
  setFlag,
  setLru,
} from "./pages.ts";

export const BP_DONE = 0;
export const BP_WAIT = 1;
export const BP_EAGAIN = 2;
export const BP_ECANCELED = 3;
export type BalloonState = 0 | 1 | 2 | 3;

/** current_credit: pages the balloon thread would like to get (above 0) or give (below 0). */
export const currentCredit = (kernel: Kernel): number =>
  kernel.memory.balloon.targetPages - kernel.memory.balloon.currentPages;

/** Pages on the balloon's list, head first. */
export function balloonedPages(kernel: Kernel): readonly Pfn[] {
  const listed: Pfn[] = [];
  const { balloon, pages } = kernel.memory;
  for (let page = balloon.head; page !== LIST_END; page = lruNext(pages, Pfn(page))) {
    listed.push(Pfn(page));
  }
  return listed;
}

/** balloon_append: offline, to the head of the list (all memory here is low memory). */
function append(kernel: Kernel, page: Pfn): void {
  const { balloon, pages } = kernel.memory;
  setFlag(pages, page, PG_offline);
  setLru(pages, page, balloon.head, LIST_END);
  if (balloon.head !== LIST_END) {
    const next = Pfn(balloon.head);
    setLru(pages, next, lruNext(pages, next), page);
  }
  if (balloon.head === LIST_END) balloon.tail = page;
  balloon.head = page;
  balloon.balloonLow++;
}

/** balloon_retrieve: the head of the list, online again; undefined when it is empty. */
function retrieve(kernel: Kernel): Pfn | undefined {
  const { balloon, pages } = kernel.memory;
  if (balloon.head === LIST_END) return undefined;
  const page = Pfn(balloon.head);
  balloon.head = lruNext(pages, page);
  if (balloon.head === LIST_END) balloon.tail = LIST_END;
  balloon.balloonLow--;
  clearFlag(pages, page, PG_offline);
  return page;
}

/** increase_reservation: populates up to one batch from the head of the list. */
export function* increaseReservation(kernel: Kernel, wanted: number): Program<BalloonState> {
  const { balloon, pages } = kernel.memory;
  const frames = balloonedPages(kernel).slice(0, Math.min(wanted, BALLOON_BATCH));
  const rc = yield* xenmemReservationIncrease(kernel, frames);
  if (rc <= 0) return BP_EAGAIN;
  for (let i = 0; i < rc; i++) {
    const page = retrieve(kernel);
    bugUnless(page !== undefined, "the balloon has fewer pages than it populated");
    pages.managed++;
    freePage(pages, page);
  }
  balloon.currentPages += rc;
  return BP_DONE;
}

/** decrease_reservation: takes up to one batch of free pages, scrubs them and gives them to Xen. */
export function* decreaseReservation(kernel: Kernel, wanted: number): Program<BalloonState> {
  const { balloon, pages } = kernel.memory;
  let state: BalloonState = BP_DONE;
  const frames: Pfn[] = [];
  const count = Math.min(wanted, BALLOON_BATCH);
  for (let i = 0; i < count; i++) {
    const page = allocPage(pages);
    if (page === undefined) {
      state = BP_EAGAIN;
      break;
    }
    pages.managed--;
    if (balloon.scrubPages) yield* zeroPage(kernel.cpu, pageToPhys(page));
    frames.push(page);
  }
  for (const page of frames) append(kernel, page);
  const rc = yield* xenmemReservationDecrease(kernel, frames);
  bugOn(rc !== frames.length, `decrease_reservation of ${frames.length} pages answered ${rc}`);
  balloon.currentPages -= frames.length;
  return state;
}

/**
 * reserve_additional_memory: sections of RAM without backing for what the target wants beyond the total, onto the list.
 * BP_WAIT when that was done or nothing is wanted, BP_ECANCELED without address space or descriptors. A kernel that
 * cannot hot-add lowers its target to what there is.
 */
export function* reserveAdditionalMemory(kernel: Kernel): Program<BalloonState> {
  const { balloon, unpopulated } = kernel.memory;
  if (!kernel.boot.kernel.memoryHotplug) {
    balloon.targetPages = balloon.currentPages + balloon.targetUnpopulated;
    return BP_ECANCELED;
  }
  const credit = balloon.targetPages + balloon.targetUnpopulated - balloon.totalPages;
  if (credit <= 0) return BP_WAIT;
  const section = unpopulated.pagesPerSection;
  const count = Math.ceil(credit / section) * section;
  // "System RAM" among the addresses that Xen says nothing lies behind.
  const base = yield* hotAdd(kernel, count);
  if (base === undefined) return BP_ECANCELED;
  for (let i = 0; i < count; i++) append(kernel, Pfn(base / PAGE_SIZE + i));
  balloon.totalPages += count;
  return BP_WAIT;
}

/** Takes a hole for `count` pages and makes them known; the first byte's address, or undefined. */
function* hotAdd(kernel: Kernel, count: number): Program<number | undefined> {
  const { pages, unpopulated } = kernel.memory;
  const { target, pagesPerSection } = unpopulated;
  if (target === undefined || !kmalloc(kernel.faults)) return undefined;
  const base = allocateResource(target, count * PAGE_SIZE, pagesPerSection * PAGE_SIZE);
  if (base !== undefined) {
    yield* mightSleep(kernel);
    if (!failsHere(kernel.faults, "kmalloc") && addMemoryPages(pages, base / PAGE_SIZE, count)) {
      return base;
    }
    releaseResource(target, base);
  }
  kfree(kernel.faults);
  return undefined;
}

/**
 * add_ballooned_pages: hot-adds if the kernel prefers it, else steals RAM for the list. 0 or -ENOMEM; a partial decrease
 * stays on the list.
 */
function* addBalloonedPages(kernel: Kernel, count: number): Program<number> {
  if (kernel.boot.kernel.hotplugUnpopulated) {
    const state = yield* reserveAdditionalMemory(kernel);
    if (state !== BP_ECANCELED) {
      yield* waitUntil(kernel, () => kernel.memory.balloon.head !== LIST_END);
      return 0;
    }
  }
  if (kernel.memory.pages.freeCount < count) return -ENOMEM;
  const state = yield* decreaseReservation(kernel, count);
  return state === BP_DONE ? 0 : -ENOMEM;
}

/** Pages without backing, RAM given up for them. -ENOMEM leaves the counts as they were. */
export function* xenAllocBalloonedPages(
  kernel: Kernel,
  count: number,
): Program<readonly Pfn[] | number> {
  const { balloon } = kernel.memory;
  balloon.targetUnpopulated += count;
  const taken: Pfn[] = [];
  while (taken.length < count) {
    const page = retrieve(kernel);
    if (page !== undefined) {
      taken.push(page);
      continue;
    }
    const rc = yield* addBalloonedPages(kernel, count - taken.length);
    if (rc < 0) {
      const missing = count - taken.length;
      xenFreeBalloonedPages(kernel, taken);
      balloon.targetUnpopulated -= missing;
      return rc;
    }
  }
  return taken;
}

/** Back to the list. The balloon thread populates them when the credit asks for it. */
export function xenFreeBalloonedPages(kernel: Kernel, pages: readonly Pfn[]): void {
  for (const page of pages) append(kernel, page);
  kernel.memory.balloon.targetUnpopulated -= pages.length;
  kernel.memory.balloon.wakes++;
}
