/**
 * Fault enumeration: a buffer is allocated, grants are mapped onto it, unmapped, and the buffer is freed, again and again,
 * and each time another allocation or hypercall on the way fails. What is answered is a list that both engines must
 * agree on; what is left behind is compared after every round.
 *
 * A program of both engines: it knows no test framework, and throws when something leaks.
 */
import { OBJECTS_PER_FILL } from "../../domains/extended-regions.ts";
import { genPoolAvail, genPoolSize } from "../../domains/gen-pool.ts";
import { type MapOp, mapOp, unmapOp } from "../../domains/grant-calls.ts";
import { gnttabMapRefs, gnttabUnmapRefs } from "../../domains/grant-map.ts";
import {
  type DmaPages,
  GNTDEV_DEVICE,
  gnttabDmaAllocPages,
  gnttabDmaFreePages,
} from "../../domains/grant-pages.ts";
import type { Kernel } from "../../domains/kernel.ts";
import { xenmemReservationIncrease } from "../../domains/mem-reservation.ts";
import { GuestFault, loadWord } from "../../domains/memory.ts";
import { pageToPhys, pfnValid, testFlag } from "../../domains/pages.ts";
import { GNTMAP_host_map } from "../../shared/abi/grant.ts";
import { item } from "../../shared/assert.ts";
import { DOM, domainOf, MACHINE } from "../../shared/layout.ts";
import { load, store } from "../../shared/mem.ts";
import { EFAULT, GNTST_okay } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import type { Pfn } from "../../shared/units.ts";

export interface Grants {
  readonly domid: number;
  readonly refs: readonly number[];
}

/** What one round answered: an errno, 0, or the statuses of the map. */
interface Answers {
  /** What was made to fail; undefined: the round had no such point. */
  readonly failed: string | undefined;
  readonly unpopulated?: boolean;
  readonly alloc: number;
  readonly map?: number;
  readonly statuses?: readonly number[];
  readonly unmap?: number;
  readonly free?: number;
}

const domainWord = (kernel: Kernel, column: number): number =>
  load(kernel.cpu.words, domainOf(kernel.cpu.layout, kernel.boot.domid) + column);

/** Everything that a round must leave as it was. Sections that were added stay, with their descriptors. */
function census(kernel: Kernel): Readonly<Record<string, number>> {
  const { pages, balloon, unpopulated, foreign } = kernel.memory;
  const { pool } = unpopulated;
  const fills = unpopulated.target?.taken.length ?? 0;
  return {
    freePages: pages.freeCount,
    managedPages: pages.managed,
    descriptors: kernel.faults.objects - fills * (OBJECTS_PER_FILL + (pool === undefined ? 0 : 1)),
    foreignData: pages.foreignData.size,
    foreignEntries: foreign.entries.length,
    poolInUse: pool === undefined ? 0 : genPoolSize(pool) - genPoolAvail(pool),
    flagged: pages.sections.reduce(
      (sum, section) => sum + section.flags.filter((flags) => (flags & 3) !== 0).length,
      0,
    ),
    currentPages: balloon.currentPages,
    targetUnpopulated: balloon.targetUnpopulated,
    totPages: domainWord(kernel, DOM.TOT_PAGES),
    mappings: domainWord(kernel, DOM.MAPPINGS),
  };
}

function assertSame(kernel: Kernel, before: Readonly<Record<string, number>>, what: string): void {
  const after = census(kernel);
  for (const [name, value] of Object.entries(before)) {
    if (after[name] === value) continue;
    throw new Error(`after ${what}: ${name} is ${after[name]} and was ${value}`);
  }
}

/** One fault that a round is run under. */
interface Fault {
  readonly arm: (kernel: Kernel) => void;
  /** Takes it away; what it has hit, or undefined. */
  readonly disarm: (kernel: Kernel) => string | undefined;
}

/** The n-th point of the kernel itself, counted from 0. */
const kernelPoint = (n: number): Fault => ({
  arm: ({ faults }) => {
    faults.failedSite = undefined;
    faults.failAt = faults.passed + n;
  },
  disarm: ({ faults }) => {
    faults.failAt = -1;
    return faults.failedSite;
  },
});

/** The n-th allocation of the hypervisor, counted from 0. */
const hypervisorAllocation = (n: number): Fault => ({
  arm: ({ cpu }) => store(cpu.words, MACHINE.FAIL_ALLOCATION, n + 1),
  disarm: ({ cpu }) => {
    const left = load(cpu.words, MACHINE.FAIL_ALLOCATION);
    store(cpu.words, MACHINE.FAIL_ALLOCATION, 0);
    return left === 0 ? "hypervisor" : undefined;
  },
});

