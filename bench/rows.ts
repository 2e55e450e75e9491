/**
 * One line of the result: a figure, its yardstick, their ratio and what is aimed at; and how it is printed.
 *
 * Rule: a row is judged by its ratio alone. Beyond its target by a fifth it fails; what has no target only informs.
 */
import type { Comparison, Spread } from "./measure.ts";

/** `most`: the ratio must not be larger. `least`: the yardstick must be at least so many times slower. */
export type Target = { readonly most: number } | { readonly least: number };

/** `near`: beyond the target, by less than a fifth. */
export type Outcome = "pass" | "near" | "fail" | "skip" | "info";

export interface Row {
  readonly name: string;
  /** Median, in `unit`. */
  readonly value: number;
  readonly unit: string;
  /** Name of the yardstick. */
  readonly yardstick: string;
  /** Median of the yardstick, in `unit` as well. */
  readonly yardstickValue: number;
  readonly ratio: number;
  readonly target: Target | null;
  readonly spread: Spread;
  readonly outcome: Outcome;
  /** Why it was skipped, or what must be known to read it. */
  readonly note?: string;
}

/** What a row says besides its figures. Times are divided by `scale` nanoseconds a unit. */
export interface RowSpec {
  readonly name: string;
  readonly unit?: string;
  readonly scale?: number;
  readonly yardstick: string;
  readonly target?: Target;
  /** Set when the ratio cannot be trusted in this run. */
  readonly skip?: string | undefined;
  readonly note?: string;
}

const TOLERANCE = 1.2;

export function rowOf(spec: RowSpec, { measured, yardstick, ratio }: Comparison): Row {
  const { scale = 1, target, skip, note } = spec;
  // A target of "at least" asks how many times faster than its yardstick the thing is.
  const shown = target !== undefined && "least" in target ? 1 / ratio : ratio;
  const said = skip ?? note;
  return {
    name: spec.name,
    value: measured.p50 / scale,
    unit: spec.unit ?? "ns",
    yardstick: spec.yardstick,
    yardstickValue: yardstick.p50 / scale,
    ratio: shown,
    target: target ?? null,
    spread: { p10: measured.p10 / scale, p50: measured.p50 / scale, p90: measured.p90 / scale },
    outcome: skip === undefined ? judged(shown, target) : "skip",
    ...(said === undefined ? {} : { note: said }),
  };
}

function judged(ratio: number, target: Target | undefined): Outcome {
  if (target === undefined) return "info";
  const beyond = "most" in target ? ratio / target.most : target.least / ratio;
  if (beyond <= 1) return "pass";
  return beyond <= TOLERANCE ? "near" : "fail";
}

export const HEADING = [
  "what".padEnd(54),
  "p50".padStart(10),
  "unit".padEnd(5),
  "yardstick".padStart(18),
  "ratio".padStart(8),
  "target".padStart(8),
  "p10/p50/p90".padStart(24),
  "",
].join(" ");

const MARKS: Readonly<Record<Outcome, string>> = {
  pass: "✓ pass",
  near: "~ near",
  fail: "✗ fail",
  skip: "– skip",
  info: "",
};

/** Three digits that matter. */
export const short = (value: number): string =>
  value >= 1000 ? value.toFixed(0) : value >= 100 ? value.toFixed(0) : value.toPrecision(3);

export function lineOfRow(row: Row): string {
  const { p10, p50, p90 } = row.spread;
  const target =
    row.target === null
      ? "-"
      : "most" in row.target
        ? `<= ${row.target.most}`
        : `>= ${row.target.least}`;
  const line = [
    row.name.padEnd(54),
    short(row.value).padStart(10),
    row.unit.padEnd(5),
    `${row.yardstick} ${short(row.yardstickValue)}`.padStart(18),
    short(row.ratio).padStart(8),
    target.padStart(8),
    [p10, p50, p90].map(short).join(" / ").padStart(24),
    MARKS[row.outcome],
  ].join(" ");
  return row.note === undefined ? line.trimEnd() : `${line.trimEnd()}\n    ${row.note}`;
}
