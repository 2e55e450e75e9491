/**
 * How a scenario is spelled: the machine, each domain's program side by side with it, and what must hold.
 *
 *   export default defineScenario<Kernel>({ name: "ring echo", machine: { memory: "64MiB" }, domains: { … } });
 *
 * Every worker imports the same module and runs its own domain's part; nobody calls the module but through
 * the fields below. A spec has units and defaults; resolve.ts turns it into the MachineModel that all
 * workers agree on. YAML files spell the same fields, with programs named instead of written.
 * Ours, because Xen reads the same facts from a device tree, xl.cfg and its own command line.
 */
import type { Layout } from "./layout.ts";
import type { IommuModel, KernelOptions, MachineModel } from "./machine.ts";
import type { MachineMemory, Words } from "./mem.ts";
import type { Host, Program } from "./trap.ts";

/** A size in bytes: a number, or text with a unit (`4KiB`, `32MiB`, `1GiB`). */
export type Size = number | string;
/** An address in bytes: a number, or text (`0x4000_0000`). */
export type Address = number | string;

/** A value of a fact, a parameter or an override. */
export type Value = string | number | boolean;
export type Values = Readonly<Record<string, Value>>;

export interface RangeSpec {
  readonly base: Address;
  readonly size: Size;
}

export interface DmaRangeSpec {
  /** What the device puts on its bus. */
  readonly dma: Address;
  /** What that means beyond the bus. */
  readonly cpu: Address;
  readonly size: Size;
}

/** Spelled as in the model: shared/iommu-settings.ts says what each means. */
export interface IommuSpec {
  readonly mode?: IommuModel["mode"];
  readonly tables?: Required<IommuModel>["tables"];
  readonly quarantine?: Required<IommuModel>["quarantine"];
  readonly invalidation?: Required<IommuModel>["invalidation"];
  readonly iotlb?: Partial<Required<IommuModel>["iotlb"]>;
}

export interface MachineSpec {
  /** Which machine profile: what operations exist and what they answer. `arm64` by default. */
  readonly arch?: MachineModel["arch"];
  /** Board whose banks, device places and IOMMU are taken: `virt` | `rpi4` | `rcar` | `zcu102` | `q35`. */
  readonly preset?: string;
  /** Total RAM, spread over the board's banks. */
  readonly memory?: Size;
  /** RAM banks, ascending; they replace the board's. */
  readonly banks?: readonly RangeSpec[];
  readonly iommu?: IommuSpec;
  readonly allocator?: MachineModel["allocator"];
  readonly ipaBits?: 40 | 44;
  readonly hypervisor?: MachineModel["hypervisor"];
  /** What an old Xen does not have. */
  readonly lacks?: MachineModel["lacks"];
  readonly xsm?: MachineModel["xsm"];
  readonly xenHeap?: Size;
  /** Trace records kept in each ring. */
  readonly traceRecords?: number;
  /** Records of the history of grant operations, which is then judged; none by default. */
  readonly historyRecords?: number;
  /** Rows of the domain table and actors at the hypervisor's table: room for domains created later. */
  readonly domains?: number;
  readonly slots?: number;
}

export interface DeviceSpec {
  readonly kind: "disk";
  /** Place on the board whose registers, windows and stream id it takes; the first free one by default. */
  readonly port?: string;
  readonly registers?: Address;
  /** bus = physical + busOffset, through one window that covers all banks and guest addresses. */
  readonly busOffset?: Address;
  /** The windows themselves; they exclude `busOffset`. An empty list is an identity bus without a bound. */
  readonly dmaRanges?: readonly DmaRangeSpec[];
  readonly addressWidth?: number;
  /** Whether the board routes it through the IOMMU, when there is one. */
  readonly behindIommu?: boolean;
  readonly streamId?: number;
  readonly coherent?: boolean;
  readonly line?: number;
}

/** Kernel options that differ from KERNEL_DEFAULTS. */
export type KernelSpec = Partial<KernelOptions>;

