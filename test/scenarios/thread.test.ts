/**
 * The questions of the thread: every variant of every scenario in the explorer, with the table that docs/thread.md quotes;
 * a few of them on threads.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import type { EngineName } from "../../toolstack/engine.ts";
import { loadScenario, scenarioNames } from "../../toolstack/load.ts";
import { prepare } from "../../toolstack/prepare.ts";
import { runVariants, type VariantResult } from "../../toolstack/run.ts";
import { resultLines } from "../../toolstack/table.ts";

const DOC = readFileSync(new URL("../../docs/thread.md", import.meta.url), "utf8");
const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));
const NAMES = scenarioNames().filter((name) => name.startsWith("thread-"));

/** What the document shows under `$ npm run -s gfn2mfn -- run <name> --engine explore`. */
function quoted(name: string): string | undefined {
  const command = `$ npm run -s gfn2mfn -- run ${name} --engine explore\n`;
  const from = DOC.indexOf(command);
  return from < 0 ? undefined : DOC.slice(from + command.length).split("```")[0];
}

async function runAll(
  name: string,
  engine: EngineName,
  variants: readonly string[] = [],
): Promise<readonly VariantResult[]> {
  const loaded = await loadScenario(name);
  const prepared = await prepare(loaded, { seed: 1, settings: [], variants });
  const control = { engine, timeoutMs: 60_000, signal: new AbortController().signal };
  function started(): void {
    // Nobody watches.
  }
  return await runVariants(prepared, control, { started, progress: started, ended: started });
}

const problemsOf = (results: readonly VariantResult[]) =>
  results.flatMap(({ variant, problems }) => problems.map((problem) => `${variant}: ${problem}`));

describe("in the explorer", () => {
  test.each(NAMES)("%s comes out as it says, and as docs/thread.md quotes it", async (name) => {
    const results = await runAll(name, "explore");
    expect(problemsOf(results)).toEqual([]);
    const { scenario } = await loadScenario(name);
    const rows = results.flatMap(({ row }) => (row === undefined ? [] : [row]));
    const { table, moral } = scenario;
    if (table === undefined || moral === undefined) throw new Error("no table, or no moral");
    const lines = resultLines(table, rows, (_format, text) => text);
    const total = `✓ ${rows.length} of ${rows.length} as expected`;
    expect(quoted(name)).toBe([...lines, "", moral, "", total, ""].join("\n"));
  });
});

describe("on threads", () => {
  test.each([
    ["thread-cost", ["driver/ballooned/given back", "dom0/unpopulated/held"]],
    ["thread-contiguous", ["driver/iommu/contiguous/merged", "dom0/bare/contiguous/merged/small"]],
    ["thread-domain", ["dom0/bare/dma-direct by mistake", "driver/iommu"]],
    ["thread-zero-copy", ["the frontend maps the backend's RAM", "copied by GNTTABOP_copy"]],
  ] as const)("%s comes out the same", async (name, variants) => {
    const threads = await runAll(name, "threads", variants);
    expect(problemsOf(threads)).toEqual([]);
    expect(threads.length).toBe(variants.length);
  });
});

test("a row that does not say what its variant wants makes the run fail", async () => {
  const loaded = await loadScenario("thread-half-way");
  const [first] = loaded.scenario.variants ?? [];
  const wrong = { ...first, name: "wrong", facts: { ...first?.facts, "wanted.errno": 0 } };
  const scenario = { ...loaded.scenario, variants: [wrong] };
  const prepared = await prepare({ ...loaded, scenario }, { seed: 1, settings: [], variants: [] });
  const control = {
    engine: "explore",
    timeoutMs: 60_000,
    signal: new AbortController().signal,
  } as const;
  function nothing(): void {
    // Nobody watches.
  }
  const results = await runVariants(prepared, control, {
    started: nothing,
    progress: nothing,
    ended: nothing,
  });
  expect(problemsOf(results)).toEqual(["wrong: does not hold: errno is 0; got -12"]);
});

test("the command line prints what the document quotes, and lists the scenarios under their theme", () => {
  const call = (...args: readonly string[]) =>
    spawnSync(process.execPath, [MAIN, ...args], { encoding: "utf8" }).stdout;
  const run = [
    "run",
    "thread-half-way",
    "--engine",
    "explore",
    "--no-progress",
    "--color",
    "never",
  ];
  expect(call(...run)).toBe(quoted("thread-half-way"));
  const list = call("list");
  const theme = list.indexOf("\nthe thread\n");
  expect(theme).toBeGreaterThan(list.indexOf("which-address"));
  for (const name of NAMES) expect(list.indexOf(`\n${name} `)).toBeGreaterThan(theme);
});
