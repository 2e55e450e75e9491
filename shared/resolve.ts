/**
 * From a scenario, a variant and overrides to the machine model: units read, defaults filled in, everything
 * placed, every reference checked. Pure: main thread and workers call it and compare the model's hash.
 *
 * Order of precedence: the scenario, the variant's `set`, the run's own settings. Refusals are
 * ScenarioErrors that name the field; the shape of fields is judged by toolstack/schema.ts beforehand.
 * Ours; the defaults are those of Xen's tools where they have one.
 */

import { DOMAINS_MAX, MACHINE_BYTES_MAX, PAGE_SIZE, SLOTS_MAX, TRACE_RECORDS } from "./limits.ts";
import type { DeviceModel, MachineLimits, MachineModel, Range } from "./machine.ts";
import { unknownName } from "./nearest.ts";
import { CHUNK_BYTES, checkBanks, xenHeapRange } from "./placement.ts";
import { BOARDS, type Board } from "./presets.ts";
import { overlaps, topOf } from "./ranges.ts";
import { resolveDevices, withWindows } from "./resolve-devices.ts";
import { addressesOf, type PlacedDomains, resolveDomains } from "./resolve-domains.ts";
import { resolveIommu } from "./resolve-iommu.ts";
import {
  type DomainProgram,
  type DomainSpec,
  type Given,
  type MachineSpec,
  PROGRAM_ENDED,
  PROGRAM_KEY,
  type Scenario,
  ScenarioError,
  type Values,
  type VariantSpec,
} from "./scenario.ts";
import { applySettings, type Setting } from "./settings.ts";
import { checkCount, parseAddress, parsePages, parseSize } from "./sizes.ts";
import { TRAP_REPORT } from "./trap.ts";

const DEFAULT_MEMORY = "256MiB";
const DEFAULT_PRESET = { arm64: "virt", x86: "q35" } as const;
/** Rows of the domain table and slots beyond what the scenario boots: room for domains created later. */
const SPARE_DOMAINS = 4;
const SPARE_SLOTS = 4;

/** What a run chooses. Every worker gets the same. */
export interface Choice {
  /** Name of a variant; the first one, or the bare scenario when there is none, by default. */
  readonly variant?: string;
  readonly settings: readonly Setting[];
  /** Values of the scenario's parameters, checked: numbers of bytes, counts, words, paths. */
  readonly parameters: Values;
  readonly seed: number;
}

export interface Resolved<Kernel> {
  readonly name: string;
  readonly variant: string;
  readonly model: MachineModel;
  readonly facts: Values;
  readonly parameters: Values;
  /** Program of each domain of the model, by index; undefined: its kernel boots and has no task of its own. */
  readonly programs: readonly (DomainProgram<Kernel> | undefined)[];
  /** Whether the run waits for the end of each domain's program, by index. */
  readonly awaited: readonly boolean[];
  readonly given: Given;
}

/** The scenario's variants; one without a matrix has a single variant of the name `default`. */
export const variantsOf = <Kernel>(scenario: Scenario<Kernel>): readonly VariantSpec[] =>
  scenario.variants === undefined || scenario.variants.length === 0
    ? [{ name: "default" }]
    : scenario.variants;

/** The spec of one variant: the scenario with the variant's `set` and facts and the run's settings applied. */
export function specOf<Kernel>(scenario: Scenario<Kernel>, choice: Choice): Scenario<Kernel> {
  const variant = variantOf(scenario, choice.variant);
  const withDom0 = Object.values(scenario.domains).some((domain) => domain.kind === "dom0")
    ? scenario
    : { ...scenario, domains: { dom0: { kind: "dom0" } as const, ...scenario.domains } };
  const own = Object.entries(variant.set ?? {}).map(([path, value]) => ({ path, value }));
  const facts = { ...withDom0.facts, ...variant.facts };
  const settings = choice.settings.filter((setting) => !setting.path.startsWith("parameters."));
  return applySettings({ ...applySettings(withDom0, own), facts }, settings);
}

function variantOf<Kernel>(scenario: Scenario<Kernel>, name: string | undefined): VariantSpec {
  const variants = variantsOf(scenario);
  const found = name === undefined ? variants[0] : variants.find((v) => v.name === name);
  if (found !== undefined) return found;
  const names = variants.map((v) => v.name);
  throw new ScenarioError("variants", unknownName("variant", name ?? "", names));
}

