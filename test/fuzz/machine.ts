/**
 * The machines that the fuzzer drives: small enough to be recounted after every command, and each with everything that
 * a guest can reach. dom0 is privileged, and direct-mapped on arm64; one guest has a single vCPU, one has two, one
 * starts with a 2 MiB block and one is tiny; a raw device belongs to dom0 and another to a guest.
 */
import { type MachineImage, machineImage } from "../../explore/image.ts";
import type { DeviceModel, IommuModel, MachineModel } from "../../shared/machine.ts";
import { testDom0, testDomain, testModel } from "../hypervisor/harness.ts";

const MIB = 1024 ** 2;

/** First guest frame of an area where nothing is at boot: grants are mapped there. */
export const MAP_AREA = 0x30000;
/** The same for grant frames, shared info and other pages of Xen. */
export const SPECIAL_AREA = 0x38000;
export const REGISTERS = [0x0a00_0000, 0x0a00_1000] as const;

export type Hypervisor = MachineModel["hypervisor"];

/** Kinds of arm64 machines; the kinds of x86 follow them. */
const ARM64_SHAPES = 8;
const X86_SHAPES = 4;
/** Kinds of IOMMU that the architecture does not choose by itself; arm64 where it is said, else x86. */
const IOMMUS: readonly (IommuModel & { readonly arch?: "arm64" })[] = [
  { arch: "arm64", mode: "on", tables: "separate", invalidation: "queue" },
  { arch: "arm64", mode: "on", iotlb: { entries: 4, flush: "lazy" }, quarantine: "scratch-page" },
  { mode: "on", tables: "shared", quarantine: "off" },
  { mode: "on", quarantine: "scratch-page", iotlb: { entries: 16, flush: "lazy" } },
  { arch: "arm64", mode: "on", tables: "separate", iotlb: { entries: 1, flush: "strict" } },
];
/** The last kind: two guests are paravirtualised, the others translated. */
const PV_SHAPE = ARM64_SHAPES + X86_SHAPES + IOMMUS.length;
/** Kinds of machine besides the choice of hypervisor; an episode takes the next one in turn. */
export const SHAPES = PV_SHAPE + 1;
/** What makes a domain a PV one. */
const PV = { guest: "pv", ramGfn: 0, p2mPoolPages: 0, staticMemory: [], iommu: false } as const;

const device = (index: number, owner: string, behindIommu: boolean): DeviceModel => ({
  name: `raw${index}`,
  kind: "disk",
  registers: REGISTERS[index] ?? 0,
  dmaRanges: [],
  addressWidth: 64,
  behindIommu,
  streamId: 1 + index,
  coherent: true,
  line: 3 + index,
  owner,
});

const LIMITS = {
  domains: 7,
  slots: 11,
  grantFrames: 2,
  maptrackFrames: 2,
  ports: 128,
  xenHeapPages: 192,
  traceRecords: 16,
} as const;

export function fuzzModel(hypervisor: Hypervisor, shape: number): MachineModel {
  const { arch, ...own } = IOMMUS[shape - ARM64_SHAPES - X86_SHAPES] ?? {
    arch: shape < ARM64_SHAPES ? "arm64" : undefined,
    mode: shape % 2 === 1 ? "on" : "off",
  };
  const iommu = own.mode === "on" && shape !== PV_SHAPE;
  const kind = shape === PV_SHAPE ? PV : {};
  const x86 = arch === undefined;
  const domains = [
    testDom0({
      memoryPages: 128,
      directMapped: !x86,
      staticMemory: x86 ? [] : [{ base: 0x4020_0000, size: 128 * 4096 }],
      iommu,
      maxGrantFrames: 2,
    }),
    testDomain("one", {
      memoryPages: 96,
      maxGrantFrames: 2,
      p2mPoolPages: 9,
      maxEvtchnPort: 20,
      staticMemory: (shape & 4) === 0 ? [] : [{ base: 0x4038_0000, size: 96 * 4096 }],
      ...kind,
    }),
    testDomain("two", {
      memoryPages: 64,
      vcpus: 2,
      maxGrantFrames: 2,
      maxMaptrackFrames: 1,
      iommu,
      ...kind,
    }),
    testDomain("block", { atBoot: false, memoryPages: 512, maxGrantFrames: 1, p2mPoolPages: 8 }),
    testDomain("tiny", {
      atBoot: false,
      memoryPages: 8,
      maxGrantFrames: 1,
      p2mPoolPages: 6,
      iommu,
    }),
  ];
  return testModel(domains, {
    arch: x86 ? "x86" : "arm64",
    banks: [{ base: 0x4000_0000, size: 6 * MIB }],
    iommu: shape === PV_SHAPE ? { mode: "off" } : own,
    hypervisor,
    allocator: (shape & 2) === 0 ? "contiguous" : "scattered",
    ipaBits: (shape & 2) === 0 ? 40 : 44,
    xsm: (shape & 6) === 6 ? "silo" : "dummy",
    devices: [device(0, "dom0", iommu), device(1, "two", iommu)],
    limits: LIMITS,
  });
}

/** Machine of an episode of the long form: faithful and strict in turn, all shapes one after the other. */
export const machineOfEpisode = (
  episode: number,
): { readonly hypervisor: Hypervisor; readonly shape: number } => ({
  hypervisor: episode % 2 === 0 ? "faithful" : "strict",
  shape: Math.floor(episode / 2) % SHAPES,
});

/** Booted machines, one a kind: booting takes longer than restoring. */
export class Machines {
  readonly #images = new Map<string, MachineImage>();

  image(hypervisor: Hypervisor, shape: number): MachineImage {
    const key = `${hypervisor} ${shape}`;
    const image = this.#images.get(key) ?? machineImage(fuzzModel(hypervisor, shape));
    this.#images.set(key, image);
    return image;
  }
}
