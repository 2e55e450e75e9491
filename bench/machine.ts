/**
 * The machines of the benchmark: a hypervisor in its own worker, devices in theirs, and domains without kernels, whose
 * vCPUs a job drives.
 */
import { type Part, startDevice, startHypervisor } from "../platform/node.ts";
import { reserveMemory } from "../platform/page-ops.ts";
import type { Start, Waiting } from "../platform/worker-api.ts";
import { layoutOf, machineBytes } from "../shared/layout.ts";
import type { MachineModel } from "../shared/machine.ts";
import { modelOf } from "../shared/resolve.ts";
import type { SharedMachine } from "./worker-api.ts";

const hypervisorModule = new URL("../hypervisor/main.ts", import.meta.url).href;
const deviceModule = new URL("../devices/main.ts", import.meta.url).href;

/** Indexes of the domains in the model, and their ids. */
export const MAPPER = 1;
export const GRANTER = 2;
export const USER = 3;

/** dom0, which rests, a domain that maps and drives the disk, one that grants, and one whose processes map. */
export const benchModel = (): MachineModel =>
  modelOf(
    {
      name: "bench",
      machine: { memory: "64MiB", traceRecords: 64 },
      devices: { disk: { kind: "disk" } },
      domains: {
        dom0: { kind: "dom0", memory: "4MiB" },
        mapper: { kind: "driver", memory: "8MiB", devices: ["disk"] },
        granter: { kind: "domU", memory: "8MiB" },
        user: {
          kind: "domU",
          memory: "8MiB",
          extendedRegions: [{ base: 0x1_0000_0000, size: "8MiB" }],
        },
      },
    },
    1,
  );

/** Three small domains on a small machine: what an explored run boots again and again. */
export const smallModel = (): MachineModel =>
  modelOf(
    {
      name: "small",
      machine: { memory: "8MiB", traceRecords: 16, iommu: { mode: "off" }, domains: 4, slots: 8 },
      domains: {
        dom0: { kind: "dom0", memory: "2MiB", maxMaptrackFrames: 1, maxGrantFrames: 1 },
        mapper: { kind: "domU", memory: "256KiB", maxMaptrackFrames: 1, maxGrantFrames: 1 },
        granter: { kind: "domU", memory: "256KiB", maxMaptrackFrames: 1, maxGrantFrames: 1 },
      },
    },
    1,
  );

export interface BareMachine {
  readonly shared: SharedMachine;
  close(): Promise<void>;
}

/** Boots the hypervisor and, with a file behind it, the disk. No domain has a worker. */
export async function bootBare(waiting: Waiting, diskPath?: string): Promise<BareMachine> {
  const model = benchModel();
  const layout = layoutOf(model);
  const memory = reserveMemory(machineBytes(layout));
  const control = new SharedArrayBuffer(layout.words * Int32Array.BYTES_PER_ELEMENT);
  const file = diskPath === undefined ? {} : { diskPath };
  const start: Start = { model, control, memory, module: hypervisorModule, waiting, ...file };
  const hypervisor = startHypervisor();
  const parts: Pick<Part<unknown>, "terminate">[] = [hypervisor];
  await hypervisor.alive(hypervisor.api.boot(start));
  // It answers when the machine is over; here it is terminated instead.
  hypervisor.api.run().catch(() => {});
  if (diskPath !== undefined) {
    const disk = startDevice("disk", () => {});
    parts.push(disk);
    await disk.alive(disk.api.boot({ ...start, module: deviceModule }, 0));
    disk.api.run().catch(() => {});
  }
  return {
    shared: { model, control, memory, waiting },
    close: async () => {
      for (const part of parts.toReversed()) await part.terminate();
    },
  };
}
