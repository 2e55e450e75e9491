/**
 * The list of free grant references of one kernel: which reference the next grant gets is behaviour, since peers
 * and tests see the number.
 *
 * Rules: references below 8 belong to the toolstack and never enter the list; a reference freed is the next one
 * handed out; new frames are appended at the end; deferred references are neither free nor handed out. This part
 * never traps: growing the table is grant-table.ts's business.
 * Behaviour: Linux drivers/xen/grant-table.c, get_free_entries(), put_free_entry(), get_free_seq().
 */

import { GNTTAB_NR_RESERVED_ENTRIES } from "../shared/abi/grant.ts";
import { assert, EmulatorBug } from "../shared/assert.ts";
import { GRANT_ENTRIES_PER_FRAME } from "../shared/limits.ts";
import { GrantRef } from "../shared/units.ts";

/** INVALID_GRANT_REF, and the end of every chain of references. */
export const GNTTAB_LIST_END = 0xffffffff;
export const INVALID_GRANT_REF = GNTTAB_LIST_END;

/** Where a link is stored: in the head of the list, or in the entry of a reference. */
const HEAD_CELL = -1;
const NO_CELL = -2;

export interface GrantRefs {
  readonly entriesPerFrame: number;
  /** References of the frames mapped so far. */
  size: number;
  /** Link of each reference: the next in its chain. */
  readonly next: number[];
  /** 1: free. One element a reference. */
  readonly freeMap: number[];
  freeHead: number;
  freeCount: number;
  /** Newest reference at the end of the list. */
  lastFree: number;
  /** Cell that points at the start of the run of consecutive references that ends at `lastFree`. */
  tailCell: number;
}

/** The list after boot: one frame, references from 8 on in ascending order. */
export function createGrantRefs(entriesPerFrame = GRANT_ENTRIES_PER_FRAME): GrantRefs {
  const refs: GrantRefs = {
    entriesPerFrame,
    size: 0,
    next: [],
    freeMap: [],
    freeHead: GNTTAB_LIST_END,
    freeCount: 0,
    lastFree: GNTTAB_LIST_END,
    tailCell: NO_CELL,
  };
  growRefs(refs, 1);
  return refs;
}

function linkAt(refs: GrantRefs, cell: number): number {
  if (cell === HEAD_CELL) return refs.freeHead;
  const link = refs.next[cell];
  if (link === undefined) throw new EmulatorBug(`grant reference ${cell} of ${refs.size}`);
  return link;
}

function setLink(refs: GrantRefs, cell: number, ref: number): void {
  if (cell === HEAD_CELL) refs.freeHead = ref;
  else refs.next[cell] = ref;
}

/** Appends the references of `frames` new grant frames at the end of the list. */
export function growRefs(refs: GrantRefs, frames: number): void {
  const end = refs.size + frames * refs.entriesPerFrame;
  const start = Math.max(refs.size, GNTTAB_NR_RESERVED_ENTRIES);
  for (let ref = refs.size; ref < end; ref++) {
    refs.next.push(ref + 1 < end ? ref + 1 : GNTTAB_LIST_END);
    refs.freeMap.push(ref >= start ? 1 : 0);
  }
  refs.size = end;
  if (refs.freeCount === 0) {
    refs.freeHead = start;
    refs.tailCell = HEAD_CELL;
  } else {
    setLink(refs, refs.lastFree, start);
  }
  refs.freeCount += end - start;
  refs.lastFree = end - 1;
}

/**
 * Takes `count` references from the head; they stay chained to each other, ending in GNTTAB_LIST_END. The caller
 * has made sure that there are enough. Returns the first.
 */
