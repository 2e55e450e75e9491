/** What a device and the CPU see of each other's writes: cache maintenance, bounce copies, masks and merged vectors. */
import { describe, expect, test } from "vitest";
import { isMergeable, mergeBioVectors } from "../../domains/biomerge.ts";
import {
  dmaMapPage,
  dmaMaxMappingSize,
  dmaSetMask,
  dmaSupported,
  dmaSyncForDevice,
  dmaUnmapPage,
} from "../../domains/dma.ts";
import { dmaBufGet, dmaBufPut } from "../../domains/dma-buf.ts";
import {
  DMA_BIDIRECTIONAL,
  DMA_FROM_DEVICE,
  DMA_TO_DEVICE,
  type DmaDevice,
  dmaBitMask,
} from "../../domains/dma-device.ts";
import { dmaDirectAlloc } from "../../domains/dma-direct.ts";
import { readDisk, verifyDisk } from "../../domains/drivers/disk.ts";
import { allocPort } from "../../domains/events.ts";
import {
  createForeignP2m,
  lookupForeign,
  pfnToBfn,
  setPhysToMachine,
} from "../../domains/foreign-p2m.ts";
import { mapGrantRefs, mapOp, unmapGrantRefs, unmapOp } from "../../domains/grant-calls.ts";
import { GNTDEV_DEVICE, gnttabDmaAllocPages } from "../../domains/grant-pages.ts";
import { grantForeignAccess, tryEndForeignAccess } from "../../domains/grant-table.ts";
import type { Kernel } from "../../domains/kernel.ts";
import { storeWord } from "../../domains/memory.ts";
import { allocPage, pageToPhys } from "../../domains/pages.ts";
import { mapRing, unmapRing } from "../../domains/ring-map.ts";
import { runProcess, sysOpen } from "../../domains/syscalls.ts";
import { xenAllocUnpopulatedPages, xenFreeUnpopulatedPages } from "../../domains/unpopulated.ts";
import {
  dmabufImpRelease,
  dmabufImpToRefs,
  dmaHeapAlloc,
  GNTDEV,
} from "../../domains/xengnttab.ts";
import { DISK_STATUS_MISCOMPARE, DISK_STATUS_OK } from "../../shared/abi/disk.ts";
import {
  CACHE_FLUSH_OP,
  GNTMAP_host_map,
  GNTTAB_CACHE_CLEAN,
  GNTTAB_CACHE_INVAL,
  GNTTABOP_cache_flush,
} from "../../shared/abi/grant.ts";
import { HYPERVISOR_grant_table_op, XENFEAT_direct_mapped } from "../../shared/abi/xen.ts";
import { item } from "../../shared/assert.ts";
import { EIO, ENOMEM } from "../../shared/status.ts";
import { type Program, RECORD_OP, recordArg, TRAP_HYPERCALL } from "../../shared/trap.ts";
import { Bfn, Gaddr, GrantRef, Pfn } from "../../shared/units.ts";
import { testDom0, testDomain } from "../hypervisor/harness.ts";
import { runDma } from "./dma-machine.ts";
import { EXTENDED, type GuestRun, guestModel, now, runGuests, stillKernel } from "./guest.ts";
import { until } from "./until.ts";
import { rest } from "./user.ts";

const PAGE = 4096;
const P = 0x100000;
const DEVICE: DmaDevice = {
  name: "disk",
  dmaRanges: [],
  mask: dmaBitMask(64),
  busLimit: 0,
  coherent: false,
};

/** The operations of each GNTTABOP_cache_flush that `program` makes. */
function* watched<Result>(
  kernel: Kernel,
  program: Program<Result>,
  ops: number[],
): Program<Result> {
  for (let input = 0; ; ) {
    const step = program.next(input);
    if (step.done === true) return step.value;
    const trap = step.value;
    const isFlush =
      trap.kind === TRAP_HYPERCALL &&
      trap.record[RECORD_OP] === HYPERVISOR_grant_table_op &&
      recordArg(trap.record, 0) === GNTTABOP_cache_flush;
    if (isFlush) ops.push(kernel.arguments.view.getUint32(CACHE_FLUSH_OP, true));
    input = yield trap;
  }
}

/** A page of domain `front` in dom0, mapped as gntdev maps pages for devices; the program gets its address there. */
function withForeignPage(program: (kernel: Kernel, phys: Gaddr) => Program): GuestRun["kernels"] {
  const told: { ref?: number; done?: boolean } = {};
  const run = runGuests(
    guestModel([testDom0({ extendedRegions: [EXTENDED] }), testDomain("front")]),
    {
      *front(kernel) {
        const page = allocPage(kernel.memory.pages) ?? Pfn(0);
        told.ref = yield* grantForeignAccess(kernel, 0, page);
        yield* until(() => told.done === true);
        expect(yield* tryEndForeignAccess(kernel, GrantRef(told.ref))).toBe(1);
      },
      *dom0(kernel) {
        yield* until(() => told.ref !== undefined);
        const mapped = yield* mapRing(kernel, 1, told.ref ?? 0);
        if (typeof mapped === "number") throw new Error("no mapping");
        yield* program(kernel, Gaddr(mapped.gaddr));
        yield* unmapRing(kernel, mapped);
        told.done = true;
      },
    },
  );
  expect(run.findings).toEqual([]);
  expect(told.done).toBe(true);
  return run.kernels;
}

