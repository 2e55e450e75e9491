/**
 * A peer's ring page in this kernel: one granted page on one page of empty address space.
 *
 * Rules: such a mapping never enters the foreign table, since no device is ever given its address; a page whose
 * unmap fails is leaked on purpose.
 * Behaviour: Linux drivers/xen/xenbus/xenbus_client.c, xenbus_map_ring_valloc() and xenbus_unmap_ring_vfree().
 */
import { GNTMAP_host_map } from "../shared/abi/grant.ts";
import { item } from "../shared/assert.ts";
import { ENOENT, GNTST_okay } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import type { Pfn } from "../shared/units.ts";
import { mapGrantRefs, mapOp, unmapGrantRefs, unmapOp } from "./grant-calls.ts";
import type { Kernel } from "./kernel.ts";
import { pageToPhys } from "./pages.ts";
import { xenAllocUnpopulatedPages, xenFreeUnpopulatedPages } from "./unpopulated.ts";

export interface MappedRing {
  readonly page: Pfn;
  /** Guest address of the page. */
  readonly gaddr: number;
  readonly handle: number;
}

/** Maps grant `ref` of `domid` for reading and writing: the ring, or -ENOENT when the grant is refused. */
export function* mapRing(kernel: Kernel, domid: number, ref: number): Program<MappedRing | number> {
  const pages = yield* xenAllocUnpopulatedPages(kernel, 1);
  if (typeof pages === "number") return pages;
  const page = item(pages, 0);
  const gaddr = pageToPhys(page);
  const op = mapOp(gaddr, GNTMAP_host_map, ref, domid);
  const result = yield* mapGrantRefs(kernel, [op]);
  if (result === 0 && op.status === GNTST_okay) return { page, gaddr, handle: op.handle };
  xenFreeUnpopulatedPages(kernel, pages);
  return result < 0 ? result : -ENOENT;
}

/** Unmaps a ring: GNTST_okay, or the status of an unmap that failed. */
export function* unmapRing(kernel: Kernel, ring: MappedRing): Program<number> {
  const op = unmapOp(ring.gaddr, ring.handle);
  const result = yield* unmapGrantRefs(kernel, [op]);
  if (result !== 0) return result;
  if (op.status === GNTST_okay) xenFreeUnpopulatedPages(kernel, [ring.page]);
  return op.status;
}
