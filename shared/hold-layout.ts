/**
 * Words of a row of a slot's hold list: what a handler holds across a gap (hypervisor/hold-list.ts).
 * Writer: the hypervisor only. Ours.
 */
import { GNTTAB_UNMAP_BATCH_SIZE } from "./limits.ts";

/** One row of a slot's hold list: an unmap between its two passes. */
export const HOLD = {
  KIND: 0, // HOLD_*
  DOMAIN: 1, // granter
  REF: 2,
  FRAME: 3, // frame index whose reference is held
  READONLY: 5,
  DEVICE: 6, // 1: the device half of a mapping; PV only
  TYPED: 7, // 1: a type reference goes with the page reference
} as const;
export const HOLD_WORDS = 8;
export const HOLD_NONE = 0;
/** Second pass of an unmap: drop the page reference, the pin and the status bits. */
export const HOLD_UNMAP = 1;
/** A page reference to drop after the flush (FRAME only). */
export const HOLD_PAGE = 2;
/** A page table of a PV guest that nothing leads to any more: type and page reference go after the flush (FRAME only). */
export const HOLD_TABLE = 3;
/** A page of the Xen heap that has left its table: freed with its last reference, after the flush (FRAME only). */
export const HOLD_XEN_PAGE = 4;
/** A P2M table that a block has taken the place of: back to its pool after the flush (DOMAIN, FRAME; REF is a generation). */
export const HOLD_TABLE_PAGE = 5;
/** An unmap may hold two: its own second pass, and a foreign page whose entry stood at the address. */
export const HOLD_ROWS = 2 * GNTTAB_UNMAP_BATCH_SIZE;
