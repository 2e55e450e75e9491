/**
 * The machine as data: what every worker is given and lays its memory out from. It is the *resolved*
 * form: no units, no defaults, no references left to check (toolstack/ does that). All fields are
 * plain JSON, so that two workers can compare a hash of it before they start.
 *
 * Ours, because Xen reads the same facts from a device tree and its own command line.
 */

/** A range of addresses in bytes; both are multiples of 4096. */
export interface Range {
  readonly base: number;
  readonly size: number;
}

/** One dma-ranges entry: `dma` is what the device puts on its bus, `cpu` what that means beyond it. */
export interface DmaRange {
  readonly dma: number;
  readonly cpu: number;
  readonly size: number;
}

/** A bus master. Its register page is device memory at machine address `registers`. */
export interface DeviceModel {
  readonly name: string;
  readonly kind: "disk";
  readonly registers: number;
  /** Empty: the bus is identity without a bound. */
  readonly dmaRanges: readonly DmaRange[];
  /** Address bits the device can drive (32, 40, 64). Above 53 it means no bound. */
  readonly addressWidth: number;
  /** Whether the board routes it through the IOMMU; without one on the board this is false. */
  readonly behindIommu: boolean;
  readonly streamId: number;
  readonly coherent: boolean;
  /** Interrupt line, 0 to 31: a bit of the owner's interrupt word. */
  readonly line: number;
  /** Name of the domain it is handed to at boot. */
  readonly owner: string;
}

/**
 * Where unpopulated pages of a kernel come from. `list`: mainline, one list, nothing contiguous. `rfc`: a pool for
 * contiguous pages beside the list. `pool`: one pool for everything. `off`: the kernel is built without them.
 */
export type UnpopulatedAlloc = "list" | "rfc" | "pool" | "off";
/** How gnttab_dma_free_pages tells unpopulated pages from RAM (guest.md D10). */
export type FreeKnows = "flag" | "zone-device" | "pool-address" | "region";
/** Known faults of the posted patches, each put back into the kernel that is without them otherwise. */
export type PatchFault =
  // fill_pool looks at the first descriptor after it has allocated the second.
  | "wrong-variable"
  // The pool is used without its mutex.
  | "no-lock"
  // The page-by-page allocation compares the bytes that the pool has with the pages that it wants.
  | "bytes-for-pages"
  // Without a region one "contiguous" page comes from the balloon, and free does not know (corner case 91).
  | "single-page-hole";

/** Event channel ABI of a kernel (Linux: xen.fifo_events). */
export type EventAbi = "fifo" | "2-level";
/** Which DMA operations its devices get: as xen_swiotlb_detect says, or one of them by mistake. */
export type DmaOpsChoice = "detect" | "swiotlb-xen" | "dma-direct";

/** Kernel options: they choose between designs, so that two designs run on one machine. */
export interface KernelOptions {
  readonly unpopulatedAlloc: UnpopulatedAlloc;
  readonly freeKnows: FreeKnows;
  /** Whether gnttab_dma_alloc_pages falls back to real RAM when no contiguous pages are to be had. */
  readonly fallback: boolean;
  /** 32: what is known of a foreign page hangs on page->private; 64: it lies inside. */
  readonly longBits: 32 | 64;
  /** set_private fails at this page (counted from 0) of an allocation, or -1: never. The kernel is then a 32-bit one. */
  readonly setPrivateFailsAt: number;
  readonly patchFaults: readonly PatchFault[];
  /** A request that need not be contiguous takes one chunk of the pool, or its pages one by one (D13). */
  readonly poolSingles: "chunk" | "page";
  /** Such pages are freed one by one, or as one range when the pool has it (D14). */
  readonly poolFree: "page" | "range";
  /** After set_private has failed: gnttab_dma_free_pages, or only the pages go back (D11). */
  readonly privateCleanup: "dma-free" | "free-only";
  /** What gnttab_dma_alloc_pages says as dev_bus_addr of unpopulated pages (D12). */
  readonly devBusAddr: "page_to_phys" | "pfn_to_bfn" | "page_to_dma";
  /** Version of the grant table: the kernel's choice, or the `version` parameter. */
  readonly grantVersion: "auto" | 1 | 2;
  /** Whether the balloon may add memory to the kernel (CONFIG_XEN_BALLOON_MEMORY_HOTPLUG). */
  readonly memoryHotplug: boolean;
  /** xen.balloon.hotplug_unpopulated: pages for grants are hot-added instead of taken from RAM. */
  readonly hotplugUnpopulated: boolean;
  /** Pages of one hotplug section (Linux: 32768). A power of two. */
  readonly pagesPerSection: number;
  /** Pages of the swiotlb pool. */
  readonly swiotlbPages: number;
  /** Every mapping is bounced (Linux: swiotlb=force). */
  readonly swiotlbForce: boolean;
  readonly dmaOps: DmaOpsChoice;
  readonly eventAbi: EventAbi;
  /** A virtio device without a binding grants to dom0 (Linux: CONFIG_XEN_VIRTIO_FORCE_GRANT). */
  readonly virtioForceGrant: boolean;
}

/** A paravirtualised device of a domain: another domain stands behind it, or nobody says who. */
export interface VirtioModel {
  readonly name: string;
  /** Name of the domain that serves it. */
  readonly backend: string;
  /** Compatible of the node that its `iommus` property points to; absent: it has none. */
  readonly iommus?: string;
}

