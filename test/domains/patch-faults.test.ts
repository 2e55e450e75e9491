// Design options of the thread and the faults that its patches were posted with: what each one breaks.
import { describe, expect, test } from "vitest";
import { KernelBug } from "../../domains/bug.ts";
import { genPoolAvail, genPoolSize } from "../../domains/gen-pool.ts";
import {
  GNTDEV_DEVICE,
  gnttabDmaAllocPages,
  gnttabDmaFreePages,
} from "../../domains/grant-pages.ts";
import { type Kernel, spawn, waitUntil } from "../../domains/kernel.ts";
import { PG_private, testFlag } from "../../domains/pages.ts";
import {
  type PagesOrErrno,
  xenAllocUnpopulatedContiguousPages,
  xenAllocUnpopulatedPages,
  xenFreeUnpopulatedPages,
} from "../../domains/unpopulated.ts";
import type { KernelOptions, Range } from "../../shared/machine.ts";
import { EBUSY, ENOMEM } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { DmaAddress, Pfn } from "../../shared/units.ts";
import { testDom0, testDomain } from "../hypervisor/harness.ts";
import {
  EXTENDED,
  EXTENDED_BASE,
  guestModel,
  kernelOptions,
  now,
  runGuests,
  SECTION,
  stillKernel,
} from "./guest.ts";

const FIRST = EXTENDED_BASE / 4096;
const MASK64 = GNTDEV_DEVICE.mask;
const ONE_SECTION: readonly Range[] = [{ base: EXTENDED_BASE, size: SECTION * 4096 }];

const alloc = (kernel: Kernel, count: number) => now(xenAllocUnpopulatedPages(kernel, count));
const contiguous = (kernel: Kernel, count: number) =>
  now(xenAllocUnpopulatedContiguousPages(kernel, MASK64, count));
const pagesOf = (got: PagesOrErrno): readonly Pfn[] => (typeof got === "number" ? [] : got);

/** Two tasks of one kernel ask for contiguous pages at the same time; what each is answered. */
function twoAsk(
  options: Partial<KernelOptions>,
  counts: readonly [number, number],
  extendedRegions: readonly Range[],
): { readonly got: readonly PagesOrErrno[]; readonly sections: number } {
  const got: PagesOrErrno[] = [];
  let sections = 0;
  const drv = testDomain("drv", { kernel: kernelOptions(options), extendedRegions });
  const program = function* (kernel: Kernel): Program {
    counts.forEach((count, i) => {
      spawn(
        kernel,
        `asks ${i}`,
        (function* () {
          got.push(yield* xenAllocUnpopulatedContiguousPages(kernel, MASK64, count));
        })(),
      );
    });
    yield* waitUntil(kernel, () => got.length === 2);
    sections = kernel.memory.unpopulated.target?.taken.length ?? 0;
  };
  const run = runGuests(guestModel([testDom0({ runs: false }), drv]), { drv: program });
  expect(run.findings).toEqual([]);
  return { got, sections };
}

describe("the pool and its lock", () => {
  test("with the lock two tasks share one section, and no page goes to both", () => {
    for (const unpopulatedAlloc of ["pool", "rfc"] as const) {
      const { got, sections } = twoAsk({ unpopulatedAlloc }, [3, 4], ONE_SECTION);
      const pages = got.flatMap(pagesOf);
      expect(new Set(pages).size).toBe(7);
      expect(sections).toBe(1);
    }
  });

  test("without it both fill: the second finds no section left, although the first one has room for both", () => {
    for (const unpopulatedAlloc of ["pool", "rfc"] as const) {
      const options = { unpopulatedAlloc, patchFaults: ["no-lock"] } as const;
      const { got } = twoAsk(options, [3, 4], ONE_SECTION);
      expect(got.map((one) => (typeof one === "number" ? one : one.length)).sort()).toEqual([
        -EBUSY,
        3,
      ]);
    }
  });

  test("without it two sections are taken where one would do", () => {
    const { sections } = twoAsk({ patchFaults: ["no-lock"] }, [3, 4], [EXTENDED]);
    expect(sections).toBe(2);
  });
});

describe("the second descriptor of a fill", () => {
  const failSecond = (kernel: Kernel): void => {
    kernel.faults.failAt = kernel.faults.passed + 1;
  };

  test("is missed: the fill answers ENOMEM and gives the hole back", () => {
    const kernel = stillKernel();
    failSecond(kernel);
    expect(contiguous(kernel, 4)).toBe(-ENOMEM);
    expect(kernel.faults.objects).toBe(0);
    expect(kernel.memory.unpopulated.target?.taken).toEqual([]);
    expect(contiguous(kernel, 4)).toEqual([FIRST, FIRST + 1, FIRST + 2, FIRST + 3].map(Pfn));
  });

  test("with the wrong variable checked the kernel copies into nothing and stops", () => {
    const kernel = stillKernel({ unpopulatedAlloc: "rfc", patchFaults: ["wrong-variable"] });
    failSecond(kernel);
    expect(() => contiguous(kernel, 4)).toThrow(KernelBug);
  });
});

