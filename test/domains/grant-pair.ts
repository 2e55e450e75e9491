/** A granting and a mapping guest on real kernels, for tests of the grant core. */
import { expect } from "vitest";
import { gnttabAllocPages } from "../../domains/grant-pages.ts";
import type { Kernel } from "../../domains/kernel.ts";
import { storeWord } from "../../domains/memory.ts";
import { allocPage, pageToPhys } from "../../domains/pages.ts";
import type { DomainModel, KernelOptions, MachineModel } from "../../shared/machine.ts";
import type { Program } from "../../shared/trap.ts";
import type { Pfn } from "../../shared/units.ts";
import { testDom0, testDomain } from "../hypervisor/harness.ts";
import { EXTENDED, type GuestRun, guestModel, kernelOptions, runGuests } from "./guest.ts";

export const FRONT = 1;
export const BACK = 2;

type Pair = (kernel: Kernel) => Program;

/** What is special about the granter, its machine, and both kernels. */
export interface PairOptions {
  readonly front?: Partial<DomainModel>;
  readonly machine?: Partial<MachineModel>;
  readonly kernel?: Partial<KernelOptions>;
}

/** Runs both programs to their end; the audit finds nothing on the way. */
export function pair(front: Pair, back: Pair, options: PairOptions = {}): GuestRun {
  const kernel = kernelOptions(options.kernel ?? {});
  const domains = [
    testDom0({ runs: false }),
    testDomain("front", {
      maxGrantFrames: 2,
      extendedRegions: [EXTENDED],
      kernel,
      ...options.front,
    }),
    testDomain("back", { extendedRegions: [EXTENDED], maxMaptrackFrames: 1, kernel }),
  ];
  const run = runGuests(guestModel(domains, options.machine), { front, back });
  expect(run.findings).toEqual([]);
  return run;
}
export const alone = (front: Pair, options: PairOptions = {}): GuestRun =>
  pair(front, function* () {}, options);

/** A page of the guest's RAM with a word of its own in it. */
export function* newPage(kernel: Kernel): Program<Pfn> {
  const page = allocPage(kernel.memory.pages);
  if (page === undefined) throw new Error("no page");
  yield* storeWord(kernel.cpu, pageToPhys(page), 0x1000 + page);
  return page;
}

/** Pages to map grants onto. */
export function* pagesFor(kernel: Kernel, count: number): Program<readonly Pfn[]> {
  const pages = yield* gnttabAllocPages(kernel, count);
  if (typeof pages === "number") throw new Error(`answered ${pages}`);
  return pages;
}
