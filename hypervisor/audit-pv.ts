/**
 * The census of PV guests' page tables: what their entries refer to, and what type each frame is used as.
 *
 * Rule: it reads tables, pins and slots, never the counters that pvTypes (audit-page-types.ts) compares it with. A table is
 * a frame whose type says so: whether that is right is judged there.
 * Ours; the counting rules are those of hypervisor spec 1.3 and 4.9.
 */
import { PGT_l1_page_table, PGT_l4_page_table } from "../shared/frame-flags.ts";
import { HOLD_TABLE } from "../shared/hold-layout.ts";
import { indexOf, LINE, SLOT_KIND_VCPU } from "../shared/layout.ts";
import { NOT_PRESENT, TABLE_ENTRIES } from "../shared/limits.ts";
import {
  _PAGE_RW,
  isPresentX86,
  mfnOfX86,
  ROOT_XEN_FIRST,
  ROOT_XEN_LAST,
} from "../shared/pte-x86.ts";
import { DomId } from "../shared/units.ts";
import { fifoFrames } from "./event-fifo-array.ts";
import { frameOwner, frameReferences, isRamFrame, isXenHeap } from "./frame-table.ts";
import type { Hold } from "./hold-list.ts";
import { hasTypes, isPinned, isPv, isTableFrame, readPte, typeOf } from "./page-type.ts";
import { isPresent, lineField, slotDomain, type Xen } from "./xen.ts";

/** An entry of a level 1 table that maps a page. */
export interface PvLeaf {
  readonly domid: DomId;
  readonly table: number;
  readonly slot: number;
  readonly frame: number;
  readonly writable: boolean;
}

/** What a live handle has of a page, as far as types are concerned. */
export interface TypedHandle {
  readonly mapper: DomId;
  readonly granter: DomId;
  readonly frame: number;
  readonly readonly: boolean;
  readonly host: boolean;
  readonly device: boolean;
}

export interface PvCount {
  readonly types: Int32Array;
  readonly ptes: readonly PvLeaf[];
}

/** Counts type references of all frames; adds the page references of tables, pins and vCPUs to `references`. */
export function countPv(
  xen: Xen,
  handles: readonly TypedHandle[],
  holds: readonly Hold[],
  references: Int32Array,
): PvCount {
  if (!hasTypes(xen)) return { types: new Int32Array(0), ptes: [] };
  const types = new Int32Array(xen.layout.ramFrames);
  const ptes: PvLeaf[] = [];
  const add = (column: Int32Array, frame: number): void => {
    if (isRamFrame(xen, frame)) column[frame] = (column[frame] ?? 0) + 1;
  };
  const both = (frame: number): void => {
    add(references, frame);
    add(types, frame);
  };
  for (let frame = 0; frame < xen.layout.ramFrames; frame++) {
    // What Xen shares with a guest is writable for good, also while only others' mappings keep it.
    if (isXenHeap(xen, frame) && frameReferences(xen, frame) > 0 && frameOwner(xen, frame) >= 0) {
      add(types, frame);
    }
    if (isPinned(xen, frame)) both(frame);
    if (isTableFrame(xen, frame)) countTable(xen, frame, ptes, both);
  }
  for (const { frame, writable, domid } of ptes) {
    add(references, frame);
    if (writable && isCounted(xen, domid, frame)) add(types, frame);
  }
  for (let slot = 0; slot < xen.model.limits.slots; slot++) {
    const root = lineField(xen, slot, LINE.ROOT);
    if (lineField(xen, slot, LINE.KIND) !== SLOT_KIND_VCPU || root === NOT_PRESENT) continue;
    if (isPresent(xen, slotDomain(xen, slot)) && isPv(xen, slotDomain(xen, slot))) both(root);
  }
  for (const { mapper, granter, frame, readonly, host, device } of handles) {
    if (readonly) continue;
    if (device) add(types, frame);
    if (host && !isPv(xen, mapper) && (mapper === granter || isPv(xen, granter))) add(types, frame);
  }
  for (const { kind, frame, typed } of holds) if (typed || kind === HOLD_TABLE) add(types, frame);
  for (let id = 0; id < xen.model.limits.domains; id++) {
    if (isPresent(xen, id)) for (const frame of fifoFrames(xen, DomId(id))) add(types, frame);
  }
  return { types, ptes };
}

const isCounted = (xen: Xen, mapper: number, frame: number): boolean =>
  frameOwner(xen, frame) === mapper || isPv(xen, frameOwner(xen, frame));

/** The entries of one table: pages into `ptes`, the tables below it are counted. */
function countTable(
  xen: Xen,
  table: number,
  ptes: PvLeaf[],
  countTableBelow: (frame: number) => void,
): void {
  const level = typeOf(xen, table);
  const domid = DomId(frameOwner(xen, table));
  for (let slot = 0; slot < TABLE_ENTRIES; slot++) {
    if (level === PGT_l4_page_table && slot >= ROOT_XEN_FIRST && slot <= ROOT_XEN_LAST) continue;
    const pte = readPte(xen, table, slot);
    if (!isPresentX86(pte)) continue;
    const frame = indexOf(xen.layout, xen.words, mfnOfX86(pte));
    if (level > PGT_l1_page_table) countTableBelow(frame);
    else ptes.push({ domid, table, slot, frame, writable: (pte.low & _PAGE_RW) !== 0 });
  }
}
