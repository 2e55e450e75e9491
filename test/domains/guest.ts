/**
 * Kernels for tests: one that has struct pages and no machine behind it, for what never traps; and real ones that
 * boot on a real hypervisor in one thread and run the given programs.
 */
import { bootKernel } from "../../domains/boot.ts";
import { createCaller, createKernel, type Kernel, runKernel, spawn } from "../../domains/kernel.ts";
import type { Cpu } from "../../domains/memory.ts";
import { createKernelMemory } from "../../domains/memory-init.ts";
import { buildMachine } from "../../explore/machine.ts";
import { randomScheduler } from "../../explore/random.ts";
import { roundRobin } from "../../explore/round-robin.ts";
import { run } from "../../explore/run.ts";
import type { Machine, Part } from "../../explore/state.ts";
import { audit } from "../../hypervisor/audit.ts";
import { XENFEAT_not_direct_mapped } from "../../shared/abi/xen.ts";
import { bootInfoOf } from "../../shared/boot-info.ts";
import { DOM, domainOf, LINE, layoutOf, lineOf, machineBytes } from "../../shared/layout.ts";
import type { BootInfo, DomainModel, KernelOptions, MachineModel } from "../../shared/machine.ts";
import { MachineMemory, wordsOf } from "../../shared/mem.ts";
import { Mmu } from "../../shared/mmu.ts";
import type { Program } from "../../shared/trap.ts";
import { TEST_KERNEL, testDom0, testDomain, testModel } from "../hypervisor/harness.ts";

/** Extended region of the tests: room for eight sections of 64 pages. */
export const EXTENDED_BASE = 0x1_0000_0000;
export const SECTION = TEST_KERNEL.pagesPerSection;
export const EXTENDED = { base: EXTENDED_BASE, size: 8 * SECTION * 4096 };

export const kernelOptions = (options: Partial<KernelOptions>): KernelOptions => ({
  ...TEST_KERNEL,
  ...options,
});

/** A kernel whose memory is laid out and which has not booted: programs that would trap fail. */
export function stillKernel(
  options: Partial<KernelOptions> = {},
  overrides: Partial<BootInfo> = {},
  features = 1 << XENFEAT_not_direct_mapped,
): Kernel {
  const model = testModel([testDom0(), testDomain("still", { kernel: kernelOptions(options) })]);
  const boot: BootInfo = { ...bootInfoOf(model, 1, 1), extendedRegions: [EXTENDED], ...overrides };
  const layout = layoutOf(model);
  const words = wordsOf(new ArrayBuffer(layout.words * 4));
  const memory = new MachineMemory(new ArrayBuffer(machineBytes(layout)));
  const cpu: Cpu = {
    mmu: new Mmu(words, memory, layout, 1),
    words,
    layout,
    slot: 1,
    points: false,
    boot,
  };
  const caller = createCaller(cpu, boot.ram[0]?.base ?? 0);
  return createKernel(caller, features, createKernelMemory(boot, features, caller.faults));
}

/** Runs a program that must not trap, to its result. */
export function now<Result>(program: Program<Result>): Result {
  const step = program.next(0);
  if (step.done !== true) throw new Error(`the program traps: ${step.value.kind}`);
  return step.value;
}

export type GuestProgram = (kernel: Kernel) => Program<void>;

export interface GuestRun {
  readonly machine: Machine;
  readonly findings: readonly string[];
  readonly kernels: ReadonlyMap<string, Kernel>;
}

/** A machine of dom0 and the domains of `programs`, each with the extended region unless it says otherwise. */
export const guestModel = (
  domains: readonly DomainModel[],
  overrides: Partial<MachineModel> = {},
): MachineModel => testModel(domains, overrides);

export interface GuestOptions {
  /** With a seed accesses are points and the order is drawn at random; without one everybody moves in turn. */
  readonly seed?: number;
  /** Whether the whole state is recounted after every step (the default) or once at the end, for large machines. */
  readonly audit?: "each step" | "end";
}

/** Boots a kernel in each domain that has a program, runs them all to their end, and audits after every step. */
export function runGuests(
  model: MachineModel,
  programs: Readonly<Record<string, GuestProgram>>,
  options: GuestOptions = {},
): GuestRun {
  const kernels = new Map<string, Kernel>();
  const points = options.seed !== undefined;
  const partOf = (machine: Machine, slot: number): Part | undefined => {
    const domid = machine.words[lineOf(machine.layout, slot) + LINE.DOMAIN] ?? -1;
    const index = machine.words[domainOf(machine.layout, domid) + DOM.MODEL] ?? -1;
    const domain = model.domains[index];
    const program = domain === undefined ? undefined : programs[domain.name];
    if (domain === undefined || program === undefined) return undefined;
    const { words, memory, layout } = machine;
    const boot = bootInfoOf(model, index, domid);
    const mmu = new Mmu(words, memory, layout, slot);
    const cpu: Cpu = { mmu, words, layout, slot, points, boot };
    function* whole(): Program {
      const kernel = yield* bootKernel(cpu);
      kernels.set(boot.name, kernel);
      spawn(kernel, "test", program?.(kernel) ?? nothing());
      yield* runKernel(kernel);
    }
    return { name: domain.name, program: whole(), mustFinish: true };
  };
  const machine = buildMachine(model, {
    seed: options.seed ?? 1,
    scheduler: points ? randomScheduler(1) : roundRobin(),
    points,
    partOf,
    ...(options.audit === "end" ? {} : { audit }),
  });
  const outcome = run(machine, { command: "test" });
  for (const death of machine.deaths) throw death.error;
  const findings = options.audit === "end" ? audit(machine.xen) : [];
  return { machine, findings: [...outcome.findings, ...findings], kernels };
}

function* nothing(): Program {}
