/**
 * `npm run bench -- --against <checkout>`: the same rows here and in another checkout, side by side.
 *
 * The two are run in turn, group by group, each in a process of its own; a row's figure is the median over the passes
 * and the change is the median of the pairs' ratios, so that a machine that drifts slows both alike.
 *
 * Rule: rows are paired by name; a row that only one checkout has is no comparison and is left out.
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { UsageError } from "../toolstack/exit-codes.ts";
import { percentile } from "./measure.ts";
import { type Row, short } from "./rows.ts";

/** Of a figure: beyond it the founding path has become slower than this machine's noise explains. */
const SLOWER_MAX = 1.1;

export interface Pair {
  readonly name: string;
  readonly unit: string;
  readonly here: number;
  readonly there: number;
  /** Time here over time there: above 1 this checkout is slower. */
  readonly change: number;
  readonly slower: boolean;
}

const HERE = fileURLToPath(new URL("..", import.meta.url));

/** Rows of one group, from a process of the given checkout. */
async function rowsOf(checkout: string, group: string, quick: boolean): Promise<readonly Row[]> {
  const args = ["bench/main.ts", "--json", "--only", group, ...(quick ? ["--quick"] : [])];
  const child = spawn(process.execPath, args, {
    cwd: checkout,
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    text += chunk;
  });
  const code = await new Promise<number | null>((resolve) => child.on("close", resolve));
  // 5 says that a row missed its target, which is no matter of this comparison.
  if (code !== 0 && code !== 5) {
    throw new UsageError(
      `--against: the benchmark in ${checkout} ended with ${code ?? "a signal"}`,
    );
  }
  return (JSON.parse(text) as { readonly rows: readonly Row[] }).rows;
}

const median = (values: readonly number[]): number =>
  percentile(Float64Array.from(values).toSorted(), 0.5);

/** Pairs up the rows of several passes. */
export function pairsOf(passes: readonly (readonly [readonly Row[], readonly Row[]])[]): Pair[] {
  const figures = new Map<string, { unit: string; here: number[]; there: number[] }>();
  for (const [here, there] of passes) {
    for (const row of here) {
      const other = there.find(({ name }) => name === row.name);
      if (other === undefined || other.unit !== row.unit) continue;
      const kept = figures.get(row.name) ?? { unit: row.unit, here: [], there: [] };
      kept.here.push(row.value);
      kept.there.push(other.value);
      figures.set(row.name, kept);
    }
  }
  return [...figures].map(([name, { unit, here, there }]) => {
    const change = median(here.map((value, pass) => value / (there[pass] ?? Number.NaN)));
    return {
      name,
      unit,
      here: median(here),
      there: median(there),
      change,
      slower: change > SLOWER_MAX,
    };
  });
}

/** Runs `passes` passes of every group in turn; `progress` hears of each. */
export async function compareCheckouts(
  checkout: string,
  groups: readonly string[],
  options: { readonly passes: number; readonly quick: boolean },
  progress: (line: string) => void,
): Promise<readonly Pair[]> {
  if (!existsSync(join(checkout, "bench", "main.ts"))) {
    throw new UsageError(`--against: ${checkout} is no checkout of this project`);
  }
  const pairs: Pair[] = [];
  for (const group of groups) {
    const passes: (readonly [readonly Row[], readonly Row[]])[] = [];
    for (let pass = 0; pass < options.passes; pass++) {
      progress(`${group}: pass ${pass + 1} of ${options.passes}`);
      const here = await rowsOf(HERE, group, options.quick);
      passes.push([here, await rowsOf(checkout, group, options.quick)]);
    }
    pairs.push(...pairsOf(passes));
  }
  return pairs;
}

export const PAIR_HEADING = `${"what".padEnd(54)} ${"here".padStart(10)} ${"there".padStart(10)} unit   here/there`;

export function lineOfPair({ name, unit, here, there, change, slower }: Pair): string {
  const figures = `${short(here).padStart(10)} ${short(there).padStart(10)} ${unit.padEnd(5)}`;
  return `${name.padEnd(54)} ${figures} ${change.toFixed(2).padStart(11)}${slower ? "  ✗ slower" : ""}`;
}
