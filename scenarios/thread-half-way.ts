/**
 * gnttab_pages_set_private fails half-way: two of four pages are marked, the third is not. Who only gives the pages back
 * leaves marks behind; gnttab_dma_free_pages takes the marks away first, and knows both kinds of pages.
 */
import { halfWayStory } from "../domains/drivers/unpopulated-story.ts";
import { column, threadScenario } from "./thread-compose.ts";

const base = { backend: "drv", iommu: true } as const;
const NO_REGION = {
  "domains.drv.backend": { pages: "balloon" },
  "domains.drv.extendedRegions": [],
};
const CLEAN = "0 pages still marked, 0 missing in the pool, 0 of RAM";

export default threadScenario({
  name: "thread-half-way",
  about: "set_private fails half-way: what is left behind?",
  moral:
    "Undo with the function that frees: it also takes back what the failed step has done so far.",
  pages: 1,
  back: halfWayStory,
  columns: [column("errno", "errno"), column("afterwards", "said")],
  variants: [
    {
      ...base,
      name: "unpopulated, gnttab_dma_free_pages",
      kernel: { setPrivateFailsAt: 2, privateCleanup: "dma-free" },
      wanted: { errno: -12, said: CLEAN },
    },
    {
      ...base,
      name: "unpopulated, pages only",
      kernel: { setPrivateFailsAt: 2, privateCleanup: "free-only" },
      wanted: { errno: -12, said: "2 pages still marked, 0 missing in the pool, 0 of RAM" },
    },
    {
      ...base,
      name: "RAM, gnttab_dma_free_pages",
      kernel: { setPrivateFailsAt: 2, privateCleanup: "dma-free" },
      set: NO_REGION,
      wanted: { errno: -12, said: CLEAN },
    },
    {
      ...base,
      name: "nothing fails",
      wanted: { errno: 0, said: "4 pages still marked, 4 missing in the pool, 0 of RAM" },
    },
  ],
});
