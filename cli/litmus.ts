/** `gfn2mfn litmus`: the smallest programs that tell memory models apart, in every memory and on real threads. */
import type { Litmus, Way } from "../explore/litmus.ts";
import { litmusTests } from "../explore/litmus-catalogue.ts";
import { unknownName } from "../shared/nearest.ts";
import {
  EXIT_EXPECTATION,
  EXIT_INTERRUPTED,
  EXIT_SUCCESS,
  UsageError,
} from "../toolstack/exit-codes.ts";
import { type LitmusRow, LitmusThreads, simulated } from "../toolstack/litmus.ts";
import { openStatusLine } from "../toolstack/status-line.ts";
import { alignTable, type Paint, paintFor } from "../toolstack/table.ts";

export interface LitmusOptions {
  readonly iterations: number;
  readonly json?: true;
  readonly progress: boolean;
  readonly color: "auto" | "always" | "never";
}

const MEMORIES = ["sc", "tso", "relaxed"] as const;

export async function litmus(names: readonly string[], options: LitmusOptions): Promise<number> {
  const tests = [...litmusTests().entries()].filter(([, { name }]) =>
    names.length === 0 ? true : names.includes(name),
  );
  const known = [...new Set(litmusTests().map(({ name }) => name))];
  for (const name of names) {
    if (!known.includes(name)) throw new UsageError(unknownName("litmus test", name, known));
  }
  const stop = new AbortController();
  const onSignal = (): void => stop.abort();
  process.once("SIGINT", onSignal);
  const rows: LitmusRow[] = [];
  try {
    await runTests(tests, options, stop.signal, (row) => rows.push(row));
  } finally {
    process.off("SIGINT", onSignal);
  }
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ schema: "gfn2mfn/litmus@1", rows })}\n`);
  } else {
    process.stdout.write(`${tableOf(rows, paintFor(options.color, process.stdout)).join("\n")}\n`);
  }
  if (stop.signal.aborted) return EXIT_INTERRUPTED;
  return rows.every(({ agrees }) => agrees) ? EXIT_SUCCESS : EXIT_EXPECTATION;
}

/** Rows of every test in every way that it can be run; ends early when the person says so. */
async function runTests(
  tests: readonly (readonly [number, Litmus])[],
  options: LitmusOptions,
  stop: AbortSignal,
  take: (row: LitmusRow) => void,
): Promise<void> {
  const threads = new LitmusThreads();
  const status = openStatusLine(process.stderr, options.progress);
  try {
    for (const [place, [index, test]] of tests.entries()) {
      status.update(`${place} of ${tests.length} litmus tests; ${test.name}, ${test.accesses}`);
      for (const way of MEMORIES) {
        if (test.expected[way] !== undefined) take(simulated(test, way));
      }
      take(await threads.run(index, options.iterations, stop));
      if (stop.aborted) return;
    }
  } finally {
    status.end();
    await threads.close();
  }
}

/** One line a test: its hits of the runs in every way. */
function tableOf(rows: readonly LitmusRow[], paint: Paint): readonly string[] {
  const lines = new Map<string, LitmusRow[]>();
  for (const row of rows) {
    const key = `${row.name} ${row.accesses}`;
    lines.set(key, [...(lines.get(key) ?? []), row]);
  }
  const cellOf = (line: readonly LitmusRow[], way: Way): string => {
    const row = line.find((one) => one.way === way);
    return row === undefined ? "-" : `${row.hits} of ${row.runs}${row.agrees ? "" : " ✗"}`;
  };
  const body = [...lines.values()].map((line) => [
    line.every(({ agrees }) => agrees) ? paint("green", "✓") : paint("red", "✗"),
    line[0]?.name ?? "",
    line[0]?.accesses ?? "",
    line[0]?.outcome ?? "",
    ...[...MEMORIES, "threads" as const].map((way) => cellOf(line, way)),
  ]);
  const header = ["", "test", "accesses", "outcome", ...MEMORIES, "threads"];
  const left = "left" as const;
  const right = "right" as const;
  return alignTable(header, body, [left, left, left, left, right, right, right, right]);
}
