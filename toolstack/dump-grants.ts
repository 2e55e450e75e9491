/**
 * Sections of a dump about grants: each entry of a domain's table, shared half and active half side by side, and the
 * handles that it has mapped others' grants by. An entry that is neither offered nor pinned has no row.
 * Behaviour: xen/common/grant_table.c, gnttab_usage_print(), which prints the same columns for debug key `g`.
 */
import {
  GNTMAP_device_map,
  GNTMAP_host_map,
  GNTMAP_readonly,
  GRANT_ENTRY_FRAME,
  GRANT_ENTRY_HEADER,
  GTF_reading,
  GTF_readonly,
  GTF_sub_page,
  GTF_transitive,
  GTF_type_mask,
  GTF_writing,
} from "../shared/abi/grant.ts";
import { at } from "../shared/assert.ts";
import { DOM, mfnAt } from "../shared/layout.ts";
import {
  GRANT_ENTRIES_PER_FRAME,
  GRANT_ENTRIES_PER_FRAME_V2,
  GRANT_ENTRY_BYTES,
  GRANT_ENTRY_BYTES_V2,
  GRANT_STATUS_PER_FRAME,
  MAPTRACK_PER_FRAME,
  PAGE_SIZE,
} from "../shared/limits.ts";
import { formatHex } from "../shared/sizes.ts";
import { FrameIndex } from "../shared/units.ts";
import { domainText, domainWord, section } from "./dump-section.ts";
import type { View } from "./view.ts";

const TYPES = ["invalid", "permit_access", "accept_transfer", "transitive"] as const;

/** What the guest has written, and the status that Xen shows it. */
interface SharedEntry {
  readonly type: (typeof TYPES)[number];
  /** readonly, sub_page, reading, writing. */
  readonly flags: readonly string[];
  readonly domid: number;
  /** Absent for a way to another domain's entry. */
  readonly gfn?: number;
  /** Part of the page (version 2). */
  readonly start?: number;
  readonly length?: number;
  readonly toDomain?: number;
  readonly toRef?: number;
}

/** What only Xen sees, while the entry is pinned. */
interface ActiveEntry {
  readonly domid: number;
  readonly mfn: number;
  readonly hostWriters: number;
  readonly hostReaders: number;
  readonly deviceWriters: number;
  readonly deviceReaders: number;
  readonly start: number;
  readonly length: number;
}

export interface GrantRow {
  readonly ref: number;
  readonly shared: SharedEntry;
  readonly active?: ActiveEntry;
}

const flagsOf = (bits: readonly (readonly [boolean, string])[]): readonly string[] =>
  bits.flatMap(([isSet, name]) => (isSet ? [name] : []));

/** Words of the shared entry of a reference: header, and the rest by byte offset. */
function entryReader(view: View, domid: number, ref: number): (offset: number) => number {
  const isV2 = domainWord(view, domid, DOM.GRANT_VERSION) === 2;
  const perFrame = isV2 ? GRANT_ENTRIES_PER_FRAME_V2 : GRANT_ENTRIES_PER_FRAME;
  const bytes = isV2 ? GRANT_ENTRY_BYTES_V2 : GRANT_ENTRY_BYTES;
  const { layout, words, memory } = view;
  const column = layout.grantFrame + domid * layout.model.limits.grantFrames;
  const frame = FrameIndex(at(words, column + Math.floor(ref / perFrame)));
  const place = (ref % perFrame) * bytes;
  return (offset) => memory.peek(frame, place + offset) >>> 0;
}

function sharedV1(read: (offset: number) => number): SharedEntry {
  const header = read(GRANT_ENTRY_HEADER);
  return {
    type: TYPES[header & GTF_type_mask] ?? "invalid",
    flags: flagsOf([
      [(header & GTF_readonly) !== 0, "readonly"],
      [(header & GTF_reading) !== 0, "reading"],
      [(header & GTF_writing) !== 0, "writing"],
    ]),
    domid: header >>> 16,
    gfn: read(GRANT_ENTRY_FRAME),
  };
}

/** Second cell: part of the page, or the other domain's entry; third and fourth: the frame, 64 bits. */
function sharedV2(read: (offset: number) => number, status: number): SharedEntry {
  const header = read(0);
  const type = header & GTF_type_mask;
  const isPart = (header & GTF_sub_page) !== 0;
  const common = {
    type: TYPES[type] ?? "invalid",
    flags: flagsOf([
      [(header & GTF_readonly) !== 0, "readonly"],
      [isPart, "sub_page"],
      [(status & GTF_reading) !== 0, "reading"],
      [(status & GTF_writing) !== 0, "writing"],
    ]),
    domid: header >>> 16,
  } as const;
  if (type === GTF_transitive) {
    return { ...common, toDomain: read(4) & 0xffff, toRef: read(8) };
  }
  const gfn = read(12) * 2 ** 32 + read(8);
  const part = read(4);
  return isPart
    ? { ...common, gfn, start: part & 0xffff, length: part >>> 16 }
    : { ...common, gfn };
}

/** Status word of a version 2 reference. */
function statusOf({ layout, words, memory }: View, domid: number, ref: number): number {
  const perTable = Math.ceil(
    (layout.model.limits.grantFrames * GRANT_ENTRIES_PER_FRAME_V2) / GRANT_STATUS_PER_FRAME,
  );
  const column = layout.statusFrame + domid * perTable;
  const frame = FrameIndex(at(words, column + Math.floor(ref / GRANT_STATUS_PER_FRAME)));
  const cell = memory.peek(frame, ((ref % GRANT_STATUS_PER_FRAME) >> 1) * 4);
  return (cell >>> ((ref % 2) * 16)) & 0xffff;
}

