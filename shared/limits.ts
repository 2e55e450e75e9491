/**
 * Every bound of the machine, with assertions on how they relate.
 * Rule: a loop over something a guest can influence ends at a name of this file.
 */
import { assert } from "./assert.ts";

export const PAGE_SHIFT = 12;
export const PAGE_SIZE = 4096;
export const WORDS_PER_PAGE = PAGE_SIZE / 4;

/** "Nothing here" in a shared table whose values are indexes, ids or links. */
export const NOT_PRESENT = -1;

/** Frames of one chunk of the sparse machine address space: 2 MiB, so that a superpage never crosses one. */
export const CHUNK_FRAMES = 512;
/** Highest machine address plus one: 48 bits, what a page-table entry can name. */
export const MADDR_END = 2 ** 48;
/** Bytes of machine memory that one shared buffer may hold. */
export const MACHINE_BYTES_MAX = 16 * 2 ** 30;

/** Actors at the hypervisor's table: vCPUs, devices and control. */
export const SLOTS_MAX = 64;
/** Domain ids handed out: 0 up to this. Xen's own bound is DOMID_FIRST_RESERVED. */
export const DOMAINS_MAX = 32;
/** vCPUs of one domain. */
export const VCPUS_MAX = 4;
/** Pauses of one domain by its controller (Xen: 255). */
export const PAUSES_MAX = 255;
/** Records of one channel. */
export const CHANNEL_RECORDS = 64;
/** 32-bit words of one record. */
export const RECORD_WORDS = 16;

/** Entries of one grant frame, version 1. */
export const GRANT_ENTRIES_PER_FRAME = 512;
export const GRANT_ENTRY_BYTES = 8;
/** Entries of one grant frame, version 2, and status words of one status frame. */
export const GRANT_ENTRIES_PER_FRAME_V2 = 256;
export const GRANT_ENTRY_BYTES_V2 = 16;
export const GRANT_STATUS_PER_FRAME = 2048;
/** Xen's gnttab_max_frames default. */
export const GRANT_FRAMES_MAX = 64;
export const MAPTRACK_PER_FRAME = 256;
/** Xen's gnttab_max_maptrack_frames default. */
export const MAPTRACK_FRAMES_MAX = 1024;
/** Each 8-bit pin counter holds at most this many: an increment is refused when bit 7 is set. */
export const PIN_COUNT_MAX = 128;
/** Tries against a header that the guest may rewrite meanwhile (Xen: 5 in total). */
export const CMPXCHG_ATTEMPTS_MAX = 5;
/** Elements of one unmap pass (Xen: GNTTAB_UNMAP_BATCH_SIZE). */
export const GNTTAB_UNMAP_BATCH_SIZE = 32;
/** Elements a batch handles between two gaps. */
export const BATCH_GAP = 32;
/** Pages of a range that are moved before their flush (Xen: 16). */
export const MOVED_A_FLUSH = 16;
/** Entries of a grant table that one stretch of cache_flush looks at: the position is kept above the command. */
export const CACHE_FLUSH_SCAN = 4096;

/** 2-level event channels: 64 words of 64 bits. */
export const EVTCHN_2L_PORTS = 4096;
/** FIFO event channels: 17 link bits, in up to 128 pages of 32-bit event words. */
export const EVTCHN_FIFO_PORTS = 131072;
export const EVTCHN_FIFO_WORDS_PER_PAGE = PAGE_SIZE / 4;
export const EVTCHN_FIFO_ARRAY_PAGES = EVTCHN_FIFO_PORTS / EVTCHN_FIFO_WORDS_PER_PAGE;
/** Queues of a vCPU: one a priority. */
export const EVTCHN_FIFO_QUEUES = 16;
/** Tries to link an event behind a tail while BUSY holds its guest off; one more is made before that. */
/** Tries of a guest to unmask a word that its hypervisor is busy with, before it asks it to. */
export const EVTCHN_FIFO_UNMASK_ATTEMPTS = 64;
export const EVTCHN_FIFO_LINK_ATTEMPTS = 4;
/** Ports of one SCHEDOP_poll. */
export const POLL_PORTS_MAX = 128;
/** Ports whose storage is set up at once (Xen: a page of struct evtchn), and closed between two gaps. */
export const EVTCHNS_PER_BUCKET = 64;
/** Physical interrupt numbers of an arm64 machine. */
export const NR_IRQS = 1024;

/** Levels of a stage-2 table are numbered 0 to 3; a table has 512 entries of 8 bytes. */
export const TABLE_ENTRIES = 512;
export const P2M_LEVEL_LEAF = 3;
/** Level 1 tables without an entry that a PV domain has behind those of its RAM: 2 MiB of addresses each. */
export const PV_SPARE_TABLES = 4;
/** Guest frame numbers are at most 36 bits: a level 0 root covers 48 address bits. */
export const GFN_END = 2 ** 36;
/** Largest extent order a guest may ask for (Xen: CONFIG_DOMU_MAX_ORDER, hardware domain 18 here as recorded). */
export const EXTENT_ORDER_DOMU = 9;
/** The same for a domain that has a device. */
export const EXTENT_ORDER_PASSTHROUGH = 10;
export const EXTENT_ORDER_HARDWARE = 18;
/** Extents that the rest of a command word can count (Xen: UINT_MAX >> MEMOP_EXTENT_SHIFT). */
export const EXTENTS_MAX = 2 ** 26 - 1;

