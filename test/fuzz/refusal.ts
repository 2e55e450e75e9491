/**
 * A refusal leaves the state as it was (I-32): every control word, every translation, and every word of the pages of
 * Xen that guests can see, compared with a copy taken before the request.
 *
 * What may differ, and why:
 *   clock, doorbells, trace, channels, samples, TLBs, event and access words, hypercall and flush counters: not state
 *   generations, links and heads of lists: an order in which nothing is remembered but what comes next
 *   table pages and their pools, blocks broken up: a path is prepared before the entry that needs it is refused
 *   frames of the Xen heap that nobody owned, and the sizes of tables that grew: growth stays, as in Xen
 *   rows of domains that do not exist, of free handles and of active entries without a pin: nobody reads them
 *   all but the state of a free port: it gets its defaults when it is looked for
 *   the type of a page that nobody uses by its type
 *   reading and writing bits that a guest had set itself: the hypervisor may take them back
 *   slots and events, when the refusal was the crash of its domain, as Xen answers an entry over a special one
 */

import { ECS_FREE } from "../../hypervisor/event-ports.ts";
import { statusFramesFor } from "../../hypervisor/grant-v2.ts";
import { domainField, lineField } from "../../hypervisor/xen.ts";
import { GTF_reading, GTF_writing } from "../../shared/abi/grant.ts";
import { PGT_count_mask } from "../../shared/frame-flags.ts";
import {
  DOM,
  DOMAIN_FREE,
  DOMAIN_WORDS,
  type Layout,
  LINE,
  LINE_WORDS,
  MACHINE,
  SLOT_DEAD,
  SLOT_LIVE,
} from "../../shared/layout.ts";
import {
  EVTCHN_FIFO_ARRAY_PAGES,
  EVTCHN_FIFO_QUEUES,
  GRANT_ENTRIES_PER_FRAME,
  GRANT_STATUS_PER_FRAME,
  MAPTRACK_PER_FRAME,
  NOT_PRESENT,
  VCPUS_MAX,
} from "../../shared/limits.ts";
import type { FrameIndex } from "../../shared/units.ts";
import { isSame, type SharedPage, sharedPages, translationsOf } from "./refusal-state.ts";
import type { World } from "./world.ts";

const STATUS_BITS = GTF_reading | GTF_writing;

/** Tables of which no word is state, by their name in the layout. */
const IGNORED_TABLES: ReadonlySet<string> = new Set([
  "frameNext",
  "framePrevious",
  "frameGeneration",
  "frameDma",
  "channels",
  "tlbTags",
  "tlbValues",
  "holds",
  "samples",
  // Table pages stay when an entry is refused, and what is owed a device is not undone: the audit recounts both.
  "iommu",
  "invalidations",
  "faults",
  "history",
  "trace",
]);
const STATE_OF_MACHINE: readonly number[] = [
  MACHINE.STOP,
  MACHINE.FREE_FRAMES,
  MACHINE.DOMID_ROVER,
  MACHINE.DEAD_DOMAINS,
];
const STATE_OF_LINE: readonly number[] = [
  LINE.STATE,
  LINE.KIND,
  LINE.DOMAIN,
  LINE.NUMBER,
  LINE.ROOT,
  LINE.MODE,
  LINE.INTERRUPTS,
  LINE.HELD,
];
/** What a crash changes: the slots of the domain, its reason, the toolstack's event and the pages it is told in. */
const CRASH_TABLES: ReadonlySet<string> = new Set(["lines", "portState"]);
const CRASH_COLUMNS: readonly number[] = [DOM.SHUTDOWN, DOM.PAUSE];

