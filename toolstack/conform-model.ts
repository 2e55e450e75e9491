/**
 * The machines on which the recordings were made, as machine models.
 *
 * recorded-arm: one Cortex-A57, 256 MiB at 0x4000_0000, no IOMMU, 44 bits of guest addresses. Dom0 is direct-mapped,
 * 32 MiB; DomUs have 16 MiB at gfn 0x40000 and are made by the hypervisor at boot, so nobody has a store page.
 * The device is the bus: it has no driver, its register page is a device page of Dom0, and the replayer reads
 * machine addresses through its slot.
 */
import { EVTCHN_2L_PORTS, GRANT_FRAMES_MAX, MAPTRACK_FRAMES_MAX } from "../shared/limits.ts";
import type { DomainModel, KernelOptions, MachineModel } from "../shared/machine.ts";
import { KERNEL_DEFAULTS } from "../shared/scenario.ts";
import type { RecordedScenario } from "./conform-format.ts";

const MIB = 2 ** 20;
const RAM_BASE = 0x4000_0000;

/** Where a guest of the recordings finds things, as frame numbers (README of the recordings). */
export interface Places {
  /** First frame of its RAM. */
  readonly ram: number;
  readonly ramPages: number;
  /** RAM page 0 of the symbols. */
  readonly f0: number;
  readonly v0: number;
  readonly sharedInfo: number;
  readonly grantFrame0: number;
  /** The numbers are of virtual pages: the actor is paravirtualised. */
  readonly virtual?: true;
}

export const DOMU_PLACES: Places = {
  ram: 0x40000,
  ramPages: 4096,
  f0: 0x40100,
  v0: 0x60000,
  sharedInfo: 0x63000,
  grantFrame0: 0x61000,
};
export const DOM0_PLACES: Places = {
  ram: 0x42000,
  ramPages: 8192,
  f0: 0x42100,
  v0: 0x4e000,
  sharedInfo: 0x4eb00,
  grantFrame0: 0x4e800,
};
/** Guests of the recordings made under a toolstack: 32 MiB, at most as many ports as a DomU of dom0less. */
export const TOOLSTACK_PLACES: Places = { ...DOMU_PLACES, ramPages: 8192 };

/** Translated guests on x86: the same under a toolstack. */
export const PVH_PLACES: Places = { ...TOOLSTACK_PLACES, ram: 0, f0: 0x100 };

/** Paravirtualised guests: virtual pages, from 0 up; what is mapped behind the RAM has a level 1 table of its own. */
export const PV_PLACES: Places = {
  ...PVH_PLACES,
  sharedInfo: 8192,
  v0: 8192 + 512,
  grantFrame0: 8192 + 1024,
  virtual: true,
};

/** The slot of the device is found by its index in the model. */
export const BUS_DEVICE = 0;
/** Machine address of a peripheral of the recording's board: a device page of Dom0. */
const BUS_REGISTERS = 0x0901_0000;

const kernel: KernelOptions = {
  ...KERNEL_DEFAULTS,
  unpopulatedAlloc: "off",
  fallback: false,
  pagesPerSection: 32768,
  swiotlbPages: 0,
  swiotlbForce: false,
  dmaOps: "detect",
  eventAbi: "2-level",
  virtioForceGrant: false,
};

interface Limits {
  readonly grantFrames: number;
  readonly maptrackFrames: number;
  readonly grantVersion: 1 | 2;
}

/** Frame at which that build of Xen lies: the place that it offers Dom0 for its grant table. */
const XEN_TEXT_GFN = 0x40200;

/** Table pages of a guest: 1 MiB a vCPU, a page a MiB of RAM, 128 for extended regions, in whole MiB (libxl's rule). */
function tablePoolPages(ramPages: number, vcpus: number): number {
  const pages = 256 * vcpus + (ramPages * 4096) / MIB + 128;
  return Math.ceil(pages / 256) * 256;
}

