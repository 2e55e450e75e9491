/**
 * What came after: virtio with grants. The frontend's DMA layer gives the device a grant, with the top bit set to say so,
 * in place of an address that only the frontend understands. The other side maps it as it always did; how its own device
 * gets at the frames is the same question again. Without the binding the addresses are the frontend's own, and the other
 * side must be privileged to reach them.
 */
import { virtioBack } from "../domains/drivers/virtio-back.ts";
import { virtioFront } from "../domains/drivers/virtio-front.ts";
import { COSTS, column, type ThreadVariant, threadScenario } from "./thread-compose.ts";

const PAGES = 16;
const GRANT = "0x8000000000009000";
const right = { errno: 0, lands: "guest", arrives: true } as const;

const bound = (backend: string) => ({
  "domains.guest.virtio": { disk: { backend, iommus: "xen,grant-dma" } },
});
const unbound = (backend: string) => ({ "domains.guest.virtio": { disk: { backend } } });

const variants: readonly ThreadVariant[] = [
  {
    name: "grants/driver/iommu",
    backend: "drv",
    iommu: true,
    set: bound("drv"),
    wanted: { ...right, given: GRANT, by: "phys_to_dma" },
  },
  {
    name: "grants/dom0/bare",
    backend: "dom0",
    iommu: false,
    set: bound("dom0"),
    wanted: { ...right, given: GRANT, by: "xen_phys_to_dma" },
  },
  {
    name: "no binding/driver/iommu",
    backend: "drv",
    iommu: true,
    set: unbound("drv"),
    wanted: { errno: -1, lands: "–", arrives: false },
  },
  {
    name: "no binding/dom0/iommu",
    backend: "dom0",
    iommu: true,
    set: unbound("dom0"),
    wanted: { ...right, by: "xen_phys_to_dma" },
  },
  {
    // A foreign frame has no entry in the table of grants, so the kernel takes its own number for a machine frame.
    name: "no binding/dom0/bare",
    backend: "dom0",
    iommu: false,
    set: unbound("dom0"),
    wanted: { errno: 0, by: "xen_phys_to_dma", lands: "victim", arrives: false },
  },
];

export default threadScenario({
  name: "thread-successor",
  about: "virtio with grants, and without",
  moral:
    "A grant instead of an address: the backend needs no privilege, and reaches what was granted and nothing else.",
  pages: PAGES,
  back: virtioBack,
  *front(kernel, { facts }) {
    yield* virtioFront(kernel, { backend: String(facts.backend), pages: PAGES });
  },
  columns: [
    column("the frontend gives", "given"),
    column("errno", "errno"),
    column("the disk is given", "address"),
    column("lands in", "lands"),
    column("arrives", "arrives"),
    ...COSTS,
  ],
  variants,
});
