/**
 * Map and unmap of a grant: the bare loop over the tables, the handlers without a channel, and through the channel.
 */
import { bootBare } from "../machine.ts";
import { type Row, rowOf } from "../rows.ts";
import { startProbe } from "../workers.ts";
import type { Bench } from "../yardsticks.ts";

/** Batch and target against L. One element a call is two whole round trips. */
const BATCHES = [
  { batch: 1, most: 11, number: 16 },
  { batch: 32, most: 1.7, number: 15 },
  { batch: 128, most: 1.5, number: 15 },
] as const;
const BATCH = 32;

export async function grantRows(bench: Bench): Promise<readonly Row[]> {
  const rows: Row[] = [
    await bench.row(
      {
        name: "map+unmap, bare loop over the tables, L (14)",
        yardstick: "C",
        target: { most: 2.4 },
      },
      "grants-bare",
      { batch: BATCH },
    ),
    await bench.row(
      {
        name: "map+unmap, handlers alone, batch 32",
        yardstick: "L",
        note: "every check of Xen, arguments in guest memory, no channel",
      },
      "grants-direct",
      { batch: 32 },
    ),
  ];
  const machine = await bootBare("adaptive");
  const alone = await startProbe("grants-direct", { batch: BATCH });
  try {
    for (const { batch, most, number } of BATCHES) {
      const name = `map+unmap through the channel, batch ${batch} (${number})`;
      const setup = { machine: machine.shared, batch };
      rows.push(await bench.row({ name, yardstick: "L", target: { most } }, "grants", setup));
    }
    const setup = { machine: machine.shared, batch: BATCH };
    const name = `map+unmap through the channel, batch ${BATCH}, to handlers alone`;
    rows.push(rowOf({ name, yardstick: "alone" }, await bench.measure("grants", setup, alone)));
  } finally {
    await alone.close();
    await machine.close();
  }
  return rows;
}
