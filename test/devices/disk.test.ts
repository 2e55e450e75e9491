// The disk on a bench: its register protocol, its bursts and what happens when one of them is aborted.
import { describe, expect, it } from "vitest";
import {
  DISK_BYTES,
  DISK_CAPACITY,
  DISK_COMMAND,
  DISK_DONE,
  DISK_ERROR_ADDRESS,
  DISK_ERROR_CODE,
  DISK_ID,
  DISK_MAGIC,
  DISK_SEGMENT_ADDRESS,
  DISK_SEGMENT_LIST,
  DISK_SEGMENTS,
  DISK_STATUS,
  DISK_STATUS_BAD_COMMAND,
  DISK_STATUS_BUSY,
  DISK_STATUS_DMA_FAULT,
  DISK_STATUS_IDLE,
  DISK_STATUS_MEDIUM_ERROR,
  DISK_STATUS_OK,
  DISK_TRANSFER_MAX,
} from "../../shared/abi/disk.ts";
import { WALK_BLOCKED } from "../../shared/layout.ts";
import { DISK_SEGMENTS_MAX } from "../../shared/limits.ts";
import { FAULT_ADDRESS, FAULT_BLOCKED } from "../../shared/mmu.ts";
import { DEVICE_FAULT, DEVICE_RAISE } from "../../shared/trap.ts";
import { FrameIndex } from "../../shared/units.ts";
import { type Bench, fileByte, makeBench } from "./bench.ts";

const IDENTITY = { dmaRanges: [], line: 5 };

const register = (bench: Bench, offset: number) => bench.memory.load(bench.registers, offset);

/** Bytes of a frame, from `offset`. */
function bytesOf(bench: Bench, frame: number, offset: number, length: number): number[] {
  const bytes = new Uint8Array(length);
  bench.memory.read(FrameIndex(frame), offset, bytes, 0, length);
  return [...bytes];
}

const fileBytes = (from: number, length: number) =>
  Array.from({ length }, (_, i) => fileByte(from + i));

