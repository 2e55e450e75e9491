/**
 * State of one replay: the machine, the actors, and what the symbols of the recording stand for.
 *
 * Rule: a handle or port symbol means what this machine answered when the symbol first appeared; the raw numbers
 * of the recording are compared, never used, unless this machine has answered nothing.
 */
import type { Machine } from "../explore/state.ts";
import { entryFrame, P2M_NOTHING, p2mLookup } from "../hypervisor/p2m.ts";
import { at } from "../shared/assert.ts";
import { DOM, domainOf, LINE, lineOf, mfnAt } from "../shared/layout.ts";
import { walkPv } from "../shared/mmu.ts";
import { DomId } from "../shared/units.ts";
import type { Actor } from "./conform-actor.ts";
import type { Recording, Value } from "./conform-format.ts";
import { numberOf, type Wide, wideOf, wideOfHex } from "./conform-values.ts";

/** A grant entry that the recording has set: looked at after every hypercall. */
export interface WatchedEntry {
  readonly symbol: string;
  readonly actor: Actor;
  readonly ref: number;
  flags: number;
}

/** A port that was handed out. `bits` is undefined until it is first looked at. */
export interface WatchedPort {
  readonly symbol: string;
  readonly actor: Actor;
  readonly port: number;
  bits: number | undefined;
  watched: boolean;
}

export interface Replay {
  readonly machine: Machine;
  readonly symbols: Recording["symbols"];
  readonly actors: ReadonlyMap<string, Actor>;
  /** Dom0, whether it is an actor or not. */
  readonly dom0: Actor;
  readonly bus: Actor;
  readonly control: Actor;
  readonly handles: Map<string, number>;
  /** Handles of Dom0's daemons for the console and store pages of each guest, by domid; empty without a toolstack. */
  readonly daemonHandles: Map<number, readonly number[]>;
  readonly busAddresses: Map<string, Wide>;
  readonly ports: Map<string, number>;
  /** Machine frames of the first RAM pages of each actor, as they were before step 0. */
  readonly initial: ReadonlyMap<string, readonly number[]>;
  /** Form of each actor's grant table, where it has changed it, and whether its status words are in view. */
  readonly versions: Map<string, { readonly version: number; readonly status: boolean }>;
  /** Actors of whose status words the recording speaks. */
  readonly statusShown: ReadonlySet<string>;
  readonly entries: Map<string, WatchedEntry>;
  readonly portBits: Map<string, WatchedPort>;
  /** Pages of the FIFO event array of each domain that has entered that ABI, by domid. */
  readonly eventArrays: Map<number, number[]>;
  /** Event interrupts that each vCPU slot has acknowledged: its event word when it last did. */
  readonly acknowledged: Map<number, number>;
}

/** RAM pages that have names in recordings. */
const NAMED_PAGES = 512;

/** Machine frames of the pages f0, f1, ... of an actor. */
export function initialFrames(machine: Machine, actor: Actor): readonly number[] {
  if (actor.places.virtual === true) {
    return Array.from({ length: NAMED_PAGES }, (_, page) =>
      mfnOfPage(machine, actor, actor.places.f0 + page),
    );
  }
  return Array.from({ length: NAMED_PAGES }, (_, page) => {
    const entry = p2mLookup(machine.xen, DomId(actor.domid), actor.places.f0 + page);
    return entry === P2M_NOTHING ? -1 : (mfnAt(machine.layout, entryFrame(entry)) as number);
  });
}

/** Machine frame behind a virtual page of a PV actor's RAM. */
export function mfnOfPage(machine: Machine, actor: Actor, page: number): number {
  const { words, memory, layout } = machine;
  const root = at(words, lineOf(layout, actor.slot) + LINE.ROOT);
  const found = walkPv(layout, words, memory, root, page);
  return found < 0 ? -1 : mfnAt(layout, found >>> 3);
}

/** The actor of a name. */
export function actorNamed(replay: Replay, name: string | undefined): Actor {
  const actor = name === undefined ? undefined : replay.actors.get(name);
  if (actor === undefined) throw new Error(`no actor ${name ?? "at all"}`);
  return actor;
}

/** What a number or symbol stands for, exactly. */
export function wideValue(replay: Replay, value: Value | undefined): Wide {
  if (typeof value === "number") return wideOf(value);
  if (typeof value === "boolean") return wideOf(value ? 1 : 0);
  if (typeof value !== "string")
    throw new Error(`not a number or symbol: ${JSON.stringify(value)}`);
  if (/^0x[0-9a-f]{1,16}$/i.test(value)) return wideOfHex(value);
  const bus = /^\$(h\d+)\.dev_bus_addr(?:\+(\d+))?$/.exec(value);
  if (bus !== null) {
    const address = replay.busAddresses.get(bus[1] ?? "") ?? wideOf(0);
    return bus[2] === undefined ? address : wideOf(numberOf(address) + Number(bus[2]));
  }
  return wideOf(symbolValue(replay, value));
}

