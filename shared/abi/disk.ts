/**
 * The register page of the disk: one 4 KiB page of device memory. Offsets are bytes, little endian.
 *
 * Descriptors live in the register page, so that only payload addresses are DMA addresses: without an IOMMU a
 * descriptor ring in memory would itself be read from a stranger's frame.
 *
 *   driver: segments, FILE_OFFSET, SEGMENTS, COMMAND -> DOORBELL = DONE + 1 last
 *   device: copies the command once -> STATUS = busy -> moves bytes -> BYTES, ERROR_*, STATUS -> DONE = DOORBELL last,
 *           then raises its interrupt line
 *
 * A driver that rewrites the descriptors of a command in progress changes nothing, as the device has its copy.
 * Writers: [DRV] the driver, [DEV] the device.
 * Ours, because a real controller has hundreds of registers that say nothing about addresses.
 */
import { assert } from "../assert.ts";
import { DISK_SEGMENTS_MAX, PAGE_SIZE } from "../limits.ts";

/** "DISK" in ASCII. */
export const DISK_MAGIC = 0x4b534944;

export const DISK_ID = 0; // u32 [DEV] DISK_MAGIC once the device has come out of its reset; before, all registers are 0
export const DISK_DOORBELL = 4; // u32 [DRV] number of the newest command; DONE + 1 starts one
export const DISK_COMMAND = 8; // u32 [DRV] DISK_COMMAND_*
export const DISK_SEGMENTS = 12; // u32 [DRV] entries of the segment list, 1 to DISK_SEGMENTS_MAX
export const DISK_FILE_OFFSET = 16; // u64 [DRV] first byte of the file
export const DISK_STATUS = 24; // u32 [DEV] DISK_STATUS_*
export const DISK_DONE = 28; // u32 [DEV] number of the newest command that has ended
export const DISK_BYTES = 32; // u32 [DEV] bytes that reached memory, or agreed with it; fewer than asked at the end of the file
export const DISK_ERROR_CODE = 36; // u32 [DEV] FAULT_* of mmu.ts when STATUS is DISK_STATUS_DMA_FAULT, else 0
export const DISK_ERROR_ADDRESS = 40; // u64 [DEV] DMA address at which the transfer was aborted
export const DISK_CAPACITY = 48; // u64 [DEV] bytes of the medium
/** First segment: { dma address u64@0, length u32@8 }, 12 bytes each, so that DISK_SEGMENTS_MAX of them fit. */
export const DISK_SEGMENT_LIST = 64; // [DRV]
export const DISK_SEGMENT_SIZE = 12;
export const DISK_SEGMENT_ADDRESS = 0;
export const DISK_SEGMENT_LENGTH = 8;

/** File to memory: the device writes to the segments, in order. */
export const DISK_COMMAND_READ = 1;
/** Memory is compared with the file: the device reads the segments. BYTES is what agreed before the first difference. */
export const DISK_COMMAND_VERIFY = 2;

export const DISK_STATUS_IDLE = 0;
export const DISK_STATUS_BUSY = 1;
export const DISK_STATUS_OK = 2;
/** The command, a count or the sum of the lengths is out of range; nothing was moved. */
export const DISK_STATUS_BAD_COMMAND = 3;
/** The medium could not be read; nothing was moved. */
export const DISK_STATUS_MEDIUM_ERROR = 4;
/** The bus or the IOMMU aborted a burst; the bursts before it have reached memory. */
export const DISK_STATUS_DMA_FAULT = 5;
/** A verified byte differs from the file's. */
export const DISK_STATUS_MISCOMPARE = 6;

/** Bytes that one command moves at most: a full list of single pages. */
export const DISK_TRANSFER_MAX = DISK_SEGMENTS_MAX * PAGE_SIZE;

assert(
  DISK_SEGMENT_LIST + DISK_SEGMENTS_MAX * DISK_SEGMENT_SIZE <= PAGE_SIZE,
  "the segment list ends inside the register page",
);
