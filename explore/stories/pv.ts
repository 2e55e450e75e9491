/**
 * Stories of x86 PV guests, whose grant mappings have two halves: an entry in the guest's own tables, and one for its devices. A's page is
 * granted to B by the set-up, which writes the entry where A's kernel would. Ours; the shapes are those of stress spec 11.1.
 */
import { mapGrantRefs, mapOp, unmapGrantRefs, unmapOp } from "../../domains/grant-calls.ts";
import { grantFrame } from "../../hypervisor/active-entry.ts";
import { GNTMAP_device_map, GNTMAP_host_map, GTF_permit_access } from "../../shared/abi/grant.ts";
import { at } from "../../shared/assert.ts";
import { LINE, lineOf, mfnAt } from "../../shared/layout.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { walkPv } from "../../shared/mmu.ts";
import type { Program } from "../../shared/trap.ts";
import { type Guest, tryLoad } from "../raw-guest.ts";
import type { Notes, Story, StoryTask } from "../story.ts";
import { A, B, smallModel } from "./machines.ts";

const REF = 8;
/** Pages of A that B is granted, by consecutive references. */
const PAGES: readonly number[] = [5, 6];
/** A virtual page behind the RAM, with a table for it and nothing in it. */
const HOST = 1024;

const pv = { guest: "pv", ramGfn: 0, p2mPoolPages: 0, memoryPages: 256 } as const;
export const pvModel = () =>
  smallModel({
    machine: { arch: "x86", ipaBits: 44, banks: [{ base: 0x4000_0000, size: 4 * 1024 ** 2 }] },
    domains: [
      { directMapped: false, staticMemory: [], ramGfn: 0x40000, memoryPages: 64 },
      pv,
      { ...pv, vcpus: 3 },
    ],
    limits: { xenHeapPages: 200 },
  });

const grantSetUp: StoryTask = {
  name: "A",
  domain: A,
  program: function* ({ machine, slot }) {
    const { words, memory, layout, xen } = machine;
    const root = at(words, lineOf(layout, slot) + LINE.ROOT);
    for (const [i, page] of PAGES.entries()) {
      const frame = walkPv(layout, words, memory, root, page) >>> 3;
      const entry = (REF + i) * 8;
      memory.store(grantFrame(xen, A, 0), entry + 4, mfnAt(layout, frame));
      memory.store(grantFrame(xen, A, 0), entry, GTF_permit_access | (B << 16));
    }
  },
};

/** B maps both halves, and notes the handle and the address that its devices use. */
function* mapBoth(guest: Guest, notes: Notes): Program {
  const op = mapOp(HOST * PAGE_SIZE, GNTMAP_host_map | GNTMAP_device_map, REF, A);
  yield* mapGrantRefs(guest.caller, [op]);
  notes.status = op.status;
  notes.handle = op.handle;
  notes.bus = op.devBusAddr;
}

function* unmapHalf(guest: Guest, notes: Notes, half: "host" | "device"): Program {
  const host = half === "host" ? HOST * PAGE_SIZE : 0;
  const bus = half === "device" ? (notes.bus ?? 0) : 0;
  yield* unmapGrantRefs(guest.caller, [unmapOp(host, notes.handle ?? 0, bus)]);
}

/** M03, M04: each half has references of its own. */
export const halvesStory: Story = {
  name: "halves",
  about: "B maps a page for itself and for its devices, and gives one half back",
  model: pvModel,
  setUp: [grantSetUp],
  tasks: [
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        yield* mapBoth(guest, notes);
        if (notes.status === 0) yield* unmapHalf(guest, notes, "host");
      },
    },
  ],
  sometimes: { "both halves were mapped": (notes) => notes.status === 0 },
};

/** B has a second page mapped besides, for itself only. */
function* mapThree(guest: Guest, notes: Notes): Program {
  yield* mapBoth(guest, notes);
  const op = mapOp((HOST + 1) * PAGE_SIZE, GNTMAP_host_map, REF + 1, A);
  yield* mapGrantRefs(guest.caller, [op]);
  notes.other = op.handle;
}

/** M02: two halves that go at the same time free their handle once. */
export const halvesRaceStory: Story = {
  name: "halves-race",
  about:
    "B gives the two halves of a mapping back on two vCPUs, and another mapping on a third that has just read the page",
  model: pvModel,
  setUp: [grantSetUp, { name: "B", domain: B, program: mapThree }],
  tasks: [
    {
      name: "B.0",
      domain: B,
      program: (guest, notes) => unmapHalf(guest, notes, "host"),
    },
    {
      name: "B.1",
      domain: B,
      vcpu: 1,
      program: function* (guest, notes) {
        yield* tryLoad(guest, HOST * PAGE_SIZE);
        const other = unmapOp((HOST + 1) * PAGE_SIZE, notes.other ?? 0);
        yield* unmapGrantRefs(guest.caller, [other]);
      },
    },
    {
      name: "B.2",
      domain: B,
      vcpu: 2,
      program: (guest, notes) => unmapHalf(guest, notes, "device"),
    },
  ],
};
