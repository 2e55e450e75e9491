import { getDomainInfo } from "../../domains/hypercalls.ts";
import { loadWord, POINT, storeWord } from "../../domains/memory.ts";
import { domainField } from "../../hypervisor/xen.ts";
import { XEN_DOMCTL_destroydomain, XEN_DOMINF_dying } from "../../shared/abi/domctl.ts";
import { at } from "../../shared/assert.ts";
import { DOM, DYING_ALIVE, MACHINE } from "../../shared/layout.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { CONTROL_CREATE, CONTROL_DOMCTL, type Program } from "../../shared/trap.ts";
import {
  control,
  type Guest,
  grant,
  map,
  openGrantTable,
  populate,
  populateFor,
  release,
  tryLoad,
  unmap,
  wrong,
} from "../raw-guest.ts";
import type { Machine } from "../state.ts";
import type { SlotTask, Story, StoryTask } from "../story.ts";
import { A, B, HOLE, RAM, smallModel } from "./machines.ts";

const REF = 8;
const MANY = 400;
const PAGE = RAM + 10;
const SECRET = 0x5ec2e7;

/** F-01 to F-05: the toolstack destroys a domain at some moment. */
const kill = (domid: number): SlotTask => ({
  name: `kill ${domid === A ? "A" : "B"}`,
  slot: 0,
  isFault: true,
  program: () => control(CONTROL_DOMCTL, XEN_DOMCTL_destroydomain, domid),
});

/** B uses A's grant: maps, looks, unmaps. */
function* use(guest: Guest): Program {
  const mapped = yield* map(guest, A, REF, HOLE);
  if (mapped.status === 0) yield* unmap(guest, HOLE, mapped.handle);
}

function* touch(guest: Guest): Program {
  for (let look = 0; look < 3; look++) yield* tryLoad(guest, HOLE * PAGE_SIZE);
}

const grantOne: StoryTask = {
  name: "A",
  domain: A,
  program: function* (guest) {
    yield* openGrantTable(guest);
    yield* grant(guest, REF, PAGE, B);
  },
};

/** M55: what a killed vCPU's handler held across a gap is given back. */
export const killMapperStory: Story = {
  name: "kill-mapper",
  about: "B is destroyed at any moment while it reads and unmaps a page of A",
  history: true,
  model: () => smallModel({ domains: [{}, {}, { vcpus: 2 }] }),
  setUp: [
    grantOne,
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        notes.handle = (yield* map(guest, A, REF, HOLE)).handle;
      },
    },
  ],
  tasks: [
    {
      name: "B.0",
      domain: B,
      program: function* (guest, notes) {
        yield* unmap(guest, HOLE, notes.handle ?? 0);
      },
    },
    {
      name: "B.1",
      domain: B,
      vcpu: 1,
      program: function* (guest) {
        yield* tryLoad(guest, HOLE * PAGE_SIZE);
      },
    },
  ],
  others: [kill(B)],
  judge: ({ xen }) =>
    domainField(xen, B, DOM.DYING) !== DYING_ALIVE && domainField(xen, B, DOM.TOT_PAGES) > 0
      ? ["I-23: B is dead and still has pages, which nobody else holds"]
      : [],
};

/** A granter dies while its page is mapped: the mapper keeps what it has. */
export const killGranterStory: Story = {
  name: "kill-granter",
  about: "A is destroyed at any moment while B maps, reads and unmaps its page",
  history: true,
  model: () => smallModel({ domains: [{}, {}, { vcpus: 2 }] }),
  setUp: [grantOne],
  tasks: [
    { name: "B.0", domain: B, program: use },
    { name: "B.1", domain: B, vcpu: 1, program: touch },
  ],
  others: [kill(A)],
};

/** M37: B never reads what a domain that has died has left in its pages. */
export const scrubStory: Story = {
  name: "scrub",
  about: "B asks for a page while A, which has a secret in every page, dies",
  model: () => smallModel(),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        for (let page = 0; page < 16; page++) {
          yield* storeWord(guest.cpu, (RAM + page) * PAGE_SIZE, SECRET);
        }
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        yield* release(guest, PAGE);
      },
    },
  ],
  tasks: [
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        for (let turn = 0; turn < 4; turn++) yield POINT;
        if ((yield* populate(guest, PAGE)) !== 1) return;
        const seen = yield* loadWord(guest.cpu, PAGE * PAGE_SIZE);
        notes.got = 1;
        if (seen === SECRET)
          wrong(guest, "I-19", "a page holds what its former owner, now dead, wrote");
      },
    },
  ],
  others: [{ ...kill(A), name: "toolstack" }],
};