/** What a program is told beside its kernel: the variant's facts, the run's parameters, its own arguments. */
export interface Given {
  readonly variant: string;
  readonly facts: Values;
  readonly parameters: Values;
  /** `with` of the program's own spec. */
  readonly with: Values;
  readonly seed: number;
}

/** A domain's program: the first task of its kernel after boot. */
export type DomainProgram<Kernel> = (kernel: Kernel, given: Given) => Program<void>;

/** A shipped program by name, as YAML files spell it. */
export interface NamedProgram {
  readonly use: string;
  readonly with?: Values;
}

export interface DomainSpec<Kernel> {
  readonly kind: "dom0" | "driver" | "domU";
  readonly memory?: Size;
  /** `direct`: gfn == mfn for its own RAM. dom0 of arm64 is direct by default, all others are scattered. */
  readonly mapping?: "direct" | "scattered";
  /** Names of the devices handed to it. A device that nobody names is dom0's. */
  readonly devices?: readonly string[];
  /** Where its backend's buffer pages come from: `balloon` announces no extended region to its kernel. */
  readonly backend?: { readonly pages?: "unpopulated" | "balloon" };
  readonly kernel?: KernelSpec;
  /** Virtio devices of this domain, each with the domain behind it; `iommus: xen,grant-dma` binds it to grants. */
  readonly virtio?: Readonly<
    Record<string, { readonly backend: string; readonly iommus?: string }>
  >;
  /** Machine ranges its RAM is taken from (xen,static-mem). */
  readonly staticMemory?: readonly RangeSpec[];
  /** First guest address of its RAM when it is not direct-mapped. */
  readonly ramBase?: Address;
  readonly extendedRegions?: readonly RangeSpec[];
  readonly vcpus?: number;
  /** False: the domain only owns memory and no worker runs it. */
  readonly runs?: boolean;
  readonly atBoot?: boolean;
  /** True: its program serves others until the run is over, and nobody waits for its end. */
  readonly serves?: boolean;
  readonly iommu?: boolean;
  readonly privileged?: boolean;
  readonly maxGrantFrames?: number;
  /** Of x86: `pvh`, translated, by default; `pv` has page tables of its own, and no kernel here: `runs` is false. */
  readonly guest?: "pv" | "pvh";
  /** Highest version of its grant table; arm64 has version 1 only. */
  readonly maxGrantVersion?: 1 | 2;
  readonly maxMaptrackFrames?: number;
  readonly maxEvtchnPort?: number;
  readonly p2mPoolPages?: number;
  readonly program?: DomainProgram<Kernel>;
}

/** A value that a run may choose: `--set parameters.NAME=VALUE`, or an option of the same name. */
export interface ParameterSpec {
  readonly about: string;
  /** `file`: a path on the host, the running executable by default. `size` has units, `count` has none. */
  readonly kind: "file" | "size" | "count" | "word";
  readonly default?: string | number;
  /** Inclusive bounds of a size or a count. */
  readonly min?: number;
  readonly max?: number;
  /** Admitted words. */
  readonly values?: readonly string[];
}

export interface VariantSpec {
  readonly name: string;
  /** Overrides by dotted path, as `--set` spells them. */
  readonly set?: Readonly<Record<string, unknown>>;
  /** Laid over the scenario's own facts. */
  readonly facts?: Values;
}

export interface Report {
  readonly domain: string;
  readonly key: string;
  readonly value: string | number;
}

/** What a domain reports when its program has ended; the run is over when all awaited ones have. */
export const PROGRAM_KEY = "program";
export const PROGRAM_ENDED = "ended";