describe("cache maintenance of a foreign page in a direct-mapped domain", () => {
  const cases = [
    [
      "guest case 68: what the device writes is invalidated at map and at unmap",
      DMA_FROM_DEVICE,
      false,
      [2, 2],
    ],
    [
      "guest case 68: what it reads is cleaned at map, and nothing happens at unmap",
      DMA_TO_DEVICE,
      false,
      [1],
    ],
    ["both: cleaned at map, invalidated at unmap", DMA_BIDIRECTIONAL, false, [1, 2]],
    ["guest case 69: a coherent device costs no hypercall", DMA_FROM_DEVICE, true, []],
  ] as const;
  test.each(cases)("%s", (_what, direction, coherent, expected) => {
    expect([GNTTAB_CACHE_CLEAN, GNTTAB_CACHE_INVAL]).toEqual([1, 2]);
    const bfn = item(runDma({}).bfns, 0);
    withForeignPage(function* (kernel, phys) {
      const ops: number[] = [];
      const device = { ...DEVICE, coherent };
      // The page as the foreign table would know it: a frame that is not among dom0's own.
      setPhysToMachine(kernel.memory.foreign, Pfn(phys / PAGE), Bfn(bfn));
      const dma = yield* watched(kernel, dmaMapPage(kernel, device, phys, PAGE, direction), ops);
      expect(dma).toBe(bfn * PAGE);
      yield* watched(kernel, dmaUnmapPage(kernel, device, dma, PAGE, direction), ops);
      expect(ops).toEqual(expected);
      setPhysToMachine(kernel.memory.foreign, Pfn(phys / PAGE), undefined);
    });
  });

  test("decision row 29: a ring page has no entry in the foreign table, so its bus frame would be its own number", () => {
    withForeignPage(function* (kernel, phys) {
      const page = Pfn(phys / PAGE);
      expect(lookupForeign(kernel.memory.foreign, page)).toBe(undefined);
      expect(pfnToBfn(kernel.memory.foreign, page)).toBe(page);
      expect(yield* allocPort(kernel, 1)).toBeGreaterThan(0);
    });
  });
});

describe("a device that reads memory", () => {
  test("sees through a bounce buffer what the CPU had written when it was mapped, until it is synchronised", () => {
    const seen: (number | undefined)[] = [];
    runDma({
      pages: "own",
      kernel: { swiotlbForce: true },
      *during(kernel, mapping, disk) {
        expect(mapping.bounced).toBe(4);
        // The read has filled the copy; the pages themselves still hold zeroes.
        seen.push((yield* verifyDisk(kernel, disk, 0, mapping.segments)).status);
        yield* dmaSyncForDevice(kernel, { ...mapping, direction: DMA_TO_DEVICE });
        seen.push((yield* verifyDisk(kernel, disk, 0, mapping.segments)).status);
        yield* readDisk(kernel, disk, 0, mapping.segments);
      },
    });
    expect(seen).toEqual([DISK_STATUS_OK, DISK_STATUS_MISCOMPARE]);
  });

  test("sees each store at once where it is mapped directly", () => {
    const seen: (number | undefined)[] = [];
    const outcome = runDma({
      pages: "own",
      *during(kernel, mapping, disk) {
        const [address] = mapping.addresses;
        seen.push((yield* verifyDisk(kernel, disk, 0, mapping.segments)).bytes);
        yield* storeWord(kernel.cpu, (address ?? 0) + 2 * PAGE, 0x12345678);
        seen.push((yield* verifyDisk(kernel, disk, 0, mapping.segments)).bytes);
        yield* readDisk(kernel, disk, 0, mapping.segments);
      },
    });
    expect(seen).toEqual([4 * PAGE, 2 * PAGE]);
    expect(outcome.arrived).toBe(true);
  });
});

