/**
 * One section of a dump: rows of plain data read from the machine's bytes, how a person reads them, and what has
 * changed between two readings. Rules: a reader takes bytes only, with none of the hypervisor's code, so that it shows
 * what is there and not what the hypervisor makes of it; a row holds numbers, words and lists, and is JSON as it is.
 * Ours; what is shown follows Xen's debug keys `q`, `g` and `e`.
 */
import { at } from "../shared/assert.ts";
import { DOM, DOMAIN_PRESENT, domainOf } from "../shared/layout.ts";
import { alignTable } from "./table.ts";
import type { View } from "./view.ts";

/** What `--what` may name. */
export const WHATS = ["p2m", "frames", "grants", "maptrack", "ports", "iommu", "tlb"] as const;
export type What = (typeof WHATS)[number];

/** A section with its rows' type hidden: rows come from `read` of the same section. */
export interface Section {
  readonly what: What;
  /** Key in the JSON document. */
  readonly name: string;
  readonly title: string;
  read(view: View, domid: number): readonly object[];
  /** A table, header first; empty when there are no rows. Long lists are shortened. */
  lines(rows: readonly object[]): readonly string[];
  /** A difference as one table: its header, then lines that begin with `-` or `+`. */
  marked(difference: Difference): readonly string[];
  /** Rows that are only in one of two readings. */
  diff(before: readonly object[], after: readonly object[]): Difference;
}

export interface Difference {
  readonly removed: readonly object[];
  readonly added: readonly object[];
}

export interface ColumnSpec<Row> {
  readonly title: string;
  readonly align?: "right";
  text(row: Row): string;
}

export interface SectionSpec<Row> {
  readonly what: What;
  readonly name?: string;
  readonly title: string;
  readonly columns: readonly ColumnSpec<Row>[];
  read(view: View, domid: number): readonly Row[];
  /** Rows that a table shows instead: long lists shortened. */
  readonly shorten?: (rows: readonly Row[]) => readonly Row[];
  /** Rows that stand for runs: into single ones, and back. */
  readonly runs?: { split(row: Row): readonly Row[]; join(rows: readonly Row[]): readonly Row[] };
}

export function section<Row extends object>(spec: SectionSpec<Row>): Section {
  const { columns, runs } = spec;
  // Only rows that `read` has made come back: nobody else can make one.
  const own = (rows: readonly object[]): readonly Row[] => rows as readonly Row[];
  const single = (rows: readonly object[]): readonly Row[] =>
    runs === undefined ? own(rows) : own(rows).flatMap(runs.split);
  const short = (rows: readonly object[]): readonly Row[] => spec.shorten?.(own(rows)) ?? own(rows);
  const whole = (rows: readonly Row[]): readonly Row[] => runs?.join(rows) ?? rows;
  return {
    what: spec.what,
    name: spec.name ?? spec.what,
    title: spec.title,
    read: spec.read,
    lines: (rows) => table(columns, short(rows)),
    marked: ({ removed, added }) => {
      const gone = short(removed);
      const [header = "", ...lines] = table(columns, [...gone, ...short(added)]);
      return [`  ${header}`, ...lines.map((line, i) => `${i < gone.length ? "-" : "+"} ${line}`)];
    },
    diff: (before, after) => {
      const left = single(before);
      const right = single(after);
      return { removed: whole(without(left, right)), added: whole(without(right, left)) };
    },
  };
}

function table<Row>(columns: readonly ColumnSpec<Row>[], rows: readonly Row[]): readonly string[] {
  if (rows.length === 0) return [];
  return alignTable(
    columns.map(({ title }) => title),
    rows.map((row) => columns.map(({ text }) => text(row))),
    columns.map(({ align }) => align ?? "left"),
  );
}

/** Rows of `rows` that are not among `others`, by all they say. */
function without<Row>(rows: readonly Row[], others: readonly Row[]): readonly Row[] {
  const known = new Set(others.map((row) => JSON.stringify(row)));
  return rows.filter((row) => !known.has(JSON.stringify(row)));
}

/** A column of the domain table. */
export const domainWord = (view: View, domid: number, field: number): number =>
  at(view.words, domainOf(view.layout, domid) + field);

export const isPresent = (view: View, domid: number): boolean =>
  domid >= 0 &&
  domid < view.layout.model.limits.domains &&
  domainWord(view, domid, DOM.STATE) === DOMAIN_PRESENT;

/** `d1`, or what an id that is none of ours stands for. */
export const domainText = (domid: number): string => (domid < 0 ? "–" : `d${domid}`);
