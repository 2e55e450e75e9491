/** A machine in use, and one word at a time planted wrong in it, with the words of the finding it must bring. */

import { expect } from "vitest";
import { setXenHeapGfn } from "../../hypervisor/frame-table.ts";
import { entryFrame, p2mLookup, p2mSet } from "../../hypervisor/p2m.ts";
import type { Xen } from "../../hypervisor/xen.ts";
import { XEN_DOMCTL_destroydomain } from "../../shared/abi/domctl.ts";
import { GNTMAP_host_map, GTF_permit_access, GTF_reading } from "../../shared/abi/grant.ts";
import { PGC_allocated } from "../../shared/frame-flags.ts";
import { HOLD, HOLD_PAGE, HOLD_ROWS, HOLD_WORDS } from "../../shared/hold-layout.ts";
import { CONTEXT, contextOf } from "../../shared/iommu-layout.ts";
import {
  DOM,
  domainOf,
  LINE,
  lineOf,
  MACHINE,
  SLOT_KIND_DEVICE,
  SLOT_LIVE,
  WALK_TABLE,
} from "../../shared/layout.ts";
import { ACCESS_OK, ACCESS_WRITE } from "../../shared/mmu.ts";
import { p2m_grant_map_rw, p2m_map_foreign_rw, p2m_ram_rw } from "../../shared/pte.ts";
import { GNTST_okay } from "../../shared/status.ts";
import { DomId } from "../../shared/units.ts";
import { domctl, slotOf, testDevice } from "./domains.ts";
import { entryFlags, mapOne, setEntry } from "./grants.ts";
import {
  type Actor,
  bootTestMachine,
  probe,
  type TestMachine,
  testDom0,
  testDomain,
  testModel,
} from "./harness.ts";

export const HOLE = 0x60000;

export interface InUse {
  readonly machine: TestMachine;
  readonly xen: Xen;
  readonly dom0: Actor;
  readonly granter: Actor;
  readonly mapper: Actor;
  /** Frame of the page that granter gave to dom0 (reference 8) and to mapper (reference 9). */
  readonly frame: number;
  readonly handle: number;
}

/** A machine with an identity-mapped dom0, a device, one grant mapped twice and one event channel. */
export function inUse(hypervisor: "faithful" | "strict" = "faithful"): InUse {
  const domains = [testDom0({ iommu: true }), testDomain("G"), testDomain("M")];
  const devices = [testDevice("dom0")];
  const iommu = { mode: "on" } as const;
  const machine = bootTestMachine(testModel(domains, { devices, iommu, hypervisor }));
  const [dom0, granter, mapper] = machine.actors;
  if (dom0 === undefined || granter === undefined || mapper === undefined) throw new Error("boot");
  setEntry(machine, granter, 8, GTF_permit_access, dom0.domid, granter.ram);
  setEntry(machine, granter, 9, GTF_permit_access, mapper.domid, granter.ram);
  const op = { gfn: HOLE, flags: GNTMAP_host_map, dom: granter.domid };
  mapOne(machine, dom0, { ...op, ref: 8 });
  const { status, handle } = mapOne(machine, mapper, { ...op, ref: 9 });
  if (status !== GNTST_okay) throw new Error(`map answered ${status}`);
  const { xen } = machine;
  const frame = entryFrame(p2mLookup(xen, DomId(granter.domid), granter.ram));
  const ports = xen.model.limits.ports;
  // One interdomain channel: port 2 of the granter and port 2 of the mapper.
  for (const [from, to] of [
    [granter.domid, mapper.domid],
    [mapper.domid, granter.domid],
  ] as const) {
    xen.words[xen.layout.portState + from * ports + 2] = 3;
    xen.words[xen.layout.portRemoteDomain + from * ports + 2] = to;
    xen.words[xen.layout.portRemotePort + from * ports + 2] = 2;
  }
  return { machine, xen, dom0, granter, mapper, frame, handle };
}

