/**
 * Stories of tables that change while hardware walks them: a table that gives way to a block, an entry that is replaced under
 * a device, an entry that could not be made. Ours; the shapes are those of stress spec 11.2.
 */
import { POINT } from "../../domains/memory.ts";
import { identityCounts } from "../../hypervisor/iommu.ts";
import { entryFrame, p2mLookup, walkSteps } from "../../hypervisor/p2m.ts";
import { domainField, type Xen } from "../../hypervisor/xen.ts";
import { at } from "../../shared/assert.ts";
import { DOM, indexOf, LINE, lineOf, MACHINE } from "../../shared/layout.ts";
import { NOT_PRESENT, P2M_LEVEL_LEAF } from "../../shared/limits.ts";
import { ACCESS_OK, ACCESS_READ, ACCESS_WRITE, Mmu, rootLevel } from "../../shared/mmu.ts";
import { isTable, levelSlot, PTE_VALID, pteMfn, rootPageOf, upperBits } from "../../shared/pte.ts";
import type { Program } from "../../shared/trap.ts";
import { DomId, FrameIndex } from "../../shared/units.ts";
import {
  type Guest,
  grant,
  map,
  openGrantTable,
  populate,
  release,
  unmap,
  wrong,
} from "../raw-guest.ts";
import type { Machine } from "../state.ts";
import type { Story } from "../story.ts";
import { disk } from "./devices.ts";
import { A, B, HOLE, RAM, smallModel } from "./machines.ts";

const REF = 8;
const PAGE = RAM + 10;

/** The second block of A's RAM. */
const BLOCK = RAM + 512;
const BLOCK_ORDER = 9;

/** Whether a page waits in the domain's pool to become a table. */
function isPooled(xen: Xen, domid: number, page: number): boolean {
  let frame = domainField(xen, domid, DOM.P2M_POOL);
  while (frame !== NOT_PRESENT && frame !== page)
    frame = at(xen.words, xen.layout.frameNext + frame);
  return frame === page;
}

/**
 * The walk for `gfn` as hardware makes it, an entry a step, inside an access of the guest's: it is in one table page after
 * the other, and each of them is a table as long as it is.
 */
function* walkSlowly(guest: Guest, gfn: number): Program {
  const { cpu, machine, domid } = guest;
  const { words, memory, layout, xen } = machine;
  if (cpu.mmu.open(RAM, ACCESS_READ) !== ACCESS_OK) return;
  const upper = upperBits(gfn);
  let level = rootLevel(layout);
  let table = domainField(xen, domid, DOM.P2M_ROOT) + rootPageOf(upper, level);
  for (; ; level++) {
    yield POINT;
    if (isPooled(xen, domid, table)) {
      wrong(guest, "I-35", `A walks table page ${table}, which is back in the pool`);
    }
    const entry = levelSlot(gfn, upper, level) * 8;
    const low = memory.peek(FrameIndex(table), entry);
    if ((low & PTE_VALID) === 0 || !isTable(low, level)) break;
    table = indexOf(layout, words, pteMfn(low, memory.peek(FrameIndex(table), entry + 4)));
  }
  cpu.mmu.close();
}

/** M28: a table page is nobody's before every walk that has met it is over. */
export const collapseStory: Story = {
  name: "collapse",
  about: "A populates a block where a table stands, while its other vCPU walks that",
  model: () =>
    smallModel({
      domains: [{}, { vcpus: 2, memoryPages: 1024 }],
      machine: { banks: [{ base: 0x4000_0000, size: 16 * 2 ** 20 }] },
    }),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        for (let page = 0; page < 2 ** BLOCK_ORDER; page++) yield* release(guest, BLOCK + page);
      },
    },
  ],
  tasks: [
    {
      name: "A.0",
      domain: A,
      program: function* (guest, notes) {
        notes.extents = yield* populate(guest, BLOCK, BLOCK_ORDER);
      },
    },
    {
      name: "A.1",
      domain: A,
      vcpu: 1,
      program: (guest) => walkSlowly(guest, BLOCK),
    },
  ],
  sometimes: {
    "A got its block": ({ extents }, { xen }) =>
      extents === 1 && walkSteps(xen, DomId(A), BLOCK).at(-1)?.level === P2M_LEVEL_LEAF - 1,
  },
};

/** Writes once through the device's table, where it may. */
function* burst(machine: Machine): Program {
  const { words, memory, layout, xen } = machine;
  const before = entryFrame(p2mLookup(xen, DomId(A), PAGE));
  const mmu = new Mmu(words, memory, layout, 1);
  yield POINT;
  if (mmu.open(PAGE, ACCESS_WRITE) !== ACCESS_OK) return;
  const frame = at(words, lineOf(layout, 1) + LINE.INSIDE) - 1;
  if (frame !== before) {
    machine.findings.push(`I-36: the device may write frame ${frame}, as no entry has ever said`);
  }
  yield POINT;
  mmu.close();
}

/** M30: a live entry says what was, nothing, or what is to be. */
export const liveEntryStory: Story = {
  name: "live-entry",
  about: "A maps a page of B for reading over one of its own while its device writes there",
  model: () =>
    smallModel({
      machine: {
        arch: "x86",
        ipaBits: 44,
        devices: [disk],
        iommu: { mode: "on", tables: "separate" },
      },
      domains: [{}, { iommu: true }, {}],
    }),
  setUp: [
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        yield* openGrantTable(guest);
        yield* grant(guest, REF, PAGE, A);
      },
    },
  ],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest, notes) {
        notes.status = (yield* map(guest, B, REF, PAGE, 1)).status;
      },
    },
  ],
  others: [{ name: "disk", slot: 1, program: burst }],
  sometimes: { "A mapped the page": ({ status }) => status === 0 },
};

/** Allocations that a map may need, one failing after the other, and gfns whose tables are not there yet. */
const ALLOCATIONS = 6;
const gfnWithoutTable = (n: number): number => HOLE + n * 2 ** 18;

/** M34: a map that is refused leaves the devices nothing. */
export const untrackedStory: Story = {
  name: "untracked",
  about: "dom0 maps a page of B for a device of its own, and every allocation fails in turn",
  model: () =>
    smallModel({
      machine: { devices: [{ ...disk, owner: "dom0" }], iommu: { mode: "on" } },
      domains: [{ iommu: true }, {}, {}],
    }),
  setUp: [
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        yield* openGrantTable(guest);
        yield* grant(guest, REF, PAGE, 0);
      },
    },
  ],
  tasks: [
    {
      name: "dom0",
      domain: 0,
      program: function* (guest, notes) {
        const { xen, words } = guest.machine;
        const frame = entryFrame(p2mLookup(xen, DomId(B), PAGE));
        for (let n = 1; n <= ALLOCATIONS; n++) {
          words[MACHINE.FAIL_ALLOCATION] = n;
          const { status, handle } = yield* map(guest, B, REF, gfnWithoutTable(n));
          words[MACHINE.FAIL_ALLOCATION] = 0;
          notes[status === 0 ? "mapped" : "refused"] = 1;
          if (status === 0) yield* unmap(guest, gfnWithoutTable(n), handle);
          const [readers, writers] = identityCounts(xen, 0, frame);
          if (readers + writers === 0) continue;
          wrong(guest, "I-32", `a map that is gone leaves dom0's devices frame ${frame}`);
        }
      },
    },
  ],
  sometimes: {
    "a map was refused": ({ refused }) => refused === 1,
    "a map needed fewer": ({ mapped }) => mapped === 1,
  },
};
