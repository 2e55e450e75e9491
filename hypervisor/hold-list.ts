/**
 * What a pending handler holds across a gap: rows of the control buffer, so that audit, post-mortem and the death
 * of the caller can all see it. `releaseHolds` performs what the rows name, and is the only way they go.
 *
 * Rule: rows are added when a translation has been taken away, and released after the flush that covers it.
 * Behaviour: HOLD_UNMAP is the second pass of xen/common/grant_table.c, unmap_common_complete().
 */
import { assert, at } from "../shared/assert.ts";
import {
  HOLD,
  HOLD_NONE,
  HOLD_PAGE,
  HOLD_ROWS,
  HOLD_TABLE,
  HOLD_TABLE_PAGE,
  HOLD_UNMAP,
  HOLD_WORDS,
  HOLD_XEN_PAGE,
} from "../shared/hold-layout.ts";
import { DOM, LINE } from "../shared/layout.ts";
import type { DomId } from "../shared/units.ts";
import { releasePin } from "./active-entry.ts";
import { getPage, putPage, putPageAllocRef } from "./frame-table.ts";
import { returnTable } from "./p2m.ts";
import { putPageAndType, putPageType } from "./page-type.ts";
import { domainField, isDying, isPresent, lineField, setLineField, type Xen } from "./xen.ts";
import { freeXenPage } from "./xen-heap.ts";

const rowOf = (xen: Xen, slot: number, row: number): number =>
  xen.layout.holds + (slot * HOLD_ROWS + row) * HOLD_WORDS;

function nextRow(xen: Xen, slot: number): number {
  const held = lineField(xen, slot, LINE.HELD);
  assert(held < HOLD_ROWS, "a handler holds no more than one batch");
  setLineField(xen, slot, LINE.HELD, held + 1);
  return rowOf(xen, slot, held);
}

/** What goes with the references of a mapping besides the page's own, in a machine with PV domains. */
export interface HalfOptions {
  readonly device: boolean;
  /** A type reference. */
  readonly typed: boolean;
}
const PLAIN: HalfOptions = { device: false, typed: false };

/** Holds the second pass of an unmap of one grant half: page reference, pin and status bits of the granter. */
export function holdUnmap(
  xen: Xen,
  slot: number,
  granter: DomId,
  ref: number,
  frame: number,
  readonly: boolean,
  { device, typed }: HalfOptions = PLAIN,
): void {
  const row = nextRow(xen, slot);
  xen.words[row + HOLD.KIND] = HOLD_UNMAP;
  xen.words[row + HOLD.DOMAIN] = granter;
  xen.words[row + HOLD.REF] = ref;
  xen.words[row + HOLD.FRAME] = frame;
  xen.words[row + HOLD.READONLY] = readonly ? 1 : 0;
  xen.words[row + HOLD.DEVICE] = device ? 1 : 0;
  xen.words[row + HOLD.TYPED] = typed ? 1 : 0;
}

/** Holds a page table that was taken out of use, with its type reference. */
export function holdTable(xen: Xen, slot: number, frame: number): void {
  const row = nextRow(xen, slot);
  xen.words[row + HOLD.KIND] = HOLD_TABLE;
  xen.words[row + HOLD.FRAME] = frame;
}

/** Holds a page reference that is dropped after the flush, with a writable type reference or without. */
export function holdPage(xen: Xen, slot: number, frame: number, typed = false): void {
  const row = nextRow(xen, slot);
  xen.words[row + HOLD.KIND] = HOLD_PAGE;
  xen.words[row + HOLD.FRAME] = frame;
  xen.words[row + HOLD.TYPED] = typed ? 1 : 0;
}

/**
 * Holds a page of the Xen heap that nobody can reach any more but through translations that are to be flushed. Its
 * allocation reference is the one that is held.
 */
