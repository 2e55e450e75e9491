/**
 * page_to_phys, pfn_to_bfn or page_to_dma? What gnttab_dma_alloc_pages says as dev_bus_addr is given to a disk as it
 * stands. Fresh pages have no foreign frame yet, so pfn_to_bfn says no more than page_to_phys; and the device that it is
 * asked for is gntdev's own, which has no bus offset. Only the DMA layer of the real device, asked after the grants are
 * mapped, knows the address.
 */
import { column, RPI4_OFFSET, type ThreadVariant, threadScenario } from "./thread-compose.ts";

const MAKERS = ["page_to_phys", "pfn_to_bfn", "page_to_dma"] as const;
const right = { lands: "guest", arrives: true } as const;
const stranger = { lands: "victim", arrives: false } as const;
/** The bus takes 0xc000_0000 off, and the driver domain's own RAM is there. */
const own = { lands: "drv", arrives: false } as const;

interface Place {
  readonly where: string;
  readonly base: Pick<ThreadVariant, "backend" | "iommu" | "busOffset">;
  /** What becomes of dev_bus_addr there. */
  readonly raw: ThreadVariant["wanted"];
}

const PLACES: readonly Place[] = [
  {
    where: "driver/iommu/flat",
    base: { backend: "drv", iommu: true, busOffset: 0 },
    raw: right,
  },
  {
    where: "driver/iommu/offset",
    base: { backend: "drv", iommu: true, busOffset: RPI4_OFFSET },
    raw: own,
  },
  {
    where: "dom0/bare/flat",
    base: { backend: "dom0", iommu: false, busOffset: 0 },
    raw: stranger,
  },
  {
    where: "dom0/bare/offset",
    base: { backend: "dom0", iommu: false, busOffset: RPI4_OFFSET },
    raw: stranger,
  },
];

const variants = PLACES.flatMap(({ where, base, raw }): readonly ThreadVariant[] => [
  ...MAKERS.map(
    (devBusAddr): ThreadVariant => ({
      ...base,
      name: `${where}/${devBusAddr}`,
      address: "dev_bus_addr",
      kernel: { devBusAddr },
      wanted: raw,
    }),
  ),
  { ...base, name: `${where}/dma-layer`, wanted: right },
]);

export default threadScenario({
  name: "thread-dev-bus-addr",
  about: "page_to_phys, pfn_to_bfn or page_to_dma as dev_bus_addr?",
  moral:
    "None of the three is a DMA address of another device: ask that device's DMA layer once the grants are mapped.",
  pages: 4,
  columns: [
    column("address", "address"),
    column("made by", "by"),
    column("lands in", "lands"),
    column("arrives", "arrives"),
  ],
  variants,
});