describe("the disk", () => {
  it("comes out of its reset with its id and the size of the medium, and sleeps", () => {
    const bench = makeBench(IDENTITY, 5000);
    bench.run();
    expect(register(bench, DISK_ID)).toBe(DISK_MAGIC);
    expect(register(bench, DISK_CAPACITY)).toBe(5000);
    expect(register(bench, DISK_STATUS)).toBe(DISK_STATUS_IDLE);
    expect(bench.records).toEqual([]);
  });

  it("writes the file to its segments in order and raises its line", () => {
    const bench = makeBench(IDENTITY, 100_000);
    bench.command(1000, [
      [bench.ram + 3 * 4096 + 4000, 200],
      [bench.ram + 7 * 4096, 4096],
    ]);
    bench.run();
    expect(bytesOf(bench, 3, 4000, 96)).toEqual(fileBytes(1000, 96));
    expect(bytesOf(bench, 4, 0, 104)).toEqual(fileBytes(1096, 104));
    expect(bytesOf(bench, 7, 0, 4096)).toEqual(fileBytes(1200, 4096));
    expect(register(bench, DISK_STATUS)).toBe(DISK_STATUS_OK);
    expect(register(bench, DISK_BYTES)).toBe(4296);
    expect(register(bench, DISK_DONE)).toBe(1);
    expect(bench.records).toEqual([[DEVICE_RAISE, 5, 0, 0]]);
  });

  it("hypervisor case 126: is busy while it moves bytes, and a command rewritten then has no effect", () => {
    const bench = makeBench(IDENTITY, 10_000);
    const seen: number[] = [];
    bench.onPoint = () => {
      seen.push(register(bench, DISK_STATUS));
      bench.setRegister(DISK_SEGMENT_LIST + DISK_SEGMENT_ADDRESS, bench.ram + 9 * 4096);
    };
    bench.command(0, [[bench.ram + 8 * 4096, 64]]);
    bench.run();
    expect(seen).toEqual([DISK_STATUS_BUSY, DISK_STATUS_BUSY]);
    expect(bytesOf(bench, 8, 0, 64)).toEqual(fileBytes(0, 64));
    expect(bytesOf(bench, 9, 0, 64)).toEqual(new Array(64).fill(0));
  });

  it("moves fewer bytes at the end of the file", () => {
    const bench = makeBench(IDENTITY, 100);
    bench.command(40, [
      [bench.ram, 50],
      [bench.ram + 4096, 50],
    ]);
    bench.run();
    expect(register(bench, DISK_STATUS)).toBe(DISK_STATUS_OK);
    expect(register(bench, DISK_BYTES)).toBe(60);
    expect(bytesOf(bench, 1, 0, 11)).toEqual([...fileBytes(90, 10), 0]);
  });

  it("stops at the burst that nobody answers, and says where", () => {
    const bench = makeBench(IDENTITY, 10_000);
    bench.command(0, [
      [bench.ram, 4096],
      [0x123_4567_8000, 4096],
      [bench.ram + 4096, 100],
    ]);
    bench.run();
    expect(register(bench, DISK_STATUS)).toBe(DISK_STATUS_DMA_FAULT);
    expect(register(bench, DISK_BYTES)).toBe(4096);
    expect(register(bench, DISK_ERROR_CODE)).toBe(FAULT_ADDRESS);
    expect(register(bench, DISK_ERROR_ADDRESS) >>> 0).toBe(0x4567_8000);
    expect(register(bench, DISK_ERROR_ADDRESS + 4)).toBe(0x123);
    expect(bytesOf(bench, 1, 0, 100)).toEqual(new Array(100).fill(0));
    expect(bench.records).toEqual([
      [DEVICE_FAULT, 0x1_2345_678, 1, FAULT_ADDRESS],
      [DEVICE_RAISE, 5, 0, 0],
    ]);
  });

  it("stops at its next burst when its context is taken away in the middle, and lives on", () => {
    const bench = makeBench(IDENTITY, 100_000);
    let bursts = 0;
    bench.onPoint = (inside) => {
      if (inside && ++bursts === 2) bench.setMode(WALK_BLOCKED);
    };
    bench.command(0, [[bench.ram, 4 * 4096]]);
    bench.run();
    expect(register(bench, DISK_STATUS)).toBe(DISK_STATUS_DMA_FAULT);
    expect(register(bench, DISK_BYTES)).toBe(2 * 4096);
    expect(register(bench, DISK_ERROR_CODE)).toBe(FAULT_BLOCKED);
    bench.command(0, [[bench.ram, 1]]);
    bench.run();
    expect(register(bench, DISK_DONE)).toBe(2);
  });

  it("undoes the bus offset of its port, and aborts outside its window", () => {
    const bench = makeBench({ busOffset: "0xc000_0000" }, 1000);
    bench.command(0, [
      [bench.ram + 0xc000_0000, 10],
      [bench.ram, 10],
    ]);
    bench.run();
    expect(bytesOf(bench, 0, 0, 10)).toEqual(fileBytes(0, 10));
    expect(register(bench, DISK_STATUS)).toBe(DISK_STATUS_DMA_FAULT);
    expect(register(bench, DISK_BYTES)).toBe(10);
  });

  it.each([
    ["no segment", (_bench: Bench) => [] as [number, number][]],
    ["more bytes than one command moves", (bench: Bench) => [[bench.ram, DISK_TRANSFER_MAX + 1]]],
    ["a length whose top bit is set", (bench: Bench) => [[bench.ram, -4096]]],
    [
      "more segments than the register page has",
      (bench: Bench) => new Array(DISK_SEGMENTS_MAX + 1).fill([bench.ram, 1]),
    ],
  ] as [string, (bench: Bench) => [number, number][]][])(
    "refuses a command with %s",
    (_, segments) => {
      const bench = makeBench(IDENTITY, 1000);
      const list = segments(bench);
      bench.command(0, list.slice(0, DISK_SEGMENTS_MAX));
      if (list.length > DISK_SEGMENTS_MAX) bench.setRegister(DISK_SEGMENTS, list.length);
      bench.run();
      expect(register(bench, DISK_STATUS)).toBe(DISK_STATUS_BAD_COMMAND);
      expect(register(bench, DISK_BYTES)).toBe(0);
      expect(register(bench, DISK_DONE)).toBe(1);
    },
  );

  it("refuses a command that it does not know", () => {
    const bench = makeBench(IDENTITY, 1000);
    bench.command(0, [[bench.ram, 10]]);
    bench.setRegister(DISK_COMMAND, 9);
    bench.run();
    expect(register(bench, DISK_STATUS)).toBe(DISK_STATUS_BAD_COMMAND);
  });

  it("reports a medium that cannot be read and moves nothing", () => {
    const bench = makeBench(IDENTITY, -1);
    bench.command(0, [[bench.ram, 10]]);
    bench.run();
    expect(register(bench, DISK_STATUS)).toBe(DISK_STATUS_MEDIUM_ERROR);
    expect(bench.records).toEqual([[DEVICE_RAISE, 5, 0, 0]]);
  });

  it("identifies itself again after its registers were cleared for a new owner", () => {
    const bench = makeBench(IDENTITY, 1000);
    bench.command(0, [[bench.ram, 10]]);
    bench.run();
    bench.memory.zero(bench.registers);
    bench.command(0, []);
    bench.run();
    expect(register(bench, DISK_ID)).toBe(DISK_MAGIC);
    expect(register(bench, DISK_CAPACITY)).toBe(1000);
  });
});
