/**
 * The disk: reads a host file and writes it to DMA addresses, or compares it with what lies there. Register page: shared/abi/disk.ts.
 *
 *   asleep on the event word -> DOORBELL = DONE + 1 -> copy the command -> read the medium into private memory ->
 *   burst by burst to, or from, the segments -> status, DONE -> interrupt
 *
 * Rules: the command is copied once, so that a driver that rewrites it changes nothing; host input stands
 * outside every access; the owner may die at any moment: the transfer then stops at the fault it meets, and the
 * disk waits for its next command.
 * Ours, after any controller with a doorbell and a scatter list.
 */
import {
  DISK_BYTES,
  DISK_CAPACITY,
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
  DISK_STATUS_BAD_COMMAND,
  DISK_STATUS_BUSY,
  DISK_STATUS_DMA_FAULT,
  DISK_STATUS_IDLE,
  DISK_STATUS_MEDIUM_ERROR,
  DISK_STATUS_MISCOMPARE,
  DISK_STATUS_OK,
  DISK_TRANSFER_MAX,
} from "../shared/abi/disk.ts";
import { LINE, lineOf } from "../shared/layout.ts";
import { DISK_SEGMENTS_MAX } from "../shared/limits.ts";
import { load } from "../shared/mem.ts";
import { type BlockTrap, type Program, TRAP_BLOCK, TRAP_HOST_READ } from "../shared/trap.ts";
import { type Device, type DmaFault, raise, readBytes, writeBytes } from "./device.ts";

/** What the driver asked for, copied from the registers. */
interface Command {
  /** DISK_COMMAND_* */
  readonly command: number;
  readonly fileOffset: number;
  readonly segments: readonly Segment[];
  /** Sum of the lengths. */
  readonly length: number;
}

interface Segment {
  readonly address: number;
  readonly length: number;
}

/** How a command ended: the registers that tell the driver. */
interface Outcome {
  readonly status: number;
  readonly bytes: number;
  readonly fault?: DmaFault;
}

/** The disk's life: it never returns. `capacity` is the size of the medium in bytes. */
export function* disk(device: Device, capacity: number): Program<never> {
  const event = lineOf(device.layout, device.slot) + LINE.EVENT;
  const block: BlockTrap = { kind: TRAP_BLOCK, seen: 0 };
  let buffer = new Uint8Array(0);
  for (;;) {
    // The event word is read before the doorbell, so that no command is slept through.
    const seen = load(device.words, event);
    // Whoever is handed the disk finds its registers cleared: that is its reset.
    if (register(device, DISK_ID) !== DISK_MAGIC) identify(device, capacity);
    const number = register(device, DISK_DOORBELL);
    if (number !== ((register(device, DISK_DONE) + 1) | 0)) {
      block.seen = seen;
      yield block;
      continue;
    }
    setRegister(device, DISK_STATUS, DISK_STATUS_BUSY);
    const command = readCommand(device);
    if (command !== undefined && command.length > buffer.length) {
      buffer = new Uint8Array(command.length);
    }
    const outcome = command === undefined ? BAD_COMMAND : yield* transfer(device, command, buffer);
    finish(device, outcome, number);
    yield* raise(device);
  }
}

/** The registers after a reset; DISK_ID last, so that a driver that sees it may read the rest. */
function identify(device: Device, capacity: number): void {
  setRegister64(device, DISK_CAPACITY, capacity);
  setRegister(device, DISK_STATUS, DISK_STATUS_IDLE);
  setRegister(device, DISK_ID, DISK_MAGIC);
}

const BAD_COMMAND: Outcome = { status: DISK_STATUS_BAD_COMMAND, bytes: 0 };

