/** An argument structure under construction: little-endian fields, 64-bit ones from doubles. */
import { ONES } from "./values.ts";

export class Structure {
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
    this.#view = new DataView(this.bytes.buffer);
  }

  u16(at: number, value: number): this {
    this.#view.setUint16(at, value & 0xffff, true);
    return this;
  }
  u32(at: number, value: number): this {
    this.#view.setUint32(at, value >>> 0, true);
    return this;
  }
  u64(at: number, value: number): this {
    this.#view.setBigUint64(
      at,
      value === ONES ? 2n ** 64n - 1n : BigInt.asUintN(64, BigInt(value)),
      true,
    );
    return this;
  }
}