describe("pages of the pool one by one (D13)", () => {
  const options = { poolSingles: "page" } as const;
  /** Takes all pages of the first section but every fourth. */
  function fragmented(kernel: Kernel): void {
    const all = pagesOf(contiguous(kernel, SECTION));
    xenFreeUnpopulatedPages(
      kernel,
      all.filter((_, i) => i % 4 === 0),
    );
  }

  test("holes serve a request that as one chunk takes another section", () => {
    const dense = stillKernel(options);
    fragmented(dense);
    expect(pagesOf(alloc(dense, 3))).toEqual([FIRST, FIRST + 4, FIRST + 8]);
    expect(dense.memory.unpopulated.target?.taken.length).toBe(1);
    const chunk = stillKernel();
    fragmented(chunk);
    expect(pagesOf(alloc(chunk, 3))[0]).toBe(FIRST + SECTION);
    expect(chunk.memory.unpopulated.target?.taken.length).toBe(2);
  });

  test("bytes compared with pages: one free page is taken for 4096, and a request for five fails for nothing", () => {
    for (const faulty of [false, true]) {
      const patchFaults = faulty ? (["bytes-for-pages"] as const) : [];
      const kernel = stillKernel({ ...options, patchFaults });
      contiguous(kernel, SECTION - 1);
      const got = alloc(kernel, 5);
      if (faulty) expect(got).toBe(-ENOMEM);
      else expect(pagesOf(got).length).toBe(5);
      const pool = kernel.memory.unpopulated.pool;
      if (faulty) expect(pool && genPoolAvail(pool)).toBe(4096);
    }
  });
});

describe("pages of the pool freed as one range (D14)", () => {
  test("unrelated pages in one array free somebody else's, or stop the kernel", () => {
    const kernel = stillKernel({ poolFree: "range" });
    const mine = pagesOf(contiguous(kernel, 4));
    const others = pagesOf(contiguous(kernel, 4));
    const [first, second] = [mine[3] ?? Pfn(0), mine[0] ?? Pfn(0)];
    // As gnttab_page_cache_shrink passes them: [p3, p0] names the range p3 to p4, and p4 is not ours.
    xenFreeUnpopulatedPages(kernel, [first, second]);
    expect(pagesOf(contiguous(kernel, 2))[0]).toBe(first);
    expect(others[0]).toBe(first + 1);
    const strict = stillKernel({ poolFree: "range" });
    const got = pagesOf(contiguous(strict, 4));
    expect(() => xenFreeUnpopulatedPages(strict, [got[3] ?? Pfn(0), got[0] ?? Pfn(0)])).toThrow(
      "freed twice",
    );
  });

  test("a contiguous array goes back in one piece all the same", () => {
    const kernel = stillKernel({ poolFree: "range" });
    xenFreeUnpopulatedPages(kernel, pagesOf(contiguous(kernel, 4)));
    const pool = kernel.memory.unpopulated.pool;
    expect(pool && genPoolAvail(pool)).toBe(pool && genPoolSize(pool));
  });
});

describe("after set_private has failed (D11)", () => {
  test("giving back only the pages leaves some of them private; gnttab_dma_free_pages leaves none", () => {
    for (const privateCleanup of ["free-only", "dma-free"] as const) {
      const kernel = stillKernel({ privateCleanup, setPrivateFailsAt: 2 });
      expect(now(gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, 4))).toBe(-ENOMEM);
      const marked = [0, 1, 2, 3].filter((i) =>
        testFlag(kernel.memory.pages, Pfn(FIRST + i), PG_private),
      );
      expect(marked).toEqual(privateCleanup === "free-only" ? [0, 1] : []);
    }
  });
});

describe("dev_bus_addr of a fresh buffer (D12)", () => {
  const offsetDevice = {
    ...GNTDEV_DEVICE,
    dmaRanges: [{ dma: 0xc000_0000, cpu: EXTENDED_BASE, size: 0x1000_0000 }],
  };
  const busAddress = (devBusAddr: KernelOptions["devBusAddr"]): DmaAddress => {
    const args = now(gnttabDmaAllocPages(stillKernel({ devBusAddr }), offsetDevice, 2));
    return typeof args === "number" ? DmaAddress(args) : args.devBusAddr;
  };

  test("decision row 27: page_to_phys and pfn_to_bfn agree, and both miss the bus offset of a real device", () => {
    expect(busAddress("page_to_phys")).toBe(EXTENDED_BASE);
    expect(busAddress("pfn_to_bfn")).toBe(EXTENDED_BASE);
    expect(busAddress("page_to_dma")).toBe(0xc000_0000);
  });

  test("decision row 26: RAM of the mainline path has its physical address, which for gntdev is its DMA address", () => {
    const drv = testDomain("drv", { kernel: kernelOptions({ unpopulatedAlloc: "list" }) });
    const program = function* (kernel: Kernel): Program {
      const args = yield* gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, 4);
      if (typeof args === "number") throw new Error(`answered ${args}`);
      expect(args.devBusAddr).toBe((args.pages[0] ?? 0) * 4096);
      expect(args.vaddr).toBe(args.devBusAddr);
      expect(yield* gnttabDmaFreePages(kernel, args)).toBe(0);
    };
    const run = runGuests(guestModel([testDom0({ runs: false }), drv]), { drv: program });
    expect(run.findings).toEqual([]);
  });

  test("guest case 92: unpopulated pages are mapped cacheable whatever is asked; RAM of the fallback is not", () => {
    const drv = testDomain("drv", { extendedRegions: ONE_SECTION });
    const program = function* (kernel: Kernel): Program {
      const seen: string[] = [];
      // The second buffer finds the section used up.
      for (const [count, kind] of [
        [SECTION, "write-combine"],
        [4, "write-combine"],
        [4, "coherent"],
      ] as const) {
        const args = yield* gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, count, kind);
        if (typeof args === "number") throw new Error(`answered ${args}`);
        seen.push(args.mapping);
      }
      expect(seen).toEqual(["cacheable", "write-combine", "uncached"]);
      const coherent = { ...GNTDEV_DEVICE, coherent: true };
      const args = yield* gnttabDmaAllocPages(kernel, coherent, 4, "write-combine");
      expect(typeof args === "number" ? args : args.mapping).toBe("cacheable");
    };
    const run = runGuests(guestModel([testDom0({ runs: false }), drv]), { drv: program });
    expect(run.findings).toEqual([]);
  });
});
