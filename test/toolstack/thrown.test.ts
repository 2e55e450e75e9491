import { describe, expect, test } from "vitest";
import { EmulatorBug } from "../../shared/assert.ts";
import { ScenarioError } from "../../shared/scenario.ts";
import { LoadError, SetupError, UsageError } from "../../toolstack/exit-codes.ts";
import { errorOf, thrownOf } from "../../toolstack/thrown.ts";

const carried = (error: unknown): Error => errorOf(structuredClone(thrownOf(error)));

describe("an error that has crossed from another thread", () => {
  test.each([EmulatorBug, LoadError, SetupError, UsageError])(
    "is still of its class, with its message and its stack",
    (type) => {
      const error = new type("planted");
      const other = carried(error);
      expect(other.constructor).toBe(type);
      expect([other.message, other.stack]).toEqual(["planted", error.stack]);
    },
  );
  test("still names the field that a scenario spelled wrong", () => {
    const other = carried(new ScenarioError("machine.memory", "too small"));
    expect(other).toMatchObject({ path: "machine.memory", message: "machine.memory: too small" });
    expect(other).toBeInstanceOf(ScenarioError);
  });
  test("keeps its words if nobody knows its class, or if it is no error", () => {
    expect(carried(new RangeError("planted")).stack).toContain("RangeError: planted");
    expect(carried("planted").message).toBe("planted");
  });
});
