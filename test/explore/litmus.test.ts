// The memory model: what the simulated memories show and what they never show, and real threads beside them.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Litmus, load, store } from "../../explore/litmus.ts";
import { litmusTests } from "../../explore/litmus-catalogue.ts";
import { outcomesOf } from "../../explore/litmus-run.ts";
import { weakMemory } from "../../explore/weak-memory.ts";
import { LitmusThreads, simulated } from "../../toolstack/litmus.ts";

const tests = [...litmusTests().entries()].map(
  ([index, litmus]) => [`${litmus.name}, ${litmus.accesses}`, litmus, index] as const,
);

/** Enough to meet often; the command runs 300,000. */
const ITERATIONS = 10_000;

describe.each(["sc", "tso", "relaxed"] as const)("every run in %s memory", (mode) => {
  it.each(tests.filter(([, litmus]) => litmus.expected[mode] !== undefined))(
    "%s ends as the language says",
    (_, litmus) => {
      expect(simulated(litmus, mode)).toMatchObject({ agrees: true });
    },
  );
});

describe("real threads", () => {
  let threads: LitmusThreads;
  beforeAll(() => {
    threads = new LitmusThreads();
  });
  afterAll(() => threads.close());

  it.each(tests)("%s ends as the language says", async (_, _litmus, index) => {
    const row = await threads.run(index, ITERATIONS);
    expect(row).toMatchObject({ agrees: true });
    expect(row.runs).toBeGreaterThanOrEqual(ITERATIONS);
  });
});

describe("the judge of a litmus test", () => {
  const sb = tests[0]?.[1] as Litmus;

  it("fails a forbidden outcome that was seen", () => {
    const wrong = { ...sb, expected: { ...sb.expected, relaxed: "never" as const } };
    expect(simulated(wrong, "relaxed").agrees).toBe(false);
  });

  it("fails an outcome that must be seen and was not", () => {
    const wrong = { ...sb, expected: { ...sb.expected, sc: "seen" as const } };
    expect(simulated(wrong, "sc").agrees).toBe(false);
  });

  it("fails a race that was not reported, and one reported where there is none", () => {
    expect(simulated({ ...sb, races: false }, "sc").agrees).toBe(false);
    const atomic = tests[1]?.[1] as Litmus;
    expect(simulated({ ...atomic, races: true }, "sc").agrees).toBe(false);
  });

  it("finds the store buffering that plain accesses to a ring's words allow", () => {
    const ring = tests.find(([name]) => name.startsWith("RING-SB"))?.[1] as Litmus;
    const plain: Litmus = {
      ...ring,
      tasks: [
        [store(0, 1, "plain"), load(1, "plain")],
        [store(1, 1, "plain"), load(0, "plain")],
      ],
      isSeen: ([a, b]) => a?.[0] === 0 && b?.[0] === 0,
    };
    expect(outcomesOf(plain, "tso")).toMatchObject({ raced: true });
    expect(outcomesOf(plain, "tso").hits).toBeGreaterThan(0);
  });
});

describe("the simulated memory", () => {
  const relaxed = (choices: number[], cells = [0]) =>
    weakMemory({ mode: "relaxed", tasks: 2, cells }, () => choices.shift() ?? 0);

  it("never lets a task see an older store than it has seen", () => {
    const memory = relaxed([0, 1]);
    memory.store(0, 0, 1, "plain");
    memory.drain(0, 0);
    expect([memory.load(1, 0, "plain"), memory.load(1, 0, "plain")]).toEqual([1, 1]);
  });

  it("hides what a publication has ordered before the load", () => {
    const memory = relaxed([1, 1], [0, 0]);
    memory.store(0, 0, 1, "plain");
    memory.store(0, 1, 1, "atomic");
    expect(memory.load(1, 1, "atomic")).toBe(1);
    expect(memory.load(1, 0, "plain")).toBe(1);
    expect(memory.races).toEqual([]);
  });

  it("learns nothing from a plain store of the flag", () => {
    const memory = relaxed([1], [0, 0]);
    memory.store(0, 0, 1, "plain");
    memory.store(0, 1, 1, "plain");
    memory.drain(0, 1);
    memory.drain(0, 0);
    expect(memory.load(1, 1, "atomic")).toBe(1);
    expect(memory.load(1, 0, "plain")).toBe(0);
    expect(memory.races).not.toEqual([]);
  });

  it("keeps the last eight stores of a location", () => {
    const memory = relaxed([7]);
    for (let value = 1; value <= 20; value++) {
      memory.store(0, 0, value, "plain");
      memory.drain(0, 0);
    }
    expect(memory.load(1, 0, "plain")).toBe(13);
  });

  it("reports no race on a cell that was declared racy", () => {
    const memory = weakMemory({ mode: "sc", tasks: 2, cells: [0], racy: new Set([0]) }, () => 0);
    memory.store(0, 0, 1, "plain");
    memory.load(1, 0, "plain");
    expect(memory.races).toEqual([]);
  });
});
