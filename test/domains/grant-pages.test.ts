import { describe, expect, test } from "vitest";
import { genPoolAvail } from "../../domains/gen-pool.ts";
import {
  type DmaPages,
  GNTDEV_DEVICE,
  gnttabDmaAllocPages,
  gnttabDmaFreePages,
  knowsUnpopulated,
} from "../../domains/grant-pages.ts";
import type { Kernel } from "../../domains/kernel.ts";
import { xenmemReservationIncrease } from "../../domains/mem-reservation.ts";
import { GuestFault, loadWord, storeWord } from "../../domains/memory.ts";
import { PG_private, pageToPhys, testFlag } from "../../domains/pages.ts";
import { DOM, domainOf } from "../../shared/layout.ts";
import type { FreeKnows, KernelOptions, Range } from "../../shared/machine.ts";
import { EFAULT, ENODEV, ENOMEM } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { Pfn } from "../../shared/units.ts";
import { testDom0, testDomain } from "../hypervisor/harness.ts";
import { EXTENDED, guestModel, kernelOptions, runGuests } from "./guest.ts";

/** Runs `program` in a domain that is not direct-mapped; the audit must find nothing after any step. */
function inGuest(
  options: Partial<KernelOptions>,
  program: (kernel: Kernel) => Program,
  extendedRegions: readonly Range[] = [EXTENDED],
): void {
  const back = testDomain("back", { kernel: kernelOptions(options), extendedRegions });
  const run = runGuests(guestModel([testDom0({ runs: false }), back]), { back: program });
  expect(run.findings).toEqual([]);
}

const totPages = (kernel: Kernel): number =>
  kernel.cpu.words[domainOf(kernel.cpu.layout, kernel.boot.domid) + DOM.TOT_PAGES] ?? -1;

function* alloc(kernel: Kernel, count: number): Program<DmaPages> {
  const args = yield* gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, count);
  if (typeof args === "number") throw new Error(`allocation answered ${args}`);
  return args;
}

const consecutive = (pages: readonly Pfn[]): boolean =>
  pages.every((page, i) => page === (pages[0] ?? 0) + i);

function* faults(kernel: Kernel, page: Pfn): Program<boolean> {
  try {
    yield* loadWord(kernel.cpu, pageToPhys(page));
  } catch (error) {
    if (error instanceof GuestFault) return true;
    throw error;
  }
  return false;
}

describe("gnttab_dma_alloc_pages", () => {
  test("takes contiguous unpopulated pages and gives no RAM away", () => {
    inGuest({}, function* (kernel) {
      const before = totPages(kernel);
      const args = yield* alloc(kernel, 16);
      expect(consecutive(args.pages)).toBe(true);
      expect(args.devBusAddr).toBe(EXTENDED.base);
      expect(args.pages.every((page) => testFlag(kernel.memory.pages, page, PG_private))).toBe(
        true,
      );
      expect(yield* faults(kernel, args.pages[3] ?? Pfn(0))).toBe(true);
      expect(totPages(kernel)).toBe(before);
      expect(yield* gnttabDmaFreePages(kernel, args)).toBe(0);
      const pool = kernel.memory.unpopulated.pool;
      expect(pool && genPoolAvail(pool)).toBe(64 * 4096);
    });
  });

  test("guest case 9: falls back to real RAM, which goes to Xen and comes back", () => {
    inGuest({ unpopulatedAlloc: "off" }, function* (kernel) {
      const before = totPages(kernel);
      const args = yield* alloc(kernel, 16);
      expect(args.unpopulated).toBe(false);
      expect(consecutive(args.pages)).toBe(true);
      expect(totPages(kernel)).toBe(before - 16);
      expect(yield* faults(kernel, args.pages[3] ?? Pfn(0))).toBe(true);
      // The balloon's own statistics do not know of it.
      expect(kernel.memory.balloon.currentPages).toBe(kernel.memory.balloon.totalPages);
      expect(yield* gnttabDmaFreePages(kernel, args)).toBe(0);
      expect(totPages(kernel)).toBe(before);
      expect(yield* faults(kernel, args.pages[3] ?? Pfn(0))).toBe(false);
    });
  });

  test("the fallback also serves when the pool is empty, and the reason stays hidden", () => {
    inGuest({}, function* (kernel) {
      const all = yield* alloc(kernel, 8 * 64);
      const args = yield* alloc(kernel, 4);
      expect(args.unpopulated).toBe(false);
      yield* gnttabDmaFreePages(kernel, args);
      yield* gnttabDmaFreePages(kernel, all);
    });
  });

  test("without the fallback the reason is answered", () => {
    const program = function* (kernel: Kernel): Program {
      expect(yield* gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, 2)).toBe(-ENODEV);
    };
    inGuest({ fallback: false }, program, []);
  });

  test("guest case 19: a count out of range, or none, is refused", () => {
    inGuest({}, function* (kernel) {
      for (const count of [-1, 524288, 0]) {
        expect(yield* gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, count)).toBe(-ENOMEM);
      }
    });
  });

  test("guest case 20: when Xen gives back fewer frames the free says EFAULT, and the pages are free all the same", () => {
    inGuest({ unpopulatedAlloc: "off" }, function* (kernel) {
      const free = kernel.memory.pages.freeCount;
      const args = yield* alloc(kernel, 3);
      // Somebody uses up one page of the reservation meanwhile.
      expect(yield* xenmemReservationIncrease(kernel, [Pfn(0x50000)])).toBe(1);
      expect(yield* gnttabDmaFreePages(kernel, args)).toBe(-EFAULT);
      expect(kernel.memory.pages.freeCount).toBe(free);
      expect(yield* faults(kernel, args.pages[1] ?? Pfn(0))).toBe(false);
      expect(yield* faults(kernel, args.pages[2] ?? Pfn(0))).toBe(true);
    });
  });

  test("more RAM than there is answers ENOMEM and takes nothing", () => {
    inGuest({ unpopulatedAlloc: "off" }, function* (kernel) {
      const before = totPages(kernel);
      expect(yield* gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, 300)).toBe(-ENOMEM);
      expect(totPages(kernel)).toBe(before);
    });
  });
});