/** Allocation, map, unmap and free with the fault under way until it has hit something. */
function* round(kernel: Kernel, grants: Grants, fault: Fault): Program<Answers> {
  fault.arm(kernel);
  const args = yield* gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, grants.refs.length);
  if (typeof args === "number") return { failed: fault.disarm(kernel), alloc: args };
  const ops = args.pages.map((page, i) =>
    mapOp(pageToPhys(page), GNTMAP_host_map, item(grants.refs, i), grants.domid),
  );
  const map = yield* gnttabMapRefs(kernel, ops, args.pages);
  const unmap = yield* unmapLive(kernel, args, ops);
  const free = yield* gnttabDmaFreePages(kernel, args);
  const failed = fault.disarm(kernel);
  if (unmap < 0) throw new Error("pages are freed while they are mapped");
  if (free === -EFAULT) yield* fillHoles(kernel, args);
  return {
    failed,
    unpopulated: args.unpopulated,
    alloc: 0,
    map,
    statuses: ops.map((op) => op.status),
    unmap: unmap === RETRIED ? -12 : 0,
    free,
  };
}

/** An unmap that was refused once, with nothing cleared, and then done. */
const RETRIED = 1;

function* unmapLive(kernel: Kernel, args: DmaPages, ops: readonly MapOp[]): Program<number> {
  const live = ops.filter((op) => op.status === GNTST_okay);
  const unmaps = live.map((op) => unmapOp(op.hostAddr, op.handle));
  const first = yield* gnttabUnmapRefs(kernel, unmaps, args.pages);
  if (first === 0) return 0;
  const again = yield* gnttabUnmapRefs(kernel, unmaps, args.pages);
  return again === 0 ? RETRIED : again;
}

/** What the kernel itself does not do: RAM behind the free pages that Xen did not give back. */
function* fillHoles(kernel: Kernel, args: DmaPages): Program {
  if (args.pages.some((page) => !pfnValid(kernel.memory.pages, page))) {
    throw new Error("a hole lies where the kernel has a page");
  }
  if (args.pages.some((page) => testFlag(kernel.memory.pages, page, 3))) {
    throw new Error("a page with a hole is private or foreign");
  }
  for (const page of args.pages) {
    if (!(yield* isHole(kernel, page))) continue;
    yield* xenmemReservationIncrease(kernel, [page]);
  }
}

function* isHole(kernel: Kernel, page: Pfn): Program<boolean> {
  try {
    yield* loadWord(kernel.cpu, pageToPhys(page));
    return false;
  } catch (error) {
    if (error instanceof GuestFault) return true;
    throw error;
  }
}

/** Rounds with the first, second, … point failing, until there is no such point. */
function* enumerate(
  kernel: Kernel,
  grants: Grants,
  faultOf: (n: number) => Fault,
): Program<readonly Answers[]> {
  const list: Answers[] = [];
  for (let n = 0; n < 64; n++) {
    const before = census(kernel);
    const answers = yield* round(kernel, grants, faultOf(n));
    assertSame(kernel, before, `round ${n} (${answers.failed ?? "no fault"})`);
    list.push(answers);
    if (answers.failed === undefined) return list;
  }
  throw new Error("the rounds have no end");
}

/**
 * Both kinds of faults, twice each: the second time sections and table pages are there already, so that later points
 * come first.
 */
export function* enumerateFaults(kernel: Kernel, grants: Grants): Program<readonly string[]> {
  const all: string[] = [];
  // What daemons do meanwhile is their own affair.
  kernel.faults.onlyTask = kernel.faults.running;
  for (const faultOf of [kernelPoint, hypervisorAllocation, kernelPoint, hypervisorAllocation]) {
    all.push(...(yield* enumerate(kernel, grants, faultOf)).map(textOf));
  }
  kernel.faults.onlyTask = undefined;
  return all;
}

/** One round of a kernel that has done nothing before, with the n-th allocation of the hypervisor failing. */
export function* firstRound(kernel: Kernel, grants: Grants, n: number): Program<string> {
  const before = census(kernel);
  const answers = yield* round(kernel, grants, hypervisorAllocation(n));
  assertSame(kernel, before, `the first round, allocation ${n} failing`);
  return textOf(answers);
}

/** `hypercall: RAM, map -12 [1,1], unmap 0, free 0`. */
function textOf(answers: Answers): string {
  const failed = answers.failed ?? "nothing";
  if (answers.alloc < 0) return `${failed}: alloc ${answers.alloc}`;
  const kind = answers.unpopulated ? "unpopulated" : "RAM";
  const { map, statuses, unmap, free } = answers;
  return `${failed}: ${kind}, map ${map} [${statuses}], unmap ${unmap}, free ${free}`;
}