/** Copies the command out of the registers; undefined when a number in it is out of range. */
function readCommand(device: Device): Command | undefined {
  const command = register(device, DISK_COMMAND);
  if (command !== DISK_COMMAND_READ && command !== DISK_COMMAND_VERIFY) return undefined;
  const count = register(device, DISK_SEGMENTS);
  if (count < 1 || count > DISK_SEGMENTS_MAX) return undefined;
  const segments: Segment[] = [];
  let length = 0;
  for (let i = 0; i < count; i++) {
    const at = DISK_SEGMENT_LIST + i * DISK_SEGMENT_SIZE;
    const segment = {
      address: register64(device, at + DISK_SEGMENT_ADDRESS),
      length: register(device, at + DISK_SEGMENT_LENGTH) >>> 0,
    };
    segments.push(segment);
    length += segment.length;
  }
  if (length === 0 || length > DISK_TRANSFER_MAX) return undefined;
  const fileOffset = register64(device, DISK_FILE_OFFSET);
  if (fileOffset > Number.MAX_SAFE_INTEGER) return undefined;
  return { command, fileOffset, segments, length };
}

/** Moves the bytes of one command. */
function* transfer(device: Device, command: Command, buffer: Uint8Array): Program<Outcome> {
  const found = yield {
    kind: TRAP_HOST_READ,
    offset: command.fileOffset,
    into: buffer,
    length: command.length,
  };
  if (found < 0) return { status: DISK_STATUS_MEDIUM_ERROR, bytes: 0 };
  return command.command === DISK_COMMAND_VERIFY
    ? yield* verify(device, command, buffer, found)
    : yield* writeOut(device, command, buffer, found);
}

/** Writes the `found` bytes of the buffer to the segments. */
function* writeOut(
  device: Device,
  command: Command,
  buffer: Uint8Array,
  found: number,
): Program<Outcome> {
  let bytes = 0;
  for (const segment of command.segments) {
    const length = Math.min(segment.length, found - bytes);
    const fault = yield* writeBytes(device, segment.address, buffer, bytes, length);
    if (fault !== undefined) {
      bytes += fault.address - segment.address;
      return { status: DISK_STATUS_DMA_FAULT, bytes, fault };
    }
    bytes += length;
  }
  return { status: DISK_STATUS_OK, bytes };
}

/** Compares the segments with the `found` bytes of the buffer. */
function* verify(
  device: Device,
  command: Command,
  buffer: Uint8Array,
  found: number,
): Program<Outcome> {
  const memory = new Uint8Array(found);
  let bytes = 0;
  for (const segment of command.segments) {
    const length = Math.min(segment.length, found - bytes);
    const fault = yield* readBytes(device, segment.address, memory, bytes, length);
    if (fault !== undefined) return { status: DISK_STATUS_DMA_FAULT, bytes, fault };
    bytes += length;
  }
  const differs = memory.findIndex((byte, i) => i < bytes && byte !== buffer[i]);
  return differs < 0
    ? { status: DISK_STATUS_OK, bytes }
    : { status: DISK_STATUS_MISCOMPARE, bytes: differs };
}

/** Writes the outcome, and DONE last: a driver that sees it may read the rest. */
function finish(device: Device, outcome: Outcome, number: number): void {
  setRegister(device, DISK_BYTES, outcome.bytes);
  setRegister(device, DISK_ERROR_CODE, outcome.fault?.code ?? 0);
  setRegister64(device, DISK_ERROR_ADDRESS, outcome.fault?.address ?? 0);
  setRegister(device, DISK_STATUS, outcome.status);
  setRegister(device, DISK_DONE, number);
}

const register = (device: Device, offset: number): number =>
  device.memory.load(device.registers, offset);

const setRegister = (device: Device, offset: number, value: number): void =>
  device.memory.store(device.registers, offset, value);

/** Above 2^53 the precision is lost, but not that it is too much. */
const register64 = (device: Device, offset: number): number =>
  (register(device, offset + 4) >>> 0) * 2 ** 32 + (register(device, offset) >>> 0);

function setRegister64(device: Device, offset: number, value: number): void {
  setRegister(device, offset, value | 0);
  setRegister(device, offset + 4, Math.floor(value / 2 ** 32));
}
