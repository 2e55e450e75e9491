/**
 * Numbers of the recordings: 64-bit values as word pairs, and flag words spelled by names.
 * Rule: no value loses a bit on its way into guest memory or back; beyond 2^53 a file gives hexadecimal strings.
 */

/** A 64-bit value: low and high half, both unsigned. */
export type Wide = readonly [low: number, high: number];

export function wideOf(value: number): Wide {
  return [value >>> 0, Math.floor(value / 4294967296) >>> 0];
}

/** A hexadecimal string of at most 16 digits. */
export function wideOfHex(text: string): Wide {
  const digits = text.slice(2).padStart(16, "0");
  return [Number.parseInt(digits.slice(-8), 16), Number.parseInt(digits.slice(-16, -8), 16)];
}

/** The number, exact up to 2^53. */
export const numberOf = (wide: Wide): number => wide[1] * 4294967296 + wide[0];

/** What a report shows: a number, or a hexadecimal string beyond 2^53. */
export function shown(wide: Wide): number | string {
  if (wide[1] < 0x20_0000) return numberOf(wide);
  return `0x${wide[1].toString(16)}${wide[0].toString(16).padStart(8, "0")}`;
}

export type FlagNames = Readonly<Record<string, number>>;

export const MAP_FLAG_NAMES: FlagNames = {
  device_map: 1,
  host_map: 2,
  readonly: 4,
  application_map: 8,
  contains_pte: 16,
  can_fail: 32,
};

export const ENTRY_FLAG_NAMES: FlagNames = {
  permit_access: 1,
  accept_transfer: 2,
  transitive: 3,
  readonly: 4,
  transfer_committed: 4,
  reading: 8,
  transfer_completed: 8,
  writing: 16,
  PWT: 32,
  PCD: 64,
  PAT: 128,
  sub_page: 256,
};

export const PORT_BIT_NAMES: FlagNames = { pending: 1, masked: 2, linked: 4, busy: 8 };

/** The word behind `a|b|0x40`, or undefined when it has a name that is not known. */
export function flagsOf(text: string, names: FlagNames): number | undefined {
  let flags = 0;
  if (text === "") return flags;
  for (const part of text.split("|")) {
    const bit = part.startsWith("0x") ? Number.parseInt(part.slice(2), 16) : names[part];
    if (bit === undefined) return undefined;
    flags |= bit;
  }
  return flags;
}

/** Spells a flag word. The names are tried in their order, the type of an entry (its low two bits) as one. */
export function flagText(flags: number, names: FlagNames): string {
  const parts: string[] = [];
  let left = flags;
  const isEntry = names === ENTRY_FLAG_NAMES;
  for (const [name, bits] of Object.entries(names)) {
    if (isEntry && bits <= 3 ? (left & 3) !== bits : (left & bits) !== bits) continue;
    parts.push(name);
    left &= ~bits;
  }
  for (let bit = 1; bit <= 0x8000; bit <<= 1) {
    if ((left & bit) !== 0) parts.push(`0x${bit.toString(16)}`);
  }
  return parts.join("|");
}
