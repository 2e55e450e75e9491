/**
 * The whole chain for one address: what a CPU access and each device's access of one gfn meet on their way.
 *
 *   CPU:  pfn -> gfn -> (P2M) -> mfn
 *   DMA:  pfn -> bfn -> + bus offset -> bus address -> dma-ranges -> dfn -> (IOMMU table, or nothing) -> mfn
 *
 * Rule: reads bytes only. Which address the kernel would program follows from how it is mapped (direct-mapped:
 * swiotlb-xen, otherwise dma-direct) and from the P2M; bounce buffers are not shown.
 * Ours.
 */
import { at } from "../shared/assert.ts";
import {
  PGC_allocated,
  PGC_count_mask,
  PGC_state_free,
  PGC_static,
  PGC_xen_heap,
} from "../shared/frame-flags.ts";
import {
  DOM,
  DOMAIN_PRESENT,
  domainOf,
  indexOf,
  LINE,
  lineOf,
  WALK_BARE,
  WALK_BLOCKED,
  WALK_OFF,
} from "../shared/layout.ts";
import { NOT_PRESENT, PAGE_SIZE } from "../shared/limits.ts";
import type { DeviceModel } from "../shared/machine.ts";
import { frameWord, type Walk, walkTable } from "./p2m-walk.ts";
import { domainName, type View } from "./view.ts";

export interface FrameReport {
  readonly mfn: number;
  /** Name of the owner, `Xen`, `nobody`, or `device NAME`; undefined: no memory there. */
  readonly owner: string | undefined;
  readonly references: number;
  readonly flags: readonly string[];
}

export interface DeviceChain {
  readonly device: string;
  /** The DMA layer of this domain's kernel. */
  readonly by: "swiotlb-xen" | "dma-direct";
  readonly bfn: number;
  /** What the driver programs, bus offset included; undefined: the kernel refuses the mapping. */
  readonly busAddress: number | undefined;
  /** Device frame number after the bus has undone its offset. */
  readonly dfn: number | undefined;
  readonly translatedBy: "guest" | "iommu" | "nobody";
  readonly walk: Walk | undefined;
  readonly frame: FrameReport | undefined;
  readonly outcome: string;
}

export interface Chain {
  readonly domain: string;
  readonly pfn: number;
  readonly gfn: number;
  readonly cpu: Walk;
  readonly cpuFrame: FrameReport | undefined;
  readonly devices: readonly DeviceChain[];
}

/** Id of the domain that was built from the model's domain `name`, or undefined. */
export function domidNamed(view: View, name: string): number | undefined {
  const { layout, words } = view;
  for (let domid = 0; domid < layout.model.limits.domains; domid++) {
    const row = domainOf(layout, domid);
    if (at(words, row + DOM.STATE) !== DOMAIN_PRESENT) continue;
    if (layout.model.domains[at(words, row + DOM.MODEL)]?.name === name) return domid;
  }
  return undefined;
}

/** Frame index of the root of a domain's P2M. */
export const rootOf = (view: View, domid: number): number =>
  at(view.words, domainOf(view.layout, domid) + DOM.P2M_ROOT);

/** The chain of `gfn` in domain `domid`. */
export function translate(view: View, domid: number, gfn: number): Chain {
  const { layout, words } = view;
  const model = layout.model;
  const index = at(words, domainOf(layout, domid) + DOM.MODEL);
  const domain = model.domains[index];
  const name = domain?.name ?? `domain ${domid}`;
  const cpu = walkTable(view, rootOf(view, domid), gfn);
  const isDirect = domain?.directMapped === true;
  const devices = model.devices.flatMap((device, number) =>
    device.owner === name ? [deviceChain(view, device, number, { gfn, cpu, isDirect })] : [],
  );
  const cpuFrame = cpu.mfn === undefined ? undefined : frameReport(view, cpu.mfn);
  return { domain: name, pfn: gfn, gfn, cpu, cpuFrame, devices };
}

interface Subject {
  readonly gfn: number;
  readonly cpu: Walk;
  readonly isDirect: boolean;
}

