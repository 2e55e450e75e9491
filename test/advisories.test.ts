// Every advisory of the list beside the project is told by a test or has a row in docs/FIDELITY.md that says why not.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

const ROOT = join(import.meta.dirname, "..");
const LIST = join(ROOT, "..", "shared", "spec", "advisories.md");

/** Numbers in the first column of the tables of a section of a document, one or several a row. */
function firstColumns(text: string, heading: RegExp): readonly number[] {
  return text
    .split(/^## /m)
    .filter((section) => heading.test(section))
    .flatMap((section) => [...section.matchAll(/^\| ([\d, /]+) \|/gm)])
    .flatMap((row) => (row[1] ?? "").split(/[, /]+/).map(Number));
}

const namesIn = (text: string): readonly number[] =>
  [...text.matchAll(/XSA-(\d+)/g)].map((name) => Number(name[1]));

/** Numbers of the advisories that are not covered. */
function uncovered(list: string, tests: string, fidelity: string): readonly number[] {
  const covered = new Set([...namesIn(tests), ...firstColumns(fidelity, /^Advisories/)]);
  return [...new Set(firstColumns(list, /./))].filter((number) => !covered.has(number));
}

function testTexts(): string {
  const folder = join(ROOT, "test");
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts") && name !== "advisories.test.ts")
    .map((name) => readFileSync(join(folder, name), "utf8"))
    .join("\n");
}

test("an advisory that is neither told nor explained is named", () => {
  const list = "## A\n| XSA | commit |\n|---|---|\n| 7 | x |\n| 8/9 | y |\n| 10 | z |\n";
  const fidelity = "## Other\n| 10 | no |\n## Advisories about it\n| 8, 12 | why |\n";
  expect(uncovered(list, 'test("XSA-7: it", x)', fidelity)).toEqual([9, 10]);
});

const isThere = existsSync(LIST);
test.skipIf(!isThere)(
  isThere
    ? "every advisory of the list"
    : `every advisory of the list (skipped: the list is not beside the project)`,
  () => {
    const fidelity = readFileSync(join(ROOT, "docs", "FIDELITY.md"), "utf8");
    const list = readFileSync(LIST, "utf8");
    expect(firstColumns(list, /./).length).toBeGreaterThan(80);
    expect(uncovered(list, testTexts(), fidelity)).toEqual([]);
  },
);
