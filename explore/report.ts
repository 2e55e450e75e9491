/**
 * A failure to be read by a person: one column a task, one line a step that matters, the order that is necessary, and who waits
 * for what. Rule: what is told is the shrunk schedule, made again and watched. Ours; stress spec section 9.
 */
import { readHistory } from "../shared/history.ts";
import type { Failure } from "./exploration.ts";
import { type Bar, historyBars } from "./report-history.ts";
import { type Shrunk, signatureOf } from "./shrink.ts";
import { type PreparedStory, runStory, type StoryRun } from "./story.ts";
import { MACHINE_RACY } from "./story-memory.ts";
import { type Deviation, deviationScheduler } from "./strategies/deviations.ts";
import { type Told, type Watch, watchMachine } from "./watch.ts";

export interface Report {
  readonly story: string;
  readonly about: string;
  readonly failure: Failure;
  readonly shrunk: Shrunk;
  readonly columns: readonly string[];
  readonly steps: readonly Told[];
  /** Departures without which the failure goes away, as `task, before step n`. */
  readonly necessary: readonly string[];
  /** Tasks that had not ended. */
  readonly waiting: readonly string[];
  /** What guests called of their grants, in a story that keeps a history. */
  readonly history: readonly Bar[];
  /** What the race detector was told not to judge, with the reasons. */
  readonly racy: readonly string[];
}

/** Makes the shrunk schedule again and tells it. */
export function reportOf(found: PreparedStory, failure: Failure, shrunk: Shrunk): Report {
  const prepared = { ...found, memory: shrunk.memory };
  let watch: Watch | undefined;
  const run = runStory(prepared, {
    seed: failure.seed,
    scheduler: deviationScheduler(shrunk.deviations, shrunk.numbers),
    everyStep: failure.everyStep,
    without: shrunk.without,
    watch: (machine, image) => {
      watch = watchMachine(machine, image);
    },
  });
  watch?.end();
  const steps = watch?.steps ?? [];
  // The next run is made over the same buffers.
  const history = barsOf(run, steps);
  const { story } = prepared;
  const columns = [...new Set(steps.map(({ name }) => name))].toSorted((one, other) =>
    one === "hypervisor" ? 1 : other === "hypervisor" ? -1 : one < other ? -1 : 1,
  );
  return {
    story: story.name,
    about: story.about,
    failure,
    shrunk,
    columns,
    steps,
    necessary: necessaryOrder(prepared, failure, shrunk, steps),
    waiting: run.outcome.waiting ?? [],
    racy: racyReasons(prepared),
    history,
  };
}

function barsOf({ machine: { words, layout }, log }: StoryRun, steps: readonly Told[]) {
  if (log === undefined) return [];
  log.look();
  const counts = steps.map(({ noted }) => noted);
  return historyBars(readHistory(words, layout).records, log.commits ?? [], counts);
}

/** In sc nobody looks for races. */
const racyReasons = ({ story, memory }: PreparedStory): readonly string[] =>
  memory === "sc"
    ? []
    : [
        ...(story.racy ?? []).map(
          ({ domain, gfn, reason }) => `gfn 0x${gfn.toString(16)} of domain ${domain}: ${reason}`,
        ),
        ...MACHINE_RACY,
      ];

/** Each forced switch that the failure cannot do without. */
function necessaryOrder(
  prepared: PreparedStory,
  failure: Failure,
  shrunk: Shrunk,
  steps: readonly Told[],
): readonly string[] {
  const forced = steps.filter((step) => step.forced);
  const wanted = signatureOf({ verdict: "violation", findings: shrunk.findings });
  return shrunk.deviations.flatMap((_, i) => {
    const scheduler = deviationScheduler(without(shrunk.deviations, i), shrunk.numbers);
    const { seed, everyStep } = failure;
    const { outcome } = runStory(prepared, { seed, scheduler, everyStep, without: shrunk.without });
    const still = outcome.verdict !== "finished" && signatureOf(outcome) === wanted;
    const step = forced[i];
    if (still || step === undefined) return [];
    const before = steps[step.step - 2];
    return [
      `${step.name}@${step.step} right after ${before?.name ?? "the start"}@${step.step - 1}`,
    ];
  });
}

