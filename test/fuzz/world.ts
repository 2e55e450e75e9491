/**
 * One machine under the fuzzer, with its actors: who may push, who is inside an access, and whose request is open.
 *
 * Rules: a vCPU has one request at a time, as hardware has; an access may stay open across any number of commands, and
 * a flush then waits for it. Guests store into their own memory at any time, also between two reads of a handler.
 */

import { type MachineImage, restoreImage } from "../../explore/image.ts";
import { audit } from "../../hypervisor/audit.ts";
import { KNOWN_FINDING } from "../../hypervisor/audit-walkers.ts";
import { POLL_NONE } from "../../hypervisor/event-upcall.ts";
import { guestFrame } from "../../hypervisor/guest-access.ts";
import { hasWork, step } from "../../hypervisor/main.ts";
import { GAP_SUSPENDED, isPresent, lineField, type Xen } from "../../hypervisor/xen.ts";
import { Channel } from "../../shared/channel.ts";
import { LINE, SLOT_DEAD, SLOT_KIND_VCPU, SLOT_LIVE } from "../../shared/layout.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { ACCESS_OK, leaveForDead, Mmu } from "../../shared/mmu.ts";
import { DomId } from "../../shared/units.ts";

export const CONTROL_SLOT = 0;
/** Words of guest memory that a handler may look at between two gaps; a batch of 32 copies needs the most. */
const GUEST_WORDS_MAX = 1024;
/** Steps in which a machine whose actors are all outside comes to rest. */
const STEPS_MAX = 200_000;

/** Something that must not be: the machine is inconsistent, or a request was refused and left a trace. */
export class Violation extends Error {
  override readonly name = "Violation";
}

export class World {
  readonly xen: Xen;
  readonly #mmus: Mmu[];
  readonly #inside = new Set<number>();
  /** Called at each access of a handler to a word that a guest may write, with the number of such accesses so far. */
  meddle: ((count: number) => void) | undefined;
  /** What is being done, for whoever reports that it went wrong. */
  now = "";
  #guestWords = 0;
  #steps = 0;
  #wordsOfStep = 0;

  constructor(image: MachineImage) {
    this.xen = restoreImage(image);
    const { words, memory, layout } = this.xen;
    this.#mmus = Array.from(
      { length: layout.model.limits.slots },
      (_, slot) => new Mmu(words, memory, layout, slot),
    );
    memory.onGuestWord = () => {
      this.#guestWords++;
      if (++this.#wordsOfStep > GUEST_WORDS_MAX) {
        throw new Violation(
          `a handler has looked at ${GUEST_WORDS_MAX} words of guests without a gap`,
        );
      }
      this.meddle?.(this.#guestWords);
    };
  }

  get slots(): number {
    return this.xen.model.limits.slots;
  }
  get steps(): number {
    return this.#steps;
  }

  isLive(slot: number): boolean {
    return lineField(this.xen, slot, LINE.STATE) === SLOT_LIVE;
  }

  liveVcpus(): readonly number[] {
    const found: number[] = [];
    for (let slot = 1; slot < this.slots; slot++) {
      if (this.isLive(slot) && lineField(this.xen, slot, LINE.KIND) === SLOT_KIND_VCPU) {
        found.push(slot);
      }
    }
    return found;
  }

  domains(): readonly DomId[] {
    const all = Array.from({ length: this.xen.model.limits.domains }, (_, id) => DomId(id));
    return all.filter((domid) => isPresent(this.xen, domid));
  }

  /** The client's end, made anew: a slot may have been given to another domain since. */
  channel(slot: number): Channel {
    return new Channel(this.xen.words, this.xen.layout, slot);
  }

