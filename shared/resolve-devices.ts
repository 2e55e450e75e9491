/**
 * The devices of a machine: each takes a place on the board, an owner and an interrupt line; its windows
 * onto the bus come last, when it is known what they must cover.
 * Ours; the facts are those of a device tree node: reg, dma-ranges, iommus, interrupts.
 */
import type { DeviceModel, DmaRange } from "./machine.ts";
import { unknownName } from "./nearest.ts";
import { CHUNK_BYTES } from "./placement.ts";
import type { Board, DevicePort } from "./presets.ts";
import { type DeviceSpec, type DomainSpec, type Scenario, ScenarioError } from "./scenario.ts";
import { checkCount, formatHex, parseAligned, parseSize } from "./sizes.ts";

/** Interrupt lines are bits of one word. */
const LINES = 32;
const WIDTH_MAX = 64;
const GIB = 1024 ** 3;

export type NamedDomains<Kernel> = readonly (readonly [string, DomainSpec<Kernel>])[];

interface Devices<Kernel> {
  readonly spec: Scenario<Kernel>;
  readonly board: Board;
  readonly ordered: NamedDomains<Kernel>;
  readonly iommuOn: boolean;
}

/** Every device with its place and owner; `dmaRanges` are still the board's (see `withWindows`). */
export function resolveDevices<Kernel>(from: Devices<Kernel>): readonly DeviceModel[] {
  const specs = Object.entries(from.spec.devices ?? {});
  const owners = ownersOf(
    from.ordered,
    specs.map(([name]) => name),
  );
  const used = new Set(specs.flatMap(([, spec]) => (spec.port === undefined ? [] : [spec.port])));
  return specs.map(([name, spec], i) => {
    const path = `devices.${name}`;
    const port = portOf(path, spec, from.board, used);
    used.add(port.name);
    return deviceOf(name, spec, port, {
      owner: owners.get(name) ?? from.ordered[0]?.[0] ?? "dom0",
      line: i,
      iommuOn: from.iommuOn,
    });
  });
}

/** Who names each device; nobody may name one twice. */
function ownersOf<Kernel>(
  ordered: NamedDomains<Kernel>,
  known: readonly string[],
): ReadonlyMap<string, string> {
  const owners = new Map<string, string>();
  for (const [domain, spec] of ordered) {
    for (const [i, device] of (spec.devices ?? []).entries()) {
      const path = `domains.${domain}.devices.${i}`;
      if (!known.includes(device)) {
        throw new ScenarioError(path, unknownName("device", device, known));
      }
      const other = owners.get(device);
      if (other !== undefined) {
        throw new ScenarioError(path, `"${device}" is handed to "${other}" already`);
      }
      owners.set(device, domain);
    }
  }
  return owners;
}

function portOf(
  path: string,
  spec: DeviceSpec,
  board: Board,
  used: ReadonlySet<string>,
): DevicePort {
  const names = board.ports.map((port) => port.name);
  const found =
    spec.port === undefined
      ? board.ports.find((port) => !used.has(port.name))
      : board.ports.find((port) => port.name === spec.port);
  if (found !== undefined) return found;
  if (spec.port === undefined) throw new ScenarioError(path, "no place is left on this board");
  throw new ScenarioError(`${path}.port`, unknownName("place on this board", spec.port, names));
}

function deviceOf(
  name: string,
  spec: DeviceSpec,
  port: DevicePort,
  given: { readonly owner: string; readonly line: number; readonly iommuOn: boolean },
): DeviceModel {
  const path = `devices.${name}`;
  const line = spec.line ?? given.line;
  const addressWidth = spec.addressWidth ?? port.addressWidth;
  checkCount(`${path}.line`, line, 0, LINES - 1);
  checkCount(`${path}.addressWidth`, addressWidth, 13, WIDTH_MAX);
  return {
    name,
    kind: spec.kind,
    registers:
      spec.registers === undefined
        ? port.registers
        : parseAligned(`${path}.registers`, spec.registers, 4096),
    dmaRanges: spec.dmaRanges === undefined ? port.dmaRanges : rangesOf(path, spec),
    addressWidth,
    behindIommu: given.iommuOn && (spec.behindIommu ?? port.behindIommu),
    streamId: spec.streamId ?? port.streamId,
    coherent: spec.coherent ?? port.coherent,
    line,
    owner: given.owner,
  };
}

function rangesOf(path: string, spec: DeviceSpec): readonly DmaRange[] {
  if (spec.busOffset !== undefined) {
    throw new ScenarioError(`${path}.busOffset`, "dmaRanges say it already; give one of the two");
  }
  return (spec.dmaRanges ?? []).map((range, i) => {
    const at = `${path}.dmaRanges.${i}`;
    return {
      dma: parseAligned(`${at}.dma`, range.dma, 4096),
      cpu: parseAligned(`${at}.cpu`, range.cpu, 4096),
      size: parseSize(`${at}.size`, range.size),
    };
  });
}

/**
 * Gives each device with a `busOffset` one window from address 0 over `top`, the end of all banks and all
 * guest addresses, so that the offset alone is what differs from an identity bus.
 */
export const withWindows = (
  devices: readonly DeviceModel[],
  specs: Readonly<Record<string, DeviceSpec>>,
  top: number,
): readonly DeviceModel[] =>
  devices.map((device) => {
    const offset = specs[device.name]?.busOffset;
    if (offset === undefined) return device;
    const path = `devices.${device.name}.busOffset`;
    const dma = parseAligned(path, offset, CHUNK_BYTES);
    if (dma === 0) return { ...device, dmaRanges: [] };
    const size = Math.ceil(top / GIB) * GIB;
    // A port that is narrower than the widened window is widened with it, unless the width is spelled out.
    const width = Math.max(device.addressWidth, Math.ceil(Math.log2(dma + size)));
    const spelled = specs[device.name]?.addressWidth;
    if (spelled !== undefined && dma + size > 2 ** Math.min(spelled, 53)) {
      throw new ScenarioError(
        path,
        `${formatHex(dma + size)} does not fit ${spelled} address bits`,
      );
    }
    return { ...device, addressWidth: width, dmaRanges: [{ dma, cpu: 0, size }] };
  });

/** A bus offset as a person wrote it, in bytes; 0 for a device with its own windows or none. */
export const busOffsetOf = (device: DeviceModel): number => {
  const first = device.dmaRanges[0];
  return first === undefined ? 0 : first.dma - first.cpu;
};
