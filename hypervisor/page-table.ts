/**
 * Entries of the tables that hardware walks, P2M and IOMMU alike: read as the hypervisor reads them, written so that no
 * walker sees halves of two.
 *
 * Rule: a walker that faults while P2M_SEQUENCE of its domain moves looks again (shared/mmu.ts).
 * Behaviour: xen/arch/arm/mmu/p2m.c, p2m_write_pte(); advisories 328 and 347.
 */
import { DOM, domainOf } from "../shared/layout.ts";
import { add } from "../shared/mem.ts";
import { FrameIndex } from "../shared/units.ts";
import type { Xen } from "./xen.ts";

export const entryWord = (xen: Xen, table: number, slot: number): number =>
  xen.memory.peek(FrameIndex(table), slot * 8);
export const entryHigh = (xen: Xen, table: number, slot: number): number =>
  xen.memory.peek(FrameIndex(table), slot * 8 + 4);

/** Writes an entry of `domid`: over nothing, word 1 and then word 0; over another, invalid first. */
export function writeEntry(
  xen: Xen,
  domid: number,
  table: number,
  slot: number,
  low: number,
  up: number,
): void {
  const frame = FrameIndex(table);
  if (xen.memory.peek(frame, slot * 8) === 0) {
    xen.memory.poke(frame, slot * 8 + 4, up);
    xen.memory.store(frame, slot * 8, low);
    return;
  }
  const sequence = domainOf(xen.layout, domid) + DOM.P2M_SEQUENCE;
  add(xen.words, sequence, 1);
  xen.memory.store(frame, slot * 8, 0);
  xen.memory.store(frame, slot * 8 + 4, up);
  xen.memory.store(frame, slot * 8, low);
  add(xen.words, sequence, 1);
}
