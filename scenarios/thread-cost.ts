/**
 * What does a buffer of 8 MiB cost? Unpopulated contiguous pages are address space: no RAM is given up for them. Real RAM
 * is given to Xen for as long as the buffer lives, which breaks the blocks of the P2M that hold it, and comes back by more
 * hypercalls. The buffer is still there at the end of each run, or has been given back again.
 */
import { COSTS, column, threadScenario } from "./thread-compose.ts";

const PAGES = 2048;
const mapped = { errno: 0, contiguous: "yes" } as const;
const balloon = (domain: string) => ({
  [`domains.${domain}.backend`]: { pages: "balloon" },
  [`domains.${domain}.extendedRegions`]: [],
});

export default threadScenario({
  name: "thread-cost",
  about: "8 MiB of buffer: unpopulated contiguous pages or ballooned RAM",
  moral:
    "Ballooned RAM costs its frames, the superpages they lay in and hypercalls both ways; address space costs a few table pages.",
  pages: PAGES,
  machine: { allocator: "contiguous" },
  columns: [
    column("pages", "pages"),
    ...COSTS,
    column("table pages", "tablePages"),
    column("with Xen", "framesWithXen"),
    column("lost", "framesLost"),
  ],
  variants: (["drv", "dom0"] as const).flatMap((backend) =>
    [true, false].flatMap((unpopulated) =>
      [true, false].map((hold) => ({
        name: `${backend === "drv" ? "driver" : "dom0"}/${unpopulated ? "unpopulated" : "ballooned"}/${hold ? "held" : "given back"}`,
        backend,
        iommu: true,
        address: "none" as const,
        hold,
        set: unpopulated ? {} : balloon(backend),
        wanted: {
          ...mapped,
          pages: unpopulated ? "unpopulated" : "RAM",
          stillMapped: hold ? PAGES : 0,
          framesGivenUp: unpopulated ? 0 : PAGES,
          // Xen keeps the frames of a direct-mapped domain for it: nobody has the use of them.
          framesWithXen: unpopulated || backend === "dom0" ? 0 : PAGES,
          ...(unpopulated ? { superpagesSplit: 0 } : {}),
        },
      })),
    ),
  ),
});
