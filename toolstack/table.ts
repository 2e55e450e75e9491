/**
 * An aligned table for a terminal. Rules: a mark is a sign and a word, never a colour alone; widths count
 * characters without colour codes; long cells are not cut.
 * Ours.
 */
import { stripVTControlCharacters, styleText } from "node:util";
import type { Column, ResultTable, Row } from "../shared/scenario.ts";

export type Paint = (format: "green" | "red" | "bold" | "dim", text: string) => string;

/** Paints for a stream: `auto` follows NO_COLOR, FORCE_COLOR and whether the stream is a terminal. */
export function paintFor(mode: "auto" | "always" | "never", stream: NodeJS.WriteStream): Paint {
  if (mode === "never") return (_, text) => text;
  if (mode === "always")
    return (format, text) => styleText(format, text, { validateStream: false });
  return (format, text) => styleText(format, text, { stream });
}

const widthOf = (cell: string): number => stripVTControlCharacters(cell).length;

function pad(cell: string, width: number, align: "left" | "right"): string {
  const gap = " ".repeat(Math.max(0, width - widthOf(cell)));
  return align === "right" ? gap + cell : cell + gap;
}

/** Lines of cells under a header line; every column is as wide as its widest cell. */
export function alignTable(
  header: readonly string[],
  lines: readonly (readonly string[])[],
  aligns: readonly ("left" | "right")[],
): readonly string[] {
  const widths = header.map((title, i) =>
    lines.reduce((most, line) => Math.max(most, widthOf(line[i] ?? "")), widthOf(title)),
  );
  return [header, ...lines].map((line) =>
    line
      .map((cell, i) => pad(cell, widths[i] ?? 0, aligns[i] ?? "left"))
      .join("  ")
      .trimEnd(),
  );
}

function cellOf(column: Column, row: Row, paint: Paint): string {
  const text = column.text(row);
  const mark = column.mark?.(row);
  if (mark === "good") return paint("green", `✓ ${text}`);
  if (mark === "bad") return paint("red", `✗ ${text}`);
  return mark === "none" ? `– ${text}` : text;
}

/** A scenario's result table, grouped by its headings in the order of their first rows. */
export function resultLines(
  table: ResultTable,
  rows: readonly Row[],
  paint: Paint,
): readonly string[] {
  const { columns, heading } = table;
  const groups = Map.groupBy(rows, (row) => heading?.(row) ?? "");
  const ordered = [...groups.values()].flat();
  const cells = ordered.map((row) => columns.map((column) => cellOf(column, row, paint)));
  const titles = columns.map((column) => paint("bold", column.title));
  const lines = alignTable(
    titles,
    cells,
    columns.map((column) => column.align ?? "left"),
  );
  const out = [lines[0] ?? ""];
  let next = 1;
  for (const [title, group] of groups) {
    if (title !== "") out.push("", paint("bold", title));
    out.push(...lines.slice(next, next + group.length));
    next += group.length;
  }
  return out;
}
