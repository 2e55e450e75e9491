/**
 * What something costs a domain, as the hypervisor counts it: records handled for its vCPUs, blocks of its P2M that were
 * broken up, RAM that it has, and table pages of its P2M.
 *
 * Rules: a reader of the hypervisor's words, for programs that report and for expectations; no kernel decides by it. Ours.
 */
import { at } from "./assert.ts";
import { DOM, domainOf, type Layout, LINE, lineOf } from "./layout.ts";
import { NOT_PRESENT, VCPUS_MAX } from "./limits.ts";
import type { Words } from "./mem.ts";

export interface Counts {
  readonly hypercalls: number;
  readonly superpagesSplit: number;
  readonly ramFrames: number;
  readonly tablePages: number;
}

/** Counters of domain `domid` as they stand. */
export function countsOf(words: Words, layout: Layout, domid: number): Counts {
  const row = domainOf(layout, domid);
  let hypercalls = 0;
  for (let vcpu = 0; vcpu < VCPUS_MAX; vcpu++) {
    const slot = at(words, row + DOM.SLOT + vcpu);
    const present = slot !== NOT_PRESENT && vcpu < at(words, row + DOM.VCPUS);
    if (present) hypercalls += at(words, lineOf(layout, slot) + LINE.HYPERCALLS);
  }
  return {
    hypercalls,
    superpagesSplit: at(words, row + DOM.SUPERPAGES_SPLIT),
    ramFrames: at(words, row + DOM.TOT_PAGES),
    tablePages: at(words, row + DOM.P2M_PAGE_COUNT),
  };
}

/** What was spent between two readings. RAM that was given up is above 0, RAM that came back below. */
export interface Costs {
  readonly hypercalls: number;
  readonly superpagesSplit: number;
  readonly ramGivenUp: number;
  readonly tablePages: number;
}

export const costsBetween = (before: Counts, after: Counts): Costs => ({
  hypercalls: after.hypercalls - before.hypercalls,
  superpagesSplit: after.superpagesSplit - before.superpagesSplit,
  ramGivenUp: before.ramFrames - after.ramFrames,
  tablePages: after.tablePages - before.tablePages,
});
