/**
 * The Xen heap: consecutive frames carved from the first bank at boot, for tables, grant frames and shared info pages.
 * Rule: allocated zeroed; freed only by whoever allocated, never by the last `putPage`.
 * Behaviour: xen/common/page_alloc.c, alloc_xenheap_pages(), free_xenheap_pages().
 */
import { assert, at } from "../shared/assert.ts";
import { PGC_state_free, PGC_xen_heap } from "../shared/frame-flags.ts";
import { MACHINE } from "../shared/layout.ts";
import { NOT_PRESENT, PAGE_SIZE } from "../shared/limits.ts";
import { FrameIndex } from "../shared/units.ts";
import { frameReferences, freeHeapFrame, setTypeWord, setXenHeapGfn } from "./frame-table.ts";
import { allocationFails } from "./inject.ts";
import type { Xen } from "./xen.ts";

const HEAD = MACHINE.XEN_HEAP_HEAD;

const FREE = PGC_xen_heap | PGC_state_free;

/** Frame index of the first page of the Xen heap. */
export const xenHeapFirst = (xen: Xen): number => xen.model.limits.xenHeapFirst ?? 0;

const isFreeXenPage = (xen: Xen, frame: number): boolean =>
  at(xen.words, xen.layout.frameCount + frame) === FREE;

/** Takes one page out of the free list, zeroed. */
function take(xen: Xen, frame: number): void {
  const { words, layout } = xen;
  const next = at(words, layout.frameNext + frame);
  const previous = at(words, layout.framePrevious + frame);
  if (previous === NOT_PRESENT) words[HEAD] = next;
  else words[layout.frameNext + previous] = next;
  if (next !== NOT_PRESENT) words[layout.framePrevious + next] = previous;
  words[layout.frameNext + frame] = NOT_PRESENT;
  words[layout.framePrevious + frame] = NOT_PRESENT;
  words[layout.frameCount + frame] = PGC_xen_heap;
  words[MACHINE.XEN_HEAP_FREE] = at(words, MACHINE.XEN_HEAP_FREE) - 1;
  xen.memory.zero(FrameIndex(frame));
}

/** A zeroed Xen page with no owner, or NOT_PRESENT when the Xen heap is exhausted. */
export function allocXenPage(xen: Xen): FrameIndex {
  const frame = allocationFails(xen) ? NOT_PRESENT : at(xen.words, HEAD);
  if (frame !== NOT_PRESENT) take(xen, frame);
  return FrameIndex(frame);
}

/** `count` consecutive zeroed pages, aligned to their number (the concatenated root of a P2M), or NOT_PRESENT. */
export function allocXenPages(xen: Xen, count: number): FrameIndex {
  if (allocationFails(xen)) return FrameIndex(NOT_PRESENT);
  const start = xenHeapFirst(xen);
  const end = start + xen.model.limits.xenHeapPages;
  for (let first = start; first + count <= end; first += count) {
    let free = 0;
    while (free < count && isFreeXenPage(xen, first + free)) free++;
    if (free < count) continue;
    for (let i = 0; i < count; i++) take(xen, first + i);
    return FrameIndex(first);
  }
  return FrameIndex(NOT_PRESENT);
}

export function freeXenPage(xen: Xen, frame: number): void {
  const { words, layout } = xen;
  assert(frameReferences(xen, frame) === 0, "a freed xen heap page has no references");
  assert(!isFreeXenPage(xen, frame), "a xen heap page is freed once");
  words[layout.frameOwner + frame] = NOT_PRESENT;
  words[layout.frameCount + frame] = FREE;
  words[layout.frameGeneration + frame] = (at(words, layout.frameGeneration + frame) + 1) | 0;
  setXenHeapGfn(xen, frame, NOT_PRESENT);
  setTypeWord(xen, frame, 0);
  const head = at(words, HEAD);
  words[layout.frameNext + frame] = head;
  words[layout.framePrevious + frame] = NOT_PRESENT;
  if (head !== NOT_PRESENT) words[layout.framePrevious + head] = frame;
  words[HEAD] = frame;
  words[MACHINE.XEN_HEAP_FREE] = at(words, MACHINE.XEN_HEAP_FREE) + 1;
}

/** Boot: every frame gets its record; some of the first bank become the Xen heap, the rest the domain heap. */
export function initHeaps(xen: Xen): void {
  const { words, layout, model } = xen;
  const heapPages = model.limits.xenHeapPages;
  const firstBank = model.banks[0];
  assert(firstBank !== undefined, "a machine has memory");
  const start = xenHeapFirst(xen);
  assert((start + heapPages) * PAGE_SIZE <= firstBank.size, "the Xen heap fits the first bank");
  words.fill(NOT_PRESENT, layout.frameOwner, layout.frameOwner + layout.frames);
  words.fill(NOT_PRESENT, layout.frameGfn, layout.frameGfn + 2 * layout.frames);
  words.fill(NOT_PRESENT, layout.frameNext, layout.frameNext + layout.frames);
  words.fill(NOT_PRESENT, layout.framePrevious, layout.framePrevious + layout.frames);
  words[HEAD] = NOT_PRESENT;
  words[MACHINE.FREE_HEAD] = NOT_PRESENT;
  for (let frame = start + heapPages - 1; frame >= start; frame--) freeXenPage(xen, frame);
  // The heap's place is left out of the numbers that are put in order.
  for (const frame of heapOrder(xen, heapPages)) {
    freeHeapFrame(xen, frame < start + heapPages ? frame - heapPages : frame);
  }
}

/**
 * The order in which the domain heap is filled: last in, first out, so it is the reverse of the order in which
 * frames are handed out. contiguous: ascending; scattered: a seeded shuffle; fragmented: every second frame first.
 */
function heapOrder(xen: Xen, first: number): Int32Array {
  const count = xen.layout.ramFrames - first;
  const order = new Int32Array(count).map((_, i) => first + count - 1 - i);
  if (xen.model.allocator === "fragmented") {
    return order.map((_, i) => {
      const back = count - 1 - i;
      const half = Math.ceil(count / 2);
      return first + (back < half ? 2 * back : 2 * (back - half) + 1);
    });
  }
  if (xen.model.allocator === "scattered") shuffle(order, xen.model.seed);
  return order;
}

/** Fisher and Yates with a 32-bit xorshift: the machine needs no better randomness than "not in order". */
function shuffle(order: Int32Array, seed: number): void {
  let state = seed | 0 || 0x9e3779b9;
  for (let i = order.length - 1; i > 0; i--) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    const j = (state >>> 0) % (i + 1);
    const kept = at(order, i);
    order[i] = at(order, j);
    order[j] = kept;
  }
}
