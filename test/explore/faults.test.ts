// Faults let loose on the focused stories: whatever is killed, refused, lost or spoilt, and wherever, the machine stays sound and
// everybody else gets on; and each fault comes to something somewhere.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { portOp } from "../../domains/hypercalls.ts";
import { storeWord } from "../../domains/memory.ts";
import { explore } from "../../explore/exploration.ts";
import { FAULTS } from "../../explore/fault-catalogue.ts";
import { type Fault, faultsOf, withFault, withSwarm } from "../../explore/faults.ts";
import { MUTANTS } from "../../explore/mutants/catalogue.ts";
import type { Mutant } from "../../explore/mutants/mutant.ts";
import { openStory } from "../../explore/named.ts";
import { roundRobin } from "../../explore/round-robin.ts";
import { reconnectStory } from "../../explore/stories/backend.ts";
import { STORIES, storyNamed } from "../../explore/stories/catalogue.ts";
import { sendStory } from "../../explore/stories/events.ts";
import { A, RAM } from "../../explore/stories/machines.ts";
import { prepareStory, runStory, type Story, type StoryTask } from "../../explore/story.ts";
import { EVTCHNOP_send } from "../../shared/abi/event-channel.ts";
import { RING_REQ_PROD } from "../../shared/abi/ring.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { buildOf } from "../../toolstack/build-hash.ts";
import { loadMutated, openMutated } from "../../toolstack/mutant-hook.ts";
import { findingsWith } from "./fault-stories.ts";

/** Runs of one fault of one story: all of them, but where a guest has many ways to misbehave. */
const RUNS = { quiet: 1_000, fatal: 1_000, refused: 1_000, hostile: 30 } as const;
/** A story takes every death, and of the other faults one in so many, another one than its neighbours: --faults takes all. */
const TURNS = 4;

const ROOT = join(import.meta.dirname, "..", "..");

/** By word, `kill` of `kill A`: runs in which the fault came to something. */
const fired = new Map<string, number>();

function letLoose(story: Story, fault: Fault): void {
  const prepared = prepareStory(withFault(story, fault));
  const schedules = RUNS[fault.manner];
  const found = explore(prepared, { schedules, seed: 1, strategy: "faults" });
  expect([fault.name, found?.failure?.findings]).toEqual([fault.name, undefined]);
  for (const row of fault.ids) {
    fired.set(row, (fired.get(row) ?? 0) + (found?.fired[fault.name] ?? 0));
  }
}

describe.each(STORIES.map((story, turn) => [story.name, story, turn] as const))(
  "%s",
  (_, story, turn) => {
    const faults = faultsOf(story).filter(
      ({ manner }, i) => manner === "fatal" || (i + turn) % TURNS === 0,
    );

    it("holds with faults at points of the calm run", () => {
      for (const fault of faults) letLoose(story, fault);
    });

    it("holds with all its faults switched on and off", () => {
      const found = explore(prepareStory(withSwarm(story)), {
        schedules: 100,
        seed: 1,
        strategy: "portfolio",
      });
      expect(found?.failure?.findings).toBeUndefined();
    });
  },
);

describe("the catalogue of faults", () => {
  const rows = Array.from({ length: 35 }, (_, i) => `F-${String(i + 1).padStart(2, "0")}`);

  it("has each of the 35 rows once", () => {
    expect(FAULTS.map(({ id }) => id)).toEqual(rows);
  });

  it("knows every fault that a story has room for", () => {
    const used = new Set(STORIES.flatMap((story) => faultsOf(story).flatMap(({ ids }) => ids)));
    const words = STORIES.flatMap((story) => faultsOf(story).map(({ name }) => name));
    for (const { id, how, where } of FAULTS) {
      expect([id, used.has(id)]).toEqual([id, how === "fault" || id === "F-31"]);
      if (how !== "fault") continue;
      for (const word of where)
        expect([word, words.some((one) => one.startsWith(word))]).toEqual([word, true]);
    }
  });

  it("points to stories and tests that are there", () => {
    for (const { how, where } of FAULTS) {
      if (how === "story")
        expect(where.filter((name) => storyNamed(name) === undefined)).toEqual([]);
      if (how === "test") expect(where.filter((path) => !existsSync(join(ROOT, path)))).toEqual([]);
    }
  });

  it("has no fault that never came to anything", () => {
    const put = FAULTS.filter(({ how }) => how === "fault").map(({ id }) => id);
    const isQuiet = (id: string): boolean => (fired.get(id) ?? 0) === 0;
    // The few stories in which it comes to something may not have had their turn.
    for (const story of STORIES) {
      for (const fault of faultsOf(story)) if (fault.ids.some(isQuiet)) letLoose(story, fault);
    }
    expect(put.filter(isQuiet)).toEqual([]);
  });
});

