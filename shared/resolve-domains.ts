/**
 * The domains of a machine: sizes, RAM, limits, grant table and extended regions.
 * Rule: ids follow the order of the list, dom0 first; whoever is direct-mapped gets its RAM here, everybody
 * else from the allocator at creation.
 * Behaviour: xen/arch/arm/domain_build.c, create_domUs(), construct_dom0(); tools/libs/light/libxl_create.c
 * for defaults that the tools fill in.
 */
import {
  EVTCHN_FIFO_PORTS,
  GRANT_FRAMES_MAX,
  MAPTRACK_FRAMES_MAX,
  PAGE_SIZE,
  VCPUS_MAX,
} from "./limits.ts";
import type {
  DeviceModel,
  DomainModel,
  IommuModel,
  KernelOptions,
  MachineModel,
  Range,
} from "./machine.ts";
import { unknownName } from "./nearest.ts";
import {
  CHUNK_BYTES,
  checkStatic,
  dom0GrantTableGfn,
  guestGrantTableGfn,
  guestHoles,
  memoryHoles,
  placeDirect,
  unallocatedMemory,
  xenHeapRange,
} from "./placement.ts";
import { type Board, GUEST_RAM0_BASE, HVM_HOLE_BASE } from "./presets.ts";
import { endOf, overlaps } from "./ranges.ts";
import type { NamedDomains } from "./resolve-devices.ts";
import {
  type DomainSpec,
  KERNEL_DEFAULTS,
  type KernelSpec,
  type RangeSpec,
  ScenarioError,
} from "./scenario.ts";
import { checkCount, formatSize, parseAligned, parsePages, parseSize } from "./sizes.ts";

const DEFAULT_MEMORY = "32MiB";
/** Where a guest's RAM begins. */
const RAM_BASE = { arm64: GUEST_RAM0_BASE, x86: 0 } as const;
const DEFAULT_GRANT_FRAMES = 16;
const DEFAULT_MAPTRACK_FRAMES = 16;
/** Xen's default for guests. */
const DEFAULT_MAX_PORT = 1023;
/** Table pages of a guest's pool beside those its RAM needs: for grants and foreign pages anywhere. */
const POOL_BASE_PAGES = 128;
const PAGES_PER_TABLE = 512;
/** Xen heap pages of a domain beside tables and grant frames: shared info, roots, scratch. */
const HEAP_PAGES_PER_DOMAIN = 8;

/** Pages of the table that leads a device in quarantine to its scratch page, and that page. */
const QUARANTINE_PAGES = 5;

export interface Surroundings {
  readonly arch: MachineModel["arch"];
  readonly board: Board;
  readonly banks: readonly Range[];
  readonly devices: readonly DeviceModel[];
  readonly ipaBits: number;
  readonly iommu: Required<IommuModel>;
}

export interface PlacedDomains {
  readonly domains: readonly DomainModel[];
  readonly xenHeapPages: number;
}

/** Guest-physical ranges that a domain's kernel may hand to a device. */
export const addressesOf = (domain: DomainModel): readonly Range[] => [
  ...domain.staticMemory,
  ...domain.extendedRegions,
  ...(domain.directMapped
    ? []
    : [{ base: domain.ramGfn * PAGE_SIZE, size: domain.memoryPages * PAGE_SIZE }]),
];

/** Resolves every domain; the Xen heap is sized for them unless `heapPages` says otherwise. */
export function resolveDomains<Kernel>(
  ordered: NamedDomains<Kernel>,
  around: Surroundings,
  heapPages: number | undefined,
): PlacedDomains {
  const names = ordered.map(([name]) => name);
  const drafts = ordered.map(([name, spec]) => draftOf(name, spec, around, names));
  const xenHeapPages = heapPages ?? heapFor(drafts, around);
  const heap = xenHeapRange(around.arch, around.banks, xenHeapPages);
  const firstBank = around.banks[0]?.size ?? 0;
  if (heap.size >= firstBank) {
    throw new ScenarioError(
      "machine.memory",
      `Xen's own ${formatSize(heap.size)} do not fit the first bank of ${formatSize(firstBank)}`,
    );
  }
  checkSum(drafts, around, heap);
  const taken: Range[] = [heap];
  for (const [name, spec] of ordered) {
    const ranges = staticOf(name, spec);
    checkStatic(`domains.${name}.staticMemory`, ranges, around.banks, taken);
    taken.push(...ranges);
  }
  const domains = drafts.map((draft) => place(draft, around, heap, taken));
  return { domains, xenHeapPages };
}

