/**
 * Entries of a PV guest's page tables: where they stand, and how one is replaced by another.
 *
 * Rules: what a new entry names is referenced before it is written, what the old one named is given back afterwards. A
 * page of somebody else, or that the domain has given up, and a table, go on the hold list: the caller flushes before they
 * are dropped (MOD_FLUSH). RAM of the domain's own is let go at once; its translation may then stay in TLBs until the
 * guest flushes, as on the real thing. Functions here are plain.
 * Behaviour: xen/arch/x86/mm.c, mod_l1_entry(), mod_l2_entry() to mod_l4_entry(); xen/arch/x86/pv/mm.c, map_guest_l1e().
 */
import { PGT_l1_page_table, PGT_l4_page_table } from "../shared/frame-flags.ts";
import { DOM, domainOf, indexOf, LINE } from "../shared/layout.ts";
import { P2M_LEVEL_LEAF, PAGE_SIZE } from "../shared/limits.ts";
import { add } from "../shared/mem.ts";
import { levelSlot, upperBits } from "../shared/pte.ts";
import {
  _PAGE_RW,
  adjustGuestPte,
  isPresentX86,
  mfnOfX86,
  type PteX86,
  ROOT_XEN_FIRST,
  ROOT_XEN_LAST,
  VPN_END,
} from "../shared/pte-x86.ts";
import { EINVAL } from "../shared/status.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import { frameOwner, isAllocated, isRamFrame, isXenHeap } from "./frame-table.ts";
import { holdPage, holdTable } from "./hold-list.ts";
import {
  getPageFromEntry,
  isCountedWritable,
  putPageFromL1e,
  readPte,
  typeCount,
  typeOf,
} from "./page-type.ts";
import { lineField, type Xen } from "./xen.ts";

/** An entry's place: the frame of its table, and its number there. */
export interface PtePlace {
  readonly table: FrameIndex;
  readonly slot: number;
}

/** Outcome of a change that was made: nothing to wait for, or a flush before the hold list is released. */
export const MOD_DONE = 0;
export const MOD_FLUSH = 1;

/** Whether the frame is a level 1 table in use, of this domain. */
const isL1Of = (xen: Xen, domid: DomId, frame: number): boolean =>
  isRamFrame(xen, frame) &&
  frameOwner(xen, frame) === domid &&
  typeCount(xen, frame) > 0 &&
  typeOf(xen, frame) === PGT_l1_page_table;

/** The entry of a virtual address in the tables that a vCPU's slot runs on; undefined: no level 1 table there. */
export function pteOfAddress(
  xen: Xen,
  slot: number,
  domid: DomId,
  address: number,
): PtePlace | undefined {
  const page = Math.floor(address / PAGE_SIZE);
  if (!(page < VPN_END)) return undefined;
  const upper = upperBits(page);
  let table = lineField(xen, slot, LINE.ROOT);
  for (let level = 0; level < P2M_LEVEL_LEAF; level++) {
    const pte = readPte(xen, table, levelSlot(page, upper, level));
    if (!isPresentX86(pte)) return undefined;
    table = indexOf(xen.layout, xen.words, mfnOfX86(pte));
  }
  if (!isL1Of(xen, domid, table)) return undefined;
  return { table: FrameIndex(table), slot: levelSlot(page, upper, P2M_LEVEL_LEAF) };
}

/** The level 1 entry at a machine address; undefined: not aligned, or no level 1 table of the domain's. */
export function pteOfMachineAddress(xen: Xen, domid: DomId, maddr: number): PtePlace | undefined {
  if (maddr % 8 !== 0) return undefined;
  const table = indexOf(xen.layout, xen.words, Math.floor(maddr / PAGE_SIZE));
  if (!isL1Of(xen, domid, table)) return undefined;
  return { table, slot: (maddr % PAGE_SIZE) / 8 };
}

export const pteAt = (xen: Xen, { table, slot }: PtePlace): PteX86 => readPte(xen, table, slot);

