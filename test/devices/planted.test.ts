// Bugs planted into copies of the bus and the disk: each check of the other files here is seen to fail on one of them.
import { afterAll, describe, expect, it } from "vitest";
import {
  DISK_SEGMENT_ADDRESS,
  DISK_SEGMENT_LIST,
  DISK_STATUS,
  DISK_STATUS_DMA_FAULT,
} from "../../shared/abi/disk.ts";
import { NOT_PRESENT } from "../../shared/limits.ts";
import { DEVICE_FAULT } from "../../shared/trap.ts";
import { FrameIndex } from "../../shared/units.ts";
import { type Patch, type PlantedTree, plant } from "../explore/planted.ts";

type Bus = typeof import("../../devices/bus.ts");
type Benches = typeof import("./bench.ts");
interface Parts {
  readonly bus: Bus;
  readonly benches: Benches;
}

const GIB = 2 ** 30;
const PORT = { dmaRanges: [{ dma: 3 * GIB, cpu: 0, size: GIB }], addressWidth: 33 };
const IDENTITY = { dmaRanges: [], line: 5 };

/** The claims of bus.test.ts and disk.test.ts that the planted bugs break. */
const CLAIMS: readonly [claim: string, patch: Patch, holds: (parts: Parts) => boolean][] = [
  [
    "the address behind the end of a window is aborted",
    {
      file: "devices/bus.ts",
      from: "dma < range.dma + range.size",
      to: "dma <= range.dma + range.size",
    },
    ({ bus }) => bus.busAddress(PORT, 4 * GIB) === NOT_PRESENT,
  ],
  [
    "an offset is taken off, not added again",
    {
      file: "devices/bus.ts",
      from: "return range.cpu + (dma - range.dma)",
      to: "return range.cpu + dma",
    },
    ({ bus }) => bus.busAddress(PORT, 3 * GIB + 8) === 8,
  ],
  [
    "a burst ends with its page",
    {
      file: "devices/bus.ts",
      from: "Math.min(left, PAGE_SIZE - (dma % PAGE_SIZE))",
      to: "Math.min(left, PAGE_SIZE)",
    },
    ({ bus }) => bus.burstLength(0x1ffc, 10_000) === 4,
  ],
  [
    "a command that is rewritten after it was taken has no effect",
    {
      file: "devices/disk.ts",
      from: "yield* writeBytes(device, segment.address,",
      to: "yield* writeBytes(device, register64(device, DISK_SEGMENT_LIST + DISK_SEGMENT_ADDRESS),",
    },
    ({ benches }) => {
      const bench = benches.makeBench(IDENTITY, 10_000);
      const away = bench.ram + 9 * 4096;
      bench.onHostRead = () =>
        bench.setRegister(DISK_SEGMENT_LIST + DISK_SEGMENT_ADDRESS, away | 0);
      bench.command(0, [[bench.ram + 8 * 4096, 64]]);
      bench.run();
      const byte = new Uint8Array(2);
      bench.memory.read(FrameIndex(8), 1, byte, 0, 1);
      bench.memory.read(FrameIndex(9), 1, byte, 1, 1);
      return byte[0] === benches.fileByte(1) && byte[1] === 0;
    },
  ],
  [
    "an aborted burst ends the command and is told to the IOMMU's driver",
    {
      file: "devices/device.ts",
      from: "if (code === FAULT_OFF) return code;",
      to: "return code;",
    },
    ({ benches }) => {
      const bench = benches.makeBench(IDENTITY, 10_000);
      bench.command(0, [[0x123_4567_8000, 4096]]);
      bench.run();
      const status = bench.memory.load(bench.registers, DISK_STATUS);
      return status === DISK_STATUS_DMA_FAULT && bench.records[0]?.[0] === DEVICE_FAULT;
    },
  ],
];

const trees: PlantedTree[] = [];
afterAll(() => {
  for (const tree of trees) tree.remove();
});

describe("a claim about devices that holds, and does not with a bug planted against it", () => {
  it.each(CLAIMS.map((claim, n) => [...claim, n] as const))("%s", async (_, patch, holds, n) => {
    const real = {
      bus: await import("../../devices/bus.ts"),
      benches: await import("./bench.ts"),
    };
    expect(holds(real)).toBe(true);
    const tree = plant(`device-${n}`, [patch]);
    trees.push(tree);
    const bus = await tree.load<Bus>("devices/bus.ts");
    const benches = await tree.load<Benches>("test/devices/bench.ts");
    expect(holds({ bus, benches })).toBe(false);
  });
});
