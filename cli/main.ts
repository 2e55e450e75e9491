#!/usr/bin/env node
/**
 * The command line: which commands there are and what they accept. Each command's code is loaded when it is
 * called. Rules: stdout is for results; a wrong word ends with one line on stderr that names it and its
 * nearest neighbour; the exit code says whose fault it was (toolstack/exit-codes.ts).
 * Ours; verbs and letters follow Xen's tools where they fit.
 */
import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { EmulatorBug } from "../shared/assert.ts";
import { ScenarioError } from "../shared/scenario.ts";
import { parseSetting, type Setting } from "../shared/settings.ts";
import {
  EXIT_BUG,
  EXIT_SETUP,
  EXIT_SUCCESS,
  EXIT_USAGE,
  SetupError,
  UsageError,
} from "../toolstack/exit-codes.ts";
import { SEED_MAX } from "./machine-options.ts";

const whole = (text: string): number => {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) {
    throw new InvalidArgumentError("It is not a whole number.");
  }
  return value;
};

const positive = (text: string): number => {
  const value = whole(text);
  if (value === 0) throw new InvalidArgumentError("It must be at least 1.");
  return value;
};

const seed = (text: string): number => {
  const value = whole(text);
  if (value > SEED_MAX) throw new InvalidArgumentError("It must be below 2^32.");
  return value;
};

/** A stage of toolstack/stage.ts, or a step. */
const moment = (text: string): number | string => {
  if (["boot", "dma", "end"].includes(text)) return text;
  if (/^\d+$/.test(text)) return whole(text);
  throw new InvalidArgumentError("Moments are boot, dma, end, or the number of a step.");
};

const DURATION_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000 };

const duration = (text: string): number => {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m)$/.exec(text);
  const value = match === null ? 0 : Number(match[1]) * (DURATION_MS[match[2] ?? ""] ?? 0);
  if (value <= 0) throw new InvalidArgumentError("A duration is written 500ms, 30s or 2m.");
  return value;
};

const collect = <Value>(value: Value, before: readonly Value[] | undefined): readonly Value[] => [
  ...(before ?? []),
  value,
];

const words = (text: string, before: readonly string[] | undefined): readonly string[] =>
  collect(text, before);

const setting = (text: string, before: readonly Setting[] | undefined): readonly Setting[] => {
  try {
    return collect(parseSetting(text), before);
  } catch (error) {
    if (error instanceof ScenarioError) throw new InvalidArgumentError(error.reason);
    throw error;
  }
};

const color = (): Option =>
  new Option("--color <when>", "colours").choices(["auto", "always", "never"]).default("auto");

/** Options that choose the machine: shared by run, check and xlat. */
const withMachine = (command: Command): Command =>
  command
    .option("--seed <n>", "seed of the run and of the scattered allocator", seed, 1)
    .option("--set <path=value>", "override a field of the scenario; repeatable", setting)
    .addOption(new Option("--iommu <mode>", "override machine.iommu.mode").choices(["on", "off"]))
    .option("--variant <name>", "only this variant; repeatable", words)
    .option("--disk <file>", "file behind the disk (default: the running Node executable)")
    .option("--bytes <size>", "how much of it, such as 16MiB");

function runCommand(): Command {
  return withMachine(new Command("run"))
    .description("boot the machine, run its programs, check what must hold, take it down")
    .argument("<scenario...>", "names of scenarios/, or paths of .ts or .yaml files")
    .addOption(
      new Option("--engine <engine>", "one worker each, or one thread and every step chosen")
        .choices(["threads", "explore"])
        .default("threads"),
    )
    .option("--repeat <n>", "run so often, with the next seed each time", positive, 1)
    .option("--jobs <n>", "explore so many variants at once (default: 1)", positive)
    .option("--timeout <duration>", "longest time for one variant", duration, 60_000)
    .option("--record <file>", "write the run down: FILE.g2m.jsonl, or .jsonl.gz to pack it")
    .option("-N, --dry-run", "resolve everything, start nothing")
    .option("--json", "one JSON document on stdout")
    .option("--jsonl", "one JSON event a line on stdout")
    .option("-q, --quiet", "say nothing unless something fails")
    .option("-v, --verbose", "say what the programs reported")
    .option("--no-progress", "no status line")
    .option("--log-level <level>", "structured log on stderr: trace, debug, info, warn, error")
    .option("--log-file <file>", "structured log to a file")
    .addOption(color())
    .action(async (scenarios: string[], options) => {
      process.exitCode = await (await import("./run.ts")).run(scenarios, options);
    });
}

