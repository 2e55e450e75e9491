/**
 * Stories of the pages of x86 PV guests: given away, given up, used as page tables, shown to devices. A is the receiver and the
 * owner of what is looked at, B the giver. Ours; the shapes are those of stress spec 11.1 and 11.2.
 */
import { grantFrame } from "../../hypervisor/active-entry.ts";
import {
  GTF_accept_transfer,
  GTF_permit_access,
  GTF_transfer_completed,
} from "../../shared/abi/grant.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import type { MachineModel } from "../../shared/machine.ts";
import { loosen, transfer, updateVa, writeEntry } from "../pv-guest.ts";
import { type Guest, map, release, tryLoad, tryStore, until, wrong } from "../raw-guest.ts";
import type { Story, StoryTask } from "../story.ts";
import { A, B, C, HOLE, type SmallMachine, smallModel } from "./machines.ts";

const REF = 8;
/** A page of RAM that is given away or becomes something else, and another one. */
const PAGE = 5;
const OTHER = 6;
/** A virtual page behind the RAM, with a table for it and nothing in it. */
const ROOM = 1024;
const CONTENT = 0x77;

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
        if (!(yield* until(completed))) return;
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
