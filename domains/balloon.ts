/**
 * The balloon: RAM given to Xen, page by page, and taken back; and the source of pages without backing when no
 * extended region is usable.
 *
 * Rules: a page on the list is offline and has no RAM behind it; lists go through `lru`, so only RAM pages may be
 * here. Freeing to the balloon does not populate: the balloon thread does that later, because the credit
 * (target - current) then wants it. gnttab_dma_alloc_pages bypasses these statistics, as in Linux.
 * Behaviour: Linux drivers/xen/balloon.c without memory hotplug.
 */
import { BALLOON_BATCH } from "../shared/limits.ts";
import { ENOMEM } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { Pfn } from "../shared/units.ts";
import { bugOn, bugUnless } from "./bug.ts";
import { type Kernel, waitUntil } from "./kernel.ts";
import { xenmemReservationDecrease, xenmemReservationIncrease } from "./mem-reservation.ts";
import { zeroPage } from "./memory.ts";
import {
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
    yield* zeroPage(kernel.cpu, pageToPhys(page));
    frames.push(page);
  }
  for (const page of frames) append(kernel, page);
  const rc = yield* xenmemReservationDecrease(kernel, frames);
  bugOn(rc !== frames.length, `decrease_reservation of ${frames.length} pages answered ${rc}`);
  balloon.currentPages -= frames.length;
  return state;
}

/** add_ballooned_pages: steals RAM for the list. 0 or -ENOMEM; a partial decrease stays on the list. */
function* addBalloonedPages(kernel: Kernel, count: number): Program<number> {
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

/** update_schedule: how the thread reacts to the outcome of one round. */
export function updateSchedule(kernel: Kernel, state: BalloonState): BalloonState {
  const { balloon } = kernel.memory;
  if (state === BP_WAIT || state === BP_ECANCELED) return state;
  if (state === BP_DONE) {
    balloon.scheduleDelay = 1;
    balloon.retryCount = 1;
    return BP_DONE;
  }
  balloon.retryCount++;
  if (balloon.maxRetryCount !== 0 && balloon.retryCount > balloon.maxRetryCount) {
    balloon.scheduleDelay = 1;
    balloon.retryCount = 1;
    return BP_ECANCELED;
  }
  balloon.scheduleDelay = Math.min(balloon.scheduleDelay * 2, balloon.maxScheduleDelay);
  return BP_EAGAIN;
}

/** One round of the balloon thread. Returns the state it would sleep in. */
export function* balloonStep(kernel: Kernel): Program<BalloonState> {
  const { balloon, pages } = kernel.memory;
  const credit = currentCredit(kernel);
  let state: BalloonState = BP_DONE;
  if (credit > 0) {
    if (balloon.head !== LIST_END) state = yield* increaseReservation(kernel, credit);
    else {
      // Without hotplug there is nowhere to get memory from: the target follows what there is.
      balloon.targetPages = balloon.currentPages + balloon.targetUnpopulated;
      state = BP_ECANCELED;
    }
  } else if (credit < 0) {
    const count = Math.min(-credit, pages.freeCount);
    state = yield* decreaseReservation(kernel, count);
    if (state === BP_DONE && count !== -credit) state = BP_EAGAIN;
  }
  return updateSchedule(kernel, state);
}

/**
 * The balloon thread, as a daemon: it works while there is a credit and it gets on. After a failure it waits until
 * the credit changes or somebody wakes it, since a kernel here has no timer of its own.
 */
export function* balloonThread(kernel: Kernel): Program {
  const { balloon } = kernel.memory;
  let state: BalloonState = BP_DONE;
  let tried = 0;
  let seen = 0;
  for (;;) {
    yield* waitUntil(kernel, () => {
      const credit = currentCredit(kernel);
      const woken = state === BP_DONE || credit !== tried || balloon.wakes !== seen;
      return credit !== 0 && woken;
    });
    seen = balloon.wakes;
    state = yield* balloonStep(kernel);
    tried = currentCredit(kernel);
  }
}

/** balloon_set_new_target: pages the domain should have. The thread sees it at its next turn. */
export function setBalloonTarget(kernel: Kernel, targetPages: number): void {
  kernel.memory.balloon.targetPages = targetPages;
  kernel.memory.balloon.wakes++;
}
