import { describe, expect, test } from "vitest";
import {
  BP_DONE,
  BP_EAGAIN,
  BP_ECANCELED,
  BP_WAIT,
  balloonedPages,
  currentCredit,
  decreaseReservation,
  xenAllocBalloonedPages,
  xenFreeBalloonedPages,
} from "../../domains/balloon.ts";
import { readBalloonAttribute, writeBalloonAttribute } from "../../domains/balloon-sysfs.ts";
import {
  balloonStep,
  balloonThread,
  setBalloonTarget,
  updateSchedule,
} from "../../domains/balloon-thread.ts";
import { KernelBug } from "../../domains/bug.ts";
import {
  GNTDEV_DEVICE,
  gnttabDmaAllocPages,
  gnttabDmaFreePages,
} from "../../domains/grant-pages.ts";
import {
  giveWay,
  type Kernel,
  nowMs,
  sleep,
  spawnDaemon,
  waitTimeout,
  waitUntil,
} from "../../domains/kernel.ts";
import { loadWord, storeWord } from "../../domains/memory.ts";
import { allocPage, freePage, PG_offline, pageToPhys, testFlag } from "../../domains/pages.ts";
import { writeStoreNode } from "../../domains/xenbus.ts";
import { DOM, domainOf } from "../../shared/layout.ts";
import type { KernelOptions } from "../../shared/machine.ts";
import { EACCES, EFAULT, EINVAL, ENOENT, ENOMEM, EPERM } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { Pfn } from "../../shared/units.ts";
import { testDom0, testDomain } from "../hypervisor/harness.ts";
import { EXTENDED, guestModel, kernelOptions, runGuests, SECTION, stillKernel } from "./guest.ts";
import { runWhole, transferModel } from "./transfer-machine.ts";
import { until } from "./until.ts";

function inGuest(program: (kernel: Kernel) => Program, options: Partial<KernelOptions> = {}): void {
  const guest = testDomain("guest", {
    kernel: kernelOptions(options),
    extendedRegions: [EXTENDED],
  });
  const model = guestModel([testDom0({ runs: false }), guest]);
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

  test("guest case 87: the thread tries at 0, 2, 6 and 14 seconds, then not again until the credit changes", () => {
    inGuest(function* (kernel) {
      const { balloon } = kernel.memory;
      setBalloonTarget(kernel, balloon.totalPages - 8);
      spawnDaemon(kernel, "balloon", balloonThread(kernel));
      yield* waitUntil(kernel, () => currentCredit(kernel) === 0);
      // From here on Xen gives nothing back.
      Object.assign(kernel.faults, { failAt: kernel.faults.passed, persistent: true });
      const started = nowMs(kernel);
      const tries: number[] = [];
      let failed = kernel.faults.failed;
      setBalloonTarget(kernel, balloon.totalPages);
      const tried = (): boolean => kernel.faults.failed > failed;
      while (yield* waitTimeout(kernel, tried, 60_000)) {
        failed = kernel.faults.failed;
        tries.push((nowMs(kernel) - started) / 1000);
      }
      expect(tries).toEqual([0, 2, 6, 14]);
      kernel.faults.failAt = -1;
      setBalloonTarget(kernel, balloon.totalPages - 1);
      yield* waitUntil(kernel, () => currentCredit(kernel) === 0);
      expect(adds(kernel)).toBe(true);
    });
  });

  test("guest case 18: Xen takes fewer pages than it is given: the balloon stops the kernel, a DMA buffer is rolled back", () => {
    const refuse = (kernel: Kernel): void => {
      kernel.faults.failAt = kernel.faults.passed + 4;
    };
    expect(() =>
      inGuest(function* (kernel) {
        refuse(kernel);
        yield* decreaseReservation(kernel, 4);
      }),
    ).toThrow(KernelBug);
    inGuest(
      function* (kernel) {
        const before = { tot: totPages(kernel), free: kernel.memory.pages.freeCount };
        kernel.faults.failAt = kernel.faults.passed + 1;
        expect(yield* gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, 4)).toBe(-EFAULT);
        expect({ tot: totPages(kernel), free: kernel.memory.pages.freeCount }).toEqual(before);
      },
      { unpopulatedAlloc: "off" },
    );
  });

  test("pages are zeroed before Xen gets them, unless scrubbing is off", () => {
    for (const scrub of ["1", "0"]) {
      inGuest(function* (kernel) {
        const { pages } = kernel.memory;
        const page = allocPage(pages);
        if (page === undefined) throw new Error("no page");
        yield* storeWord(kernel.cpu, pageToPhys(page), 0x5ec4e7);
        freePage(pages, page);
        writeBalloonAttribute(kernel, "scrub_pages", scrub, { sysAdmin: true });
        expect(yield* decreaseReservation(kernel, 1)).toBe(BP_DONE);
        setBalloonTarget(kernel, kernel.memory.balloon.totalPages);
        expect(yield* balloonStep(kernel)).toBe(BP_DONE);
        // The heap hands out what it was given last.
        const found = yield* loadWord(kernel.cpu, pageToPhys(page));
        expect(found).toBe(scrub === "1" ? 0 : 0x5ec4e7);
      });
    }
  });
});

