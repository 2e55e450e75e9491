/**
 * A name for the state that the whole audit judges, so that one that has been judged need not be judged again: two sums over
 * the hypervisor's words and the frames that are not plain RAM, of what is not as in the image.
 *
 * Rule: whatever the audit reads is in it. What only counts events (traces, channels, generations) is left out; open accesses and
 * the TLBs of translated walkers are the step's check. Ours.
 */
import { cachesPv } from "../hypervisor/audit-page-types.ts";
import { arrayPages, wordFrame } from "../hypervisor/event-fifo-array.ts";
import type { Xen } from "../hypervisor/xen.ts";
import { PGC_xen_heap } from "../shared/frame-flags.ts";
import { type Layout, LINE, lineOf, MACHINE } from "../shared/layout.ts";
import { EVTCHN_FIFO_WORDS_PER_PAGE, NOT_PRESENT, TLB_ENTRIES } from "../shared/limits.ts";
import type { Words } from "../shared/mem.ts";
import type { FrameIndex } from "../shared/units.ts";
import type { MachineImage } from "./image.ts";

const MACHINE_FIELDS: readonly number[] = [
  MACHINE.FREE_FRAMES,
  MACHINE.FREE_HEAD,
  MACHINE.XEN_HEAP_HEAD,
  MACHINE.XEN_HEAP_FREE,
  MACHINE.DEAD_DOMAINS,
  MACHINE.OUTSTANDING_CLAIMS,
  MACHINE.POLLERS,
];
const LINE_FIELDS: readonly number[] = [
  LINE.STATE,
  LINE.KIND,
  LINE.DOMAIN,
  LINE.NUMBER,
  LINE.ROOT,
  LINE.MODE,
  LINE.HELD,
  LINE.POLL,
];

/** Same name, same state: 53 bits, of runs that began with the same image. `xen`: where its handlers stand. */
export function stateKey(image: MachineImage, xen: Xen): number {
  const { words, layout, memory, bootWords, frames } = image;
  let one = 0;
  let other = 0;
  const note: Note = (place, word) => {
    one = (one + scrambled(word ^ Math.imul(place, 0x9e3779b1), 0x85ebca6b)) | 0;
    other = (other + scrambled(word + Math.imul(place, 0x2545f491), 0xc2b2ae35)) | 0;
  };
  for (const field of MACHINE_FIELDS) note(field, words[field] ?? 0);
  for (let slot = 0; slot < layout.model.limits.slots; slot++) noteSlot(xen, slot, note);
  for (const [from, to] of tablesOf(layout)) {
    // Tables are whole lines, and most of them are as they were: four words are looked at in one go.
    for (let first = from; first < to; first += 4) {
      if (sameFour(words, bootWords, first)) continue;
      for (let i = first; i < first + 4; i++) {
        const word = words[i] ?? 0;
        if (word !== bootWords[i]) note(i, word);
      }
    }
  }
  const inMemory = (index: number, word: number): void => note(-1 - index, word);
  for (const frame of memory.dirty) {
    if (!isPlain(words, layout, frame)) memory.compare(frame, frames[frame], inMemory);
  }
  for (const frame of eventPages(xen)) {
    if (isPlain(words, layout, frame)) memory.compare(frame, frames[frame], inMemory);
  }
  return (one >>> 0) * 2 ** 21 + (other >>> 11);
}

type Note = (place: number, word: number) => void;

/** Who a slot is, where its handler stands, and, where its TLB is judged by what is held elsewhere, what is in it. */
function noteSlot(xen: Xen, slot: number, note: Note): void {
  const { words, layout, pending, gaps } = xen;
  const line = lineOf(layout, slot);
  for (const field of LINE_FIELDS) note(line + field, words[line + field] ?? 0);
  note(slot, pending[slot] === undefined ? NOT_PRESENT : (gaps[slot] ?? 0));
  if (!cachesPv(xen, slot)) return;
  for (let row = slot * TLB_ENTRIES; row < (slot + 1) * TLB_ENTRIES; row++) {
    const [tag = NOT_PRESENT, value = 0] = [
      words[layout.tlbTags + row],
      words[layout.tlbValues + row],
    ];
    if (tag !== NOT_PRESENT && value !== 0) note(layout.tlbValues + row, value);
  }
}

/** Pages of guests in which ports are linked into queues: the audit follows the links. */
function eventPages(xen: Xen): readonly FrameIndex[] {
  const pages: FrameIndex[] = [];
  for (let domid = 0; domid < xen.model.limits.domains; domid++) {
    for (let page = arrayPages(xen, domid) - 1; page >= 0; page--) {
      const frame = wordFrame(xen, domid, page * EVTCHN_FIFO_WORDS_PER_PAGE);
      if (frame !== undefined) pages.push(frame);
    }
  }
  return pages;
}

function scrambled(value: number, factor: number): number {
  let hash = Math.imul(value ^ (value >>> 15), factor);
  hash = Math.imul(hash ^ (hash >>> 13), 0x27d4eb2f);
  return hash ^ (hash >>> 16);
}

/** From where to where the tables lie that the audit reads. */
function tablesOf(layout: Layout): readonly (readonly [number, number])[] {
  const { frameType, frameDma } = layout;
  return [
    [layout.frameCount, layout.frameGeneration],
    frameType === NOT_PRESENT ? [0, 0] : [frameType, frameDma],
    [layout.holds, layout.samples],
    [layout.domains, layout.faults],
  ];
}

/** Whether the audit never looks into a frame. Where pages have types, a guest's own may be its page tables. */
const isPlain = (words: Words, { frameType, frameOwner, frameCount }: Layout, frame: number) =>
  frameType === NOT_PRESENT &&
  (words[frameOwner + frame] ?? NOT_PRESENT) >= 0 &&
  ((words[frameCount + frame] ?? 0) & PGC_xen_heap) === 0;

const sameFour = (words: Words, others: Words, i: number): boolean =>
  words[i] === others[i] &&
  words[i + 1] === others[i + 1] &&
  words[i + 2] === others[i + 2] &&
  words[i + 3] === others[i + 3];
