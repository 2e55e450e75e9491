/**
 * `gfn2mfn dump`: the hypervisor's tables of any domain at any step, as Xen's debug keys print them. Rules: a run is
 * looked at live (the scenario runs until then) or from its recording; stdout is the dump, or with `--json` exactly one
 * document; stderr says what is looked at, and when.
 */
import { unknownName } from "../shared/nearest.ts";
import {
  diffDumps,
  diffLines,
  domidsOf,
  dumpLines,
  dumpMachine,
  type MachineDump,
} from "../toolstack/dump.ts";
import { WHATS, type What } from "../toolstack/dump-section.ts";
import type { EngineName } from "../toolstack/engine.ts";
import { EXIT_SUCCESS, UsageError } from "../toolstack/exit-codes.ts";
import { loadScenario } from "../toolstack/load.ts";
import { type Prepared, prepare } from "../toolstack/prepare.ts";
import { isRecordingName, readRecording } from "../toolstack/recording.ts";
import {
  openLive,
  openReplay,
  preparedOf,
  recordedState,
  type Stepper,
} from "../toolstack/replay.ts";
import { paintFor } from "../toolstack/table.ts";
import type { View } from "../toolstack/view.ts";
import { type MachineOptions, wishOf } from "./machine-options.ts";

export interface DumpOptions extends MachineOptions {
  readonly engine: EngineName;
  readonly what?: string;
  readonly dom?: readonly string[];
  readonly at?: number;
  readonly diff?: number;
  readonly timeout: number;
  readonly json?: true;
  readonly color: "auto" | "always" | "never";
}

/** What is dumped, and of when. */
interface Source {
  readonly prepared: Prepared;
  readonly engine: EngineName;
  /** Dump at each of these steps, ascending; undefined: the end. */
  take(steps: readonly (number | undefined)[], read: Read): Promise<readonly Taken[]>;
}

type Read = (view: View) => MachineDump;

interface Taken {
  readonly step: number;
  readonly dump: MachineDump;
}

export async function dump(target: string, options: DumpOptions): Promise<number> {
  const what = whatOf(options.what);
  if (options.diff !== undefined && options.diff === options.at) {
    throw new UsageError(`--diff: step ${options.diff} is the step of --at`);
  }
  const source = isRecordingName(target) ? await recorded(target) : await live(target, options);
  checkDomains(source.prepared, options.dom ?? []);
  const read: Read = (view) => dumpMachine(view, what, wantedDomains(view, options.dom));
  const { loaded, resolved, choice } = source.prepared;
  const from = {
    scenario: loaded.id,
    variant: resolved.variant,
    seed: choice.seed,
    engine: source.engine,
  };
  const steps = options.diff === undefined ? [options.at] : inOrder(options.diff, options.at);
  const taken = await source.take(steps, read);
  const moments = taken.map(({ step, dump: one }) => ({ step, records: one.records }));
  const places = moments.map(({ step, records }) =>
    source.engine === "threads" ? `record ${records}` : `step ${step} (record ${records})`,
  );
  process.stderr.write(
    `${from.scenario}, ${from.variant}: seed ${from.seed}, engine ${from.engine}, ` +
      `at ${places.join(" and ")}\n`,
  );
  print(taken, { ...from, at: moments }, options);
  return EXIT_SUCCESS;
}

function print(
  taken: readonly Taken[],
  source: Readonly<Record<string, unknown>>,
  options: DumpOptions,
): void {
  const paint = paintFor(options.color, process.stdout);
  const bold = (text: string): string => paint("bold", text);
  const [first, second] = taken.map((one) => one.dump);
  if (first === undefined) return;
  if (second === undefined) {
    const document = { schema: "gfn2mfn/dump@1", source, ...first };
    out(options, document, () => dumpLines(first, bold));
    return;
  }
  const diffs = diffDumps(first, second);
  const document = { schema: "gfn2mfn/dump-diff@1", source, domains: diffs };
  out(options, document, () => diffLines(diffs, bold));
}

function out(options: DumpOptions, document: unknown, lines: () => readonly string[]): void {
  const text = options.json === true ? JSON.stringify(document) : lines().join("\n");
  process.stdout.write(`${text}\n`);
}

