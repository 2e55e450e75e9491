/**
 * Boot of a device: the program of its kind, on its slot. The same on threads and in the explorer.
 */
import type { Program } from "../shared/trap.ts";
import { createDevice, type DeviceOptions } from "./device.ts";
import { disk } from "./disk.ts";

/** The program of device `options.index`. `capacity` is the size in bytes of the file behind it. */
export function bootDevice(options: DeviceOptions, capacity: number): Program<never> {
  const device = createDevice(options);
  switch (device.model.kind) {
    case "disk":
      return disk(device, capacity);
  }
}
