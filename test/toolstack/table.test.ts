import { stripVTControlCharacters } from "node:util";
import { expect, test } from "vitest";
import type { ResultTable } from "../../shared/scenario.ts";
import { worstOf } from "../../toolstack/exit-codes.ts";
import { alignTable, paintFor, resultLines } from "../../toolstack/table.ts";

const plain = paintFor("never", process.stdout);
const painted = paintFor("always", process.stdout);

test("columns are as wide as their widest cell, numbers to the right", () => {
  expect(
    alignTable(
      ["name", "n"],
      [
        ["a", "10"],
        ["longer", "7"],
      ],
      ["left", "right"],
    ),
  ).toEqual(["name     n", "a       10", "longer   7"]);
});

const table: ResultTable = {
  columns: [
    { title: "variant", text: (row) => String(row.name) },
    {
      title: "verdict",
      text: (row) => String(row.verdict),
      mark: (row) => (row.ok === true ? "good" : "bad"),
    },
  ],
  heading: (row) => String(row.group),
};
const rows = [
  { name: "one", verdict: "right frame", ok: true, group: "dom0" },
  { name: "two", verdict: "fault", ok: false, group: "driver" },
  { name: "three", verdict: "right frame", ok: true, group: "dom0" },
];

test("rows of one heading stand together, each with a sign and a word", () => {
  expect(resultLines(table, rows, plain)).toEqual([
    "variant  verdict",
    "",
    "dom0",
    "one      ✓ right frame",
    "three    ✓ right frame",
    "",
    "driver",
    "two      ✗ fault",
  ]);
});

test("colours change no width", () => {
  const stripped = resultLines(table, rows, painted).map(stripVTControlCharacters);
  expect(stripped).toEqual(resultLines(table, rows, plain));
});

test("the worst exit code wins: 130, then 1, 6, 5, 4, 3, 0", () => {
  expect(worstOf([0, 5, 6, 4])).toBe(6);
  expect(worstOf([6, 1])).toBe(1);
  expect(worstOf([1, 130])).toBe(130);
  expect(worstOf([3, 4])).toBe(4);
  expect(worstOf([])).toBe(0);
});
