// A device on its own: its slot laid out by hand, its traps answered on the spot, no hypervisor.
import { bootDevice } from "../../devices/main.ts";
import {
  DISK_COMMAND,
  DISK_COMMAND_READ,
  DISK_DOORBELL,
  DISK_FILE_OFFSET,
  DISK_SEGMENT_ADDRESS,
  DISK_SEGMENT_LENGTH,
  DISK_SEGMENT_LIST,
  DISK_SEGMENT_SIZE,
  DISK_SEGMENTS,
} from "../../shared/abi/disk.ts";
import { raiseEvent } from "../../shared/channel.ts";
import {
  LINE,
  layoutOf,
  lineOf,
  machineBytes,
  SLOT_KIND_DEVICE,
  SLOT_LIVE,
  WALK_BARE,
  writeChunkTable,
} from "../../shared/layout.ts";
import { load, MachineMemory, wordsOf } from "../../shared/mem.ts";
import { resolve } from "../../shared/resolve.ts";
import type { DeviceSpec } from "../../shared/scenario.ts";
import {
  type Program,
  RECORD_OP,
  recordArg,
  TRAP_BLOCK,
  TRAP_HOST_READ,
  TRAP_HYPERCALL,
  TRAP_POINT,
} from "../../shared/trap.ts";
import { FrameIndex } from "../../shared/units.ts";

export const SLOT = 1;

/** Byte `i` of the file behind the disk. */
export const fileByte = (i: number): number => (i * 7 + (i >> 8)) & 0xff;

export interface Bench {
  readonly memory: MachineMemory;
  readonly registers: FrameIndex;
  /** Address of the first byte of RAM. */
  readonly ram: number;
  /** Records that the device has pushed: op, then its arguments. */
  readonly records: number[][];
  /** Runs before each yield of a point. */
  onPoint: (inside: boolean) => void;
  /** Runs while the medium is read: the command has been taken, and no byte has moved. */
  onHostRead: () => void;
  setMode(mode: number): void;
  setRegister(offset: number, value: number): void;
  command(fileOffset: number, segments: readonly (readonly [number, number])[]): void;
  /** Steps the device until it sleeps; returns the number of traps. */
  run(): number;
}

export function makeBench(spec: Partial<DeviceSpec>, fileBytes: number): Bench {
  const { model } = resolve(
    {
      name: "bench",
      machine: { memory: "16MiB", iommu: { mode: "off" } },
      devices: { disk: { kind: "disk", ...spec } },
      domains: { dom0: { kind: "dom0", memory: "4MiB", extendedRegions: [] } },
    },
    { settings: [], parameters: {}, seed: 1 },
  );
  const layout = layoutOf(model);
  const words = wordsOf(new ArrayBuffer(layout.words * 4));
  const memory = new MachineMemory(new ArrayBuffer(machineBytes(layout)));
  writeChunkTable(layout, words);
  const line = lineOf(layout, SLOT);
  words[layout.deviceSlot] = SLOT;
  words[line + LINE.KIND] = SLOT_KIND_DEVICE;
  words[line + LINE.STATE] = SLOT_LIVE;
  words[line + LINE.MODE] = WALK_BARE;
  const registers = FrameIndex(layout.ramFrames);
  const program = bootDevice({ words, memory, layout, index: 0, points: true }, fileBytes);
  const records: number[][] = [];
  const setRegister = (offset: number, value: number) => memory.store(registers, offset, value);
  const setPair = (offset: number, value: number) => {
    setRegister(offset, value | 0);
    setRegister(offset + 4, Math.floor(value / 2 ** 32));
  };
  let doorbell = 0;
  const bench: Bench = {
    memory,
    registers,
    ram: model.banks[0]?.base ?? 0,
    records,
    onPoint: () => {},
    onHostRead: () => {},
    setMode: (mode) => {
      words[line + LINE.MODE] = mode;
      words[line + LINE.GENERATION] = (words[line + LINE.GENERATION] ?? 0) + 1;
    },
    setRegister,
    command: (fileOffset, segments) => {
      segments.forEach(([address, length], i) => {
        const at = DISK_SEGMENT_LIST + i * DISK_SEGMENT_SIZE;
        setPair(at + DISK_SEGMENT_ADDRESS, address);
        setRegister(at + DISK_SEGMENT_LENGTH, length);
      });
      setPair(DISK_FILE_OFFSET, fileOffset);
      setRegister(DISK_SEGMENTS, segments.length);
      setRegister(DISK_COMMAND, DISK_COMMAND_READ);
      doorbell++;
      setRegister(DISK_DOORBELL, doorbell);
      raiseEvent(words, layout, SLOT);
    },
    run: () => step(bench, program, () => load(words, line + LINE.EVENT), fileBytes),
  };
  return bench;
}

function step(bench: Bench, program: Program<never>, event: () => number, fileBytes: number) {
  let input = 0;
  for (let traps = 0; ; traps++) {
    const { value: trap } = program.next(input);
    input = 0;
    if (trap.kind === TRAP_BLOCK) {
      if (event() === trap.seen) return traps;
      input = event();
    } else if (trap.kind === TRAP_POINT) {
      bench.onPoint(trap.inside);
    } else if (trap.kind === TRAP_HYPERCALL) {
      const { record } = trap;
      bench.records.push([record[RECORD_OP] ?? 0, ...[0, 1, 2].map((i) => recordArg(record, i))]);
    } else if (trap.kind === TRAP_HOST_READ) {
      bench.onHostRead();
      if (fileBytes < 0) input = -1;
      else input = Math.max(0, Math.min(trap.length, fileBytes - trap.offset));
      for (let i = 0; i < input; i++) trap.into[i] = fileByte(trap.offset + i);
    }
  }
}
