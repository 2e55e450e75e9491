/** Mutants that keep the remaining checks honest: each invariant has one that trips it (stress spec 11.5). */
import type { Mutant } from "./mutant.ts";

export const BOOKKEEPING_MUTANTS: readonly Mutant[] = [
  {
    id: "M63",
    name: "owner-stays",
    origin: "classic",
    mechanism: "a page that is free still says whose it was",
    patches: [
      {
        file: "hypervisor/frame-table.ts",
        from: "  words[layout.frameOwner + frame] = NOT_PRESENT;\n  words[layout.frameCount + frame] = PGC_state_free;\n",
        to: "  words[layout.frameCount + frame] = PGC_state_free;\n",
      },
    ],
    story: "life",
    depth: 1,
    caughtBy: ["I-02"],
  },
  {
    id: "M64",
    name: "identity-entry-stays",
    origin: "classic",
    mechanism: "an unmap leaves the entry by which the mapper's devices reach the page",
    patches: [
      {
        file: "hypervisor/grant-unmap.ts",
        from: "  const unmapped = identityUnmap(xen, mapper, mapping.frame, mapping.readonly);\n",
        to: "  const unmapped = mapper < 0 ? identityUnmap(xen, mapper, mapping.frame, mapping.readonly) : 0;\n",
      },
    ],
    story: "identity",
    depth: 1,
    caughtBy: ["I-07"],
  },
  {
    id: "M65",
    name: "grant-entry-stays",
    origin: "classic",
    mechanism:
      "an unmap gives handle, pin and reference back and leaves the entry in the mapper's table",
    patches: [
      {
        file: "hypervisor/grant-unmap.ts",
        from: "  const former = p2mRemoveMapping(xen, mapper, gfn, frame);\n",
        to: "  const former = mapper < 0 ? p2mRemoveMapping(xen, mapper, gfn, frame) : p2mLookup(xen, mapper, gfn);\n",
      },
    ],
    story: "partial-unmap",
    depth: 1,
    caughtBy: ["I-08"],
  },
  {
    id: "M66",
    name: "m2p-entry-stays",
    origin: "classic",
    mechanism: "a page that goes back to the heap keeps its place in the M2P",
    patches: [
      {
        file: "hypervisor/frame-table.ts",
        from: "  if (layout.frameType >= 0) setXenHeapGfn(xen, frame, NOT_PRESENT);\n  const head",
        to: "  const head",
      },
    ],
    story: "pv-life",
    depth: 1,
    caughtBy: ["I-10"],
  },
  {
    id: "M67",
    name: "pin-leak-on-error",
    origin: "classic",
    mechanism:
      "a copy that is refused once both sides are held drops the page of its source and not the pin",
    patches: [
      {
        file: "hypervisor/grant-copy.ts",
        from: "  release(xen, dest);\n  release(xen, source);\n  return status;\n",
        to: "  release(xen, dest);\n  if (status === GNTST_okay) release(xen, source);\n  else putPage(xen, source.frame);\n  return status;\n",
      },
    ],
    story: "copy-refused",
    depth: 1,
    caughtBy: ["I-15"],
  },
  {
    id: "M68",
    name: "slot-taken-twice",
    origin: "classic",
    mechanism: "what has been taken off a ring is still there to be taken",
    patches: [
      {
        file: "domains/ring.ts",
        from: "    done += run;\n  }\n  ring.consumed = (ring.consumed + count) | 0;\n",
        to: "    done += run;\n  }\n",
      },
    ],
    story: "ring-answers",
    depth: 1,
    caughtBy: ["I-25"],
  },
  {
    id: "M69",
    name: "peer-stays-bound",
    origin: "classic",
    mechanism: "who closes a port leaves the other end as it is",
    patches: [
      {
        file: "hypervisor/event-close.ts",
        from: "    bindPort(xen, peer, portRemotePort(xen, domid, port), ECS_UNBOUND, domid);\n",
        to: "    if (peer < 0) bindPort(xen, peer, portRemotePort(xen, domid, port), ECS_UNBOUND, domid);\n",
      },
    ],
    story: "close",
    depth: 1,
    caughtBy: ["I-28"],
  },
  {
    id: "M70",
    name: "port-without-bucket",
    origin: "classic",
    mechanism: "a port of the next bucket is given away and the number of valid ports stays",
    patches: [
      {
        file: "hypervisor/event-ports.ts",
        from: "    setDomainField(xen, domid, DOM.VALID_EVTCHNS, grown);\n",
        to: "    setDomainField(xen, domid, DOM.VALID_EVTCHNS, grown > 0 ? valid : grown);\n",
      },
    ],
    story: "bucket",
    depth: 1,
    caughtBy: ["I-29"],
  },
  {
    id: "M71",
    name: "hold-outlives-answer",
    origin: "classic",
    mechanism: "a call answers after its flush and keeps what it held for it",
    patches: [
      {
        file: "hypervisor/memory-physmap.ts",
        from: "  yield GAP_FLUSH;\n  releaseHolds(xen, slot);\n  return 0;\n",
        to: "  yield GAP_FLUSH;\n  return slot < 0 ? -1 : 0;\n",
      },
    ],
    story: "move-page",
    depth: 2,
    caughtBy: ["I-34"],
  },
  {
    id: "M72",
    name: "device-stays-attached",
    origin: "classic",
    mechanism: "a device that is taken from its domain goes on walking that domain's table",
    patches: [
      {
        file: "hypervisor/iommu-context.ts",
        from: "  setLineField(xen, slot, LINE.MODE, to.mode);\n",
        to: "  if (to.domid !== NOT_PRESENT) setLineField(xen, slot, LINE.MODE, to.mode);\n",
      },
    ],
    story: "kill-device-owner",
    depth: 1,
    caughtBy: ["I-09", "I-37"],
  },
  {
    id: "M73",
    name: "cleaned-after-free",
    origin: "XSA-364 class",
    mechanism:
      "a dying domain's page is cleaned once it is on the free list, where it may be somebody else's",
    patches: [
      {
        file: "hypervisor/frame-table.ts",
        from: "  if (owner === NOT_PRESENT || isDying(xen, owner)) xen.memory.zero(FrameIndex(frame));\n  if (isStatic(xen, frame)) reserveFrame(xen, frame);\n  else freeHeapFrame(xen, frame);\n",
        to: "  if (isStatic(xen, frame)) reserveFrame(xen, frame);\n  else freeHeapFrame(xen, frame);\n  if (owner === NOT_PRESENT || isDying(xen, owner)) xen.memory.zero(FrameIndex(frame));\n",
      },
    ],
    story: "id-reuse",
    depth: 1,
    caughtBy: ["I-43"],
  },
  {
    id: "M74",
    name: "fifo-unmask-without-recheck",
    origin: "classic",
    mechanism: "unmask in the FIFO ABI clears the mask and links nothing that is pending",
    patches: [
      {
        file: "hypervisor/event-fifo.ts",
        from: "  if ((word & EVTCHN_FIFO_PENDING) !== 0) setPendingFifo(xen, domid, port);\n",
        to: "  if ((word & EVTCHN_FIFO_PENDING) !== 0 && port < 0) setPendingFifo(xen, domid, port);\n",
      },
    ],
    story: "fifo-unmask",
    depth: 2,
    caughtBy: ["I-27", "L-2"],
  },
  {
    id: "M75",
    name: "copy-after-release",
    origin: "classic",
    mechanism: "both sides of a copy are given back before the bytes go",
    patches: [
      {
        file: "hypervisor/grant-copy.ts",
        from: "  const status = move(xen, source, dest);\n  release(xen, dest);\n  release(xen, source);\n  return status;\n",
        to: "  release(xen, dest);\n  release(xen, source);\n  return move(xen, source, dest);\n",
      },
    ],
    story: "copy-into",
    depth: 1,
    caughtBy: ["I-33"],
  },
  {
    id: "M76",
    name: "argument-taken-twice",
    origin: "XSA-155 family",
    mechanism: "a copy takes its structure from the guest to judge it, and once more to use it",
    patches: [
      {
        file: "hypervisor/grant-copy.ts",
        from: "    if (!copyArgs(xen, caller.domid, element, COPY_SIZE)) return -EFAULT;\n    const { args } = xen;\n",
        to: "    if (!copyArgs(xen, caller.domid, element, COPY_SIZE)) return -EFAULT;\n    if (!copyArgs(xen, caller.domid, element, COPY_SIZE)) return -EFAULT;\n    const { args } = xen;\n",
      },
    ],
    story: "copy-into",
    depth: 1,
    caughtBy: ["I-26"],
  },
];
