/**
 * What the main thread and a worker say to each other: boot, one long run, and reports on the way.
 *
 * Rules: a worker that runs handles no message, so nothing but these two calls goes to it; everything later is
 * a record of the control slot. What a worker says while it runs is posted, not returned, so that it is not
 * lost when the worker is terminated.
 * Ours (design 10.5, 10.10).
 */
import type { Layout } from "../shared/layout.ts";
import type { BootInfo, MachineModel } from "../shared/machine.ts";
import type { MachineMemory, Words } from "../shared/mem.ts";
import type { Mmu } from "../shared/mmu.ts";
import type { Choice } from "../shared/resolve.ts";
import type { Program } from "../shared/trap.ts";
import type { SpinPolicy } from "../shared/waiting.ts";
import type { MemoryHandle } from "./page-ops.ts";

/** `adaptive` spins before it blocks where that pays; `blocking` never spins. */
export type Waiting = "adaptive" | "blocking";

/** What every worker is given at its boot. */
export interface Start {
  /** The machine it is to be a part of. A domain's worker resolves its own and answers with its hash. */
  readonly model: MachineModel;
  readonly control: SharedArrayBuffer;
  readonly memory: MemoryHandle;
  /** URL of the module that holds the part's sources. */
  readonly module: string;
  readonly waiting: Waiting;
  /** File behind the disk. */
  readonly diskPath?: string;
  /** Programs yield their points, and are delayed at some of them, as this seed says. */
  readonly delaySeed?: number;
}

export interface DomainStart extends Omit<Start, "model"> {
  readonly scenario: ScenarioSource;
  /** Index of the domain in the model. */
  readonly index: number;
}

/** Where a scenario comes from: each worker resolves the same one for itself. */
export interface ScenarioSource {
  readonly url: string;
  /** Plain data for a module that composes its scenario (YAML). */
  readonly composition?: unknown;
  readonly choice: Choice;
}

/** Where a program runs, known once its domain exists. */
export interface Place {
  readonly domid: number;
  readonly slot: number;
}

/** How a run ended. `fault`: the program's own fault. `bug`: the emulator is wrong. */
export interface End {
  readonly how: "returned" | "lost" | "fault" | "bug";
  /** What was thrown. */
  readonly error?: string;
}

export interface HypervisorApi {
  /** Builds the machine: when this settles, every boot domain exists and has its slots. */
  boot(start: Start): void;
  run(): End;
}

export interface DomainApi {
  /** Loads everything; returns the hash of the model that the worker resolved. */
  boot(start: DomainStart): Promise<string>;
  run(place: Place): End;
}

export interface DeviceApi {
  boot(start: Start, index: number): Promise<void>;
  run(): End;
}

/** What a program reports; posted while its worker runs. */
export interface Posted {
  readonly kind: "report";
  readonly key: string;
  readonly value: string | number;
}

/** Exports of hypervisor/main.ts. */
export interface HypervisorModule<Xen> {
  bootHypervisor(words: Words, memory: MachineMemory, layout: Layout): Xen;
  runHypervisor(xen: Xen, policy: SpinPolicy, tick: () => void): void;
}

/** Exports of domains/main.ts. `Kernel` is what its programs are given. */
export interface DomainModule<Kernel> {
  runDomain(cpu: DomainCpu, program: (kernel: Kernel) => Program): Program;
}

/** The vCPU that a kernel is given. */
export interface DomainCpu {
  readonly mmu: Mmu;
  readonly words: Words;
  readonly layout: Layout;
  readonly slot: number;
  readonly points: boolean;
  readonly boot: BootInfo;
}

/** Exports of devices/main.ts. */
export interface DeviceModule {
  bootDevice(
    options: {
      readonly words: Words;
      readonly memory: MachineMemory;
      readonly layout: Layout;
      readonly index: number;
      readonly points: boolean;
    },
    capacity: number,
  ): Program<never>;
}