/** M60: a dying domain is given nothing, whoever asks for it. */
export const dyingAcquiresStory: Story = {
  name: "dying-acquires",
  about: "dom0 asks for pages in A's name while A, whose page B has mapped, is destroyed",
  model: () => smallModel(),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* openGrantTable(guest);
        yield* grant(guest, REF, PAGE, B);
        for (let page = 11; page < 32; page++) yield* release(guest, RAM + page);
        for (let page = 40; page < 64; page++) yield* release(guest, RAM + page);
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        yield* map(guest, A, REF, HOLE);
      },
    },
  ],
  tasks: [
    {
      name: "dom0",
      domain: 0,
      program: function* (guest, notes) {
        notes.given = yield* populateFor(guest, A, HOLE, 40);
      },
    },
  ],
  others: [kill(A)],
  judge: ({ xen }) =>
    domainField(xen, A, DOM.DYING) !== DYING_ALIVE && domainField(xen, A, DOM.TOT_PAGES) > 1
      ? [`I-22: A is dead and has ${domainField(xen, A, DOM.TOT_PAGES)} pages`]
      : [],
};

/** M56: a domain's number is nobody else's as long as something of it is in use. */
export const reuseStory: Story = {
  name: "id-reuse",
  about:
    "A is destroyed and other domains come and go, while B still has a page of A mapped and then unmaps it",
  model: () => smallModel({ domains: [{}, {}, {}, { atBoot: false, memoryPages: 8 }] }),
  setUp: [
    grantOne,
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        notes.handle = (yield* map(guest, A, REF, HOLE)).handle;
      },
    },
  ],
  tasks: [
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        notes.status = yield* unmap(guest, HOLE, notes.handle ?? 0);
      },
    },
  ],
  others: [
    {
      name: "toolstack",
      slot: 0,
      program: function* (_machine, notes) {
        yield* control(CONTROL_DOMCTL, XEN_DOMCTL_destroydomain, A);
        for (let life = 0; life < 3 && notes.reused === undefined; life++) {
          const domid = yield* control(CONTROL_CREATE, 3);
          if (domid === A) notes.reused = 1;
          else yield* control(CONTROL_DOMCTL, XEN_DOMCTL_destroydomain, domid);
        }
      },
    },
  ],
  auditEveryStep: true,
  sometimes: { "the number was used again": (notes) => notes.reused === 1 },
};

/** M40: what is told of a domain is told while it is there. One that nobody holds anything of is never seen dead. */
export const infoStory: Story = {
  name: "info",
  about: "dom0 asks about A while A is destroyed",
  model: () => smallModel(),
  tasks: [
    {
      name: "dom0",
      domain: 0,
      program: function* (guest, notes) {
        const info = yield* getDomainInfo(guest.caller, A);
        if (typeof info === "number") return;
        notes.told = info.domid;
        if (info.domid !== A || (info.flags & XEN_DOMINF_dying) === 0) return;
        wrong(guest, "I-43", "what is told of A was read after A had gone");
      },
    },
  ],
  others: [kill(A)],
  sometimes: {
    "A was there": (notes) => notes.told === A,
    "A had gone": (notes) => notes.told === B,
  },
};

/** M62: a domain's life costs the hypervisor nothing for good. */
export const lifeStory: Story = {
  name: "life",
  about: "the toolstack creates a domain and destroys it, three times",
  model: () => smallModel({ domains: [{}, {}, {}, { atBoot: false, memoryPages: 8 }] }),
  tasks: [],
  others: [
    {
      name: "toolstack",
      slot: 0,
      program: function* (machine, notes) {
        notes.before = heapOf(machine);
        for (let life = 0; life < 3; life++) {
          const domid = yield* control(CONTROL_CREATE, 3);
          yield* control(CONTROL_DOMCTL, XEN_DOMCTL_destroydomain, domid);
        }
      },
    },
  ],
  judge: (machine, notes) => {
    const [before, now] = [notes.before ?? 0, heapOf(machine)];
    return before === now ? [] : [`I-42: the Xen heap had ${before} free pages and has ${now}`];
  },
};

const heapOf = (machine: Machine): number => at(machine.words, MACHINE.XEN_HEAP_FREE);

/** M22: a domain with many mappings dies in stages, and others are served in between. */
export const manyMappingsStory: Story = {
  name: "many-mappings",
  about: "B, which has mapped 400 grants, is destroyed",
  model: () => smallModel({ domains: [{}, {}, { maxMaptrackFrames: 2, p2mPoolPages: 12 }] }),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* openGrantTable(guest);
        for (let ref = REF; ref < REF + MANY; ref++) yield* grant(guest, ref, PAGE, B);
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        for (let i = 0; i < MANY; i++) yield* map(guest, A, REF + i, HOLE + i, 1);
      },
    },
  ],
  tasks: [],
  others: [{ ...kill(B), name: "toolstack" }],
};