export interface DomainModel {
  readonly name: string;
  readonly kind: "dom0" | "driver" | "domU";
  /** Of x86: paravirtualised, with page tables of its own that name machine frames. Translated otherwise. */
  readonly guest?: "pv";
  /** Created at boot; otherwise only when the toolstack asks for it. */
  readonly atBoot: boolean;
  readonly memoryPages: number;
  /** gfn == mfn for its own RAM (CDF_directmap). */
  readonly directMapped: boolean;
  readonly privileged: boolean;
  /** Created with XEN_DOMCTL_CDF_iommu. False on every domain of a machine whose IOMMU is off. */
  readonly iommu: boolean;
  /** Number of vCPUs; 0 for a domain that only owns memory. */
  readonly vcpus: number;
  /** Whether a worker runs its program. */
  readonly runs: boolean;
  readonly maxGrantFrames: number;
  /** Highest version of its grant table, where the machine has more than one. */
  readonly maxGrantVersion?: 1 | 2;
  readonly maxMaptrackFrames: number;
  /** Highest port number it may use, inclusive. */
  readonly maxEvtchnPort: number;
  /** Pages of the P2M pool (Xen: paging memory pool); 0 takes table pages from the heap (hardware domain). */
  readonly p2mPoolPages: number;
  /** Machine ranges its RAM is taken from (xen,static-mem); empty: the allocator chooses. */
  readonly staticMemory: readonly Range[];
  /** First guest frame of its RAM when it is not direct-mapped (GUEST_RAM0_BASE >> 12). */
  readonly ramGfn: number;
  /** Gfn of the region offered for the grant table; 0: none is offered. */
  readonly grantTableGfn: number;
  /** Guest-physical ranges with nothing behind them, announced to the kernel. */
  readonly extendedRegions: readonly Range[];
  readonly virtio?: readonly VirtioModel[];
  readonly kernel: KernelOptions;
  /** "none": the domain builder makes no store page, grant and port, as for a domain that Xen itself creates (dom0less). */
  readonly store?: "none";
}

export interface MachineLimits {
  /** Rows of the domain table: ids 0 to this. */
  readonly domains: number;
  readonly slots: number;
  /** The largest of all domains' limits: tables are laid out for it. */
  readonly grantFrames: number;
  readonly maptrackFrames: number;
  readonly ports: number;
  /** Pages carved from the first bank for Xen itself: tables, grant frames, shared info pages. */
  readonly xenHeapPages: number;
  /** Frame index of the first of them; absent: the bottom of the bank. */
  readonly xenHeapFirst?: number;
  readonly traceRecords: number;
  /** Records of the history (shared/history.ts); absent or 0: none is kept. */
  readonly historyRecords?: number;
}

/** What is left out is filled in by iommu-settings.ts. */
export interface IommuModel {
  readonly mode: "on" | "off";
  readonly tables?: "shared" | "separate";
  readonly quarantine?: "off" | "basic" | "scratch-page";
  readonly invalidation?: "registers" | "queue";
  /** Entries of each device's IOTLB, a power of two, and when they go. */
  readonly iotlb?: { readonly entries: number; readonly flush: "strict" | "lazy" | "never" };
}

/**
 * What an old Xen lacks: GNTTABOP_cache_flush, or the feature bits that tell a domain whether it is direct-mapped.
 */
export type XenLack = "cache_flush" | "mapping_features";

export interface MachineModel {
  /** Which differences of Xen apply (hypervisor/profile.ts). Tables have the same form on both. */
  readonly arch: "arm64" | "x86";
  readonly preset: string;
  /** RAM banks, ascending, 2 MiB aligned, not overlapping. */
  readonly banks: readonly Range[];
  readonly iommu: IommuModel;
  /** Which frames the heap hands out for RAM that is not direct-mapped. */
  readonly allocator: "contiguous" | "scattered" | "fragmented";
  /** Stage-2 input bits: 40 (two concatenated level 1 roots) or 44 (one level 0 root). */
  readonly ipaBits: 40 | 44;
  /** `strict` refuses what the recorded Xen lets through (recorded.md 12). */
  readonly hypervisor: "faithful" | "strict";
  /** What this Xen does not have yet; absent: it lacks nothing. */
  readonly lacks?: readonly XenLack[];
  readonly xsm: "dummy" | "silo";
  readonly devices: readonly DeviceModel[];
  /** dom0 first. */
  readonly domains: readonly DomainModel[];
  readonly limits: MachineLimits;
  /** Seeds the scattered allocator. */
  readonly seed: number;
}

/** What a guest would read from its device tree, plus its HVM params: handed to a kernel at its start. */
export interface BootInfo {
  readonly arch: MachineModel["arch"];
  readonly domid: number;
  readonly name: string;
  readonly ram: readonly Range[];
  readonly grantTableGfn: number;
  readonly extendedRegions: readonly Range[];
  /** Devices handed over: register page and interrupt, as `iomem=` and `irqs=` do. */
  readonly devices: readonly BootDevice[];
  readonly virtio: readonly BootVirtio[];
  readonly kernel: KernelOptions;
}

/** A virtio device as its node describes it. */
export interface BootVirtio {
  readonly name: string;
  /** Where `iommus` points, and the cells that follow the phandle: of xen,grant-dma the backend's id. */
  readonly iommus?: { readonly compatible: string; readonly cells: readonly number[] };
}

export interface BootDevice {
  readonly name: string;
  readonly kind: "disk";
  readonly registersGfn: number;
  readonly line: number;
  readonly dmaRanges: readonly DmaRange[];
  readonly addressWidth: number;
  readonly coherent: boolean;
}