/** Everything about a domain but where its regions lie. */
function draftOf<Kernel>(
  name: string,
  spec: DomainSpec<Kernel>,
  around: Surroundings,
  names: readonly string[],
): Draft {
  const path = `domains.${name}`;
  const isDom0 = spec.kind === "dom0";
  const staticMemory = staticOf(name, spec);
  const memoryPages = pagesOf(path, spec, staticMemory);
  const ownsProtected = around.devices.some((d) => d.owner === name && d.behindIommu);
  const runs = spec.runs ?? true;
  const limits = domainLimits(path, spec, memoryPages, runs);
  if (isDom0 && !runs) throw new ScenarioError(`${path}.runs`, "dom0 runs the store");
  return {
    name,
    kind: spec.kind,
    atBoot: spec.atBoot ?? true,
    memoryPages,
    directMapped: isDirect(path, spec, around.arch),
    privileged: spec.privileged ?? isDom0,
    iommu: around.iommu.mode === "on" && (spec.iommu ?? (isDom0 || ownsProtected)),
    runs,
    ...limits,
    ...grantVersionOf(path, spec, around.arch),
    ...guestOf(path, spec, around.arch),
    ...virtioOf(path, spec.virtio, names),
    staticMemory,
    ramGfn:
      parseAligned(`${path}.ramBase`, spec.ramBase ?? RAM_BASE[around.arch], PAGE_SIZE) / PAGE_SIZE,
    kernel: kernelOf(`${path}.kernel`, spec.kernel ?? {}),
    regions: spec.extendedRegions,
    announced: (spec.backend?.pages ?? "unpopulated") === "unpopulated",
  };
}

/** Whether gfn == mfn for its own RAM. On x86 a translated domain never is, dom0 included. */
function isDirect<Kernel>(
  path: string,
  spec: DomainSpec<Kernel>,
  arch: MachineModel["arch"],
): boolean {
  if (arch === "arm64")
    return (spec.mapping ?? (spec.kind === "dom0" ? "direct" : "")) === "direct";
  if (spec.mapping !== "direct") return false;
  throw new ScenarioError(`${path}.mapping`, "no translated domain of x86 is direct-mapped");
}

function grantVersionOf<Kernel>(
  path: string,
  { maxGrantVersion }: DomainSpec<Kernel>,
  arch: MachineModel["arch"],
): Pick<DomainModel, "maxGrantVersion"> {
  if (maxGrantVersion === undefined) return {};
  if (arch === "x86" || maxGrantVersion === 1) return { maxGrantVersion };
  throw new ScenarioError(`${path}.maxGrantVersion`, "arm64 has version 1 only");
}

function guestOf<Kernel>(
  path: string,
  { guest, kind, runs }: DomainSpec<Kernel>,
  arch: MachineModel["arch"],
): Pick<DomainModel, "guest"> {
  if (guest === undefined) return {};
  const refuse = (why: string): never => {
    throw new ScenarioError(`${path}.guest`, why);
  };
  if (arch === "arm64") refuse("arm64 has one kind of guest");
  if (guest === "pvh") return {};
  if (kind !== "domU" || runs !== false)
    refuse("there is no kernel for a pv guest: a domU, runs: false");
  return { guest };
}

interface Draft extends Omit<DomainModel, "grantTableGfn" | "extendedRegions"> {
  readonly regions: readonly RangeSpec[] | undefined;
  readonly announced: boolean;
}

type Limits = Pick<
  DomainModel,
  "vcpus" | "maxGrantFrames" | "maxMaptrackFrames" | "maxEvtchnPort" | "p2mPoolPages"
>;