/** The machine after its programs have ended: what expectations are judged on. Readers of bytes only. */
export interface FinalState {
  readonly variant: string;
  readonly facts: Values;
  readonly parameters: Values;
  readonly model: MachineModel;
  readonly layout: Layout;
  readonly words: Words;
  readonly memory: MachineMemory;
  /** Everything reported, in the order in which it arrived from each domain. */
  readonly reports: readonly Report[];
  /** Newest value of a key that a domain or device reported. */
  reported(domain: string, key: string): string | number | undefined;
  /** Findings of the whole-state audit after the run. */
  readonly audit: readonly string[];
  /** The file behind the disk. */
  readonly host: Host;
}

/** One claim about the final state and whether it holds. */
export interface Expectation {
  readonly claim: string;
  readonly holds: boolean;
  /** What was found instead, when it does not hold. */
  readonly got?: string;
}

/** Plain JSON: one variant's line in `--json`. Its first field is the variant's name. */
export type Row = Readonly<Record<string, unknown>>;

export interface Judgement {
  readonly row?: Row;
  readonly expectations: readonly Expectation[];
}

/** A column of the printed table. */
export interface Column {
  readonly title: string;
  readonly align?: "left" | "right";
  text(row: Row): string;
  /** Marks the cell: good is green with ✓, bad is red with ✗. */
  readonly mark?: (row: Row) => "good" | "bad" | "none";
}

export interface ResultTable {
  readonly columns: readonly Column[];
  /** Rows of one heading stand together under it, in the order of the variants. */
  readonly heading?: (row: Row) => string;
}

export interface Scenario<Kernel> {
  readonly name: string;
  /** One line for `list`. */
  readonly about?: string;
  /** Scenarios of one theme stand together in `list`. */
  readonly theme?: string;
  /** What the variants teach, in one line under their table. */
  readonly moral?: string;
  readonly machine?: MachineSpec;
  readonly devices?: Readonly<Record<string, DeviceSpec>>;
  /** dom0 is added when it is not named. */
  readonly domains: Readonly<Record<string, DomainSpec<Kernel>>>;
  readonly facts?: Values;
  readonly parameters?: Readonly<Record<string, ParameterSpec>>;
  readonly variants?: readonly VariantSpec[];
  /** Judges the final state of one variant. */
  readonly expect?: (state: FinalState) => Judgement;
  readonly table?: ResultTable;
}

/** The identity, for its types: a module's default export is what it returns. */
export const defineScenario = <Kernel>(scenario: Scenario<Kernel>): Scenario<Kernel> => scenario;

/** What a scenario module may export: the scenario, or a function that composes one from plain data (YAML). */
export type ScenarioExport<Kernel> =
  | Scenario<Kernel>
  | ((composition: unknown) => Scenario<Kernel>);

/** The scenario that a module's default export stands for. Every worker calls it with the same composition. */
export const scenarioOf = <Kernel>(
  exported: ScenarioExport<Kernel>,
  composition?: unknown,
): Scenario<Kernel> => (typeof exported === "function" ? exported(composition) : exported);

/** The person spelled something wrong. `path` is the dotted path of the field. */
export class ScenarioError extends Error {
  override readonly name = "ScenarioError";
  readonly path: string;
  readonly reason: string;

  constructor(path: string, reason: string) {
    super(path === "" ? reason : `${path}: ${reason}`);
    this.path = path;
    this.reason = reason;
  }
}

/** Kernel options where a scenario says nothing. Sections are small: design.md 10.10. */
export const KERNEL_DEFAULTS: KernelOptions = {
  unpopulatedAlloc: "pool",
  freeKnows: "flag",
  fallback: true,
  longBits: 64,
  setPrivateFailsAt: -1,
  patchFaults: [],
  poolSingles: "chunk",
  poolFree: "page",
  privateCleanup: "dma-free",
  devBusAddr: "page_to_phys",
  grantVersion: "auto",
  memoryHotplug: false,
  hotplugUnpopulated: false,
  pagesPerSection: 512,
  swiotlbPages: 256,
  swiotlbForce: false,
  dmaOps: "detect",
  eventAbi: "fifo",
  virtioForceGrant: false,
};
