/** Whole machines for tests of the kernels: domains by runDomain, a disk, a file, in one thread. */
import { createHash } from "node:crypto";
import { bootDevice } from "../../devices/main.ts";
import type { Kernel } from "../../domains/kernel.ts";
import { runDomain } from "../../domains/main.ts";
import type { Cpu } from "../../domains/memory.ts";
import { buildMachine } from "../../explore/machine.ts";
import { randomScheduler } from "../../explore/random.ts";
import { roundRobin } from "../../explore/round-robin.ts";
import { type Outcome, run } from "../../explore/run.ts";
import type { Machine, Part } from "../../explore/state.ts";
import { audit } from "../../hypervisor/audit.ts";
import type { Xen } from "../../hypervisor/xen.ts";
import { bootInfoOf } from "../../shared/boot-info.ts";
import { DOM, domainOf, LINE, lineOf, SLOT_KIND_DEVICE } from "../../shared/layout.ts";
import type { MachineModel } from "../../shared/machine.ts";
import { Mmu } from "../../shared/mmu.ts";
import { resolve } from "../../shared/resolve.ts";
import type { Scenario } from "../../shared/scenario.ts";
import type { Host, Program } from "../../shared/trap.ts";

export type GuestProgram = (kernel: Kernel) => Program;
export type Programs = Readonly<Record<string, GuestProgram>>;

export const FILE_BYTES = 40_000;
export const FILE = Uint8Array.from({ length: FILE_BYTES }, (_, i) => (i * 7 + (i >> 8)) & 0xff);
export const sha256 = (bytes: Uint8Array): string =>
  createHash("sha256").update(bytes).digest("hex");

const HOST: Host = {
  sizeBytes: FILE_BYTES,
  readAt(offset, into, length) {
    const piece = FILE.subarray(offset, offset + length);
    into.set(piece);
    return piece.length;
  },
  sha256() {
    const hash = createHash("sha256");
    return { update: (bytes) => hash.update(bytes), hex: () => hash.digest("hex") };
  },
};

/** dom0 with a disk, a driver domain and a guest, all small. */
export function transferModel(scenario: Partial<Scenario<Kernel>> = {}): MachineModel {
  const { model } = resolve<Kernel>(
    {
      name: "transfer",
      machine: { memory: "16MiB", iommu: { mode: "off" } },
      devices: { disk: { kind: "disk" } },
      domains: {
        dom0: { kind: "dom0", memory: "4MiB" },
        guest: { kind: "domU", memory: "2MiB" },
      },
      ...scenario,
    },
    { settings: [], parameters: {}, seed: 1 },
  );
  return model;
}

export interface WholeOptions {
  /** Undefined: round robin. */
  readonly seed?: number;
  readonly points?: boolean;
  readonly maxSteps?: number;
  /** Steps of the hypervisor between two audits. */
  readonly auditEvery?: number;
  /** Puts something between a domain's program and the machine: a planted bug. */
  readonly wrap?: (program: Program, cpu: Cpu) => Program;
  /** Domains whose programs need not end. */
  readonly servers?: readonly string[];
}

/** The whole-state audit, now and then: it recounts every frame. */
function sampled(every: number): (xen: Xen) => readonly string[] {
  let steps = 0;
  return (xen) => {
    steps++;
    return steps % every === 0 ? audit(xen) : [];
  };
}

/** Builds the machine with every domain's kernel on its slot. */
export function wholeMachine(
  model: MachineModel,
  programs: Programs,
  options: WholeOptions = {},
): Machine {
  const points = options.points ?? false;
  const partOf = (machine: Machine, slot: number): Part | undefined => {
    const { words, memory, layout } = machine;
    const line = lineOf(layout, slot);
    if (words[line + LINE.KIND] === SLOT_KIND_DEVICE) {
      const program = bootDevice({ words, memory, layout, index: slot - 1, points }, FILE_BYTES);
      return { name: "disk", program, mustFinish: false, host: HOST };
    }
    const domid = words[line + LINE.DOMAIN] ?? -1;
    const index = words[domainOf(layout, domid) + DOM.MODEL] ?? -1;
    const name = model.domains[index]?.name ?? "";
    const program = programs[name];
    if (program === undefined) return undefined;
    const mmu = new Mmu(words, memory, layout, slot);
    const boot = bootInfoOf(model, index, domid);
    const cpu: Cpu = { mmu, words, layout, slot, points, boot };
    const mustFinish = name !== "dom0" && !(options.servers ?? []).includes(name);
    const whole = runDomain(cpu, program);
    return { name, program: options.wrap?.(whole, cpu) ?? whole, mustFinish, host: HOST };
  };
  return buildMachine(model, {
    seed: options.seed ?? 1,
    scheduler: options.seed === undefined ? roundRobin() : randomScheduler(2),
    points,
    partOf,
    audit: sampled(options.auditEvery ?? 64),
  });
}

export interface WholeRun {
  readonly machine: Machine;
  readonly outcome: Outcome;
  readonly reports: ReadonlyMap<string, string | number>;
}

/** Runs it to its end; reports are keyed `slot name`.key, the newest counts. */
export function runWhole(
  model: MachineModel,
  programs: Programs,
  options: WholeOptions = {},
): WholeRun {
  const machine = wholeMachine(model, programs, options);
  const outcome = run(machine, { command: "test", maxSteps: options.maxSteps ?? 2_000_000 });
  machine.findings.push(...audit(machine.xen));
  for (const death of machine.deaths) {
    if (death.state === "oops") throw death.error;
  }
  return { machine, outcome, reports: reportsOf(machine) };
}

export function reportsOf(machine: Machine): ReadonlyMap<string, string | number> {
  const reports = new Map<string, string | number>();
  for (const { slot, key, value } of machine.reports) {
    reports.set(`${machine.actors[slot]?.part.name ?? slot}.${key}`, value);
  }
  return reports;
}