export const bump = (xen: Xen, index: number, by = 1): void => {
  xen.words[index] = (xen.words[index] ?? 0) + by;
};
export const domainWord = (xen: Xen, domid: number, column: number): number =>
  domainOf(xen.layout, domid) + column;
const activeRow = (xen: Xen, domid: number, ref: number): number =>
  domid * xen.model.limits.grantFrames * 512 + ref;
const trackRow = (xen: Xen, domid: number, handle: number): number =>
  domid * xen.model.limits.maptrackFrames * 256 + handle;
export const firstFree = (xen: Xen): number => xen.words[MACHINE.FREE_HEAD] ?? -1;

/** What is planted, and words of the finding it must bring. */
export const PLANTED: readonly [what: string, finding: RegExp, plant: (state: InUse) => void][] = [
  [
    "a reference too many on a frame",
    /counts 4 references, 3 exist/,
    ({ xen, frame }) => bump(xen, xen.layout.frameCount + frame),
  ],
  [
    "a held page reference that nobody took",
    /counts 1 references, 2 exist/,
    ({ xen, mapper }) => {
      const slot = slotOf(xen, mapper.domid);
      const row = xen.layout.holds + slot * HOLD_ROWS * HOLD_WORDS;
      xen.words[row + HOLD.KIND] = HOLD_PAGE;
      xen.words[row + HOLD.FRAME] = entryFrame(p2mLookup(xen, DomId(mapper.domid), mapper.ram));
      xen.words[lineOf(xen.layout, slot) + LINE.HELD] = 1;
    },
  ],
  [
    "an allocation reference that counts nothing",
    /frame \d+ has its allocation reference and counts none/,
    ({ xen, frame }) => {
      xen.words[xen.layout.frameCount + frame] = PGC_allocated;
    },
  ],
  [
    "an owner of a free frame",
    /is free and owned by domain 1/,
    ({ xen }) => {
      xen.words[xen.layout.frameOwner + firstFree(xen)] = 1;
    },
  ],
  [
    "the allocated flag on a free frame",
    /is free and in use/,
    ({ xen }) => bump(xen, xen.layout.frameCount + firstFree(xen), PGC_allocated | 1),
  ],
  [
    "a frame in use that belongs to nobody",
    /has references and no owner/,
    ({ xen, frame }) => {
      xen.words[xen.layout.frameOwner + frame] = 7;
    },
  ],
  [
    "a total that is one short",
    /domain 1 counts 255 pages, its page list has 256/,
    ({ xen }) => bump(xen, domainWord(xen, 1, DOM.TOT_PAGES), -1),
  ],
  [
    "a page that has left its owner's list",
    /is owned and in nobody's list/,
    ({ xen }) => {
      const head = xen.words[domainWord(xen, 1, DOM.PAGE_LIST)] ?? -1;
      xen.words[domainWord(xen, 1, DOM.PAGE_LIST)] = xen.words[xen.layout.frameNext + head] ?? -1;
    },
  ],
  [
    "somebody else's page in a list",
    /is in the page list of domain 2, not its own/,
    ({ xen, frame }) => {
      xen.words[domainWord(xen, 2, DOM.PAGE_LIST)] = frame;
    },
  ],
  [
    "a wrong number of free frames",
    /the heap counts \d+ free frames, its list has/,
    ({ xen }) => bump(xen, MACHINE.FREE_FRAMES),
  ],
  [
    "a frame that is in no pool",
    /frames, but \d+ free/,
    ({ xen }) => {
      const frame = firstFree(xen);
      xen.words[MACHINE.FREE_HEAD] = xen.words[xen.layout.frameNext + frame] ?? -1;
      xen.words[xen.layout.frameCount + frame] = 0;
      bump(xen, MACHINE.FREE_FRAMES, -1);
    },
  ],
  [
    "a page lost from the Xen heap",
    /the Xen heap has 400 pages/,
    ({ xen }) => bump(xen, MACHINE.XEN_HEAP_FREE, -1),
  ],
  [
    "a domain reference too many",
    /domain 1 counts 4 references, 3 exist/,
    ({ xen }) => bump(xen, domainWord(xen, 1, DOM.REFS)),
  ],
  [
    "a recorded gfn at which no xen heap page is",
    /is recorded at a gfn that is empty/,
    ({ xen }) => {
      const info = xen.words[domainWord(xen, 1, DOM.SHARED_INFO)] ?? -1;
      setXenHeapGfn(xen, info, HOLE);
    },
  ],
  [
    "a xen heap page mapped where its record does not say",
    /is mapped at gfn 393217 of domain 1, recorded -1/,
    ({ xen }) => {
      const info = xen.words[domainWord(xen, 1, DOM.SHARED_INFO)] ?? -1;
      p2mSet(xen, DomId(1), HOLE + 1, info, p2m_ram_rw);
    },
  ],
  [
    "a pin that no handle stands for",
    /entry 10 of domain 1 is pinned 0x1, not 0x0/,
    ({ xen }) => bump(xen, xen.layout.actPin + activeRow(xen, 1, 10)),
  ],
  [
    "a grantee that is not the mapper",
    /handle 0 of domain 2 names entry 9 of domain 1, granted to 0/,
    ({ xen }) => {
      xen.words[xen.layout.actDomid + activeRow(xen, 1, 9)] = 0;
    },
  ],
  [
    "a handle whose granter is gone",
    /handle 0 of domain 2 outlives its granter 5/,
    ({ xen }) => {
      xen.words[xen.layout.trackDomid + trackRow(xen, 2, 0)] = 5;
    },
  ],
  [
    "reading cleared under a pin",
    /entry 9 of domain 1: flags 0x11 with pin 0x1/,
    ({ machine, granter, mapper }) => {
      const flags = entryFlags(machine, granter, 9) & ~GTF_reading;
      setEntry(machine, granter, 9, flags, mapper.domid, granter.ram);
    },
  ],
  [
    "reading set without a pin",
    /entry 20 of domain 1: flags 0x9 with pin 0x0/,
    ({ machine, granter }) => {
      setEntry(machine, granter, 20, GTF_permit_access | GTF_reading, 0, granter.ram);
    },
  ],
  [
    "a live handle on the free list",
    /handle 1 of domain 2 is live and free/,
    ({ xen }) => {
      xen.words[xen.layout.trackFlags + trackRow(xen, 2, 1)] = GNTMAP_host_map;
    },
  ],
  [
    "a free list that runs in a circle",
    /free list 0 of domain 2 runs into handle 1/,
    ({ xen }) => {
      xen.words[xen.layout.trackRef + trackRow(xen, 2, 4)] = 1;
    },
  ],
  [
    "a wrong number of live handles",
    /domain 2 counts 2 live handles, 1 exist/,
    ({ xen }) => bump(xen, domainWord(xen, 2, DOM.MAPPINGS)),
  ],
  [
    "an identity count too many",
    /domain 0 counts \(0, 2\) mappings of frame \d+, not \(0, 1\)/,
    ({ xen, frame }) => bump(xen, xen.layout.identityWrite + frame),
  ],
  [
    "an identity entry that has gone",
    /domain 0 has no right identity entry for frame/,
    ({ xen, frame }) => clearEntry(xen, 0, 0x40000 + frame),
  ],
  [
    "an entry that leads to a free frame",
    /\(ram_rw\) leads to free frame/,
    ({ xen }) => void p2mSet(xen, DomId(2), HOLE + 5, firstFree(xen), p2m_ram_rw),
  ],
  [
    "RAM that belongs to somebody else",
    /\(ram_rw\) leads to frame \d+ of domain 1/,
    ({ xen, frame }) => void p2mSet(xen, DomId(2), HOLE + 5, frame, p2m_ram_rw),
  ],
  [
    "a foreign entry without its reference",
    /counts 3 references, 4 exist/,
    ({ xen, frame }) => void p2mSet(xen, DomId(2), HOLE + 5, frame, p2m_map_foreign_rw),
  ],
  [
    "a grant entry without a handle",
    /\(grant_map_rw\) leads to frame \d+, of domain 2, without a grant/,
    ({ xen, mapper }) => {
      const own = entryFrame(p2mLookup(xen, DomId(mapper.domid), mapper.ram));
      p2mSet(xen, DomId(1), HOLE + 5, own, p2m_grant_map_rw);
    },
  ],
  [
    "RAM of a direct-mapped domain elsewhere",
    /is direct-mapped RAM at frame/,
    ({ xen, dom0 }) => {
      const own = entryFrame(p2mLookup(xen, DomId(0), dom0.ram));
      p2mSet(xen, DomId(0), HOLE + 5, own, p2m_ram_rw);
    },
  ],
  [
    "a translation that was not flushed",
    /would still reach frame \d+ through gfn 393216, which is not there/,
    ({ xen, mapper }) => {
      expect(probe(mapper, HOLE, ACCESS_WRITE)).toBe(ACCESS_OK);
      clearEntry(xen, mapper.domid, HOLE);
    },
  ],
  [
    "an open access to a frame that was freed",
    /is inside an access to frame \d+, which is free/,
    ({ xen, mapper }) => {
      xen.words[lineOf(xen.layout, slotOf(xen, mapper.domid)) + LINE.INSIDE] = firstFree(xen) + 1;
    },
  ],
  [
    "an open access to a stranger's frame",
    /is inside an access to frame \d+, of domain 0/,
    ({ xen, dom0, mapper }) => {
      const stranger = entryFrame(p2mLookup(xen, DomId(0), dom0.ram));
      xen.words[lineOf(xen.layout, slotOf(xen, mapper.domid)) + LINE.INSIDE] = stranger + 1;
    },
  ],
  [
    "a vCPU that walks a stranger's table",
    /walks a table that is not that of domain 2/,
    ({ xen }) => {
      const line = lineOf(xen.layout, slotOf(xen, 2));
      xen.words[line + LINE.ROOT] = xen.words[domainWord(xen, 1, DOM.P2M_ROOT)] ?? -1;
    },
  ],
  [
    "a slot that its domain does not name",
    /is vCPU 0 of domain 2, which names another slot/,
    ({ xen }) => {
      xen.words[domainWord(xen, 2, DOM.SLOT)] = 9;
    },
  ],
  [
    "a device of nobody that is not blocked",
    /is nobody's and not blocked/,
    ({ xen }) => {
      const line = lineOf(xen.layout, 12);
      xen.words[line + LINE.STATE] = SLOT_LIVE;
      xen.words[line + LINE.KIND] = SLOT_KIND_DEVICE;
      xen.words[line + LINE.DOMAIN] = -1;
      xen.words[line + LINE.MODE] = WALK_TABLE;
    },
  ],
  [
    "a device that is not its domain's",
    /leads to a device that is not its domain's/,
    ({ xen }) => {
      xen.words[contextOf(xen.layout, 0) + CONTEXT.OWNER] = 1;
    },
  ],
  [
    "a table page that is not counted",
    /domain 2 counts \d+ table pages, its table has/,
    ({ xen }) => bump(xen, domainWord(xen, 2, DOM.P2M_PAGE_COUNT), -1),
  ],
  [
    "a dead domain with handles",
    /domain 1 is dead and has event channels/,
    ({ xen, machine }) => {
      domctl(machine, XEN_DOMCTL_destroydomain, 1);
      xen.words[domainWord(xen, 1, DOM.VALID_EVTCHNS)] = 5;
    },
  ],
  [
    "half an event channel",
    /port 2 of domain 1 and port 2 of domain 2 are no pair/,
    ({ xen }) => {
      xen.words[xen.layout.portState + 2 * xen.model.limits.ports + 2] = 2;
    },
  ],
];

/** Zeroes a leaf behind the back of everything that counts. */
function clearEntry(xen: Xen, domid: number, gfn: number): void {
  const former = p2mLookup(xen, DomId(domid), gfn);
  if (former === 0) throw new Error("there is an entry to clear");
  p2mSet(xen, DomId(domid), gfn, entryFrame(former), 0);
}
