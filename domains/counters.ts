/**
 * What the machine has counted for this domain, as a program that measures reads it: a stand-in for the counters that
 * `xl`, perfc and /proc/meminfo show on real systems. Reading them costs nothing and changes nothing.
 */
import { DOM, domainOf, LINE, lineOf } from "../shared/layout.ts";
import { load } from "../shared/mem.ts";
import type { Kernel } from "./kernel.ts";

export interface Counters {
  /** Records that the hypervisor has taken from this vCPU. */
  readonly hypercalls: number;
  /** Blocks of the P2M that were broken up into pages. */
  readonly superpagesSplit: number;
  /** Pages of RAM that the domain owns, as the hypervisor counts. */
  readonly ramPages: number;
  /** Pages of RAM that its kernel could hand out. */
  readonly freePages: number;
}

export function readCounters({ cpu, boot, memory }: Kernel): Counters {
  const domain = domainOf(cpu.layout, boot.domid);
  return {
    hypercalls: load(cpu.words, lineOf(cpu.layout, cpu.slot) + LINE.HYPERCALLS),
    superpagesSplit: load(cpu.words, domain + DOM.SUPERPAGES_SPLIT),
    ramPages: load(cpu.words, domain + DOM.TOT_PAGES),
    freePages: memory.pages.freeCount,
  };
}

/** What has been counted between two readings: of pages, how many went away. */
export const countedSince = (before: Counters, after: Counters): Counters => ({
  hypercalls: after.hypercalls - before.hypercalls,
  superpagesSplit: after.superpagesSplit - before.superpagesSplit,
  ramPages: before.ramPages - after.ramPages,
  freePages: before.freePages - after.freePages,
});