/** Resolves one variant of a scenario. */
export function resolve<Kernel>(scenario: Scenario<Kernel>, choice: Choice): Resolved<Kernel> {
  const spec = specOf(scenario, choice);
  const variant = variantOf(scenario, choice.variant).name;
  const facts = spec.facts ?? {};
  const model = modelOf(spec, choice.seed);
  return {
    name: spec.name,
    variant,
    model,
    facts,
    parameters: choice.parameters,
    programs: model.domains.map((domain) => announced(spec.domains[domain.name]?.program)),
    awaited: model.domains.map((domain) => {
      const own = spec.domains[domain.name];
      return domain.atBoot && domain.runs && own?.program !== undefined && own.serves !== true;
    }),
    given: { variant, facts, parameters: choice.parameters, with: {}, seed: choice.seed },
  };
}

/** A program that reports its end: its kernel may have daemons that go on, as dom0's store does. */
function announced<Kernel>(
  program: DomainProgram<Kernel> | undefined,
): DomainProgram<Kernel> | undefined {
  if (program === undefined) return undefined;
  return function* (kernel, given) {
    yield* program(kernel, given);
    yield { kind: TRAP_REPORT, key: PROGRAM_KEY, value: PROGRAM_ENDED };
  };
}

/** The machine model of a spec whose overrides have been applied. */
export function modelOf<Kernel>(spec: Scenario<Kernel>, seed: number): MachineModel {
  const machine = spec.machine ?? {};
  const arch = machine.arch ?? "arm64";
  const preset = machine.preset ?? DEFAULT_PRESET[arch];
  const board = boardOf(preset, arch);
  const banks = banksOf(machine, board);
  const iommu = resolveIommu(machine.iommu ?? {}, arch, board);
  const ipaBits = ipaBitsOf(machine, arch);
  const ordered = orderedDomains(spec.domains);
  const iommuOn = iommu.mode === "on";
  const devices = resolveDevices({ spec, board, ordered, iommuOn });
  checkRegisters(devices, banks);
  const context = { arch, board, banks, devices, ipaBits, iommu };
  const placed = resolveDomains(ordered, context, xenHeapPagesOf(machine));
  const top = topOf([...banks, ...placed.domains.flatMap(addressesOf)]);
  return {
    arch,
    preset,
    banks,
    iommu,
    allocator: machine.allocator ?? "scattered",
    ipaBits,
    hypervisor: machine.hypervisor ?? "faithful",
    ...(machine.lacks === undefined ? {} : { lacks: machine.lacks }),
    xsm: machine.xsm ?? "dummy",
    devices: withWindows(devices, spec.devices ?? {}, top),
    domains: placed.domains,
    limits: {
      ...limitsOf(machine, placed, devices.length),
      ...heapPlaceOf(arch, banks, placed.xenHeapPages),
    },
    seed,
  };
}

function boardOf(preset: string, arch: MachineModel["arch"]): Board {
  const board = BOARDS[preset];
  if (board === undefined) {
    throw new ScenarioError("machine.preset", unknownName("preset", preset, Object.keys(BOARDS)));
  }
  if (board.arch === undefined || board.arch === arch) return board;
  const fitting = Object.entries(BOARDS).filter(([, other]) => (other.arch ?? arch) === arch);
  const names = fitting.map(([name]) => name).join(", ");
  throw new ScenarioError("machine.preset", `${preset} is no ${arch} board; there are: ${names}`);
}

/** Four levels on x86; on arm64 the size of the second stage's input is a choice. */
function ipaBitsOf(machine: MachineSpec, arch: MachineModel["arch"]): 40 | 44 {
  if (arch === "arm64") return machine.ipaBits ?? 40;
  if (machine.ipaBits === undefined) return 44;
  throw new ScenarioError("machine.ipaBits", "is a choice of arm64; x86 tables have four levels");
}

function banksOf(machine: MachineSpec, board: Board): readonly Range[] {
  if (machine.banks !== undefined) {
    if (machine.memory !== undefined) {
      throw new ScenarioError("machine.memory", "is the sum of machine.banks; give one of the two");
    }
    const banks = machine.banks.map((bank, i) => ({
      base: parseAddress(`machine.banks.${i}.base`, bank.base),
      size: parseSize(`machine.banks.${i}.size`, bank.size),
    }));
    checkBanks(banks);
    checkTotal("machine.banks", banks);
    return banks;
  }
  const total = parseSize("machine.memory", machine.memory ?? DEFAULT_MEMORY);
  const chunks = total / CHUNK_BYTES;
  if (!Number.isInteger(chunks) || chunks < board.banks.length) {
    const least = board.banks.length * 2;
    throw new ScenarioError(
      "machine.memory",
      `${machine.memory} is not a multiple of 2 MiB of at least ${least} MiB`,
    );
  }
  const banks = spread(board, chunks);
  checkTotal("machine.memory", banks);
  return banks;
}

