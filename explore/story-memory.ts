/**
 * The memory of a focused story, weaker than sc: plain stores of vCPUs wait in their store buffers, plain loads of `relaxed`
 * may find what was there before, and accesses that race are a finding (I-39).
 *
 *   atomic access, hypercall, sleep, death, flush of the walker the vCPU's stores arrive first
 *   answer, wake-up                                             the vCPU learns what the hypervisor knows
 *   anything else                                               one store arrives as a step of its own
 *
 * Rules: bursts of a vCPU are its plain accesses, word by word; a part of a word is stored without its rest. The hypervisor
 * and devices reach memory at once. Their plain accesses race with guests' by nature and are not judged: MACHINE_RACY
 * says why. A story's own racy pages carry their reasons.
 * Ours; stress spec section 1.3.
 */
import { at, item } from "../shared/assert.ts";
import { DOM, domainOf, LINE, lineOf, SLOT_KIND_VCPU } from "../shared/layout.ts";
import { NOT_PRESENT, WORDS_PER_PAGE } from "../shared/limits.ts";
import { TOUCH_ATOMIC, TOUCH_READ, TOUCH_WRITE, type WatchedMemory } from "../shared/mem.ts";
import { walk } from "../shared/mmu.ts";
import { FrameIndex } from "../shared/units.ts";
import type { MachineImage } from "./image.ts";
import type { Actor, LateStores, Machine } from "./state.ts";
import { taskName, wordName } from "./watch.ts";
import { type Choose, type MemoryMode, WeakMemory } from "./weak-memory.ts";

/** A page on which guests' accesses may race. */
export interface RacyPage {
  readonly domain: number;
  readonly gfn: number;
  readonly reason: string;
}

/** Accesses that the race detector does not judge, in every story. */
export const MACHINE_RACY: readonly string[] = [
  "arguments of hypercalls: the hypervisor copies them once and trusts only its copy",
  "page tables: a walk races with the hypervisor's stores, and a flush follows them",
  "bursts of devices: a driver waits for the interrupt",
];

/** Nobody: the hypervisor works, or the audit looks. */
const NOBODY = -1;

export class StoryMemory implements LateStores {
  readonly #machine: Machine;
  readonly #memory: WatchedMemory;
  readonly #slots: number;
  readonly #weak: WeakMemory;
  readonly #choose: Choose;
  /** By machine word, its cell; and back. */
  readonly #cells = new Map<number, number>();
  readonly #words: number[] = [];
  /** By frame, machine words that are cells. */
  readonly #known = new Map<number, number[]>();
  readonly #racyFrames: ReadonlySet<number>;
  readonly #racyCells = new Set<number>();
  /** vCPU whose step it is. */
  #current = NOBODY;
  /** Stores of ours are on their way to memory, and nobody else's access. */
  #arriving = false;

