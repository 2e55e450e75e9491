import { describe, expect, test } from "vitest";
import {
  BP_DONE,
  BP_EAGAIN,
  BP_ECANCELED,
  balloonedPages,
  balloonStep,
  balloonThread,
  currentCredit,
  decreaseReservation,
  setBalloonTarget,
  updateSchedule,
  xenAllocBalloonedPages,
  xenFreeBalloonedPages,
} from "../../domains/balloon.ts";
import { giveWay, type Kernel, spawnDaemon, waitUntil } from "../../domains/kernel.ts";
import { allocPage, PG_offline, testFlag } from "../../domains/pages.ts";
import { DOM, domainOf } from "../../shared/layout.ts";
import { ENOMEM } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { testDom0, testDomain } from "../hypervisor/harness.ts";
import { guestModel, runGuests, stillKernel } from "./guest.ts";

function inGuest(program: (kernel: Kernel) => Program): void {
  const model = guestModel([testDom0({ runs: false }), testDomain("guest")]);
  expect(runGuests(model, { guest: program }).findings).toEqual([]);
}

const totPages = (kernel: Kernel): number =>
  kernel.cpu.words[domainOf(kernel.cpu.layout, kernel.boot.domid) + DOM.TOT_PAGES] ?? -1;

/** guest.md section 10, item 5: every page is current, listed or handed out. */
const adds = (kernel: Kernel): boolean => {
  const { balloon } = kernel.memory;
  const { currentPages, balloonLow, targetUnpopulated, totalPages } = balloon;
  return (
    currentPages + balloonLow + targetUnpopulated === totalPages &&
    balloonedPages(kernel).length === balloonLow
  );
};

describe("the balloon", () => {
  test("pages handed out have no RAM behind them, and come back to the list offline", () => {
    inGuest(function* (kernel) {
      const before = totPages(kernel);
      const pages = yield* xenAllocBalloonedPages(kernel, 10);
      if (typeof pages === "number") throw new Error(`answered ${pages}`);
      expect(totPages(kernel)).toBe(before - 10);
      expect(kernel.memory.balloon.targetUnpopulated).toBe(10);
      expect(adds(kernel)).toBe(true);
      xenFreeBalloonedPages(kernel, pages);
      expect(totPages(kernel)).toBe(before - 10);
      expect(adds(kernel)).toBe(true);
      const first = pages[0];
      expect(first !== undefined && testFlag(kernel.memory.pages, first, PG_offline)).toBe(true);
    });
  });

  test("guest case 16: with less free memory than asked the answer is ENOMEM and nothing changes", () => {
    inGuest(function* (kernel) {
      const { pages, balloon } = kernel.memory;
      while (pages.freeCount > 9) allocPage(pages);
      expect(yield* xenAllocBalloonedPages(kernel, 10)).toBe(-ENOMEM);
      expect(balloon.targetUnpopulated).toBe(0);
      expect(adds(kernel)).toBe(true);
    });
  });

  test("guest case 17: what was obtained before the failure goes back to the balloon", () => {
    inGuest(function* (kernel) {
      const { pages, balloon } = kernel.memory;
      expect(yield* decreaseReservation(kernel, 7)).toBe(BP_DONE);
      while (pages.freeCount > 2) allocPage(pages);
      expect(yield* xenAllocBalloonedPages(kernel, 10)).toBe(-ENOMEM);
      expect(balloon.balloonLow).toBe(7);
      expect(balloon.targetUnpopulated).toBe(0);
      expect(adds(kernel)).toBe(true);
    });
  });

  test("the thread gives pages to Xen down to the target, and takes them back", () => {
    inGuest(function* (kernel) {
      const before = totPages(kernel);
      spawnDaemon(kernel, "balloon", balloonThread(kernel));
      setBalloonTarget(kernel, kernel.memory.balloon.totalPages - 40);
      yield* waitUntil(kernel, () => currentCredit(kernel) === 0);
      expect(totPages(kernel)).toBe(before - 40);
      expect(currentCredit(kernel)).toBe(0);
      setBalloonTarget(kernel, kernel.memory.balloon.totalPages);
      yield* waitUntil(kernel, () => currentCredit(kernel) === 0);
      expect(totPages(kernel)).toBe(before);
      expect(adds(kernel)).toBe(true);
    });
  });

  test("pages given back while the thread has given up are populated after all", () => {
    inGuest(function* (kernel) {
      const before = totPages(kernel);
      spawnDaemon(kernel, "balloon", balloonThread(kernel));
      const pages = yield* xenAllocBalloonedPages(kernel, 5);
      if (typeof pages === "number") throw new Error(`answered ${pages}`);
      // The thread finds an empty list and lowers the target to what can be had.
      for (let turn = 0; turn < 3; turn++) yield* giveWay(kernel);
      expect(totPages(kernel)).toBe(before - 5);
      xenFreeBalloonedPages(kernel, pages);
      yield* waitUntil(kernel, () => currentCredit(kernel) === 0);
      expect(totPages(kernel)).toBe(before);
      expect(adds(kernel)).toBe(true);
    });
  });

  test("guest case 86: a raised target with an empty balloon is lowered to what there is", () => {
    inGuest(function* (kernel) {
      const { balloon } = kernel.memory;
      setBalloonTarget(kernel, balloon.totalPages + 100);
      expect(yield* balloonStep(kernel)).toBe(BP_ECANCELED);
      expect(balloon.targetPages).toBe(balloon.currentPages);
    });
  });

  test("guest case 87: failing for ever waits 2, 4, 8 seconds and is then cancelled", () => {
    const kernel = stillKernel();
    const waits: number[] = [];
    for (let i = 0; i < 3; i++) {
      expect(updateSchedule(kernel, BP_EAGAIN)).toBe(BP_EAGAIN);
      waits.push(kernel.memory.balloon.scheduleDelay);
    }
    expect(waits).toEqual([2, 4, 8]);
    expect(updateSchedule(kernel, BP_EAGAIN)).toBe(BP_ECANCELED);
    expect(kernel.memory.balloon.scheduleDelay).toBe(1);
  });
});
