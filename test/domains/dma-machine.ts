/**
 * One buffer, one disk, one transfer: a frontend grants pages, a backend maps them onto consecutive pages of its own,
 * asks its kernel's DMA layer for addresses, and the disk reads a file to wherever these lead. What is told afterwards
 * is read from the machine: whose frames the disk has written, and what the frontend sees.
 *
 *   host RAM:  0 | Xen, dom0, heap |   0x4000_0000 | victim |   0x1_0000_0000 | victim |
 *   drv:                               0x4000_0000 | its RAM |  0x1_0020_0000 | extended region |
 */
import { expect } from "vitest";
import { mergeBioVectors, type SgEntry } from "../../domains/biomerge.ts";
import { type DmaMapping, type DmaRequest, dmaMapEntries, dmaUnmap } from "../../domains/dma.ts";
import { DMA_FROM_DEVICE, dmaDeviceOf } from "../../domains/dma-device.ts";
import { type Disk, type DiskResult, openDisk, readDisk } from "../../domains/drivers/disk.ts";
import { allocMap, mapGrantPages, putMap } from "../../domains/gntdev-map.ts";
import { grantForeignAccess, tryEndForeignAccess } from "../../domains/grant-table.ts";
import type { Kernel } from "../../domains/kernel.ts";
import { readBytes } from "../../domains/memory.ts";
import { allocPages, pageToPhys } from "../../domains/pages.ts";
import type { Machine } from "../../explore/state.ts";
import { GNTDEV_DMA_FLAG_WC } from "../../shared/abi/gntdev.ts";
import { GNTMAP_host_map, GNTTABOP_cache_flush } from "../../shared/abi/grant.ts";
import { HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import { item } from "../../shared/assert.ts";
import { NOT_PRESENT } from "../../shared/limits.ts";
import type { KernelOptions } from "../../shared/machine.ts";
import { resolve } from "../../shared/resolve.ts";
import type { DeviceSpec, DomainSpec, MachineSpec } from "../../shared/scenario.ts";
import { type Program, RECORD_OP, recordArg, TRAP_HYPERCALL } from "../../shared/trap.ts";
import { type DmaAddress, Gaddr, GrantRef, Pfn } from "../../shared/units.ts";
import { FILE, runWhole } from "./transfer-machine.ts";
import { until } from "./until.ts";

export const PAGE = 4096;

export interface DmaStory {
  /** `own`: the backend's own RAM instead of granted pages. */
  readonly pages?: "own" | "foreign";
  readonly count?: number;
  readonly backend?: "dom0" | "drv";
  readonly machine?: MachineSpec;
  readonly disk?: Partial<DeviceSpec>;
  readonly kernel?: Partial<KernelOptions>;
  readonly domain?: Partial<DomainSpec<Kernel>>;
  /** `segment`: all pages as one entry, as an importer of a dma-buf sees them; `block`: as the block layer joins them. */
  readonly merge?: DmaRequest["merge"] | "segment";
  /** Runs while the buffer is mapped for the device. */
  readonly during?: (kernel: Kernel, mapping: DmaMapping, disk: Disk) => Program;
  /** Runs after everything has been unmapped. */
  readonly after?: (kernel: Kernel, mapping: DmaMapping, disk: Disk) => Program;
}

export interface DmaOutcome {
  readonly ops: string;
  /** Undefined: the DMA layer refused. */
  readonly mapping: DmaMapping | undefined;
  readonly disk: DiskResult | undefined;
  readonly bufferPages: readonly Pfn[];
  /** What the kernel's foreign table said of each page while it was mapped. */
  readonly bfns: readonly number[];
  /** Whether the pages that were meant hold the file. */
  readonly arrived: boolean;
  /** Names of the domains whose frames the disk has written; `nobody` for a frame without an owner. */
  readonly hit: readonly string[];
  readonly cacheFlushes: number;
}

function modelOf(story: DmaStory) {
  const backend = story.backend ?? "dom0";
  const kernel = { swiotlbPages: 128, pagesPerSection: 512, ...story.kernel };
  const { model } = resolve<Kernel>(
    {
      name: "dma",
      machine: {
        banks: [
          { base: 0, size: "24MiB" },
          { base: 0x4000_0000, size: "8MiB" },
          { base: 0x1_0000_0000, size: "8MiB" },
        ],
        allocator: "scattered",
        iommu: { mode: "off" },
        ...story.machine,
      },
      devices: { disk0: { kind: "disk", ...story.disk } },
      domains: {
        dom0: {
          kind: "dom0",
          memory: "4MiB",
          extendedRegions: [{ base: 0x1_0020_0000, size: "4MiB" }],
          ...(backend === "dom0" ? { kernel, ...story.domain } : {}),
        },
        drv: {
          kind: "driver",
          memory: "4MiB",
          extendedRegions: [{ base: 0x1_0020_0000, size: "4MiB" }],
          ...(backend === "drv" ? { devices: ["disk0"], kernel, ...story.domain } : {}),
        },
        guest: { kind: "domU", memory: "2MiB" },
        victim: {
          kind: "domU",
          runs: false,
          staticMemory: [
            { base: 0x4000_0000, size: "8MiB" },
            { base: 0x1_0000_0000, size: "8MiB" },
          ],
        },
      },
    },
    { settings: [], parameters: {}, seed: 1 },
  );
  return model;
}

/** Tells the pages' first bytes from the file's. */
function* holdsFile(kernel: Kernel, pages: readonly Pfn[]): Program<boolean> {
  const bytes = new Uint8Array(PAGE);
  for (const [i, page] of pages.entries()) {
    yield* readBytes(kernel.cpu, pageToPhys(page), bytes, 0, PAGE);
    const wanted = FILE.subarray(i * PAGE, (i + 1) * PAGE);
    if (wanted.some((byte, at) => byte !== bytes[at])) return false;
  }
  return true;
}

function entriesOf(
  kernel: Kernel,
  pages: readonly Pfn[],
  merge: DmaStory["merge"],
): readonly SgEntry[] {
  const single = pages.map((page) => ({ phys: pageToPhys(page), length: PAGE }));
  if (merge === "block") return mergeBioVectors(kernel.memory.foreign, single);
  if (merge !== "segment") return single;
  return [{ phys: Gaddr(pageToPhys(item(pages, 0))), length: pages.length * PAGE }];
}

/** Counts GNTTABOP_cache_flush of an actor. */
function* counting(program: Program, count: () => void): Program {
  for (let input = 0; ; ) {
    const step = program.next(input);
    if (step.done === true) return;
    const trap = step.value;
    if (
      trap.kind === TRAP_HYPERCALL &&
      trap.record[RECORD_OP] === HYPERVISOR_grant_table_op &&
      recordArg(trap.record, 0) % 16 === GNTTABOP_cache_flush
    ) {
      count();
    }
    input = yield trap;
  }
}

/** What the programs of a story tell each other. */
interface Told {
  readonly story: DmaStory;
  readonly out: { -readonly [K in keyof DmaOutcome]: DmaOutcome[K] };
  readonly refs: number[];
  readonly count: number;
  done: boolean;
}

/** The frontend: grants its pages, and looks at them when all is over. */
function* frontend(kernel: Kernel, told: Told): Program {
  const pages: Pfn[] = [];
  const backend = told.story.backend === "drv" ? 1 : 0;
  for (let i = 0; i < told.count; i++) {
    const page = allocPages(kernel.memory.pages, 1);
    if (page === undefined) throw new Error("no page");
    pages.push(page);
    told.refs.push(yield* grantForeignAccess(kernel, backend, page));
  }
  yield* until(() => told.done);
  if (told.story.pages !== "own") told.out.arrived = yield* holdsFile(kernel, pages);
  for (const ref of told.refs) expect(yield* tryEndForeignAccess(kernel, GrantRef(ref))).toBe(1);
}

/** Addresses, the disk, and all of it back. */
function* transfer(kernel: Kernel, told: Told, pages: readonly Pfn[]): Program {
  const { story, out } = told;
  const disk = yield* openDisk(kernel);
  if (typeof disk === "number") throw new Error("no disk");
  out.ops = kernel.memory.dma.ops;
  out.bufferPages = pages;
  out.bfns = kernel.memory.foreign.entries.map((entry) => entry.bfn);
  const entries = entriesOf(kernel, pages, story.merge);
  const device = dmaDeviceOf(disk.device);
  const mapping = yield* dmaMapEntries(kernel, device, entries, DMA_FROM_DEVICE);
  if (typeof mapping === "number") return;
  out.mapping = mapping;
  out.disk = yield* readDisk(kernel, disk, 0, mapping.segments);
  if (story.during !== undefined) yield* story.during(kernel, mapping, disk);
  yield* dmaUnmap(kernel, mapping);
}

/** The backend: pages of its own, or grants mapped as gntdev maps them for a dma-buf. */
function* backend(kernel: Kernel, told: Told): Program {
  const { story, out, refs, count } = told;
  yield* until(() => refs.length === count);
  if (story.pages === "own") {
    const first = allocPages(kernel.memory.pages, count);
    if (first === undefined) throw new Error("no pages");
    const pages = Array.from({ length: count }, (_, i) => Pfn(first + i));
    yield* transfer(kernel, told, pages);
    out.arrived = yield* holdsFile(kernel, pages);
  } else {
    const buffer = yield* allocMap(kernel, count, GNTDEV_DMA_FLAG_WC);
    if (buffer === undefined) throw new Error("there are no pages");
    buffer.grants.push(...refs.map((ref) => ({ domid: 2, ref })));
    buffer.flags = GNTMAP_host_map;
    expect(yield* mapGrantPages(kernel, buffer)).toBe(0);
    yield* transfer(kernel, told, buffer.pages);
    yield* putMap(kernel, buffer);
  }
  const disk = yield* openDisk(kernel);
  if (story.after !== undefined && out.mapping !== undefined && typeof disk !== "number") {
    yield* story.after(kernel, out.mapping, disk);
  }
  told.done = true;
}

function* nothing(): Program {
  // Nothing to do.
}

/** Names of the domains whose frames devices have written. */
function ownersHit({ words, layout, model }: Machine): readonly string[] {
  const owners = new Set<string>();
  for (let frame = 0; frame < layout.ramFrames; frame++) {
    if ((words[layout.frameDma + frame] ?? 0) === 0) continue;
    const owner = words[layout.frameOwner + frame] ?? NOT_PRESENT;
    owners.add(model.domains[owner]?.name ?? "nobody");
  }
  return [...owners].sort();
}

/** Runs the story to its end on a real machine in one thread. */
export function runDma(story: DmaStory): DmaOutcome {
  const out: Told["out"] = {
    ops: "",
    mapping: undefined,
    disk: undefined,
    bufferPages: [],
    bfns: [],
    arrived: false,
    hit: [],
    cacheFlushes: 0,
  };
  const told: Told = { story, out, refs: [], count: story.count ?? 4, done: false };
  const programs = {
    dom0: nothing,
    drv: nothing,
    guest: (kernel: Kernel) => frontend(kernel, told),
    [story.backend ?? "dom0"]: (kernel: Kernel) => backend(kernel, told),
  };
  const { machine, outcome } = runWhole(modelOf(story), programs, {
    wrap: (program) => counting(program, () => out.cacheFlushes++),
    auditEvery: 500,
  });
  expect(outcome.findings).toEqual([]);
  expect(outcome.verdict).toBe("finished");
  out.hit = ownersHit(machine);
  return out;
}

/** The address of the first page. */
export const firstAddress = (outcome: DmaOutcome): DmaAddress | undefined =>
  outcome.mapping?.addresses[0];