describe("a failing allocation", () => {
  const leak: Mutant = {
    id: "leak",
    name: "none",
    origin: "none",
    mechanism: "a map whose table page cannot be had keeps its reference on the page",
    patches: [
      {
        file: "hypervisor/grant-map.ts",
        from: "      dropMappingReferences(xen, caller.domid, granter, frame, flags);\n    }\n    putPage(xen, frame);\n",
        to: "      dropMappingReferences(xen, caller.domid, granter, frame, flags);\n    }\n",
      },
    ],
    story: "partial-unmap",
    depth: 1,
    caughtBy: [],
  };

  it("finds what is not undone, and its replay names it", async () => {
    const plain = await openMutated(leak, "partial-unmap");
    const open = plain.open({ schedules: 100, seed: 1, strategy: "portfolio" });
    open?.go(100);
    expect(open?.result().failure).toBeUndefined();
    const story = await openMutated(leak, "partial-unmap + fail allocation");
    const faulty = story.open({ schedules: 1_000, seed: 1, strategy: "faults" });
    faulty?.go(1_000);
    const result = faulty?.result();
    expect(result?.failure?.id).toBe("I-04");
    const told = result && story.tell(story.finish(result), buildOf([]));
    expect(told?.file.faults).toEqual([{ ids: ["F-11"], name: "fail allocation" }]);
    const file = JSON.parse(JSON.stringify(told?.file));
    expect(story.replay(file)).toMatchObject({ divergence: undefined, again: true });
  });
});

describe("a batch that lets go after each element", () => {
  const lost = MUTANTS.find(({ id }) => id === "M19");

  it("shows M19 in a batch of three, which nothing else does", async () => {
    if (lost === undefined) throw new Error("M19 is in the catalogue");
    const entry = "test/explore/fault-stories.ts";
    const { findingsWith: mutated } = await loadMutated<typeof import("./fault-stories.ts")>(
      lost,
      entry,
    );
    expect(mutated()).toEqual([]);
    expect(mutated("let go always")).toEqual(["I-31: the last piece of a batch was not copied"]);
    expect(findingsWith("let go always")).toEqual([]);
  });
});

describe("a ring whose index lies", () => {
  it("is given up by the backend of a story, which comes to rest", () => {
    const [, back] = reconnectStory.tasks;
    const front: StoryTask = {
      name: "A",
      domain: A,
      program: function* (guest) {
        yield* storeWord(guest.cpu, (RAM + 10) * PAGE_SIZE + RING_REQ_PROD, 1_000_000);
        yield* portOp(guest.caller, EVTCHNOP_send, 1);
      },
    };
    const { sometimes: _sometimes, ...story } = reconnectStory;
    const tasks = back === undefined ? [] : [front, back];
    const found = explore(prepareStory({ ...story, tasks, mayWait: true }), {
      schedules: 300,
      seed: 1,
      strategy: "portfolio",
    });
    expect(found?.failure?.findings).toBeUndefined();
  });
});

describe("a lost wake-up", () => {
  it("is made up for when the sleeper is woken to look again", () => {
    const story = openStory("send + lose wake-up of A");
    const open = story.open({ schedules: 1_000, seed: 1, strategy: "faults" });
    open?.go(1_000);
    expect(open?.result()).toMatchObject({ failure: undefined, finished: true });
    expect(open?.result().fired["lose wake-up of A"]).toBeGreaterThan(0);
  });

  it("is made up for however many are lost, because none is lost to the watchdog", () => {
    const prepared = prepareStory(sendStory);
    const { outcome, machine } = runStory(prepared, {
      seed: 1,
      scheduler: roundRobin(),
      watch: (watched) => {
        const step = (): void => {
          for (const actor of watched.actors) if (actor !== undefined) actor.losesWakeup = true;
        };
        watched.log = { step };
      },
    });
    expect(outcome.verdict).toBe("finished");
    expect(machine.lostWakeups).toBeGreaterThan(0);
  });
});
