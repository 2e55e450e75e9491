/**
 * What a guest or a device may yield, and what it is resumed with. `yield` is the trap: a program can do
 * nothing to the outside world but yield one of these and be resumed with a number.
 *
 * A hypercall is one 64-byte record (10.2 of the design): the same bytes in ring, trace and replay.
 * Record words: 0 op, 1 spare, 2..11 five 64-bit arguments as word pairs, 12..13 return value, 14..15 spare.
 */
import { at } from "./assert.ts";
import { RECORD_WORDS } from "./limits.ts";

export const RECORD_OP = 0;
export const RECORD_ARGS = 2;
export const RECORD_RET = 12;

/** Operations of slots that are not guests; hypercall numbers (abi/xen.ts) are below 64. */
export const DEVICE_RAISE = 0x100; // a0: line. A device asserts its interrupt
export const DEVICE_FAULT = 0x101; // a0: dfn, a1: 1 write, a2: fault code. Its IOMMU or bus aborted an access
export const CONTROL_AUDIT = 0x200; // runs the whole-state audit; returns the number of findings
export const CONTROL_VCPU_DIED = 0x201; // a0: slot. The worker behind it has ended
export const CONTROL_CREATE = 0x202; // a0: index of the domain in the model; returns its domid or -errno
export const CONTROL_DOMCTL = 0x203; // a0: XEN_DOMCTL_*, a1: domid, a2..: its argument
export const CONTROL_STOP = 0x204; // the hypervisor leaves its loop after the reply
export const CONTROL_HOLD = 0x205; // the hypervisor stands still after the reply, while MACHINE.HOLD is 1

export const TRAP_HYPERCALL = 0;
export const TRAP_POINT = 1;
export const TRAP_BLOCK = 2;
export const TRAP_SLEEP = 3;
export const TRAP_REPORT = 4;
export const TRAP_HOST_READ = 5;
export const TRAP_HOST_HASH = 6;

/** A record for the hypervisor; resumed with its return value. */
export interface HypercallTrap {
  readonly kind: typeof TRAP_HYPERCALL;
  readonly record: Int32Array;
}
/** A place where another slot may step. Yielded only when points are on; resumed with 0. */
export interface PointTrap {
  readonly kind: typeof TRAP_POINT;
  readonly name: string;
  /** Inside an access only other slots may be chosen, and the access goes on afterwards. */
  readonly inside: boolean;
  /** Guest address (of a device: bus address) that is about to be touched, and how: 1 read, 2 write. Absent: none. */
  readonly address?: number;
  readonly access?: number;
}
/**
 * Waits until the slot's event word differs from `seen`, at most `timeoutMs` where that is given and finite (a timer is
 * armed); resumed with the word's value.
 */
export interface BlockTrap {
  readonly kind: typeof TRAP_BLOCK;
  seen: number;
  timeoutMs?: number;
}
export interface SleepTrap {
  readonly kind: typeof TRAP_SLEEP;
  readonly timeMs: number;
}
/** Tells the scenario something: shown in results, judged by expectations. */
export interface ReportTrap {
  readonly kind: typeof TRAP_REPORT;
  readonly key: string;
  readonly value: string | number;
}
/** Reads the host file behind a device; resumed with the bytes read, or -1 on an I/O error. */
export interface HostReadTrap {
  readonly kind: typeof TRAP_HOST_READ;
  readonly offset: number;
  readonly into: Uint8Array;
  readonly length: number;
}
/** Adds bytes to the slot's running sha256; with `finish` the digest goes to `hex`. */
export interface HostHashTrap {
  readonly kind: typeof TRAP_HOST_HASH;
  readonly bytes: Uint8Array;
  readonly length: number;
  readonly finish: boolean;
  hex: string;
}

export type Trap =
  | HypercallTrap
  | PointTrap
  | BlockTrap
  | SleepTrap
  | ReportTrap
  | HostReadTrap
  | HostHashTrap;

/** What runs on a slot: yields traps, is resumed with numbers. */
export type Program<Result = void> = Generator<Trap, Result, number>;

/** What toolstack injects for programs (design.md 10.8): synchronous, outside every access. */
export interface Host {
  /** Bytes of the file behind the disk. */
  readonly sizeBytes: number;
  /** Reads into private memory; returns the bytes read. */
  readAt(offset: number, into: Uint8Array, length: number): number;
  /** A fresh running sha256. */
  sha256(): { update(bytes: Uint8Array): void; hex(): string };
}

export const hypercallTrap = (): HypercallTrap => ({
  kind: TRAP_HYPERCALL,
  record: new Int32Array(RECORD_WORDS),
});

/** Writes a 64-bit value (two's complement, at most 2^53 in magnitude) as a word pair. */
export function setPair(words: Int32Array, index: number, value: number): void {
  const low = value | 0;
  words[index] = low;
  // Most values are words: the upper half is then the sign.
  words[index + 1] = low === value ? low >> 31 : Math.floor(value / 4294967296) | 0;
}

/** A pair decodes to a number; above 2^53 the precision that is lost no longer matters: TOO_BIG. */
export const TOO_BIG = Number.POSITIVE_INFINITY;

/** Reads a word pair as an unsigned 64-bit value, or TOO_BIG. */
export function unsignedPair(words: Int32Array, index: number): number {
  const value = (at(words, index + 1) >>> 0) * 4294967296 + (at(words, index) >>> 0);
  return value <= Number.MAX_SAFE_INTEGER ? value : TOO_BIG;
}

/** Reads a word pair as a signed 64-bit value within 2^53. */
export const signedPair = (words: Int32Array, index: number): number =>
  at(words, index + 1) * 4294967296 + (at(words, index) >>> 0);

/** Fills a record; unused arguments are zero. */
export function setRecord(record: Int32Array, op: number, args: readonly number[]): void {
  record.fill(0);
  record[RECORD_OP] = op;
  for (let i = 0; i < args.length; i++) setPair(record, RECORD_ARGS + 2 * i, args[i] ?? 0);
}

/** Argument `i` of a record as an unsigned value, or TOO_BIG. */
export const recordArg = (record: Int32Array, i: number): number =>
  unsignedPair(record, RECORD_ARGS + 2 * i);