function listCommand(): Command {
  return new Command("list")
    .description("the scenarios, one line each")
    .option("--json", "one JSON document on stdout")
    .addOption(color())
    .action(async (options) => {
      process.exitCode = await (await import("./list.ts")).list(options);
    });
}

function checkCommand(): Command {
  return withMachine(new Command("check"))
    .description("validate only; --print shows the resolved machine of each variant")
    .argument("<scenario...>", "names of scenarios/, or paths of .ts or .yaml files")
    .option("--print", "the resolved machines as JSON")
    .action(async (scenarios: string[], options) => {
      process.exitCode = await (await import("./check.ts")).check(scenarios, options);
    });
}

function xlatCommand(): Command {
  return withMachine(new Command("xlat"))
    .description("each table entry that a CPU access and a DMA access of one gfn meet on their way")
    .argument("<scenario>", "name or path")
    .argument("<domain>", "name of the domain")
    .argument("[gfn]", "guest frame number, such as 0x40010; without it: what is mapped")
    .option(
      "--at <stage>",
      "when to look: boot, dma (the first burst; the default with a device), end, or after a step",
      moment,
    )
    .option("--json", "one JSON document on stdout")
    .addOption(color())
    .action(async (scenario: string, domain: string, gfn: string | undefined, options) => {
      process.exitCode = await (await import("./xlat.ts")).xlat(scenario, domain, gfn, options);
    });
}

function dumpCommand(): Command {
  return withMachine(new Command("dump"))
    .description("the hypervisor's tables at any step: of a run, or of a recording of one")
    .argument("<scenario or recording>", "name, path, or a file that run --record has written")
    .option("--what <tables>", "some of p2m,frames,grants,maptrack,ports,iommu,tlb (default: all)")
    .option("--dom <name>", "only this domain, by name or id; repeatable", words)
    .option("--at <step>", "after this step; on threads: this record (default: the end)", whole)
    .option("--diff <step>", "what has changed since this step, or will have by then", whole)
    .addOption(
      new Option("--engine <engine>", "run it on threads, or in one thread, every step chosen")
        .choices(["threads", "explore"])
        .default("explore"),
    )
    .option("--timeout <duration>", "longest time to wait for threads", duration, 60_000)
    .option("--json", "one JSON document on stdout")
    .addOption(color())
    .action(async (target: string, options) => {
      process.exitCode = await (await import("./dump.ts")).dump(target, options);
    });
}

function conformCommand(): Command {
  return new Command("conform")
    .description("replay recordings of a real Xen against this hypervisor")
    .argument("<files...>", "recordings (conformance/*.json)")
    .option("--env <prefix>", "only environments whose name begins so, such as arm")
    .option("--json", "one JSON document on stdout")
    .addOption(color())
    .action(async (files: string[], options) => {
      process.exitCode = await (await import("./conform.ts")).conform(files, options);
    });
}

function litmusCommand(): Command {
  return new Command("litmus")
    .description("memory model: each litmus test in every simulated memory and on real threads")
    .argument("[test...]", "names such as SB or GNT-CAS (default: all)")
    .option("--iterations <n>", "runs of each test on real threads", positive, 300_000)
    .option("--json", "one JSON document on stdout")
    .option("--no-progress", "no status line")
    .addOption(color())
    .action(async (tests: string[], options) => {
      process.exitCode = await (await import("./litmus.ts")).litmus(tests, options);
    });
}

