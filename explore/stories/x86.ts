/**
 * Stories of translated x86 guests: grant tables of version 2 with their status pages, and pages that move over others.
 * Ours; the shapes are those of stress spec 11.1 and 11.2.
 */
import { addToPhysmap } from "../../domains/hypercalls.ts";
import { storeWord } from "../../domains/memory.ts";
import { frameOwner } from "../../hypervisor/frame-table.ts";
import { entryFrame, P2M_NOTHING, p2mLookup } from "../../hypervisor/p2m.ts";
import { GTF_permit_access, GTF_transitive } from "../../shared/abi/grant.ts";
import { XENMAPSPACE_gmfn, XENMAPSPACE_grant_table } from "../../shared/abi/memory.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { DomId, FrameIndex } from "../../shared/units.ts";
import { copy, grant, map, openGrantTable, setVersion, tryLoad } from "../raw-guest.ts";
import type { Machine } from "../state.ts";
import type { Story, StoryTask } from "../story.ts";
import { A, B, C, GRANT_GFN, HOLE, RAM, smallModel } from "./machines.ts";

const STATUS = 0x8000_0000;
const PAGE = RAM + 10;
const REF = 8;

/** Guest address of entry `REF` of version 2, where a guest has its grant frame. */
const ENTRY = GRANT_GFN * PAGE_SIZE + 16 * REF;

const x86 = { machine: { arch: "x86", ipaBits: 44 } } as const;

/** A has version 2, and its status page at HOLE. */
const versionTwo: StoryTask = {
  name: "A",
  domain: A,
  program: function* (guest) {
    yield* setVersion(guest, 2);
    yield* addToPhysmap(guest.caller, XENMAPSPACE_grant_table, STATUS, HOLE);
  },
};

/** M12: status pages are freed only once they are mapped nowhere. */
export const statusFreedStory: Story = {
  name: "status-freed",
  about: "A goes back to version 1 on one vCPU while the other looks at its status page",
  model: () => smallModel({ ...x86, domains: [{}, { vcpus: 2 }] }),
  setUp: [versionTwo],
  tasks: [
    {
      name: "A.0",
      domain: A,
      program: function* (guest, notes) {
        notes.answer = yield* setVersion(guest, 1);
      },
    },
    {
      name: "A.1",
      domain: A,
      vcpu: 1,
      program: function* (guest) {
        for (let look = 0; look < 2; look++) yield* tryLoad(guest, HOLE * PAGE_SIZE);
      },
    },
  ],
};

/** M10: a table that is in use when its domain comes back from a gap does not change its version. */
export const versionUnderMapStory: Story = {
  name: "version-under-map",
  about: "A goes back to version 1 and waits for a flush while B maps one of its grants",
  model: () => smallModel({ ...x86, domains: [{}, { vcpus: 2 }, {}] }),
  setUp: [
    versionTwo,
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* addToPhysmap(guest.caller, XENMAPSPACE_grant_table, 0, GRANT_GFN);
        yield* storeWord(guest.cpu, ENTRY + 8, PAGE);
        yield* storeWord(guest.cpu, ENTRY, GTF_permit_access | (B << 16));
      },
    },
  ],
  tasks: [
    {
      name: "A.0",
      domain: A,
      program: function* (guest, notes) {
        notes.answer = yield* setVersion(guest, 1);
      },
    },
    {
      name: "A.1",
      domain: A,
      vcpu: 1,
      program: function* (guest) {
        yield* tryLoad(guest, HOLE * PAGE_SIZE);
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        notes.status = (yield* map(guest, A, REF, HOLE)).status;
      },
    },
  ],
  sometimes: {
    "B was first": (notes) => notes.status === 0 && notes.answer !== 0,
    "A was first": (notes) => notes.status !== 0 && notes.answer === 0,
  },
};

