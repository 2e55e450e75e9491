/** Mutants of x86 PV domains: pages that change hands, page types, status frames (stress spec 11.1 and 11.2). */
import type { Mutant } from "./mutant.ts";

export const PV_MUTANTS: readonly Mutant[] = [
  {
    id: "M11",
    name: "version-shrinks-table",
    origin: "XSA-501",
    mechanism:
      "between the two halves of a transfer the receiver's table may become smaller, and nobody looks again",
    patches: [
      {
        file: "hypervisor/grant-transfer.ts",
        from: "    if (!copyFieldBack(xen, caller.domid, element, TRANSFER_STATUS, 2)) return -EFAULT;\n",
        to: "    if (status === GNTST_okay) {\n      yield GAP_PREEMPT;\n      complete(xen, caller, domid, ref, frame);\n      args.setU16(TRANSFER_STATUS, status);\n    }\n    if (!copyFieldBack(xen, caller.domid, element, TRANSFER_STATUS, 2)) return -EFAULT;\n",
      },
      {
        file: "hypervisor/grant-transfer.ts",
        from: "  complete(xen, caller, receiver, ref, frame);\n  return GNTST_okay;\n",
        to: "  return GNTST_okay;\n",
      },
    ],
    story: "shrink",
    depth: 2,
    caughtBy: ["I-33"],
  },
  {
    id: "M16",
    name: "capacity-unit",
    origin: "XSA-382",
    mechanism: "how many frames a caller has room for is reckoned eight times too high",
    patches: [
      {
        file: "hypervisor/grant-version.ts",
        from: "  for (let n = 0; n < count; n++) {\n",
        to: "  for (let n = 0; n < Math.min(count * 8, statusFrames(xen, domid)); n++) {\n",
      },
    ],
    story: "status-frames",
    depth: 1,
    caughtBy: ["I-33"],
  },
  {
    id: "M20",
    name: "transfer-wrong-frame",
    origin: "XSA-284",
    mechanism:
      "a transfer that moves the contents leaves the new page without its reference and tells the old number",
    patches: [
      {
        file: "hypervisor/grant-transfer.ts",
        from: "  if (!isNarrow || mfnAt(xen.layout, frame) < FRAME_FIELD_END) return frame;\n",
        to: "  if (!isNarrow) return frame;\n",
      },
      {
        file: "hypervisor/grant-transfer.ts",
        from: "offer(xen, caller, given, receiver, ref);",
        to: "offer(xen, caller, given, receiver, ref, frame);",
      },
      {
        file: "hypervisor/grant-transfer.ts",
        from: "frame: number, receiver: DomId, ref: number): number {\n  const pages",
        to: "frame: number, receiver: DomId, ref: number, told: number): number {\n  const pages",
      },
      {
        file: "hypervisor/grant-transfer.ts",
        from: "  complete(xen, caller, receiver, ref, frame);\n",
        to: "  xen.words[xen.layout.frameCount + frame] = (xen.words[xen.layout.frameCount + frame] ?? 0) - 1;\n  complete(xen, caller, receiver, ref, told);\n",
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
  {
    id: "M31",
    name: "attach-snapshot",
    origin: "XSA-285",
    mechanism:
      "a device that is assigned is shown the pages that were writable before its handler has let go",
    patches: [
      {
        file: "hypervisor/iommu-domctl.ts",
        from: "  yield* switchContext(xen, caller.slot, device, to);\n",
        to: "  const shown = [];\n  for (let frame = 0; frame < xen.layout.ramFrames; frame++) {\n    if (frameOwner(xen, frame) !== to.domid || isXenHeap(xen, frame)) continue;\n    if (typeOf(xen, frame) === PGT_writable_page && typeCount(xen, frame) > 0) shown.push(frame);\n  }\n  yield GAP_PREEMPT;\n  const rights = IOMMUF_readable | IOMMUF_writable;\n  for (const frame of shown) iommuMap(xen, to.domid as DomId, mfnAt(xen.layout, frame), frame, rights);\n  yield* switchContext(xen, caller.slot, device, to);\n",
      },
      {
        file: "hypervisor/iommu-domctl.ts",
        from: "import { type Caller, hasFlag,",
        to: 'import { PGT_writable_page } from "../shared/frame-flags.ts";\nimport { mfnAt } from "../shared/layout.ts";\nimport { frameOwner, isXenHeap } from "./frame-table.ts";\nimport { IOMMUF_readable, IOMMUF_writable, iommuMap } from "./iommu-table.ts";\nimport { typeCount, typeOf } from "./page-type.ts";\nimport { GAP_PREEMPT, type Caller, hasFlag,',
      },
    ],
    story: "attach",
    depth: 2,
    caughtBy: ["I-05", "I-07"],
  },
  {
    id: "M38",
    name: "implicit-unpin",
    origin: "XSA-252",
    mechanism: "a page table that its domain gives up loses a pin, whether it has one or not",
    patches: [
      {
        file: "hypervisor/memory-reservation.ts",
        from: "    if (unused === 0) putPageAllocRef(xen, frame);\n    putPage(xen, frame);\n    return unused;\n",
        to: "    if (unused === 0) putPageAllocRef(xen, frame);\n    if (unused === 0 && isTableFrame(xen, frame)) {\n      setPinned(xen, frame, false);\n      putPageAndType(xen, frame);\n    }\n    putPage(xen, frame);\n    return unused;\n",
      },
      {
        file: "hypervisor/memory-reservation.ts",
        from: "import { isPv, mayGiveUp } from",
        to: "import { isPv, isTableFrame, mayGiveUp, putPageAndType, setPinned } from",
      },
    ],
    story: "pinned-table",
    depth: 1,
    caughtBy: ["I-05", "I-06"],
  },
];