function whatOf(text: string | undefined): readonly What[] {
  if (text === undefined) return WHATS;
  return text.split(",").map((word) => {
    const found = WHATS.find((what) => what === word);
    if (found === undefined) throw new UsageError(`--what: ${unknownName("table", word, WHATS)}`);
    return found;
  });
}

const inOrder = (one: number, other: number | undefined): readonly (number | undefined)[] =>
  other === undefined || one < other ? [one, other] : [other, one];

/** A name must be one of the machine's, an id one that its table has room for. */
function checkDomains({ resolved }: Prepared, wanted: readonly string[]): void {
  const names = resolved.model.domains.map(({ name }) => name);
  const ids = resolved.model.limits.domains;
  for (const word of wanted) {
    if (names.includes(word) || (/^\d+$/.test(word) && Number(word) < ids)) continue;
    throw new UsageError(`--dom: ${unknownName("domain", word, names)}`);
  }
}

/** Ids of the domains that are wished for and exist by then. */
function wantedDomains(view: View, wanted: readonly string[] | undefined): readonly number[] {
  if (wanted === undefined) return domidsOf(view);
  const domids = new Set(wanted.flatMap((word) => domidsOf(view, word)));
  if (domids.size === 0) throw new UsageError(`--dom: ${wanted.join(", ")} does not exist by then`);
  return [...domids].sort((a, b) => a - b);
}

async function recorded(file: string): Promise<Source> {
  const recording = readRecording(file);
  const prepared = await preparedOf(recording);
  const { engine } = recording.header;
  if (engine === "explore") {
    return {
      prepared,
      engine,
      take: (steps, read) => stepped(openReplay(recording, prepared), steps, read),
    };
  }
  return {
    prepared,
    engine,
    take: async (steps, read) => {
      const { view, record } = recordedState(recording, prepared);
      if (steps.length > 1 || (steps[0] ?? record) !== record) {
        throw new UsageError(
          `${file} was recorded on threads: it has the state of its end only, which is record ${record}`,
        );
      }
      return [{ step: record, dump: read(view) }];
    },
  };
}

async function live(id: string, options: DumpOptions): Promise<Source> {
  const [prepared, ...others] = await prepare(await loadScenario(id), wishOf(options));
  if (prepared === undefined) throw new UsageError(`${id} has no variant`);
  if (others.length > 0 && options.variant !== undefined) {
    throw new UsageError("--variant: a dump is of one machine; name one variant");
  }
  const { engine } = options;
  if (engine === "explore") {
    return { prepared, engine, take: (steps, read) => stepped(openLive(prepared), steps, read) };
  }
  return { prepared, engine, take: (steps, read) => threaded(prepared, steps, read, options) };
}

/** Dumps at each step of one run. */
async function stepped(
  stepper: Stepper,
  steps: readonly (number | undefined)[],
  read: Read,
): Promise<readonly Taken[]> {
  try {
    return steps.map((step) => {
      stepper.to(step);
      return { step: stepper.machine.steps, dump: read(stepper.machine) };
    });
  } finally {
    stepper.close();
  }
}

async function threaded(
  prepared: Prepared,
  steps: readonly (number | undefined)[],
  read: Read,
  options: DumpOptions,
): Promise<readonly Taken[]> {
  if (steps.length > 1) {
    throw new UsageError("--diff: a run on threads is looked at once; use --engine explore");
  }
  const { lookAtThreads } = await import("../toolstack/threaded-view.ts");
  const abort = new AbortController();
  const stop = (): void => abort.abort();
  process.once("SIGINT", stop);
  try {
    const [record] = steps;
    const { timeout: timeoutMs } = options;
    const look = { record, timeoutMs, signal: abort.signal, read };
    const { result, trouble } = await lookAtThreads(prepared, look);
    if (trouble !== undefined)
      process.stderr.write(`the run did not come to its end: ${trouble}\n`);
    return [{ step: result.records, dump: result }];
  } finally {
    process.off("SIGINT", stop);
  }
}