function domainLimits<Kernel>(
  path: string,
  spec: DomainSpec<Kernel>,
  memoryPages: number,
  runs: boolean,
): Limits {
  const pool = POOL_BASE_PAGES + 2 * Math.ceil(memoryPages / PAGES_PER_TABLE);
  const limits = {
    vcpus: spec.vcpus ?? (runs ? 1 : 0),
    maxGrantFrames: spec.maxGrantFrames ?? DEFAULT_GRANT_FRAMES,
    maxMaptrackFrames: spec.maxMaptrackFrames ?? DEFAULT_MAPTRACK_FRAMES,
    maxEvtchnPort: spec.maxEvtchnPort ?? DEFAULT_MAX_PORT,
    p2mPoolPages: spec.p2mPoolPages ?? (spec.kind === "dom0" ? 0 : pool),
  };
  checkCount(`${path}.vcpus`, limits.vcpus, runs ? 1 : 0, VCPUS_MAX);
  checkCount(`${path}.maxGrantFrames`, limits.maxGrantFrames, 1, GRANT_FRAMES_MAX);
  checkCount(`${path}.maxMaptrackFrames`, limits.maxMaptrackFrames, 0, MAPTRACK_FRAMES_MAX);
  checkCount(`${path}.maxEvtchnPort`, limits.maxEvtchnPort, 1, EVTCHN_FIFO_PORTS - 1);
  checkCount(`${path}.p2mPoolPages`, limits.p2mPoolPages, 0, 2 ** 20);
  return limits;
}

/** Virtio devices of a domain; who serves one must be a domain of the machine. */
function virtioOf(
  path: string,
  spec: DomainSpec<unknown>["virtio"],
  names: readonly string[],
): Pick<DomainModel, "virtio"> {
  if (spec === undefined) return {};
  const virtio = Object.entries(spec).map(([name, device]) => {
    if (!names.includes(device.backend)) {
      const message = unknownName("domain", device.backend, names);
      throw new ScenarioError(`${path}.virtio.${name}.backend`, message);
    }
    return { name, ...device };
  });
  return { virtio };
}

function pagesOf<Kernel>(
  path: string,
  spec: DomainSpec<Kernel>,
  staticMemory: readonly Range[],
): number {
  const sum = staticMemory.reduce((pages, range) => pages + range.size / PAGE_SIZE, 0);
  if (spec.memory === undefined && sum > 0) return sum;
  const pages = parsePages(`${path}.memory`, spec.memory ?? DEFAULT_MEMORY);
  if (sum > 0 && sum !== pages) {
    throw new ScenarioError(
      `${path}.staticMemory`,
      `has ${formatSize(sum * PAGE_SIZE)}, memory ${formatSize(pages * PAGE_SIZE)}`,
    );
  }
  return pages;
}

function staticOf<Kernel>(name: string, spec: DomainSpec<Kernel>): readonly Range[] {
  return rangesOf(`domains.${name}.staticMemory`, spec.staticMemory ?? [], CHUNK_BYTES);
}

function rangesOf(path: string, specs: readonly RangeSpec[], alignment: number): readonly Range[] {
  const ranges = specs.map((spec, i) => ({
    base: parseAligned(`${path}.${i}.base`, spec.base, alignment),
    size: parseSize(`${path}.${i}.size`, spec.size),
  }));
  for (const [i, range] of ranges.entries()) {
    if (range.size % alignment !== 0) {
      throw new ScenarioError(`${path}.${i}.size`, `is not a multiple of ${formatSize(alignment)}`);
    }
    if (ranges.slice(0, i).some((other) => overlaps(other, range))) {
      throw new ScenarioError(`${path}.${i}`, "overlaps another of the list");
    }
  }
  return ranges;
}

function kernelOf(path: string, spec: KernelSpec): KernelOptions {
  const kernel = { ...KERNEL_DEFAULTS, ...spec };
  checkCount(`${path}.setPrivateFailsAt`, kernel.setPrivateFailsAt, -1, 2 ** 20);
  checkCount(`${path}.swiotlbPages`, kernel.swiotlbPages, 0, 2 ** 16);
  checkCount(`${path}.pagesPerSection`, kernel.pagesPerSection, 1, 2 ** 15);
  if ((kernel.pagesPerSection & (kernel.pagesPerSection - 1)) !== 0) {
    throw new ScenarioError(
      `${path}.pagesPerSection`,
      `${kernel.pagesPerSection} is not a power of two`,
    );
  }
  return kernel;
}

/**
 * Xen's own memory: tables of every domain, grant frames, and as much again as the largest for a newcomer; a second
 * table for each domain whose devices have one of their own, and quarantine tables.
 */
