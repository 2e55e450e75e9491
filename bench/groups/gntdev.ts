/**
 * What a process pays for a mapped page: gntdev from the request to its end, beside the two bare hypercalls of the same
 * batch on the same machine.
 */
import { bootBare } from "../machine.ts";
import { type Row, rowOf, short } from "../rows.ts";
import { startProbe } from "../workers.ts";
import type { Bench } from "../yardsticks.ts";

const BATCHES = [1, 32, 1024] as const;

export async function gntdevRows(bench: Bench): Promise<readonly Row[]> {
  const rows: Row[] = [];
  for (const batch of BATCHES) {
    // A kernel boots once on its slot: each size has a machine of its own.
    const machine = await bootBare("adaptive");
    const setup = { machine: machine.shared, batch };
    const bare = await startProbe("grants", setup);
    try {
      const comparison = await bench.measure("gntdev", setup, bare);
      const perPage = (ns: number): string => `${short(ns)} ns`;
      const note = `a page: ${perPage(comparison.measured.p50)}, the hypercalls alone ${perPage(comparison.yardstick.p50)}`;
      const pages = batch === 1 ? "1 page" : `${batch} pages`;
      rows.push(
        rowOf(
          { name: `gntdev map+unmap, ${pages}, end to end`, yardstick: "bare", note },
          comparison,
        ),
      );
    } finally {
      await bare.close();
      await machine.close();
    }
  }
  return rows;
}
