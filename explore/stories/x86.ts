/**
 * Stories of translated x86 guests: grant tables of version 2 with their status pages, and pages that move over others.
 * Ours; the shapes are those of stress spec 11.1 and 11.2.
 */
import { addToPhysmap } from "../../domains/hypercalls.ts";
import { storeWord } from "../../domains/memory.ts";
import { GTF_permit_access } from "../../shared/abi/grant.ts";
import { XENMAPSPACE_gmfn, XENMAPSPACE_grant_table } from "../../shared/abi/memory.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { map, setVersion, tryLoad } from "../raw-guest.ts";
import type { Story, StoryTask } from "../story.ts";
import { A, B, GRANT_GFN, HOLE, RAM, smallModel } from "./machines.ts";

const STATUS = 0x8000_0000;
const PAGE = RAM + 10;
const REF = 8;

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
        const entry = GRANT_GFN * PAGE_SIZE + 16 * REF;
        yield* storeWord(guest.cpu, entry + 8, PAGE);
        yield* storeWord(guest.cpu, entry, GTF_permit_access | (B << 16));
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
