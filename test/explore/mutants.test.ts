// Bugs of the past, put back into the sources: each must be found within its budget, by a check that its row names.
import { describe, expect, it } from "vitest";
import { INVARIANT_IDS } from "../../explore/checks.ts";
import { MUTANTS, OUT_OF_REACH } from "../../explore/mutants/catalogue.ts";
import type { Mutant } from "../../explore/mutants/mutant.ts";
import { GUEST_INVARIANTS, INVARIANTS } from "../../hypervisor/audit.ts";
import { loadMutated, patched } from "../../toolstack/mutant-hook.ts";
import { runMutant } from "../../toolstack/mutant-task.ts";
import { INVARIANT_ROWS } from "./invariant-rows.ts";

/** `gfn2mfn explore --mutants` takes 20. A deep one takes thousands of schedules a seed. */
const seedsOf = ({ depth }: Mutant): number => (depth <= 2 ? 3 : 1);

describe("the catalogue of mutants", () => {
  it.each(MUTANTS.map((mutant) => [mutant.id, mutant.name, mutant] as const))(
    "%s, %s, is found within its budget",
    async (id, _, mutant) => {
      const seeds = seedsOf(mutant);
      const result = await runMutant({ id, seeds });
      expect(result.others).toEqual([]);
      expect(result).toMatchObject({ found: true, replayed: seeds });
      // Whoever stands for an invariant in the table of docs/explorer.md is seen by that one.
      const stands = INVARIANT_ROWS.filter(({ mutant: row }) => row === id);
      expect(stands.filter((row) => row.id !== result.check)).toEqual([]);
    },
  );

  it("names each of its 62 rows once, and those that follow them once", () => {
    const ids = [...MUTANTS, ...OUT_OF_REACH].map(({ id }) => id);
    const rows = Array.from({ length: 62 }, (_, i) => `M${String(i + 1).padStart(2, "0")}`);
    expect(ids.toSorted().slice(0, 62)).toEqual(rows);
    expect(new Set(ids).size).toBe(ids.length);
  });

  it("has an id for each invariant of the audit", () => {
    const names = [...Object.keys(INVARIANTS), ...Object.keys(GUEST_INVARIANTS)];
    expect(names.filter((name) => INVARIANT_IDS[name] === undefined)).toEqual([]);
  });
});

describe("a patch", () => {
  const broken = (patch: Mutant["patches"][number]): Mutant => ({
    id: "M99",
    name: "none",
    origin: "none",
    mechanism: "none",
    patches: [patch],
    story: "revoke",
    depth: 1,
    caughtBy: [],
  });

  it("that no longer applies is an error that names it", async () => {
    const mutant = broken({ file: "hypervisor/grant-map.ts", from: "not there", to: "" });
    await expect(loadMutated(mutant, "explore/named.ts")).rejects.toThrow(
      /M99.*hypervisor\/grant-map\.ts.*not there/,
    );
  });

  it("that stands in its file twice is none", () => {
    const patch = { file: "x.ts", from: "a", to: "b" };
    expect(() => patched("M99", "a a", patch)).toThrow(/exactly once/);
    expect(patched("M99", "a", patch)).toBe("b");
  });

  it("of a file that nothing loads is an error", async () => {
    const mutant = { ...broken({ file: "cli/main.ts", from: "x", to: "y" }), id: "M98" };
    await expect(loadMutated(mutant, "explore/named.ts")).rejects.toThrow(/nothing loads cli/);
  });
});
