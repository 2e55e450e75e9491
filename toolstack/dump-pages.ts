/**
 * Sections of a dump that speak of pages: what a domain's P2M maps, the frames it owns, and what its walkers have
 * cached. Neighbours that say the same are one row.
 */
import { at } from "../shared/assert.ts";
import {
  PGC_allocated,
  PGC_count_mask,
  PGC_static,
  PGC_xen_heap,
  PGT_count_mask,
  PGT_l1_page_table,
  PGT_l4_page_table,
  PGT_none,
  PGT_pinned,
  PGT_type_mask,
  PGT_type_shift,
  PGT_validated,
  PGT_writable_page,
} from "../shared/frame-flags.ts";
import { IOMMU_DOMAIN, iommuDomainOf } from "../shared/iommu-layout.ts";
import { iommuSettings } from "../shared/iommu-settings.ts";
import { DOM, LINE, lineOf, mfnAt, SLOT_KIND_DEVICE, SLOT_LIVE } from "../shared/layout.ts";
import { NOT_PRESENT, TLB_ENTRIES } from "../shared/limits.ts";
import { formatHex } from "../shared/sizes.ts";
import { domainWord, type SectionSpec, section } from "./dump-section.ts";
import { eachMapping } from "./p2m-walk.ts";
import type { View } from "./view.ts";

/** A run of frame numbers from `first` on, whose machine frames follow `mfn`. */
interface Run {
  readonly first: number;
  readonly count: number;
  readonly mfn: number;
  /** In a shortened table: its machine frames are not consecutive. */
  readonly isScattered?: true;
}

const rangeText = (first: number, count: number): string =>
  count === 1 ? formatHex(first) : `${formatHex(first)}..${formatHex(first + count - 1)}`;

/** Joins neighbours that say the same; rows must ascend. */
function join<Row extends Run>(rows: readonly Row[], isSame: (a: Row, b: Row) => boolean): Row[] {
  const joined: Row[] = [];
  for (const row of rows) {
    const last = joined.at(-1);
    const isNext =
      last !== undefined &&
      last.first + last.count === row.first &&
      last.mfn + last.count === row.mfn &&
      isSame(last, row);
    if (isNext) joined[joined.length - 1] = { ...last, count: last.count + row.count };
    else joined.push(row);
  }
  return joined;
}

const split = <Row extends Run>(row: Row): readonly Row[] =>
  Array.from({ length: row.count }, (_, i) => ({
    ...row,
    first: row.first + i,
    count: 1,
    mfn: row.mfn + i,
  }));

interface P2mRow extends Run {
  readonly type: string;
  readonly permissions: string;
  /** Frames that one entry covers: 1, or a block's. */
  readonly block: number;
}

const sameEntry = (a: P2mRow, b: P2mRow): boolean =>
  a.type === b.type && a.permissions === b.permissions && a.block === b.block;

/** Neighbours of one kind in one row, wherever their machine frames lie. */
function shorten<Row extends Run>(
  rows: readonly Row[],
  isSame: (a: Row, b: Row) => boolean,
): readonly Row[] {
  const short: Row[] = [];
  for (const row of rows) {
    const last = short.at(-1);
    if (last === undefined || last.first + last.count !== row.first || !isSame(last, row)) {
      short.push(row);
    } else {
      short[short.length - 1] = { ...last, count: last.count + row.count, isScattered: true };
    }
  }
  return short;
}

const mfnText = ({ mfn, count, isScattered }: Run): string =>
  isScattered === true ? `${formatHex(mfn)} and others, scattered` : rangeText(mfn, count);

const BLOCKS: Readonly<Record<number, string>> = { 1: "4 KiB", 512: "2 MiB", 262144: "1 GiB" };

/** Everything that the table with this root maps. */
function mappingsOf(view: View, root: number): readonly P2mRow[] {
  const rows: P2mRow[] = [];
  if (root === NOT_PRESENT) return rows;
  eachMapping(view, root, (first, { covers, mfn, type, permissions }) => {
    rows.push({ first, count: covers, mfn, type, permissions, block: covers });
  });
  return join(rows, sameEntry);
}

