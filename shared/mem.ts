/**
 * Machine memory and control words: every access to memory that somebody else may touch.
 *
 * Rules: `Atomics` and views on shared memory stand here, in channel.ts and nowhere else; a raw view of
 * machine memory never leaves this module, so no guest can keep one across an unmap. Control words are
 * one Int32Array over the control buffer, laid out by layout.ts; a word with two writers is changed by the
 * atomic functions below only. A `peek` is a plain load: a hint, or a cell declared racy with its reason.
 *
 * Ours; the rules are W1 to W8 of the memory model: one declared width (32 bits) for every control word.
 */
import { EmulatorBug } from "./assert.ts";
import { PAGE_SIZE, WORDS_PER_PAGE } from "./limits.ts";
import type { FrameIndex } from "./units.ts";

/** The control buffer as words. Offsets come from layout.ts. */
export type Words = Int32Array;

export const wordsOf = (buffer: ArrayBufferLike): Words => new Int32Array(buffer);

export const load = (words: Words, at: number): number => Atomics.load(words, at);
export const store = (words: Words, at: number, value: number): void => {
  Atomics.store(words, at, value);
};
export const add = (words: Words, at: number, value: number): number =>
  Atomics.add(words, at, value);
export const or = (words: Words, at: number, bits: number): number => Atomics.or(words, at, bits);
export const and = (words: Words, at: number, bits: number): number => Atomics.and(words, at, bits);
export const exchange = (words: Words, at: number, value: number): number =>
  Atomics.exchange(words, at, value);
export const compareExchange = (words: Words, at: number, expected: number, next: number): number =>
  Atomics.compareExchange(words, at, expected, next);
/** Plain load: a hint that an atomic load confirms, or a word whose only writer is the reader. */
export const peek = (words: Words, at: number): number => {
  const word = words[at];
  if (word === undefined) throw new EmulatorBug(`control word ${at} of ${words.length}`);
  return word;
};
/** Wakes whoever sleeps on a control word; harmless on a buffer that is not shared. */
export const notify = (words: Words, at: number): void => {
  Atomics.notify(words, at);
};
/** Blocks while the word holds `value`. Only the platform's runners call it. */
export const wait = (words: Words, at: number, value: number, timeoutMs?: number): string =>
  timeoutMs === undefined
    ? Atomics.wait(words, at, value)
    : Atomics.wait(words, at, value, timeoutMs);

/** How pages move; WebAssembly on threads, plain JavaScript in one thread (design.md 10.8). Offsets in bytes. */
export interface PageOps {
  copy(to: number, from: number, length: number): void;
  zero(at: number, length: number): void;
}

/** JavaScript page operations over one buffer. */
export function plainPageOps(buffer: ArrayBufferLike): PageOps {
  const bytes = new Uint8Array(buffer);
  const doubles = new Float64Array(buffer);
  return {
    copy: (to, from, length) => {
      bytes.copyWithin(to, from, from + length);
    },
    zero: (at, length) => {
      doubles.fill(0, at / 8, (at + length) / 8);
    },
  };
}

/** Up to here a loop of bytes is faster than a view made for one copy: hypercall structures and their fields. */
const LOOP_BYTES = 40;

/** Machine memory: frames of 4 KiB, named by their index. The lifetime is that of the machine. */
export class MachineMemory {
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #pages: PageOps;
  /** Called before the hypervisor touches a word that a guest may write: the explorer's point. */
  onGuestWord: (() => void) | undefined;
  /** Called before a flush looks at a walker: what it has stored through the old entry must be there. */
  onFlush: ((slot: number) => void) | undefined;

  constructor(buffer: ArrayBufferLike, pages: PageOps = plainPageOps(buffer)) {
    this.#words = new Int32Array(buffer);
    this.#bytes = new Uint8Array(buffer);
    this.#pages = pages;
  }

  get sizeBytes(): number {
    return this.#bytes.length;
  }

