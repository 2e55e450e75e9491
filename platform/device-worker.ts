/**
 * Worker entry of a device: its program, on its slot, with the host's file behind it.
 */
import { layoutOf } from "../shared/layout.ts";
import { MachineMemory, wordsOf } from "../shared/mem.ts";
import { delaysOf } from "./delays.ts";
import { openHost } from "./host.ts";
import { bufferOf } from "./page-ops.ts";
import { Runner, SLOT_LOST } from "./runner.ts";
import type { DeviceApi, DeviceModule, End, Start } from "./worker-api.ts";
import { CLIENT_PROBES_EVERY, endOf, loadModule, policyOf, post, serve } from "./worker-common.ts";

let run: () => End = () => ({ how: "fault", error: "the device has not booted" });

async function boot(start: Start, index: number): Promise<void> {
  const module = await loadModule<DeviceModule>(start.module);
  const words = wordsOf(start.control);
  const memory = new MachineMemory(bufferOf(start.memory));
  const layout = layoutOf(start.model);
  const host = openHost(start.diskPath);
  run = () =>
    endOf(() => {
      const program = module.bootDevice(
        { words, memory, layout, index, points: start.delaySeed !== undefined },
        host.sizeBytes,
      );
      const runner = new Runner({
        words,
        layout,
        slot: index + 1,
        policy: policyOf(start.waiting, CLIENT_PROBES_EVERY),
        host,
        report: (key, value) => post({ kind: "report", key, value }),
        ...(start.delaySeed === undefined ? {} : { delay: delaysOf(start.delaySeed, index + 1) }),
      });
      return runner.run<unknown>(program) === SLOT_LOST ? "lost" : "returned";
    });
}

serve({ boot, run: () => run() } satisfies Record<keyof DeviceApi, unknown>);
