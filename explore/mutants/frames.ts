/** Mutants of frames, tables, pools and domain life (stress spec 11.1, 11.2, 11.4 and 11.5). */
import type { Mutant } from "./mutant.ts";

export const FRAME_MUTANTS: readonly Mutant[] = [
  {
    id: "M10",
    name: "version-change-under-op",
    origin: "XSA-501",
    mechanism: "a gap stands between the look at the table's pins and the change of its version",
    patches: [
      {
        file: "hypervisor/grant-set-version.ts",
        from: "    const hidden = wanted === 1 && hideStatusFrames(xen, domid);\n",
        to: "    const hidden = wanted === 1 && hideStatusFrames(xen, domid);\n    if (hidden && startFlush(xen, caller.slot, domid) > 0) yield GAP_FLUSH;\n",
      },
    ],
    story: "version-under-map",
    depth: 2,
    caughtBy: ["I-12", "I-13", "I-15", "I-16", "I-33"],
  },
  {
    id: "M12",
    name: "status-freed-while-mapped",
    origin: "XSA-255",
    mechanism:
      "going back to version 1 frees the status pages without looking where they are mapped",
    patches: [
      {
        file: "hypervisor/grant-set-version.ts",
        from: "    const hidden = wanted === 1 && hideStatusFrames(xen, domid);\n",
        to: "    const hidden = wanted === 3 && hideStatusFrames(xen, domid);\n",
      },
    ],
    story: "status-freed",
    depth: 1,
    caughtBy: ["I-09", "I-11", "I-12"],
  },
  {
    id: "M13",
    name: "status-mapped-twice",
    origin: "XSA-379",
    mechanism: "a second request does not see that the page is mapped already",
    patches: [
      {
        file: "hypervisor/physmap-place.ts",
        from: "  if (stands !== NOT_PRESENT && !profileOf(xen).movesPages) return -EBUSY;\n",
        to: "",
      },
      {
        file: "hypervisor/physmap-place.ts",
        from: "  const moved = stands !== NOT_PRESENT && stands !== gfn && p2mClear(xen, domid, stands) > 0;\n  const freed",
        to: "  const moved = false;\n  const freed",
      },
    ],
    story: "place-twice",
    depth: 1,
    caughtBy: ["I-11", "I-12"],
  },
  {
    id: "M19",
    name: "first-continuation-lost",
    origin: "XSA-318",
    mechanism: "a batch that lets go is not taken up again, and reports success",
    patches: [
      {
        file: "hypervisor/grant-copy.ts",
        from: "      forget(kept);\n      yield GAP_PREEMPT;\n",
        to: "      return 0;\n",
      },
    ],
    story: "batch-copy",
    depth: 1,
    caughtBy: ["I-31"],
  },
  {
    id: "M22",
    name: "release-without-gap",
    origin: "XSA-380",
    mechanism: "death releases all mappings in one go",
    patches: [
      {
        file: "hypervisor/domain-teardown.ts",
        from: "    if (handle % HANDLES_A_GAP === 0) yield GAP_PREEMPT;\n",
        to: "",
      },
    ],
    story: "many-mappings",
    depth: 1,
    caughtBy: ["I-41", "L-7"],
  },
  {
    id: "M25",
    name: "removal-result-ignored",
    origin: "XSA-222",
    mechanism: "a page whose removal fails for want of a table page is freed anyway",
    patches: [
      {
        file: "hypervisor/memory-reservation.ts",
        from: "  const former = p2mRemoveMapping(xen, domid, gfn, frame);\n  if (former < 0) {\n    putPage",
        to: "  const former = Math.max(0, p2mRemoveMapping(xen, domid, gfn, frame));\n  if (former < 0) {\n    putPage",
      },
    ],
    story: "split-block",
    depth: 1,
    caughtBy: ["I-12"],
  },
  {
    id: "M26",
    name: "flush-deferred-past-free",
    origin: "XSA-346",
    mechanism: "a page that another one was moved over is free before the flush that covers it",
    patches: [
      {
        file: "hypervisor/physmap-place.ts",
        from: "  putPageAllocRef(xen, frame);\n  holdPage(xen, slot, frame);\n  return true;\n",
        to: "  putPageAllocRef(xen, frame);\n  putPage(xen, frame);\n  return slot >= 0;\n",
      },
    ],
    story: "move-page",
    depth: 2,
    caughtBy: ["I-09", "I-12"],
  },
  {
    id: "M27",
    name: "no-hold-until-flush",
    origin: "XSA-346",
    mechanism:
      "a batch of moves lets go before the flush at its end, and holds no page that it has moved",
    patches: [
      {
        file: "hypervisor/memory-physmap.ts",
        from: "    if (held) holdPage(xen, slot, entryFrame(entry));\n    if (placed >= 0) continue;\n",
        to: "    if (held) putPage(xen, entryFrame(entry));\n    if (placed >= 0) {\n      yield GAP_PREEMPT;\n      continue;\n    }\n",
      },
    ],
    story: "move-range",
    depth: 1,
    caughtBy: ["I-09", "I-12"],
  },
  {
    id: "M29",
    name: "detach-without-flush",
    origin: "XSA-442",
    mechanism: "a device loses its context without a flush of what it has cached of it",
    patches: [
      {
        file: "hypervisor/iommu-context.ts",
        from: "  if (startFlushOf(xen, slot, deviceSlot(xen, device)) > 0) yield GAP_FLUSH;\n",
        to: "",
      },
    ],
    story: "kill-device-owner",
    depth: 2,
    caughtBy: ["I-09", "I-37", "I-38"],
  },
  {
    id: "M35",
    name: "partial-order-update",
    origin: "XSA-389",
    mechanism: "an extent of which only a part could be entered is counted as done",
    patches: [
      {
        file: "hypervisor/p2m-extent.ts",
        from: "  return done === size;\n",
        to: "  return true;\n",
      },
    ],
    story: "no-table",
    depth: 1,
    caughtBy: ["I-10", "I-32"],
  },
  {
    id: "M36",
    name: "quota-check-then-add",
    origin: "XSA-385 class",
    mechanism: "the limit is tested and the count raised on two sides of a gap",
    patches: [
      {
        file: "hypervisor/memory-reservation.ts",
        from: "    const frame = populateFrames(xen, reservation, gfn);\n    if (frame",
        to: "    if (domainField(xen, domid, DOM.TOT_PAGES) >= domainField(xen, domid, DOM.MAX_PAGES)) return i;\n    yield GAP_PREEMPT;\n    const frame = populateFrames(xen, reservation, gfn);\n    if (frame",
      },
      {
        file: "hypervisor/frame-table.ts",
        from: "  if (count > max - total) return -E2BIG;\n",
        to: "  if (count > max - total + 1) return -E2BIG;\n",
      },
    ],
    story: "quota",
    depth: 2,
    caughtBy: ["I-20"],
  },
  {
    id: "M37",
    name: "handout-before-scrub",
    origin: "XSA-364 class",
    mechanism: "a dying domain's page can be handed out before it has been cleaned",
    patches: [
      {
        file: "hypervisor/frame-table.ts",
        from: "  if (owner === NOT_PRESENT || isDying(xen, owner)) xen.memory.zero(FrameIndex(frame));\n",
        to: "",
      },
    ],
    story: "scrub",
    depth: 2,
    caughtBy: ["I-19"],
  },
  {
    id: "M39",
    name: "hold-leak-on-error",
    origin: "XSA-334",
    mechanism: "an early return skips the release of the reference on the target domain",
    patches: [
      {
        file: "hypervisor/memory-resource.ts",
        from: "  if (frames === 0) return -EINVAL;\n",
        to: "  if (frames === 0) {\n    addDomainField(xen, owner, DOM.REFS, 1);\n    return -EINVAL;\n  }\n",
      },
      {
        file: "hypervisor/memory-resource.ts",
        from: "  type Caller,\n  domainById,\n",
        to: "  addDomainField,\n  type Caller,\n  domainById,\n",
      },
    ],
    story: "refused-resource",
    depth: 1,
    caughtBy: ["I-23", "L-6"],
  },
  {
    id: "M40",
    name: "info-freed-in-use",
    origin: "XSA-502",
    mechanism: "what is told of a domain is read behind a gap, and it has been freed by then",
    patches: [
      {
        file: "hypervisor/domctl.ts",
        from: "function getDomainInfo(xen: Xen, caller: Caller, arg: number, domid: number): number {\n",
        to: "function* getDomainInfo(xen: Xen, caller: Caller, arg: number, domid: number) {\n",
      },
      {
        file: "hypervisor/domctl.ts",
        from: "  if (!mayManage(xen, caller, target)) return -EPERM;\n  const { args } = xen;\n",
        to: "  if (!mayManage(xen, caller, target)) return -EPERM;\n  yield GAP_PREEMPT;\n  const { args } = xen;\n",
      },
    ],
    story: "info",
    depth: 2,
    caughtBy: ["I-43"],
  },
  {
    id: "M55",
    name: "die-holding",
    origin: "classic",
    mechanism: "what a killed vCPU's handler held across a gap is never given back",
    patches: [
      {
        file: "hypervisor/domain-teardown.ts",
        from: "    releaseHolds(xen, vcpu);\n",
        to: "    setLineField(xen, vcpu, LINE.HELD, 0);\n",
      },
    ],
    story: "kill-mapper",
    depth: 2,
    caughtBy: ["I-23", "I-04", "I-13", "I-15", "L-1", "L-6"],
  },
  {
    id: "M56",
    name: "id-reuse",
    origin: "classic",
    mechanism: "a dead domain's number is free although others still refer to the domain",
    patches: [
      {
        file: "hypervisor/domain-death.ts",
        from: "    if (domainField(xen, domid, DOM.REFS) !== 0) continue;\n",
        to: "",
      },
    ],
    story: "id-reuse",
    depth: 1,
    caughtBy: ["I-04", "I-14", "I-16", "I-23", "I-28"],
  },
  {
    id: "M57",
    name: "two-lists",
    origin: "classic",
    mechanism: "a page that is freed stays in its owner's list while it is on the free list",
    patches: [
      {
        file: "hypervisor/frame-table.ts",
        from: "    unlinkFrame(xen, owner, heapPage ? DOM.XENPAGE_LIST : DOM.PAGE_LIST, frame);\n",
        to: "    if (heapPage) unlinkFrame(xen, owner, DOM.XENPAGE_LIST, frame);\n",
      },
    ],
    story: "recycle",
    depth: 1,
    caughtBy: ["I-01"],
  },
  {
    id: "M59",
    name: "pool-loss-on-error",
    origin: "classic",
    mechanism: "a move between pools that fails half-way forgets what the pool had",
    patches: [
      {
        file: "hypervisor/p2m.ts",
        from: "    if (frame === NOT_PRESENT) return got;\n",
        to: "    if (frame === NOT_PRESENT) {\n      setDomainField(xen, domid, DOM.P2M_POOL, NOT_PRESENT);\n      return got;\n    }\n",
      },
    ],
    story: "pool",
    depth: 1,
    caughtBy: ["I-21", "I-42"],
  },
  {
    id: "M60",
    name: "dying-acquires",
    origin: "XSA-410 class",
    mechanism: "allocation does not test for a dying domain after a gap",
    patches: [
      {
        file: "hypervisor/frame-table.ts",
        from: "  if (isDying(xen, domid)) return -EINVAL;\n  const total",
        to: "  const total",
      },
    ],
    story: "dying-acquires",
    depth: 2,
    caughtBy: ["I-22", "I-23"],
  },
  {
    id: "M62",
    name: "leak-per-cycle",
    origin: "classic",
    mechanism: "one page a domain's life is not returned",
    patches: [
      {
        file: "hypervisor/domain-teardown.ts",
        from: "  if (info !== NOT_PRESENT) freeXenPage(xen, info);\n",
        to: "",
      },
    ],
    story: "life",
    depth: 1,
    caughtBy: ["I-42"],
  },
];