/** Entries of one TLB or IOTLB: direct-mapped. */
export const TLB_ENTRIES = 256;
/** Times a walker looks again at a table that is being rewritten under it: each rewrite takes nanoseconds. */
export const WALK_ATTEMPTS_MAX = 1000;
/** Flushes that the lazy mode of the IOTLBs puts off, at most, and for how many milliseconds (Linux: 256 and 10). */
export const IOTLB_LAZY_FLUSHES = 32;
export const IOTLB_LAZY_MS = 10;
/** Faults, halved whenever this many milliseconds pass between two, at which a device is kept off its bus (PT_FAULT_THRESHOLD). */
export const IOMMU_FAULT_THRESHOLD = 10;
export const IOMMU_FAULT_MS = 10;
/** Fault records the IOMMU keeps; older ones are overwritten. */
export const IOMMU_FAULTS_KEPT = 64;
/** Trace records kept per ring; overflow is counted. */
export const TRACE_RECORDS = 1024;
/** Flushes that one change of page types waits for, should another vCPU give such pages up again and again. */
export const TYPE_FLUSHES_MAX = 8;
/** Pages handled between two gaps of a teardown stage (Xen: 512). */
export const TEARDOWN_GAP = 512;

/** Answers and events queued for a client of the store before it is no longer listened to (xenstored: quota). */
export const STORE_OUTSTANDING_MAX = 20;
/** Watches of one client of the store (xenstored: quota). dom0 has no bound. */
export const STORE_WATCHES_MAX = 128;

/** Scatter entries of one disk command, bounded by its descriptor page. */
export const DISK_SEGMENTS_MAX = 256;

/** Frames of one balloon hypercall: a page of 64-bit frame numbers (Linux: frame_list). */
export const BALLOON_BATCH = PAGE_SIZE / 8;
/** Pages that a grant page cache frees at once. */
export const PAGE_CACHE_GROUP = 10;
/** Single-operation retries of a guest whose map or copy is answered GNTST_eagain, one more ms of sleep each. */
export const GNTTAB_EAGAIN_RETRIES = 255;
/** Milliseconds by which an unmap that waits for its pages looks later each time. */
export const GNTTAB_UNMAP_REFS_DELAY_MS = 5;
/** Entries of the deferred list handled in one run (Linux: free_per_iteration). */
export const DEFERRED_PER_RUN = 10;
/** Runs after which a reference that is still in use is mentioned. */
export const DEFERRED_WARN_DELAY = 60;
/** Milliseconds between two runs of the deferred list. */
export const DEFERRED_PERIOD_MS = 1000;
/** Tries of a granter to close a header that Xen is rewriting; each retry has seen another domain use it. */
export const GRANT_END_ATTEMPTS_MAX = 64;
/** Links of the free list of references in one page of the kernel (RPP). */
export const GRANT_LINKS_PER_PAGE = PAGE_SIZE / 4;
/** Grants of one gntdev mapping request (Linux: gntdev.limit). */
export const GNTDEV_GRANTS_MAX = 65536;
/** Operations of one grant copy that gntdev hands on (Linux: GNTDEV_COPY_BATCH). */
export const GNTDEV_COPY_BATCH = 16;
/** Pages that all users of gntalloc together may have granted (Linux: gntalloc.limit). */
export const GNTALLOC_PAGES_MAX = 1024;
/** Buffers of one device model operation, and bytes of one (Linux: privcmd.dm_op_max_nr_bufs, dm_op_buf_max_size). */
export const DM_OP_BUFS_MAX = 16;
export const DM_OP_BUF_BYTES_MAX = 4096;
/** Open files of one process (Linux: RLIMIT_NOFILE). */
export const PROCESS_FILES_MAX = 1024;

assert(
  GRANT_ENTRIES_PER_FRAME * GRANT_ENTRY_BYTES === PAGE_SIZE,
  "a grant frame is full of entries",
);
assert(TABLE_ENTRIES * 8 === PAGE_SIZE, "a table page is full of entries");
assert(CHUNK_FRAMES === TABLE_ENTRIES, "a level 2 block is one chunk");
assert(EVTCHN_2L_PORTS % EVTCHNS_PER_BUCKET === 0, "buckets fill the 2-level ABI");
assert(SLOTS_MAX % 32 === 0, "doorbells are whole words");
assert((CHANNEL_RECORDS & (CHANNEL_RECORDS - 1)) === 0, "a channel's size is a power of two");
assert(MADDR_END <= Number.MAX_SAFE_INTEGER, "a machine address fits a double exactly");
