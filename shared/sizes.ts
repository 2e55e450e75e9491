/**
 * Sizes with units and addresses, read from what a person wrote and printed for one.
 * Rules: KiB, MiB and GiB only; a refusal is a ScenarioError that names the field.
 * Ours.
 */
import { PAGE_SIZE } from "./limits.ts";
import { unknownName } from "./nearest.ts";
import { type Address, ScenarioError, type Size } from "./scenario.ts";

const UNITS: Readonly<Record<string, number>> = {
  B: 1,
  KiB: 1024,
  MiB: 1024 ** 2,
  GiB: 1024 ** 3,
};

/** Bytes of a size; `path` names the field in a refusal. Zero and fractions of a byte are refused. */
export function parseSize(path: string, size: Size): number {
  const match =
    typeof size === "number"
      ? [String(size), String(size), "B"]
      : /^(\d[\d_]*(?:\.\d+)?) ?([A-Za-z]*)$/.exec(size.trim());
  if (match === null) throw new ScenarioError(path, `"${size}" is not a size such as 32MiB`);
  const unit = match[2] === "" ? "B" : (match[2] ?? "B");
  const scale = UNITS[unit];
  if (scale === undefined) {
    throw new ScenarioError(path, unknownName("unit", unit, Object.keys(UNITS)));
  }
  const bytes = Number((match[1] ?? "").replaceAll("_", "")) * scale;
  if (!Number.isSafeInteger(bytes) || bytes <= 0) {
    throw new ScenarioError(path, `${size} is not a positive whole number of bytes`);
  }
  return bytes;
}

/** Pages of a size that must be whole pages. */
export function parsePages(path: string, size: Size): number {
  const bytes = parseSize(path, size);
  if (bytes % PAGE_SIZE !== 0) throw new ScenarioError(path, `${size} is not a multiple of 4KiB`);
  return bytes / PAGE_SIZE;
}

/** An address in bytes: decimal or hexadecimal, underscores allowed, below 2^48. */
export function parseAddress(path: string, address: Address): number {
  const text = String(address).replaceAll("_", "");
  const value = /^(0[xX][0-9a-fA-F]+|\d+)$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isNaN(value)) {
    throw new ScenarioError(path, `"${address}" is not an address such as 0x4000_0000`);
  }
  if (value >= 2 ** 48) throw new ScenarioError(path, `${address} is beyond 48 address bits`);
  return value;
}

/** An address that must lie on a multiple of `alignment`. */
export function parseAligned(path: string, address: Address, alignment: number): number {
  const value = parseAddress(path, address);
  if (value % alignment !== 0) {
    throw new ScenarioError(path, `${address} is not a multiple of ${formatSize(alignment)}`);
  }
  return value;
}

/** Refuses a number outside its inclusive bounds. */
export function checkCount(path: string, value: number, min: number, max: number): void {
  if (Number.isInteger(value) && value >= min && value <= max) return;
  throw new ScenarioError(path, `${value} is not a whole number from ${min} to ${max}`);
}

/** A size for a person: the largest unit that leaves a whole number, else one decimal. */
export function formatSize(bytes: number): string {
  for (const unit of ["GiB", "MiB", "KiB"]) {
    const scale = UNITS[unit] ?? 1;
    if (bytes >= scale && bytes % scale === 0) return `${bytes / scale} ${unit}`;
  }
  for (const unit of ["GiB", "MiB", "KiB"]) {
    const scale = UNITS[unit] ?? 1;
    if (bytes >= scale) return `${(bytes / scale).toFixed(1)} ${unit}`;
  }
  return `${bytes} B`;
}

/** A frame number or an address, hexadecimal. */
export const formatHex = (value: number): string =>
  value < 0 ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`;
