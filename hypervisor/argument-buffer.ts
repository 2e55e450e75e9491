/**
 * Private copy of one argument structure: filled once from guest memory, then read and written by field.
 * The views lie over private memory, so widths may mix here. Offsets are bytes, naturally aligned.
 * Behaviour: xen/include/asm-*, copy_from_guest: a structure is copied once and only the copy is used.
 */
import { EmulatorBug } from "../shared/assert.ts";
import { TOO_BIG } from "../shared/trap.ts";

const SIZE_BYTES = 256;

export class ArgumentBuffer {
  readonly bytes = new Uint8Array(SIZE_BYTES);
  readonly #u16 = new Uint16Array(this.bytes.buffer);
  readonly #u32 = new Uint32Array(this.bytes.buffer);

  #u32At(index: number): number {
    const value = this.#u32[index];
    if (value === undefined) throw new EmulatorBug("an argument field lies in its structure");
    return value;
  }

  u8(offset: number): number {
    return (this.u16(offset & ~1) >>> (8 * (offset & 1))) & 0xff;
  }
  u16(offset: number): number {
    const value = this.#u16[offset >> 1];
    if (value === undefined) throw new EmulatorBug("an argument field lies in its structure");
    return value;
  }
  u32(offset: number): number {
    return this.#u32At(offset >> 2);
  }
  i32(offset: number): number {
    return this.#u32At(offset >> 2) | 0;
  }
  /** A 64-bit field as a number, or TOO_BIG above 2^53. */
  u64(offset: number): number {
    const value = this.#u32At((offset >> 2) + 1) * 4294967296 + this.#u32At(offset >> 2);
    return value <= Number.MAX_SAFE_INTEGER ? value : TOO_BIG;
  }

  setU16(offset: number, value: number): void {
    this.#u16[offset >> 1] = value;
  }
  setU32(offset: number, value: number): void {
    this.#u32[offset >> 2] = value;
  }
  setU64(offset: number, value: number): void {
    this.#u32[offset >> 2] = value;
    this.#u32[(offset >> 2) + 1] = Math.floor(value / 4294967296);
  }
  /** A field of all ones, as INVALID_GFN is. */
  setOnes64(offset: number): void {
    this.#u32[offset >> 2] = 0xffffffff;
    this.#u32[(offset >> 2) + 1] = 0xffffffff;
  }
}