  /** Atomic load of the word at byte `offset` (a multiple of 4) of a frame. */
  load(frame: FrameIndex, offset: number): number {
    return Atomics.load(this.#words, frame * WORDS_PER_PAGE + (offset >> 2));
  }
  store(frame: FrameIndex, offset: number, value: number): void {
    Atomics.store(this.#words, frame * WORDS_PER_PAGE + (offset >> 2), value);
  }
  or(frame: FrameIndex, offset: number, bits: number): number {
    return Atomics.or(this.#words, frame * WORDS_PER_PAGE + (offset >> 2), bits);
  }
  and(frame: FrameIndex, offset: number, bits: number): number {
    return Atomics.and(this.#words, frame * WORDS_PER_PAGE + (offset >> 2), bits);
  }
  exchange(frame: FrameIndex, offset: number, value: number): number {
    return Atomics.exchange(this.#words, frame * WORDS_PER_PAGE + (offset >> 2), value);
  }
  /** Returns the value found; the exchange happened when that equals `expected`. */
  compareExchange(frame: FrameIndex, offset: number, expected: number, next: number): number {
    const at = frame * WORDS_PER_PAGE + (offset >> 2);
    return Atomics.compareExchange(this.#words, at, expected, next);
  }

  /** Plain load. Page tables are read so: the hardware's walk races with the hypervisor's stores by design. */
  peek(frame: FrameIndex, offset: number): number {
    const word = this.#words[frame * WORDS_PER_PAGE + (offset >> 2)];
    if (word === undefined) throw new EmulatorBug(`frame index ${frame} beyond machine memory`);
    return word;
  }
  /** A walker's second look at a word that it has peeked: an atomic load, so that it comes after what was read in between. */
  peekAgain(frame: FrameIndex, offset: number): number {
    return Atomics.load(this.#words, frame * WORDS_PER_PAGE + (offset >> 2));
  }
  /** First 8-byte slot of a frame, from `slot` on, whose word 0 is not 0; beyond the last one when there is none. */
  usedSlot(frame: FrameIndex, slot: number): number {
    const first = frame * WORDS_PER_PAGE;
    let word = first + slot * 2;
    while (word < first + WORDS_PER_PAGE && this.#words[word] === 0) word += 2;
    return (word - first) / 2;
  }
  /** Plain store of a word nobody else reads yet, or that an atomic store publishes afterwards. */
  poke(frame: FrameIndex, offset: number, value: number): void {
    this.#words[frame * WORDS_PER_PAGE + (offset >> 2)] = value;
  }

  /** Copies `length` bytes of a frame into `into` at `at`: racy by nature, guest page contents. */
  read(frame: FrameIndex, offset: number, into: Uint8Array, at: number, length: number): void {
    const bytes = this.#bytes;
    const from = frame * PAGE_SIZE + offset;
    if (length > LOOP_BYTES) into.set(bytes.subarray(from, from + length), at);
    else for (let i = 0; i < length; i++) into[at + i] = bytes[from + i] ?? 0;
  }
  /** Copies `length` bytes of `from` at `at` into a frame. */
  write(frame: FrameIndex, offset: number, from: Uint8Array, at: number, length: number): void {
    const bytes = this.#bytes;
    const to = frame * PAGE_SIZE + offset;
    if (length > LOOP_BYTES) bytes.set(from.subarray(at, at + length), to);
    else for (let i = 0; i < length; i++) bytes[to + i] = from[at + i] ?? 0;
  }
  /** Copies between two frames (or inside one, as memmove). */
  copy(
    to: FrameIndex,
    toOffset: number,
    from: FrameIndex,
    fromOffset: number,
    length: number,
  ): void {
    this.#pages.copy(to * PAGE_SIZE + toOffset, from * PAGE_SIZE + fromOffset, length);
  }
  zero(frame: FrameIndex): void {
    this.#pages.zero(frame * PAGE_SIZE, PAGE_SIZE);
  }
}

/** Kinds of an access, as bits. */
export const TOUCH_READ = 1;
export const TOUCH_WRITE = 2;
export const TOUCH_ATOMIC = 4;

/** Is told of an access before it is made: the explorer's reports, its dependency relation, its race detector. */
export type OnTouch = (kind: number, frame: number, offset: number, length: number) => void;

/** Takes bursts upon itself, for memory that is weaker than the buffer behind it; false: the buffer is to answer. */
export interface PlainAccess {
  read(frame: number, offset: number, into: Uint8Array, at: number, length: number): boolean;
  write(frame: number, offset: number, from: Uint8Array, at: number, length: number): boolean;
}

/** What the words of a frame were; undefined: all zero. */
export type FrameContent = Int32Array | undefined;

/**
 * Machine memory whose accesses are seen: the explorer's. It knows which words of which frames may have been written since it
 * was last put back, so that a fresh machine is a copy of those. Threads use the plain class, which knows nothing of this.
 */
export class WatchedMemory extends MachineMemory {
  onTouch: OnTouch | undefined;
  plain: PlainAccess | undefined;
  readonly #cells: Int32Array;
  /** By frame: the first word written and the one after the last; nothing is written where `to` is 0. */
  readonly #from: Uint16Array;
  readonly #to: Uint16Array;
  /** By frame: 1 while it is zero from end to end because it was zeroed. */
  readonly #blank: Uint8Array;
  readonly #dirty: FrameIndex[] = [];

  constructor(buffer: ArrayBuffer) {
    super(buffer);
    const frames = buffer.byteLength / PAGE_SIZE;
    this.#cells = new Int32Array(buffer);
    this.#from = new Uint16Array(frames).fill(WORDS_PER_PAGE);
    this.#to = new Uint16Array(frames);
    this.#blank = new Uint8Array(frames);
  }

  /** Frames written since memory was last put back. */
  get dirty(): readonly FrameIndex[] {
    return this.#dirty;
  }

  /** A word by its number in machine memory, unseen. */
  word(index: number): number {
    return this.#cells[index] ?? 0;
  }

  /** A copy of the words of a frame. */
  content(frame: FrameIndex): FrameContent {
    const first = frame * WORDS_PER_PAGE;
    const words = this.#cells.slice(first, first + WORDS_PER_PAGE);
    return words.some((word) => word !== 0) ? words : undefined;
  }

  /** Puts every frame back to its content; or, without contents, takes memory as it is for what it is put back to. */
  putBack(contents?: readonly FrameContent[]): void {
    for (const frame of this.#dirty) {
      if (contents !== undefined) this.#restore(frame, contents[frame]);
      this.#from[frame] = WORDS_PER_PAGE;
      this.#to[frame] = 0;
      this.#blank[frame] = 0;
    }
    this.#dirty.length = 0;
  }

  #restore(frame: FrameIndex, content: FrameContent): void {
    const first = frame * WORDS_PER_PAGE;
    const from = this.#from[frame] ?? 0;
    const to = this.#to[frame] ?? 0;
    if (content !== undefined) this.#cells.set(content.subarray(from, to), first + from);
    else if (this.#blank[frame] === 0) this.#cells.fill(0, first + from, first + to);
  }

  /** Shows each word of a frame that is not as in `content`: its index in all of memory, and the word. */
  compare(
    frame: FrameIndex,
    content: FrameContent,
    differs: (index: number, word: number) => void,
  ): void {
    if (content === undefined && this.#blank[frame] === 1) return;
    const first = frame * WORDS_PER_PAGE;
    const to = this.#to[frame] ?? 0;
    for (let i = this.#from[frame] ?? 0; i < to; i++) {
      const word = this.#cells[first + i] ?? 0;
      if (word !== (content === undefined ? 0 : content[i])) differs(first + i, word);
    }
  }

  /** A write of `length` bytes from `offset` on. */
  #mark(frame: FrameIndex, offset: number, length = 4): void {
    const first = offset >> 2;
    const end = (offset + length + 3) >> 2;
    const to = this.#to[frame] ?? 0;
    if (to === 0) this.#dirty.push(frame);
    if (end > to) this.#to[frame] = end;
    if (first < (this.#from[frame] ?? 0)) this.#from[frame] = first;
    this.#blank[frame] = 0;
  }

  override load(frame: FrameIndex, offset: number): number {
    this.onTouch?.(TOUCH_READ | TOUCH_ATOMIC, frame, offset, 4);
    return super.load(frame, offset);
  }
  override store(frame: FrameIndex, offset: number, value: number): void {
    this.onTouch?.(TOUCH_WRITE | TOUCH_ATOMIC, frame, offset, 4);
    this.#mark(frame, offset);
    super.store(frame, offset, value);
  }
  override or(frame: FrameIndex, offset: number, bits: number): number {
    this.onTouch?.(TOUCH_READ | TOUCH_WRITE | TOUCH_ATOMIC, frame, offset, 4);
    this.#mark(frame, offset);
    return super.or(frame, offset, bits);
  }
  override and(frame: FrameIndex, offset: number, bits: number): number {
    this.onTouch?.(TOUCH_READ | TOUCH_WRITE | TOUCH_ATOMIC, frame, offset, 4);
    this.#mark(frame, offset);
    return super.and(frame, offset, bits);
  }
  override exchange(frame: FrameIndex, offset: number, value: number): number {
    this.onTouch?.(TOUCH_READ | TOUCH_WRITE | TOUCH_ATOMIC, frame, offset, 4);
    this.#mark(frame, offset);
    return super.exchange(frame, offset, value);
  }
  override compareExchange(
    frame: FrameIndex,
    offset: number,
    expected: number,
    next: number,
  ): number {
    this.onTouch?.(TOUCH_READ | TOUCH_WRITE | TOUCH_ATOMIC, frame, offset, 4);
    this.#mark(frame, offset);
    return super.compareExchange(frame, offset, expected, next);
  }
  override peek(frame: FrameIndex, offset: number): number {
    this.onTouch?.(TOUCH_READ, frame, offset, 4);
    return super.peek(frame, offset);
  }
  /** Hardware's, as the first look was: no program orders anything by it. */
  override peekAgain(frame: FrameIndex, offset: number): number {
    this.onTouch?.(TOUCH_READ, frame, offset, 4);
    return super.peekAgain(frame, offset);
  }
  override poke(frame: FrameIndex, offset: number, value: number): void {
    this.onTouch?.(TOUCH_WRITE, frame, offset, 4);
    this.#mark(frame, offset);
    super.poke(frame, offset, value);
  }
  override read(
    frame: FrameIndex,
    offset: number,
    into: Uint8Array,
    at: number,
    length: number,
  ): void {
    this.onTouch?.(TOUCH_READ, frame, offset, length);
    if (this.plain?.read(frame, offset, into, at, length) === true) return;
    super.read(frame, offset, into, at, length);
  }
  override write(
    frame: FrameIndex,
    offset: number,
    from: Uint8Array,
    at: number,
    length: number,
  ): void {
    this.onTouch?.(TOUCH_WRITE, frame, offset, length);
    if (this.plain?.write(frame, offset, from, at, length) === true) return;
    this.#mark(frame, offset, length);
    super.write(frame, offset, from, at, length);
  }
  override copy(
    to: FrameIndex,
    toOffset: number,
    from: FrameIndex,
    fromOffset: number,
    length: number,
  ): void {
    this.onTouch?.(TOUCH_READ, from, fromOffset, length);
    this.onTouch?.(TOUCH_WRITE, to, toOffset, length);
    this.#mark(to, toOffset, length);
    super.copy(to, toOffset, from, fromOffset, length);
  }
  override zero(frame: FrameIndex): void {
    this.onTouch?.(TOUCH_WRITE, frame, 0, PAGE_SIZE);
    this.#mark(frame, 0, PAGE_SIZE);
    this.#blank[frame] = 1;
    super.zero(frame);
  }
}
