/**
 * The kernel's driver of the disk: one command at a time through the register page.
 *
 *   segments, file offset, command -> doorbell -> interrupt line -> status, bytes, error
 *
 * Rules: the register page is device memory; only the segments hold DMA addresses, and they are handed over
 * as they are given. The interrupt line says only that something has happened: DONE says what.
 * Ours; the driver's half of shared/abi/disk.ts.
 */
import {
  DISK_BYTES,
  DISK_COMMAND,
  DISK_COMMAND_READ,
  DISK_COMMAND_VERIFY,
  DISK_DONE,
  DISK_DOORBELL,
  DISK_ERROR_ADDRESS,
  DISK_ERROR_CODE,
  DISK_FILE_OFFSET,
  DISK_ID,
  DISK_MAGIC,
  DISK_SEGMENT_ADDRESS,
  DISK_SEGMENT_LENGTH,
  DISK_SEGMENT_LIST,
  DISK_SEGMENT_SIZE,
  DISK_SEGMENTS,
  DISK_STATUS,
} from "../../shared/abi/disk.ts";
import { assert, item } from "../../shared/assert.ts";
import { DISK_SEGMENTS_MAX, PAGE_SIZE } from "../../shared/limits.ts";
import type { BootDevice } from "../../shared/machine.ts";
import { ENODEV } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import type { DmaSegment } from "../dma.ts";
import { getU64, setU64 } from "../hypercalls.ts";
import { giveWay, type Kernel, sleep, waitLine } from "../kernel.ts";
import { loadWord, readBytes, storeWord, writeBytes } from "../memory.ts";

export interface Disk {
  readonly device: BootDevice;
  /** Guest address of the register page. */
  readonly registers: number;
  /** Number of the newest command. */
  command: number;
}

/** How a command ended. */
export interface DiskResult {
  /** DISK_STATUS_* */
  readonly status: number;
  /** Bytes that reached memory, or whatever the DMA addresses named; of a verify, those that agreed. */
  readonly bytes: number;
  /** FAULT_* of the burst that was aborted, or 0. */
  readonly errorCode: number;
  readonly errorAddress: number;
}

/** Looks a device up and finds a disk behind its registers; -ENODEV when the kernel has none by that name. */
export function* openDisk(kernel: Kernel, name?: string): Program<Disk | number> {
  const device = kernel.boot.devices.find((one) => name === undefined || one.name === name);
  if (device === undefined) return -ENODEV;
  const registers = device.registersGfn * PAGE_SIZE;
  // The device writes its id before it takes a first command; its worker may still be on its way.
  while ((yield* loadWord(kernel.cpu, registers + DISK_ID)) !== DISK_MAGIC) {
    yield* sleep(1);
    yield* giveWay(kernel);
  }
  const command = yield* loadWord(kernel.cpu, registers + DISK_DONE);
  return { device, registers, command };
}

/** Reads the file from `fileOffset` into the segments, in order; parks the task until the device is done. */
export const readDisk = (
  kernel: Kernel,
  disk: Disk,
  fileOffset: number,
  segments: readonly DmaSegment[],
): Program<DiskResult> => runCommand(kernel, disk, DISK_COMMAND_READ, fileOffset, segments);

/** Compares the segments with the file from `fileOffset`: the device reads memory. */
export const verifyDisk = (
  kernel: Kernel,
  disk: Disk,
  fileOffset: number,
  segments: readonly DmaSegment[],
): Program<DiskResult> => runCommand(kernel, disk, DISK_COMMAND_VERIFY, fileOffset, segments);

function* runCommand(
  kernel: Kernel,
  disk: Disk,
  command: number,
  fileOffset: number,
  segments: readonly DmaSegment[],
): Program<DiskResult> {
  assert(segments.length <= DISK_SEGMENTS_MAX, "a command's segments fit the register page");
  const { cpu } = kernel;
  const list = new Uint8Array(segments.length * DISK_SEGMENT_SIZE);
  const view = new DataView(list.buffer);
  for (let i = 0; i < segments.length; i++) {
    const { address, length } = item(segments, i);
    setU64(view, i * DISK_SEGMENT_SIZE + DISK_SEGMENT_ADDRESS, address);
    view.setUint32(i * DISK_SEGMENT_SIZE + DISK_SEGMENT_LENGTH, length, true);
  }
  const offset = new Uint8Array(8);
  setU64(new DataView(offset.buffer), 0, fileOffset);
  yield* writeBytes(cpu, disk.registers + DISK_SEGMENT_LIST, list, 0, list.length);
  yield* writeBytes(cpu, disk.registers + DISK_FILE_OFFSET, offset, 0, offset.length);
  yield* storeWord(cpu, disk.registers + DISK_SEGMENTS, segments.length);
  yield* storeWord(cpu, disk.registers + DISK_COMMAND, command);
  disk.command = (disk.command + 1) | 0;
  yield* storeWord(cpu, disk.registers + DISK_DOORBELL, disk.command);
  while ((yield* loadWord(cpu, disk.registers + DISK_DONE)) !== disk.command) {
    yield* waitLine(kernel, disk.device.line);
  }
  return {
    status: yield* loadWord(cpu, disk.registers + DISK_STATUS),
    bytes: yield* loadWord(cpu, disk.registers + DISK_BYTES),
    errorCode: yield* loadWord(cpu, disk.registers + DISK_ERROR_CODE),
    errorAddress: yield* errorAddress(kernel, disk),
  };
}

function* errorAddress(kernel: Kernel, disk: Disk): Program<number> {
  const bytes = new Uint8Array(8);
  yield* readBytes(kernel.cpu, disk.registers + DISK_ERROR_ADDRESS, bytes, 0, 8);
  return getU64(new DataView(bytes.buffer), 0);
}
