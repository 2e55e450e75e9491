/**
 * Stories of one grant: A grants, B uses, A takes back; and what each of them may believe at each moment.
 * Ours; the shapes are those of stress spec 11.1.
 */

import { compareExchangeWord, loadWord, storeWord } from "../../domains/memory.ts";
import { grantFrame } from "../../hypervisor/active-entry.ts";
import { GTF_permit_access, GTF_readonly, GTF_writing } from "../../shared/abi/grant.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import type { Program } from "../../shared/trap.ts";
import { Gfn } from "../../shared/units.ts";
import {
  copy,
  type Guest,
  grant,
  headerOf,
  isReadonly,
  map,
  openGrantTable,
  populate,
  release,
  tryLoad,
  tryStore,
  unmap,
  withdraw,
  wrong,
} from "../raw-guest.ts";
import type { Notes, Story, StoryTask } from "../story.ts";
import { A, B, C, HOLE, RAM, smallModel } from "./machines.ts";

const REF = 8;
/** What A puts into its page once nobody may read it any more. */
const SECRET = 0x5ec2e7;
/** Page that A grants, another one of A, and B's own buffer. */
const PAGE = RAM + 10;
const OTHER = RAM + 11;
const BUFFER = Gfn(RAM + 12);

export const openA: StoryTask = { name: "A", domain: A, program: openGrantTable };
const grantPage = (flags = 0): StoryTask => ({
  name: "A",
  domain: A,
  program: function* (guest) {
    yield* openGrantTable(guest);
    yield* grant(guest, REF, PAGE, B, flags);
  },
});

/** A takes the grant back, writes its secret, and may give the frame to somebody else. */
function* revoke(guest: Guest, notes: Notes): Program {
  if (!(yield* withdraw(guest, REF, 3))) return;
  notes.revoked = 1;
  yield* storeWord(guest.cpu, PAGE * PAGE_SIZE, SECRET);
}

/** B maps, looks, unmaps. */
function* use(guest: Guest, notes: Notes): Program {
  const mapped = yield* map(guest, A, REF, HOLE);
  notes.mapped = mapped.status === 0 ? 1 : 0;
  if (mapped.status !== 0) return;
  yield* unmap(guest, HOLE, mapped.handle);
}

/** B's second vCPU looks at the page all the time: what it sees must never be what A wrote after it had revoked. */
function* spy(guest: Guest): Program {
  for (let look = 0; look < 3; look++) {
    const seen = yield* tryLoad(guest, HOLE * PAGE_SIZE);
    if (seen !== SECRET) continue;
    wrong(guest, "I-17", "B reads what A wrote after its grant had been withdrawn");
    return;
  }
}

const twoCpus = [{}, {}, { vcpus: 2 }] as const;

/** M01, M23: withdrawn means that nobody reads any more. */
export const revokeStory: Story = {
  name: "revoke",
  about: "A withdraws a grant and writes a secret while B maps, reads and unmaps",
  history: true,
  model: () => smallModel({ domains: twoCpus }),
  setUp: [grantPage()],
  tasks: [
    { name: "A", domain: A, program: revoke },
    { name: "B.0", domain: B, program: use },
    { name: "B.1", domain: B, vcpu: 1, program: spy },
  ],
  sometimes: {
    "the map won": (notes) => notes.mapped === 1,
    "the revocation won": (notes) => notes.mapped === 0 && notes.revoked === 1,
  },
};

/** M06: a copy through a mapped grant ends, and the granter must still see that the page is in use. */
export const copyMappedStory: Story = {
  name: "copy-mapped",
  about: "B maps a page of A, copies through the same grant, and keeps the mapping",
  history: true,
  model: () => smallModel(),
  setUp: [grantPage()],
  tasks: [
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        const mapped = yield* map(guest, A, REF, HOLE, 1);
        if (mapped.status !== 0) return;
        yield* copy(guest, { ref: REF, domid: A, offset: 0 }, { gfn: BUFFER, offset: 0 }, 64);
      },
    },
    { name: "A", domain: A, program: revoke },
  ],
};

/** M09: while an entry is pinned, whatever A writes into it changes nothing for B. */
export const copyPinnedStory: Story = {
  name: "copy-pinned",
  about: "B copies through a grant that it has mapped while A puts another frame into the entry",
  model: () => smallModel(),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* openGrantTable(guest);
        yield* storeWord(guest.cpu, PAGE * PAGE_SIZE, 1);
        yield* storeWord(guest.cpu, OTHER * PAGE_SIZE, 2);
        yield* grant(guest, REF, PAGE, B);
      },
    },
  ],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest, notes) {
        yield* storeWord(guest.cpu, headerOf(REF) + 4, OTHER);
        notes.rewritten = 1;
        yield* storeWord(guest.cpu, headerOf(REF) + 4, PAGE);
        notes.rewritten = 2;
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        const mapped = yield* map(guest, A, REF, HOLE);
        if (mapped.status !== 0) return;
        const pinned = yield* loadWord(guest.cpu, HOLE * PAGE_SIZE);
        const status = yield* copy(
          guest,
          { ref: REF, domid: A, offset: 0 },
          { gfn: BUFFER, offset: 0 },
          64,
        );
        const copied = yield* loadWord(guest.cpu, BUFFER * PAGE_SIZE);
        notes.copied = copied;
        if (status === 0 && copied !== pinned) {
          wrong(
            guest,
            "I-16",
            `the entry is pinned with page ${pinned} and page ${copied} was copied`,
          );
        }
      },
    },
  ],
  sometimes: { "B copied the page": (notes) => notes.copied === 1 },
  hostile: [A],
};

