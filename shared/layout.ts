/**
 * Where each table lies in the control buffer, its width, and who may write it. The only file that knows
 * an offset. Everything is 32-bit words (Int32Array); a 64-bit field is a pair, low word first. Tables are
 * structures of arrays, so that a column is one base and an index.
 *
 * Writers: [XEN] the hypervisor only; [SLOT] the actor behind a slot; both with the operation that keeps it safe.
 * Ours; struct page_info, struct domain, struct active_grant_entry and struct grant_mapping of Xen as columns.
 */
import { assert, at } from "./assert.ts";
import { HOLD_ROWS, HOLD_WORDS } from "./hold-layout.ts";
import { FAULT_WORDS, INVALIDATION_WORDS, iommuWords } from "./iommu-layout.ts";
import { hasIdentityEntries } from "./iommu-settings.ts";
import {
  CHANNEL_RECORDS,
  CHUNK_FRAMES,
  EVTCHN_FIFO_ARRAY_PAGES,
  EVTCHN_FIFO_QUEUES,
  GRANT_ENTRIES_PER_FRAME,
  IOMMU_FAULTS_KEPT,
  MACHINE_BYTES_MAX,
  MADDR_END,
  MAPTRACK_PER_FRAME,
  NOT_PRESENT,
  PAGE_SIZE,
  RECORD_WORDS,
  TLB_ENTRIES,
  VCPUS_MAX,
} from "./limits.ts";
import type { MachineModel } from "./machine.ts";
import { FrameIndex, type Mfn } from "./units.ts";

/** Machine-wide words. */
export const MACHINE = {
  TICK: 0, // [runner of the hypervisor] virtual or wall milliseconds
  STOP: 2, // [control] 1: the machine is over
  FAIL_ALLOCATION: 1, // [control, SLOT] store, [XEN] counts down: allocations until one fails, 0: none does, below 0: all do
  STEP: 3, // [XEN] records handled: the logical clock
  FREE_FRAMES: 4, // [XEN]
  DOMID_ROVER: 5, // [XEN] last id handed out
  FAULT_COUNT: 7, // [XEN] IOMMU faults ever recorded
  FREE_HEAD: 8, // [XEN] first free frame of the domain heap, or NOT_PRESENT
  XEN_HEAP_HEAD: 9, // [XEN] first free frame of the Xen heap, or NOT_PRESENT
  XEN_HEAP_FREE: 10, // [XEN]
  FLUSHES: 11, // [XEN] flushes ever started
  DEAD_DOMAINS: 12, // [XEN] dead domains that something still refers to
  OUTSTANDING_CLAIMS: 13, // [XEN] pages that domains have claimed and not yet allocated
  HOLD: 6, // [control] 1: the hypervisor stands still between two records
  POLLERS: 14, // [XEN] slots whose vCPU is in SCHEDOP_poll
  DOORBELL: 16, // [SLOT] sets, [XEN] takes: one bit a slot, `or` and `exchange` only
  // On a line of its own: every client reads it at every record, and [XEN] rewrites the first line at every record.
  ASLEEP: 32, // [XEN] sets 1 before it sleeps; whoever exchanges it to 0 must notify
} as const;
export const MACHINE_WORDS = 64;

/** Control line of a slot: one 64-byte line, and a second one for what the hypervisor rewrites at every record. */
export const LINE = {
  ACCESS: 0, // [SLOT] add; [XEN] or FLUSH_WAITING. Bit 0 FLUSH_WAITING, bits above count entries and exits
  GENERATION: 1, // [XEN] add: translations older than this are stale
  EVENT: 2, // [XEN] and peers add: something may have happened; the slot sleeps on it
  STATE: 3, // [XEN] SLOT_*
  KIND: 4, // [XEN] SLOT_KIND_*
  DOMAIN: 5, // [XEN] domid of a vCPU, or of the domain in whose context a device is (-1: none)
  NUMBER: 6, // [XEN] vCPU number, or index of the device in the model
  ROOT: 7, // [XEN] frame index of the translation table's root, or NOT_PRESENT
  MODE: 8, // [XEN] WALK_*
  INTERRUPTS: 9, // [XEN] or, [SLOT] exchange: pending interrupt lines of a vCPU
  INSIDE: 10, // [SLOT] frame index + 1 that the open access touches, 0: none
  INSIDE_GENERATION: 11, // [SLOT] generation under which the open access was translated
  FAULTS: 14, // [XEN] faults of a device
  ENDED: 15, // [runner] sets 1 once the actor cannot run any more, [XEN] 0 for a new one
  HYPERCALLS: 16, // [XEN] records handled for this slot
  HELD: 17, // [XEN] live rows of its hold list
  POLL: 18, // [XEN] port that SCHEDOP_poll of this vCPU waits for, or POLL_*
  POLL_UNTIL: 19, // [XEN] tick at which it stops waiting, or NOT_PRESENT
  INJECT: 20, // [control, SLOT] store, [XEN] takes: fault of the next record (hypervisor/inject.ts), 0: none
} as const;
export const LINE_WORDS = 32;
export const FLUSH_WAITING = 1;
/** An access counter with this bit set is inside an access; entering and leaving both add it. */
export const ACCESS_STEP = 2;

