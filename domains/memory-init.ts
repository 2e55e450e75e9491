/**
 * The beginning of a kernel's memory: struct pages for its RAM, an empty balloon, the extended regions of its device
 * tree, and the kind of DMA operations its devices get.
 *
 * Rules: everything here follows from the BootInfo and the feature bits; what needs a hypercall or the page
 * allocator comes later in the boot (initGrantTable, initDma).
 * Behaviour: Linux arch/arm/xen/enlighten.c, arch_xen_unpopulated_init(); include/xen/arm/swiotlb-xen.h.
 */
import {
  XENFEAT_direct_mapped,
  XENFEAT_dom0,
  XENFEAT_not_direct_mapped,
} from "../shared/abi/xen.ts";
import { item } from "../shared/assert.ts";
import { PAGE_SHIFT } from "../shared/limits.ts";
import type { BootInfo, Range } from "../shared/machine.ts";
import type { DmaOps } from "./dma-device.ts";
import type { FaultPoints } from "./fault-points.ts";
import { createForeignP2m } from "./foreign-p2m.ts";
import { genPoolCreate } from "./gen-pool.ts";
import { createGrantRefs } from "./grant-refs.ts";
import type { BalloonStats, KernelMemory, TargetResource, Unpopulated } from "./kernel-memory.ts";
import { initPages, LIST_END } from "./pages.ts";

const hasFeature = (features: number, bit: number): boolean => ((features >>> bit) & 1) === 1;

/**
 * xen_swiotlb_detect: whether DMA addresses must come from swiotlb-xen. Direct-mapped wins when both bits are set;
 * a Xen that knows neither bit has a direct-mapped dom0 and no other.
 */
export function xenSwiotlbDetect(features: number): boolean {
  if (hasFeature(features, XENFEAT_direct_mapped)) return true;
  return !hasFeature(features, XENFEAT_not_direct_mapped) && hasFeature(features, XENFEAT_dom0);
}

/**
 * arch_xen_unpopulated_init: the extended regions as one resource. Undefined when there are none, or when they
 * are not ascending and disjoint: the kernel then boots on and uses its balloon.
 */
export function targetResourceOf(regions: readonly Range[]): TargetResource | undefined {
  if (regions.length === 0) return undefined;
  for (let i = 1; i < regions.length; i++) {
    const before = item(regions, i - 1);
    if (item(regions, i).base < before.base + before.size) return undefined;
  }
  return { regions, taken: [] };
}

function createUnpopulated(boot: BootInfo): Unpopulated {
  const design = boot.kernel.unpopulatedAlloc;
  const target = design === "off" ? undefined : targetResourceOf(boot.extendedRegions);
  return {
    design,
    pagesPerSection: boot.kernel.pagesPerSection,
    target,
    listHead: LIST_END,
    listCount: 0,
    pool: target === undefined || design === "list" ? undefined : genPoolCreate(PAGE_SHIFT),
    listLock: { locked: false },
    poolLock: { locked: false },
  };
}

function createBalloon(ramPages: number): BalloonStats {
  return {
    currentPages: ramPages,
    targetPages: ramPages,
    targetUnpopulated: 0,
    balloonLow: 0,
    totalPages: ramPages,
    scheduleDelay: 1,
    maxScheduleDelay: 32,
    retryCount: 1,
    maxRetryCount: 4,
    scrubPages: true,
    wakes: 0,
    head: LIST_END,
    tail: LIST_END,
  };
}

/** The operations of devices that the device tree configures: as the kernel detects, or as it is told to. */
function dmaOpsOf({ kernel }: BootInfo, features: number): DmaOps {
  if (kernel.dmaOps !== "detect") return kernel.dmaOps;
  return xenSwiotlbDetect(features) ? "swiotlb-xen" : "dma-direct";
}

/** The memory of a kernel at the beginning of its boot. `features`: XENVER_get_features, submap 0. */
export function createKernelMemory(
  boot: BootInfo,
  features: number,
  faults: FaultPoints,
): KernelMemory {
  const { longBits, setPrivateFailsAt } = boot.kernel;
  const pages = initPages(boot.ram, faults, setPrivateFailsAt >= 0 ? 32 : longBits);
  return {
    pages,
    balloon: createBalloon(pages.managed),
    unpopulated: createUnpopulated(boot),
    foreign: createForeignP2m(),
    grants: {
      refs: createGrantRefs(),
      version: 1,
      framePfns: [],
      statusPfns: [],
      frameCount: 0,
      maxFrames: 0,
      bootMaxFrames: 0,
      deferred: [],
      deferredCount: 0,
      leakedCount: 0,
      callbacks: [],
    },
    dma: {
      ops: dmaOpsOf(boot, features),
      grantDma: new Map(),
      swiotlb: undefined,
      cacheFlush: false,
    },
  };
}