const IGNORED_OF_DOMAIN: ReadonlySet<number> = new Set([
  DOM.XENHEAP_PAGES,
  DOM.PAGE_LIST,
  DOM.XENPAGE_LIST,
  DOM.P2M_POOL,
  DOM.P2M_POOL_FREE,
  DOM.P2M_PAGES,
  DOM.P2M_PAGE_COUNT,
  DOM.GRANT_FRAMES,
  DOM.MAPTRACK_LIMIT,
  DOM.VALID_EVTCHNS,
  DOM.SUPERPAGES_SPLIT,
  DOM.P2M_SEQUENCE,
  DOM.MAPTRACK_HEAD,
  DOM.MAPTRACK_HEAD + 1,
  DOM.MAPTRACK_HEAD + 2,
  DOM.MAPTRACK_HEAD + 3,
  DOM.MAPTRACK_TAIL,
  DOM.MAPTRACK_TAIL + 1,
  DOM.MAPTRACK_TAIL + 2,
  DOM.MAPTRACK_TAIL + 3,
]);

interface Table {
  readonly name: string;
  readonly base: number;
}

/** Tables in the order in which they lie, from the layout itself: a new table is compared unless it says otherwise. */
function tablesOf(layout: Layout): readonly Table[] {
  const sizes = new Set([
    "words",
    "ramFrames",
    "frames",
    "chunks",
    "identityRows",
    "historyRecords",
  ]);
  const named = Object.entries(layout).flatMap(([name, base]) =>
    // A table that is not kept lies nowhere: at 0.
    typeof base === "number" && base > 0 && !sizes.has(name) ? [{ name, base }] : [],
  );
  return [{ name: "machine", base: 0 }, ...named].sort((a, b) => a.base - b.base);
}

/** Runs of words that are state, first and end, once for a layout. */
function stateRuns(
  layout: Layout,
  tables: readonly Table[],
): readonly (readonly [number, number])[] {
  const runs: [number, number][] = [];
  const add = (word: number): void => {
    const last = runs.at(-1);
    if (last?.[1] === word) last[1]++;
    else runs.push([word, word + 1]);
  };
  tables.forEach(({ name, base }, i) => {
    if (IGNORED_TABLES.has(name)) return;
    const end = tables[i + 1]?.base ?? layout.words;
    for (let word = base; word < end; word++) {
      const at = word - base;
      if (name === "machine" && !STATE_OF_MACHINE.includes(at)) continue;
      if (name === "lines" && !STATE_OF_LINE.includes(at % LINE_WORDS)) continue;
      if (name === "domains" && IGNORED_OF_DOMAIN.has(at % DOMAIN_WORDS)) continue;
      add(word);
    }
  });
  return runs;
}

/** What a page of a grant table holds, and the row of the first active entry that it speaks of. */
interface Entries {
  readonly isStatus: boolean;
  readonly firstRow: number;
}

/** Takes copies of one machine's state and compares them with what is there later. */
export class Refusals {
  readonly #world: World;
  readonly #tables: readonly Table[];
  readonly #runs: readonly (readonly [number, number])[];
  readonly #before: Int32Array;
  #translations = 0;
  #sum = 0;
  /** Step after which the sum was taken. */
  #sumAt = -1;
  #pages: readonly SharedPage[] = [];

  constructor(world: World) {
    const { layout } = world.xen;
    this.#world = world;
    this.#tables = tablesOf(layout);
    this.#runs = stateRuns(layout, this.#tables);
    this.#before = new Int32Array(layout.words);
  }

  remember(): void {
    const { xen } = this.#world;
    this.#before.set(xen.words);
    this.#translations = this.#translationsNow();
    this.#pages = sharedPages(xen);
  }

  /** Only the hypervisor's own steps change a P2M, so the sum is taken once between two of them. */
  #translationsNow(): number {
    const { steps } = this.#world;
    if (this.#sumAt !== steps) this.#sum = translationsOf(this.#world);
    this.#sumAt = steps;
    return this.#sum;
  }

