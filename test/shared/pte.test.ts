// The arithmetic of a walk: shifts below 2^31 and beyond must find what division finds.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { GFN_END } from "../../shared/limits.ts";
import { levelFrames, levelSlot, offsetInLevel, rootPageOf, upperBits } from "../../shared/pte.ts";

const frames = fc.oneof(
  fc.integer({ min: 0, max: GFN_END - 1 }),
  fc.constantFrom(0, 511, 512, 2 ** 18 - 1, 2 ** 18, 2 ** 27, 2 ** 31 - 1, 2 ** 31, 2 ** 32),
);

describe("the place of a frame in a page table", () => {
  it("is the same by shifts as by division, at every level", () => {
    fc.assert(
      fc.property(frames, fc.integer({ min: 0, max: 3 }), (frame, level) => {
        const span = 512 ** (3 - level);
        expect(levelFrames(level)).toBe(span);
        expect(levelSlot(frame, upperBits(frame), level)).toBe(Math.floor(frame / span) % 512);
        expect(offsetInLevel(frame, level)).toBe(frame % span);
      }),
    );
  });

  it("falls on the second root page of two when its bit 27 is set", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 28 - 1 }), (frame) => {
        expect(rootPageOf(upperBits(frame), 1)).toBe(Math.floor(frame / 2 ** 27));
        expect(rootPageOf(upperBits(frame), 0)).toBe(0);
      }),
    );
  });
});
