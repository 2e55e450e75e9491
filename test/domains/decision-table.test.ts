/**
 * The decision table of domain, IOMMU, device and page: which address is programmed, who translates it, and what goes
 * wrong otherwise. Each row runs on a machine whose disk really writes; the wrong choice is made visible beside it.
 */
import { describe, expect, test } from "vitest";
import { readDisk } from "../../domains/drivers/disk.ts";
import { DISK_STATUS_DMA_FAULT, DISK_STATUS_OK } from "../../shared/abi/disk.ts";
import { type DmaStory, firstAddress, PAGE, runDma } from "./dma-machine.ts";

const RPI4_OFFSET = 0xc000_0000;
/** RAM of a PC, with a stranger's where dom0 has none. */
const X86_BANKS = [
  { base: 0, size: "24MiB" },
  { base: 0x4000_0000, size: "8MiB" },
  { base: 0x1_0000_0000, size: "8MiB" },
];
const ON = { iommu: { mode: "on" } } as const;
const right = (story: DmaStory, owner = "guest") => {
  const outcome = runDma(story);
  expect(outcome.arrived).toBe(true);
  expect(outcome.disk?.status).toBe(DISK_STATUS_OK);
  expect(outcome.hit).toEqual([owner]);
  return outcome;
};

describe("dom0 with gfn == mfn and no IOMMU", () => {
  test("decision row 1: own RAM is programmed as it is numbered", () => {
    const outcome = right({ pages: "own" }, "dom0");
    expect(outcome.ops).toBe("swiotlb-xen");
    expect(firstAddress(outcome)).toBe((outcome.bufferPages[0] ?? 0) * PAGE);
    expect(outcome.mapping?.bounced).toBe(0);
  });

  test("decision row 2: a foreign page by its machine frame; its own number is a stranger's RAM", () => {
    const outcome = right({ count: 1 });
    expect(firstAddress(outcome)).toBe((outcome.bfns[0] ?? 0) * PAGE);
    const wrong = runDma({ count: 1, kernel: { dmaOps: "dma-direct" } });
    expect(firstAddress(wrong)).toBe((wrong.bufferPages[0] ?? 0) * PAGE);
    expect(wrong.arrived).toBe(false);
    expect(wrong.hit).toEqual(["victim"]);
  });

  test("decision row 3: scattered foreign pages in one segment are bounced, and refused above 256 KiB", () => {
    const outcome = runDma({ count: 4, merge: "segment" });
    expect(outcome.mapping?.maker).toBe("swiotlb bounce");
    // The disk has written dom0's bounce buffer, and the CPU has copied.
    expect(outcome.hit).toEqual(["dom0"]);
    expect(outcome.arrived).toBe(true);
    expect(runDma({ count: 65, merge: "segment" }).mapping).toBe(undefined);
    const single = runDma({ count: 65 });
    expect(single.mapping?.segments.length).toBeGreaterThan(1);
    expect(single.hit).toEqual(["guest"]);
  });

  test("decision row 4: foreign pages whose machine frames are consecutive are one direct segment", () => {
    const outcome = right({ merge: "segment", machine: { allocator: "contiguous" } });
    const bfns = [...outcome.bfns].sort((a, b) => a - b);
    expect((bfns.at(-1) ?? 0) - (bfns[0] ?? 0)).toBe(3);
    expect(outcome.mapping?.segments).toEqual([
      { address: firstAddress(outcome), length: 4 * PAGE },
    ]);
  });

  test("decision row 5: a device that is not coherent gets its caches flushed by bus address", () => {
    const outcome = right({ disk: { coherent: false } });
    // Once at boot to see whether Xen can; then each page at its map and at its unmap.
    expect(outcome.cacheFlushes).toBe(1 + 4 + 4);
    expect(right({ pages: "own", disk: { coherent: false } }, "dom0").cacheFlushes).toBe(1);
  });

  test("decision row 6: where Xen cannot flush, such a device works on a copy", () => {
    const outcome = runDma({ disk: { coherent: false }, machine: { lacks: ["cache_flush"] } });
    expect(outcome.mapping?.bounced).toBe(4);
    expect(outcome.hit).toEqual(["dom0"]);
    expect(outcome.arrived).toBe(true);
    expect(right({ machine: { lacks: ["cache_flush"] } }).mapping?.bounced).toBe(0);
  });

  test("decision row 8: a bus offset is applied to the machine frame; without it the bus aborts", () => {
    const outcome = right({ disk: { busOffset: RPI4_OFFSET } });
    expect(firstAddress(outcome)).toBe((outcome.bfns[0] ?? 0) * PAGE + RPI4_OFFSET);
    const own = right({ pages: "own", disk: { busOffset: RPI4_OFFSET } }, "dom0");
    expect(firstAddress(own)).toBe((own.bufferPages[0] ?? 0) * PAGE + RPI4_OFFSET);
  });
});

describe("dom0 with gfn == mfn behind an IOMMU", () => {
  test("decision row 9: own RAM is programmed as it is numbered, and the IOMMU finds the same frame", () => {
    const outcome = right({ pages: "own", machine: ON }, "dom0");
    expect(firstAddress(outcome)).toBe((outcome.bufferPages[0] ?? 0) * PAGE);
  });

  test("decision row 10: the machine frame passes through the grant's identity entry, as long as it is mapped", () => {
    const statuses: (number | undefined)[] = [];
    const outcome = right({
      machine: ON,
      *after(kernel, mapping, disk) {
        statuses.push((yield* readDisk(kernel, disk, 0, mapping.segments)).status);
      },
    });
    expect(firstAddress(outcome)).toBe((outcome.bfns[0] ?? 0) * PAGE);
    expect(statuses).toEqual([DISK_STATUS_DMA_FAULT]);
  });
});

