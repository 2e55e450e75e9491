/** As audit-planted.ts, for PV domains: page types, page tables, the M2P and what TLBs lead to. */

import { setXenHeapGfn } from "../../hypervisor/frame-table.ts";
import { setPinned } from "../../hypervisor/page-type.ts";
import { GNTMAP_device_map, GNTMAP_host_map, GTF_permit_access } from "../../shared/abi/grant.ts";
import { at } from "../../shared/assert.ts";
import { indexOf, MACHINE, mfnAt } from "../../shared/layout.ts";
import { TLB_ENTRIES } from "../../shared/limits.ts";
import { ACCESS_READ, ACCESS_WRITE } from "../../shared/mmu.ts";
import { GNTST_okay } from "../../shared/status.ts";
import type { FrameIndex } from "../../shared/units.ts";
import { mapOne, setEntry } from "./grants.ts";
import { probe } from "./harness.ts";
import { frameOf, mfnOf, type PvPair, pvPair, slotOf, tableOf, V0 } from "./pv.ts";

/** B has mapped page 5 of A at V0, for itself and for a device, and has its page 6 in its TLB. */
export function inUsePv(): PvPair {
  const pair = pvPair();
  const { machine, a, b } = pair;
  setEntry(machine, a, 8, GTF_permit_access, b.domid, mfnOf(machine, a, 5));
  const flags = GNTMAP_host_map | GNTMAP_device_map;
  const { status } = mapOne(machine, b, { gfn: V0, flags, ref: 8, dom: a.domid });
  if (status !== GNTST_okay) throw new Error(`map answered ${status}`);
  probe(b, 6, ACCESS_READ | ACCESS_WRITE);
  return pair;
}

/** Writes word 0 of the level 1 entry of a virtual page of B. */
function poke({ machine, b }: PvPair, page: number, low: number): void {
  const { slot } = tableOf(machine, b, page, 1);
  const table = frameIndexOf(machine, tableOf(machine, b, page, 1).mfn);
  machine.xen.memory.store(table, slot * 8, low);
}

const frameIndexOf = ({ xen }: PvPair["machine"], mfn: number): FrameIndex =>
  indexOf(xen.layout, xen.words, mfn);

const typeCell = ({ machine, b }: PvPair, page: number): number =>
  machine.xen.layout.frameType + frameOf(machine, b, page);

/** What is planted, and words of the finding it must bring. */
export const PLANTED_PV: readonly [
  what: string,
  finding: RegExp,
  plant: (state: PvPair) => void,
][] = [
  [
    "a type reference too many",
    /counts 2 type references, 1 exist/,
    (state) => {
      const { words } = state.machine.xen;
      words[typeCell(state, 6)] = at(words, typeCell(state, 6)) + 1;
    },
  ],
  [
    "a device half that has lost its type reference",
    /counts 2 type references, 3 exist/,
    (state) => {
      const { words } = state.machine.xen;
      words[typeCell(state, V0)] = at(words, typeCell(state, V0)) - 1;
    },
  ],
  [
    "an entry that lets its guest write to a page table",
    /lets its guest write to frame \d+ of type 4/,
    (state) => poke(state, 248, mfnOf(state.machine, state.b, 248) * 4096 + 3),
  ],
  [
    "an entry for another's page that no grant stands for",
    /of domain 2 leads to frame \d+ without a grant/,
    (state) => poke(state, V0 + 1, mfnOf(state.machine, state.a, 7) * 4096 + 1),
  ],
  [
    "an entry for a free frame",
    /of domain 2 leads to frame \d+, which is nobody's/,
    (state) => {
      const free = at(state.machine.xen.words, MACHINE.FREE_HEAD);
      poke(state, V0 + 1, mfnAt(state.machine.xen.layout, free) * 4096 + 1);
    },
  ],
  [
    "an entry without a reference",
    /counts 2 references, 3 exist/,
    (state) => poke(state, V0 + 1, mfnOf(state.machine, state.b, 7) * 4096 + 1),
  ],
  [
    "a pin on a page that is no table",
    /is pinned and no page table/,
    ({ machine, b }) => setPinned(machine.xen, frameOf(machine, b, 6), true),
  ],
  [
    "a pin that is gone while its references are there",
    /counts 2 type references, 1 exist/,
    ({ machine, b }) => setPinned(machine.xen, frameOf(machine, b, 248), false),
  ],
  [
    "a free frame in the M2P",
    /is in the M2P, and no PV domain's/,
    ({ machine }) => setXenHeapGfn(machine.xen, at(machine.xen.words, MACHINE.FREE_HEAD), 3),
  ],
  [
    "a TLB row that leads to another's page",
    /would still reach frame \d+ through page 6, which is not its domain's/,
    (state) => plantRow(state, frameOf(state.machine, state.a, 9)),
  ],
  [
    "a TLB row that lets a guest write to its page table",
    /through page 6 and write to it, which is a page table/,
    (state) => plantRow(state, frameOf(state.machine, state.b, 248)),
  ],
];

/** Makes the TLB of B's vCPU lead from page 6 to a frame, readable and writable. */
function plantRow({ machine, b }: PvPair, frame: number): void {
  const { words, layout } = machine.xen;
  const first = layout.tlbTags + slotOf(machine, b) * TLB_ENTRIES;
  const row = words.subarray(first, first + TLB_ENTRIES).indexOf(6);
  words[layout.tlbValues + slotOf(machine, b) * TLB_ENTRIES + row] =
    frame * 8 + ACCESS_READ + ACCESS_WRITE;
}
