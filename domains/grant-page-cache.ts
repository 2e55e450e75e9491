/**
 * gnttab_page_cache: pages for grants that a backend keeps between two requests.
 *
 * Rules: last in, first out; a cached page stays private. The chain goes through zone_device_data in a kernel that has
 * unpopulated pages, also for those that came from its balloon, and through lru in one that has none: an lru link
 * would destroy the pgmap of a ZONE_DEVICE page. Shrinking frees in groups of ten, whose pages have nothing to do with
 * each other.
 * Behaviour: Linux drivers/xen/grant-table.c, gnttab_page_cache_get(), _put(), _shrink().
 */
import { item } from "../shared/assert.ts";
import { PAGE_CACHE_GROUP } from "../shared/limits.ts";
import type { Program } from "../shared/trap.ts";
import { Pfn } from "../shared/units.ts";
import { gnttabAllocPages, gnttabFreePages } from "./grant-pages.ts";
import type { Kernel } from "./kernel.ts";
import { LIST_END, lruNext, setLru, setZoneDeviceData, zoneDeviceData } from "./pages.ts";

export interface GrantPageCache {
  head: number;
  count: number;
}

export const createPageCache = (): GrantPageCache => ({ head: LIST_END, count: 0 });

const chainsThroughLru = (kernel: Kernel): boolean => kernel.boot.kernel.unpopulatedAlloc === "off";

function pop(kernel: Kernel, cache: GrantPageCache): Pfn {
  const page = Pfn(cache.head);
  const { pages } = kernel.memory;
  cache.head = chainsThroughLru(kernel) ? lruNext(pages, page) : zoneDeviceData(pages, page);
  cache.count--;
  return page;
}

/** A page of the cache, or a new one; a negative errno when there is none. */
export function* gnttabPageCacheGet(kernel: Kernel, cache: GrantPageCache): Program<Pfn | number> {
  if (cache.count > 0) return pop(kernel, cache);
  const pages = yield* gnttabAllocPages(kernel, 1);
  return typeof pages === "number" ? pages : item(pages, 0);
}

/** Keeps `pages` for later. Nobody else may have a reference to them. */
export function gnttabPageCachePut(
  kernel: Kernel,
  cache: GrantPageCache,
  pages: readonly Pfn[],
): void {
  for (const page of pages) {
    if (chainsThroughLru(kernel)) setLru(kernel.memory.pages, page, cache.head, LIST_END);
    else setZoneDeviceData(kernel.memory.pages, page, cache.head);
    cache.head = page;
    cache.count++;
  }
}

/** Frees all but `keep` pages. */
export function gnttabPageCacheShrink(kernel: Kernel, cache: GrantPageCache, keep: number): void {
  while (cache.count > keep) {
    const group: Pfn[] = [];
    while (cache.count > keep && group.length < PAGE_CACHE_GROUP) group.push(pop(kernel, cache));
    gnttabFreePages(kernel, group);
  }
}
