// How two checkouts are compared: pass by pass, by the rows that both have, and a tenth is too much.
import { describe, expect, it } from "vitest";
import { compareCheckouts, lineOfPair, pairsOf } from "../../bench/against.ts";
import { rowOf } from "../../bench/rows.ts";

const row = (name: string, ns: number) => {
  const flat = { p10: ns, p50: ns, p90: ns };
  return rowOf({ name, yardstick: "S" }, { measured: flat, yardstick: flat, ratio: 1 });
};

describe("two checkouts side by side", () => {
  it("compares each pass with its own neighbour, so that a machine that slows down slows both", () => {
    const passes = [100, 200, 400].map(
      (ns) => [[row("a map", ns * 1.05)], [row("a map", ns)]] as const,
    );
    const [pair] = pairsOf(passes);
    expect(pair?.change).toBeCloseTo(1.05);
    expect(pair?.slower).toBe(false);
  });

  it("names what became more than a tenth slower", () => {
    const [pair] = pairsOf([[[row("a map", 111)], [row("a map", 100)]]]);
    expect(pair?.slower).toBe(true);
    expect(pair && lineOfPair(pair)).toContain("✗ slower");
  });

  it("leaves out a row that only one of them has", () => {
    const pairs = pairsOf([
      [
        [row("new", 1), row("both", 1)],
        [row("both", 1), row("old", 1)],
      ],
    ]);
    expect(pairs.map(({ name }) => name)).toEqual(["both"]);
  });

  it("refuses a folder that is no checkout", async () => {
    const options = { passes: 1, quick: true };
    await expect(compareCheckouts("/nonexistent", ["grants"], options, () => {})).rejects.toThrow(
      "--against: /nonexistent is no checkout of this project",
    );
  });
});
