/**
 * What a device program is given, and its port to the memory system: one burst at a time, through the bus
 * and its IOMMU or bare.
 *
 * Rules: a device knows bus addresses only; a burst stays inside one page and is one access; what the bus or
 * the IOMMU aborts is told to the hypervisor (its fault interrupt) and ends the transfer, never the device.
 * Behaviour: Arm SMMU architecture, translation and permission faults that terminate a transaction.
 */
import { item } from "../shared/assert.ts";
import { iommuSettings } from "../shared/iommu-settings.ts";
import type { Layout } from "../shared/layout.ts";
import { NOT_PRESENT, PAGE_SIZE } from "../shared/limits.ts";
import type { DeviceModel } from "../shared/machine.ts";
import type { MachineMemory, Words } from "../shared/mem.ts";
import {
  ACCESS_OK,
  ACCESS_READ,
  ACCESS_WRITE,
  FAULT_ADDRESS,
  FAULT_OFF,
  Mmu,
} from "../shared/mmu.ts";
import { TRACE_DMA, trace } from "../shared/trace.ts";
import {
  DEVICE_FAULT,
  DEVICE_RAISE,
  type HypercallTrap,
  hypercallTrap,
  type PointTrap,
  type Program,
  setRecord,
  TRAP_POINT,
} from "../shared/trap.ts";
import { FrameIndex } from "../shared/units.ts";
import { burstLength, busAddress } from "./bus.ts";

export interface Device {
  readonly words: Words;
  readonly memory: MachineMemory;
  readonly layout: Layout;
  /** Slot of the device. */
  readonly slot: number;
  readonly model: DeviceModel;
  /** Frame of its register page: its own registers, so it reads and writes them without translation. */
  readonly registers: FrameIndex;
  /** Whether bursts are points: true in the explorer, false on threads. */
  readonly points: boolean;
  readonly mmu: Mmu;
  readonly call: HypercallTrap;
}

export interface DeviceOptions {
  readonly words: Words;
  readonly memory: MachineMemory;
  readonly layout: Layout;
  /** Index in the model's list of devices; its slot is one more, as slot 0 is the toolstack's. */
  readonly index: number;
  readonly points: boolean;
}

export function createDevice(options: DeviceOptions): Device {
  const { words, memory, layout, index, points } = options;
  const slot = index + 1;
  return {
    words,
    memory,
    layout,
    slot,
    model: item(layout.model.devices, index),
    registers: FrameIndex(layout.ramFrames + index),
    points,
    mmu: new Mmu(words, memory, layout, slot, iommuSettings(layout.model).iotlb.entries),
    call: hypercallTrap(),
  };
}

/** A place between two bursts. */
const POINT: PointTrap = { kind: TRAP_POINT, name: "burst", inside: false };
/** A place between translation and the bytes of one burst: a flush may wait for its end. */
const POINT_INSIDE: PointTrap = { kind: TRAP_POINT, name: "inside a burst", inside: true };

/** Where and why a transfer was aborted. */
export interface DmaFault {
  readonly address: number;
  /** FAULT_* of shared/mmu.ts. */
  readonly code: number;
}

/**
 * Writes `length` private bytes of `from` at `start` to DMA address `dma`, burst by burst. Returns the fault that
 * aborted it, or undefined; the bursts before the fault have reached memory.
 */
export function* writeBytes(
  device: Device,
  dma: number,
  from: Uint8Array,
  start: number,
  length: number,
): Program<DmaFault | undefined> {
  for (let done = 0; done < length; ) {
    const piece = burstLength(dma + done, length - done);
    const code = yield* writeBurst(device, dma + done, from, start + done, piece);
    if (code !== ACCESS_OK) return { address: dma + done, code };
    done += piece;
  }
  return undefined;
}

function* writeBurst(
  device: Device,
  dma: number,
  from: Uint8Array,
  start: number,
  length: number,
): Program<number> {
  const address = busAddress(device.model, dma);
  // Nothing stands behind the bridge at such an address: the abort names the page the device asked for.
  if (address === NOT_PRESENT)
    return yield* fault(device, pageOf(dma), ACCESS_WRITE, FAULT_ADDRESS);
  const dfn = pageOf(address);
  if (device.points) yield POINT;
  const code = device.mmu.open(dfn, ACCESS_WRITE);
  if (code !== ACCESS_OK) return yield* fault(device, dfn, ACCESS_WRITE, code);
  if (device.points) yield POINT_INSIDE;
  const frame = device.mmu.burst(address % PAGE_SIZE, from, start, length);
  device.mmu.close();
  trace(device.words, device.layout, device.slot, TRACE_DMA, dfn, frame, 1, length);
  return ACCESS_OK;
}

/**
 * Reads `length` bytes from DMA address `dma` into private memory at `start`, burst by burst. Returns the fault that
 * aborted it, or undefined.
 */
export function* readBytes(
  device: Device,
  dma: number,
  into: Uint8Array,
  start: number,
  length: number,
): Program<DmaFault | undefined> {
  for (let done = 0; done < length; ) {
    const piece = burstLength(dma + done, length - done);
    const code = yield* readBurst(device, dma + done, into, start + done, piece);
    if (code !== ACCESS_OK) return { address: dma + done, code };
    done += piece;
  }
  return undefined;
}

function* readBurst(
  device: Device,
  dma: number,
  into: Uint8Array,
  start: number,
  length: number,
): Program<number> {
  const address = busAddress(device.model, dma);
  if (address === NOT_PRESENT) return yield* fault(device, pageOf(dma), ACCESS_READ, FAULT_ADDRESS);
  const dfn = pageOf(address);
  if (device.points) yield POINT;
  const code = device.mmu.open(dfn, ACCESS_READ);
  if (code !== ACCESS_OK) return yield* fault(device, dfn, ACCESS_READ, code);
  if (device.points) yield POINT_INSIDE;
  device.mmu.read(address % PAGE_SIZE, into, start, length);
  device.mmu.close();
  return ACCESS_OK;
}

/** A page number that a record can carry; what lies beyond is one bus error like any other. */
const pageOf = (address: number): number =>
  Math.floor(Math.min(address, Number.MAX_SAFE_INTEGER) / PAGE_SIZE);

/** Tells the hypervisor of an aborted access; returns `code`. One that never left the device is nobody's business. */
function* fault(device: Device, dfn: number, access: number, code: number): Program<number> {
  if (code === FAULT_OFF) return code;
  setRecord(device.call.record, DEVICE_FAULT, [dfn, access === ACCESS_WRITE ? 1 : 0, code]);
  yield device.call;
  return code;
}

/** Asserts the device's interrupt line. */
export function* raise(device: Device): Program {
  setRecord(device.call.record, DEVICE_RAISE, [device.model.line]);
  yield device.call;
}
