// The guests of focused stories: what one has in its hands is its own, whoever had its slot before.
import { expect, it } from "vitest";
import { kmalloc } from "../../domains/fault-points.ts";
import type { Caller } from "../../domains/kernel.ts";
import { buildMachine } from "../../explore/machine.ts";
import { argumentPage, rawGuest } from "../../explore/raw-guest.ts";
import { roundRobin } from "../../explore/round-robin.ts";
import { A, smallModel } from "../../explore/stories/machines.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";

const DOM0 = 0;

it("a guest on a slot that another domain had in an earlier run makes its calls from pages of its own", () => {
  const machine = buildMachine(smallModel(), {
    seed: 1,
    scheduler: roundRobin(),
    points: true,
    partOf: () => undefined,
  });
  const callers: (Caller | undefined)[] = [];
  const { slot } = rawGuest(machine, A, 0, callers);
  const former = rawGuest(machine, DOM0, 0, []).caller;
  kmalloc(former.faults);
  callers[slot] = former;
  const { cpu, caller } = rawGuest(machine, A, 0, callers);
  expect(cpu.boot.domid).toBe(A);
  expect(caller.arguments.gaddr).toBe(argumentPage(machine, A, 0) * PAGE_SIZE);
  expect(caller.faults).toMatchObject({ passed: 0, objects: 0 });
  // Only the room is the former one's.
  expect(caller.arguments.bytes).toBe(former.arguments.bytes);
});
