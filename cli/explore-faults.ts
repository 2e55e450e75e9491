/**
 * `gfn2mfn explore STORY --faults`: each fault that the story has room for, at each point of its calm run. Rules: the first failure
 * ends it, told as any other; at the end stands which faults came to something and how often, and where those rows of the
 * catalogue are shown that no story has room for.
 */
import { FAULTS } from "../explore/fault-catalogue.ts";
import { type FaultyName, faultyNames, type NamedStory } from "../explore/named.ts";
import { unknownName } from "../shared/nearest.ts";
import { EXIT_INTERRUPTED, EXIT_SUCCESS, UsageError } from "../toolstack/exit-codes.ts";
import { openStatusLine } from "../toolstack/status-line.ts";
import { alignTable } from "../toolstack/table.ts";

export interface FaultOptions {
  /** Rows of the catalogue or words, with commas between them; true: all. */
  readonly faults: string | true;
  readonly seed: number;
  readonly json?: true;
  readonly progress: boolean;
}

interface Tried {
  readonly ids: readonly string[];
  readonly fault: string;
  readonly runs: number;
  readonly fired: number;
}

/** Runs between two looks at the event loop. */
const SLICE = 200;

/** `open` opens a story by name; `tell` explores it again by the strategy of faults, so many runs, and prints what it finds. */
export async function exploreFaults(
  name: string,
  options: FaultOptions,
  open: (name: string) => Promise<NamedStory>,
  tell: (name: string, schedules: number) => Promise<number>,
): Promise<number> {
  const chosen = chosenFaults(name, options.faults);
  const status = openStatusLine(process.stderr, options.progress);
  let stopped = false;
  const onSignal = (): void => {
    stopped = true;
  };
  process.once("SIGINT", onSignal);
  const tried: Tried[] = [];
  try {
    for (const faulty of chosen) {
      status.update(`${faulty.name}: ${tried.length} of ${chosen.length} faults`);
      const story = await open(faulty.name);
      const exploration = story.open({ schedules: 0, seed: options.seed, strategy: "faults" });
      while (exploration?.go(SLICE) === true && !stopped) {
        await new Promise((resume) => setImmediate(resume));
      }
      if (stopped || exploration === undefined) break;
      const { failure, schedules, fired } = exploration.result();
      if (failure !== undefined) {
        status.end();
        return await tell(faulty.name, schedules);
      }
      const { ids, fault } = faulty;
      tried.push({ ids, fault, runs: schedules, fired: fired[fault] ?? 0 });
    }
  } finally {
    status.end();
    process.off("SIGINT", onSignal);
  }
  print(name, tried, options);
  return stopped ? EXIT_INTERRUPTED : EXIT_SUCCESS;
}

function chosenFaults(name: string, wish: string | true): readonly FaultyName[] {
  const all = faultyNames(name);
  if (all.length === 0) throw new UsageError(`--faults: ${name} has no room for a fault`);
  if (wish === true) return all;
  const known = FAULTS.map(({ id }) => id);
  const matches = ({ ids, fault }: FaultyName, word: string): boolean =>
    ids.includes(word) || fault === word;
  for (const word of wish.split(",")) {
    if (all.some((faulty) => matches(faulty, word))) continue;
    const row = FAULTS.find(({ id }) => id === word);
    if (row === undefined) throw new UsageError(unknownName("fault", word, known));
    throw new UsageError(`--faults ${word}: ${name} has no room for it (${row.where.join(", ")})`);
  }
  return all.filter((faulty) => wish.split(",").some((word) => matches(faulty, word)));
}

function print(name: string, tried: readonly Tried[], options: FaultOptions): void {
  const never = tried.filter(({ fired }) => fired === 0).map(({ fault }) => fault);
  const shown = new Set(tried.flatMap(({ ids }) => ids));
  const elsewhere = options.faults === true ? FAULTS.filter(({ id }) => !shown.has(id)) : [];
  if (options.json === true) {
    const document = { schema: "gfn2mfn/faults@1", story: name, faults: tried, never, elsewhere };
    process.stdout.write(`${JSON.stringify(document)}\n`);
    return;
  }
  const table = alignTable(
    ["fault", "row", "runs", "fired"],
    tried.map(({ fault, ids, runs, fired }) => [
      fault,
      ids.length > 2 ? `${ids[0]} to ${ids.at(-1)}` : ids.join(", "),
      String(runs),
      String(fired),
    ]),
    ["left", "left", "right", "right"],
  );
  const total = tried.reduce((sum, { runs }) => sum + runs, 0);
  const lines = [
    ...table,
    `${name}: ${tried.length} ${tried.length === 1 ? "fault" : "faults"}, each at every point of the calm run, ${total} runs: nothing found`,
    ...(never.length === 0 ? [] : [`never fired: ${never.join(", ")}`]),
    ...elsewhere.map(
      ({ id, sentence, how, where }) => `${id} ${sentence}: ${how}, ${where.join(", ")}`,
    ),
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
}
