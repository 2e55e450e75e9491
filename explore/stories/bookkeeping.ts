/**
 * Stories of what the hypervisor has to keep in step with something else: the devices' entries with the grants, the M2P with the
 * pages, the two ends of a channel, the ports with their storage. Ours; the shapes are those of stress spec 11.5.
 */
import { allocUnbound, bindInterdomain, portOp } from "../../domains/hypercalls.ts";
import { XEN_DOMCTL_destroydomain } from "../../shared/abi/domctl.ts";
import { EVTCHNOP_close, EVTCHNOP_send } from "../../shared/abi/event-channel.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { CONTROL_DOMCTL } from "../../shared/trap.ts";
import { Gfn } from "../../shared/units.ts";
import {
  control,
  copy,
  type Guest,
  grant,
  map,
  openGrantTable,
  unmap,
  withdraw,
} from "../raw-guest.ts";
import type { Story, StoryTask } from "../story.ts";
import { disk } from "./devices.ts";
import { offer } from "./events.ts";
import { A, B, HOLE, RAM, smallModel } from "./machines.ts";
import { pvModel } from "./pv.ts";

const REF = 8;
const PAGE = RAM + 10;
const PORT = 1;

const grantTo = (domid: number): StoryTask => ({
  name: "A",
  domain: A,
  program: function* (guest) {
    yield* openGrantTable(guest);
    yield* grant(guest, REF, PAGE, domid);
  },
});

/** M64: what a device of a direct-mapped domain reaches by a grant goes with the grant. */
const identityStory: Story = {
  name: "identity",
  about: "dom0, whose devices reach what it is granted, maps a page of A and unmaps it",
  model: () =>
    smallModel({
      machine: { devices: [{ ...disk, owner: "dom0" }], iommu: { mode: "on" } },
      domains: [{ iommu: true }, {}],
    }),
  setUp: [grantTo(0)],
  tasks: [
    {
      name: "dom0",
      domain: 0,
      program: function* (guest, notes) {
        const mapped = yield* map(guest, A, REF, HOLE);
        if (mapped.status !== 0) return;
        notes.status = yield* unmap(guest, HOLE, mapped.handle);
      },
    },
  ],
  sometimes: { "it was mapped and unmapped": (notes) => notes.status === 0 },
};

/** M66: a page that is nobody's has no place in the M2P. */
const pvLifeStory: Story = {
  name: "pv-life",
  about: "the toolstack destroys a PV domain",
  model: pvModel,
  tasks: [],
  others: [
    {
      name: "toolstack",
      slot: 0,
      program: () => control(CONTROL_DOMCTL, XEN_DOMCTL_destroydomain, A),
    },
  ],
};

/** M67: a copy that is refused after both sides are held holds neither of them afterwards. */
const copyRefusedStory: Story = {
  name: "copy-refused",
  about: "B copies from a grant of A, more than the page has",
  model: () => smallModel(),
  setUp: [grantTo(B)],
  tasks: [
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        const source = { ref: REF, domid: A, offset: PAGE_SIZE - 8 };
        notes.status = yield* copy(guest, source, { gfn: Gfn(RAM + 12), offset: 0 }, 64);
      },
    },
  ],
  sometimes: { "it was refused": (notes) => (notes.status ?? 0) < 0 },
};

/** M75: bytes go to a page as long as it is held for the copy. */
const copyIntoStory: Story = {
  name: "copy-into",
  about: "B copies into a grant of A while A withdraws it",
  model: () => smallModel(),
  setUp: [grantTo(B)],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest, notes) {
        notes.withdrawn = (yield* withdraw(guest, REF)) ? 1 : 0;
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        const to = { ref: REF, domid: A, offset: 0 };
        notes.status = yield* copy(guest, { gfn: Gfn(RAM + 12), offset: 0 }, to, 64);
      },
    },
  ],
  auditEveryStep: true,
  sometimes: {
    "it was copied": (notes) => notes.status === 0,
    "it was withdrawn before": (notes) => notes.withdrawn === 1 && notes.status !== 0,
  },
};

/** M69: a channel has two ends or none. */
const closeStory: Story = {
  name: "close",
  about: "A closes its end of a channel while B sends through the other",
  model: () => smallModel(),
  setUp: [
    offer,
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* bindInterdomain(guest.caller, B, PORT);
      },
    },
  ],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* portOp(guest.caller, EVTCHNOP_close, PORT);
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        for (let event = 0; event < 2; event++) yield* portOp(guest.caller, EVTCHNOP_send, PORT);
      },
    },
  ],
};

/** Ports of A in use when the story begins: one bucket, but for two. */
const BOUND = 61;

/** M70: a port that somebody has got is valid, in whatever bucket it is. */
const bucketStory: Story = {
  name: "bucket",
  about: "A binds ports on two vCPUs until its first bucket of them is full",
  model: () => smallModel({ domains: [{}, { vcpus: 2, maxEvtchnPort: 127 }, {}] }),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        for (let port = 1; port <= BOUND; port++) yield* allocUnbound(guest.caller, B);
      },
    },
  ],
  tasks: [0, 1].map((vcpu) => ({
    name: `A.${vcpu}`,
    domain: A,
    vcpu,
    program: function* (guest: Guest) {
      for (let more = 0; more < 2; more++) yield* allocUnbound(guest.caller, B);
    },
  })),
};

export const BOOKKEEPING_STORIES: readonly Story[] = [
  identityStory,
  pvLifeStory,
  copyRefusedStory,
  copyIntoStory,
  closeStory,
  bucketStory,
];
