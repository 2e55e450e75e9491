/**
 * The mapper's side of grants: batches of map and unmap with what Linux hangs on them, the foreign mark of each page
 * and the foreign table that swiotlb-xen reads.
 *
 * Rules: a result of 0 says that the hypercall was made; every operation has a status of its own. An unmap clears the
 * mark and the entry of every page, whatever the statuses say. A page is unmapped only when nobody else holds a
 * reference to it.
 * Behaviour: Linux drivers/xen/grant-table.c, gnttab_map_refs(); arch/arm/xen/p2m.c, set_foreign_p2m_mapping().
 */
import { GNTMAP_device_map } from "../shared/abi/grant.ts";
import { item } from "../shared/assert.ts";
import { GNTTAB_EAGAIN_RETRIES, GNTTAB_UNMAP_REFS_DELAY_MS, PAGE_SIZE } from "../shared/limits.ts";
import { GNTST_bad_page, GNTST_eagain, GNTST_general_error, GNTST_okay } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { Bfn, Pfn } from "../shared/units.ts";
import { bugOn } from "./bug.ts";
import { kfree, kmalloc } from "./fault-points.ts";
import { lookupForeign, setPhysToMachine } from "./foreign-p2m.ts";
import {
  INVALID_GRANT_HANDLE,
  type MapOp,
  mapGrantRefAgain,
  mapGrantRefs,
  type UnmapOp,
  unmapGrantRefs,
  unmapOp,
} from "./grant-calls.ts";
import { type Kernel, spawnDaemon, waitTimeout } from "./kernel.ts";
import { clearFlag, PG_foreign, pageRefcount, setPageForeign } from "./pages.ts";

/** gnttab_retry_eagain_gop: tries one operation again, a millisecond more apart each time, then gives it up. */
function* retryEagain(kernel: Kernel, op: MapOp): Program {
  for (let retry = 1; retry <= GNTTAB_EAGAIN_RETRIES; retry++) {
    const rc = yield* mapGrantRefAgain(kernel, op);
    bugOn(rc !== 0, `a single grant operation answered ${rc}`);
    if (op.status !== GNTST_eagain) return;
    yield* waitTimeout(kernel, () => false, retry);
  }
  op.status = GNTST_bad_page;
}

/** An entry of the foreign table (GFP_NOWAIT); false: no memory, or the page has one already. */
function enterForeign(kernel: Kernel, pfn: Pfn, bfn: Bfn): boolean {
  if (!kmalloc(kernel.faults)) return false;
  if (setPhysToMachine(kernel.memory.foreign, pfn, bfn)) return true;
  kfree(kernel.faults);
  return false;
}

function eraseForeign(kernel: Kernel, pfn: Pfn): void {
  if (lookupForeign(kernel.memory.foreign, pfn) === undefined) return;
  setPhysToMachine(kernel.memory.foreign, pfn, undefined);
  kfree(kernel.faults);
}

/** set_foreign_p2m_mapping: an operation whose page has an entry already is undone at once. */
function* setForeignP2mMapping(kernel: Kernel, ops: readonly MapOp[]): Program {
  for (const op of ops) {
    if (op.status !== GNTST_okay) continue;
    const pfn = Pfn(Math.floor(op.hostAddr / PAGE_SIZE));
    const bfn = Bfn(Math.floor(op.devBusAddr / PAGE_SIZE));
    if (enterForeign(kernel, pfn, bfn)) continue;
    const device = (op.flags & GNTMAP_device_map) === 0 ? 0 : op.devBusAddr;
    op.status = GNTST_general_error;
    yield* unmapGrantRefs(kernel, [unmapOp(op.hostAddr, op.handle, device)]);
    op.handle = INVALID_GRANT_HANDLE;
  }
}

/** gnttab_map_refs: maps each operation onto the page beside it. 0 (look at the statuses) or a negative errno. */
export function* gnttabMapRefs(
  kernel: Kernel,
  ops: readonly MapOp[],
  pages: readonly Pfn[],
): Program<number> {
  const rc = yield* mapGrantRefs(kernel, ops);
  if (rc !== 0) return rc;
  for (let i = 0; i < ops.length; i++) {
    const op = item(ops, i);
    if (op.status === GNTST_eagain) yield* retryEagain(kernel, op);
    if (op.status === GNTST_okay) {
      setPageForeign(kernel.memory.pages, item(pages, i), { domid: op.dom, ref: op.ref });
    }
  }
  yield* setForeignP2mMapping(kernel, ops);
  return 0;
}

/** gnttab_batch_map: for ring pages, which are neither marked foreign nor entered in the foreign table. */
export function* gnttabBatchMap(kernel: Kernel, ops: readonly MapOp[]): Program {
  const rc = yield* mapGrantRefs(kernel, ops);
  bugOn(rc !== 0, `a batch of maps answered ${rc}`);
  for (const op of ops) if (op.status === GNTST_eagain) yield* retryEagain(kernel, op);
}

/** gnttab_unmap_refs: 0 (look at the statuses), or a negative errno with nothing cleared. */
export function* gnttabUnmapRefs(
  kernel: Kernel,
  ops: readonly UnmapOp[],
  pages: readonly Pfn[],
): Program<number> {
  const rc = yield* unmapGrantRefs(kernel, ops);
  if (rc !== 0) return rc;
  for (const page of pages) clearFlag(kernel.memory.pages, page, PG_foreign);
  for (const op of ops) {
    eraseForeign(kernel, Pfn(Math.floor(op.hostAddr / PAGE_SIZE)));
  }
  return 0;
}

const allIdle = (kernel: Kernel, pages: readonly Pfn[]): boolean =>
  pages.every((page) => pageRefcount(kernel.memory.pages, page) <= 1);

/** Looks whether anybody else holds a page, 5 ms later each time, without a bound. */
function* untilIdle(kernel: Kernel, pages: readonly Pfn[]): Program {
  for (let age = 0; !allIdle(kernel, pages); age++) {
    yield* waitTimeout(kernel, () => false, GNTTAB_UNMAP_REFS_DELAY_MS * (age + 1));
  }
}

/**
 * gnttab_unmap_refs_async: unmaps once nobody else holds a page, then runs `done` with the result. With idle pages
 * everything happens before it returns; otherwise delayed work looks again and again.
 */
export function* gnttabUnmapRefsAsync(
  kernel: Kernel,
  ops: readonly UnmapOp[],
  pages: readonly Pfn[],
  done: (rc: number) => Program,
): Program {
  function* unmap(): Program {
    yield* untilIdle(kernel, pages);
    yield* done(yield* gnttabUnmapRefs(kernel, ops, pages));
  }
  if (allIdle(kernel, pages)) yield* unmap();
  else spawnDaemon(kernel, "gnttab unmap", unmap());
}

/** gnttab_unmap_refs_sync: the same, and waits for it. */
export function* gnttabUnmapRefsSync(
  kernel: Kernel,
  ops: readonly UnmapOp[],
  pages: readonly Pfn[],
): Program<number> {
  yield* untilIdle(kernel, pages);
  return yield* gnttabUnmapRefs(kernel, ops, pages);
}