/** Every bank gets its share in whole chunks, the first one what is left over. */
function spread(board: Board, chunks: number): readonly Range[] {
  const shares = board.banks.map(({ eighths }) => Math.max(1, Math.floor((chunks * eighths) / 8)));
  const rest = chunks - shares.reduce((sum, share) => sum + share, 0);
  const banks = board.banks.map(({ base }, i) => ({
    base,
    size: ((shares[i] ?? 0) + (i === 0 ? rest : 0)) * CHUNK_BYTES,
  }));
  checkBanks(banks);
  return banks;
}

function checkTotal(path: string, banks: readonly Range[]): void {
  const total = banks.reduce((sum, bank) => sum + bank.size, 0);
  if (total > MACHINE_BYTES_MAX) throw new ScenarioError(path, "is more than 16 GiB");
}

/** dom0 first, then the scenario's order: ids are given out so. */
function orderedDomains<Kernel>(
  domains: Readonly<Record<string, DomainSpec<Kernel>>>,
): readonly (readonly [string, DomainSpec<Kernel>])[] {
  const entries = Object.entries(domains);
  const dom0s = entries.filter(([, domain]) => domain.kind === "dom0");
  for (const [name] of dom0s.slice(1)) {
    throw new ScenarioError(`domains.${name}.kind`, `"${dom0s[0]?.[0]}" is dom0 already`);
  }
  if (dom0s[0]?.[1].atBoot === false) {
    throw new ScenarioError(`domains.${dom0s[0][0]}.atBoot`, "dom0 exists from boot");
  }
  if (entries.length > DOMAINS_MAX) {
    throw new ScenarioError("domains", `${entries.length} of them; at most ${DOMAINS_MAX}`);
  }
  return [...dom0s, ...entries.filter(([, domain]) => domain.kind !== "dom0")];
}

function xenHeapPagesOf(machine: MachineSpec): number | undefined {
  if (machine.xenHeap === undefined) return undefined;
  const pages = parsePages("machine.xenHeap", machine.xenHeap);
  if ((pages * PAGE_SIZE) % CHUNK_BYTES !== 0) {
    throw new ScenarioError("machine.xenHeap", `${machine.xenHeap} is not a multiple of 2 MiB`);
  }
  return pages;
}

/** Where in the first bank Xen's own pages lie, unless it is its bottom. */
function heapPlaceOf(
  arch: MachineModel["arch"],
  banks: readonly Range[],
  pages: number,
): Pick<MachineLimits, "xenHeapFirst"> {
  const offset = xenHeapRange(arch, banks, pages).base - (banks[0]?.base ?? 0);
  return offset === 0 ? {} : { xenHeapFirst: offset / PAGE_SIZE };
}

function checkRegisters(devices: readonly DeviceModel[], banks: readonly Range[]): void {
  for (const device of devices) {
    const page = { base: device.registers, size: PAGE_SIZE };
    const path = `devices.${device.name}.registers`;
    if (banks.some((bank) => overlaps(bank, page))) throw new ScenarioError(path, "lies in RAM");
    const other = devices.find((d) => d !== device && d.registers === device.registers);
    if (other !== undefined) throw new ScenarioError(path, `"${other.name}" has the same`);
  }
}

function limitsOf(machine: MachineSpec, placed: PlacedDomains, devices: number): MachineLimits {
  const { domains, xenHeapPages } = placed;
  const vcpus = domains.reduce((sum, domain) => sum + domain.vcpus, 0);
  const slots = machine.slots ?? Math.min(SLOTS_MAX, 1 + devices + vcpus + SPARE_SLOTS);
  const rows = machine.domains ?? Math.min(DOMAINS_MAX, domains.length + SPARE_DOMAINS);
  checkCount("machine.slots", slots, 1 + devices + vcpus, SLOTS_MAX);
  checkCount("machine.domains", rows, domains.length, DOMAINS_MAX);
  return {
    domains: rows,
    slots,
    grantFrames: Math.max(...domains.map((domain) => domain.maxGrantFrames)),
    maptrackFrames: Math.max(...domains.map((domain) => domain.maxMaptrackFrames)),
    ports: Math.max(...domains.map((domain) => domain.maxEvtchnPort)) + 1,
    xenHeapPages,
    traceRecords: machine.traceRecords ?? TRACE_RECORDS,
    historyRecords: machine.historyRecords ?? 0,
  };
}