export const SLOT_FREE = 0;
export const SLOT_LIVE = 1;
export const SLOT_DEAD = 2;
export const SLOT_KIND_CONTROL = 0;
export const SLOT_KIND_VCPU = 1;
export const SLOT_KIND_DEVICE = 2;

/** An address of a slot: walk the table; a frame already; blocked; bus mastering off; virtual (PV). */
export const WALK_TABLE = 0;
export const WALK_BARE = 1;
export const WALK_BLOCKED = 2;
export const WALK_OFF = 3;
export const WALK_PV = 4;

/** Channel of a slot: a line each for what the client writes, what it waits for, and the rest; then the records. */
export const CHANNEL = {
  PRODUCER: 0, // [SLOT] requests ever pushed
  REPLY_WANTED: 1, // [SLOT] wake me when CONSUMER reaches this
  CONSUMER: 16, // [XEN] requests ever answered
  TAKEN: 32, // [XEN] requests ever copied out; not on the line that the client polls
  RECORDS: 48,
} as const;
export const CHANNEL_WORDS = CHANNEL.RECORDS + CHANNEL_RECORDS * RECORD_WORDS;

/** Columns of the domain table; a row is DOMAIN_WORDS words. All [XEN]. */
export const DOM = {
  STATE: 0, // DOMAIN_*
  DYING: 1, // DYING_*
  FLAGS: 2, // CDF_*
  MODEL: 3, // index of the domain in the machine model
  PAUSE: 4, // controller pause count, and PAUSED_FOR_SHUTDOWN: vCPUs run while it is 0
  SHUTDOWN: 5, // 0, or 1 + the first shutdown code
  REFS: 6, // references on struct domain
  MAX_PAGES: 7,
  TOT_PAGES: 8,
  XENHEAP_PAGES: 9,
  PAGE_LIST: 10, // frame index of the first page, or NOT_PRESENT
  XENPAGE_LIST: 11,
  P2M_ROOT: 12, // frame index
  P2M_MAX_GFN: 13, // pair: highest gfn ever mapped; -1 when none
  P2M_POOL: 15, // free table pages: first frame index, or NOT_PRESENT
  P2M_POOL_FREE: 16,
  P2M_PAGES: 17, // table pages in use: first frame index, or NOT_PRESENT
  P2M_PAGE_COUNT: 18,
  GRANT_FRAMES: 19, // frames of its grant table
  MAX_GRANT_FRAMES: 20,
  MAPTRACK_LIMIT: 21, // entries that exist
  MAX_MAPTRACK_FRAMES: 22,
  SHARED_INFO: 23, // frame index
  MAX_EVTCHN_PORT: 24,
  VALID_EVTCHNS: 25, // ports whose state has been set up: grows in buckets
  STORE_GFN: 26, // HVM_PARAM_STORE_PFN
  STORE_PORT: 27, // HVM_PARAM_STORE_EVTCHN
  VCPUS: 28,
  TARGET: 29, // 1 + id of the domain that it may act for (a device model), or 0
  SUSPEND_PORT: 30, // port on which its suspension is announced, or 0
  SUSPEND: 31, // what the last resume said: SUSPEND_CANCELLED or 0
  GENERATION: 32, // raised at each creation of this row
  IDENTITY: 33, // row of the identity counter table, or NOT_PRESENT
  MAPPINGS: 34, // live maptrack handles
  SUPERPAGES_SPLIT: 35, // blocks broken up since creation
  P2M_SEQUENCE: 36, // odd while an entry is being rewritten in place: a walker that faulted looks again
  TYPES_FLUSHED: 58, // PV: MACHINE.FLUSHES when the last flush for a change of page type began
  KILLER: 37, // slot whose handler tears the domain down, or NOT_PRESENT
  EMPTY_UNMAPS: 38, // grant halves dropped without an entry being found where the guest said (recorded.md 12)
  NEXT_EVTCHN: 39, // port that a running EVTCHNOP_reset has got to, 0: none runs
  MAPTRACK_HEAD: 40, // [VCPUS_MAX] free handle list of each vCPU
  MAPTRACK_TAIL: 44, // [VCPUS_MAX]
  SLOT: 48, // [VCPUS_MAX] slot of each vCPU, or NOT_PRESENT
  OUTSTANDING_PAGES: 56, // pages claimed and not yet allocated
  FIFO: 57, // 0: 2-level event channels; else 1 + pages of the FIFO event array
  GRANT_VERSION: 62, // 1 or 2
  STRAY_RAM: 63, // RAM entries that may outlive their page: it was given up through a second entry
} as const;
export const DOMAIN_WORDS = 64;
/** Bit of DOM.PAUSE above the count. */
export const PAUSED_FOR_SHUTDOWN = 1 << 16;
export const DOMAIN_FREE = 0;
export const DOMAIN_PRESENT = 1;
export const DYING_ALIVE = 0;
export const DYING_DYING = 1;
export const DYING_DEAD = 2;
export const CDF_directmap = 1;
export const CDF_privileged = 2;
export const CDF_hardware = 4;
export const CDF_iommu = 8;
/** Not translated: x86 PV. Its address space is its own page tables. */
export const CDF_pv = 32;
/** Set at the first unpause. */
export const CDF_creation_finished = 16;