/** Writes an entry so that no walker sees halves of two: see p2m.ts. */
export function writePte(xen: Xen, domid: DomId, { table, slot }: PtePlace, pte: PteX86): void {
  const { memory, words, layout } = xen;
  const at = slot * 8;
  if (memory.peek(table, at) === 0) {
    memory.poke(table, at + 4, pte.high);
    memory.store(table, at, pte.low);
    return;
  }
  if (pte.low === 0) {
    // Word 1 stays for a walker that has read word 0 already, but for what a guest reads of it there is no harm.
    memory.store(table, at, 0);
    memory.store(table, at + 4, pte.high);
    return;
  }
  const sequence = domainOf(layout, domid) + DOM.P2M_SEQUENCE;
  add(words, sequence, 1);
  memory.store(table, at, 0);
  memory.store(table, at + 4, pte.high);
  memory.store(table, at, pte.low);
  add(words, sequence, 1);
}

/**
 * Gives back what a page's entry refers to. At once if the page is the domain's own RAM: before that becomes something
 * else a flush is asked for (pv-flush.ts). Anything else may be freed or change its use without one: after the flush.
 */
export function dropL1e(xen: Xen, slot: number, mapper: DomId, pte: PteX86): number {
  const frame = indexOf(xen.layout, xen.words, mfnOfX86(pte));
  if (!isPresentX86(pte) || !isRamFrame(xen, frame)) return MOD_DONE;
  const own = frameOwner(xen, frame) === mapper && isAllocated(xen, frame);
  if (own && !isXenHeap(xen, frame)) {
    putPageFromL1e(xen, mapper, pte);
    return MOD_DONE;
  }
  holdPage(xen, slot, frame, isCountedWritable(xen, mapper, frameOwner(xen, frame), pte));
  return MOD_FLUSH;
}

/** Whether only bits changed that no reference depends on. */
const isSameMapping = (one: PteX86, other: PteX86): boolean =>
  isPresentX86(one) &&
  isPresentX86(other) &&
  mfnOfX86(one) === mfnOfX86(other) &&
  ((one.low ^ other.low) & _PAGE_RW) === 0;

/**
 * Replaces a page's entry in a table of `domid` by one that maps a page of `from`. Returns MOD_*, or a negative errno
 * with nothing changed. `slot` is the one whose handler asks.
 */
export function modL1Entry(
  xen: Xen,
  slot: number,
  domid: DomId,
  from: DomId,
  place: PtePlace,
  next: PteX86,
): number {
  const former = pteAt(xen, place);
  const pte = adjustGuestPte(next);
  if (isSameMapping(former, pte)) {
    writePte(xen, domid, place, pte);
    return MOD_DONE;
  }
  if (isPresentX86(pte)) {
    // Judged as the guest wrote it: what Xen adds is not the guest's to set.
    const error = getPageFromEntry(xen, domid, from, next, PGT_l1_page_table);
    if (error !== 0) return error;
  }
  writePte(xen, domid, place, pte);
  return dropL1e(xen, slot, domid, former);
}

/** Replaces an entry of a table of level 2 to 4. As `modL1Entry`; also -ERESTART: flush, and ask again. */
export function modTableEntry(
  xen: Xen,
  slot: number,
  domid: DomId,
  place: PtePlace,
  next: PteX86,
  level: number,
): number {
  const isXens = place.slot >= ROOT_XEN_FIRST && place.slot <= ROOT_XEN_LAST;
  if (level === PGT_l4_page_table && isXens) return -EINVAL;
  const former = pteAt(xen, place);
  if (isPresentX86(next)) {
    const error = getPageFromEntry(xen, domid, domid, next, level);
    if (error !== 0) return error;
  }
  writePte(xen, domid, place, next);
  if (!isPresentX86(former)) return MOD_DONE;
  holdTable(xen, slot, indexOf(xen.layout, xen.words, mfnOfX86(former)));
  return MOD_FLUSH;
}
