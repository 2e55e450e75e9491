import { describe, expect, test } from "vitest";
import { dmaMap } from "../../domains/dma.ts";
import {
  DMA_BIDIRECTIONAL,
  DMA_MAPPING_ERROR,
  DMA_NONE,
  type DmaDevice,
  dmaBitMask,
  dmaToPhys,
} from "../../domains/dma-device.ts";
import { setPhysToMachine } from "../../domains/foreign-p2m.ts";
import { xenSwiotlbDetect } from "../../domains/memory-init.ts";
import { createSwiotlbPool, releaseSlots, takeSlots } from "../../domains/swiotlb-pool.ts";
import {
  rangeStraddlesPageBoundary,
  xenArchNeedSwiotlb,
  xenDmaToPhys,
  xenPhysToDma,
  xenSwiotlbMapPage,
} from "../../domains/swiotlb-xen.ts";
import {
  XENFEAT_direct_mapped,
  XENFEAT_dom0,
  XENFEAT_not_direct_mapped,
} from "../../shared/abi/xen.ts";
import type { Program } from "../../shared/trap.ts";
import { Bfn, DmaAddress, Gaddr, Pfn } from "../../shared/units.ts";
import { testDom0, testDomain } from "../hypervisor/harness.ts";
import { guestModel, now, runGuests, stillKernel } from "./guest.ts";

function* nothing(): Program {}

const bit = (n: number): number => 1 << n;
const PAGE = 4096;
const P = 0x100000;
const device = (overrides: Partial<DmaDevice> = {}): DmaDevice => ({
  name: "disk",
  dmaRanges: [],
  mask: dmaBitMask(64),
  busLimit: 0,
  coherent: true,
  ...overrides,
});
/** A kernel of a direct-mapped domain with foreign pages P, P+1, P+2 at the given bus frames. */
const kernelWith = (...bfns: readonly number[]) => {
  const kernel = stillKernel({}, {}, bit(XENFEAT_direct_mapped));
  bfns.forEach((bfn, i) => {
    setPhysToMachine(kernel.memory.foreign, Pfn(P + i), Bfn(bfn));
  });
  return kernel;
};

describe("which DMA operations a domain has", () => {
  test("the truth table of xen_swiotlb_detect", () => {
    expect(xenSwiotlbDetect(bit(XENFEAT_direct_mapped))).toBe(true);
    expect(xenSwiotlbDetect(bit(XENFEAT_not_direct_mapped) | bit(XENFEAT_dom0))).toBe(false);
    expect(xenSwiotlbDetect(bit(XENFEAT_dom0))).toBe(true);
    expect(xenSwiotlbDetect(0)).toBe(false);
  });

  test("guest case 75: with both bits set, direct-mapped wins", () => {
    expect(xenSwiotlbDetect(bit(XENFEAT_direct_mapped) | bit(XENFEAT_not_direct_mapped))).toBe(
      true,
    );
  });
});

describe("swiotlb-xen", () => {
  test("decision row 2: a foreign page is programmed by the frame that Xen named", () => {
    const kernel = kernelWith(0x9a100);
    expect(xenPhysToDma(kernel, device(), Gaddr(P * PAGE + 0x10))).toBe(0x9a100010);
  });

  test("decision row 8: the bus offset is applied to that frame, not to the page's own number", () => {
    const kernel = kernelWith(0x1a100);
    const offset = device({ dmaRanges: [{ dma: 0xc000_0000, cpu: 0, size: 0x4000_0000 }] });
    expect(xenPhysToDma(kernel, offset, Gaddr(P * PAGE))).toBe(0xc000_0000 + 0x1a100000);
  });

  test("decision rows 3 and 4: a range is direct only when its frames are consecutive on the bus", () => {
    expect(rangeStraddlesPageBoundary(kernelWith(10, 11, 12), Gaddr(P * PAGE), 3 * PAGE)).toBe(
      false,
    );
    const scattered = kernelWith(10, 20, 21);
    expect(rangeStraddlesPageBoundary(scattered, Gaddr(P * PAGE), 3 * PAGE)).toBe(true);
    expect(rangeStraddlesPageBoundary(scattered, Gaddr(P * PAGE + 4000), 96)).toBe(false);
    expect(rangeStraddlesPageBoundary(scattered, Gaddr(P * PAGE + 4000), 97)).toBe(true);
  });

  test("guest case 70: on unmap a foreign page looks like the machine address it is", () => {
    expect(xenDmaToPhys(device(), DmaAddress(0x9a100010))).toBe(0x9a100010);
  });

  test("guest case 96: a coherent device needs no bounce even when Xen has no cache_flush", () => {
    const kernel = kernelWith(0x9a100);
    const dma = DmaAddress(0x9a100000);
    const at = Gaddr(P * PAGE);
    expect(xenArchNeedSwiotlb(kernel, device(), at, dma)).toBe(false);
    expect(xenArchNeedSwiotlb(kernel, device({ coherent: false }), at, dma)).toBe(true);
    kernel.memory.dma.cacheFlush = true;
    expect(xenArchNeedSwiotlb(kernel, device({ coherent: false }), at, dma)).toBe(false);
  });

  test("at boot it asks whether Xen has cache_flush, with a range that needs none, and is told so", () => {
    const model = guestModel([testDom0(), testDomain("guest")]);
    const { kernels } = runGuests(model, { dom0: nothing, guest: nothing });
    expect(kernels.get("dom0")?.memory.dma.cacheFlush).toBe(true);
    // A domain that is not direct-mapped has no use for it and does not ask.
    expect(kernels.get("guest")?.memory.dma.cacheFlush).toBe(false);
  });

  test("guest case 67: 256 KiB and a byte that straddle cannot be bounced", () => {
    const kernel = kernelWith(10, 20, 30);
    kernel.memory.dma.swiotlb = createSwiotlbPool(kernel.memory.pages, 128);
    const size = 256 * 1024 + 1;
    const map = xenSwiotlbMapPage(kernel, device(), Gaddr(P * PAGE), size, DMA_BIDIRECTIONAL);
    expect(now(map)).toBe(DMA_MAPPING_ERROR);
  });

  test("a mapping without a direction stops the kernel", () => {
    const map = xenSwiotlbMapPage(kernelWith(1), device(), Gaddr(P * PAGE), 1, DMA_NONE);
    expect(() => now(map)).toThrow("direction");
  });

  test("every byte of a direct mapping has the machine address of its page (guest.md 10, item 8)", () => {
    const kernel = kernelWith(0x50, 0x51, 0x52);
    const phys = Gaddr(P * PAGE + 100);
    const dma = now(xenSwiotlbMapPage(kernel, device(), phys, 2 * PAGE, DMA_BIDIRECTIONAL));
    for (const k of [0, 3996, 4000, 8191]) {
      const frame = 0x50 + Math.floor((100 + k) / PAGE);
      expect(dmaToPhys(device(), DmaAddress(dma + k))).toBe(frame * PAGE + ((100 + k) % PAGE));
    }
  });
});

