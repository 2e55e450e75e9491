/**
 * Contiguous or not? The buffer's pages are consecutive for the backend's CPU, or they are not; the device's driver takes
 * entries of a page, or joins what is consecutive. Only an IOMMU makes one segment out of consecutive guest frames: where
 * the guest gives machine frames to the device, the joined segment straddles frames that are anywhere.
 */
import { COSTS, column, threadScenario } from "./thread-compose.ts";

const arrived = { lands: "guest", arrives: true } as const;

export default threadScenario({
  name: "thread-contiguous",
  about: "contiguous pages or single ones, and who gains by it",
  moral:
    "Contiguous guest frames are contiguous for a device only behind an IOMMU; without one they invite a bounce.",
  pages: 96,
  columns: [
    column("contiguous", "contiguous"),
    column("segments", "segments"),
    column("bounced", "bounced"),
    column("refused", "refused"),
    column("lands in", "lands"),
    column("arrives", "arrives"),
    ...COSTS,
  ],
  variants: [
    {
      name: "driver/iommu/contiguous/merged",
      backend: "drv",
      iommu: true,
      segments: "merged",
      wanted: { ...arrived, contiguous: "yes", segments: 1, bounced: 0 },
    },
    {
      name: "driver/iommu/list/merged",
      backend: "drv",
      iommu: true,
      takes: "pages",
      segments: "merged",
      kernel: { unpopulatedAlloc: "list" },
      wanted: { ...arrived, contiguous: "no", segments: 96, bounced: 0 },
    },
    {
      name: "dom0/bare/contiguous/merged",
      backend: "dom0",
      iommu: false,
      segments: "merged",
      wanted: { contiguous: "yes", refused: -12, lands: "–", arrives: false },
    },
    {
      name: "dom0/bare/contiguous/merged/small",
      backend: "dom0",
      iommu: false,
      segments: "merged",
      pages: 48,
      wanted: { contiguous: "yes", segments: 1, bounced: 1, lands: "dom0", arrives: true },
    },
    {
      name: "dom0/iommu/contiguous/merged",
      backend: "dom0",
      iommu: true,
      segments: "merged",
      wanted: { contiguous: "yes", refused: -12, lands: "–", arrives: false },
    },
    {
      name: "dom0/bare/contiguous/page",
      backend: "dom0",
      iommu: false,
      wanted: { ...arrived, contiguous: "yes", bounced: 0 },
    },
    {
      name: "dom0/bare/list/merged",
      backend: "dom0",
      iommu: false,
      takes: "pages",
      segments: "merged",
      kernel: { unpopulatedAlloc: "list" },
      wanted: { ...arrived, contiguous: "no", bounced: 0 },
    },
    {
      name: "dom0/bare/machine-contiguous/merged",
      backend: "dom0",
      iommu: false,
      segments: "merged",
      front: "contiguous",
      set: { "machine.allocator": "contiguous" },
      wanted: { ...arrived, contiguous: "yes", segments: 1, bounced: 0 },
    },
  ],
});