function heapFor(drafts: readonly Draft[], around: Surroundings): number {
  const hostPages = around.banks.reduce((sum, bank) => sum + bank.size / PAGE_SIZE, 0);
  const needs = drafts.map((draft) => {
    const tables =
      draft.kind === "dom0"
        ? POOL_BASE_PAGES + 2 * Math.ceil(hostPages / PAGES_PER_TABLE)
        : draft.p2mPoolPages;
    const second = draft.iommu && around.iommu.tables === "separate";
    return (second ? 2 : 1) * tables + draft.maxGrantFrames + HEAP_PAGES_PER_DOMAIN;
  });
  const { quarantine: mode } = around.iommu;
  const quarantine = mode === "scratch-page" ? around.devices.length * QUARANTINE_PAGES : 0;
  const pages = needs.reduce((sum, need) => sum + need, quarantine) + Math.max(...needs);
  return Math.ceil(pages / PAGES_PER_TABLE) * PAGES_PER_TABLE;
}

function checkSum(drafts: readonly Draft[], around: Surroundings, heap: Range): void {
  const total = around.banks.reduce((sum, bank) => sum + bank.size, 0);
  const booted = drafts.filter((draft) => draft.atBoot);
  const wanted = booted.reduce((sum, draft) => sum + draft.memoryPages * PAGE_SIZE, 0);
  if (wanted + heap.size <= total) return;
  throw new ScenarioError(
    "machine.memory",
    `the domains want ${formatSize(wanted)} and Xen ${formatSize(heap.size)}, the machine has ${formatSize(total)}`,
  );
}

/** Gives a domain its RAM and regions; `taken` grows by what is placed here. */
function place(draft: Draft, around: Surroundings, heap: Range, taken: Range[]): DomainModel {
  const { regions, announced, ...domain } = draft;
  const path = `domains.${draft.name}`;
  let staticMemory = draft.staticMemory;
  if (draft.directMapped && staticMemory.length === 0) {
    staticMemory = placeDirect(`${path}.memory`, draft.memoryPages, around.banks, taken);
    taken.push(...staticMemory);
  }
  const placed = { ...domain, staticMemory };
  const announcedRegions =
    regions === undefined
      ? regionsOf(placed, around, heap)
      : rangesOf(`${path}.extendedRegions`, regions, PAGE_SIZE);
  checkGuestSpace(path, placed, around);
  return {
    ...placed,
    grantTableGfn: draft.directMapped ? dom0GrantTableGfn(heap) : guestGrantTableGfn(around.arch),
    extendedRegions: announced && draft.kernel.unpopulatedAlloc !== "off" ? announcedRegions : [],
  };
}

function regionsOf(
  domain: Omit<DomainModel, "grantTableGfn" | "extendedRegions">,
  around: Surroundings,
  heap: Range,
): readonly Range[] {
  const { arch, banks, board, devices, ipaBits } = around;
  if (!domain.directMapped) {
    const ram = { base: domain.ramGfn * PAGE_SIZE, size: domain.memoryPages * PAGE_SIZE };
    return guestHoles(arch, ram, devices);
  }
  if (domain.iommu) return memoryHoles(banks, board.reserved, devices, ipaBits);
  return unallocatedMemory(banks, heap, domain.staticMemory);
}

function checkGuestSpace(
  path: string,
  domain: Pick<DomainModel, "directMapped" | "ramGfn" | "memoryPages" | "name">,
  around: Surroundings,
): void {
  if (domain.directMapped) return;
  const ram = { base: domain.ramGfn * PAGE_SIZE, size: domain.memoryPages * PAGE_SIZE };
  if (endOf(ram) > 2 ** around.ipaBits) {
    throw new ScenarioError(`${path}.ramBase`, `RAM ends beyond ${around.ipaBits} address bits`);
  }
  const hole = { base: HVM_HOLE_BASE, size: 2 ** 32 - HVM_HOLE_BASE };
  if (around.arch === "x86" && overlaps(ram, hole)) {
    throw new ScenarioError(`${path}.ramBase`, "RAM lies in the hole below 4 GiB");
  }
  for (const device of around.devices.filter((d) => d.owner === domain.name)) {
    if (overlaps(ram, { base: device.registers, size: PAGE_SIZE })) {
      throw new ScenarioError(`${path}.ramBase`, `covers the registers of "${device.name}"`);
    }
  }
}
