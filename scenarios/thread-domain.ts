/**
 * dom0 or a driver domain? It is not the name that decides, but whether gfn == mfn: a direct-mapped domain has
 * swiotlb-xen, which gives machine frames to devices, and every other one has dma-direct, which gives guest frames. Each
 * beside the other's way by mistake.
 */
import { COSTS, column, threadScenario } from "./thread-compose.ts";

const right = { lands: "guest", arrives: true, refused: 0 } as const;

export default threadScenario({
  name: "thread-domain",
  about: "a backend in dom0 or in a driver domain",
  moral:
    "swiotlb-xen where gfn == mfn and nowhere else: the feature bits say it, the domain's name does not.",
  pages: 4,
  columns: [
    column("address", "address"),
    column("made by", "by"),
    column("lands in", "lands"),
    column("arrives", "arrives"),
    ...COSTS,
  ],
  variants: [
    {
      name: "dom0/bare",
      backend: "dom0",
      iommu: false,
      wanted: { ...right, by: "xen_phys_to_dma" },
    },
    {
      name: "dom0/bare/dma-direct by mistake",
      backend: "dom0",
      iommu: false,
      kernel: { dmaOps: "dma-direct" },
      wanted: { by: "phys_to_dma", lands: "victim", arrives: false },
    },
    {
      name: "dom0/iommu",
      backend: "dom0",
      iommu: true,
      wanted: { ...right, by: "xen_phys_to_dma" },
    },
    {
      name: "dom0 not direct-mapped/iommu",
      backend: "dom0",
      iommu: true,
      set: { "domains.dom0.mapping": "scattered" },
      wanted: { ...right, by: "phys_to_dma" },
    },
    {
      name: "dom0 not direct-mapped/iommu/old Xen",
      backend: "dom0",
      iommu: true,
      set: { "domains.dom0.mapping": "scattered", "machine.lacks": ["mapping_features"] },
      wanted: { by: "xen_phys_to_dma", lands: "–", arrives: false },
    },
    { name: "driver/iommu", backend: "drv", iommu: true, wanted: { ...right, by: "phys_to_dma" } },
    {
      name: "driver/iommu/swiotlb-xen by mistake",
      backend: "drv",
      iommu: true,
      kernel: { dmaOps: "swiotlb-xen" },
      wanted: { by: "xen_phys_to_dma", lands: "–", arrives: false },
    },
    {
      name: "driver/iommu/swiotlb-xen by mistake/bounced",
      backend: "drv",
      iommu: true,
      kernel: { dmaOps: "swiotlb-xen", swiotlbForce: true },
      wanted: { by: "swiotlb bounce", lands: "drv", arrives: true },
    },
    {
      name: "driver/bare",
      backend: "drv",
      iommu: false,
      wanted: { by: "phys_to_dma", lands: "victim", arrives: false },
    },
  ],
});
