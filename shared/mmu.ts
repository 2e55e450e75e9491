/**
 * The hardware's page walk with its TLB: gfn or dfn to bytes, for vCPUs and devices alike. Read-only on the
 * tables; lets no mfn out: a translation lives only between `open` and `close`, inside one access.
 *
 *   open:  enter (access += 2) -> drop the TLB if the generation changed -> translate -> note the frame
 *   use:   read, write, load, compareExchange ... inside the one page
 *   close: leave (access += 2); if the hypervisor waits for it, ring the doorbell
 *
 * A walk of the tables is plain loads, declared racy: a stale or vanishing entry is what the flush protocol is
 * for (design 2). Page-table formats: pte.ts, and pte-x86.ts for the tables of a PV guest, whose frames are virtual page
 * numbers. Behaviour: Arm ARM, stage 2 translation, 4 KiB granule; Intel SDM 3A, 4-level paging.
 */
import { assert, at } from "./assert.ts";
import { raiseEvent, ringDoorbell } from "./channel.ts";
import {
  ACCESS_STEP,
  DOM,
  domainOf,
  FLUSH_WAITING,
  indexOf,
  type Layout,
  LINE,
  lineOf,
  WALK_BARE,
  WALK_BLOCKED,
  WALK_OFF,
  WALK_PV,
} from "./layout.ts";
import { NOT_PRESENT, P2M_LEVEL_LEAF, TLB_ENTRIES, WALK_ATTEMPTS_MAX } from "./limits.ts";
import { add, and, load, type MachineMemory, store, type Words } from "./mem.ts";
import {
  isTable,
  levelFrames,
  levelSlot,
  offsetInLevel,
  PTE_HIGH_XN,
  PTE_READ,
  PTE_VALID,
  PTE_WRITE,
  pteMfn,
  rootPageOf,
  upperBits,
} from "./pte.ts";
import { _PAGE_PRESENT, _PAGE_RW, HIGH_NX, mfnOfX86, VPN_END } from "./pte-x86.ts";
import { FrameIndex } from "./units.ts";

export const ACCESS_READ = 1;
export const ACCESS_WRITE = 2;
export const ACCESS_EXECUTE = 4;

/** Outcomes of `open`. */
export const ACCESS_OK = 0;
/** Nothing is mapped there. */
export const FAULT_TRANSLATION = 1;
/** Something is mapped, but not for this kind of access. */
export const FAULT_PERMISSION = 2;
/** Beyond the input size of the table, or no memory at that machine address: a bus error. */
export const FAULT_ADDRESS = 3;
/** The device has no translation context. */
export const FAULT_BLOCKED = 4;
/** The device may not master its bus, so nothing was asked of anybody. */
export const FAULT_OFF = 5;
export const FAULT_NAMES = [
  "none",
  "translation",
  "permission",
  "address",
  "blocked",
  "bus mastering off",
] as const;

/** Gfns above this are never cached: their number does not fit a tag. */
const TLB_FRAMES = 2 ** 31;

/** The MMU of one vCPU, or the IOMMU port of one device. */
export class Mmu {
  readonly #words: Words;
  readonly #memory: MachineMemory;
  readonly #layout: Layout;
  readonly #line: number;
  readonly #slot: number;
  readonly #tags: number;
  readonly #values: number;
  /** Entries in use, less one: a power of two of them. */
  readonly #mask: number;
  #generation = -1;
  /** Frame index of the open access, or NOT_PRESENT. */
  #frame = NOT_PRESENT;
  #stored = false;

  constructor(
    words: Words,
    memory: MachineMemory,
    layout: Layout,
    slot: number,
    entries = TLB_ENTRIES,
  ) {
    this.#mask = entries - 1;
    this.#words = words;
    this.#memory = memory;
    this.#layout = layout;
    this.#slot = slot;
    this.#line = lineOf(layout, slot);
    this.#tags = layout.tlbTags + slot * TLB_ENTRIES;
    this.#values = layout.tlbValues + slot * TLB_ENTRIES;
  }

