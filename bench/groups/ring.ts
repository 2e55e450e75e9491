/**
 * The channel alone as a ring of 64-byte records, one at a time and in batches.
 */

import { reserveMemory } from "../../platform/page-ops.ts";
import { layoutOf, machineBytes } from "../../shared/layout.ts";
import { benchModel } from "../machine.ts";
import { type Row, rowOf } from "../rows.ts";
import { startPeer, startProbe } from "../workers.ts";
import type { Bench } from "../yardsticks.ts";

const BATCH = 32;

export async function ringRows(bench: Bench): Promise<readonly Row[]> {
  const model = benchModel();
  const layout = layoutOf(model);
  const machine = {
    model,
    control: new SharedArrayBuffer(layout.words * Int32Array.BYTES_PER_ELEMENT),
    memory: reserveMemory(machineBytes(layout)),
    waiting: "adaptive",
  } as const;
  const server = await startPeer("ring-server", { machine });
  const single = await startProbe("ring-client", { machine, batch: 1 });
  try {
    return await bench.onTwoCores(async (skipped) => {
      const against = await bench.measure("ring-client", { machine, batch: BATCH }, single);
      const absolute = await bench.measure("ring-client", { machine, batch: BATCH }, "S");
      const skip = await skipped([absolute.yardstick]);
      return [
        rowOf(
          {
            name: "64-byte record, batch 32, against batch 1 (9)",
            yardstick: "one",
            target: { most: 0.22 },
            skip,
          },
          against,
        ),
        rowOf(
          {
            name: "64-byte record, batch 32 (11)",
            yardstick: "S",
            target: { most: 0.1 },
            skip,
            note: "every record is published and rings the doorbell by itself",
          },
          absolute,
        ),
      ];
    });
  } finally {
    await single.close();
    await server.close();
  }
}