const without = (deviations: readonly Deviation[], i: number): readonly Deviation[] => {
  const [gone, next] = [deviations[i], deviations[i + 1]];
  const rest = deviations.slice(i + 2);
  const moved = next === undefined ? [] : [{ ...next, after: next.after + (gone?.after ?? 0) + 1 }];
  return [...deviations.slice(0, i), ...moved, ...rest];
};

/** Steps that are shown: those that say something, and forced switches. */
const matters = ({ phrases, forced }: Told): boolean => forced || phrases.length > 0;

const CELL_MAX = 46;
/** Lines of a run that comes to no end: how it began, and what it does again and again. */
const FIRST_MAX = 300;
const LAST_MAX = 60;

/** Steps that are told: those of a run without end are cut in the middle. */
export const withoutMiddle = (steps: readonly Told[]): readonly Told[] =>
  steps.length <= FIRST_MAX + LAST_MAX
    ? steps
    : [...steps.slice(0, FIRST_MAX), ...steps.slice(-LAST_MAX)];

export function reportLines(report: Report, command: string): readonly string[] {
  const { failure, shrunk, columns, steps } = report;
  const lines: string[] = [
    `FAIL ${shrunk.findings[0] ?? failure.id}`,
    `story ${report.story}: ${report.about}`,
    `${failure.strategy}, seed ${failure.seed}, schedule ${failure.schedule}, memory ${shrunk.memory}`,
    `shrunk: ${failure.steps} -> ${shrunk.steps} steps, ${failure.deviations.length} -> ${shrunk.deviations.length} switches away from the calm schedule` +
      (shrunk.without.length === 0 ? "" : `, without ${shrunk.without.join(", ")}`),
    "",
  ];
  const shown = withoutMiddle(steps.filter(matters));
  const cells = shown.map((step) => wrapped(step.phrases.join("; ")));
  const widths = columns.map((column) =>
    Math.max(
      column.length,
      ...shown.flatMap((step, i) =>
        step.name === column ? (cells[i] ?? []).map((text) => text.length) : [0],
      ),
    ),
  );
  const line = (head: string, texts: readonly string[]): string =>
    `${head.padStart(5)} | ${columns.map((_, i) => (texts[i] ?? "").padEnd(widths[i] ?? 0)).join(" | ")}`.trimEnd();
  lines.push(
    line("step", columns),
    `------+${widths.map((width) => "-".repeat(width + 2)).join("+")}`,
  );
  shown.forEach((step, n) => {
    const place = columns.indexOf(step.name);
    (cells[n] ?? []).forEach((text, row) => {
      const head = row === 0 ? `${step.forced ? "*" : ""}${step.step}` : "";
      lines.push(
        line(
          head,
          columns.map((_, i) => (i === place ? text : "")),
        ),
      );
    });
  });
  const folded = steps.length - shown.length;
  if (folded > 0) lines.push(`      ${folded} other steps`);
  for (const finding of shrunk.findings) lines.push(`      ✗ ${finding}`);
  if (report.necessary.length > 0) lines.push(`necessary: ${report.necessary.join("; ")}`);
  for (const reason of report.racy) lines.push(`may race: ${reason}`);
  if (report.waiting.length > 0) lines.push(`waiting: ${report.waiting.join(", ")}`);
  lines.push(`again: ${command}`);
  return lines;
}

/** A phrase cut into lines at its semicolons and spaces. */
function wrapped(text: string): readonly string[] {
  const lines: string[] = [];
  let rest = text === "" ? "goes on" : text;
  while (rest.length > CELL_MAX) {
    const at = rest.lastIndexOf(" ", CELL_MAX);
    const end = at > 0 ? at : CELL_MAX;
    lines.push(rest.slice(0, end));
    rest = rest.slice(end).trimStart();
  }
  return [...lines, rest];
}