  constructor(
    machine: Machine,
    image: MachineImage,
    options: {
      readonly mode: MemoryMode;
      readonly racy: readonly RacyPage[];
      readonly choose: Choose;
    },
  ) {
    const { memory } = image;
    this.#machine = machine;
    this.#memory = memory;
    this.#slots = machine.actors.length;
    this.#choose = options.choose;
    this.#racyFrames = new Set(options.racy.map((page) => frameOf(machine, page)));
    const backing = {
      load: (cell: number) => memory.word(item(this.#words, cell)),
      store: (cell: number, value: number) => this.#put(item(this.#words, cell), value),
    };
    // The hypervisor and the devices are one more task.
    const weak = { mode: options.mode, tasks: this.#slots + 1, racy: this.#racyCells, backing };
    this.#weak = new WeakMemory(weak, options.choose);
    this.#watch();
  }

  #watch(): void {
    const memory = this.#memory;
    const before = memory.onTouch;
    memory.onTouch = (kind, frame, offset, length) => {
      before?.(kind, frame, offset, length);
      if (!this.#arriving && !this.#machine.auditing) this.#touched(kind, frame, offset, length);
    };
    memory.onFlush = (slot) => this.#weak.drainAll(slot);
    memory.plain = {
      read: (frame, offset, into, place, length) => {
        if (!this.#isGuests(frame)) return false;
        this.#read(frame, offset, into, place, length);
        return true;
      },
      write: (frame, offset, from, place, length) => {
        if (!this.#isGuests(frame)) return false;
        this.#write(frame, offset, from, place, length);
        return true;
      },
    };
  }

  /** Adds the tasks that let a store arrive: the slot's number above those of all slots. */
  collect(candidates: Int32Array, count: number): number {
    let next = count;
    for (let slot = 0; slot < this.#slots; slot++) {
      if (this.#weak.drainable(slot) > 0) candidates[next++] = this.#slots + slot;
    }
    return next;
  }

  /** One store of the task's vCPU arrives. */
  drain(task: number): void {
    const slot = task - this.#slots;
    const ways = this.#weak.drainable(slot);
    this.#weak.drain(slot, ways > 1 ? this.#choose(ways) : 0);
  }

  pending(task: number): number {
    const cell = this.#weak.oldest(task - this.#slots);
    return cell === undefined ? 0 : item(this.#words, cell) * 2 + 1;
  }

  /** Before a step of an actor. */
  begin(actor: Actor): void {
    const { machine, slot } = { machine: this.#machine, slot: actor.slot };
    const kind = at(machine.words, lineOf(machine.layout, slot) + LINE.KIND);
    if (kind !== SLOT_KIND_VCPU) return;
    this.#current = slot;
    if (actor.state !== "ready") this.#weak.order(this.#slots, slot);
  }

  /** After it. */
  end(actor: Actor): void {
    if (this.#current === NOBODY) return;
    this.#current = NOBODY;
    this.#tellRaces();
    // The last load of a program that has ended stands before the arrival of its stores.
    if (actor.state === "ready" || actor.state === "done") return;
    this.#weak.drainAll(actor.slot);
    this.#weak.order(actor.slot, this.#slots);
  }

  /** The first race that the last step has shown is a finding. */
  #tellRaces(): void {
    const [race] = this.#weak.races.splice(0);
    if (race === undefined) return;
    const machine = this.#machine;
    const word = item(this.#words, race.cell);
    const offset = (word % WORDS_PER_PAGE) * 4;
    const name = wordName(machine, Math.floor(word / WORDS_PER_PAGE), offset) ?? `word ${word}`;
    const [earlier, later] = race.tasks.map((slot) => taskName(machine, slot));
    machine.findings.push(`I-39: ${earlier} and ${later} race on ${name}`);
  }

  /** What a vCPU that will not run again has stored arrives. */
  drop(slot: number): void {
    this.#weak.drainAll(slot);
  }

  #isGuests(frame: number): boolean {
    return this.#current !== NOBODY && frame < this.#machine.layout.ramFrames;
  }

  #cellOf(word: number): number {
    const known = this.#cells.get(word);
    if (known !== undefined) return known;
    const cell = this.#weak.addCell();
    this.#words.push(word);
    this.#cells.set(word, cell);
    const frame = Math.floor(word / WORDS_PER_PAGE);
    if (this.#racyFrames.has(frame)) this.#racyCells.add(cell);
    const others = this.#known.get(frame);
    if (others === undefined) this.#known.set(frame, [word]);
    else others.push(word);
    return cell;
  }

  #put(word: number, value: number): void {
    this.#arriving = true;
    const frame = Math.floor(word / WORDS_PER_PAGE);
    this.#memory.store(FrameIndex(frame), (word % WORDS_PER_PAGE) * 4, value);
    this.#arriving = false;
  }

  #read(frame: number, offset: number, into: Uint8Array, place: number, length: number): void {
    for (const { word, from, to } of wordsIn(frame, offset, length)) {
      const value = this.#weak.load(this.#current, this.#cellOf(word), "plain");
      for (let byte = from; byte < to; byte++) {
        into[place + word * 4 + byte - (frame * WORDS_PER_PAGE * 4 + offset)] =
          value >>> (8 * byte);
      }
    }
  }

  #write(frame: number, offset: number, bytes: Uint8Array, place: number, length: number): void {
    for (const { word, from, to } of wordsIn(frame, offset, length)) {
      let value = 0;
      let mask = 0;
      for (let byte = from; byte < to; byte++) {
        const source = place + word * 4 + byte - (frame * WORDS_PER_PAGE * 4 + offset);
        value |= (bytes[source] ?? 0) << (8 * byte);
        mask |= 0xff << (8 * byte);
      }
      this.#weak.store(this.#current, this.#cellOf(word), value, "plain", mask);
    }
    if (this.#isAwaited()) this.#weak.drainAll(this.#current);
  }

  /** Whether a flush waits for the end of the access that is open: what it stores is there by then. */
  #isAwaited(): boolean {
    const { words, layout } = this.#machine;
    const line = lineOf(layout, this.#current);
    return at(words, line + LINE.INSIDE_GENERATION) !== at(words, line + LINE.GENERATION);
  }

  /** An access that goes straight to memory: atomic ones of guests, and all of the hypervisor's and of devices. */
  #touched(kind: number, frame: number, offset: number, length: number): void {
    const guests = this.#isGuests(frame);
    const task = guests ? this.#current : this.#slots;
    const reads = (kind & TOUCH_READ) !== 0;
    const writes = (kind & TOUCH_WRITE) !== 0;
    const first = frame * WORDS_PER_PAGE + (offset >> 2);
    if ((kind & TOUCH_ATOMIC) !== 0) {
      if (guests) this.#weak.drainAll(task);
      const access = { reads, writes, atomic: true };
      this.#weak.touch(task, this.#cellOf(first), access, { judged: guests });
      return;
    }
    // A guest's bursts come by `plain`, and its walks of page tables are nobody's concern.
    if (guests || !writes) return;
    const end = first + (((offset & 3) + length + 3) >> 2);
    for (const word of this.#known.get(frame) ?? []) {
      if (word < first || word >= end) continue;
      const access = { reads, writes, atomic: false };
      this.#weak.touch(task, this.#cellOf(word), access, { judged: false });
    }
  }
}

/** The words of a burst, and which bytes of each it is about. */
function* wordsIn(frame: number, offset: number, length: number) {
  const end = offset + length;
  for (let start = offset & ~3; start < end; start += 4) {
    const word = frame * WORDS_PER_PAGE + (start >> 2);
    yield { word, from: Math.max(offset - start, 0), to: Math.min(end - start, 4) };
  }
}

/** Frame behind a page of a story. */
function frameOf({ words, memory, layout }: Machine, { domain, gfn }: RacyPage): number {
  const root = at(words, domainOf(layout, domain) + DOM.P2M_ROOT);
  return root === NOT_PRESENT ? NOT_PRESENT : walk(layout, words, memory, root, gfn) >> 3;
}