/** M26: a page that another one is moved over is held until nobody can reach it through its old entry. */
export const movePageStory: Story = {
  name: "move-page",
  about: "A moves a page over another one while its other vCPU uses that",
  model: () => smallModel({ ...x86, domains: [{}, { vcpus: 2 }] }),
  tasks: [
    {
      name: "A.0",
      domain: A,
      program: function* (guest) {
        yield* addToPhysmap(guest.caller, XENMAPSPACE_gmfn, PAGE, PAGE + 1);
      },
    },
    {
      name: "A.1",
      domain: A,
      vcpu: 1,
      program: function* (guest) {
        for (let look = 0; look < 2; look++) yield* tryLoad(guest, (PAGE + 1) * PAGE_SIZE);
      },
    },
  ],
};

/** M14: a status frame that is being placed is the table's as long as that takes. */
export const placeStatusStory: Story = {
  name: "place-status",
  about: "A maps its status page while its other vCPU goes back to version 1 and B asks for pages",
  model: () => smallModel({ ...x86, domains: [{}, { vcpus: 2 }, {}] }),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* setVersion(guest, 2);
      },
    },
  ],
  tasks: [
    {
      name: "A.0",
      domain: A,
      program: function* (guest, notes) {
        const placed = yield* addToPhysmap(guest.caller, XENMAPSPACE_grant_table, STATUS, HOLE);
        notes.placed = placed === 0 ? 1 : 0;
      },
    },
    {
      name: "A.1",
      domain: A,
      vcpu: 1,
      program: function* (guest) {
        yield* setVersion(guest, 1);
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        yield* setVersion(guest, 2);
      },
    },
  ],
  judge: ({ xen }) => {
    const entry = p2mLookup(xen, DomId(A), HOLE);
    const frame = entryFrame(entry);
    if (entry === P2M_NOTHING || frameOwner(xen, frame) === A) return [];
    return [`I-12: A reaches frame ${frame}, which it had as a status page and has no more`];
  },
  sometimes: {
    "A has placed it": (notes) => notes.placed === 1,
    "it was too late": (notes) => notes.placed === 0,
  },
};

/** Pages of A that B may lead to, by consecutive references, and the halves of a page that C copies between. */
const PAGES: readonly number[] = [PAGE, PAGE + 1];
const HALF = PAGE_SIZE / 2;

/** The word at an offset of one of these pages. */
function wordOf({ xen, memory }: Machine, page: number, offset: number): number {
  return memory.load(FrameIndex(entryFrame(p2mLookup(xen, DomId(A), page))), offset);
}

/** M07: an entry that leads to another domain's leads to one page as long as it is pinned. */
export const transitiveStory: Story = {
  name: "transitive",
  about:
    "C copies within the page that B's entry leads to while B makes it lead to another page of A",
  model: () => smallModel({ ...x86, domains: [{}, {}, {}, {}] }),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* openGrantTable(guest);
        for (const [i, page] of PAGES.entries()) {
          yield* storeWord(guest.cpu, page * PAGE_SIZE, page);
          yield* grant(guest, REF + i, page, B);
        }
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        yield* setVersion(guest, 2);
        yield* addToPhysmap(guest.caller, XENMAPSPACE_grant_table, 0, GRANT_GFN);
        yield* storeWord(guest.cpu, ENTRY + 4, A);
        yield* storeWord(guest.cpu, ENTRY + 8, REF);
        yield* storeWord(guest.cpu, ENTRY, GTF_transitive | (C << 16));
      },
    },
  ],
  tasks: [
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        for (const ref of [REF + 1, REF]) yield* storeWord(guest.cpu, ENTRY + 8, ref);
      },
    },
    {
      name: "C",
      domain: C,
      program: function* (guest, notes) {
        const place = { ref: REF, domid: B };
        const from = { ...place, offset: 0 };
        notes.status = yield* copy(guest, from, { ...place, offset: HALF }, 4);
      },
    },
  ],
  judge: (machine, notes) => {
    for (const page of PAGES) {
      const copied = wordOf(machine, page, HALF);
      if (copied === page) notes.page = page;
      else if (copied !== 0) {
        return [`I-16: an entry that is pinned with page ${copied} was used for page ${page}`];
      }
    }
    return [];
  },
  sometimes: {
    "C copied in the first page": (notes) => notes.page === PAGES[0],
    "C copied in the other page": (notes) => notes.page === PAGES[1],
  },
};
