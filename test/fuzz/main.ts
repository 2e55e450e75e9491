/**
 * `npm run fuzz`: the long form. A plain seeded loop over the generators of the quick form: episode after episode, each
 * on a fresh machine, faithful and strict ones in turn.
 *
 *   npm run fuzz                                      1,000,000 operations
 *   npm run fuzz -- --state fuzz.json                 goes on where the file says it stood, and keeps it up to date
 *   npm run -s fuzz -- --seed 1 --episode 17          one episode, shortened when it fails
 *
 * Exit code: 0; 5 when an invariant does not hold; 1 when the hypervisor's own assertion does not; 2 for what was typed
 * wrong; 130 when interrupted.
 */
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { setImmediate } from "node:timers/promises";
import { Command, InvalidArgumentError } from "commander";
import fc from "fast-check";
import {
  EXIT_BUG,
  EXIT_EXPECTATION,
  EXIT_INTERRUPTED,
  EXIT_SUCCESS,
  EXIT_USAGE,
  UsageError,
} from "../../toolstack/exit-codes.ts";
import { anyCommand, type Command as Operation } from "./commands.ts";
import { type Failure, runEpisode, shorten } from "./episode.ts";
import { Machines, machineOfEpisode } from "./machine.ts";
import { Violation } from "./world.ts";

const OPERATIONS = 1_000_000;
/** Operations of one episode. */
const EPISODE_LENGTH = 400;
const SCHEMA = "gfn2mfn/fuzz@1";
const TTY_PERIOD_MS = 100;
const LINE_PERIOD_MS = 5000;
const STATE_PERIOD_MS = 5000;

interface Options {
  readonly seed?: number;
  readonly operations: number;
  readonly episode?: number;
  readonly state?: string;
}

/** How far a campaign has got: all that a later run needs. */
interface Standing {
  readonly schema: typeof SCHEMA;
  readonly seed: number;
  episodes: number;
  operations: number;
}

const episodeCommands = fc.array(anyCommand, {
  minLength: EPISODE_LENGTH,
  maxLength: EPISODE_LENGTH,
  size: "max",
});

function commandsOf(seed: number, episode: number): readonly Operation[] {
  const mixed = (Math.imul(seed, 0x9e37_79b1) + episode) | 0;
  return fc.sample(episodeCommands, { numRuns: 1, seed: mixed })[0] ?? [];
}

function readStanding(options: Options): Standing {
  const { state } = options;
  const found = state === undefined ? undefined : readIfThere(state);
  if (found === undefined) {
    const seed = options.seed ?? Date.now() % 1_000_000;
    return { schema: SCHEMA, seed, episodes: 0, operations: 0 };
  }
  const standing: Partial<Standing> = JSON.parse(found);
  if (standing.schema !== SCHEMA) throw new UsageError(`${state} is no state of a fuzz campaign`);
  const { seed = 0, episodes = 0, operations = 0 } = standing;
  if (options.seed !== undefined && options.seed !== seed) {
    throw new UsageError(`${state} is about seed ${seed}, not ${options.seed}`);
  }
  return { schema: SCHEMA, seed, episodes, operations };
}

function readIfThere(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}

/** Replaces the file in one go, so that an interruption leaves the old one or the new one. */
function writeStanding(file: string | undefined, standing: Standing): void {
  if (file === undefined) return;
  writeFileSync(`${file}.new`, `${JSON.stringify(standing)}\n`);
  renameSync(`${file}.new`, file);
}

/** One line that says how far it is, written over itself on a terminal. */
class Progress {
  #shownMs = performance.now();
  readonly #startedMs = performance.now();
  readonly #first: number;
  readonly #goal: number;

  constructor(first: number, goal: number) {
    this.#first = first;
    this.#goal = goal;
  }

