// Every invariant has a check, and a bug that trips it: the table of docs/explorer.md, held to the sources.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { INVARIANT_IDS } from "../../explore/checks.ts";
import { MUTANTS } from "../../explore/mutants/catalogue.ts";
import { STORIES } from "../../explore/stories/catalogue.ts";
import { INVARIANT_ROWS } from "./invariant-rows.ts";

const ROOT = join(import.meta.dirname, "../..");
const sources = ["explore", "explore/stories", "hypervisor"]
  .flatMap((folder) =>
    readdirSync(join(ROOT, folder))
      .filter((file) => file.endsWith(".ts"))
      .map((file) => readFileSync(join(ROOT, folder, file), "utf8")),
  )
  .join("\n");

describe("the table of invariants", () => {
  it("has each invariant of the specification once, I-01 to I-43, each with its mutant", () => {
    const ids = Array.from({ length: 43 }, (_, i) => `I-${String(i + 1).padStart(2, "0")}`);
    expect(INVARIANT_ROWS.map(({ id }) => id)).toEqual(ids);
  });

  it.each(INVARIANT_ROWS)("$id is among the checks that may report $mutant", ({ id, mutant }) => {
    expect(MUTANTS.find((one) => one.id === mutant)?.caughtBy).toContain(id);
  });

  it("names functions that are there, and stories that are there", () => {
    const all = INVARIANT_ROWS.map(({ seenBy }) => seenBy).join(";");
    const functions = [...all.matchAll(/`(\w+)`/g)].map(([, name = ""]) => name);
    expect(functions.filter((name) => !new RegExp(`\\b${name}\\b`).test(sources))).toEqual([]);
    const names = [...all.matchAll(/\bstor(?:y|ies) ([a-z-]+(?:, [a-z-]+)*)/g)]
      .flatMap(([, list = ""]) => list.split(", "))
      .filter((name) => !STORIES.some((story) => story.name === name));
    expect(names).toEqual([]);
  });

  it("names each function of the audit in the row of the number that it reports", () => {
    const misplaced = INVARIANT_ROWS.flatMap(({ id, seenBy }) =>
      [...seenBy.matchAll(/`(\w+)`/g)]
        .map(([, name = ""]) => name)
        .filter((name) => name !== "p2mEntries" && (INVARIANT_IDS[name] ?? id) !== id),
    );
    expect(misplaced).toEqual([]);
  });
});
