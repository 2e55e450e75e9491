/**
 * What the scenarios of the thread have in common: one frontend with a buffer, one backend with a disk, a stranger whose
 * RAM lies where a wrong address leads, and the columns of their tables.
 *
 *   host RAM:  0 | Xen, dom0, heap |   0x4000_0000 | victim |   0x1_0000_0000 | victim |
 *   drv:                               0x4000_0000 | its RAM |  0x1_0180_0000 | extended region |
 *
 * Rules: not a scenario itself; a variant is named, says what it changes, and what must come out of it (`wanted`).
 * Ours.
 */
import { type BufferBackOptions, bufferBack } from "../domains/drivers/buffer-back.ts";
import { bufferFront } from "../domains/drivers/buffer-front.ts";
import type { Kernel } from "../domains/kernel.ts";
import {
  type Column,
  type DomainProgram,
  defineScenario,
  type Given,
  type KernelSpec,
  type MachineSpec,
  type Scenario,
  type Values,
  type VariantSpec,
} from "../shared/scenario.ts";
import { formatHex } from "../shared/sizes.ts";
import { judgeThread, type ThreadRow } from "../shared/thread-verdict.ts";
import type { Program } from "../shared/trap.ts";

export const RPI4_OFFSET = 0xc000_0000;

/** One variant of a question. */
export interface ThreadVariant {
  readonly name: string;
  readonly backend: "dom0" | "drv";
  readonly iommu: boolean;
  readonly takes?: BufferBackOptions["takes"];
  readonly segments?: BufferBackOptions["segments"];
  readonly address?: BufferBackOptions["address"];
  readonly hold?: boolean;
  /** Pages of the frontend's buffer, and whether they are consecutive there. */
  readonly pages?: number;
  readonly front?: "scattered" | "contiguous";
  readonly busOffset?: number;
  readonly kernel?: KernelSpec;
  /** Facts of this question alone. */
  readonly facts?: Values;
  /** Overrides beyond these, by dotted path. */
  readonly set?: Readonly<Record<string, unknown>>;
  /** What the row must say. */
  readonly wanted: Partial<ThreadRow>;
}

/** A question and its answers. */
export interface ThreadQuestion {
  readonly name: string;
  readonly about: string;
  readonly moral: string;
  /** Pages of the frontend's buffer, where a variant says nothing. */
  readonly pages: number;
  readonly machine?: MachineSpec;
  readonly columns: readonly Column[];
  readonly variants: readonly ThreadVariant[];
  /** The programs, where they are not the usual ones. */
  readonly back?: DomainProgram<Kernel>;
  readonly front?: DomainProgram<Kernel>;
}

function* backend(kernel: Kernel, { facts }: Given): Program {
  yield* bufferBack(kernel, {
    frontend: "guest",
    takes: facts.takes as BufferBackOptions["takes"],
    segments: facts.segments as BufferBackOptions["segments"],
    address: facts.address as BufferBackOptions["address"],
    hold: facts.hold === true,
  });
}

function* frontend(kernel: Kernel, { facts }: Given): Program {
  yield* bufferFront(kernel, {
    backend: String(facts.backend),
    pages: Number(facts.pages),
    contiguous: facts.front === "contiguous",
    allocates: facts.allocates === "back" ? "back" : "front",
  });
}

function variantOf(one: ThreadVariant, pages: number): VariantSpec {
  // Without an IOMMU dom0's extended region is host RAM that it does not own; with one it is an address hole.
  const dom0Region = one.iommu ? 0x2_0180_0000 : 0x1_0180_0000;
  const wanted = Object.entries(one.wanted).map(([key, value]) => [`wanted.${key}`, value]);
  const facts: Values = {
    backend: one.backend,
    takes: one.takes ?? "dma",
    segments: one.segments ?? "page",
    address: one.address ?? "dma-layer",
    hold: one.hold ?? false,
    pages: one.pages ?? pages,
    front: one.front ?? "scattered",
    ...one.facts,
    ...Object.fromEntries(wanted),
  };
  return {
    name: one.name,
    facts,
    set: {
      "machine.iommu.mode": one.iommu ? "on" : "off",
      "devices.disk0.busOffset": one.busOffset ?? 0,
      "domains.drv.atBoot": one.backend === "drv",
      "domains.dom0.extendedRegions": [{ base: dom0Region, size: "16MiB" }],
      [`domains.${one.backend}.devices`]: ["disk0"],
      ...Object.fromEntries(
        Object.entries(one.kernel ?? {}).map(([key, value]) => [
          `domains.${one.backend}.kernel.${key}`,
          value,
        ]),
      ),
      ...one.set,
    },
  };
}

/** The machine of the thread, with one question put to it. */
export function threadScenario(question: ThreadQuestion): Scenario<Kernel> {
  const own = question.back ?? backend;
  function* program(kernel: Kernel, given: Given): Program {
    if (given.facts.backend === kernel.boot.name) yield* own(kernel, given);
  }
  return defineScenario<Kernel>({
    name: question.name,
    about: question.about,
    theme: "the thread",
    moral: question.moral,
    machine: {
      preset: "virt",
      banks: [
        { base: 0, size: "128MiB" },
        { base: 0x4000_0000, size: "64MiB" },
        { base: 0x1_0000_0000, size: "64MiB" },
      ],
      allocator: "scattered",
      traceRecords: 8192,
      ...question.machine,
    },
    devices: { disk0: { kind: "disk" } },
    domains: {
      dom0: { kind: "dom0", memory: "32MiB", program },
      drv: {
        kind: "driver",
        memory: "32MiB",
        // Far enough into the bank that a misdirected address lands in RAM that the kernel does not use.
        extendedRegions: [{ base: 0x1_0180_0000, size: "16MiB" }],
        program,
      },
      guest: {
        kind: "domU",
        memory: "16MiB",
        program: question.front ?? frontend,
      },
      victim: {
        kind: "domU",
        memory: "128MiB",
        runs: false,
        staticMemory: [
          { base: 0x4000_0000, size: "64MiB" },
          { base: 0x1_0000_0000, size: "64MiB" },
        ],
      },
    },
    parameters: { disk: { about: "file behind the disk", kind: "file" } },
    variants: question.variants.map((one) => variantOf(one, question.pages)),
    expect: (state) => judgeThread(state, Number(state.facts.pages)),
    table: { columns: [column("variant", "name"), ...question.columns] },
  });
}

const rowOf = (row: unknown): ThreadRow => row as ThreadRow;

/** A column of one field of the row. */
export function column(title: string, key: keyof ThreadRow): Column {
  return {
    title,
    ...(title === "variant" ? {} : alignOf(key)),
    text: (row) => {
      const value = rowOf(row)[key];
      if (value === null) return "–";
      if (typeof value === "boolean") return value ? "yes" : "no";
      return key === "address" || key === "first" ? formatHex(Number(value)) : String(value);
    },
  };
}

const NUMBERS: readonly (keyof ThreadRow)[] = [
  "copied",
  "first",
  "errno",
  "address",
  "segments",
  "bounced",
  "refused",
  "stillMapped",
  "hypercalls",
  "superpagesSplit",
  "tablePages",
  "framesGivenUp",
  "framesWithXen",
  "framesLost",
];
const alignOf = (key: keyof ThreadRow): Pick<Column, "align"> =>
  NUMBERS.includes(key) ? { align: "right" } : {};

/** What a way costs, in every table of the thread. */
export const COSTS: readonly Column[] = [
  column("hypercalls", "hypercalls"),
  column("superpages split", "superpagesSplit"),
  column("frames given up", "framesGivenUp"),
];