/** M58: A flips its grant between writable and read-only; a map for writing must not slip through. */
export const flipReadonlyStory: Story = {
  name: "flip-readonly",
  about: "A makes its grant read-only and writable again while B maps it for writing",
  model: () => smallModel(),
  setUp: [grantPage()],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        const writable = GTF_permit_access | (B << 16);
        for (let flip = 0; flip < 3; flip++) {
          const [from, to] =
            flip % 2 === 0
              ? [writable, writable | GTF_readonly]
              : [writable | GTF_readonly, writable];
          // Only while nobody uses it, so that the entry is read-only whenever it says so.
          yield* compareExchangeWord(guest.cpu, headerOf(REF), from, to);
        }
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        const mapped = yield* map(guest, A, REF, HOLE);
        notes.mapped = mapped.status === 0 ? 1 : 0;
      },
    },
  ],
  judge: (machine, notes) => {
    const header = machine.memory.load(grantFrame(machine.xen, A, 0), REF * 8);
    if (notes.mapped !== 1 || !isReadonly(header) || (header & GTF_writing) === 0) return [];
    return ["I-18: a grant that is read-only has been mapped for writing"];
  },
  sometimes: {
    "it was mapped": (notes) => notes.mapped === 1,
    "it was refused": (notes) => notes.mapped === 0,
  },
};

/** M24: a guest that rewrites its header for ever must not hold the hypervisor up. */
export const rewriteStory: Story = {
  name: "rewrite-header",
  about: "B maps while A's header changes under the hypervisor's hands",
  model: () => smallModel(),
  setUp: [grantPage()],
  tasks: [{ name: "B", domain: B, program: use }],
  hostile: [A],
  hostileWords: true,
  sometimes: {
    "it was mapped": (notes) => notes.mapped === 1,
    "it was refused": (notes) => notes.mapped === 0,
  },
};

/** M18: a map that is refused says so with a negative status. */
export const refusedStory: Story = {
  name: "refused-map",
  about: "B maps an entry that A has granted to somebody else",
  history: true,
  model: () => smallModel({ domains: [{}, {}, {}, {}] }),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* openGrantTable(guest);
        yield* grant(guest, REF, PAGE, C);
      },
    },
  ],
  tasks: [{ name: "B", domain: B, program: use }],
};

/** M15: counts of live mappings go down once a mapping. */
export const partialUnmapStory: Story = {
  name: "partial-unmap",
  about: "B unmaps nothing of a handle, then all of it",
  history: true,
  model: () => smallModel(),
  setUp: [grantPage()],
  tasks: [
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        const mapped = yield* map(guest, A, REF, HOLE);
        if (mapped.status !== 0) return;
        yield* unmap(guest, 0, mapped.handle);
        yield* tryStore(guest, HOLE * PAGE_SIZE, 1);
        yield* unmap(guest, HOLE, mapped.handle);
      },
    },
  ],
};

/** A hole of the recorded Xen (recorded.md 12): an unmap that names an empty gfn leaves the real entry behind. */
export const emptyUnmapStory: Story = {
  name: "empty-unmap",
  about:
    "B unmaps at an address where nothing is mapped: a known finding, which a strict hypervisor has not",
  model: () => smallModel(),
  setUp: [grantPage()],
  tasks: [
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        const mapped = yield* map(guest, A, REF, HOLE);
        notes.status = yield* unmap(guest, HOLE + 1, mapped.handle);
      },
    },
  ],
};

/** M57: a page that A gives up is B's to have, and nobody else's. */
export const recycleStory: Story = {
  name: "recycle",
  about: "A gives a page up and gets one back while B does the same",
  model: () => smallModel(),
  tasks: [A, B].map((domain) => ({
    name: domain === A ? "A" : "B",
    domain,
    program: function* (guest: Guest) {
      yield* release(guest, PAGE);
      yield* populate(guest, PAGE);
      yield* storeWord(guest.cpu, PAGE * PAGE_SIZE, domain);
      const seen = yield* loadWord(guest.cpu, PAGE * PAGE_SIZE);
      if (seen !== domain) wrong(guest, "I-02", `a page of domain ${domain} holds ${seen}`);
    },
  })),
};
