/** `gfn2mfn conform`: recordings of a real Xen, replayed; what agrees, what does not, what is not built. */
import { readFileSync } from "node:fs";
import { conform as replay } from "../toolstack/conform.ts";
import {
  type Conformance,
  type Disagreement,
  parseRecordings,
  type RecordingFile,
} from "../toolstack/conform-format.ts";
import { EXIT_EXPECTATION, EXIT_SUCCESS, SetupError, UsageError } from "../toolstack/exit-codes.ts";
import { alignTable, paintFor } from "../toolstack/table.ts";

export interface ConformOptions {
  readonly env?: string;
  readonly json?: true;
  readonly color: "auto" | "always" | "never";
}

export async function conform(paths: readonly string[], options: ConformOptions): Promise<number> {
  const files = paths.map(readRecordings);
  const result = replay(files, options.env === undefined ? {} : { env: options.env });
  if (result.families.length === 0) {
    throw new UsageError(
      `--env: no recording has an environment that begins with "${options.env}"`,
    );
  }
  if (options.json === true) {
    const { families, disagreements } = result;
    process.stdout.write(`${JSON.stringify({ families, disagreements })}\n`);
  } else {
    process.stdout.write(`${linesOf(result, options).join("\n")}\n`);
  }
  return result.disagreements.length === 0 ? EXIT_SUCCESS : EXIT_EXPECTATION;
}

function readRecordings(path: string): RecordingFile {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const why = code === "ENOENT" ? "no such file" : code === "EISDIR" ? "is a directory" : code;
    throw new SetupError(`${path}: ${why ?? "cannot be read"}`);
  }
  try {
    return parseRecordings(path, text);
  } catch (error) {
    throw new SetupError(error instanceof Error ? error.message : String(error));
  }
}

function linesOf(result: Conformance, options: ConformOptions): readonly string[] {
  const paint = paintFor(options.color, process.stdout);
  const rows = result.families.map((family) => [
    family.disagree === 0 ? paint("green", "✓") : paint("red", "✗"),
    family.name,
    family.env,
    ...[family.scenarios, family.steps, family.agree, family.disagree, family.unsupported].map(
      String,
    ),
  ]);
  const sum = (field: "scenarios" | "steps" | "agree" | "disagree" | "unsupported"): string =>
    String(result.families.reduce((total, family) => total + family[field], 0));
  const total = [
    "",
    "total",
    "",
    sum("scenarios"),
    sum("steps"),
    sum("agree"),
    sum("disagree"),
    sum("unsupported"),
  ];
  const table = alignTable(
    ["", "family", "env", "scenarios", "steps", "agree", "disagree", "unsupported"],
    [...rows, total],
    ["left", "left", "left", "right", "right", "right", "right", "right"],
  );
  const missing = result.missing.map(
    ({ what, recordings }) => `– not built: ${what} (${recordings} recordings)`,
  );
  return [...table, ...missing, ...result.disagreements.map(disagreementLine)];
}

const disagreementLine = (one: Disagreement): string =>
  `✗ ${one.family} ${one.env} ${one.scenario} step ${one.step}: ${one.what}: ` +
  `expected ${JSON.stringify(one.expected)}, got ${JSON.stringify(one.got)}`;
