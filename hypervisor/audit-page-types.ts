/**
 * Invariants of x86 PV: page types, page tables, the M2P, and what TLBs may still lead to.
 * Rule: one function an invariant; a machine without PV domains has nothing to judge.
 * Behaviour: hypervisor spec 1.3 and 4.9; XSA-285, 288, 291 (types), 401 (flush before a table).
 */
import { at } from "../shared/assert.ts";
import { PGT_writable_page } from "../shared/frame-flags.ts";
import { LINE, lineOf, SLOT_LIVE, WALK_PV } from "../shared/layout.ts";
import { NOT_PRESENT, TLB_ENTRIES } from "../shared/limits.ts";
import { load } from "../shared/mem.ts";
import { ACCESS_WRITE } from "../shared/mmu.ts";
import type { Census } from "./audit-census.ts";
import {
  frameOwner,
  isFree,
  isRamFrame,
  isReserved,
  isXenHeap,
  xenHeapGfn,
} from "./frame-table.ts";
import { hasTypes, isPinned, isPv, isTableFrame, typeCount, typeOf } from "./page-type.ts";
import { isDying, isPrivileged, lineField, slotDomain, type Xen } from "./xen.ts";

/** A frame's type count is what uses it that way: entries, tables above it, pins, vCPUs, mappings, and Xen itself. */
export function typeCounts(xen: Xen, census: Census): string[] {
  if (!hasTypes(xen)) return [];
  const findings: string[] = [];
  for (let frame = 0; frame < xen.layout.ramFrames; frame++) {
    const has = typeCount(xen, frame);
    const should = at(census.types, frame);
    if (has !== should) {
      findings.push(`frame ${frame} counts ${has} type references, ${should} exist`);
    }
    if (isPinned(xen, frame) && !isTableFrame(xen, frame)) {
      findings.push(`frame ${frame} is pinned and no page table`);
    }
  }
  return findings;
}

/** Nobody can write to a page table: an entry that is writable leads to a page that is used as writable. */
export function tablesReadOnly(xen: Xen, census: Census): string[] {
  const findings: string[] = [];
  for (const { domid, table, slot, frame, writable } of census.ptes) {
    const name = `entry ${slot} of table ${table} of domain ${domid}`;
    if (!isRamFrame(xen, frame) || isFree(xen, frame) || isReserved(xen, frame)) {
      findings.push(`${name} leads to frame ${frame}, which is nobody's`);
    } else if (writable && isPv(xen, frameOwner(xen, frame))) {
      const type = typeOf(xen, frame);
      if (type !== PGT_writable_page) {
        findings.push(`${name} lets its guest write to frame ${frame} of type ${type}`);
      }
    }
  }
  return findings;
}

/** A PV guest's entry for a page of another domain stands for a live mapping of a grant. */
export function foreignPtes(xen: Xen, census: Census): string[] {
  const key = (domid: number, frame: number): number => domid * xen.layout.frames + frame;
  const granted = new Map<number, number>();
  for (const { mapper, frame, host } of census.handles) {
    const at = key(mapper, frame);
    if (host) granted.set(at, (granted.get(at) ?? 0) + 1);
  }
  const findings: string[] = [];
  for (const { domid, table, slot, frame } of census.ptes) {
    if (!isRamFrame(xen, frame) || frameOwner(xen, frame) === domid) continue;
    if (isPrivileged(xen, { slot: 0, domid })) continue;
    // The end of a PV domain lets go of its handles first, of its tables with their references later; nobody walks them.
    if (isDying(xen, domid)) continue;
    const left = (granted.get(key(domid, frame)) ?? 0) - 1;
    granted.set(key(domid, frame), left);
    if (left < 0) {
      findings.push(
        `entry ${slot} of table ${table} of domain ${domid} leads to frame ${frame} without a grant`,
      );
    }
  }
  return findings;
}

/** The M2P has an entry for pages of PV domains only. Those of the Xen heap are recorded by their gfn. */
export function machineToPhys(xen: Xen): string[] {
  if (!hasTypes(xen)) return [];
  const findings: string[] = [];
  for (let frame = 0; frame < xen.layout.ramFrames; frame++) {
    if (isXenHeap(xen, frame) || xenHeapGfn(xen, frame) === NOT_PRESENT) continue;
    const owner = frameOwner(xen, frame);
    if (owner === NOT_PRESENT || !isPv(xen, owner)) {
      findings.push(`frame ${frame} is in the M2P, and no PV domain's`);
    }
  }
  return findings;
}

/**
 * A PV guest's TLB may hold what its tables no longer say, until it flushes. But no row leads to a page that the domain has
 * no right to, and none lets it write to a page table.
 */
export function pvTranslations(xen: Xen, census: Census): string[] {
  const findings: string[] = [];
  for (let slot = 0; slot < xen.model.limits.slots; slot++) {
    if (cachesPv(xen, slot)) findings.push(...rowsOf(xen, census, slot));
  }
  return findings;
}

/** Whether a slot is a PV guest's vCPU that would still use the rows of its TLB. */
export function cachesPv(xen: Xen, slot: number): boolean {
  if (lineField(xen, slot, LINE.STATE) !== SLOT_LIVE) return false;
  if (lineField(xen, slot, LINE.MODE) !== WALK_PV) return false;
  const generation = load(xen.words, lineOf(xen.layout, slot) + LINE.GENERATION);
  return lineField(xen, slot, LINE.INSIDE_GENERATION) === generation;
}

function rowsOf(xen: Xen, census: Census, slot: number): string[] {
  const { words, layout } = xen;
  const domid = slotDomain(xen, slot);
  const findings: string[] = [];
  for (let row = 0; row < TLB_ENTRIES; row++) {
    const page = at(words, layout.tlbTags + slot * TLB_ENTRIES + row);
    const cached = at(words, layout.tlbValues + slot * TLB_ENTRIES + row);
    if (page === NOT_PRESENT || cached === 0) continue;
    const frame = cached >>> 3;
    const its = isRamFrame(xen, frame) && !isFree(xen, frame) && frameOwner(xen, frame) === domid;
    const granted =
      census.ptes.some((pte) => pte.domid === domid && pte.frame === frame) ||
      census.holds.some((hold) => hold.frame === frame);
    const name = `slot ${slot} would still reach frame ${frame} through page ${page}`;
    if (!its && !granted) findings.push(`${name}, which is not its domain's`);
    if ((cached & ACCESS_WRITE) !== 0 && isTableFrame(xen, frame)) {
      findings.push(`${name} and write to it, which is a page table`);
    }
  }
  return findings;
}