  /**
   * Enters an access to frame `frame` (a gfn, or a dfn for a device) of the kind asked for.
   * Returns ACCESS_OK, or a FAULT_* with the access already closed.
   */
  open(frame: number, kind: number): number {
    assert(this.#frame === NOT_PRESENT, "one access at a time");
    const words = this.#words;
    add(words, this.#line + LINE.ACCESS, ACCESS_STEP);
    const generation = load(words, this.#line + LINE.GENERATION);
    if (generation !== this.#generation) {
      this.#generation = generation;
      words.fill(NOT_PRESENT, this.#tags, this.#tags + this.#mask + 1);
    }
    const fault = this.#translate(frame, kind);
    if (fault !== ACCESS_OK) {
      this.#leave();
      return fault;
    }
    words[this.#line + LINE.INSIDE_GENERATION] = generation;
    words[this.#line + LINE.INSIDE] = this.#frame + 1;
    return ACCESS_OK;
  }

  /** Ends the access. A store to device memory reaches its device now. */
  close(): void {
    const device = this.#frame - this.#layout.ramFrames;
    this.#frame = NOT_PRESENT;
    this.#words[this.#line + LINE.INSIDE] = 0;
    this.#leave();
    if (this.#stored && device >= 0) {
      raiseEvent(this.#words, this.#layout, at(this.#words, this.#layout.deviceSlot + device));
    }
    this.#stored = false;
  }

  #leave(): void {
    const access = this.#line + LINE.ACCESS;
    const before = add(this.#words, access, ACCESS_STEP);
    if ((before & FLUSH_WAITING) !== 0) {
      and(this.#words, access, ~FLUSH_WAITING);
      ringDoorbell(this.#words, this.#slot);
    }
  }

  #translate(frame: number, kind: number): number {
    const words = this.#words;
    const cacheable = frame < TLB_FRAMES;
    if (cacheable) {
      const row = frame & this.#mask;
      if (at(words, this.#tags + row) === frame) {
        const value = at(words, this.#values + row);
        if ((value & kind) !== kind) return FAULT_PERMISSION;
        this.#frame = value >>> 3;
        return ACCESS_OK;
      }
    }
    const mode = at(words, this.#line + LINE.MODE);
    if (mode === WALK_BLOCKED) return FAULT_BLOCKED;
    if (mode === WALK_OFF) return FAULT_OFF;
    if (mode === WALK_BARE) {
      this.#frame = indexOf(this.#layout, words, frame);
      return this.#frame === NOT_PRESENT ? FAULT_ADDRESS : ACCESS_OK;
    }
    const value = this.#walk(frame, mode === WALK_PV ? walkPv : walk);
    if (value < 0) return -value;
    if (cacheable) {
      const row = frame & this.#mask;
      words[this.#values + row] = value;
      words[this.#tags + row] = frame;
    }
    if ((value & kind) !== kind) return FAULT_PERMISSION;
    this.#frame = value >>> 3;
    return ACCESS_OK;
  }

  /**
   * The walk. A fault met while the hypervisor rewrites an entry of this table is looked at again, as the fault
   * handler of a real hypervisor does when it takes the P2M lock and finds the entry back in place.
   */
  #walk(frame: number, walkTable: typeof walk): number {
    const words = this.#words;
    const root = at(words, this.#line + LINE.ROOT);
    const domid = at(words, this.#line + LINE.DOMAIN);
    let value = walkTable(this.#layout, words, this.#memory, root, frame);
    if (value >= 0 || domid < 0) return value;
    const sequence = domainOf(this.#layout, domid) + DOM.P2M_SEQUENCE;
    for (let attempt = 0; attempt < WALK_ATTEMPTS_MAX; attempt++) {
      const before = load(words, sequence);
      value = walkTable(this.#layout, words, this.#memory, root, frame);
      if (value >= 0 || (before === load(words, sequence) && before % 2 === 0)) return value;
    }
    return value;
  }

  #open(): FrameIndex {
    assert(this.#frame !== NOT_PRESENT, "bytes move inside an access");
    return FrameIndex(this.#frame);
  }

  /** Copies `length` bytes of the open page, from `offset`, into private memory. */
  read(offset: number, into: Uint8Array, atByte: number, length: number): void {
    this.#memory.read(this.#open(), offset, into, atByte, length);
  }
  /** Copies private bytes into the open page. */
  write(offset: number, from: Uint8Array, atByte: number, length: number): void {
    this.#stored = true;
    this.#memory.write(this.#open(), offset, from, atByte, length);
  }
  /** A device's burst: as `write`, and the frame remembers that a device has written to it. */
  burst(offset: number, from: Uint8Array, atByte: number, length: number): FrameIndex {
    const frame = this.#open();
    this.#memory.write(frame, offset, from, atByte, length);
    add(this.#words, this.#layout.frameDma + frame, 1);
    return frame;
  }
  load(offset: number): number {
    return this.#memory.load(this.#open(), offset);
  }
  store(offset: number, value: number): void {
    this.#stored = true;
    this.#memory.store(this.#open(), offset, value);
  }
  or(offset: number, bits: number): number {
    this.#stored = true;
    return this.#memory.or(this.#open(), offset, bits);
  }
  and(offset: number, bits: number): number {
    this.#stored = true;
    return this.#memory.and(this.#open(), offset, bits);
  }
  exchange(offset: number, value: number): number {
    this.#stored = true;
    return this.#memory.exchange(this.#open(), offset, value);
  }
  compareExchange(offset: number, expected: number, next: number): number {
    this.#stored = true;
    return this.#memory.compareExchange(this.#open(), offset, expected, next);
  }
}

/**
 * For the runner of a slot whose actor has died: ends the access it may have been in, so that no flush waits
 * for it. Called once the actor can no longer run, before the hypervisor is told (design 10.5).
 */
export function leaveForDead(words: Words, layout: Layout, slot: number): void {
  const access = lineOf(layout, slot) + LINE.ACCESS;
  words[lineOf(layout, slot) + LINE.INSIDE] = 0;
  // The slot of a dead actor is given to a new one only after this.
  store(words, lineOf(layout, slot) + LINE.ENDED, 1);
  if ((load(words, access) & ACCESS_STEP) === 0) return;
  const before = add(words, access, ACCESS_STEP);
  if ((before & FLUSH_WAITING) === 0) return;
  and(words, access, ~FLUSH_WAITING);
  ringDoorbell(words, slot);
}

/** Level at which a walk starts: 0 with one root page (44 bits), 1 with two concatenated ones (40 bits). */
export const rootLevel = (layout: Layout): number => (layout.model.ipaBits === 44 ? 0 : 1);
/** Root pages, in consecutive frames. */
export const rootPages = (layout: Layout): number => (layout.model.ipaBits === 44 ? 1 : 2);
/** First gfn beyond the root: a level 0 root covers 48 bits although the input size is 44. */
export const rootGfnEnd = (layout: Layout): number =>
  rootPages(layout) * 512 * levelFrames(rootLevel(layout));

/**
 * Walks a table for `frame`. Returns frame index * 8 + the kinds of access allowed, or the negative FAULT_*.
 * A frame beyond the root is refused, never truncated (advisory 301).
 */
export function walk(
  layout: Layout,
  words: Words,
  memory: MachineMemory,
  root: number,
  frame: number,
): number {
  if (frame >= rootGfnEnd(layout)) return -FAULT_ADDRESS;
  let level = rootLevel(layout);
  const upper = upperBits(frame);
  let table = root + rootPageOf(upper, level);
  for (; ; level++) {
    const offset = levelSlot(frame, upper, level) * 8;
    const word = memory.peek(FrameIndex(table), offset);
    if ((word & PTE_VALID) === 0) return -FAULT_TRANSLATION;
    const high = memory.peek(FrameIndex(table), offset + 4);
    // An entry is replaced by way of 0: while word 0 is as it was, both halves are of one entry.
    if (memory.peekAgain(FrameIndex(table), offset) !== word) return -FAULT_TRANSLATION;
    const mfn = pteMfn(word, high);
    if (isTable(word, level)) {
      table = indexOf(layout, words, mfn);
      if (table === NOT_PRESENT) return -FAULT_ADDRESS;
      continue;
    }
    const index = indexOf(layout, words, mfn + offsetInLevel(frame, level));
    if (index === NOT_PRESENT) return -FAULT_ADDRESS;
    const readable = (word & PTE_READ) !== 0 ? ACCESS_READ : 0;
    const writable = (word & PTE_WRITE) !== 0 ? ACCESS_WRITE : 0;
    return index * 8 + readable + writable + ((high & PTE_HIGH_XN) === 0 ? ACCESS_EXECUTE : 0);
  }
}

/**
 * The same for a PV guest: its own tables of four levels, for a virtual page number. An access needs the permission at
 * every level. Superpages do not occur: Xen lets no PV guest enter one.
 */
export function walkPv(
  layout: Layout,
  words: Words,
  memory: MachineMemory,
  root: number,
  page: number,
): number {
  if (page >= VPN_END) return -FAULT_ADDRESS;
  const upper = upperBits(page);
  let allowed = ACCESS_READ | ACCESS_WRITE | ACCESS_EXECUTE;
  let frame = root;
  for (let level = 0; level <= P2M_LEVEL_LEAF; level++) {
    const offset = levelSlot(page, upper, level) * 8;
    const low = memory.peek(FrameIndex(frame), offset);
    if ((low & _PAGE_PRESENT) === 0) return -FAULT_TRANSLATION;
    const high = memory.peek(FrameIndex(frame), offset + 4);
    // As above: both halves are of one entry.
    if (memory.peekAgain(FrameIndex(frame), offset) !== low) return -FAULT_TRANSLATION;
    if ((low & _PAGE_RW) === 0) allowed &= ~ACCESS_WRITE;
    if ((high & HIGH_NX) !== 0) allowed &= ~ACCESS_EXECUTE;
    frame = indexOf(layout, words, mfnOfX86({ low, high }));
    if (frame === NOT_PRESENT) return -FAULT_ADDRESS;
  }
  return frame * 8 + allowed;
}