describe("memory that is hot-added", () => {
  test("comes onto the list without backing, and is populated when the reservation has room", () => {
    inGuest(
      function* (kernel) {
        const { balloon, pages } = kernel.memory;
        const before = { total: balloon.totalPages, free: pages.freeCount };
        const buffer = yield* gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, SECTION);
        if (typeof buffer === "number") throw new Error(`answered ${buffer}`);
        setBalloonTarget(kernel, balloon.targetPages + SECTION);
        expect(yield* balloonStep(kernel)).toBe(BP_WAIT);
        expect(balloon.totalPages).toBe(before.total + SECTION);
        expect(balloon.balloonLow).toBe(SECTION);
        expect(adds(kernel)).toBe(true);
        const [page] = balloonedPages(kernel);
        expect(page).toBeGreaterThanOrEqual(EXTENDED.base / 4096);
        // The buffer's RAM is Xen's, so as much may be populated.
        expect(yield* balloonStep(kernel)).toBe(BP_DONE);
        expect(pages.freeCount).toBe(before.free);
        expect(yield* loadWord(kernel.cpu, pageToPhys(page ?? Pfn(0)))).toBe(0);
        expect(adds(kernel)).toBe(true);
        // Beyond the domain's maximum Xen gives nothing.
        expect(yield* gnttabDmaFreePages(kernel, buffer)).toBe(-EFAULT);
      },
      { memoryHotplug: true, unpopulatedAlloc: "list" },
    );
  });

  test("serves pages for grants without RAM being given up, when the kernel prefers it", () => {
    for (const hotplugUnpopulated of [true, false]) {
      const program = function* (kernel: Kernel): Program {
        const { balloon } = kernel.memory;
        // Nothing is announced to unpopulated-alloc here, so that its requests go to the balloon.
        const before = { tot: totPages(kernel), total: balloon.totalPages };
        const pages = yield* xenAllocBalloonedPages(kernel, 10);
        if (typeof pages === "number") throw new Error(`answered ${pages}`);
        expect(totPages(kernel)).toBe(hotplugUnpopulated ? before.tot : before.tot - 10);
        expect(balloon.totalPages).toBe(before.total + (hotplugUnpopulated ? SECTION : 0));
        expect(adds(kernel)).toBe(true);
        xenFreeBalloonedPages(kernel, pages);
        expect(adds(kernel)).toBe(true);
      };
      inGuest(program, { hotplugUnpopulated, memoryHotplug: true });
    }
  });

  test("without address space or a descriptor for it the thread gives up, and RAM is stolen after all", () => {
    for (const point of [0, 1]) {
      inGuest(
        function* (kernel) {
          const { balloon, unpopulated } = kernel.memory;
          setBalloonTarget(kernel, balloon.totalPages + 10);
          kernel.faults.failAt = kernel.faults.passed + point;
          const objects = kernel.faults.objects;
          expect(yield* balloonStep(kernel)).toBe(BP_ECANCELED);
          expect(kernel.faults.objects).toBe(objects);
          expect(unpopulated.target?.taken).toEqual([]);
          expect(yield* balloonStep(kernel)).toBe(BP_WAIT);
        },
        { memoryHotplug: true },
      );
    }
  });
});

describe("the balloon's attributes", () => {
  test("guest case 88: only an administrator sets a target", () => {
    const kernel = stillKernel();
    const total = kernel.memory.balloon.totalPages;
    const write = (name: string, text: string, sysAdmin: boolean) =>
      writeBalloonAttribute(kernel, name, text, { sysAdmin });
    expect(write("target_kb", "400", false)).toBe(-EPERM);
    expect(write("target", "409600", false)).toBe(-EPERM);
    expect(kernel.memory.balloon.targetPages).toBe(total);
    expect(write("target_kb", "400\n", true)).toBe(0);
    expect(kernel.memory.balloon.targetPages).toBe(100);
    expect(readBalloonAttribute(kernel, "target")).toBe("409600\n");
    expect(write("target_kb", "much", true)).toBe(-EINVAL);
    expect(write("max_schedule_delay", "8", false)).toBe(0);
    for (let i = 0; i < 3; i++) updateSchedule(kernel, BP_EAGAIN);
    expect(readBalloonAttribute(kernel, "schedule_delay")).toBe("8\n");
    expect(write("info/current_kb", "1", true)).toBe(-EACCES);
    expect(readBalloonAttribute(kernel, "info/current_kb")).toBe(`${total * 4}\n`);
    expect(readBalloonAttribute(kernel, "nothing")).toBe(-ENOENT);
    expect(write("max_retry_count", "0", false)).toBe(0);
    for (let i = 0; i < 9; i++) expect(updateSchedule(kernel, BP_EAGAIN)).toBe(BP_EAGAIN);
  });

  test("a target in the store moves the domain, less what its maximum says beyond it; nonsense is ignored", () => {
    const seen: number[] = [];
    let next = 0;
    const { outcome } = runWhole(transferModel(), {
      *dom0(kernel) {
        const home = "/local/domain/1/memory";
        yield* writeStoreNode(kernel, `${home}/static-max`, 2048 + 64);
        for (const [step, target] of ["2000", "", "lots", "2112"].entries()) {
          yield* writeStoreNode(kernel, `${home}/target`, target);
          next = step + 1;
          // dom0 serves the store meanwhile.
          while (seen.length < next) {
            yield* sleep(1);
            yield* giveWay(kernel);
          }
        }
      },
      *guest(kernel) {
        const { balloon } = kernel.memory;
        for (let step = 1; step <= 4; step++) {
          yield* until(() => next >= step);
          for (let turn = 0; turn < 30; turn++) {
            yield* sleep(1);
            yield* giveWay(kernel);
          }
          expect(currentCredit(kernel)).toBe(0);
          seen.push(balloon.totalPages - balloon.currentPages);
        }
      },
    });
    expect(outcome.findings).toEqual([]);
    // The kernel has 512 pages of the 528 that the toolstack counts.
    expect(seen).toEqual([28, 28, 28, 0]);
  });
});