/** What both kinds of table are shown as. `number` is what they are walked by. */
const tableSection = (
  number: "gfn" | "dfn",
): Pick<SectionSpec<P2mRow>, "columns" | "shorten" | "runs"> => ({
  columns: [
    { title: number, text: ({ first, count }) => rangeText(first, count) },
    { title: "frames", align: "right", text: ({ count }) => String(count) },
    { title: "type", text: ({ type }) => type },
    { title: "may", text: ({ permissions }) => permissions },
    { title: "entries", text: ({ block }) => BLOCKS[block] ?? String(block) },
    { title: "mfn", text: mfnText },
  ],
  shorten: (rows) => shorten(rows, sameEntry),
  runs: { split, join: (rows) => join(rows, sameEntry) },
});

export const p2mSection = section<P2mRow>({
  ...tableSection("gfn"),
  what: "p2m",
  title: "P2M",
  read: (view, domid) => mappingsOf(view, domainWord(view, domid, DOM.P2M_ROOT)),
});

/** The table that its devices walk, where that is not the P2M. */
export const iommuTableSection = section<P2mRow>({
  ...tableSection("dfn"),
  what: "iommu",
  name: "iommuTable",
  title: "IOMMU table of its own",
  read: (view, domid) =>
    iommuSettings(view.layout.model).tables === "shared"
      ? []
      : mappingsOf(view, at(view.words, iommuDomainOf(view.layout, domid) + IOMMU_DOMAIN.ROOT)),
});

interface FrameRow extends Run {
  readonly references: number;
  readonly flags: readonly string[];
  /** Page type and how often it is relied on, in a machine with PV domains. */
  readonly type?: string;
  /** Bursts that devices have written into each of them. */
  readonly bursts: number;
}

const FLAGS: readonly (readonly [number, string])[] = [
  [PGC_allocated, "allocated"],
  [PGC_xen_heap, "xen_heap"],
  [PGC_static, "static"],
];

const sameUse = (a: FrameRow, b: FrameRow): boolean =>
  a.references === b.references &&
  a.bursts === b.bursts &&
  a.type === b.type &&
  a.flags.join() === b.flags.join();

const TYPE_NAMES: Readonly<Record<number, string>> = {
  [PGT_none]: "none",
  [PGT_l1_page_table]: "l1",
  [PGT_l4_page_table]: "l4",
  [PGT_writable_page]: "writable",
};

/** `l1 x2 pinned validated`; nothing in a machine whose frames have no types. */
function typeOf({ layout, words }: View, frame: number): { readonly type?: string } {
  if (layout.frameType === NOT_PRESENT) return {};
  const word = at(words, layout.frameType + frame);
  const number = (word & PGT_type_mask) >>> PGT_type_shift;
  const parts = [`${TYPE_NAMES[number] ?? `l${number}`} x${word & PGT_count_mask}`];
  if ((word & PGT_pinned) !== 0) parts.push("pinned");
  if ((word & PGT_validated) !== 0) parts.push("validated");
  return { type: parts.join(" ") };
}

/** The frame table, not the domain's page list: whatever says that it belongs to the domain. */
function frameRows(view: View, domid: number): readonly FrameRow[] {
  const { layout, words } = view;
  const rows: FrameRow[] = [];
  for (let frame = 0; frame < layout.ramFrames; frame++) {
    if (at(words, layout.frameOwner + frame) !== domid) continue;
    const count = at(words, layout.frameCount + frame);
    const mfn = mfnAt(layout, frame);
    rows.push({
      first: mfn,
      count: 1,
      mfn,
      references: count & PGC_count_mask,
      flags: FLAGS.flatMap(([bit, name]) => ((count & bit) === 0 ? [] : [name])),
      ...typeOf(view, frame),
      bursts: at(words, layout.frameDma + frame),
    });
  }
  return join(rows, sameUse);
}

/** Runs of one use beyond which a table shows only how many there are. */
const RUNS_SHOWN = 8;