  /** What differs, in words; `written` are frames that hold the request's own arguments. */
  differences(written: ReadonlySet<number>): readonly string[] {
    const { xen } = this.#world;
    const found: string[] = [];
    const words = xen.words;
    const before = this.#before;
    const crashed = this.#crashed();
    for (const [from, end] of this.#runs) {
      if (isSame(words, before, from, end)) continue;
      for (let i = from; i < end && found.length < 4; i++) {
        const what = words[i] === before[i] ? undefined : this.#name(i, crashed);
        if (what !== undefined) found.push(`${what} was ${before[i]} and is ${words[i]}`);
      }
    }
    const was = this.#translations;
    if (this.#translationsNow() !== was) found.push("a P2M translates otherwise");
    const infos = crashed ? this.#sharedInfos() : undefined;
    for (const { frame, content } of this.#pages) {
      if (!written.has(frame) && infos?.has(frame) !== true)
        found.push(...this.#changedWords(frame, content));
    }
    return found;
  }

  /** Whether a domain has crashed since: its vCPUs are dead then. */
  #crashed(): boolean {
    const { xen } = this.#world;
    for (let slot = 0; slot < xen.model.limits.slots; slot++) {
      const was = this.#was("lines", slot * LINE_WORDS + LINE.STATE);
      if (was === SLOT_LIVE && lineField(xen, slot, LINE.STATE) === SLOT_DEAD) return true;
    }
    return false;
  }

  #sharedInfos(): ReadonlySet<number> {
    const { xen } = this.#world;
    return new Set(this.#world.domains().map((id) => domainField(xen, id, DOM.SHARED_INFO)));
  }

  /** Names a word that changed; undefined: it may. */
  #name(word: number, crashed: boolean): string | undefined {
    const { xen } = this.#world;
    const { limits } = xen.model;
    let table = this.#tables[0];
    for (const next of this.#tables) if (next.base <= word) table = next;
    if (table === undefined) return undefined;
    const at = word - table.base;
    const text = `${table.name}[${at}]`;
    if (crashed && CRASH_TABLES.has(table.name)) return undefined;
    if (crashed && table.name === "domains" && CRASH_COLUMNS.includes(at % DOMAIN_WORDS)) {
      return undefined;
    }
    const refs = limits.grantFrames * GRANT_ENTRIES_PER_FRAME;
    const handles = limits.maptrackFrames * MAPTRACK_PER_FRAME;
    switch (table.name) {
      case "frameCount":
      case "frameOwner":
        return this.#wasNobodys(at) ? undefined : text;
      case "frameType": {
        if (this.#wasNobodys(at)) return undefined;
        // A page that nobody uses by its type keeps the last one, as in Xen.
        const counts = (xen.words[word] ?? 0) | this.#was("frameType", at);
        return (counts & PGT_count_mask) === 0 ? undefined : text;
      }
      case "domains": {
        const row = at - (at % DOMAIN_WORDS);
        return this.#was("domains", row + DOM.STATE) === DOMAIN_FREE ? undefined : text;
      }
      case "actDomid":
      case "actFrame":
      case "actKind":
      case "actWindow":
        return this.#was("actPin", at) === 0 ? undefined : this.#ofDomain(at, refs, text);
      case "actPin":
        return this.#ofDomain(at, refs, text);
      case "trackRef":
      case "trackDomid":
      case "trackVcpu":
        return this.#was("trackFlags", at) === 0 ? undefined : this.#ofDomain(at, handles, text);
      case "trackFlags":
        return this.#ofDomain(at, handles, text);
      case "grantFrame":
      case "statusFrame":
        return undefined;
      case "fifoArray":
        return this.#ofDomain(at, EVTCHN_FIFO_ARRAY_PAGES, text);
      case "fifoControl":
        return this.#ofDomain(at, 2 * VCPUS_MAX, text);
      case "fifoTail":
        return this.#ofDomain(at, EVTCHN_FIFO_QUEUES * VCPUS_MAX, text);
      default:
        if (!table.name.startsWith("port")) return text;
        // A free port has a state and nothing else: the rest is set when it is looked for, as in Xen.
        if (table.name !== "portState" && this.#was("portState", at) === ECS_FREE) return undefined;
        return this.#ofDomain(at, limits.ports, text);
    }
  }

  /** Whether a frame was a page of the Xen heap that nobody owned. */
  #wasNobodys(frame: number): boolean {
    const { xenHeapPages } = this.#world.xen.model.limits;
    return frame < xenHeapPages && this.#was("frameOwner", frame) === NOT_PRESENT;
  }

  #ofDomain(at: number, rows: number, text: string): string | undefined {
    const row = Math.floor(at / rows) * DOMAIN_WORDS;
    return this.#was("domains", row + DOM.STATE) === DOMAIN_FREE ? undefined : text;
  }

  /** Words of a page of Xen that changed, but for status bits that may. */
  #changedWords(frame: FrameIndex, before: Int32Array): readonly string[] {
    const { xen } = this.#world;
    const found: string[] = [];
    const entries = this.#entriesOf(frame);
    for (let i = 0; i < before.length && found.length < 2; i++) {
      const was = before[i] ?? 0;
      const is = xen.memory.peek(frame, i * 4);
      if (is === was) continue;
      if (entries !== undefined && this.#isStatusChange(entries, i, was, is)) continue;
      found.push(`word ${i} of Xen's page ${frame} was 0x${hex(was)} and is 0x${hex(is)}`);
    }
    return found;
  }

  /**
   * Status bits that were set may be cleared, whoever set them; those of a pinned entry may be set too, because a guest
   * had rewritten what they were. Nothing else of an entry changes.
   */
  #isStatusChange(entries: Entries, cell: number, was: number, is: number): boolean {
    for (let half = 0; half < 2; half++) {
      const [before, now] = [(was >>> (half * 16)) & 0xffff, (is >>> (half * 16)) & 0xffff];
      if (now === before) continue;
      const ref = entries.isStatus ? cell * 2 + half : cell / 2;
      // The upper half of a version 1 header is the grantee, and every second cell is a frame.
      if (!entries.isStatus && (half === 1 || cell % 2 !== 0)) return false;
      if ((now & ~STATUS_BITS) !== (before & ~STATUS_BITS)) return false;
      const isSet = (now & ~before) !== 0;
      if (isSet && this.#was("actPin", entries.firstRow + ref) === 0) return false;
    }
    return true;
  }

  /** What a page of a grant table holds that Xen writes: headers of version 1, or status words. */
  #entriesOf(frame: FrameIndex): Entries | undefined {
    const { xen } = this.#world;
    const { grantFrames } = xen.model.limits;
    for (const domid of this.#world.domains()) {
      const of = (column: number): number => this.#was("domains", domid * DOMAIN_WORDS + column);
      const firstRow = domid * grantFrames * GRANT_ENTRIES_PER_FRAME;
      const isVersion2 = of(DOM.GRANT_VERSION) === 2;
      const [table, perFrame, count] = isVersion2
        ? (["statusFrame", GRANT_STATUS_PER_FRAME, statusFramesFor(of(DOM.GRANT_FRAMES))] as const)
        : (["grantFrame", GRANT_ENTRIES_PER_FRAME, of(DOM.GRANT_FRAMES)] as const);
      const rows = isVersion2 ? statusFramesFor(grantFrames) : grantFrames;
      for (let n = 0; n < count; n++) {
        if (this.#was(table, domid * rows + n) !== frame) continue;
        return { isStatus: isVersion2, firstRow: firstRow + n * perFrame };
      }
    }
    return undefined;
  }

  #was(name: string, at: number): number {
    const base = this.#tables.find((table) => table.name === name)?.base ?? 0;
    return this.#before[base + at] ?? 0;
  }
}

const hex = (word: number): string => (word >>> 0).toString(16);
