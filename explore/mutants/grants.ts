/** Mutants of grant tables (stress spec 11.1). */
import type { Mutant } from "./mutant.ts";

export const GRANT_MUTANTS: readonly Mutant[] = [
  {
    id: "M01",
    name: "free-signal-early",
    origin: "XSA-218",
    mechanism: "pins and usage bits go before the flush that takes the mapper's translations away",
    patches: [
      {
        file: "hypervisor/grant-unmap.ts",
        from: "    if (startFlush(xen, caller.slot, caller.domid) > 0) yield GAP_FLUSH;\n    releaseHolds(xen, caller.slot);\n",
        to: "    releaseHolds(xen, caller.slot);\n    if (startFlush(xen, caller.slot, caller.domid) > 0) yield GAP_FLUSH;\n",
      },
    ],
    story: "revoke",
    depth: 2,
    caughtBy: ["I-09", "I-13", "I-17"],
  },
  {
    id: "M02",
    name: "double-put-handle",
    origin: "XSA-218",
    mechanism: "whether nothing is left of a handle is looked at after the flush, by every caller",
    patches: [
      {
        file: "hypervisor/grant-unmap.ts",
        from: "    if (startFlush(xen, caller.slot, caller.domid) > 0) yield GAP_FLUSH;\n    releaseHolds(xen, caller.slot);\n    if (faulted)",
        to: "    const last = xen.args.u32(UNMAP_HANDLE);\n    if (startFlush(xen, caller.slot, caller.domid) > 0) yield GAP_FLUSH;\n    releaseHolds(xen, caller.slot);\n    if (trackFlags(xen, caller.domid, last) === 0) putHandle(xen, caller.domid, last);\n    if (faulted)",
      },
      {
        file: "hypervisor/grant-unmap.ts",
        from: "  setTrackFlags(xen, mapper, handle, 0);\n  putHandle(xen, mapper, handle);\n",
        to: "  setTrackFlags(xen, mapper, handle, 0);\n",
      },
    ],
    story: "halves-race",
    depth: 2,
    caughtBy: ["I-14"],
  },
  {
    id: "M03",
    name: "device-kind-dropped-unasked",
    origin: "XSA-224",
    mechanism: "giving the host half back drops the device half's page reference too",
    patches: [
      {
        file: "hypervisor/grant-unmap.ts",
        from: "    left &= ~GNTMAP_host_map;\n",
        to: "    left &= ~GNTMAP_host_map;\n    if ((flags & GNTMAP_device_map) !== 0) holdPage(xen, caller.slot, frame);\n",
      },
    ],
    story: "halves",
    depth: 1,
    caughtBy: ["I-04", "I-07"],
  },
  {
    id: "M04",
    name: "one-ref-for-two-kinds",
    origin: "XSA-224",
    mechanism: "mapping both halves takes a single type reference",
    patches: [
      {
        file: "hypervisor/pv-grant.ts",
        from: "  const types =\n    (device && deviceIsTyped(xen, flags) ? 1 : 0) +\n",
        to: "  const types =\n    (device && !host && deviceIsTyped(xen, flags) ? 1 : 0) +\n",
      },
    ],
    story: "halves",
    depth: 1,
    caughtBy: ["I-05"],
  },
  {
    id: "M06",
    name: "copy-clears-device-use",
    origin: "XSA-230",
    mechanism: "the end of a copy clears the usage bits although a mapping still has the page",
    patches: [
      {
        file: "hypervisor/active-entry.ts",
        from: "let clear = pin === 0 ? GTF_reading : 0;",
        to: "let clear = GTF_reading;",
      },
    ],
    story: "copy-mapped",
    depth: 1,
    caughtBy: ["I-13"],
  },
  {
    id: "M07",
    name: "transitive-no-recheck",
    origin: "XSA-226",
    mechanism:
      "an entry that leads to another domain's is not compared with what it is pinned with, only its pin is looked at",
    patches: [
      {
        file: "hypervisor/grant-copy.ts",
        from: "    if (pin !== 0 && !isActive(xen, granter, ref, via)) {\n",
        to: "    if (pin !== activePin(xen, granter, ref)) {\n",
      },
    ],
    story: "transitive",
    depth: 2,
    caughtBy: ["I-15", "I-16"],
  },
  {
    id: "M09",
    name: "copy-takes-shared-frame",
    origin: "XSA-500",
    mechanism: "a copy through a pinned entry takes the frame that the shared entry names now",
    patches: [
      {
        file: "hypervisor/grant-copy.ts",
        from: "if (pin === 0) return grantedFrame(xen, granter, sharedGfn(xen, granter, ref));\n  const frame",
        to: "if (pin !== 2) return grantedFrame(xen, granter, sharedGfn(xen, granter, ref));\n  const frame",
      },
    ],
    story: "copy-pinned",
    depth: 2,
    caughtBy: ["I-16", "I-26", "I-04"],
  },
  {
    id: "M14",
    name: "status-frame-unheld",
    origin: "XSA-384, XSA-486",
    mechanism: "the number of a status frame is remembered across a gap, without a reference",
    patches: [
      {
        file: "hypervisor/memory-physmap.ts",
        from: "  const placed = placeOne(xen, caller, {\n    domid,\n    space,\n    idx: args.u64(ADD_TO_PHYSMAP_IDX),\n",
        to: "  const [idx, gfn] = [args.u32(ADD_TO_PHYSMAP_IDX), args.u64(ADD_TO_PHYSMAP_GPFN)];\n  if (space === XENMAPSPACE_grant_table) return placeUnheld(xen, caller, domid, idx, gfn);\n  const placed = placeOne(xen, caller, {\n    domid,\n    space,\n    idx: args.u64(ADD_TO_PHYSMAP_IDX),\n",
      },
      {
        file: "hypervisor/memory-physmap.ts",
        from: "/** Device pages are for the hardware domain itself; ",
        to: "function* placeUnheld(xen, caller, domid, idx, gfn) {\n  const frame = grantFrameFor(xen, domid, idx);\n  if (frame < 0) return frame;\n  yield GAP_PREEMPT;\n  const placed = placeXenPage(xen, caller, domid, frame, gfn);\n  const answer = settled(xen, caller.slot, domid, placed);\n  return typeof answer === 'number' ? answer : yield* answer;\n}\n\n/** Device pages are for the hardware domain itself; ",
      },
      {
        file: "hypervisor/memory-physmap.ts",
        from: "import { PLACED_FLUSH, type Placed,",
        to: 'import { XENMAPSPACE_grant_table } from "../shared/abi/memory.ts";\nimport { grantFrameFor, PLACED_FLUSH, placeXenPage, type Placed,',
      },
      {
        file: "hypervisor/physmap-place.ts",
        from: "\nfunction placeXenPage(",
        to: "\nexport function placeXenPage(",
      },
    ],
    story: "place-status",
    depth: 2,
    caughtBy: ["I-12", "I-08"],
  },
  {
    id: "M15",
    name: "partial-unmap-underflow",
    origin: "XSA-394",
    mechanism:
      "the count of live mappings goes down for every successful unmap, also one that leaves the mapping",
    patches: [
      {
        file: "hypervisor/grant-unmap.ts",
        from: "  if (left === flags) return GNTST_okay;\n",
        to: "  if (left === flags) {\n    addDomainField(xen, mapper, DOM.MAPPINGS, -1);\n    return GNTST_okay;\n  }\n",
      },
    ],
    story: "partial-unmap",
    depth: 1,
    caughtBy: ["I-06", "I-14", "I-15"],
  },
  {
    id: "M18",
    name: "positive-error",
    origin: "XSA-316",
    mechanism: "a map that is refused by the entry reports 1 instead of a negative status",
    patches: [
      {
        file: "hypervisor/grant-map.ts",
        from: "      xen.args.setU16(MAP_STATUS, mapping);\n",
        to: "      xen.args.setU16(MAP_STATUS, mapping === GNTST_general_error ? 1 : mapping);\n",
      },
    ],
    story: "refused-map",
    depth: 1,
    caughtBy: ["I-31"],
  },
  {
    id: "M23",
    name: "header-load-store",
    origin: "classic",
    mechanism: "the usage bit is set by a load and a store instead of one compare-exchange",
    patches: [
      {
        file: "hypervisor/active-entry.ts",
        from: "    const seen = xen.memory.compareExchange(frame, offset, header, next);\n",
        to: "    const seen = header;\n    xen.memory.store(frame, offset, next);\n",
      },
    ],
    story: "revoke",
    depth: 2,
    // A withdrawn grant that still lets somebody in is I-17, and in the order of the calls H-1.
    caughtBy: ["I-17", "I-13", "H-1"],
  },
  {
    id: "M24",
    name: "unbounded-retry",
    origin: "XSA-295",
    mechanism: "the compare-exchange loop on the guest's word has no bound",
    patches: [
      {
        file: "hypervisor/active-entry.ts",
        from: "attempt < CMPXCHG_ATTEMPTS_MAX; attempt++) {\n    const kind",
        to: "attempt < Number.POSITIVE_INFINITY; attempt++) {\n    const kind",
      },
    ],
    story: "rewrite-header",
    depth: 1,
    caughtBy: ["I-41", "L-4"],
  },
  {
    id: "M58",
    name: "read-only-lost",
    origin: "classic",
    mechanism:
      "the read-only flag is tested on the first value of the header, the mapping made with a later one",
    patches: [
      {
        file: "hypervisor/active-entry.ts",
        from: "    if (!readonly && (header & GTF_readonly) !== 0) return GNTST_general_error;\n    const next",
        to: "    if (attempt === 0 && !readonly && (header & GTF_readonly) !== 0) return GNTST_general_error;\n    const next",
      },
    ],
    story: "flip-readonly",
    depth: 2,
    caughtBy: ["I-18"],
  },
];
