/**
 * A translation table read for a person: the entries that one walk meets, and everything that is mapped.
 * Reads bytes only, with the format of shared/pte.ts and none of the hardware's or the hypervisor's code, so
 * that it shows what is there and not what they make of it.
 */
import { at } from "../shared/assert.ts";
import { indexOf, mfnAt } from "../shared/layout.ts";
import { NOT_PRESENT, TABLE_ENTRIES } from "../shared/limits.ts";
import { rootGfnEnd, rootLevel, rootPages } from "../shared/mmu.ts";
import {
  isTable,
  levelFrames,
  P2M_TYPE_NAMES,
  PTE_HIGH_XN,
  PTE_READ,
  PTE_VALID,
  PTE_WRITE,
  pteMfn,
  pteType,
} from "../shared/pte.ts";
import { FrameIndex } from "../shared/units.ts";
import type { View } from "./view.ts";

/** One entry on the way. */
export interface WalkStep {
  readonly level: number;
  /** Machine frame of the table page. */
  readonly table: number;
  readonly slot: number;
  /** Both words of the entry, high word first, as one hexadecimal number. */
  readonly raw: string;
  readonly meaning: string;
}

export interface Walk {
  readonly steps: readonly WalkStep[];
  /** Machine frame reached, or undefined: nothing is mapped there. */
  readonly mfn: number | undefined;
  readonly type: string;
  readonly permissions: string;
  /** Frames that the entry covers. */
  readonly covers: number;
}

const NOWHERE = { mfn: undefined, type: "none", permissions: "---", covers: 1 } as const;

const hex32 = (word: number): string => (word >>> 0).toString(16).padStart(8, "0");

/** Follows the table whose root is at frame index `root`, for one frame number. */
export function walkTable(view: View, root: number, frame: number): Walk {
  const { layout, words, memory } = view;
  // A PV domain has no such table.
  if (root === NOT_PRESENT || frame >= rootGfnEnd(layout)) return { ...NOWHERE, steps: [] };
  const steps: WalkStep[] = [];
  let level = rootLevel(layout);
  let table = root + Math.floor(frame / (TABLE_ENTRIES * levelFrames(level)));
  for (;;) {
    const slot = Math.floor(frame / levelFrames(level)) % TABLE_ENTRIES;
    const word = memory.peek(FrameIndex(table), slot * 8);
    const high = memory.peek(FrameIndex(table), slot * 8 + 4);
    const step = {
      level,
      table: mfnAt(layout, table),
      slot,
      raw: `0x${hex32(high)}${hex32(word)}`,
    };
    if ((word & PTE_VALID) === 0) {
      steps.push({ ...step, meaning: "nothing here" });
      return { ...NOWHERE, steps };
    }
    const target = pteMfn(word, high);
    if (!isTable(word, level)) {
      const leaf = leafOf(word, high, level, frame);
      steps.push({ ...step, meaning: leaf.meaning });
      return { ...leaf, steps };
    }
    steps.push({ ...step, meaning: `table at mfn 0x${target.toString(16)}` });
    const next = indexOf(layout, words, target);
    if (next === NOT_PRESENT) return { ...NOWHERE, steps };
    table = next;
    level++;
  }
}

interface Leaf extends Omit<Walk, "steps" | "mfn"> {
  readonly mfn: number;
  readonly meaning: string;
}

function leafOf(word: number, high: number, level: number, frame: number): Leaf {
  const covers = levelFrames(level);
  const mfn = pteMfn(word, high) + (frame % covers);
  const type = P2M_TYPE_NAMES[pteType(high)] ?? `type ${pteType(high)}`;
  const permissions =
    ((word & PTE_READ) === 0 ? "-" : "r") +
    ((word & PTE_WRITE) === 0 ? "-" : "w") +
    ((high & PTE_HIGH_XN) === 0 ? "x" : "-");
  const what = covers === 1 ? "page" : `block of ${covers} frames`;
  const meaning = `${what} at mfn 0x${pteMfn(word, high).toString(16)}, ${type}, ${permissions}`;
  return { mfn, type, permissions, covers, meaning };
}

/** A run of frames with one type and, as far as it is constant, one offset between frame and machine frame. */
export interface MappedRange {
  readonly first: number;
  readonly count: number;
  readonly type: string;
  /** Machine frame of the first; the others follow it when `consecutive`. */
  readonly mfn: number;
  readonly consecutive: boolean;
}

interface Growing {
  first: number;
  count: number;
  type: string;
  mfn: number;
  consecutive: boolean;
}

/** Everything that a table maps, as runs of one type, ascending. */
export function mappedRanges(view: View, root: number): readonly MappedRange[] {
  const ranges: Growing[] = [];
  eachMapping(view, root, (first, { covers, mfn, type }) => grow(ranges, first, covers, mfn, type));
  return ranges;
}

type Mapping = (
  first: number,
  leaf: Omit<Walk, "steps" | "mfn"> & { readonly mfn: number },
) => void;

/** Calls `found` with each page and block that a table maps, ascending. */
export function eachMapping(view: View, root: number, found: Mapping): void {
  for (let page = 0; page < rootPages(view.layout); page++) {
    const level = rootLevel(view.layout);
    visit(view, root + page, level, page * TABLE_ENTRIES * levelFrames(level), found);
  }
}

function visit(view: View, table: number, level: number, base: number, found: Mapping): void {
  const { layout, words, memory } = view;
  for (let slot = 0; slot < TABLE_ENTRIES; slot++) {
    const word = memory.peek(FrameIndex(table), slot * 8);
    if ((word & PTE_VALID) === 0) continue;
    const high = memory.peek(FrameIndex(table), slot * 8 + 4);
    const first = base + slot * levelFrames(level);
    if (!isTable(word, level)) {
      found(first, leafOf(word, high, level, first));
      continue;
    }
    const next = indexOf(layout, words, pteMfn(word, high));
    if (next !== NOT_PRESENT) visit(view, next, level + 1, first, found);
  }
}

function grow(ranges: Growing[], first: number, count: number, mfn: number, type: string): void {
  const last = ranges.at(-1);
  if (last === undefined || last.type !== type || last.first + last.count !== first) {
    ranges.push({ first, count, type, mfn, consecutive: true });
    return;
  }
  last.consecutive &&= last.mfn + last.count === mfn;
  last.count += count;
}

/** Reads a column of the frame table. */
export const frameWord = (view: View, column: number, index: number): number =>
  at(view.words, column + index);
