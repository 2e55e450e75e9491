/**
 * Stories of the pages of x86 PV guests: given away, given up, used as page tables, shown to devices. A is the receiver and the
 * owner of what is looked at, B the giver. Ours; the shapes are those of stress spec 11.1 and 11.2.
 */
import { freshArguments, grantTableOp, setU64 } from "../../domains/hypercalls.ts";
import { grantFrame } from "../../hypervisor/active-entry.ts";
import { typeCount, typeOf } from "../../hypervisor/page-type.ts";
import { pteOfAddress } from "../../hypervisor/pv-tables.ts";
import { XEN_DOMCTL_assign_device } from "../../shared/abi/domctl.ts";
import {
  GNTTABOP_get_status_frames,
  GNTTABOP_setup_table,
  GTF_accept_transfer,
  GTF_permit_access,
  GTF_transfer_completed,
  SETUP_DOM,
  SETUP_FRAME_LIST,
  SETUP_NR_FRAMES,
  STATUS_FRAMES_DOM,
  STATUS_FRAMES_FRAME_LIST,
  STATUS_FRAMES_NR_FRAMES,
} from "../../shared/abi/grant.ts";
import { MMUEXT_PIN_L1_TABLE } from "../../shared/abi/mmu.ts";
import { DOMID_SELF } from "../../shared/abi/xen.ts";
import { assert } from "../../shared/assert.ts";
import { PGT_l1_page_table } from "../../shared/frame-flags.ts";
import { indexOf, mfnAt } from "../../shared/layout.ts";
import { GRANT_ENTRIES_PER_FRAME, PAGE_SIZE } from "../../shared/limits.ts";
import type { MachineModel } from "../../shared/machine.ts";
import { CONTROL_DOMCTL } from "../../shared/trap.ts";
import { DomId } from "../../shared/units.ts";
import { loosen, mfnOf, mmuext, transfer, updateVa, writeEntry } from "../pv-guest.ts";
import {
  control,
  type Guest,
  map,
  release,
  setVersion,
  tryLoad,
  tryStore,
  until,
  wrong,
} from "../raw-guest.ts";
import type { Story, StoryTask } from "../story.ts";
import { disk } from "./devices.ts";
import { A, B, C, HOLE, type SmallMachine, smallModel } from "./machines.ts";

const REF = 8;
/** A page of RAM that is given away or becomes something else, and another one. */
const PAGE = 5;
const OTHER = 6;
/** A virtual page behind the RAM, with a table for it and nothing in it. */
const ROOM = 1024;
const CONTENT = 0x77;

/** Grant frames that take two status frames in version 2, and where a list of frames stands among the arguments. */
const GRANT_FRAMES = 9;
const LIST = 64;

const DOM0 = { directMapped: false, staticMemory: [], ramGfn: 0x40000 } as const;
const pv = { guest: "pv", ramGfn: 0, p2mPoolPages: 0 } as const;

/** A translated dom0, A and B without translation, C with it; all as small as can be. */
const pvModel = (wish: SmallMachine = {}): MachineModel =>
  smallModel({
    domains: [
      { directMapped: false, staticMemory: [], ramGfn: 0x40000 },
      pv,
      { ...pv, vcpus: 2 },
      {},
    ],
    ...wish,
    machine: { arch: "x86", ipaBits: 44, ...wish.machine },
    limits: { xenHeapPages: 160, ...wish.limits },
  });

/** A has room for a page, and an entry that accepts one of B. */
const accepts = (ref: number): StoryTask => ({
  name: "A",
  domain: A,
  program: function* (guest) {
    yield* release(guest, yield* loosen(guest, OTHER));
    writeEntry(guest, ref, 0, B, GTF_accept_transfer);
  },
});

/** B has a page that it has no entry for any more, and that C may map. */
const loosened: StoryTask = {
  name: "B",
  domain: B,
  program: function* (guest, notes) {
    yield* tryStore(guest, PAGE * PAGE_SIZE, CONTENT);
    notes.mfn = yield* loosen(guest, PAGE);
    writeEntry(guest, REF, notes.mfn, C, GTF_permit_access);
  },
};