/** Words of a record of the history; the first row holds the count. */
export const HISTORY_WORDS = 16;
/** Words of a trace record: 32 bytes. */
export const TRACE_WORDS = 8;

/** Bases (word indexes) of all tables. */
export interface Layout {
  readonly model: MachineModel;
  readonly words: number;
  /** RAM frames; device register pages follow them. */
  readonly ramFrames: number;
  readonly frames: number;
  readonly chunkTable: number;
  readonly chunks: number;
  readonly deviceSlot: number; // [XEN] column over devices: slot of the device
  readonly frameCount: number; // [XEN] column over frames: PGC_* and count
  readonly frameOwner: number; // [XEN] domid, or NOT_PRESENT
  readonly frameGfn: number; // [XEN] pairs: gfn of a xen heap page, M2P of a PV domain's page, or NOT_PRESENT
  readonly frameNext: number; // [XEN] list links, frame index or NOT_PRESENT
  readonly framePrevious: number;
  readonly frameGeneration: number; // [XEN] raised whenever the frame is freed
  readonly frameType: number; // [XEN] type and type count of a frame; NOT_PRESENT in a machine without PV domains
  readonly frameStamp: number; // [XEN] MACHINE.FLUSHES when the frame was last given up as writable; as frameType
  readonly frameDma: number; // [devices] add: bursts that devices have written to the frame
  readonly lines: number;
  readonly channels: number;
  readonly tlbTags: number; // [SLOT] TLB_ENTRIES a slot
  readonly tlbValues: number;
  readonly holds: number;
  readonly samples: number; // [XEN] a row of `slots` words a slot: access samples of a flush that is waited for
  readonly domains: number;
  readonly grantFrame: number; // [XEN] frame index of each shared grant frame
  readonly statusFrame: number; // [XEN] frame index of each status frame, version 2 only
  readonly actPin: number; // [XEN] active entries
  readonly actDomid: number;
  readonly actFrame: number;
  readonly actKind: number; // 0 whole page, 1 part of a page, 2 an entry of another domain
  readonly actWindow: number; // start in the low half, length in the high half
  readonly trackRef: number; // [XEN] maptrack
  readonly trackFlags: number;
  readonly trackDomid: number;
  readonly trackVcpu: number;
  readonly portState: number; // [XEN] event channels
  readonly portVcpu: number;
  readonly portRemoteDomain: number;
  readonly portRemotePort: number;
  readonly portFifo: number; // [XEN] priority, last queue and saved event of each port: event-ports.ts
  readonly fifoArray: number; // [XEN] frame index of each page of a domain's event array
  readonly fifoControl: number; // [XEN] control block of each vCPU: frame index or NOT_PRESENT, and offset
  readonly fifoTail: number; // [XEN] last port of each queue of each vCPU, 0: empty
  readonly identityRead: number; // [XEN] IOMMU tracking counters: a row of `frames` words an identity domain
  readonly identityWrite: number;
  readonly identityRows: number;
  readonly iommu: number; // [XEN] contexts of devices and tables of domains: iommu-layout.ts
  readonly invalidations: number; // [XEN, IOMMU] the invalidation queue
  readonly faults: number;
  readonly historyRecords: number;
  readonly history: number; // [SLOT] and [XEN] add to its first word and write the rows they took; 0: none is kept
  readonly trace: number; // one ring a slot, one more for the hypervisor
}

