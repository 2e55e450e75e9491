/**
 * The history of a run as a picture: one row an operation, a bar from its call to its return, a tick where it took effect.
 * Ours; stress spec section 9.
 */
import type { HistoryRecord } from "../shared/history.ts";
import { markedOperations } from "./commit-replay.ts";
import type { Commit } from "./commits.ts";
import { historiesOf, nameOf } from "./history.ts";

/** One operation; places are steps of the run. */
export interface Bar {
  /** `grant 1/8: d2 map = 0, handle 0`. */
  readonly text: string;
  readonly domain: number;
  readonly from: number;
  /** Undefined: it never returned. */
  readonly to: number | undefined;
  /** Undefined: it left no mark. */
  readonly tick: number | undefined;
}

/** `counts`: records of the history before each step. */
export function historyBars(
  records: readonly HistoryRecord[],
  commits: readonly Commit[],
  counts: readonly number[],
): readonly Bar[] {
  const stepOf = (record: number): number => {
    const after = counts.findIndex((count) => count > record);
    return after < 0 ? counts.length : after;
  };
  const bars = historiesOf(records).flatMap((history) =>
    markedOperations(history, commits).flatMap(({ op, called, returned, mark }): readonly Bar[] => {
      // The second halves of an unmap and of a copy are nobody's call.
      if (op.f === "unpin" || op.f === "release") return [];
      const tick = mark === undefined ? undefined : (mark.step ?? (returned && stepOf(returned)));
      return [
        {
          text: `grant ${history.key}: ${nameOf(op)}`,
          domain: "dom" in op ? op.dom : history.granter,
          from: stepOf(called),
          to: returned === undefined ? undefined : stepOf(returned),
          tick,
        },
      ];
    }),
  );
  return bars.toSorted((one, other) => one.from - other.from);
}

const ROW = 22;
const STEP = 14;
const LABEL = 340;

/** An SVG that follows the colours of the page it stands in. */
export function historyPicture(
  bars: readonly Bar[],
  steps: number,
  escaped: (text: string) => string,
): string {
  const x = (step: number): number => LABEL + step * STEP;
  const rows = bars.map(({ text, from, to, tick }, i) => {
    const y = i * ROW + 4;
    const end = to ?? steps;
    const width = Math.max(x(end) - x(from), 4);
    const open = to === undefined ? ` stroke-dasharray="3"` : "";
    const mark =
      tick === undefined
        ? ""
        : `<line x1="${x(tick)}" x2="${x(tick)}" y1="${y - 3}" y2="${y + 15}" stroke="#a00" stroke-width="2"/>`;
    return (
      `<text x="0" y="${y + 11}" fill="currentColor">${escaped(text)}</text>` +
      `<rect x="${x(from)}" y="${y}" width="${width}" height="12" fill="#69c" fill-opacity=".6" stroke="#369"${open}>` +
      `<title>${escaped(text)}: steps ${from} to ${to ?? "…"}</title></rect>${mark}`
    );
  });
  const height = bars.length * ROW + 20;
  const scale = Array.from({ length: Math.floor(steps / 5) + 1 }, (_, i) => i * 5).map(
    (step) =>
      `<text x="${x(step)}" y="${height - 4}" fill="currentColor" text-anchor="middle">${step}</text>`,
  );
  return `<svg width="${x(steps) + 20}" height="${height}" font-size="12" role="img">${rows.join("\n")}${scale.join("")}</svg>`;
}
