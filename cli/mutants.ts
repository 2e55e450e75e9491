/** `gfn2mfn explore --mutants`: whether each bug of the catalogue is found, how soon, and by which check. */
import { availableParallelism } from "node:os";
import { MUTANTS, OUT_OF_REACH } from "../explore/mutants/catalogue.ts";
import { unknownName } from "../shared/nearest.ts";
import {
  EXIT_EXPECTATION,
  EXIT_INTERRUPTED,
  EXIT_SUCCESS,
  UsageError,
} from "../toolstack/exit-codes.ts";
import { type MutantResult, openMutantPool } from "../toolstack/mutant-task.ts";
import { openStatusLine } from "../toolstack/status-line.ts";
import { alignTable } from "../toolstack/table.ts";

export interface MutantOptions {
  /** Ids with commas between them; true: all. */
  readonly mutants?: string | true;
  readonly seeds: number;
  readonly jobs?: number;
  readonly json?: true;
  readonly progress: boolean;
}

export async function mutants(options: MutantOptions): Promise<number> {
  const ids = chosen(options.mutants ?? true);
  const status = openStatusLine(process.stderr, options.progress);
  const abort = new AbortController();
  const onSignal = (): void => abort.abort();
  process.once("SIGINT", onSignal);
  const { jobs = availableParallelism() } = options;
  const pool = openMutantPool(Math.min(jobs, Math.max(ids.length, 1)));
  try {
    const results = await runAll(pool, ids, options.seeds, abort.signal, (text) =>
      status.update(text),
    );
    status.end();
    print(results, ids, options);
    if (abort.signal.aborted) return EXIT_INTERRUPTED;
    return results.every(({ found }) => found) ? EXIT_SUCCESS : EXIT_EXPECTATION;
  } finally {
    status.end();
    process.off("SIGINT", onSignal);
    await pool.close();
  }
}

function chosen(wish: string | true): readonly string[] {
  const all = MUTANTS.map(({ id }) => id);
  if (wish === true) return all;
  const known = [...all, ...OUT_OF_REACH.map(({ id }) => id)];
  for (const id of wish.split(",")) {
    if (!known.includes(id)) throw new UsageError(unknownName("mutant", id, known));
  }
  return all.filter((id) => wish.split(",").includes(id));
}

/** Results in the order of the catalogue; those that are done when the person stops. */
async function runAll(
  pool: ReturnType<typeof openMutantPool>,
  ids: readonly string[],
  seeds: number,
  signal: AbortSignal,
  say: (text: string) => void,
): Promise<readonly MutantResult[]> {
  let done = 0;
  const running = ids.map(async (id) => {
    try {
      const result = await pool.run({ id, seeds }, signal);
      done++;
      say(`${done} of ${ids.length} mutants; ${id} ${result.found ? "found" : "missed"}`);
      return [result];
    } catch (error) {
      if (signal.aborted) return [];
      throw error;
    }
  });
  return (await Promise.all(running)).flat();
}

function print(
  results: readonly MutantResult[],
  ids: readonly string[],
  options: MutantOptions,
): void {
  const wish = options.mutants;
  const outOfReach = OUT_OF_REACH.filter(
    ({ id }) => wish === true || wish === undefined || wish.split(",").includes(id),
  );
  if (options.json === true) {
    const rows = results.map((row) => ({
      id: row.id,
      found: row.found,
      seeds: row.seeds,
      schedulesMedian: row.schedulesMedian,
      schedulesMax: row.schedulesMax,
      budget: row.budget,
      check: row.check,
      forcedSwitches: row.forcedSwitches,
      shrinkMs: row.shrinkMs,
      replayed: row.replayed,
    }));
    const why = outOfReach.map((row) => ({ id: row.id, why: row.why }));
    process.stdout.write(`${JSON.stringify({ mutants: rows, outOfReach: why })}\n`);
    return;
  }
  const lines = alignTable(
    ["", "id", "mutant", "seeds", "median", "most", "budget", "check", "switches"],
    results.map((row) => [
      row.found ? "✓ found" : "✗ missed",
      row.id,
      row.name,
      `${row.foundSeeds}/${row.seeds}`,
      String(row.schedulesMedian ?? "-"),
      String(row.schedulesMax ?? "-"),
      String(row.budget),
      row.check ?? "-",
      String(row.forcedSwitches ?? "-"),
    ]),
    ["left", "left", "left", "right", "right", "right", "right", "left", "right"],
  );
  const missed = results.flatMap((row) =>
    row.others.map((text) => `${row.id}: seen instead: ${text}`),
  );
  const out = outOfReach.map(({ id, name, why }) => `– out of reach  ${id}  ${name}: ${why}`);
  const found = results.filter((row) => row.found).length;
  const summary = `${found} of ${ids.length} found; ${outOfReach.length} out of reach`;
  process.stdout.write(
    `${[...lines, ...missed, ...out, summary, shrinking(results)].join("\n")}\n`,
  );
}

/** How small failures became, how long that took, and how many were seen again from their own choices. */
function shrinking(results: readonly MutantResult[]): string {
  const depths = new Map<string, number>(MUTANTS.map(({ id, depth }) => [id, depth]));
  const small = results.filter(
    ({ id, forcedSwitches }) =>
      forcedSwitches !== null && forcedSwitches <= (depths.get(id) ?? 0) + 1,
  );
  const total = (of: (row: MutantResult) => number): number =>
    results.reduce((sum, row) => sum + of(row), 0);
  const longest = Math.max(0, ...results.map(({ shrinkMs }) => shrinkMs)) / 1000;
  return (
    `shrunk to at most one forced switch more than the depth, on the median: ${small.length} of ${results.length}; ` +
    `longest shrinking ${longest.toFixed(1)} s; ` +
    `${total(({ replayed }) => replayed)} of ${total(({ foundSeeds }) => foundSeeds)} failures seen again`
  );
}
