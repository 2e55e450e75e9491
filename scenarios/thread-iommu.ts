/**
 * IOMMU or not? Behind one a driver domain's device reaches what the domain's grants have mapped, in one segment however
 * scattered the machine frames are, and nothing else. Without one it reaches whatever the number happens to name; dom0 is
 * right there only because its kernel does the translation, and only page by page.
 */
import { COSTS, column, threadScenario } from "./thread-compose.ts";

export default threadScenario({
  name: "thread-iommu",
  about: "behind an IOMMU or bare",
  moral:
    "A driver domain that is not direct-mapped needs an IOMMU; dom0 does without only by translating itself.",
  pages: 64,
  columns: [
    column("address", "address"),
    column("segments", "segments"),
    column("bounced", "bounced"),
    column("lands in", "lands"),
    column("arrives", "arrives"),
    ...COSTS,
  ],
  variants: [
    {
      name: "driver/iommu",
      backend: "drv",
      iommu: true,
      segments: "merged",
      wanted: { segments: 1, lands: "guest", arrives: true },
    },
    {
      name: "driver/bare",
      backend: "drv",
      iommu: false,
      segments: "merged",
      wanted: { segments: 1, lands: "victim", arrives: false },
    },
    {
      name: "dom0/iommu",
      backend: "dom0",
      iommu: true,
      wanted: { segments: 64, lands: "guest", arrives: true },
    },
    {
      name: "dom0/bare",
      backend: "dom0",
      iommu: false,
      wanted: { segments: 64, lands: "guest", arrives: true },
    },
    {
      name: "dom0/bare/merged",
      backend: "dom0",
      iommu: false,
      segments: "merged",
      wanted: { segments: 1, bounced: 1, lands: "dom0", arrives: true },
    },
  ],
});