/** The entry's two words, as A sees them in its own table. */
function entryOf({ machine, domid }: Guest, ref: number): { header: number; frame: number } {
  const table = grantFrame(machine.xen, domid, 0);
  return {
    header: machine.memory.load(table, ref * 8),
    frame: machine.memory.load(table, ref * 8 + 4),
  };
}

/** M20: the page that the receiver is told of is its own, and holds what the giver has written. */
export const transferStory: Story = {
  name: "transfer",
  about: "B gives a page to A, which enters it into its tables and reads it",
  model: () => pvModel(),
  setUp: [accepts(REF), loosened],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest, notes) {
        const completed = (): boolean =>
          (entryOf(guest, REF).header & GTF_transfer_completed) !== 0;
        if (!(yield* until(completed, 6))) return;
        const { frame } = entryOf(guest, REF);
        if ((yield* updateVa(guest, ROOM, frame, true)) !== 0) {
          wrong(guest, "I-08", `A was given frame number ${frame}, and it is not its own`);
          return;
        }
        notes.seen = (yield* tryLoad(guest, ROOM * PAGE_SIZE)) ?? 0;
        if (notes.seen !== CONTENT)
          wrong(guest, "I-08", "A was given another page than B has given");
      },
    },
    {
      name: "B.0",
      domain: B,
      program: function* (guest, notes) {
        yield* transfer(guest, notes.mfn ?? 0, A, REF);
      },
    },
  ],
  sometimes: { "A has read it": (notes) => notes.seen === CONTENT },
};

/** M21: a page is somebody's, or nobody's, at every moment of its way. */
export const stealStory: Story = {
  name: "steal",
  about: "B gives a page to A while its other vCPU is inside an access and C maps that page",
  model: () => pvModel(),
  setUp: [accepts(REF), loosened],
  tasks: [
    {
      name: "B.0",
      domain: B,
      program: function* (guest, notes) {
        notes.given = yield* transfer(guest, notes.mfn ?? 0, A, REF);
      },
    },
    {
      name: "B.1",
      domain: B,
      vcpu: 1,
      program: function* (guest) {
        yield* tryLoad(guest, OTHER * PAGE_SIZE);
      },
    },
    {
      name: "C",
      domain: C,
      program: function* (guest, notes) {
        notes.mapped = (yield* map(guest, B, REF, HOLE)).status;
      },
    },
  ],
  auditEveryStep: true,
  sometimes: {
    "A was given it": (notes) => notes.given === 0,
    "C was first": (notes) => notes.given !== 0 && notes.mapped === 0,
  },
};

/** An entry that version 2 has no room for in a table of one frame: its half of the place is in no table of A. */
const HIGH_REF = 300;

/** M11: a table that becomes smaller is the size that counts. */
export const shrinkStory: Story = {
  name: "shrink",
  about: "B gives a page to a high entry of A while A makes its table one of version 2",
  model: () => pvModel({ domains: [DOM0, pv, pv] }),
  setUp: [accepts(HIGH_REF), loosened],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* setVersion(guest, 2);
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        notes.given = yield* transfer(guest, notes.mfn ?? 0, A, HIGH_REF);
      },
    },
  ],
  judge: ({ xen, memory }) => {
    const table = grantFrame(xen, B, 0);
    for (let entry = REF + 1; entry < GRANT_ENTRIES_PER_FRAME; entry++) {
      const [header, frame] = [memory.load(table, entry * 8), memory.load(table, entry * 8 + 4)];
      if (header === 0 && frame === 0) continue;
      return [`I-33: a transfer to A has written to entry ${entry} of B`];
    }
    return [];
  },
  sometimes: {
    "the page was given": (notes) => notes.given === 0,
    "the table was too small": (notes) => notes.given !== 0,
  },
};

