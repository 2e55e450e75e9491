/** Bugs for a copy of the sources, and the claims about version 2 tables that must notice each of them. */

import type { Patch } from "../explore/planted.ts";

const SET_VERSION = "hypervisor/grant-set-version.ts";
const COPY = "hypervisor/grant-copy.ts";

/** What is planted, and how the claims that must notice begin. */
export type PlantedBug = readonly [what: string, claims: readonly string[], patch: Patch];

export const BUGS_OF_ENTRIES: readonly PlantedBug[] = [
  [
    "a reserved entry in use keeps the version",
    ["hypervisor case 61", "hypervisor case 63"],
    {
      file: SET_VERSION,
      from: "for (let ref = GNTTAB_NR_RESERVED_ENTRIES; ref < entries; ref++) {",
      to: "for (let ref = 0; ref < entries; ref++) {",
    },
  ],
  [
    "a change of version keeps every entry",
    ["hypervisor case 62"],
    {
      file: SET_VERSION,
      from: "  for (let n = 0; n < frames; n++) xen.memory.zero(grantFrame(xen, domid, n));\n",
      to: "",
    },
  ],
  [
    "the upper half of a frame is not looked at",
    ["hypervisor case 64"],
    {
      file: SET_VERSION,
      from: "type === GTF_permit_access && entryCell(xen, domid, ref, 12) !== 0",
      to: "type === GTF_permit_access && entryCell(xen, domid, ref, 12) < 0",
    },
  ],
  [
    "a part of a page in use is forgotten",
    ["hypervisor case 63"],
    {
      file: SET_VERSION,
      from: "activePin(xen, domid, ref) !== 0 && activeKind(xen, domid, ref) !== 0",
      to: "activePin(xen, domid, ref) !== 0 && activeKind(xen, domid, ref) > 2",
    },
  ],
  [
    "a window has no end",
    ["hypervisor case 76"],
    { file: COPY, from: "from >= start && from + bytes <= start + length", to: "from >= start" },
  ],
  [
    "a part of a page can be mapped",
    ["hypervisor case 76"],
    {
      file: "hypervisor/grant-v2.ts",
      from: "return access.copying || (header & GTF_sub_page) === 0;",
      to: "return true;",
    },
  ],
  [
    "a way may lead back to where it begins",
    ["hypervisor case 78"],
    { file: COPY, from: "next === undefined || next === granter", to: "next === undefined" },
  ],
  [
    "a way may have any number of steps",
    ["XSA-226"],
    {
      file: COPY,
      from: "mayLead ? acquireBehind(",
      to: "mayLead || !mayLead ? acquireBehind(",
    },
  ],
  [
    "a way may turn while it is pinned",
    ["XSA-226"],
    { file: COPY, from: "pin !== 0 && !isActive(", to: "pin < 0 && !isActive(" },
  ],
  [
    "a copy that fails behind a way leaves status bits",
    ["XSA-226", "XSA-411"],
    {
      file: COPY,
      from: "    reduceStatus(xen, granter, ref, readonly);\n    return found;",
      to: "    return found;",
    },
  ],
  [
    "the page of a copy is always the one that the entry names",
    ["XSA-500"],
    {
      file: COPY,
      from: "if (pin === 0) return grantedFrame(",
      to: "if (pin >= 0) return grantedFrame(",
    },
  ],
  [
    "the window of a copy is always the one that the entry names",
    ["hypervisor case 81"],
    { file: COPY, from: "pin === 0 ? shared : activeWindow(xen, granter, ref)", to: "shared" },
  ],
  [
    "references are not compared with the table of the moment",
    ["XSA-501"],
    {
      file: COPY,
      from: "  if (ref >= grantEntries(xen, granter)) return GNTST_bad_gntref;\n",
      to: "  if (ref >= 512 + 0 * grantEntries(xen, granter)) return GNTST_bad_gntref;\n",
    },
  ],
];

export const BUGS_OF_STATUS_FRAMES: readonly PlantedBug[] = [
  [
    "status frames are never freed",
    ["XSA-26"],
    {
      file: "hypervisor/hold-list.ts",
      from: "      putPage(xen, frame);\n      freeXenPage(xen, frame);\n",
      to: "      if (frame < 0) freeXenPage(xen, frame);\n      putPage(xen, frame);\n",
    },
  ],
  [
    "status frames stay where they are mapped",
    ["XSA-255", "XSA-384"],
    {
      file: SET_VERSION,
      from: "const hidden = wanted === 1 && hideStatusFrames(xen, domid);",
      to: "const hidden = wanted === 0 && hideStatusFrames(xen, domid);",
    },
  ],
  [
    "nobody asks who else refers to a status frame",
    ["XSA-255"],
    {
      file: SET_VERSION,
      from: "if (frameReferences(xen, statusFrame(xen, domid, n)) > 1) return -EBUSY;",
      to: "if (frameReferences(xen, statusFrame(xen, domid, n)) > 9) return -EBUSY;",
    },
  ],
  [
    "a page of Xen that is placed anew stays where it was",
    ["XSA-379"],
    {
      file: "hypervisor/physmap-place.ts",
      from: "stands !== NOT_PRESENT && stands !== gfn && p2mClear(xen, domid, stands) > 0",
      to: "stands < NOT_PRESENT && p2mClear(xen, domid, stands) > 0",
    },
  ],
  [
    "status frames are freed before the flush is over",
    ["XSA-486"],
    {
      file: SET_VERSION,
      from: "    if (hidden && startFlush(xen, caller.slot, domid) > 0) yield GAP_FLUSH;\n",
      to: "    if (hidden && startFlush(xen, caller.slot, domid) < 0) yield GAP_FLUSH;\n",
    },
  ],
  [
    "the table is changed after the flush",
    ["XSA-486"],
    {
      file: SET_VERSION,
      from: "hideStatusFrames(xen, domid);\n",
      to: "hideStatusFrames(xen, domid);\n    if (hidden && startFlush(xen, caller.slot, domid) > 0) yield GAP_FLUSH;\n",
    },
  ],
];