function exploreCommand(): Command {
  return new Command("explore")
    .description("many schedules of a focused story or a scenario, or the catalogue of mutants")
    .argument("[story]", "a story or a scenario; without it: the stories, one line each")
    .option(
      "--schedules <n>",
      "runs, at most (default: 10,000 of a story, 20 of a scenario)",
      positive,
    )
    .option("--variant <name>", "of a scenario: only this variant; repeatable", words)
    .option("--strategy <name>", "portfolio, random, pct(2), preempt(2), dpor, ...", "portfolio")
    .option("--seed <n>", "seed of the exploration; of one run, with --schedules 1", seed, 1)
    .option("--first <n>", "number of the first run, from 0", whole, 0)
    .addOption(
      new Option(
        "--memory <mode>",
        "of a story: how late plain stores of guests may arrive",
      ).choices(["sc", "tso", "relaxed"]),
    )
    .option("--record <file>", "write a failure for `replay`")
    .option("--html <file>", "write a failure's report as one HTML page")
    .option("--set <path=value>", "override a field; of a story: machine.hypervisor", setting)
    .option(
      "--faults [rows]",
      "of a story: each fault, or those named (F-11,F-16), at each point of the calm run",
    )
    .option("--mutant <id>", "explore the sources with this bug in them")
    .option("--mutants [ids]", "every bug of the catalogue, or those named: M01,M09")
    .option("--seeds <n>", "campaign seeds of each mutant", positive, 20)
    .option("--jobs <n>", "mutants at once (default: one a core)", positive)
    .option("--json", "one JSON document on stdout")
    .option("--no-progress", "no status line")
    .action(async (story: string | undefined, options) => {
      process.exitCode = await (await import("./explore.ts")).explore(story, options);
    });
}

function stressCommand(): Command {
  return new Command("stress")
    .description("a campaign: all focused stories on all cores, or a scenario on delayed threads")
    .argument("[story...]", "stories, or one scenario (default: all stories)")
    .option("--minutes <n>", "how long", positive, 1)
    .option("--schedules <n>", "stop after so many schedules (or runs) in all", positive)
    .option("--jobs <n>", "stories or machines at once (default: as the cores allow)", positive)
    .option("--variant <name>", "of a scenario: only this variant; repeatable", words)
    .option("--set <path=value>", "of a scenario: override a field; repeatable", setting)
    .option("--seed <n>", "seed of the campaign", seed, 1)
    .option("--state <file>", "keep the campaign here, and go on from there")
    .option("--json", "one JSON document on stdout")
    .option("--no-progress", "no status line")
    .action(async (stories: string[], options) => {
      process.exitCode = await (await import("./stress.ts")).stress(stories, options);
    });
}

function replayCommand(): Command {
  return new Command("replay")
    .description("a failure that `explore --record` has written, again, step by step")
    .argument("<file>")
    .option("--continue", "go on where the run differs from the recording")
    .option("--html <file>", "write the report as one HTML page")
    .option("--json", "one JSON document on stdout")
    .action(async (file: string, options) => {
      process.exitCode = await (await import("./replay.ts")).replay(file, options);
    });
}

function program(): Command {
  const commands = [
    runCommand(),
    listCommand(),
    checkCommand(),
    xlatCommand(),
    dumpCommand(),
    conformCommand(),
    litmusCommand(),
    exploreCommand(),
    stressCommand(),
    replayCommand(),
  ];
  const root = new Command("gfn2mfn")
    .description(
      "A Xen-like machine in one process: who turns which address into the machine frame?",
    )
    .enablePositionalOptions();
  for (const command of commands) root.addCommand(command);
  for (const command of [root, ...commands]) {
    command.exitOverride().configureOutput({ outputError: () => {} });
  }
  return root;
}

/** What commander complains about, in one line. */
const oneLine = (message: string): string =>
  message
    .replace(/^error: /, "")
    .replace(/\s*\n\s*/g, " ")
    .trim();

function complain(error: unknown): number {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return EXIT_SUCCESS;
    if (error.code === "commander.help") return EXIT_USAGE;
    process.stderr.write(`gfn2mfn: ${oneLine(error.message)}\n`);
    return EXIT_USAGE;
  }
  if (error instanceof UsageError) return say(error.message, EXIT_USAGE);
  if (error instanceof SetupError) return say(error.message, EXIT_SETUP);
  if (error instanceof ScenarioError) return say(error.message, EXIT_SETUP);
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  const what = error instanceof EmulatorBug ? "bug in gfn2mfn" : "unexpected error in gfn2mfn";
  return say(`${what}: ${text}`, EXIT_BUG);
}

function say(line: string, code: number): number {
  process.stderr.write(`gfn2mfn: ${line}\n`);
  return code;
}

try {
  await program().parseAsync();
} catch (error) {
  process.exitCode = complain(error);
}