export function takeRefs(refs: GrantRefs, count: number): GrantRef {
  assert(count >= 1, "at least one grant reference is taken");
  assert(count <= refs.freeCount, "the table was grown before references are taken");
  const first = refs.freeHead;
  let last = first;
  let ref = first;
  for (let i = 0; i < count; i++) {
    refs.freeMap[ref] = 0;
    if (refs.tailCell === ref) refs.tailCell = HEAD_CELL;
    last = ref;
    ref = linkAt(refs, ref);
  }
  refs.freeHead = ref;
  setLink(refs, last, GNTTAB_LIST_END);
  refs.freeCount -= count;
  if (refs.freeCount === 0) {
    refs.lastFree = GNTTAB_LIST_END;
    refs.tailCell = NO_CELL;
  }
  return GrantRef(first);
}

/** Frees one reference: it is the next one handed out. A reserved one is ignored. */
export function putRef(refs: GrantRefs, ref: GrantRef): void {
  if (ref < GNTTAB_NR_RESERVED_ENTRIES) return;
  setLink(refs, ref, refs.freeHead);
  refs.freeHead = ref;
  if (refs.freeCount === 0) refs.lastFree = ref;
  if (refs.tailCell === HEAD_CELL) refs.tailCell = ref;
  refs.freeCount++;
  refs.freeMap[ref] = 1;
}

/** Frees a chain of references, as gnttab_alloc_grant_references made it, from its head on. */
export function putRefChain(refs: GrantRefs, head: number): void {
  let ref = head;
  for (let n = 0; ref !== GNTTAB_LIST_END && n <= refs.size; n++) {
    const next = linkAt(refs, ref);
    putRef(refs, GrantRef(ref));
    ref = next;
  }
}

/** The reference after `ref` in its chain. */
export const nextRef = (refs: GrantRefs, ref: number): number => linkAt(refs, ref);
/** Chains `ref` before `head`: the private list of a driver. */
export const chainRef = (refs: GrantRefs, ref: GrantRef, head: number): void =>
  setLink(refs, ref, head);

/** Length of the run of consecutive references at the end of the list, as far as it is known. */
export function tailRunLength(refs: GrantRefs): number {
  if (refs.lastFree === GNTTAB_LIST_END || refs.tailCell === NO_CELL) return 0;
  const start = linkAt(refs, refs.tailCell);
  return start === GNTTAB_LIST_END ? 0 : refs.lastFree - start + 1;
}

/** Takes `count` consecutive references from the start of the run at the end of the list. */
export function takeTailRun(refs: GrantRefs, count: number): GrantRef {
  assert(count <= tailRunLength(refs), "the run at the end is long enough");
  const first = linkAt(refs, refs.tailCell);
  const rest = linkAt(refs, first + count - 1);
  setLink(refs, refs.tailCell, rest);
  refs.freeCount -= count;
  refs.freeMap.fill(0, first, first + count);
  if (refs.freeCount === 0) {
    refs.lastFree = GNTTAB_LIST_END;
    refs.tailCell = NO_CELL;
  } else if (rest === GNTTAB_LIST_END) {
    refs.lastFree = refs.tailCell;
  }
  return GrantRef(first);
}

/**
 * Sorts the free list by number and, on the way, takes the first run of `count` consecutive references.
 * Returns undefined when there is none; the list is sorted all the same.
 */
export function takeSortedRun(refs: GrantRefs, count: number): GrantRef | undefined {
  let taken: number | undefined;
  let lastCell = HEAD_CELL;
  refs.tailCell = HEAD_CELL;
  let from = refs.freeMap.indexOf(1);
  while (from !== -1) {
    const zero = refs.freeMap.indexOf(0, from);
    const to = zero === -1 ? refs.size : zero;
    if (taken === undefined && to - from >= count) {
      taken = from;
      refs.freeMap.fill(0, from, from + count);
      refs.freeCount -= count;
      from += count;
    }
    for (; from < to; from++) {
      setLink(refs, lastCell, from);
      lastCell = from;
      refs.lastFree = from;
    }
    if (to < refs.size && lastCell === to - 1) refs.tailCell = to - 1;
    from = refs.freeMap.indexOf(1, to);
  }
  setLink(refs, lastCell, GNTTAB_LIST_END);
  if (refs.lastFree !== refs.size - 1) refs.tailCell = NO_CELL;
  return taken === undefined ? undefined : GrantRef(taken);
}