  /** Whether a vCPU waits for an event or for its domain's resumption, as it asked to: it may do so for ever. */
  #waits(slot: number): boolean {
    if (lineField(this.xen, slot, LINE.POLL) !== POLL_NONE) return true;
    return this.xen.pending[slot] !== undefined && this.xen.gaps[slot] === GAP_SUSPENDED;
  }

  /** Whether nothing is under way but what `slot` may ask for next. */
  isQuiet(): boolean {
    for (let slot = 0; slot < this.slots; slot++) {
      if (this.#waits(slot)) continue;
      if (this.xen.pending[slot] !== undefined || !this.channel(slot).idle) return false;
    }
    return true;
  }

  /** One step of the hypervisor; false: it has nothing to do. */
  step(): boolean {
    this.#wordsOfStep = 0;
    this.#guestWords = 0;
    if (!step(this.xen)) return false;
    this.#steps++;
    return true;
  }

  /** Opens an access of a slot. Returns ACCESS_OK or a FAULT_*. */
  open(slot: number, frame: number, kind: number): number {
    this.close(slot);
    const mmu = this.#mmus[slot];
    const fault = mmu?.open(frame, kind) ?? -1;
    if (fault === ACCESS_OK) this.#inside.add(slot);
    return fault;
  }
  /** Stores into the open page. */
  touch(slot: number, offset: number, value: number): void {
    if (this.#inside.has(slot)) this.#mmus[slot]?.store(offset & 0xffc, value);
  }
  close(slot: number): void {
    if (this.#inside.delete(slot)) this.#mmus[slot]?.close();
  }
  isInside(slot: number): boolean {
    return this.#inside.has(slot);
  }

  /** What every runner does when it sees that its vCPU is dead: it leaves, and the slot may be given away. */
  leaveDeadSlots(): void {
    for (let slot = 1; slot < this.slots; slot++) {
      if (lineField(this.xen, slot, LINE.STATE) === SLOT_DEAD) this.runnerEnds(slot);
    }
  }

  runnerEnds(slot: number): void {
    this.close(slot);
    leaveForDead(this.xen.words, this.xen.layout, slot);
  }

  /** Everybody leaves, and the hypervisor works until it has nothing to do. Every request is answered then. */
  settle(): void {
    for (let slot = 0; slot < this.slots; slot++) this.close(slot);
    for (let steps = 0; hasWork(this.xen); steps++) {
      if (steps > STEPS_MAX) throw new Violation(`no rest after ${STEPS_MAX} steps`);
      this.step();
    }
    this.leaveDeadSlots();
    for (let slot = 0; slot < this.slots; slot++) {
      if (this.isLive(slot) && !this.#waits(slot) && !this.channel(slot).idle) {
        throw new Violation(`slot ${slot} waits for an answer that nobody gives`);
      }
    }
  }

  /** Recounts the machine. Guests write what they like here, so their status bits are not judged. */
  check(): void {
    const forgiven = this.xen.model.hypervisor === "faithful";
    const found = audit(this.xen, { hostile: () => true }).filter(
      (finding) => !(forgiven && finding.startsWith(KNOWN_FINDING)),
    );
    if (found.length > 0) throw new Violation(found.slice(0, 4).join("; "));
  }

  /** A guest stores bytes into its own memory; what it cannot reach stays as it is. */
  writeGuest(domid: DomId, gaddr: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const offset = (gaddr + done) % PAGE_SIZE;
      const part = Math.min(bytes.length - done, PAGE_SIZE - offset);
      const frame = guestFrame(this.xen, domid, gaddr + done, true);
      if (frame !== undefined) this.xen.memory.write(frame, offset, bytes, done, part);
      done += part;
    }
  }

  /** Bytes of guest memory, or undefined when the hypervisor could not read them for the guest. */
  readGuest(domid: DomId, gaddr: number, length: number): Uint8Array | undefined {
    const into = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const offset = (gaddr + done) % PAGE_SIZE;
      const part = Math.min(length - done, PAGE_SIZE - offset);
      const frame = guestFrame(this.xen, domid, gaddr + done, true);
      if (frame === undefined) return undefined;
      this.xen.memory.read(frame, offset, into, done, part);
      done += part;
    }
    return into;
  }
}
