/**
 * Machines of the focused stories: as small as the hypervisor lets them be, because a fresh one is made for every run.
 * dom0 owns memory and rests; A, B and C (domains 1, 2, 3) are plain guests whose RAM starts at the same gfn.
 * Ours.
 */
import type { DomainModel, KernelOptions, MachineModel } from "../../shared/machine.ts";
import { KERNEL_DEFAULTS } from "../../shared/scenario.ts";

export const A = 1;
export const B = 2;
export const C = 3;
/** First gfn of a guest's RAM. */
export const RAM = 0x40000;
/** Where a guest maps its own grant frame. */
export const GRANT_GFN = 0x38000;
/** Where a guest maps its shared info page. */
export const INFO_GFN = 0x38100;
/** A gfn with nothing behind it: where a guest maps what it is granted. */
export const HOLE = 0x60000;

const BASE = 0x4000_0000;
const CHUNK = 2 * 1024 ** 2;

/** Nobody boots it: the programs of a story are raw. */
const KERNEL: KernelOptions = { ...KERNEL_DEFAULTS, pagesPerSection: 64, swiotlbPages: 16 };

const GUEST: DomainModel = {
  name: "guest",
  kind: "domU",
  atBoot: true,
  memoryPages: 64,
  directMapped: false,
  privileged: false,
  iommu: false,
  vcpus: 1,
  runs: true,
  maxGrantFrames: 1,
  maxMaptrackFrames: 1,
  maxEvtchnPort: 63,
  p2mPoolPages: 8,
  staticMemory: [],
  ramGfn: RAM,
  grantTableGfn: GRANT_GFN,
  extendedRegions: [],
  kernel: KERNEL,
  store: "none",
};

export interface SmallMachine {
  /** Departures of dom0, A, B, C; as many domains as entries. */
  readonly domains?: readonly Partial<DomainModel>[];
  readonly machine?: Partial<Omit<MachineModel, "domains" | "limits">>;
  readonly limits?: Partial<MachineModel["limits"]>;
}

const NAMES: readonly string[] = ["dom0", "A", "B", "C", "D", "E"];

/** dom0 and as many guests as `domains` has further entries; A and B without it. */
export function smallModel(wish: SmallMachine = {}): MachineModel {
  const wanted = wish.domains ?? [{}, {}, {}];
  const domains = wanted.map((departures, i): DomainModel => {
    const own: Partial<DomainModel> =
      i === 0
        ? {
            kind: "dom0",
            directMapped: true,
            privileged: true,
            ramGfn: (BASE + CHUNK / 2) / 4096,
            staticMemory: [{ base: BASE + CHUNK / 2, size: 64 * 4096 }],
          }
        : {};
    return { ...GUEST, name: NAMES[i] ?? `guest ${i}`, ...own, ...departures };
  });
  const most = (of: (domain: DomainModel) => number): number => Math.max(...domains.map(of));
  const devices = wish.machine?.devices ?? [];
  return {
    arch: "arm64",
    preset: "focused",
    banks: [{ base: BASE, size: CHUNK }],
    iommu: { mode: "off" },
    allocator: "contiguous",
    ipaBits: 40,
    hypervisor: "faithful",
    xsm: "dummy",
    devices,
    domains,
    seed: 1,
    ...wish.machine,
    limits: {
      domains: domains.length + 1,
      slots: 1 + devices.length + domains.reduce((sum, { vcpus }) => sum + vcpus, 0),
      grantFrames: most(({ maxGrantFrames }) => maxGrantFrames),
      maptrackFrames: most(({ maxMaptrackFrames }) => maxMaptrackFrames),
      ports: most(({ maxEvtchnPort }) => maxEvtchnPort) + 1,
      xenHeapPages: 120,
      traceRecords: 16,
      ...wish.limits,
    },
  };
}
