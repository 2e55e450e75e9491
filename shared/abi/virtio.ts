/**
 * A split virtqueue in one page: descriptors, the driver's ring of available ones, the device's ring of used ones.
 * Offsets are bytes, little endian. Writers: [DRV] the driver, [DEV] the device.
 *
 *   descriptor i: u64 address, u32 length, u16 flags, u16 next [DRV] | available: u16 flags, u16 index, u16 heads [DRV]
 *   used: u16 flags, u16 index, { u32 head, u32 length } each [DEV]
 *
 * Behaviour: Virtio 1.2, section 2.7 (split virtqueues).
 */
import { assert } from "../assert.ts";
import { PAGE_SIZE } from "../limits.ts";

/** Kind of device in the store. */
export const VIRTIO_DEVICE = "virtio";
export const VIRTQ_SIZE = 16;
export const VIRTQ_DESC = 0;
export const VIRTQ_DESC_SIZE = 16;
export const VIRTQ_DESC_ADDR = 0;
export const VIRTQ_DESC_LEN = 8;
export const VIRTQ_DESC_FLAGS = 12;
/** The device writes this buffer. */
export const VIRTQ_DESC_F_WRITE = 2;
export const VIRTQ_AVAIL = VIRTQ_DESC + VIRTQ_SIZE * VIRTQ_DESC_SIZE;
/** Word with flags below and index above: both rings are published by one store of it. */
export const VIRTQ_RING_INDEX = 0;
export const VIRTQ_RING_ENTRIES = 4;
export const VIRTQ_USED = 512;
export const VIRTQ_USED_ENTRY_SIZE = 8;

assert(VIRTQ_AVAIL + VIRTQ_RING_ENTRIES + 2 * VIRTQ_SIZE <= VIRTQ_USED, "the rings do not overlap");
assert(
  VIRTQ_USED + VIRTQ_RING_ENTRIES + VIRTQ_SIZE * VIRTQ_USED_ENTRY_SIZE <= PAGE_SIZE,
  "the queue fits a page",
);
