// The explorer's memory: what was written is put back, whoever wrote it and how often.
import { xoroshiro128plus } from "pure-rand/generator/xoroshiro128plus";
import { describe, expect, it } from "vitest";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { WatchedMemory } from "../../shared/mem.ts";
import { FrameIndex } from "../../shared/units.ts";

const FRAMES = 6;

/** One write of each kind, at random. */
function writes(memory: WatchedMemory, number: (below: number) => number): void {
  const frame = FrameIndex(number(FRAMES));
  const offset = number(PAGE_SIZE / 4) * 4;
  const value = number(3);
  const bytes = new Uint8Array(16).fill(value);
  const from = number(PAGE_SIZE - 100);
  const kinds: readonly (() => void)[] = [
    () => memory.store(frame, offset, value),
    () => memory.poke(frame, offset, value),
    () => void memory.or(frame, offset, value),
    () => void memory.and(frame, offset, value),
    () => void memory.exchange(frame, offset, value),
    () => void memory.compareExchange(frame, offset, 0, value),
    () => memory.write(frame, from, bytes, 0, 1 + number(16)),
    () => memory.copy(frame, from, FrameIndex(number(FRAMES)), number(2000), number(100)),
    () => memory.zero(frame),
  ];
  kinds[number(kinds.length)]?.();
}

describe("memory whose accesses are seen", () => {
  it("is put back to its contents after any writes, and names each word that differs from them", () => {
    const buffer = new ArrayBuffer(FRAMES * PAGE_SIZE);
    const memory = new WatchedMemory(buffer);
    const words = new Int32Array(buffer);
    const generator = xoroshiro128plus(7);
    const number = (below: number): number => (generator.next() >>> 0) % below;
    for (let i = 0; i < 50; i++)
      memory.store(FrameIndex(1 + number(FRAMES - 1)), number(99) * 4, 1);
    const contents = Array.from({ length: FRAMES }, (_, frame) =>
      memory.content(FrameIndex(frame)),
    );
    expect(contents[0]).toBeUndefined();
    const before = words.slice();
    memory.putBack();
    for (let round = 0; round < 200; round++) {
      for (let left = number(20); left > 0; left--) writes(memory, number);
      const seen = new Map<number, number>();
      for (const frame of memory.dirty)
        memory.compare(frame, contents[frame], (index, word) => seen.set(index, word));
      const differing = [...words.entries()].filter(([index, word]) => word !== before[index]);
      expect([...seen].sort(([a], [b]) => a - b)).toEqual(differing);
      memory.putBack(contents);
      expect(words).toEqual(before);
      expect(memory.dirty).toEqual([]);
    }
  });
});