export function holdXenPage(xen: Xen, slot: number, frame: number, owner: DomId): void {
  const held = getPage(xen, frame, owner);
  assert(held, "a page of a table is in use and its domain's");
  putPageAllocRef(xen, frame);
  const row = nextRow(xen, slot);
  xen.words[row + HOLD.KIND] = HOLD_XEN_PAGE;
  xen.words[row + HOLD.FRAME] = frame;
}

/** Holds a P2M table of a domain that no entry leads to any more; walkers may still be in it. */
export function holdTablePage(xen: Xen, slot: number, domid: DomId, frame: number): void {
  const row = nextRow(xen, slot);
  xen.words[row + HOLD.KIND] = HOLD_TABLE_PAGE;
  xen.words[row + HOLD.DOMAIN] = domid;
  xen.words[row + HOLD.REF] = domainField(xen, domid, DOM.GENERATION);
  xen.words[row + HOLD.FRAME] = frame;
}

/** To its domain's pool, unless the domain has died meanwhile, or its row is another one's. */
function releaseTablePage(xen: Xen, row: number, frame: number): void {
  const domid = at(xen.words, row + HOLD.DOMAIN) as DomId;
  const isIts = domainField(xen, domid, DOM.GENERATION) === at(xen.words, row + HOLD.REF);
  if (isIts && isPresent(xen, domid) && !isDying(xen, domid)) returnTable(xen, domid, frame);
  else freeXenPage(xen, frame);
}

/** Drops everything the slot's handler holds. The flush that covers it is over. */
export function releaseHolds(xen: Xen, slot: number): void {
  const held = lineField(xen, slot, LINE.HELD);
  for (let i = 0; i < held; i++) {
    const row = rowOf(xen, slot, i);
    const kind = at(xen.words, row + HOLD.KIND);
    const frame = at(xen.words, row + HOLD.FRAME);
    xen.words[row + HOLD.KIND] = HOLD_NONE;
    if (kind === HOLD_UNMAP) {
      const granter = at(xen.words, row + HOLD.DOMAIN) as DomId;
      const readonly = at(xen.words, row + HOLD.READONLY) === 1;
      const device = at(xen.words, row + HOLD.DEVICE) === 1;
      if (at(xen.words, row + HOLD.TYPED) === 1) putPageType(xen, frame);
      putPage(xen, frame);
      releasePin(xen, granter, at(xen.words, row + HOLD.REF), readonly, device);
    } else if (kind === HOLD_PAGE) {
      if (at(xen.words, row + HOLD.TYPED) === 1) putPageType(xen, frame);
      putPage(xen, frame);
    } else if (kind === HOLD_TABLE) {
      putPageAndType(xen, frame);
    } else if (kind === HOLD_XEN_PAGE) {
      putPage(xen, frame);
      freeXenPage(xen, frame);
    } else if (kind === HOLD_TABLE_PAGE) {
      releaseTablePage(xen, row, frame);
    }
  }
  setLineField(xen, slot, LINE.HELD, 0);
}

/** One held row, for the audit. */
export interface Hold {
  readonly kind: number;
  readonly granter: number;
  readonly ref: number;
  readonly frame: number;
  readonly readonly: boolean;
  readonly device: boolean;
  readonly typed: boolean;
}

export function holdsOf(xen: Xen, slot: number): readonly Hold[] {
  return Array.from({ length: lineField(xen, slot, LINE.HELD) }, (_, i) => {
    const row = rowOf(xen, slot, i);
    return {
      kind: at(xen.words, row + HOLD.KIND),
      granter: at(xen.words, row + HOLD.DOMAIN),
      ref: at(xen.words, row + HOLD.REF),
      frame: at(xen.words, row + HOLD.FRAME),
      readonly: at(xen.words, row + HOLD.READONLY) === 1,
      device: at(xen.words, row + HOLD.DEVICE) === 1,
      typed: at(xen.words, row + HOLD.TYPED) === 1,
    };
  });
}
