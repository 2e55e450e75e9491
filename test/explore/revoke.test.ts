/** Map, unmap and revoke under many schedules, the whole state recounted after every step of the hypervisor. */
import { expect, test } from "vitest";
import { buildMachine } from "../../explore/machine.ts";
import { randomScheduler } from "../../explore/random.ts";
import { type Outcome, run } from "../../explore/run.ts";
import { audit } from "../../hypervisor/audit.ts";
import { plant } from "./planted.ts";
import { revokeModel, revokePart } from "./revoke-scenario.ts";

const SEEDS = 1000;
const COMMAND = "vitest run test/explore/revoke.test.ts";

interface Engine {
  readonly buildMachine: typeof buildMachine;
  readonly run: typeof run;
  readonly randomScheduler: typeof randomScheduler;
  readonly audit: typeof audit;
  readonly revokeModel: typeof revokeModel;
  readonly revokePart: typeof revokePart;
}

function explore(engine: Engine, seed: number): Outcome {
  const machine = engine.buildMachine(engine.revokeModel(), {
    seed,
    scheduler: engine.randomScheduler(),
    points: true,
    partOf: engine.revokePart,
    audit: engine.audit,
  });
  return engine.run(machine, { command: COMMAND, maxSteps: 20_000 });
}

/** The first seed whose run is not finished, with what was found. */
function firstFailure(engine: Engine, seeds: number): Outcome | undefined {
  for (let seed = 1; seed <= seeds; seed++) {
    const outcome = explore(engine, seed);
    if (outcome.verdict !== "finished") return outcome;
  }
  return undefined;
}

const REAL: Engine = { buildMachine, run, randomScheduler, audit, revokeModel, revokePart };

test("1,000 seeds of map, unmap and revoke end with no violation", () => {
  const failure = firstFailure(REAL, SEEDS);
  expect(failure && [failure.command, ...failure.findings]).toBeUndefined();
});

test("the same seed gives the same trace", () => {
  expect(explore(REAL, 7).traceHash).toBe(explore(REAL, 7).traceHash);
  expect(explore(REAL, 7).traceHash).not.toBe(explore(REAL, 8).traceHash);
});

const PLANTED = [
  {
    name: "reference-before-flush",
    story: "a frame reference dropped before the flush is found",
    finding: /slot \d+ is inside an access to frame \d+, of domain 1/,
    patches: [
      {
        file: "hypervisor/grant-unmap.ts",
        from: "    if (startFlush(xen, caller.slot, caller.domid) > 0) yield GAP_FLUSH;\n    releaseHolds(xen, caller.slot);",
        to: "    releaseHolds(xen, caller.slot);\n    if (startFlush(xen, caller.slot, caller.domid) > 0) yield GAP_FLUSH;",
      },
    ],
  },
  {
    name: "no-flush",
    story: "an unmap that forgets the flush is found",
    finding: /slot \d+ would still reach frame \d+ through gfn 393216, which is not there/,
    patches: [
      {
        file: "hypervisor/grant-unmap.ts",
        from: "    if (startFlush(xen, caller.slot, caller.domid) > 0) yield GAP_FLUSH;\n    releaseHolds(xen, caller.slot);",
        to: "    releaseHolds(xen, caller.slot);",
      },
    ],
  },
];

test.each(PLANTED)("planted: $story", async ({ name, finding, patches }) => {
  const tree = plant(name, patches);
  try {
    const engine: Engine = {
      ...(await tree.load<Pick<Engine, "buildMachine">>("explore/machine.ts")),
      ...(await tree.load<Pick<Engine, "run">>("explore/run.ts")),
      ...(await tree.load<Pick<Engine, "randomScheduler">>("explore/random.ts")),
      ...(await tree.load<Pick<Engine, "audit">>("hypervisor/audit.ts")),
      ...(await tree.load<Pick<Engine, "revokeModel" | "revokePart">>(
        "test/explore/revoke-scenario.ts",
      )),
    };
    const failure = firstFailure(engine, SEEDS);
    expect(failure?.verdict).toBe("violation");
    expect(failure?.findings.join("\n")).toMatch(finding);
  } finally {
    tree.remove();
  }
});
