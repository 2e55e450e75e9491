/**
 * Stories in which somebody does not get on, for the checks of liveness: by themselves, or with a bug planted in the sources
 * that this module is loaded with.
 */
import { portOp } from "../../domains/hypercalls.ts";
import { loadWord, POINT, storeWord } from "../../domains/memory.ts";
import { type Exploration, explore, runSeed } from "../../explore/exploration.ts";
import { randomScheduler } from "../../explore/random.ts";
import {
  control,
  eventWord,
  grant,
  headerOf,
  map,
  openGrantTable,
  sleepOn,
} from "../../explore/raw-guest.ts";
import { roundRobin } from "../../explore/round-robin.ts";
import { storyNamed } from "../../explore/stories/catalogue.ts";
import { A, B, HOLE, RAM, smallModel } from "../../explore/stories/machines.ts";
import {
  prepareStory,
  runStory,
  type SlotTask,
  type Story,
  type StoryRun,
  type StoryTask,
} from "../../explore/story.ts";
import { stuckTeardown } from "../../explore/teardown.ts";
import { XEN_DOMCTL_destroydomain } from "../../shared/abi/domctl.ts";
import { EVTCHNOP_unmask } from "../../shared/abi/event-channel.ts";
import { GTF_permit_access } from "../../shared/abi/grant.ts";
import { item } from "../../shared/assert.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { CONTROL_DOMCTL } from "../../shared/trap.ts";

const PAGE = RAM + 10;
const REF = 8;
/** Bits of a header that nobody looks at, one choice a vCPU. */
const UNRELATED_BITS: readonly number[] = [0, 0x200, 0x800];
const FLIPPED_BIT = 0x400;

/** Each sleeps until the other one has done something, and neither begins. */
export const eachOtherStory: Story = {
  name: "each-other",
  about: "A sleeps until B has spoken, and B until A has",
  model: () => smallModel(),
  tasks: [A, B].map((domain) => ({
    name: domain === A ? "A" : "B",
    domain,
    program: function* (guest, notes) {
      while (notes[`spoken ${3 - domain}`] === undefined) {
        yield* sleepOn(eventWord(guest));
      }
      notes[`spoken ${domain}`] = 1;
    },
  })),
};

/** A says what B sleeps for, and wakes nobody. */
export const unspokenStory: Story = {
  ...eachOtherStory,
  name: "unspoken",
  about: "A has spoken and does not tell B, who sleeps until then",
  tasks: eachOtherStory.tasks.map((task) =>
    task.domain === B
      ? task
      : {
          ...task,
          program: function* (_guest, notes) {
            for (let turn = 0; turn < 20; turn++) yield POINT;
            notes["spoken 1"] = 1;
          },
        },
  ),
};

/** Each spins until the other one lets go. */
export const spinningStory: Story = {
  name: "spinning",
  about: "A and B have a lock each, and want the other one's",
  model: () => smallModel(),
  tasks: [A, B].map((domain) => ({
    name: domain === A ? "A" : "B",
    domain,
    program: function* (guest, notes) {
      notes[`lock ${domain}`] = 1;
      while (notes[`lock ${3 - domain}`] !== 0) yield* loadWord(guest.cpu, PAGE * PAGE_SIZE);
      notes[`lock ${domain}`] = 0;
    },
  })),
};

/** B never has enough. */
export const restlessStory: Story = {
  name: "restless",
  about: "B counts, and comes to no end",
  model: () => smallModel(),
  tasks: [
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        for (let count = 0; ; count++) yield* storeWord(guest.cpu, PAGE * PAGE_SIZE, count);
      },
    },
  ],
};

/** A calls until B's one call has returned: a hypervisor that serves whoever called last serves A alone. */
export const busyStory: Story = {
  name: "busy",
  about: "A calls and calls until B's one call has returned",
  model: () => smallModel(),
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest, notes) {
        while (notes.served === undefined) yield* portOp(guest.caller, EVTCHNOP_unmask, 1);
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        yield* portOp(guest.caller, EVTCHNOP_unmask, 1);
        notes.served = 1;
      },
    },
  ],
};

/** Three vCPUs of A write the header of an entry, something else each time, until B's map has returned. */
export const flippingStory: Story = {
  name: "flipping",
  about: "A rewrites unrelated bits of its entry on three vCPUs until B's map has returned",
  model: () => smallModel({ domains: [{}, { vcpus: 3 }, {}] }),
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
    ...[0, 1, 2].map(
      (vcpu): StoryTask => ({
        name: `A.${vcpu}`,
        domain: A,
        vcpu,
        program: function* (guest, notes) {
          let header = GTF_permit_access | (B << 16) | item(UNRELATED_BITS, vcpu);
          // Out of step with the others, so that somebody has written between any two looks.
          if (vcpu === 1) yield POINT;
          for (; notes.mapped === undefined; header ^= FLIPPED_BIT) {
            yield* storeWord(guest.cpu, headerOf(REF), header);
          }
        },
      }),
    ),
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        notes.mapped = (yield* map(guest, A, REF, HOLE)).status;
      },
    },
  ],
  hostile: [A],
};

export const exploreStory = (story: Story, schedules: number): Exploration | undefined =>
  explore(prepareStory(story), { schedules, seed: 1, strategy: "portfolio" });

/** One call of B's. */
export const askingStory: Story = { ...busyStory, name: "asking", tasks: busyStory.tasks.slice(1) };

export const fairRun = (story: Story): StoryRun =>
  runStory(prepareStory(story), { seed: 1, scheduler: roundRobin() });

/** Every L-6 among runs of a story of the catalogue in which A is killed, after whoever it kills by itself. */
export function stuckTeardowns(name: string, schedules: number): readonly string[] {
  const story = storyNamed(name);
  if (story === undefined) return ["no such story"];
  const killers: SlotTask = {
    name: "kill",
    slot: 0,
    isFault: true,
    program: function* (machine, notes) {
      for (const { program } of story.others ?? []) yield* program(machine, notes);
      yield* control(CONTROL_DOMCTL, XEN_DOMCTL_destroydomain, A);
    },
  };
  const prepared = prepareStory({ ...story, others: [killers], mayWait: true });
  const found = new Set<string>();
  for (let run = 0; run < schedules; run++) {
    const { machine } = runStory(prepared, {
      seed: runSeed(1, run),
      scheduler: randomScheduler(),
    });
    for (const text of stuckTeardown(machine.xen)) found.add(text);
  }
  return [...found];
}
