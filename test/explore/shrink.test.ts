// Shrinking: what a failure does not need is left out, and nothing else.
import { describe, expect, it } from "vitest";
import { explore } from "../../explore/exploration.ts";
import { type Guest, populate, release, wrong } from "../../explore/raw-guest.ts";
import { replaySchedule, type Shrunk, shrink } from "../../explore/shrink.ts";
import { A, B, RAM, smallModel } from "../../explore/stories/machines.ts";
import { prepareStory, type Story } from "../../explore/story.ts";
import { addDomainField } from "../../hypervisor/xen.ts";
import { DOM } from "../../shared/layout.ts";

const CALLS = 5;

/** A releases pages and B comes and goes; what A has done after its third call is wrong. */
const storyWhere = (isWrong: (guest: Guest) => void, judge?: Story["judge"]): Story => ({
  name: "planted",
  about: "a fault after the third of A's calls, which needs none of the others",
  model: () => smallModel(),
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest) {
        for (let call = 1; call <= CALLS; call++) {
          const released = yield* release(guest, RAM + call);
          if (call === 3 && released === 1) isWrong(guest);
        }
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        yield* release(guest, RAM + 1);
        yield* populate(guest, RAM + 1);
      },
    },
  ],
  ...(judge === undefined ? {} : { judge }),
});

function shrunkOf(story: Story): Shrunk {
  const prepared = prepareStory(story);
  const failure = explore(prepared, { schedules: 100, seed: 3, strategy: "random" })?.failure;
  if (failure === undefined) throw new Error("the planted fault is found");
  const shrunk = shrink(prepared, failure);
  if (shrunk === undefined) throw new Error("the failure is seen again");
  const { outcome } = replaySchedule(prepared, shrunk, failure.seed, failure.everyStep).run;
  expect(outcome).toMatchObject({ traceHash: shrunk.traceHash, findings: shrunk.findings });
  return shrunk;
}

const miscount = ({ machine }: Guest): void => void addDomainField(machine.xen, B, DOM.MAPPINGS, 1);

describe("a failure that the checks of every run see", () => {
  it("loses the tasks, the calls and the switches that it does not need", () => {
    const { without, deviations } = shrunkOf(storyWhere(miscount));
    expect(without.toSorted()).toEqual(["A#1", "A#2", "A#4", "A#5", "B"]);
    expect(deviations).toEqual([]);
  });
});

describe("a failure that a program claims", () => {
  it("keeps the calls, for a claim holds for whoever makes them all", () => {
    const claim = (guest: Guest): void => wrong(guest, "I-02", "planted");
    expect(shrunkOf(storyWhere(claim)).without).toEqual(["B"]);
  });
});

describe("a failure that the story claims at its end", () => {
  it("keeps the tasks too, for it holds when everybody takes part", () => {
    const judge = (): readonly string[] => ["I-42: planted"];
    expect(shrunkOf(storyWhere(() => {}, judge)).without).toEqual([]);
  });
});
