// How the benchmark judges: a row fails by its ratio alone, and only a fifth beyond its target.
import { describe, expect, it } from "vitest";
import { compare, type Probe, spreadOf } from "../../bench/measure.ts";
import { lineOfRow, type RowSpec, rowOf } from "../../bench/rows.ts";

const flat = (ns: number) => ({ p10: ns, p50: ns, p90: ns });
const judge = (ratio: number, spec: Partial<RowSpec>) =>
  rowOf(
    { name: "a row", yardstick: "S", ...spec },
    { measured: flat(100 * ratio), yardstick: flat(100), ratio },
  );

describe("a row of the benchmark", () => {
  it("passes within its target, is near up to a fifth beyond it, and fails beyond that", () => {
    const outcomes = [1.4, 1.41, 1.68, 1.69].map(
      (ratio) => judge(ratio, { target: { most: 1.4 } }).outcome,
    );
    expect(outcomes).toEqual(["pass", "near", "near", "fail"]);
  });

  it("asks how many times faster it is when its target is a least factor", () => {
    const row = judge(1 / 150, { target: { least: 180 } });
    expect(row.ratio).toBeCloseTo(150);
    expect(row.outcome).toBe("near");
    expect(judge(1 / 149, { target: { least: 180 } }).outcome).toBe("fail");
  });

  it("is skipped with its reason however bad its ratio is", () => {
    const row = judge(100, { target: { most: 1 }, skip: "fewer than two cores" });
    expect(row.outcome).toBe("skip");
    expect(lineOfRow(row)).toContain("fewer than two cores");
  });

  it("informs and never fails without a target", () => {
    expect(judge(1000, {}).outcome).toBe("info");
  });

  it("shows times in the unit that it names", () => {
    const row = judge(20_000, { unit: "ms", scale: 1e6 });
    expect(row.value).toBe(2);
    expect(row.spread.p90).toBe(2);
  });
});

describe("a comparison", () => {
  const scripted = (name: string, log: string[], ns: () => number): Probe => ({
    name,
    calibrate: async () => {},
    round: async (chunks) => {
      log.push(name);
      return new Float64Array(chunks).fill(ns());
    },
    close: async () => {},
  });

  it("runs the two alternately, so that a neighbour slows both", async () => {
    const log: string[] = [];
    const pace = { rounds: 3, chunks: 4, chunkUs: 1 };
    await compare(
      scripted("a", log, () => 1),
      scripted("b", log, () => 1),
      pace,
    );
    expect(log.slice(-6).join("")).toBe("ababab");
  });

  it("compares medians of rounds: one disturbed round of five changes nothing", async () => {
    let rounds = 0;
    const measured = scripted("a", [], () => (++rounds === 4 ? 5000 : 200));
    const yardstick = scripted("b", [], () => 100);
    const { ratio } = await compare(measured, yardstick, { rounds: 5, chunks: 4, chunkUs: 1 });
    expect(ratio).toBe(2);
  });

  it("spreads over all chunks", () => {
    const { p10, p50, p90 } = spreadOf(Float64Array.from({ length: 100 }, (_, i) => 100 - i));
    expect([p10, p50, p90]).toEqual([11, 51, 91]);
  });
});