/** M38: a page that its domain gives up stays a table as long as an entry leads to it. */
export const pinnedTableStory: Story = {
  name: "pinned-table",
  about: "A gives up, twice, a page table that it has pinned and that its own tables lead to",
  model: () => pvModel(),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest, notes) {
        notes.table = spareTable(guest);
        notes.pinned = yield* mmuext(guest, MMUEXT_PIN_L1_TABLE, notes.table);
      },
    },
  ],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest, notes) {
        const table = notes.table ?? 0;
        notes.given = (yield* release(guest, table)) + (yield* release(guest, table));
      },
    },
  ],
  judge: ({ xen, layout, words }, notes) => {
    const table = indexOf(layout, words, notes.table ?? 0);
    if (typeCount(xen, table) > 0 && typeOf(xen, table) === PGT_l1_page_table) return [];
    return ["I-05: A's tables lead to a table that nobody counts as one"];
  },
  sometimes: { "it was given up": (notes) => notes.pinned === 0 && notes.given === 2 },
};

/** Machine frame of the table that has room for `ROOM`: a page of the RAM, read-only, after the tables above it. */
function spareTable(guest: Guest): number {
  const { xen, layout } = guest.machine;
  const place = pteOfAddress(xen, guest.slot, DomId(guest.domid), ROOM * PAGE_SIZE);
  assert(place !== undefined, "the domain builder leaves a table for it");
  return mfnAt(layout, place.table);
}

/** M16: a list of frames is no longer than its caller has said. */
export const statusFramesStory: Story = {
  name: "status-frames",
  about: "A asks for one of its two status frames, and has room for one",
  model: () =>
    pvModel({
      domains: [DOM0, { ...pv, maxGrantFrames: GRANT_FRAMES }],
      limits: { xenHeapPages: 120 },
    }),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* setVersion(guest, 2);
        const view = freshArguments(guest.caller, LIST + 8 * GRANT_FRAMES);
        view.setUint16(SETUP_DOM, DOMID_SELF, true);
        view.setUint32(SETUP_NR_FRAMES, GRANT_FRAMES, true);
        setU64(view, SETUP_FRAME_LIST, guest.caller.arguments.gaddr + LIST);
        yield* grantTableOp(guest.caller, GNTTABOP_setup_table, LIST, 1);
      },
    },
  ],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest, notes) {
        const view = freshArguments(guest.caller, LIST + 16);
        view.setUint16(STATUS_FRAMES_DOM, DOMID_SELF, true);
        view.setUint32(STATUS_FRAMES_NR_FRAMES, 1, true);
        setU64(view, STATUS_FRAMES_FRAME_LIST, guest.caller.arguments.gaddr + LIST);
        view.setUint32(LIST + 8, CONTENT, true);
        yield* grantTableOp(guest.caller, GNTTABOP_get_status_frames, LIST + 16, 1);
        notes.told = view.getUint32(LIST, true);
        if (view.getUint32(LIST + 8, true) === CONTENT) return;
        wrong(guest, "I-33", "the list of status frames is longer than there was room for");
      },
    },
  ],
  sometimes: { "one was told": (notes) => (notes.told ?? 0) !== 0 },
};

/** M31: a device that comes to a running domain reaches no page that is a page table meanwhile. */
export const attachStory: Story = {
  name: "attach",
  about: "A makes a page of its RAM a page table while a device is assigned to it",
  model: () =>
    pvModel({
      machine: { devices: [disk], iommu: { mode: "on" } },
      domains: [DOM0, { ...pv, iommu: true }],
    }),
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest, notes) {
        const mfn = mfnOf(guest, PAGE);
        yield* updateVa(guest, PAGE, mfn, false);
        notes.pinned = yield* mmuext(guest, MMUEXT_PIN_L1_TABLE, mfn);
      },
    },
  ],
  others: [
    {
      name: "toolstack",
      slot: 0,
      program: function* (_machine, notes) {
        notes.assigned = yield* control(CONTROL_DOMCTL, XEN_DOMCTL_assign_device, A, 0);
      },
    },
  ],
  sometimes: { "both were done": (notes) => notes.pinned === 0 && notes.assigned === 0 },
};