function shortenFrames(rows: readonly FrameRow[]): readonly FrameRow[] {
  const kinds = Map.groupBy(rows, ({ references, flags, bursts, type }) =>
    JSON.stringify([references, flags, bursts, type]),
  );
  return [...kinds.values()].flatMap((kind) => {
    const [first] = kind;
    if (first === undefined || kind.length <= RUNS_SHOWN) return kind;
    const count = kind.reduce((sum, row) => sum + row.count, 0);
    return [{ ...first, count, isScattered: true as const }];
  });
}

export const framesSection = section<FrameRow>({
  what: "frames",
  title: "frames owned",
  columns: [
    { title: "mfn", text: mfnText },
    { title: "frames", align: "right", text: ({ count }) => String(count) },
    { title: "references", align: "right", text: ({ references }) => String(references) },
    { title: "bursts", align: "right", text: ({ bursts }) => String(bursts) },
    { title: "flags", text: ({ flags }) => flags.join(" ") },
    { title: "type", text: ({ type }) => type ?? "–" },
  ],
  read: frameRows,
  shorten: shortenFrames,
  runs: { split, join: (rows) => join(rows, sameUse) },
});

interface TlbRow extends Run {
  readonly slot: number;
  readonly of: string;
  readonly permissions: string;
  /** The walker's next access drops it: a flush has come since its last one. */
  readonly stale: boolean;
}

const sameWalker = (a: TlbRow, b: TlbRow): boolean =>
  a.slot === b.slot && a.permissions === b.permissions && a.stale === b.stale;

/** Slots of a domain's vCPUs and of the devices in its context. */
export function slotsOf(view: View, domid: number): readonly number[] {
  const { layout, words } = view;
  const slots: number[] = [];
  for (let slot = 1; slot < layout.model.limits.slots; slot++) {
    const line = lineOf(layout, slot);
    if (at(words, line + LINE.STATE) !== SLOT_LIVE) continue;
    if (at(words, line + LINE.DOMAIN) === domid) slots.push(slot);
  }
  return slots;
}

/** `vCPU 0`, or the name of a device. */
export function slotName({ layout, words }: View, slot: number): string {
  const line = lineOf(layout, slot);
  const number = at(words, line + LINE.NUMBER);
  if (at(words, line + LINE.KIND) !== SLOT_KIND_DEVICE) return `vCPU ${number}`;
  return layout.model.devices[number]?.name ?? `device ${number}`;
}

function tlbRows(view: View, domid: number): readonly TlbRow[] {
  return slotsOf(view, domid).flatMap((slot) => {
    const rows = cachedRows(view, slot);
    rows.sort((a, b) => a.first - b.first);
    return join(rows, sameWalker);
  });
}

function cachedRows(view: View, slot: number): TlbRow[] {
  const { layout, words } = view;
  const line = lineOf(layout, slot);
  const stale = at(words, line + LINE.GENERATION) !== at(words, line + LINE.INSIDE_GENERATION);
  const rows: TlbRow[] = [];
  // A slot that has made no access yet has an empty cache of zeroes.
  if (at(words, line + LINE.ACCESS) === 0) return rows;
  for (let n = 0; n < TLB_ENTRIES; n++) {
    const first = at(words, layout.tlbTags + slot * TLB_ENTRIES + n);
    if (first === NOT_PRESENT) continue;
    const value = at(words, layout.tlbValues + slot * TLB_ENTRIES + n);
    const permissions = `${value & 1 ? "r" : "-"}${value & 2 ? "w" : "-"}${value & 4 ? "x" : "-"}`;
    const mfn = mfnAt(layout, value >>> 3);
    rows.push({ first, count: 1, mfn, slot, of: slotName(view, slot), permissions, stale });
  }
  return rows;
}

export const tlbSection = section<TlbRow>({
  what: "tlb",
  title: "TLB and IOTLB",
  columns: [
    { title: "of", text: ({ of }) => of },
    { title: "gfn or dfn", text: ({ first, count }) => rangeText(first, count) },
    { title: "mfn", text: mfnText },
    { title: "may", text: ({ permissions }) => permissions },
    { title: "state", text: ({ stale }) => (stale ? "dropped at the next access" : "live") },
  ],
  read: tlbRows,
  shorten: (rows) => shorten(rows, sameWalker),
  runs: { split, join: (rows) => join(rows, sameWalker) },
});
