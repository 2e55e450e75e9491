/**
 * Zero copy or not? The disk writes into the frontend's own frames through grants that are mapped; or into RAM of the
 * backend's, from where the CPU or the hypervisor copies; or the backend's RAM is what the frontend maps. The copies are
 * counted in bytes, the rest by the machine.
 */
import { bufferBack } from "../domains/drivers/buffer-back.ts";
import { backendAllocated, type CopyWay, copyBack } from "../domains/drivers/copy-back.ts";
import type { Kernel } from "../domains/kernel.ts";
import type { Given } from "../shared/scenario.ts";
import type { Program } from "../shared/trap.ts";
import { COSTS, column, type ThreadVariant, threadScenario } from "./thread-compose.ts";

const PAGES = 64;
const SIZE = PAGES * 4096;

function* back(kernel: Kernel, { facts }: Given): Program {
  const way = facts.way as CopyWay | "zero-copy";
  if (way === "memcpy" || way === "grant-copy") yield* copyBack(kernel, way);
  else if (way === "backend-allocated") yield* backendAllocated(kernel, PAGES);
  else {
    const segments = facts.segments === "merged" ? "merged" : "page";
    const options = { frontend: "guest", takes: "dma", address: "dma-layer", hold: false } as const;
    yield* bufferBack(kernel, { ...options, segments });
  }
}

const driver = { backend: "drv", iommu: true } as const;
const WAYS: readonly (readonly [string, Omit<ThreadVariant, "name">])[] = [
  [
    "zero copy",
    {
      ...driver,
      segments: "merged",
      wanted: { lands: "guest", copied: 0, framesGivenUp: 0, segments: 1 },
    },
  ],
  [
    "zero copy, bounced after all",
    {
      backend: "dom0",
      iommu: false,
      segments: "merged",
      wanted: { lands: "dom0", copied: 2 * SIZE, framesGivenUp: 0 },
    },
  ],
  [
    "copied by the CPU",
    {
      ...driver,
      facts: { way: "memcpy" },
      wanted: { lands: "drv", copied: SIZE, framesGivenUp: PAGES },
    },
  ],
  [
    "copied by GNTTABOP_copy",
    {
      ...driver,
      facts: { way: "grant-copy" },
      wanted: { lands: "drv", copied: SIZE, framesGivenUp: PAGES },
    },
  ],
  // The one page more is the process's own, for the structures of its requests.
  [
    "the frontend maps the backend's RAM",
    {
      ...driver,
      facts: { way: "backend-allocated", allocates: "back" },
      wanted: { lands: "drv", copied: 0, framesGivenUp: PAGES + 1 },
    },
  ],
];

export default threadScenario({
  name: "thread-zero-copy",
  about: "zero copy, and the ways to copy",
  moral:
    "Zero copy costs two hypercalls and no RAM; whoever copies pays every byte and a second buffer.",
  pages: PAGES,
  back,
  columns: [
    column("lands in", "lands"),
    column("arrives", "arrives"),
    column("bytes copied", "copied"),
    ...COSTS,
  ],
  variants: WAYS.map(([name, one]) => ({ ...one, name, wanted: { ...one.wanted, arrives: true } })),
});
