/**
 * Stories of pages, tables and pools: what comes, goes, or cannot be had. Ours; the shapes are those of stress spec 11.1 and
 * 11.2.
 */
import { copyOp, gnttabBatchCopy } from "../../domains/grant-copy.ts";
import { addToPhysmap } from "../../domains/hypercalls.ts";
import { loadWord, storeWord } from "../../domains/memory.ts";
import { domainField } from "../../hypervisor/xen.ts";
import { XEN_DOMCTL_set_paging_mempool_size } from "../../shared/abi/domctl.ts";
import { XENMAPSPACE_grant_table, XENMEM_resource_ioreq_server } from "../../shared/abi/memory.ts";
import { DOM } from "../../shared/layout.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { CONTROL_DOMCTL } from "../../shared/trap.ts";
import { Gfn } from "../../shared/units.ts";
import {
  acquireResource,
  control,
  type Guest,
  populate,
  release,
  tryLoad,
  wrong,
} from "../raw-guest.ts";
import type { Story } from "../story.ts";
import { A, B, HOLE, RAM, smallModel } from "./machines.ts";

const PAGE = RAM + 10;

/** M59: a pool that cannot grow keeps what it has. */
export const poolStory: Story = {
  name: "pool",
  about: "A's pool of table pages is made larger than there is memory for",
  model: () => smallModel(),
  tasks: [],
  others: [
    {
      name: "toolstack",
      slot: 0,
      program: function* (_machine, notes) {
        const bytes = 1000 * PAGE_SIZE;
        notes.answer = yield* control(CONTROL_DOMCTL, XEN_DOMCTL_set_paging_mempool_size, A, bytes);
      },
    },
  ],
  sometimes: { "it was refused": (notes) => (notes.answer ?? 0) < 0 },
};

/** M36: a domain never has more pages than its limit. */
export const quotaStory: Story = {
  name: "quota",
  about: "A asks for a page on two vCPUs, and has room for one",
  model: () => smallModel({ domains: [{}, { vcpus: 2 }, {}] }),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* release(guest, PAGE);
      },
    },
  ],
  tasks: [0, 1].map((vcpu) => ({
    name: `A.${vcpu}`,
    domain: A,
    vcpu,
    program: function* (guest: Guest) {
      yield* populate(guest, HOLE + vcpu);
    },
  })),
  judge: ({ xen }) => {
    const [has, most] = [domainField(xen, A, DOM.TOT_PAGES), domainField(xen, A, DOM.MAX_PAGES)];
    return has <= most ? [] : [`I-20: A has ${has} pages, and may have ${most}`];
  },
};

/** M19: a batch that lets go half-way goes on where it stood. */
export const batchCopyStory: Story = {
  name: "batch-copy",
  about: "B copies forty pieces in one batch",
  model: () => smallModel(),
  tasks: [
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        const source = Gfn(RAM + 12);
        yield* storeWord(guest.cpu, source * PAGE_SIZE, 7);
        const ops = Array.from({ length: 40 }, (_, i) =>
          copyOp({ gfn: source, offset: 0 }, { gfn: Gfn(RAM + 13), offset: 4 * i }, 4),
        );
        yield* gnttabBatchCopy(guest.caller, ops);
        const last = yield* loadWord(guest.cpu, (RAM + 13) * PAGE_SIZE + 4 * 39);
        if (ops[39]?.status === 0 && last !== 7) {
          wrong(guest, "I-31", "the last piece of a batch reports success and was not copied");
        }
      },
    },
  ],
};

/** M25, M35: a table that cannot be had. Blocks of 2 MiB need a page when one of theirs goes. */
export const noTableStory: Story = {
  name: "no-table",
  about: "A populates an extent across a table's end, and has no page for the second table",
  model: () => smallModel(),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        for (let page = 8; page < 32; page++) yield* release(guest, RAM + page);
        // Every table page that is left goes here.
        for (let table = 1; table <= 16; table++) yield* populate(guest, 0x80000 + table * 512);
      },
    },
  ],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest, notes) {
        const first = 0x401fe;
        notes.done = yield* populate(guest, first, 2);
        for (let page = 0; notes.done === 1 && page < 4; page++) {
          if ((yield* tryLoad(guest, (first + page) * PAGE_SIZE)) !== undefined) continue;
          wrong(guest, "I-32", `an extent is reported done, and page ${page} of it is missing`);
          return;
        }
      },
    },
  ],
  sometimes: { "it was refused": (notes) => notes.done === 0 },
};

/** M25: a page that cannot be taken out of its block stays the domain's. */
export const splitBlockStory: Story = {
  name: "split-block",
  about:
    "A gives up a page in the middle of a block, and there is no page for the table that this takes",
  model: () =>
    smallModel({
      machine: { banks: [{ base: 0x4000_0000, size: 8 * 1024 ** 2 }] },
      domains: [{}, { memoryPages: 1024, p2mPoolPages: 6 }],
    }),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        // Room below the limit first, out of the second block; then every table page that is left goes.
        for (let page = 0; page < 8; page++) yield* release(guest, RAM + 1016 + page);
        for (let table = 1; table <= 8; table++) yield* populate(guest, 0x80000 + table * 512);
      },
    },
  ],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest, notes) {
        notes.released = yield* release(guest, RAM + 100);
      },
    },
  ],
  sometimes: { "it was refused": (notes) => notes.released === 0 },
};

/** M39: a refused call leaves nothing held. */
export const refusedResourceStory: Story = {
  name: "refused-resource",
  about: "dom0 asks for a resource that A does not have",
  model: () => smallModel(),
  tasks: [
    {
      name: "dom0",
      domain: 0,
      program: function* (guest, notes) {
        notes.answer = yield* acquireResource(guest, A, XENMEM_resource_ioreq_server);
      },
    },
  ],
  sometimes: { "it was refused": (notes) => (notes.answer ?? 0) < 0 },
};

/** M13: a page of the hypervisor stands at one address of its domain. */
export const placeTwiceStory: Story = {
  name: "place-twice",
  about: "A maps its grant frame on two vCPUs at two addresses",
  model: () => smallModel({ domains: [{}, { vcpus: 2 }, {}] }),
  tasks: [0, 1].map((vcpu) => ({
    name: `A.${vcpu}`,
    domain: A,
    vcpu,
    program: function* (guest: Guest) {
      yield* addToPhysmap(guest.caller, XENMAPSPACE_grant_table, 0, HOLE + vcpu);
    },
  })),
};