  text({ operations, episodes, seed }: Standing): string {
    const seconds = (performance.now() - this.#startedMs) / 1000;
    const rate = seconds > 0 ? Math.round((operations - this.#first) / seconds) : 0;
    return `fuzz: ${operations} of ${this.#goal} operations, ${rate}/s, episode ${episodes}, seed ${seed}`;
  }

  show(standing: Standing): void {
    const tty = process.stderr.isTTY;
    const now = performance.now();
    if (now - this.#shownMs < (tty ? TTY_PERIOD_MS : LINE_PERIOD_MS)) return;
    this.#shownMs = now;
    process.stderr.write(tty ? `\r${this.text(standing)}\x1b[K` : `${this.text(standing)}\n`);
  }

  end(): void {
    if (process.stderr.isTTY) process.stderr.write("\r\x1b[K");
  }
}

/** Shortens a failing episode, tells its story and how to see it again; returns the exit code. */
function report(machines: Machines, seed: number, episode: number, failure: Failure): number {
  const { hypervisor, shape } = machineOfEpisode(episode);
  const found = shorten(machines.image(hypervisor, shape), commandsOf(seed, episode), failure);
  const { error, log } = found.failure;
  const out = [
    `${hypervisor} machine of shape ${shape}, ${found.commands.length} commands:`,
    ...log.map((line, i) => `  ${i + 1}. ${line}`),
    error instanceof Error ? (error.stack ?? error.message) : String(error),
    `seed ${seed}, episode ${episode}`,
    `npm run -s fuzz -- --seed ${seed} --episode ${episode}`,
  ];
  process.stdout.write(`${out.join("\n")}\n`);
  return error instanceof Violation ? EXIT_EXPECTATION : EXIT_BUG;
}

function runOne(machines: Machines, episode: number, commands: readonly Operation[]) {
  const { hypervisor, shape } = machineOfEpisode(episode);
  return runEpisode(machines.image(hypervisor, shape), commands);
}

async function run(options: Options): Promise<number> {
  const machines = new Machines();
  const standing = readStanding(options);
  const { seed } = standing;
  if (options.episode !== undefined) {
    const failure = runOne(machines, options.episode, commandsOf(seed, options.episode));
    if (failure !== undefined) return report(machines, seed, options.episode, failure);
    process.stdout.write(`seed ${seed}, episode ${options.episode}: nothing found\n`);
    return EXIT_SUCCESS;
  }
  let interrupted = false;
  process.once("SIGINT", () => {
    interrupted = true;
  });
  const progress = new Progress(standing.operations, options.operations);
  let writtenMs = performance.now();
  while (standing.operations < options.operations) {
    const failure = runOne(machines, standing.episodes, commandsOf(seed, standing.episodes));
    if (failure !== undefined) {
      progress.end();
      writeStanding(options.state, standing);
      return report(machines, seed, standing.episodes, failure);
    }
    standing.episodes++;
    standing.operations += EPISODE_LENGTH;
    progress.show(standing);
    // An interruption is heard between two episodes.
    await setImmediate();
    if (interrupted) break;
    if (performance.now() - writtenMs < STATE_PERIOD_MS) continue;
    writtenMs = performance.now();
    writeStanding(options.state, standing);
  }
  progress.end();
  writeStanding(options.state, standing);
  process.stdout.write(
    `${progress.text(standing)}; ${interrupted ? "interrupted" : "nothing found"}\n`,
  );
  return interrupted ? EXIT_INTERRUPTED : EXIT_SUCCESS;
}

function count(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new InvalidArgumentError("It is no count.");
  return value;
}

const program = new Command("fuzz")
  .description("random and hostile operations of several domains, with the audit after each")
  .option("--seed <number>", "where the episodes come from", count)
  .option("--operations <count>", "where to stop", count, OPERATIONS)
  .option("--episode <number>", "one episode only", count)
  .option("--state <file>", "where it stands, to go on later")
  .exitOverride()
  .action(async (options: Options) => {
    process.exitCode = await run(options);
  });

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof UsageError) {
    process.stderr.write(`fuzz: ${error.message}\n`);
    process.exitCode = EXIT_USAGE;
  } else {
    // commander has already said what was wrong; help is no fault.
    const code = error instanceof Error && "exitCode" in error ? error.exitCode : undefined;
    if (typeof code !== "number") throw error;
    process.exitCode = code === 0 ? EXIT_SUCCESS : EXIT_USAGE;
  }
}