function deviceChain(
  view: View,
  device: DeviceModel,
  number: number,
  subject: Subject,
): DeviceChain {
  const { gfn, cpu, isDirect } = subject;
  const isForeign = cpu.type.startsWith("grant_map") || cpu.type.startsWith("map_foreign");
  const bfn = isDirect && isForeign && cpu.mfn !== undefined ? cpu.mfn : gfn;
  const by = isDirect ? "swiotlb-xen" : "dma-direct";
  const busAddress = busAddressOf(device, bfn * PAGE_SIZE);
  const common = { device: device.name, by, bfn, busAddress } as const;
  const guestDid = bfn === gfn ? "nobody" : "guest";
  if (busAddress === undefined) {
    const outcome = "refused by the kernel: outside the device's windows or address width";
    return {
      ...common,
      dfn: undefined,
      translatedBy: "nobody",
      walk: undefined,
      frame: undefined,
      outcome,
    };
  }
  const dfn = bfn;
  const line = lineOf(view.layout, 1 + number);
  const mode = at(view.words, line + LINE.MODE);
  if (mode === WALK_BLOCKED) {
    const outcome = "fault: the device is in nobody's context";
    return { ...common, dfn, translatedBy: "nobody", walk: undefined, frame: undefined, outcome };
  }
  if (mode === WALK_OFF) {
    const outcome = "nothing: the device is kept off its bus, for it has faulted too often";
    return { ...common, dfn, translatedBy: "nobody", walk: undefined, frame: undefined, outcome };
  }
  if (mode === WALK_BARE) {
    const frame = frameReport(view, dfn);
    const outcome = outcomeOf(frame, cpu);
    return { ...common, dfn, translatedBy: guestDid, walk: undefined, frame, outcome };
  }
  const walk = walkTable(view, at(view.words, line + LINE.ROOT), dfn);
  const frame = walk.mfn === undefined ? undefined : frameReport(view, walk.mfn);
  const outcome = frame === undefined ? "fault: nothing is mapped there" : outcomeOf(frame, cpu);
  return { ...common, dfn, translatedBy: "iommu", walk, frame, outcome };
}

/** Bus address of a physical one: the window that holds it, within the device's address bits. */
function busAddressOf(device: DeviceModel, physical: number): number | undefined {
  const end = 2 ** Math.min(device.addressWidth, 53);
  let bus: number | undefined = physical;
  if (device.dmaRanges.length > 0) {
    const range = device.dmaRanges.find(
      ({ cpu, size }) => physical >= cpu && physical + PAGE_SIZE <= cpu + size,
    );
    bus = range === undefined ? undefined : physical - range.cpu + range.dma;
  }
  return bus !== undefined && bus + PAGE_SIZE <= end ? bus : undefined;
}

function outcomeOf(frame: FrameReport, cpu: Walk): string {
  if (frame.owner === undefined) return "bus error: no memory at that machine address";
  if (cpu.mfn === undefined) return `hits a frame of ${frame.owner}; the CPU would fault`;
  if (frame.mfn === cpu.mfn) return "the frame that the CPU sees";
  return `another frame than the CPU sees: one of ${frame.owner}`;
}

/** Owner and counts of a machine frame. */
export function frameReport(view: View, mfn: number): FrameReport {
  const { layout, words } = view;
  const index = indexOf(layout, words, mfn);
  if (index === NOT_PRESENT) return { mfn, owner: undefined, references: 0, flags: [] };
  if (index >= layout.ramFrames) {
    const device = layout.model.devices[index - layout.ramFrames];
    return { mfn, owner: `device ${device?.name ?? "?"}`, references: 0, flags: ["registers"] };
  }
  const count = frameWord(view, layout.frameCount, index);
  const owner = frameWord(view, layout.frameOwner, index);
  const flags = FLAGS.flatMap(([bit, name]) => ((count & bit) === 0 ? [] : [name]));
  return { mfn, owner: ownerName(view, owner, count), references: count & PGC_count_mask, flags };
}

const FLAGS: readonly (readonly [number, string])[] = [
  [PGC_allocated, "allocated"],
  [PGC_xen_heap, "xen_heap"],
  [PGC_state_free, "free"],
  [PGC_static, "static"],
];

function ownerName(view: View, owner: number, count: number): string {
  if (owner === NOT_PRESENT) return (count & PGC_xen_heap) === 0 ? "nobody" : "Xen";
  return domainName(view, owner);
}
