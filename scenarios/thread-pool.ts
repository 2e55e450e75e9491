/**
 * List or pool? Unpopulated pages come from a list of single pages, from a second pool beside it, or all from one pool.
 * 64 single pages are taken and every second one is given back; then 20 pages are asked for that need not be contiguous,
 * and 16 that must be. What differs is the address space that is hot-added for it, and who may be served at all.
 */
import { unpopulatedStory } from "../domains/drivers/unpopulated-story.ts";
import { column, threadScenario } from "./thread-compose.ts";

const base = { backend: "drv", iommu: true } as const;
const kernel = { pagesPerSection: 64 } as const;

export default threadScenario({
  name: "thread-pool",
  about: "a list of pages, a second pool, or one pool for everything",
  moral:
    "One pool spends address space, of which there is plenty; a list cannot serve contiguous requests at all.",
  pages: 1,
  back: unpopulatedStory,
  columns: [column("after 64 single pages, 32 of them back", "said"), column("errno", "errno")],
  variants: [
    {
      ...base,
      name: "list",
      kernel: { ...kernel, unpopulatedAlloc: "list", fallback: false },
      wanted: { said: "20 pages: 20 runs, 0 pages added; 16 contiguous: RAM" },
    },
    {
      ...base,
      name: "second pool beside the list",
      kernel: { ...kernel, unpopulatedAlloc: "rfc" },
      wanted: { said: "20 pages: 20 runs, 0 pages added; 16 contiguous: 1 run, 64 pages added" },
    },
    {
      ...base,
      name: "one pool, always one chunk",
      kernel: { ...kernel, unpopulatedAlloc: "pool" },
      wanted: { said: "20 pages: 1 run, 64 pages added; 16 contiguous: 1 run, 0 pages added" },
    },
    {
      ...base,
      name: "one pool, single pages one by one",
      kernel: { ...kernel, unpopulatedAlloc: "pool", poolSingles: "page" },
      wanted: { said: "20 pages: 20 runs, 0 pages added; 16 contiguous: 1 run, 64 pages added" },
    },
  ],
});
