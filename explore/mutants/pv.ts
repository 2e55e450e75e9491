/** Mutants of x86 PV domains: pages that change hands, page types, status frames (stress spec 11.1 and 11.2). */
import type { Mutant } from "./mutant.ts";

export const PV_MUTANTS: readonly Mutant[] = [
  {
    id: "M20",
    name: "transfer-wrong-frame",
    origin: "XSA-284",
    mechanism:
      "a transfer that moves the contents leaves the new page without its reference and tells the old number",
    patches: [
      {
        file: "hypervisor/grant-transfer.ts",
        from: "  if (assignPages(xen, receiver, frame, 1) !== 0) return GNTST_general_error;\n  complete(",
        to: "  const moved = allocHeapFrames(xen, 0);\n  xen.memory.copy(moved, 0, frame as FrameIndex, 0, 4096);\n  if (assignPages(xen, receiver, moved, 1) !== 0) return GNTST_general_error;\n  xen.words[xen.layout.frameCount + moved] = (xen.words[xen.layout.frameCount + moved] ?? 0) - 1;\n  freeHeapFrame(xen, frame);\n  complete(",
      },
      {
        file: "hypervisor/grant-transfer.ts",
        from: "import { assignPages, freeHeapFrame,",
        to: "import { allocHeapFrames, assignPages, freeHeapFrame,",
      },
    ],
    story: "transfer",
    depth: 1,
    caughtBy: ["I-03", "I-08"],
  },
  {
    id: "M21",
    name: "steal-page-gap",
    origin: "XSA-287",
    mechanism:
      "a page that waits for the flush before its change of owner counts nothing, with its allocation reference set",
    patches: [
      {
        file: "hypervisor/page-type.ts",
        from: "    if (isStale(xen, domid, frame)) return -ERESTART;\n  }\n  return stealPage",
        to: "    if (isStale(xen, domid, frame)) {\n      xen.words[xen.layout.frameCount + frame] = (xen.words[xen.layout.frameCount + frame] ?? 0) - 1;\n      return -ERESTART;\n    }\n  }\n  return stealPage",
      },
      {
        file: "hypervisor/frame-table.ts",
        from: "  if (frameReferences(xen, frame) !== 1) return -EINVAL;\n",
        to: "  if (frameReferences(xen, frame) > 1) return -EINVAL;\n",
      },
    ],
    story: "steal",
    depth: 2,
    caughtBy: ["I-02", "I-03"],
  },
];