describe("set_private that fails half-way", () => {
  test("leaves no page marked and the pool as it was (trace T4)", () => {
    inGuest({ setPrivateFailsAt: 2 }, function* (kernel) {
      expect(yield* gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, 4)).toBe(-ENOMEM);
      const pool = kernel.memory.unpopulated.pool;
      expect(pool && genPoolAvail(pool)).toBe(64 * 4096);
      const first = EXTENDED.base / 4096;
      for (let i = 0; i < 4; i++) {
        expect(testFlag(kernel.memory.pages, Pfn(first + i), PG_private)).toBe(false);
      }
    });
  });

  test("gives the RAM of the fallback back to the kernel, populated", () => {
    inGuest({ setPrivateFailsAt: 2, unpopulatedAlloc: "off" }, function* (kernel) {
      const before = totPages(kernel);
      const free = kernel.memory.pages.freeCount;
      expect(yield* gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, 4)).toBe(-ENOMEM);
      expect(totPages(kernel)).toBe(before);
      expect(kernel.memory.pages.freeCount).toBe(free);
    });
  });

  test("guest case 41: pages before the failing one stay marked until somebody clears them", () => {
    inGuest({ setPrivateFailsAt: 9 }, function* (kernel) {
      const args = yield* alloc(kernel, 9);
      expect(args.pages.length).toBe(9);
      expect(yield* gnttabDmaFreePages(kernel, args)).toBe(0);
    });
  });
});

describe("the four ways for free to know the kind", () => {
  const ways: readonly FreeKnows[] = ["flag", "zone-device", "pool-address", "region"];

  test.each(ways)(
    "guest case 21: %s tells unpopulated pages from RAM of the fallback",
    (freeKnows) => {
      for (const unpopulatedAlloc of ["pool", "rfc", "list", "off"] as const) {
        inGuest({ freeKnows, unpopulatedAlloc }, function* (kernel) {
          const before = totPages(kernel);
          const args = yield* alloc(kernel, 8);
          const contiguous = unpopulatedAlloc === "pool" || unpopulatedAlloc === "rfc";
          expect(knowsUnpopulated(kernel, args)).toBe(contiguous);
          expect(totPages(kernel)).toBe(contiguous ? before : before - 8);
          expect(yield* gnttabDmaFreePages(kernel, args)).toBe(0);
          expect(totPages(kernel)).toBe(before);
        });
      }
    },
  );

  test("guest case 91: V1's hole: without a region one page comes from the balloon, and only the flag knows it", () => {
    for (const freeKnows of ways) {
      const program = function* (kernel: Kernel): Program {
        const { balloon } = kernel.memory;
        const before = totPages(kernel);
        const args = yield* alloc(kernel, 1);
        expect(balloon.targetUnpopulated).toBe(1);
        expect(totPages(kernel)).toBe(before - 1);
        expect(yield* gnttabDmaFreePages(kernel, args)).toBe(0);
        const knows = freeKnows === "flag";
        expect(balloon.targetUnpopulated).toBe(knows ? 0 : 1);
        expect(balloon.balloonLow).toBe(knows ? 1 : 0);
        expect(totPages(kernel)).toBe(knows ? before - 1 : before);
        expect(balloon.currentPages).toBe(balloon.totalPages - 1);
      };
      inGuest({ freeKnows, patchFaults: ["single-page-hole"] }, program, []);
    }
  });

  test("guest case 91: without the hole a single page takes the fallback, and the balloon's counts stay right", () => {
    for (const freeKnows of ways) {
      const program = function* (kernel: Kernel): Program {
        const { balloon } = kernel.memory;
        const before = totPages(kernel);
        const args = yield* alloc(kernel, 1);
        expect(args.frames).toEqual(args.pages);
        expect(yield* gnttabDmaFreePages(kernel, args)).toBe(0);
        expect(balloon).toMatchObject({ targetUnpopulated: 0, balloonLow: 0 });
        expect(balloon.currentPages).toBe(balloon.totalPages);
        expect(totPages(kernel)).toBe(before);
      };
      inGuest({ freeKnows }, program, []);
    }
  });

  test("a page of the fallback that is freed as unpopulated would stop the kernel", () => {
    expect(() =>
      inGuest({ freeKnows: "flag" }, function* (kernel) {
        yield* alloc(kernel, 1);
        const page = kernel.memory.pages.free[0]?.pfn ?? 0;
        yield* storeWord(kernel.cpu, page * 4096, 1);
        const args = yield* alloc(kernel, 2);
        yield* gnttabDmaFreePages(kernel, { ...args, pages: [Pfn(page), Pfn(page + 1)] });
      }),
    ).toThrow("no chunk");
  });
});
