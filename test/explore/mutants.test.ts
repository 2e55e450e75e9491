// Bugs of the past, put back into the sources: each must be found within its budget, by a check that its row names.
import { describe, expect, it } from "vitest";
import { MUTANTS, OUT_OF_REACH } from "../../explore/mutants/catalogue.ts";
import type { Mutant } from "../../explore/mutants/mutant.ts";
import { loadMutated, patched } from "../../toolstack/mutant-hook.ts";
import { runMutant } from "../../toolstack/mutant-task.ts";

/** `gfn2mfn explore --mutants` takes 20. */
const SEEDS = 3;

describe("the catalogue of mutants", () => {
  it.each(MUTANTS.map((mutant) => [mutant.id, mutant.name] as const))(
    "%s, %s, is found within its budget",
    async (id) => {
      const result = await runMutant({ id, seeds: SEEDS });
      expect(result.others).toEqual([]);
      expect(result).toMatchObject({ found: true, replayed: SEEDS });
    },
  );

  it("names each row of the 62 once at most", () => {
    const ids = [...MUTANTS, ...OUT_OF_REACH].map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
    expect(ids.every((id) => /^M[0-6]\d$/.test(id))).toBe(true);
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