function activeOf({ layout, words }: View, domid: number, ref: number): ActiveEntry | undefined {
  const row = domid * layout.model.limits.grantFrames * GRANT_ENTRIES_PER_FRAME + ref;
  const pin = at(words, layout.actPin + row);
  if (pin === 0) return undefined;
  const isPart = at(words, layout.actKind + row) !== 0;
  const window = at(words, layout.actWindow + row);
  return {
    domid: at(words, layout.actDomid + row),
    mfn: mfnAt(layout, at(words, layout.actFrame + row)),
    hostWriters: pin & 0xff,
    hostReaders: (pin >>> 8) & 0xff,
    deviceWriters: (pin >>> 16) & 0xff,
    deviceReaders: pin >>> 24,
    start: isPart ? window & 0xffff : 0,
    length: isPart ? window >>> 16 : PAGE_SIZE,
  };
}

function grantRows(view: View, domid: number): readonly GrantRow[] {
  const isV2 = domainWord(view, domid, DOM.GRANT_VERSION) === 2;
  const frames = domainWord(view, domid, DOM.GRANT_FRAMES);
  const entries = frames * (isV2 ? GRANT_ENTRIES_PER_FRAME_V2 : GRANT_ENTRIES_PER_FRAME);
  const rows: GrantRow[] = [];
  for (let ref = 0; ref < entries; ref++) {
    const read = entryReader(view, domid, ref);
    const active = activeOf(view, domid, ref);
    const status = isV2 ? statusOf(view, domid, ref) : 0;
    if ((read(0) & 0xffff) === 0 && status === 0 && active === undefined) continue;
    const shared = isV2 ? sharedV2(read, status) : sharedV1(read);
    rows.push(active === undefined ? { ref, shared } : { ref, shared, active });
  }
  return rows;
}

const windowText = (start: number, length: number): string =>
  start === 0 && length === PAGE_SIZE ? "" : ` +${formatHex(start)}, ${length} bytes`;

function offeredText({ gfn, start, length, toDomain, toRef }: SharedEntry): string {
  if (gfn === undefined) return `reference ${toRef} of ${domainText(toDomain ?? -1)}`;
  return formatHex(gfn) + (start === undefined ? "" : windowText(start, length ?? 0));
}

/** Counts as `w2 r1`, device halves with `d` before them; nothing that is zero. */
function pinText(active: ActiveEntry): string {
  const counts: readonly (readonly [string, number])[] = [
    ["w", active.hostWriters],
    ["r", active.hostReaders],
    ["dw", active.deviceWriters],
    ["dr", active.deviceReaders],
  ];
  return counts
    .filter(([, count]) => count > 0)
    .map(([name, count]) => `${name}${count}`)
    .join(" ");
}

export const grantsSection = section<GrantRow>({
  what: "grants",
  title: "grants offered",
  columns: [
    { title: "ref", align: "right", text: ({ ref }) => String(ref) },
    { title: "to", text: ({ shared }) => domainText(shared.domid) },
    { title: "gfn", text: ({ shared }) => offeredText(shared) },
    { title: "entry", text: ({ shared }) => [shared.type, ...shared.flags].join(" ") },
    { title: "pin", text: ({ active }) => (active === undefined ? "–" : pinText(active)) },
    { title: "by", text: ({ active }) => domainText(active?.domid ?? -1) },
    {
      title: "mfn",
      text: ({ active }) =>
        active === undefined
          ? "–"
          : formatHex(active.mfn) + windowText(active.start, active.length),
    },
  ],
  read: grantRows,
});

interface TrackRow {
  readonly handle: number;
  readonly granter: number;
  readonly ref: number;
  /** host, device, readonly. */
  readonly flags: readonly string[];
  readonly vcpu: number;
}

function trackRows({ layout, words, memory }: View, domid: number): readonly TrackRow[] {
  const limit = domainWord({ layout, words, memory }, domid, DOM.MAPTRACK_LIMIT);
  const first = domid * layout.model.limits.maptrackFrames * MAPTRACK_PER_FRAME;
  const rows: TrackRow[] = [];
  for (let handle = 0; handle < limit; handle++) {
    const flags = at(words, layout.trackFlags + first + handle);
    if (flags === 0) continue;
    rows.push({
      handle,
      granter: at(words, layout.trackDomid + first + handle),
      ref: at(words, layout.trackRef + first + handle),
      flags: flagsOf([
        [(flags & GNTMAP_host_map) !== 0, "host"],
        [(flags & GNTMAP_device_map) !== 0, "device"],
        [(flags & GNTMAP_readonly) !== 0, "readonly"],
      ]),
      vcpu: at(words, layout.trackVcpu + first + handle),
    });
  }
  return rows;
}

export const maptrackSection = section<TrackRow>({
  what: "maptrack",
  title: "handles",
  columns: [
    { title: "handle", align: "right", text: ({ handle }) => String(handle) },
    { title: "granter", text: ({ granter }) => domainText(granter) },
    { title: "ref", align: "right", text: ({ ref }) => String(ref) },
    { title: "mapped for", text: ({ flags }) => flags.join(" ") },
    { title: "vCPU", align: "right", text: ({ vcpu }) => String(vcpu) },
  ],
  read: trackRows,
});