describe("masks and limits", () => {
  test("dma_set_mask refuses what the operations cannot serve", () => {
    const direct = stillKernel();
    expect(dmaSetMask(direct, DEVICE, dmaBitMask(31))).toBe(-EIO);
    expect(dmaSetMask(direct, DEVICE, dmaBitMask(32))).toMatchObject({ mask: 0xffff_ffff });
    expect(dmaMaxMappingSize(direct, DEVICE)).toBe(Number.POSITIVE_INFINITY);
    const xen = stillKernel({}, {}, 1 << XENFEAT_direct_mapped);
    expect(dmaMaxMappingSize(xen, DEVICE)).toBe(256 * 1024);
    expect(dmaSupported(xen, DEVICE, dmaBitMask(20))).toBe(true);
  });

  test("guest case 72: no RAM within reach of a 32-bit device is -ENOMEM for a buffer of grants", () => {
    const high = [{ base: 0x1_0000_0000, size: 64 * PAGE }];
    const kernel = stillKernel({ unpopulatedAlloc: "off" }, { ram: high });
    const narrow = { ...DEVICE, mask: dmaBitMask(32) };
    expect(now(dmaDirectAlloc(kernel, narrow, 1))).toBe(undefined);
    expect(now(gnttabDmaAllocPages(kernel, narrow, 1, "coherent"))).toBe(-ENOMEM);
    expect(GNTDEV_DEVICE.mask).toBe(dmaBitMask(64));
  });
});

describe("vectors of one request", () => {
  const foreign = (...bfns: readonly number[]) => {
    const table = createForeignP2m();
    bfns.forEach((bfn, i) => {
      setPhysToMachine(table, Pfn(P + i), Bfn(bfn));
    });
    return table;
  };
  const page = (i: number) => ({ phys: Gaddr((P + i) * PAGE), length: PAGE });

  test("guest case 97: pages side by side with frames apart, and frames side by side with pages apart, stay two", () => {
    expect(isMergeable(foreign(10, 20), page(0), page(1))).toBe(false);
    expect(isMergeable(foreign(10, 99, 11), page(0), page(2))).toBe(false);
    expect(isMergeable(foreign(10, 11), page(0), page(1))).toBe(true);
    const own = { phys: Gaddr(5 * PAGE), length: PAGE };
    expect(isMergeable(createForeignP2m(), own, { phys: Gaddr(6 * PAGE), length: PAGE })).toBe(
      true,
    );
  });

  test("guest case 97: behind an IOMMU the rule is stricter than need be, and the bytes arrive all the same", () => {
    expect(mergeBioVectors(foreign(10, 11, 20), [0, 1, 2].map(page))).toEqual([
      { phys: P * PAGE, length: 2 * PAGE },
      { phys: (P + 2) * PAGE, length: PAGE },
    ]);
    const story = { backend: "drv", machine: { iommu: { mode: "on" } }, merge: "block" } as const;
    const outcome = runDma(story);
    expect(outcome.arrived).toBe(true);
    expect(outcome.mapping?.addresses.length).toBeGreaterThan(1);
    expect(outcome.mapping?.segments.length).toBe(1);
    expect(
      runDma({ merge: "block", machine: { allocator: "contiguous" }, pages: "own" }).mapping
        ?.addresses.length,
    ).toBe(1);
  });
});

test("decision row 30: a frontend gives nobody an address: it has no device, and only references cross", () => {
  const kernels = withForeignPage(function* () {
    // The grant is mapped, and that is all that is asked for.
  });
  const front = kernels.get("front");
  expect(front?.boot.devices).toEqual([]);
  expect(front?.boot.virtio).toEqual([]);
  expect(front?.memory.foreign.entries).toEqual([]);
});

test("decision row 28: what dom0 grants of a DMA buffer of its own are machine frames, since gfn == mfn", () => {
  const told: { refs?: readonly number[]; pages?: readonly Pfn[]; done?: boolean } = {};
  const front = { extendedRegions: [EXTENDED] };
  const run = runGuests(guestModel([testDom0(), testDomain("front", front)]), {
    *dom0(kernel) {
      yield* runProcess(kernel, "back", function* (process) {
        const file = { process, fd: yield* sysOpen(process, GNTDEV) };
        const fd = yield* dmaHeapAlloc(process, 3);
        const buf = dmaBufGet(process, fd);
        const refs = yield* dmabufImpToRefs(file, fd, 1, 3);
        if (typeof refs === "number" || typeof buf === "number") throw new Error("refused");
        Object.assign(told, { refs, pages: buf.pages });
        while (told.done !== true) yield* rest(kernel);
        yield* dmaBufPut(buf);
        expect(yield* dmabufImpRelease(file, fd)).toBe(0);
      });
    },
    *front(kernel) {
      yield* until(() => told.refs !== undefined);
      const pages = yield* xenAllocUnpopulatedPages(kernel, 3);
      if (typeof pages === "number") throw new Error("no pages");
      const at = (i: number): number => pageToPhys(item(pages, i));
      const ops = (told.refs ?? []).map((ref, i) => mapOp(at(i), GNTMAP_host_map, ref, 0));
      expect(yield* mapGrantRefs(kernel, ops)).toBe(0);
      expect(ops.map((op) => op.devBusAddr / PAGE)).toEqual(told.pages);
      yield* unmapGrantRefs(
        kernel,
        ops.map((op, i) => unmapOp(at(i), op.handle)),
      );
      xenFreeUnpopulatedPages(kernel, pages);
      told.done = true;
    },
  });
  expect(run.findings).toEqual([]);
  expect(told.done).toBe(true);
});
