/** As audit-planted.ts, for what only x86 has: grant table version 2, and pages that stand at one gfn. */

import { clearStatus, orStatus, statusFrame, statusRow } from "../../hypervisor/grant-v2.ts";
import { entryFrame, p2mLookup, p2mSet } from "../../hypervisor/p2m.ts";
import type { Xen } from "../../hypervisor/xen.ts";
import {
  GNTMAP_host_map,
  GNTTABOP_set_version,
  GTF_permit_access,
  GTF_reading,
} from "../../shared/abi/grant.ts";
import { HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import { p2m_ram_rw } from "../../shared/pte.ts";
import { GNTST_okay } from "../../shared/status.ts";
import { DomId, FrameIndex } from "../../shared/units.ts";
import { HOLE } from "./audit-planted.ts";
import { argumentAddress, mapOne } from "./grants.ts";
import {
  type Actor,
  bootTestMachine,
  call,
  type TestMachine,
  testDom0,
  testDomain,
  testModel,
  writeWord,
} from "./harness.ts";

export interface InUseX86 {
  readonly machine: TestMachine;
  readonly xen: Xen;
  readonly granter: Actor;
  readonly mapper: Actor;
}

/** A machine in which domain 2 has mapped entry 9 of the version 2 table of domain 1. */
export function inUseX86(): InUseX86 {
  const domains = [testDom0(), testDomain("G"), testDomain("M")];
  const machine = bootTestMachine(testModel(domains, { arch: "x86" }));
  const [, granter, mapper] = machine.actors;
  if (granter === undefined || mapper === undefined) throw new Error("boot");
  const at = argumentAddress(granter);
  writeWord(granter, at, 2);
  if (call(machine, granter, HYPERVISOR_grant_table_op, GNTTABOP_set_version, at, 1) !== 0) {
    throw new Error("version 2 is refused");
  }
  const { xen } = machine;
  const table = FrameIndex(xen.words[grantRow(xen)] ?? -1);
  xen.memory.store(table, 9 * 16 + 8, granter.ram);
  xen.memory.store(table, 9 * 16, GTF_permit_access | (mapper.domid << 16));
  const op = { gfn: HOLE, flags: GNTMAP_host_map, dom: granter.domid, ref: 9 };
  const { status } = mapOne(machine, mapper, op);
  if (status !== GNTST_okay) throw new Error(`map answered ${status}`);
  return { machine, xen, granter, mapper };
}

/** Where the frames of domain 1's table are named. */
const grantRow = (xen: Xen): number => xen.layout.grantFrame + xen.model.limits.grantFrames;
const activeRow = (xen: Xen, ref: number): number => xen.model.limits.grantFrames * 512 + ref;

/** What is planted, and words of the finding it must bring. */
export const PLANTED_X86: readonly [
  what: string,
  finding: RegExp,
  plant: (state: InUseX86) => void,
][] = [
  [
    "reading cleared in the status word of a pinned entry",
    /entry 9 of domain 1: status 0x10 with pin 0x1/,
    ({ xen }) => clearStatus(xen, 1, 9, GTF_reading),
  ],
  [
    "reading set in a status word without a pin",
    /entry 8 of domain 1: status 0x8 with pin 0x0/,
    ({ xen }) => orStatus(xen, 1, 8, GTF_reading),
  ],
  [
    "a status word behind the last entry that is not zero",
    /entry 300 of domain 1: status 0x8 with pin 0x0/,
    ({ xen }) => orStatus(xen, 1, 300, GTF_reading),
  ],
  [
    "a pin on an entry that version 2 has no room for",
    /entry 300 of domain 1 is pinned 0x1, not 0x0/,
    ({ xen }) => {
      xen.words[xen.layout.actPin + activeRow(xen, 300)] = 1;
    },
  ],
  [
    "a mapping of a part of a page",
    /names entry 9 of domain 1, which is for copies/,
    ({ xen }) => {
      xen.words[xen.layout.actKind + activeRow(xen, 9)] = 1;
    },
  ],
  [
    "a status frame that is a grant frame too",
    /is in a grant table twice/,
    ({ xen }) => {
      xen.words[statusRow(xen, 1)] = xen.words[grantRow(xen)] ?? -1;
    },
  ],
  [
    "a status frame that belongs to somebody else",
    /the grant table of domain 1 has frame \d+, not its own/,
    ({ xen }) => {
      xen.words[xen.layout.frameOwner + statusFrame(xen, 1, 0)] = 2;
    },
  ],
  [
    "a page that stands at two gfns",
    /frame \d+ stands at gfns 262144 and 393217 of domain 1/,
    ({ xen, granter }) => {
      const own = entryFrame(p2mLookup(xen, DomId(1), granter.ram));
      p2mSet(xen, DomId(1), HOLE + 1, own, p2m_ram_rw);
    },
  ],
];
