// Focused stories in memory that is weaker than sc: late stores, old values, races, and what must still hold.
import { describe, expect, it } from "vitest";
import { POINT, readBytes, storeWord, writeBytes } from "../../domains/memory.ts";
import { type Exploration, explore, refusal } from "../../explore/exploration.ts";
import type { MachineImage } from "../../explore/image.ts";
import { openStory } from "../../explore/named.ts";
import { randomScheduler } from "../../explore/random.ts";
import {
  type Guest,
  grant,
  map,
  openGrantTable,
  unmap,
  withdraw,
} from "../../explore/raw-guest.ts";
import { shrink } from "../../explore/shrink.ts";
import type { Machine } from "../../explore/state.ts";
import { STORIES } from "../../explore/stories/catalogue.ts";
import { A, B, HOLE, RAM, smallModel } from "../../explore/stories/machines.ts";
import { prepareStory, runStory, type Story, type StoryTask } from "../../explore/story.ts";
import { MEMORY_MODES, type MemoryMode } from "../../explore/weak-memory.ts";
import { at } from "../../shared/assert.ts";
import { DOM, domainOf } from "../../shared/layout.ts";
import { PAGE_SIZE, WORDS_PER_PAGE } from "../../shared/limits.ts";
import { walk } from "../../shared/mmu.ts";
import type { Program } from "../../shared/trap.ts";
import { FrameIndex } from "../../shared/units.ts";

const REF = 8;
const PAGE = RAM + 10;
const SCHEDULES = 2_000;

const share: readonly StoryTask[] = [
  {
    name: "A",
    domain: A,
    program: function* (guest) {
      yield* openGrantTable(guest);
      yield* grant(guest, REF, PAGE, B);
    },
  },
  {
    name: "B",
    domain: B,
    program: function* (guest, notes) {
      notes.handle = (yield* map(guest, A, REF, HOLE)).handle;
    },
  },
];

/** Word `index` of the shared page, plainly. */
function* put({ cpu, domid }: Guest, index: number): Program {
  const gfn = domid === A ? PAGE : HOLE;
  yield* writeBytes(cpu, gfn * PAGE_SIZE + index * 4, Uint8Array.of(1, 0, 0, 0), 0, 4);
}
function* get({ cpu, domid }: Guest, index: number): Program<number> {
  const bytes = new Uint8Array(4);
  yield* readBytes(cpu, (domid === A ? PAGE : HOLE) * PAGE_SIZE + index * 4, bytes, 0, 4);
  return bytes[0] ?? 0;
}

const racy = [{ domain: A, gfn: PAGE, reason: "this is the test" }];

const messagePassing: Story = {
  name: "message-passing",
  about: "A writes data and a flag; B reads the flag and the data",
  model: () => smallModel(),
  setUp: share,
  racy,
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* put(guest, 0);
        yield* put(guest, 1);
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        notes.flag = yield* get(guest, 1);
        notes.data = yield* get(guest, 0);
      },
    },
  ],
  sometimes: { "the flag without the data": ({ flag, data }) => flag === 1 && data === 0 },
};

const storeBuffering: Story = {
  name: "store-buffering",
  about: "each writes its own word and reads the other's",
  model: () => smallModel(),
  setUp: share,
  racy,
  tasks: [A, B].map((domain, own) => ({
    name: domain === A ? "A" : "B",
    domain,
    program: function* (guest, notes) {
      yield* put(guest, own);
      notes[own === 0 ? "first" : "second"] = yield* get(guest, 1 - own);
    },
  })),
  sometimes: { "neither saw the other": ({ first, second }) => first === 0 && second === 0 },
};

/** The same on two pages: each reads by an entry that it has not looked up before. */
const coldBuffering: Story = {
  ...storeBuffering,
  name: "cold-buffering",
  setUp: [
    ...share,
    { name: "A", domain: A, program: (guest) => grant(guest, REF + 1, PAGE + 1, B) },
    { name: "B", domain: B, program: (guest) => map(guest, A, REF + 1, HOLE + 1) },
  ],
  racy: [...racy, { domain: A, gfn: PAGE + 1, reason: "this is the test" }],
  tasks: [A, B].map((domain, own) => ({
    name: domain === A ? "A" : "B",
    domain,
    program: function* (guest, notes) {
      yield* put(guest, own * WORDS_PER_PAGE);
      notes[own === 0 ? "first" : "second"] = yield* get(guest, (1 - own) * WORDS_PER_PAGE);
    },
  })),
};

const explored = (story: Story, memory: MemoryMode, strategy = "portfolio"): Exploration => {
  const limits = { schedules: SCHEDULES, seed: 1, strategy };
  const found = explore({ ...prepareStory(story), memory }, limits);
  if (found === undefined) throw new Error("a strategy of that name exists");
  return found;
};