describe("a domain that is direct-mapped without being dom0", () => {
  const direct: DmaStory = {
    backend: "drv",
    machine: { allocator: "scattered" },
    domain: {
      mapping: "direct",
      staticMemory: [{ base: 0x80_0000, size: "4MiB" }],
      memory: "4MiB",
    },
  };

  test("decision row 11: it has swiotlb-xen too; dma-direct would hit a stranger for a foreign page", () => {
    expect(right(direct).ops).toBe("swiotlb-xen");
    expect(right({ ...direct, pages: "own" }, "drv").ops).toBe("swiotlb-xen");
    const wrong = runDma({ ...direct, kernel: { dmaOps: "dma-direct" } });
    expect(wrong.arrived).toBe(false);
    expect(wrong.hit).toEqual(["victim"]);
  });
});

describe("a driver domain whose gfns are not machine frames", () => {
  const behind: DmaStory = { backend: "drv", machine: ON };

  test("decision row 12: own RAM is programmed by gfn, and the IOMMU translates", () => {
    const outcome = right({ ...behind, pages: "own" }, "drv");
    expect(outcome.ops).toBe("dma-direct");
    expect(firstAddress(outcome)).toBe((outcome.bufferPages[0] ?? 0) * PAGE);
  });

  test("decision row 13: a foreign page by the gfn it is mapped at; its machine frame would fault", () => {
    const outcome = right({ ...behind, count: 1 });
    expect(firstAddress(outcome)).toBe((outcome.bufferPages[0] ?? 0) * PAGE);
    expect(outcome.bfns[0]).not.toBe(outcome.bufferPages[0]);
  });

  test("decision row 14: a foreign buffer on contiguous pages is one segment, which the IOMMU scatters", () => {
    const outcome = right({ ...behind, count: 8, merge: "segment" });
    expect(outcome.mapping?.segments.length).toBe(1);
    expect(outcome.mapping?.bounced).toBe(0);
  });

  test("decision row 15: a device that is not coherent costs no hypercall there", () => {
    // The one is dom0's, which asks at boot whether Xen can.
    expect(right({ ...behind, disk: { coherent: false } }).cacheFlushes).toBe(1);
  });

  test("decision row 17: without an IOMMU nobody translates, and the disk overwrites a stranger's memory", () => {
    const outcome = runDma({ backend: "drv" });
    expect(firstAddress(outcome)).toBe((outcome.bufferPages[0] ?? 0) * PAGE);
    expect(outcome.hit).toEqual(["victim"]);
    expect(outcome.arrived).toBe(false);
  });

  test("decision row 18: swiotlb-xen by mistake gives machine frames to the IOMMU, which faults; bounce buffers work", () => {
    const wrong = runDma({ ...behind, kernel: { dmaOps: "swiotlb-xen" } });
    expect(firstAddress(wrong)).toBe((wrong.bfns[0] ?? 0) * PAGE);
    expect(wrong.disk?.status).toBe(DISK_STATUS_DMA_FAULT);
    expect(wrong.arrived).toBe(false);
    const bounced = runDma({ ...behind, kernel: { dmaOps: "swiotlb-xen", swiotlbForce: true } });
    expect(bounced.mapping?.bounced).toBe(4);
    expect(bounced.hit).toEqual(["drv"]);
    expect(bounced.arrived).toBe(true);
  });
});

describe("what the feature bits say", () => {
  const scattered = { mapping: "scattered" } as const;

  test("decision row 19: a dom0 that is not direct-mapped is like a driver domain", () => {
    const outcome = right({ machine: ON, domain: scattered });
    expect(outcome.ops).toBe("dma-direct");
    expect(firstAddress(outcome)).toBe((outcome.bufferPages[0] ?? 0) * PAGE);
    const bare = runDma({ domain: scattered });
    expect(bare.arrived).toBe(false);
    expect(bare.hit).toEqual(["victim"]);
  });

  test("decision row 20: on a Xen that says neither, dom0 is taken for direct-mapped, rightly or not", () => {
    const old = { lacks: ["mapping_features"] } as const;
    expect(right({ machine: old }).ops).toBe("swiotlb-xen");
    const misdetected = runDma({ machine: { ...ON, ...old }, domain: scattered });
    expect(misdetected.ops).toBe("swiotlb-xen");
    expect(misdetected.disk?.status).toBe(DISK_STATUS_DMA_FAULT);
    const drv = right({ backend: "drv", machine: { ...ON, ...old } });
    expect(drv.ops).toBe("dma-direct");
  });
});

describe("x86", () => {
  test("decision row 23: a translated dom0 programs gfns and needs an IOMMU", () => {
    const machine = { arch: "x86", banks: X86_BANKS } as const;
    const outcome = right({ machine: { ...machine, ...ON } });
    expect(outcome.ops).toBe("dma-direct");
    expect(firstAddress(outcome)).toBe((outcome.bufferPages[0] ?? 0) * PAGE);
    expect(runDma({ machine }).arrived).toBe(false);
  });
});
