/**
 * A guest's way to its memory: walk, TLB, bracket, a word and a page; and pages without any of them.
 */
import { type Row, rowOf } from "../rows.ts";
import { startProbe } from "../workers.ts";
import type { Bench } from "../yardsticks.ts";

export async function accessRows(bench: Bench): Promise<readonly Row[]> {
  return [
    await bench.row(
      { name: "three-level walk, local gfns (17)", yardstick: "R", target: { most: 4 } },
      "walk",
    ),
    await tlbRow(bench),
    await bench.row(
      { name: "guest load of a word, MMU and bracket (19)", yardstick: "R", target: { most: 45 } },
      "guest-word",
    ),
    await bench.row(
      {
        name: "guest copy of a page, MMU and bracket (20)",
        yardstick: "W",
        target: { most: 1.35 },
      },
      "guest-page",
    ),
  ];
}

/** An access by the TLB, less what its bracket costs alone: the two are not to be had apart. */
async function tlbRow(bench: Bench): Promise<Row> {
  const bracket = await bench.measure("bracket", {}, "R");
  const access = await bench.measure("tlb-hit", {}, "R");
  const less = (part: "p10" | "p50" | "p90"): number =>
    Math.max(0, access.measured[part] - bracket.measured.p50);
  return rowOf(
    {
      name: "TLB hit with generation check (18)",
      yardstick: "R",
      target: { most: 4 },
      note: `an access (${access.measured.p50.toFixed(1)} ns) less its bare bracket (${bracket.measured.p50.toFixed(1)} ns)`,
    },
    {
      measured: { p10: less("p10"), p50: less("p50"), p90: less("p90") },
      yardstick: access.yardstick,
      ratio: Math.max(0, access.ratio - bracket.ratio),
    },
  );
}

export async function pageRows(bench: Bench): Promise<readonly Row[]> {
  const pairs = [
    {
      name: "page copy, times faster than set(subarray) (21)",
      of: "wasm-copy",
      to: "view-copy",
      least: 3.5,
    },
    { name: "page zero, times faster than fill (21)", of: "wasm-zero", to: "view-zero", least: 20 },
  ] as const;
  const rows: Row[] = [];
  for (const { name, of, to, least } of pairs) {
    const other = await startProbe(to);
    const comparison = await bench.measure(of, {}, other);
    await other.close();
    const yardstick = to === "view-copy" ? "set" : "fill";
    rows.push(rowOf({ name, yardstick, target: { least } }, comparison));
  }
  return rows;
}
