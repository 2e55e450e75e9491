/**
 * What if there are no contiguous unpopulated pages? gnttab_dma_alloc_pages falls back to real RAM, which it gives to Xen
 * for as long as the buffer lives; and gnttab_dma_free_pages must know which kind it has in its hands, or pages come back
 * to an allocator that never had them.
 */
import { COSTS, column, threadScenario } from "./thread-compose.ts";

const driver = { backend: "drv", iommu: true } as const;
const arrived = { errno: 0, lands: "guest", arrives: true, framesLost: 0, stillMapped: 0 } as const;
const NO_REGION = {
  "domains.drv.backend": { pages: "balloon" },
  "domains.drv.extendedRegions": [],
};
const SMALL_REGION = { "domains.drv.extendedRegions": [{ base: 0x1_0180_0000, size: "2MiB" }] };

export default threadScenario({
  name: "thread-fallback",
  about: "no contiguous unpopulated pages: fall back to RAM, and how does free know?",
  moral:
    "Fall back in grant-table.c, and ask the pool whose address it is: a flag or the zone can be wrong.",
  pages: 32,
  columns: [
    column("pages", "pages"),
    column("errno", "errno"),
    column("lands in", "lands"),
    column("arrives", "arrives"),
    ...COSTS,
    column("frames lost", "framesLost"),
  ],
  variants: [
    {
      ...driver,
      name: "region",
      wanted: { ...arrived, pages: "unpopulated", framesGivenUp: 0 },
    },
    {
      ...driver,
      name: "no region",
      set: NO_REGION,
      wanted: { ...arrived, pages: "RAM", framesGivenUp: 32 },
    },
    {
      ...driver,
      name: "no region, no fallback",
      kernel: { fallback: false },
      set: NO_REGION,
      wanted: { pages: "refused", errno: -12, arrives: false, framesLost: 0 },
    },
    {
      ...driver,
      name: "region smaller than the buffer",
      pages: 600,
      set: SMALL_REGION,
      wanted: { ...arrived, pages: "RAM", framesGivenUp: 600 },
    },
    ...(["flag", "zone-device", "pool-address", "region"] as const).flatMap((freeKnows) =>
      [true, false].map((region) => ({
        ...driver,
        name: `free knows by ${freeKnows}, ${region ? "unpopulated" : "RAM"}`,
        kernel: { freeKnows },
        set: region ? {} : NO_REGION,
        wanted: { ...arrived, framesGivenUp: region ? 0 : 32 },
      })),
    ),
    {
      ...driver,
      // The page comes out of the balloon, and free populates a page of the DMA allocator's: Xen counts one too many.
      name: "one page, no region, as V1 was posted",
      pages: 1,
      kernel: { freeKnows: "pool-address", patchFaults: ["single-page-hole"] },
      set: NO_REGION,
      wanted: { errno: 0, pages: "RAM", framesLost: -1 },
    },
    {
      ...driver,
      name: "two pages, no region, as V1 was posted",
      pages: 2,
      kernel: { freeKnows: "pool-address", patchFaults: ["single-page-hole"] },
      set: NO_REGION,
      wanted: { ...arrived, pages: "RAM", framesGivenUp: 2 },
    },
  ],
});
