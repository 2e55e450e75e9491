/** Mutants of tables that hardware walks, and of the records of what is in them (stress spec 11.2). */
import type { Mutant } from "./mutant.ts";

export const TABLE_MUTANTS: readonly Mutant[] = [
  {
    id: "M28",
    name: "table-page-back-early",
    origin: "XSA-480",
    mechanism: "a table that a block has replaced goes back to the pool before the flush",
    patches: [
      {
        file: "hypervisor/p2m-extent.ts",
        from: "  holdTablePage(xen, slot, domid, below);\n",
        to: "  if (slot >= 0) returnTable(xen, domid, below);\n",
      },
      {
        file: "hypervisor/p2m-extent.ts",
        from: "import { p2mSet, reach, walkSteps } from",
        to: "import { p2mSet, reach, returnTable, walkSteps } from",
      },
    ],
    story: "collapse",
    depth: 2,
    caughtBy: ["I-35"],
  },
  {
    id: "M30",
    name: "live-entry-in-pieces",
    origin: "XSA-347",
    mechanism:
      "a live entry is written field by field: first the address, then what may be done there",
    patches: [
      {
        file: "hypervisor/page-table.ts",
        from: "  xen.memory.store(frame, slot * 8, 0);\n  xen.memory.store(frame, slot * 8 + 4, up);\n",
        to: "  const access = xen.memory.peek(frame, slot * 8) & 0xc0;\n  xen.memory.store(frame, slot * 8 + 4, up);\n  xen.memory.store(frame, slot * 8, (low & ~0xc0) | access);\n  xen.memory.onGuestWord?.();\n",
      },
    ],
    story: "live-entry",
    depth: 2,
    caughtBy: ["I-36"],
  },
  {
    id: "M34",
    name: "mapped-but-untracked",
    origin: "XSA-460",
    mechanism: "the identity entry is made before what else a map needs, which can fail",
    patches: [
      {
        file: "hypervisor/grant-map.ts",
        from: "  if ((mapping.flags & ~GNTMAP_readonly) !== GNTMAP_host_map) return false;\n  mapping.place",
        to: "  if (!devicesReady(xen, caller, mapping)) return false;\n  if (needIommuMapping(xen, caller.domid))\n    identityMap(xen, caller.domid, mapping.frame, mapping.readonly);\n  mapping.place",
      },
      {
        file: "hypervisor/grant-map.ts",
        from: "  const former = identityMap(xen, caller.domid, frame, readonly);\n",
        to: "  const former = readonly && frame < 0 ? -1 : P2M_NOTHING;\n",
      },
    ],
    story: "untracked",
    depth: 1,
    caughtBy: ["I-32", "I-23"],
  },
];
