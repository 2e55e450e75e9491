/**
 * What a scenario of the thread shows of one run: what the two programs have reported and what the machine has counted,
 * and whose frames the device has written. Readers only. A variant says what must come out of it by facts `wanted.<key>`.
 * Ours.
 */
import { at } from "./assert.ts";
import { PGC_xen_heap } from "./frame-flags.ts";
import { DOM, domainOf } from "./layout.ts";
import { NOT_PRESENT, PAGE_SIZE } from "./limits.ts";
import type { Expectation, FinalState, Judgement } from "./scenario.ts";

/** One variant's line: plain JSON. */
export interface ThreadRow {
  readonly name: string;
  readonly backend: string;
  /** Where the backend's pages come from, whether they are consecutive, and the first of them. */
  readonly pages: string;
  readonly contiguous: string;
  readonly first: number | null;
  readonly errno: number;
  /** First address that the device was given, and what made it; null: none. */
  readonly address: number | null;
  readonly by: string | null;
  readonly segments: number;
  readonly bounced: number;
  /** Errno with which the DMA layer refused, or 0. */
  readonly refused: number;
  /** Domains whose frames the device has written. */
  readonly lands: string;
  /** Whether the frontend holds the file's bytes. */
  readonly arrives: boolean;
  /** Grants that the frontend could not end. */
  readonly stillMapped: number;
  /** Counted by the machine, from taking the pages to giving them back (or to the end, if they are held). */
  readonly hypercalls: number;
  readonly superpagesSplit: number;
  /** Table pages that its P2M has more while the buffer is there. */
  readonly tablePages: number;
  /** Pages of RAM that the backend's kernel cannot hand out while it has the buffer. */
  readonly framesGivenUp: number;
  /** How many of them are Xen's meanwhile, and how many afterwards. */
  readonly framesWithXen: number;
  readonly framesLost: number;
  /** Bytes that the backend's CPU has copied, bounce buffers included. */
  readonly copied: number;
  /** Address that a virtio frontend has put into its descriptor. */
  readonly given: string;
  /** Whatever else the backend has said. */
  readonly said: string;
}

function ownerOf(state: FinalState, frame: number): string {
  const { words, layout, model } = state;
  if ((at(words, layout.frameCount + frame) & PGC_xen_heap) !== 0) return "xen";
  const domid = at(words, layout.frameOwner + frame);
  if (domid === NOT_PRESENT) return "nobody";
  return model.domains[at(words, domainOf(layout, domid) + DOM.MODEL)]?.name ?? "nobody";
}

/** Owners of the frames that devices have written, by name. */
function landsIn(state: FinalState): string {
  const { words, layout } = state;
  const owners = new Set<string>();
  for (let frame = 0; frame < layout.ramFrames; frame++) {
    if (at(words, layout.frameDma + frame) > 0) owners.add(ownerOf(state, frame));
  }
  return owners.size === 0 ? "–" : [...owners].sort().join(" ");
}

/** The file's first `pages` pages as a digest. */
function fileHash(state: FinalState, pages: number): string {
  const hash = state.host.sha256();
  const bytes = new Uint8Array(pages * PAGE_SIZE);
  const got = state.host.readAt(0, bytes, bytes.length);
  hash.update(bytes.subarray(0, Math.max(0, got)));
  return hash.hex();
}

/** `pages`: as many of the buffer as the frontend has hashed. */
export function threadRow(state: FinalState, pages: number): ThreadRow {
  const backend = String(state.facts.backend);
  const number = (key: string): number => Number(state.reported(backend, key) ?? 0);
  const maybe = (key: string): number | null =>
    state.reported(backend, key) === undefined ? null : number(key);
  const text = (key: string): string => String(state.reported(backend, key) ?? "–");
  const sum = (key: string): number =>
    number(`alloc.${key}`) + number(`map.${key}`) + number(`free.${key}`);
  const by = state.reported(backend, "by");
  return {
    name: state.variant,
    backend,
    pages: text("pages"),
    contiguous: text("contiguous"),
    first: maybe("first"),
    errno: number("errno"),
    address: maybe("address"),
    by: by === undefined ? null : String(by),
    segments: number("segments"),
    bounced: number("bounced"),
    refused: number("refused"),
    lands: landsIn(state),
    arrives: state.reported("guest", "sha256") === fileHash(state, pages),
    stillMapped: Number(state.reported("guest", "stillMapped") ?? 0),
    hypercalls: sum("hypercalls"),
    tablePages: number("alloc.tablePages") + number("map.tablePages"),
    superpagesSplit: sum("superpagesSplit"),
    framesGivenUp: number("alloc.outOfUse") + number("map.outOfUse"),
    framesWithXen: number("alloc.ramGivenUp") + number("map.ramGivenUp"),
    framesLost: sum("ramGivenUp"),
    copied: number("copied"),
    given: String(state.reported("guest", "given") ?? "–"),
    said: text("said"),
  };
}

const WANTED = "wanted.";

/** The row, held against every fact `wanted.<key>` of the variant. */
export function judgeThread(state: FinalState, pages: number): Judgement {
  const row = threadRow(state, pages);
  const values: Readonly<Record<string, unknown>> = { ...row };
  const expectations: Expectation[] = [];
  for (const [fact, wanted] of Object.entries(state.facts)) {
    if (!fact.startsWith(WANTED)) continue;
    const key = fact.slice(WANTED.length);
    const got = values[key];
    expectations.push({ claim: `${key} is ${wanted}`, holds: got === wanted, got: String(got) });
  }
  return { row: { ...row }, expectations };
}
