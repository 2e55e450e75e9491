/**
 * Loads and stores of a guest by guest physical address, through the MMU of its vCPU. Arm64 guests run
 * identity-mapped here, so an address is gfn * 4096 + offset.
 *
 * Rules: one access a call (a burst that crosses a page is one access a page); a view of the page never
 * leaves the access; every access is a point, before it and, between translation and use, inside it. An
 * access that the MMU refuses is closed and then thrown as `GuestFault`: an oops to a kernel, a value to
 * a raw program. Words are 32 bits, aligned and atomic; bursts are page content and racy by nature.
 * Behaviour: Arm ARM, stage 2 aborts; Linux arch/arm64/mm/fault.c for what an oops is.
 */
import { assert } from "../shared/assert.ts";
import type { Layout } from "../shared/layout.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import type { BootInfo } from "../shared/machine.ts";
import type { Words } from "../shared/mem.ts";
import { ACCESS_OK, ACCESS_READ, ACCESS_WRITE, FAULT_NAMES, type Mmu } from "../shared/mmu.ts";
import { type PointTrap, type Program, TRAP_POINT } from "../shared/trap.ts";
import type { Gaddr } from "../shared/units.ts";

/** What a program on one vCPU is given. */
export interface Cpu {
  readonly mmu: Mmu;
  readonly words: Words;
  readonly layout: Layout;
  /** Slot of the vCPU. */
  readonly slot: number;
  /** Whether accesses are points: true in the explorer, false on threads. */
  readonly points: boolean;
  readonly boot: BootInfo;
}

/** A guest touched what it may not. The domain stops, the machine goes on. */
export class GuestFault extends Error {
  override readonly name = "GuestFault";
  readonly gaddr: number;
  /** ACCESS_READ, ACCESS_WRITE or both. */
  readonly kind: number;
  /** FAULT_* of shared/mmu.ts. */
  readonly fault: number;

  constructor(gaddr: number, kind: number, fault: number) {
    const verb = (kind & ACCESS_WRITE) === 0 ? "load from" : "store to";
    super(`${FAULT_NAMES[fault] ?? fault} fault at a ${verb} 0x${gaddr.toString(16)}`);
    this.gaddr = gaddr;
    this.kind = kind;
    this.fault = fault;
  }
}

/** A place between two accesses. */
export const POINT: PointTrap = { kind: TRAP_POINT, name: "access", inside: false };
/**
 * The place before an access, or the one between its translation and its use, where a flush may wait for its end. Only the
 * explorer asks for it.
 */
export const pointAt = (
  address: number,
  access: number,
  name: string,
  inside: boolean,
): PointTrap => ({
  kind: TRAP_POINT,
  name,
  inside,
  address,
  access,
});

const ACCESS_BOTH = ACCESS_READ | ACCESS_WRITE;

/** Opens the page of `gaddr`, or throws; yields on the way when points are on. Returns the offset in it. */
function* open(cpu: Cpu, gaddr: number, kind: number): Program<number> {
  if (cpu.points) yield pointAt(gaddr, kind, "access", false);
  const fault = cpu.mmu.open(Math.floor(gaddr / PAGE_SIZE), kind);
  if (fault !== ACCESS_OK) throw new GuestFault(gaddr, kind, fault);
  if (cpu.points) yield pointAt(gaddr, kind, "inside", true);
  return gaddr % PAGE_SIZE;
}

/** Opens the page of an aligned word without a generator when points are off: the common case on threads. */
function openNow(cpu: Cpu, gaddr: number, kind: number): number {
  const fault = cpu.mmu.open(Math.floor(gaddr / PAGE_SIZE), kind);
  if (fault !== ACCESS_OK) throw new GuestFault(gaddr, kind, fault);
  return gaddr % PAGE_SIZE;
}

/** Atomic load of the word at `gaddr` (a multiple of 4), signed. */
export function* loadWord(cpu: Cpu, gaddr: Gaddr | number): Program<number> {
  const offset = cpu.points
    ? yield* open(cpu, gaddr, ACCESS_READ)
    : openNow(cpu, gaddr, ACCESS_READ);
  const value = cpu.mmu.load(offset);
  cpu.mmu.close();
  return value;
}

/** Atomic store of one word. */
export function* storeWord(cpu: Cpu, gaddr: Gaddr | number, value: number): Program {
  const offset = cpu.points
    ? yield* open(cpu, gaddr, ACCESS_WRITE)
    : openNow(cpu, gaddr, ACCESS_WRITE);
  cpu.mmu.store(offset, value);
  cpu.mmu.close();
}

/** Sets bits; returns the word found. */
export function* orWord(cpu: Cpu, gaddr: Gaddr | number, bits: number): Program<number> {
  const offset = yield* open(cpu, gaddr, ACCESS_BOTH);
  const found = cpu.mmu.or(offset, bits);
  cpu.mmu.close();
  return found;
}

/** Keeps only `bits`; returns the word found. */
export function* andWord(cpu: Cpu, gaddr: Gaddr | number, bits: number): Program<number> {
  const offset = yield* open(cpu, gaddr, ACCESS_BOTH);
  const found = cpu.mmu.and(offset, bits);
  cpu.mmu.close();
  return found;
}

/** Replaces a word; returns the one found. */
export function* exchangeWord(cpu: Cpu, gaddr: Gaddr | number, value: number): Program<number> {
  const offset = yield* open(cpu, gaddr, ACCESS_BOTH);
  const found = cpu.mmu.exchange(offset, value);
  cpu.mmu.close();
  return found;
}

/** Returns the word found; the exchange happened when that equals `expected` (both as signed words). */
export function* compareExchangeWord(
  cpu: Cpu,
  gaddr: Gaddr | number,
  expected: number,
  next: number,
): Program<number> {
  const offset = yield* open(cpu, gaddr, ACCESS_BOTH);
  const found = cpu.mmu.compareExchange(offset, expected, next);
  cpu.mmu.close();
  return found;
}

/** Copies `length` bytes from `gaddr` into private memory at `at`: one access a page. */
export function* readBytes(
  cpu: Cpu,
  gaddr: Gaddr | number,
  into: Uint8Array,
  at: number,
  length: number,
): Program {
  for (let done = 0; done < length; ) {
    const offset = yield* open(cpu, gaddr + done, ACCESS_READ);
    const piece = Math.min(length - done, PAGE_SIZE - offset);
    cpu.mmu.read(offset, into, at + done, piece);
    cpu.mmu.close();
    done += piece;
  }
}

/** Copies `length` private bytes of `from` at `at` to `gaddr`: one access a page. */
export function* writeBytes(
  cpu: Cpu,
  gaddr: Gaddr | number,
  from: Uint8Array,
  at: number,
  length: number,
): Program {
  for (let done = 0; done < length; ) {
    const offset = yield* open(cpu, gaddr + done, ACCESS_WRITE);
    const piece = Math.min(length - done, PAGE_SIZE - offset);
    cpu.mmu.write(offset, from, at + done, piece);
    cpu.mmu.close();
    done += piece;
  }
}

/** Fills the page at `gaddr` with zeroes. */
export function* zeroPage(cpu: Cpu, gaddr: Gaddr | number): Program {
  assert(gaddr % PAGE_SIZE === 0, "a page starts on its boundary");
  const offset = yield* open(cpu, gaddr, ACCESS_WRITE);
  cpu.mmu.write(offset, ZEROES, 0, PAGE_SIZE);
  cpu.mmu.close();
}

const ZEROES = new Uint8Array(PAGE_SIZE);
