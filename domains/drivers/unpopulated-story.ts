/**
 * A backend that asks its kernel for unpopulated pages in the order that tells the designs apart, and for what happens
 * half-way. Reports `said`, one sentence, and `errno`.
 * Behaviour: drivers/xen/unpopulated-alloc.c in its designs; gnttab_dma_alloc_pages().
 */
import { item } from "../../shared/assert.ts";
import type { Program } from "../../shared/trap.ts";
import type { Pfn } from "../../shared/units.ts";
import { KernelBug } from "../bug.ts";
import { genPoolAvail } from "../gen-pool.ts";
import {
  GNTDEV_DEVICE,
  gnttabAllocPages,
  gnttabDmaAllocPages,
  gnttabFreePages,
} from "../grant-pages.ts";
import { type Kernel, report } from "../kernel.ts";
import { PG_private } from "../pages.ts";
import { writeStoreNode } from "../xenbus.ts";
import { backNode, frontNode, readDirectory } from "./page-directory.ts";
import { findDomain } from "./transfer-front.ts";

/** Pages of address space that have been hot-added. */
const pagesAdded = ({ memory }: Kernel): number =>
  memory.pages.sections.reduce((sum, { device, count }) => sum + (device ? count : 0), 0);

const plural = (count: number, what: string): string => `${count} ${what}${count === 1 ? "" : "s"}`;

/** How many runs of consecutive pages these are, and how many pages have been added for them. */
function described(pages: readonly Pfn[], added: number): string {
  const sorted = [...pages].sort((a, b) => a - b);
  const runs = sorted.filter((page, i) => i === 0 || page !== item(sorted, i - 1) + 1).length;
  return `${plural(runs, "run")}, ${added} pages added`;
}

/** The frontend is served by name only: its buffer is not used. */
function* finish(kernel: Kernel): Program {
  const domid = yield* findDomain(kernel, "guest");
  yield* readDirectory(kernel, domid, frontNode(domid));
  yield* writeStoreNode(kernel, `${backNode(kernel.boot.domid, domid)}/done`, 1);
}

function* take(kernel: Kernel, count: number): Program<readonly Pfn[]> {
  const pages = yield* gnttabAllocPages(kernel, count);
  if (typeof pages === "number") throw new KernelBug(`${count} pages are refused: ${pages}`);
  return pages;
}

/** 64 single pages, half of them back, then 20 that need not be contiguous and 16 that must be. */
export function* unpopulatedStory(kernel: Kernel): Program {
  const singles: Pfn[] = [];
  for (let i = 0; i < 64; i++) singles.push(...(yield* take(kernel, 1)));
  const sorted = [...singles].sort((a, b) => a - b);
  for (let i = 0; i < 64; i += 2) gnttabFreePages(kernel, [item(sorted, i)]);
  const before = pagesAdded(kernel);
  const some = yield* take(kernel, 20);
  const between = pagesAdded(kernel);
  const twenty = `20 pages: ${described(some, between - before)}`;
  const args = yield* gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, 16);
  if (typeof args === "number") throw new KernelBug(`a buffer is refused: ${args}`);
  const added = pagesAdded(kernel) - between;
  const buffer = args.unpopulated ? described(args.pages, added) : "RAM";
  yield* report("said", `${twenty}; 16 contiguous: ${buffer}`);
  yield* report("errno", 0);
  yield* finish(kernel);
}

/** A buffer of four pages whose third cannot be marked: what is left of it afterwards. */
export function* halfWayStory(kernel: Kernel): Program {
  const free = kernel.memory.pages.freeCount;
  const args = yield* gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, 4);
  const { sections } = kernel.memory.pages;
  const marked = sections.reduce(
    (sum, { flags }) => sum + flags.filter((flag) => (flag & PG_private) !== 0).length,
    0,
  );
  const { pool } = kernel.memory.unpopulated;
  const missing = pool === undefined ? 0 : pagesAdded(kernel) - genPoolAvail(pool) / 4096;
  const lost = free - kernel.memory.pages.freeCount;
  yield* report("errno", typeof args === "number" ? args : 0);
  yield* report(
    "said",
    `${marked} pages still marked, ${missing} missing in the pool, ${lost} of RAM`,
  );
  yield* finish(kernel);
}
