/**
 * A hash of a machine model, so that every worker can show that it resolved the same machine.
 * Rule: equal models have equal hashes whatever the order of their fields.
 * Ours; FNV-1a in 32 bits, twice with different seeds. It finds mistakes, not attackers.
 */
import type { MachineModel } from "./machine.ts";

const FNV_PRIME = 0x01000193;
const SEEDS: readonly number[] = [0x811c9dc5, 0x9747b28c];

/** JSON with sorted keys. */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  if (typeof value === "object" && value !== null) {
    const fields = Object.entries(value).filter(([, field]) => field !== undefined);
    fields.sort(([a], [b]) => (a < b ? -1 : 1));
    const text = fields.map(([key, field]) => `${JSON.stringify(key)}:${canonicalJson(field)}`);
    return `{${text.join(",")}}`;
  }
  return JSON.stringify(value);
}

/** Sixteen hexadecimal digits. */
export function modelHash(model: MachineModel): string {
  const text = canonicalJson(model);
  return SEEDS.map((seed) => fnv(text, seed).toString(16).padStart(8, "0")).join("");
}

function fnv(text: string, seed: number): number {
  let hash = seed;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    hash = Math.imul(hash ^ (unit & 0xff), FNV_PRIME);
    hash = Math.imul(hash ^ (unit >> 8), FNV_PRIME);
  }
  return hash >>> 0;
}
