/**
 * The adversary: A does whatever a guest can do, drawn from the run's numbers, to the entry and the pages that B works with. B behaves, and
 * nothing may happen to it but refusals; the hypervisor's own state stays sound. Ours; stress spec section 6.
 */
import { storeWord } from "../../domains/memory.ts";
import {
  GTF_permit_access,
  GTF_reading,
  GTF_readonly,
  GTF_writing,
} from "../../shared/abi/grant.ts";
import { item } from "../../shared/assert.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import type { Program } from "../../shared/trap.ts";
import { Gfn } from "../../shared/units.ts";
import {
  copy,
  type Guest,
  grant,
  headerOf,
  map,
  openGrantTable,
  populate,
  release,
  tryLoad,
  tryStore,
  unmap,
} from "../raw-guest.ts";
import type { Story } from "../story.ts";
import { A, B, C, HOLE, RAM, smallModel } from "./machines.ts";

const REF = 8;
const PAGE = RAM + 10;
const TURNS = 6;

/** Words that a guest likes to write: what was there, its neighbours, the ends of the range, and other names. */
const WORDS: readonly number[] = [
  0,
  -1,
  GTF_permit_access | (B << 16),
  GTF_permit_access | (C << 16),
  GTF_permit_access | GTF_readonly | (B << 16),
  GTF_permit_access | GTF_reading | GTF_writing | (B << 16),
  2 | (B << 16),
  PAGE,
  PAGE + 1,
  RAM + 63,
  RAM + 64,
  0x7fffffff,
];

const draw = (guest: Guest, below: number): number => guest.machine.options.scheduler.number(below);

function* act(guest: Guest): Program {
  const word = item(WORDS, draw(guest, WORDS.length));
  switch (draw(guest, 6)) {
    case 0:
      return yield* storeWord(guest.cpu, headerOf(REF), word);
    case 1:
      return yield* storeWord(guest.cpu, headerOf(REF) + 4, word);
    case 2:
      return void (yield* release(guest, PAGE + draw(guest, 2)));
    case 3:
      return void (yield* populate(guest, PAGE + draw(guest, 2)));
    case 4:
      return void (yield* tryStore(guest, (PAGE + draw(guest, 2)) * PAGE_SIZE, word));
    default: {
      const mapped = yield* map(guest, A, REF, HOLE + draw(guest, 2));
      if (mapped.status === 0) yield* unmap(guest, HOLE + draw(guest, 2), mapped.handle);
    }
  }
}

export const adversaryStory: Story = {
  name: "adversary",
  about: "A does whatever a guest can do to the grant that B maps, reads, copies and unmaps",
  model: () => smallModel({ domains: [{}, {}, {}, {}] }),
  setUp: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* openGrantTable(guest);
        yield* grant(guest, REF, PAGE, B);
      },
    },
  ],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        for (let turn = 0; turn < TURNS; turn++) yield* act(guest);
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        const mapped = yield* map(guest, A, REF, HOLE);
        notes.mapped = mapped.status === 0 ? 1 : 0;
        if (mapped.status === 0) yield* tryLoad(guest, HOLE * PAGE_SIZE);
        const from = { ref: REF, domid: A, offset: 0 };
        yield* copy(guest, from, { gfn: Gfn(RAM + 12), offset: 0 }, 64);
        if (mapped.status === 0) yield* unmap(guest, HOLE, mapped.handle);
      },
    },
  ],
  hostile: [A],
  sometimes: {
    "B mapped it": (notes) => notes.mapped === 1,
    "B was refused": (notes) => notes.mapped === 0,
  },
};
