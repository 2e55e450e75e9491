/**
 * `npm run bench`: what the machine costs, as ratios against yardsticks measured in the same run.
 *
 *   npm run bench                     everything, under three minutes
 *   npm run bench -- --quick          fewer and shorter rounds, under forty seconds
 *   npm run bench -- --only grants    one group
 *   npm run bench -- --only stories   schedules a second of each focused story
 *   npm run -s bench -- --json        one document on stdout
 *   npm run bench -- --against DIR    the same figures in another checkout, in turn with this one
 *
 * Exit code: 0; 5 when a ratio is beyond its target by a fifth, or a figure a tenth slower than in the other checkout; 2
 * for what was typed wrong. A row that needs two quiet
 * cores is skipped, and says so, when there are none.
 */
import { availableParallelism, cpus } from "node:os";
import { Command } from "commander";
import { unknownName } from "../shared/nearest.ts";
import { EXIT_EXPECTATION, EXIT_SUCCESS, EXIT_USAGE, UsageError } from "../toolstack/exit-codes.ts";
import { compareCheckouts, lineOfPair, PAIR_HEADING } from "./against.ts";
import { accessRows, pageRows } from "./groups/access.ts";
import { bootRows } from "./groups/boot.ts";
import { diskRows } from "./groups/disk.ts";
import { exploreRows } from "./groups/explore.ts";
import { gntdevRows } from "./groups/gntdev.ts";
import { grantRows } from "./groups/grants.ts";
import { hypercallRows } from "./groups/hypercalls.ts";
import { ringRows } from "./groups/ring.ts";
import { storyRows } from "./groups/stories.ts";
import { FULL_PACE, QUICK_PACE } from "./measure.ts";
import { HEADING, lineOfRow, type Row } from "./rows.ts";
import { Bench } from "./yardsticks.ts";

type Group = (bench: Bench) => Promise<readonly Row[]>;

const GROUPS: Readonly<Record<string, Group>> = {
  hypercalls: hypercallRows,
  ring: ringRows,
  grants: grantRows,
  gntdev: gntdevRows,
  access: accessRows,
  pages: pageRows,
  disk: diskRows,
  boot: bootRows,
  explore: exploreRows,
  stories: storyRows,
};

/** Only when asked for: `explore` has what they come to. */
const ASKED: readonly string[] = ["stories"];

interface Options {
  readonly json?: true;
  readonly quick?: true;
  readonly only?: readonly string[];
  readonly against?: string;
  readonly passes: string;
}

/** Milliseconds that all cores together have worked, whoever for. */
const busyMs = (): number =>
  cpus().reduce((sum, { times }) => sum + times.user + times.nice + times.sys + times.irq, 0);

/** The groups asked for. */
function groupsOf({ only }: Options): readonly string[] {
  const names = only ?? Object.keys(GROUPS).filter((name) => !ASKED.includes(name));
  for (const name of names) {
    if (!(name in GROUPS)) throw new UsageError(unknownName("group", name, Object.keys(GROUPS)));
  }
  return names;
}

/** Prints how the figures compare with those of the checkout at `against`; returns the exit code. */
async function runAgainst(against: string, options: Options): Promise<number> {
  const passes = Number(options.passes);
  if (!Number.isInteger(passes) || passes < 1 || passes > 100) {
    throw new UsageError(`--passes: a number from 1 to 100, not "${options.passes}"`);
  }
  const pace = { passes, quick: options.quick === true };
  const pairs = await compareCheckouts(against, groupsOf(options), pace, (line) => {
    process.stderr.write(`${line}\n`);
  });
  const text = options.json
    ? JSON.stringify({ schema: "gfn2mfn/bench-against@1", pairs })
    : [PAIR_HEADING, ...pairs.map(lineOfPair)].join("\n");
  process.stdout.write(`${text}\n`);
  return pairs.some(({ slower }) => slower) ? EXIT_EXPECTATION : EXIT_SUCCESS;
}

/** Runs the groups and prints each row as it comes; returns the exit code. */
async function run(options: Options): Promise<number> {
  const names = groupsOf(options);
  const bench = new Bench(options.quick === true ? QUICK_PACE : FULL_PACE, process.execPath);
  const before = { busyMs: busyMs(), own: process.cpuUsage(), startedMs: performance.now() };
  const rows: Row[] = [];
  if (options.json !== true) process.stdout.write(`${HEADING.trimEnd()}\n`);
  try {
    for (const name of names) {
      const found = (await GROUPS[name]?.(bench)) ?? [];
      rows.push(...found);
      if (options.json !== true) process.stdout.write(`${found.map(lineOfRow).join("\n")}\n`);
    }
  } finally {
    await bench.close();
  }
  const elapsedMs = performance.now() - before.startedMs;
  const own = process.cpuUsage(before.own);
  const others = (busyMs() - before.busyMs - (own.user + own.system) / 1000) / elapsedMs;
  if (options.json === true) {
    const machine = { node: process.version, cores: availableParallelism(), othersCores: others };
    process.stdout.write(`${JSON.stringify({ schema: "gfn2mfn/bench@1", rows, machine })}\n`);
  } else {
    process.stdout.write(
      `${(elapsedMs / 1000).toFixed(0)} s, ${availableParallelism()} cores, ` +
        `of which others used ${Math.max(0, others).toFixed(1)}; ${process.version}\n`,
    );
  }
  return rows.some(({ outcome }) => outcome === "fail") ? EXIT_EXPECTATION : EXIT_SUCCESS;
}

const collect = (name: string, before: readonly string[] = []): readonly string[] => [
  ...before,
  name,
];

const program = new Command("bench")
  .description("what the machine costs, against yardsticks measured in the same run")
  .option("--json", "one document on stdout")
  .option("--quick", "fewer and shorter rounds")
  .option("--only <group>", `${Object.keys(GROUPS).join(" | ")}; repeatable`, collect)
  .option("--against <checkout>", "the same figures there, in turn with those here")
  .option("--passes <n>", "turns of --against", "5")
  .exitOverride()
  .action(async (options: Options) => {
    const { against } = options;
    process.exitCode = await (against === undefined ? run(options) : runAgainst(against, options));
  });

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = codeOf(error);
}

/** One line for what a person typed wrong; everything else is thrown on. */
function codeOf(error: unknown): number {
  if (error instanceof UsageError) {
    process.stderr.write(`bench: ${error.message}\n`);
    return EXIT_USAGE;
  }
  // commander has already said what was wrong; help is no fault.
  const code = error instanceof Error && "exitCode" in error ? error.exitCode : undefined;
  if (typeof code !== "number") throw error;
  return code === 0 ? EXIT_SUCCESS : EXIT_USAGE;
}