describe("a buffer mapped for a device", () => {
  const disk = (overrides = {}) => ({
    name: "disk",
    kind: "disk" as const,
    registersGfn: 0x10,
    line: 0,
    dmaRanges: [],
    addressWidth: 64,
    coherent: true,
    ...overrides,
  });

  test("swiotlb-xen gives one entry a page and as many segments as runs on the bus", () => {
    const mapping = now(dmaMap(kernelWith(10, 11, 40), disk(), [P, P + 1, P + 2].map(Pfn)));
    if (typeof mapping === "number") throw new Error("refused");
    expect(mapping.addresses).toEqual([10 * PAGE, 11 * PAGE, 40 * PAGE]);
    expect(mapping.segments.length).toBe(2);
    expect(mapping.maker).toBe("xen_phys_to_dma");
  });

  test("dma-direct gives the guest frames, one segment for a contiguous buffer", () => {
    const kernel = stillKernel();
    setPhysToMachine(kernel.memory.foreign, Pfn(P), Bfn(0x9a100));
    const mapping = now(dmaMap(kernel, disk(), [P, P + 1].map(Pfn), { lengthBytes: 5000 }));
    if (typeof mapping === "number") throw new Error("refused");
    expect(mapping.segments).toEqual([{ address: P * PAGE, length: 5000 }]);
    expect(mapping.maker).toBe("phys_to_dma");
  });

  test("decision row 16: no pool and out of reach is refused", () => {
    const window = { dmaRanges: [{ dma: 0xc000_0000, cpu: 0, size: 0x4000_0000 }] };
    expect(now(dmaMap(stillKernel(), disk(window), [Pfn(P)]))).toBe(DMA_MAPPING_ERROR);
  });
});

describe("the bounce pool", () => {
  const poolOf = (pages: number) => {
    const pool = createSwiotlbPool(stillKernel().memory.pages, pages);
    if (pool === undefined) throw new Error("no pool");
    return pool;
  };

  test("a mapping has at most 128 slots and never crosses a segment of 128", () => {
    const pool = poolOf(128);
    expect(takeSlots(pool, Gaddr(0), 256 * 1024 + 1)).toBeUndefined();
    takeSlots(pool, Gaddr(0), 100 * 2048);
    expect(takeSlots(pool, Gaddr(0), 100 * 2048)).toBe(pool.start + 128 * 2048);
  });

  test("a full pool refuses until slots are released", () => {
    const pool = poolOf(4);
    const all = takeSlots(pool, Gaddr(0), 4 * PAGE) ?? Gaddr(0);
    expect(takeSlots(pool, Gaddr(0), 1)).toBeUndefined();
    releaseSlots(pool, all);
    expect(takeSlots(pool, Gaddr(0), 1)).toBe(pool.start);
  });

  test("no pages asked for is no pool", () => {
    expect(createSwiotlbPool(stillKernel().memory.pages, 0)).toBeUndefined();
  });
});