/** What a number or symbol stands for; exact up to 2^53. */
export const numberValue = (replay: Replay, value: Value | undefined): number =>
  numberOf(wideValue(replay, value));

/** As `numberValue`, but the page of an actor is where it has it itself: in a PV guest no machine frame. */
export function pageValue(replay: Replay, value: Value | undefined): number {
  const place = typeof value === "string" ? /^\$(\w+)\.f(\d+)$/.exec(value) : null;
  if (place === null) return numberValue(replay, value);
  return actorNamed(replay, place[1]).places.f0 + Number(place[2]);
}

function symbolValue(replay: Replay, text: string): number {
  const sum = /^(.*[^+])\+(\d+)$/.exec(text);
  if (sum !== null && sum[1] !== "$hole") {
    return symbolValue(replay, sum[1] ?? "") + Number(sum[2]);
  }
  if (text === "DOMID_SELF") return 0x7ff0;
  const wrapped = /^\$(gfn|addr|mfn|maddr)\((.+)\)$/.exec(text);
  if (wrapped !== null) return placeValue(replay, wrapped[1] ?? "", wrapped[2] ?? "");
  if (/^\$h\d+$/.test(text)) return replay.handles.get(text.slice(1)) ?? rawOf(replay, text);
  if (/^\$p\d+$/.test(text)) return replay.ports.get(text.slice(1)) ?? rawOf(replay, text);
  const hole = /^\$hole\+(\d+)$/.exec(text);
  if (hole !== null) return HOLE_FRAME + Number(hole[1]);
  const ref = /^\$(\w+)\.r(\d+)$/.exec(text);
  if (ref !== null) return replay.symbols[text.slice(1)]?.raw ?? Number(ref[2]);
  if (/^\$\w+$/.test(text)) return actorNamed(replay, text.slice(1)).domid;
  // $B.v0 alone is an address; every other place alone is a frame number.
  const place = text.slice(1);
  return /\.v\d+$/.test(place) ? frameOf(replay, place) * 4096 : frameOf(replay, place);
}

function rawOf(replay: Replay, text: string): number {
  const raw = replay.symbols[text.slice(1)]?.raw;
  if (raw === undefined) throw new Error(`unknown symbol ${text}`);
  return raw;
}

/** First frame of an area in which no guest has memory. */
const HOLE_FRAME = 0x70000;

function placeValue(replay: Replay, form: string, place: string): number {
  if (form === "mfn" || form === "maddr") {
    const page = /^(\w+)\.f(\d+)$/.exec(place);
    const mfn = replay.initial.get(page?.[1] ?? "")?.[Number(page?.[2])];
    if (mfn === undefined) throw new Error(`unknown page ${place}`);
    return form === "mfn" ? mfn : mfn * 4096;
  }
  // An address of a guest's RAM is where the guest has it.
  const own = form === "addr" && /^\w+\.f\d+$/.test(place);
  const frame = own ? pageValue(replay, `$${place}`) : frameOf(replay, place);
  return form === "gfn" ? frame : frame * 4096;
}

/** A PV guest names its pages, and those that Xen shares with it, by machine frames. Undefined: a virtual page. */
function machineFrame(
  { initial, machine }: Replay,
  actor: Actor,
  what: string | undefined,
  n: number,
): number | undefined {
  const { words, layout } = machine;
  const own = (column: number): number => mfnAt(layout, at(words, column));
  switch (what) {
    case "f":
      return initial.get(actor.name)?.[n];
    case "grant_frame":
      return own(layout.grantFrame + actor.domid * layout.model.limits.grantFrames + n);
    case "shared_info_frame":
      return own(domainOf(layout, actor.domid) + DOM.SHARED_INFO);
    default:
      return undefined;
  }
}

/** Frame number of a place: A.f3, A.v0, A.grant_frame0, A.shared_info_frame, A.ram+8M, hole+5. */
function frameOf(replay: Replay, place: string): number {
  const hole = /^hole\+(\d+)$/.exec(place);
  if (hole !== null) return HOLE_FRAME + Number(hole[1]);
  const parts = /^(\w+)\.(f|v|grant_frame|shared_info_frame|ram\+)(\d*)(M?)$/.exec(place);
  const actor = actorNamed(replay, parts?.[1]);
  const { places } = actor;
  const n = Number(parts?.[3]);
  if (places.virtual === true) {
    const mfn = machineFrame(replay, actor, parts?.[2], n);
    if (mfn !== undefined) return mfn;
  }
  switch (parts?.[2]) {
    case "f":
      return places.f0 + n;
    case "v":
      return places.v0 + n;
    case "grant_frame":
      return places.grantFrame0 + n;
    case "shared_info_frame":
      return places.sharedInfo;
    case "ram+":
      return places.ram + n * 256;
    default:
      throw new Error(`unknown place ${place}`);
  }
}
