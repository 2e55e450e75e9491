// A backend process that dies in every state of gntdev: the granter gets its pages back, on both engines.
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { DEATHS } from "../../domains/drivers/user-back.ts";

const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));

interface Row {
  readonly death: string;
  readonly refused: number;
  readonly left: number;
  readonly leaked: string;
  readonly sound: boolean;
}

/** The rows of one run, one a death. */
function rowsOf(...options: readonly string[]): readonly Row[] {
  const args = [MAIN, "run", "user-space", "--json", "--no-progress", ...options];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
  expect(status, stderr).toBe(0);
  return JSON.parse(stdout).variants;
}

describe("a process that dies with grants", () => {
  const deaths = Object.keys(DEATHS);

  test.each([
    ["threads", "1"],
    ["explore", "1"],
    ["explore", "2"],
  ])("leaves nothing behind, in any state (%s, seed %s)", (engine, seed) => {
    const rows = rowsOf("--engine", engine, "--seed", seed);
    expect(rows.map(({ death }) => death)).toEqual(deaths);
    for (const { death, left, leaked, sound } of rows) {
      expect({ death, left, leaked, sound }).toEqual({ death, left: 0, leaked: "", sound: true });
    }
    const held = rows.filter(({ refused }) => refused > 0).map(({ death }) => death);
    expect(held).toEqual(["forked", "page in use", "importer attached", "waiting for release"]);
  });
});
