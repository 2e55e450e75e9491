/**
 * Arithmetic of address ranges: holes, intersections, alignment. Used when a machine is laid out.
 * Rules: ranges are half open, in bytes; lists are ascending and do not overlap unless said otherwise.
 * Ours; the role of rangeset.c in Xen.
 */
import type { Range } from "./machine.ts";

export const endOf = (range: Range): number => range.base + range.size;

export const overlaps = (a: Range, b: Range): boolean => a.base < endOf(b) && b.base < endOf(a);

export const contains = (outer: Range, inner: Range): boolean =>
  outer.base <= inner.base && endOf(inner) <= endOf(outer);

/** What is left of `from` (any order) without `taken` (any order, overlaps allowed). */
export function subtract(from: readonly Range[], taken: readonly Range[]): readonly Range[] {
  let left: Range[] = from.toSorted((a, b) => a.base - b.base);
  for (const hole of taken) {
    left = left.flatMap((range) => {
      if (!overlaps(range, hole)) return [range];
      const pieces = [
        { base: range.base, size: hole.base - range.base },
        { base: endOf(hole), size: endOf(range) - endOf(hole) },
      ];
      return pieces.filter((piece) => piece.size > 0);
    });
  }
  return left;
}

/** Shrinks every range to whole multiples of `alignment`; what is left of nothing is dropped. */
export const align = (ranges: readonly Range[], alignment: number): readonly Range[] =>
  ranges
    .map((range) => {
      const base = Math.ceil(range.base / alignment) * alignment;
      return { base, size: Math.floor(endOf(range) / alignment) * alignment - base };
    })
    .filter((range) => range.size > 0);

/** The first address beyond all ranges, 0 when there is none. */
export const topOf = (ranges: readonly Range[]): number => Math.max(0, ...ranges.map(endOf));