function domainModel(name: string, places: Places, vcpus: number, limits: Limits): DomainModel {
  const isDom0 = name === "dom0";
  return {
    name,
    kind: isDom0 ? "dom0" : "domU",
    ...(places.virtual === true ? { guest: "pv" as const } : {}),
    atBoot: true,
    memoryPages: places.ramPages,
    directMapped: isDom0,
    privileged: isDom0,
    iommu: false,
    vcpus,
    runs: false,
    maxGrantFrames: limits.grantFrames,
    maxGrantVersion: limits.grantVersion,
    maxMaptrackFrames: limits.maptrackFrames,
    maxEvtchnPort: isDom0 ? 4095 : 1023,
    p2mPoolPages: isDom0 ? 0 : tablePoolPages(places.ramPages, vcpus),
    staticMemory: isDom0 ? [{ base: places.ram * 4096, size: places.ramPages * 4096 }] : [],
    ramGfn: places.ram,
    grantTableGfn: isDom0 ? XEN_TEXT_GFN : 0x38000,
    extendedRegions: [],
    kernel,
    store: "none",
  };
}

/** Which actor has which domain id, in an environment. Undefined: no machine of ours is like it. */
export function domidsOf(
  scenario: RecordedScenario,
  env: string,
): ReadonlyMap<string, number> | undefined {
  const privileged = env.startsWith("arm-dom0=") ? env.slice("arm-dom0=".length) : undefined;
  if (privileged === undefined && !["arm-domu", "arm", "pvh", "pv"].includes(env)) return undefined;
  const domids = new Map<string, number>();
  let next = 1;
  for (const actor of Object.keys(scenario.domains)) {
    domids.set(actor, actor === privileged ? 0 : next++);
  }
  return domids;
}

const isX86 = (env: string): boolean => env === "pvh" || env === "pv";

/** Places of the guest with a domain id, in an environment. */
export function placesOf(env: string, domid: number): Places {
  if (domid === 0) return DOM0_PLACES;
  if (env === "pvh") return PVH_PLACES;
  if (env === "pv") return PV_PLACES;
  return env === "arm" ? TOOLSTACK_PLACES : DOMU_PLACES;
}

/** The machine of one recording. */
export function recordedArm(
  scenario: RecordedScenario,
  env: string,
  domids: ReadonlyMap<string, number>,
): MachineModel {
  const limits: Limits = {
    grantFrames: scenario.toolstack_limits?.max_grant_frames ?? GRANT_FRAMES_MAX,
    maptrackFrames: scenario.toolstack_limits?.max_maptrack_frames ?? MAPTRACK_FRAMES_MAX,
    grantVersion: scenario.toolstack_limits?.max_grant_version === 1 ? 1 : 2,
  };
  const dom0Actor = [...domids].find(([, domid]) => domid === 0)?.[0];
  const vcpusOf = (actor: string | undefined): number =>
    actor === undefined ? 1 : (scenario.domains[actor]?.vcpus ?? 1);
  const guests = [...domids]
    .filter(([, domid]) => domid !== 0)
    .sort(([, one], [, other]) => one - other)
    .map(([actor, domid]) => domainModel(actor, placesOf(env, domid), vcpusOf(actor), limits));
  return {
    arch: isX86(env) ? "x86" : "arm64",
    preset: isX86(env) ? `recorded-${env}` : "recorded-arm",
    banks: [{ base: RAM_BASE, size: 256 * MIB }],
    iommu: { mode: "off" },
    allocator: "contiguous",
    ipaBits: 44,
    hypervisor: "faithful",
    xsm: scenario.xsm === "silo" ? "silo" : "dummy",
    devices: [
      {
        name: "bus",
        kind: "disk",
        registers: BUS_REGISTERS,
        dmaRanges: [],
        addressWidth: 64,
        behindIommu: false,
        streamId: 0,
        coherent: true,
        line: 0,
        owner: "dom0",
      },
    ],
    domains: [domainModel("dom0", DOM0_PLACES, vcpusOf(dom0Actor), limits), ...guests],
    limits: {
      domains: domids.size + 2,
      slots: 32,
      grantFrames: GRANT_FRAMES_MAX,
      maptrackFrames: MAPTRACK_FRAMES_MAX,
      ports: EVTCHN_2L_PORTS,
      xenHeapPages: 4096,
      traceRecords: 64,
    },
    seed: 1,
  };
}
