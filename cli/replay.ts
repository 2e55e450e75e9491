/**
 * `gfn2mfn replay`: a recorded failure again, told step by step. Rule: strict, unless `--continue` is said: the first difference
 * from the recording ends it.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { MUTANTS } from "../explore/mutants/catalogue.ts";
import { isStoryName, type NamedStory } from "../explore/named.ts";
import { pointsHash } from "../explore/points.ts";
import { REPLAY_FORMAT, type ReplayFile } from "../explore/replay-file.ts";
import { reportLines } from "../explore/report.ts";
import { htmlReport } from "../explore/report-html.ts";
import { MEMORY_MODES } from "../explore/weak-memory.ts";
import { buildOf } from "../toolstack/build-hash.ts";
import { EXIT_EXPECTATION, EXIT_SETUP, EXIT_SUCCESS, SetupError } from "../toolstack/exit-codes.ts";
import { openMutated } from "../toolstack/mutant-hook.ts";
import { quoted } from "./machine-options.ts";

export interface ReplayOptions {
  readonly continue?: true;
  readonly html?: string;
  readonly json?: true;
}

export async function replay(path: string, options: ReplayOptions): Promise<number> {
  const file = readReplay(path);
  const story = await storyOf(file);
  const build = buildOf(file.config.mutants);
  if (file.build.points !== pointsHash()) {
    process.stderr.write(`${path}: recorded with another catalogue of points\n`);
  } else if (file.build.source !== build.source) {
    process.stderr.write(
      `${path}: recorded with sources ${file.build.source}, these are ${build.source}\n`,
    );
  }
  const found = story.replay(file);
  const command = `npm run -s gfn2mfn -- replay ${quoted(path)}`;
  if (found.report !== undefined && options.html !== undefined) {
    writeFileSync(options.html, htmlReport(found.report, command));
  }
  const strict = options.continue !== true;
  if (options.json === true) {
    const { report, ...rest } = found;
    const steps = report?.steps.map(({ step, name, forced, phrases }) => ({
      step,
      name,
      forced,
      phrases,
    }));
    const document = { schema: "gfn2mfn/replay@1", file: path, ...rest, steps: steps ?? [] };
    process.stdout.write(`${JSON.stringify(document)}\n`);
  } else {
    const told = found.report === undefined ? [] : reportLines(found.report, command);
    const lines = [...told];
    if (found.divergence !== undefined) lines.push(`diverged: ${found.divergence}`);
    if (found.skipped > 0) lines.push(`${found.skipped} choices were not possible any more`);
    lines.push(found.again ? "the failure of the recording" : "not the failure of the recording");
    process.stdout.write(`${lines.join("\n")}\n`);
  }
  if (strict && found.divergence !== undefined) return EXIT_SETUP;
  return found.findings.length === 0 ? EXIT_SUCCESS : EXIT_EXPECTATION;
}

async function storyOf(file: ReplayFile): Promise<NamedStory> {
  const { name } = file.scenario;
  if (!isStoryName(name)) throw new SetupError(`no story is named "${name}" any more`);
  const [id] = file.config.mutants;
  const mutant = MUTANTS.find((one) => one.id === id);
  if (id !== undefined && mutant === undefined)
    throw new SetupError(`no mutant is named ${id} any more`);
  return openMutated(mutant, name, "faithful", file.config.memory);
}

/** Reads a file and checks what it says of itself; a SetupError says what is wrong with it. */
function readReplay(path: string): ReplayFile {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    throw new SetupError(`${path}: cannot be read`);
  }
  try {
    const value: unknown = JSON.parse(text);
    if (isReplay(value)) return value;
  } catch {
    // Said below, as for every other file that is none.
  }
  throw new SetupError(`${path}: is no recording of the format ${REPLAY_FORMAT}`);
}

function isReplay(value: unknown): value is ReplayFile {
  if (typeof value !== "object" || value === null) return false;
  const { format, choices, values, trace, scenario, config } = value as Partial<ReplayFile>;
  return (
    format === REPLAY_FORMAT &&
    Array.isArray(choices) &&
    choices.every(([after, task]) => Number.isInteger(after) && typeof task === "string") &&
    Array.isArray(values) &&
    Array.isArray(trace?.marks) &&
    Array.isArray(scenario?.without) &&
    Array.isArray(config?.mutants) &&
    MEMORY_MODES.includes(config.memory)
  );
}