/** CHUNK_FRAMES is a power of two. */
const CHUNK_SHIFT = 31 - Math.clz32(CHUNK_FRAMES);

/** 2 MiB chunks from machine address 0 to the end of the highest bank or register page. */
function chunkCount(model: MachineModel): number {
  const top = Math.max(
    ...model.banks.map((bank) => bank.base + bank.size),
    ...model.devices.map((device) => device.registers + PAGE_SIZE),
  );
  assert(top <= MADDR_END, "banks lie below the end of machine addresses");
  return Math.ceil(top / (CHUNK_FRAMES * PAGE_SIZE));
}

function ramFrameCount(model: MachineModel): number {
  const ramFrames = model.banks.reduce((sum, bank) => sum + bank.size / PAGE_SIZE, 0);
  const frames = ramFrames + model.devices.length;
  assert(frames * PAGE_SIZE <= MACHINE_BYTES_MAX, "machine memory fits its limit");
  return ramFrames;
}

const activeTables = (take: (count: number) => number, entries: number) => ({
  actPin: take(entries),
  actDomid: take(entries),
  actFrame: take(entries),
  actKind: take(entries),
  actWindow: take(entries),
});

const trackTables = (take: (count: number) => number, entries: number) => ({
  trackRef: take(entries),
  trackFlags: take(entries),
  trackDomid: take(entries),
  trackVcpu: take(entries),
});

const portTables = (take: (count: number) => number, ports: number) => ({
  portState: take(ports),
  portVcpu: take(ports),
  portRemoteDomain: take(ports),
  portRemotePort: take(ports),
  portFifo: take(ports),
});

/** Lays the control buffer out for a machine. Pure: every worker computes the same. */
export function layoutOf(model: MachineModel): Layout {
  const { domains, slots, grantFrames, maptrackFrames, ports, traceRecords } = model.limits;
  const { historyRecords = 0 } = model.limits;
  let words = 0;
  // Every table starts on a 64-byte line.
  const take = (count: number): number => {
    const base = words;
    words += Math.ceil(count / 16) * 16;
    return base;
  };
  const ramFrames = ramFrameCount(model);
  const frames = ramFrames + model.devices.length;
  const chunks = chunkCount(model);
  const identityRows = model.domains.filter(hasIdentityEntries).length;
  const typed = model.domains.some((d) => d.guest === "pv");
  take(MACHINE_WORDS);
  return {
    model,
    ramFrames,
    frames,
    chunks,
    identityRows,
    chunkTable: take(chunks),
    deviceSlot: take(model.devices.length),
    frameCount: take(frames),
    frameOwner: take(frames),
    frameGfn: take(2 * frames),
    frameNext: take(frames),
    framePrevious: take(frames),
    frameGeneration: take(frames),
    frameType: typed ? take(frames) : NOT_PRESENT,
    frameStamp: typed ? take(frames) : NOT_PRESENT,
    frameDma: take(frames),
    lines: take(slots * LINE_WORDS),
    channels: take(slots * CHANNEL_WORDS),
    tlbTags: take(slots * TLB_ENTRIES),
    tlbValues: take(slots * TLB_ENTRIES),
    holds: take(slots * HOLD_ROWS * HOLD_WORDS),
    samples: take(slots * slots),
    domains: take(domains * DOMAIN_WORDS),
    grantFrame: take(domains * grantFrames),
    statusFrame: take(domains * grantFrames),
    ...activeTables(take, domains * grantFrames * GRANT_ENTRIES_PER_FRAME),
    ...trackTables(take, domains * maptrackFrames * MAPTRACK_PER_FRAME),
    ...portTables(take, domains * ports),
    fifoArray: take(domains * EVTCHN_FIFO_ARRAY_PAGES),
    fifoControl: take(domains * VCPUS_MAX * 2),
    fifoTail: take(domains * VCPUS_MAX * EVTCHN_FIFO_QUEUES),
    identityRead: take(identityRows * frames),
    identityWrite: take(identityRows * frames),
    iommu: take(iommuWords(model)),
    invalidations: take(INVALIDATION_WORDS),
    faults: take(IOMMU_FAULTS_KEPT * FAULT_WORDS),
    trace: take((slots + 1) * (1 + traceRecords * TRACE_WORDS)),
    historyRecords,
    history: historyRecords === 0 ? 0 : take((1 + historyRecords) * HISTORY_WORDS),
    // Evaluated last, after every table above has been taken.
    words,
  };
}

