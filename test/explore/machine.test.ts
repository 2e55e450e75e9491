// What the one-thread engine does with programs that wait, sleep, fault, die or never end.
import { describe, expect, it } from "vitest";
import { loadWord, POINT } from "../../domains/memory.ts";
import { buildMachine } from "../../explore/machine.ts";
import { roundRobin } from "../../explore/round-robin.ts";
import { type Outcome, run, runPart } from "../../explore/run.ts";
import type { Machine, Part } from "../../explore/state.ts";
import { CONTROL_SLOT } from "../../hypervisor/main.ts";
import { raiseEvent } from "../../shared/channel.ts";
import { ACCESS_STEP, LINE, lineOf } from "../../shared/layout.ts";
import { load } from "../../shared/mem.ts";
import {
  CONTROL_VCPU_DIED,
  hypercallTrap,
  type Program,
  setRecord,
  TRAP_BLOCK,
  TRAP_REPORT,
  TRAP_SLEEP,
  type Trap,
} from "../../shared/trap.ts";
import { cpuOf, lostUpdateModel } from "./lost-update.ts";

const part = (name: string, program: Program<unknown>, mustFinish = true): Part => ({
  name,
  program,
  mustFinish,
});

/** A machine whose two guests run the given programs. */
function machineWith(
  one: (machine: Machine) => Program<unknown>,
  two: (machine: Machine) => Program<unknown>,
): Machine {
  return buildMachine(lostUpdateModel(), {
    seed: 1,
    scheduler: roundRobin(),
    points: true,
    partOf: (machine, slot) => {
      if (slot === cpuOf(machine, 1, true).slot) return part("one", one(machine));
      return slot === cpuOf(machine, 2, true).slot ? part("two", two(machine)) : undefined;
    },
  });
}

const go = (machine: Machine, maxSteps = 10_000): Outcome =>
  run(machine, { command: "test", maxSteps });

function* nothing(): Program {
  // A program that is over at once.
}

function* report(value: number): Program {
  yield { kind: TRAP_REPORT, key: "at", value };
}

describe("an explored machine", () => {
  it("lets virtual time jump to the first sleeper when nobody can move", () => {
    function* sleeper(timeMs: number): Program {
      yield { kind: TRAP_SLEEP, timeMs };
      yield* report(timeMs);
    }
    const machine = machineWith(
      () => sleeper(5000),
      () => sleeper(20),
    );
    const outcome = go(machine);
    expect(outcome.verdict).toBe("finished");
    expect(outcome.reports.map(({ value }) => value)).toEqual([20, 5000]);
    expect(machine.clockMs).toBe(5000);
  });

  it("resumes a blocked vCPU when its event word changes", () => {
    function* waiter(machine: Machine): Program<number> {
      const seen = load(
        machine.words,
        lineOf(machine.layout, cpuOf(machine, 1, false).slot) + LINE.EVENT,
      );
      return yield { kind: TRAP_BLOCK, seen };
    }
    function* waker(machine: Machine): Program {
      yield { kind: TRAP_SLEEP, timeMs: 1 };
      raiseEvent(machine.words, machine.layout, cpuOf(machine, 1, false).slot);
    }
    expect(go(machineWith(waiter, waker)).verdict).toBe("finished");
  });

  it("is stuck, with the name of who waits, when a program that must finish waits for ever", () => {
    function* waiter(machine: Machine): Program<number> {
      const seen = load(
        machine.words,
        lineOf(machine.layout, cpuOf(machine, 1, false).slot) + LINE.EVENT,
      );
      return yield { kind: TRAP_BLOCK, seen };
    }
    const outcome = go(machineWith(waiter, nothing));
    expect(outcome.verdict).toBe("stuck");
    expect(outcome.findings).toEqual(["one: waits for ever (blocked)"]);
  });

  it("ends a run that is not over after the bound on steps", () => {
    function* spinner(): Program {
      for (;;) yield POINT;
    }
    const outcome = go(machineWith(spinner, nothing), 500);
    expect(outcome.verdict).toBe("exhausted");
    expect(outcome.steps).toBe(500);
  });

  it("calls an error that nobody's program has thrown a bug, and says where it came from", () => {
    const machine = machineWith(nothing, nothing);
    const { scheduler } = machine.options;
    scheduler.choose = () => {
      throw new TypeError("planted");
    };
    const { verdict, findings } = go(machine);
    expect(verdict).toBe("bug");
    expect(findings[0]).toMatch(/^TypeError: planted\n +at /);
  });

  it("stops the domain whose program faults, and the other one goes on", () => {
    function* later(): Program {
      yield { kind: TRAP_SLEEP, timeMs: 10 };
      yield* report(1);
    }
    const machine = machineWith((inside) => loadWord(cpuOf(inside, 1, true), 0x7000_0000), later);
    const outcome = go(machine);
    expect(outcome.verdict).toBe("finished");
    expect(outcome.deaths).toMatchObject([{ name: "one", state: "oops" }]);
    expect(String(outcome.deaths[0]?.error)).toContain("0x70000000");
    expect(outcome.reports).toHaveLength(1);
  });
});

describe("a vCPU that is killed by a control record", () => {
  function* dieAfter(machine: Machine, domid: number): Program<number> {
    yield { kind: TRAP_SLEEP, timeMs: 1 };
    const trap = hypercallTrap();
    setRecord(trap.record, CONTROL_VCPU_DIED, [cpuOf(machine, domid, false).slot]);
    return yield trap;
  }

  it("leaves no access open, does not run its finally blocks, and gives its memory back", () => {
    let cleanedUp = false;
    function* victim(machine: Machine): Generator<Trap, void, number> {
      const cpu = cpuOf(machine, 1, false);
      try {
        cpu.mmu.open(0x40010, 1);
        for (;;) yield { kind: TRAP_SLEEP, timeMs: 1000 };
      } finally {
        cleanedUp = true;
      }
    }
    const machine = machineWith(victim, nothing);
    const { slot } = cpuOf(machine, 1, false);
    runPart(machine, CONTROL_SLOT, part("control", dieAfter(machine, 1)));
    const outcome = go(machine);
    expect(outcome.verdict).toBe("finished");
    expect(outcome.deaths).toMatchObject([{ slot, name: "one", state: "killed" }]);
    expect(cleanedUp).toBe(false);
    expect(load(machine.words, lineOf(machine.layout, slot) + LINE.ACCESS) & ACCESS_STEP).toBe(0);
  });
});