describe("plain accesses of guests", () => {
  const seen = (story: Story, memory: MemoryMode): boolean => {
    const { failure, never } = explored(story, memory);
    expect(failure).toBeUndefined();
    return never.length === 0;
  };

  it("show the flag without the data in relaxed alone", () => {
    expect(MEMORY_MODES.map((memory) => seen(messagePassing, memory))).toEqual([
      false,
      false,
      true,
    ]);
  });

  it("wait in store buffers in tso and relaxed", () => {
    expect(MEMORY_MODES.map((memory) => seen(storeBuffering, memory))).toEqual([false, true, true]);
  });

  it("wait in store buffers while hardware walks the tables for the next access", () => {
    expect(MEMORY_MODES.map((memory) => seen(coldBuffering, memory))).toEqual([false, true, true]);
  });

  it("wait in store buffers in each of the orders that dpor makes in tso, and it finishes", () => {
    const found = explored(storeBuffering, "tso", "dpor");
    expect(found).toMatchObject({ failure: undefined, finished: true, never: [] });
    expect(explored(storeBuffering, "sc", "dpor").never).toEqual(["neither saw the other"]);
  });

  it("race in tso and relaxed unless the page is declared racy", () => {
    const { racy: _racy, ...strict } = messagePassing;
    const ids = MEMORY_MODES.map((memory) => explored(strict, memory).failure?.id);
    expect(ids).toEqual([undefined, "I-39", "I-39"]);
  });
});

describe("a flush", () => {
  /** First word of the page that A has shared. */
  const secretOf = ({ words, layout, memory }: Machine): number => {
    const root = at(words, domainOf(layout, A) + DOM.P2M_ROOT);
    return memory.load(FrameIndex(walk(layout, words, memory, root, PAGE) >> 3), 0);
  };
  const story: Story = {
    name: "late-store",
    about: "B's second vCPU stores plainly while the first unmaps, and A takes the page back",
    model: () => smallModel({ domains: [{}, {}, { vcpus: 2 }] }),
    setUp: share,
    racy,
    tasks: [
      {
        name: "A",
        domain: A,
        program: function* (guest, notes) {
          if (!(yield* withdraw(guest, REF, 6))) return;
          yield* storeWord(guest.cpu, PAGE * PAGE_SIZE, 7);
          notes.secret = 1;
        },
      },
      {
        name: "B.0",
        domain: B,
        program: (guest, notes) => unmap(guest, HOLE, notes.handle ?? 0),
      },
      {
        name: "B.1",
        domain: B,
        vcpu: 1,
        program: function* (guest) {
          try {
            yield* put(guest, 0);
          } catch {
            // The page is gone, which is as it should be.
          }
          for (let turn = 0; turn < 8; turn++) yield POINT;
        },
      },
    ],
    judge: (machine, notes) =>
      notes.secret !== 1 || secretOf(machine) === 7
        ? []
        : ["I-17: a store came after the page was taken back"],
    sometimes: { "A took the page back": ({ secret }) => secret === 1 },
  };

  it("has every store of its walkers in memory before the page is anybody else's", () => {
    for (const strategy of ["portfolio", "preempt(2)"]) {
      expect(explored(story, "tso", strategy)).toMatchObject({ failure: undefined, never: [] });
    }
    expect(explored(story, "relaxed")).toMatchObject({ failure: undefined, never: [] });
  });

  it("that does not wait for late stores is found", () => {
    const prepared = { ...prepareStory(story), memory: "tso" as const };
    const ids = Array.from({ length: SCHEDULES }, (_, seed) => {
      const watch = (_: Machine, { memory }: MachineImage): void => {
        memory.onFlush = undefined;
      };
      const { outcome } = runStory(prepared, { seed, scheduler: randomScheduler(), watch });
      return outcome.findings[0]?.slice(0, 4);
    });
    expect(ids).toContain("I-17");
  });
});

describe("a failure of weak memory", () => {
  const { racy: _racy, ...strict } = messagePassing;

  it("is shrunk to the strongest memory that shows it", () => {
    const prepared = { ...prepareStory(strict), memory: "relaxed" as const };
    const { failure } = explored(strict, "relaxed");
    expect(failure && shrink(prepared, failure)).toMatchObject({ memory: "tso", replayed: true });
  });

  it("has no dpor in relaxed, where a load has several answers", () => {
    expect(refusal("dpor", "relaxed")).toContain("dpor");
    expect(refusal("dpor", "tso")).toBeUndefined();
    expect(explored(storeBuffering, "relaxed", "delay(1)").finished).toBe(false);
  });
});

describe.each(["tso", "relaxed"] as const)("every focused story in %s", (memory) => {
  it.each(STORIES.map(({ name }) => name))("%s holds in 25 schedules of the portfolio", (name) => {
    const story = openStory(name, "faithful", memory);
    const open = story.open({ schedules: 25, seed: 11, strategy: "portfolio" });
    open?.go(25);
    expect(open?.result().failure?.findings).toBeUndefined();
  });
});