/** Bytes of machine memory. */
export const machineBytes = (layout: Layout): number => layout.frames * PAGE_SIZE;

export const lineOf = (layout: Layout, slot: number): number => layout.lines + slot * LINE_WORDS;
export const channelOf = (layout: Layout, slot: number): number =>
  layout.channels + slot * CHANNEL_WORDS;
export const domainOf = (layout: Layout, domid: number): number =>
  layout.domains + domid * DOMAIN_WORDS;

/**
 * Fills the chunk table: one word per 2 MiB of machine addresses, the frame index of its first frame or
 * NOT_PRESENT. Device register pages get the indexes after RAM, in chunks of their own.
 */
export function writeChunkTable(layout: Layout, words: Int32Array): void {
  words.fill(NOT_PRESENT, layout.chunkTable, layout.chunkTable + layout.chunks);
  const chunkBytes = CHUNK_FRAMES * PAGE_SIZE;
  let next = 0;
  for (const bank of layout.model.banks) {
    assert(bank.base % chunkBytes === 0, "a bank starts on a 2 MiB boundary");
    assert(bank.size % chunkBytes === 0, "a bank is a multiple of 2 MiB");
    for (let at = bank.base; at < bank.base + bank.size; at += chunkBytes) {
      words[layout.chunkTable + at / chunkBytes] = next;
      next += CHUNK_FRAMES;
    }
  }
}

/**
 * The hardware's address decoder: frame index of a machine frame, or NOT_PRESENT (a bus error). RAM by the
 * chunk table, register pages by comparison, as there are few.
 */
export function indexOf(layout: Layout, words: Int32Array, mfn: Mfn | number): FrameIndex {
  // Every level of every walk comes here: below 2^31 a shift does what the division does.
  const chunk = mfn < 2 ** 31 ? mfn >>> CHUNK_SHIFT : Math.floor(mfn / CHUNK_FRAMES);
  if (chunk < layout.chunks) {
    const first = at(words, layout.chunkTable + chunk);
    if (first !== NOT_PRESENT) return FrameIndex(first + (mfn & (CHUNK_FRAMES - 1)));
  }
  return registerIndexOf(layout, mfn);
}

function registerIndexOf(layout: Layout, mfn: Mfn | number): FrameIndex {
  const devices = layout.model.devices;
  for (let i = 0; i < devices.length; i++) {
    if (devices[i]?.registers === mfn * PAGE_SIZE) return FrameIndex(layout.ramFrames + i);
  }
  return FrameIndex(NOT_PRESENT);
}

/** The machine frame at an index: the inverse of `indexOf`, for everyone who must print or enter one. */
export function mfnAt(layout: Layout, index: FrameIndex | number): Mfn {
  let left = index as number;
  for (const bank of layout.model.banks) {
    const frames = bank.size / PAGE_SIZE;
    if (left < frames) return (bank.base / PAGE_SIZE + left) as Mfn;
    left -= frames;
  }
  const device = layout.model.devices[left];
  assert(device !== undefined, "a frame index lies in machine memory");
  return (device.registers / PAGE_SIZE) as Mfn;
}
