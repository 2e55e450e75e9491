/**
 * What one guest kernel knows of its memory: the state that pages, balloon, unpopulated pages, grants and the DMA
 * layer work on. The functions stand in the files named after the Linux files; here are only the shapes.
 *
 * Rules: private to one kernel; tasks of a kernel change hands only while they wait, so a lock is needed only where its
 * owner may sleep: where Linux has spinlocks there is none (docs/FIDELITY.md).
 * Behaviour: Linux include/xen/balloon.h, drivers/xen/grant-table.c, drivers/xen/unpopulated-alloc.c.
 */
import type { Range, UnpopulatedAlloc } from "../shared/machine.ts";
import type { Pfn } from "../shared/units.ts";
import type { DmaOps, GrantDmaData } from "./dma-device.ts";
import type { ForeignP2m } from "./foreign-p2m.ts";
import type { GenPool } from "./gen-pool.ts";
import type { GrantRefs } from "./grant-refs.ts";
import type { Pages } from "./pages.ts";
import type { SwiotlbPool } from "./swiotlb-pool.ts";

/** A mutex of the kernel. Tasks change hands at `waitUntil` only, so it matters where its owner may sleep. */
export interface Mutex {
  locked: boolean;
}

/** struct balloon_stats and the list of ballooned pages. Counts are pages, delays seconds. */
export interface BalloonStats {
  currentPages: number;
  targetPages: number;
  /** Pages handed out by xen_alloc_ballooned_pages. */
  targetUnpopulated: number;
  /** Pages on the list. */
  balloonLow: number;
  totalPages: number;
  scheduleDelay: number;
  maxScheduleDelay: number;
  retryCount: number;
  /** 0: retry for ever. */
  maxRetryCount: number;
  /** xen_scrub_pages: a page is zeroed before Xen gets it. */
  scrubPages: boolean;
  /** Times that somebody had reason to wake the balloon thread. */
  wakes: number;
  /** First and last page of the list, or LIST_END. */
  head: number;
  tail: number;
}

/** Address space that unpopulated pages may come from: the extended regions of the device tree. */
export interface TargetResource {
  readonly regions: readonly Range[];
  /** Parts handed out already; never given back. */
  readonly taken: Range[];
}

export interface Unpopulated {
  readonly design: UnpopulatedAlloc;
  readonly pagesPerSection: number;
  /** Undefined: no extended region is usable, and everything comes from the balloon. */
  readonly target: TargetResource | undefined;
  /** Pages chained through zone_device_data, last in first out (design `list`). */
  listHead: number;
  listCount: number;
  /** Contiguous pages: the one pool of design `pool`, or the second one beside the list. */
  readonly pool: GenPool | undefined;
  /** list_lock and pool_lock: a fill sleeps with it held. */
  readonly listLock: Mutex;
  readonly poolLock: Mutex;
}

/** A reference whose access could not be ended yet, and the page that must outlive it. */
export interface DeferredEntry {
  readonly ref: number;
  readonly page: Pfn;
  /** Runs until the next warning. */
  warnDelay: number;
}

/** Asks to be told when at least `count` references are free; called once, then forgotten. */
export interface FreeCallback {
  readonly count: number;
  readonly run: () => void;
}

export interface GrantTable {
  refs: GrantRefs;
  version: 1 | 2;
  /** Pfn of each grant frame the region has room for. */
  readonly framePfns: Pfn[];
  /** Pfn of each status frame, version 2 only. */
  readonly statusPfns: Pfn[];
  /** Frames mapped so far, 0 before the table is set up. */
  frameCount: number;
  /** min(GNTTABOP_query_size, its first answer), and that first answer. */
  maxFrames: number;
  bootMaxFrames: number;
  readonly deferred: DeferredEntry[];
  deferredCount: number;
  leakedCount: number;
  callbacks: FreeCallback[];
}

export interface DmaState {
  /** Of the devices that this kernel configures. */
  readonly ops: DmaOps;
  /** By name of the device: those whose DMA addresses are grants. */
  readonly grantDma: Map<string, GrantDmaData>;
  swiotlb: SwiotlbPool | undefined;
  /** Whether Xen offers GNTTABOP_cache_flush: foreign pages of a device that is not coherent need it. */
  cacheFlush: boolean;
}

export interface KernelMemory {
  readonly pages: Pages;
  readonly balloon: BalloonStats;
  readonly unpopulated: Unpopulated;
  readonly foreign: ForeignP2m;
  readonly grants: GrantTable;
  readonly dma: DmaState;
}
