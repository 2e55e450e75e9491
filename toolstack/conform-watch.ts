/**
 * What the recorder looked at after every hypercall: the flags of each grant entry that the scenario has set, and
 * the pending and masked bits of each port that was handed out. A step lists those that have changed since.
 *
 * Rule: looked at through the actor's own memory, as the recorder did; what an actor cannot reach, or has gone
 * with it, has not changed.
 */
import { type Actor, changeWord, isAlive, readWord } from "./conform-actor.ts";
import { eventWordBits, portBitsText, usesFifo } from "./conform-fifo.ts";
import type { Fields, Value } from "./conform-format.ts";
import { numberValue, type Replay } from "./conform-replay.ts";
import { addressV2, isV2, seenOf, seenText } from "./conform-v2.ts";

const ENTRY_BYTES = 8;
export const ENTRIES_PER_FRAME = 512;
/** Offsets in the shared info page of an arm64 guest. */
const PENDING = 64;
const MASK = 64 + 512;

/** Address of a version 1 entry in the actor's view of its own grant table. */
export function entryAddress(actor: Actor, ref: number): number {
  const frame = actor.places.grantFrame0 + Math.floor(ref / ENTRIES_PER_FRAME);
  return frame * 4096 + (ref % ENTRIES_PER_FRAME) * ENTRY_BYTES;
}

/** Address of an entry in the form that the table has. */
export const placeOf = (replay: Replay, actor: Actor, ref: number): number =>
  isV2(replay, actor) ? addressV2(actor, ref) : entryAddress(actor, ref);

/** Address of the word that holds a bit of a port, and the bit in it. */
export function portBit(
  actor: Actor,
  port: number,
  which: "pending" | "masked",
): { readonly address: number; readonly bit: number } {
  const base = actor.places.sharedInfo * 4096 + (which === "pending" ? PENDING : MASK);
  return { address: base + 4 * Math.floor(port / 32), bit: 1 << (port % 32) };
}

/** Flag words of watched entries that have changed, by symbol. */
export function changedEntries(replay: Replay): Map<string, number> {
  const changed = new Map<string, number>();
  for (const entry of replay.entries.values()) {
    const { actor, ref } = entry;
    const address = placeOf(replay, actor, ref);
    const word = isAlive(replay.machine, actor)
      ? readWord(replay.machine, actor, address)
      : undefined;
    if (word === undefined) continue;
    const flags = seenOf(replay, actor, ref, word & 0xffff);
    if (flags === entry.flags) continue;
    entry.flags = flags;
    changed.set(entry.symbol, flags);
  }
  return changed;
}

/** Bits of watched ports that have changed, by symbol. */
export function changedPorts(replay: Replay): Map<string, number> {
  const changed = new Map<string, number>();
  for (const port of replay.portBits.values()) {
    if (!port.watched || !isAlive(replay.machine, port.actor)) continue;
    const bits = portBits(replay, port.actor, port.port);
    if (bits === undefined || bits === port.bits) continue;
    port.bits = bits;
    changed.set(port.symbol, bits);
  }
  return changed;
}

function portBits(replay: Replay, actor: Actor, port: number): number | undefined {
  if (usesFifo(replay, actor)) return eventWordBits(replay, actor, port);
  let bits = 0;
  for (const which of ["pending", "masked"] as const) {
    const { address, bit } = portBit(actor, port, which);
    const word = readWord(replay.machine, actor, address);
    if (word === undefined) return undefined;
    if ((word & bit) !== 0) bits |= which === "pending" ? 1 : 2;
  }
  return bits;
}

/** `changed` as a step would list it, by a spelling of its own; undefined: nothing. */
function listed(
  changed: ReadonlyMap<string, number>,
  expected: Value | undefined,
  spell: (flags: number, expected: Value | undefined) => Value,
): Fields | undefined {
  if (changed.size === 0) return undefined;
  const wanted = (expected ?? {}) as Fields;
  const got: Record<string, Value> = {};
  for (const [symbol, flags] of changed) got[symbol] = spell(flags, wanted[symbol]);
  return got;
}

/** A few scenarios watch an entry that they never set: it shows when a step lists it, and was empty until then. */
function watchListed(replay: Replay, entries: Value | undefined): void {
  for (const symbol of Object.keys((entries ?? {}) as Fields)) {
    const name = /^\$(\w+)\.r\d+$/.exec(symbol)?.[1];
    const actor = name === undefined ? undefined : replay.actors.get(name);
    if (actor === undefined) continue;
    const ref = numberValue(replay, symbol);
    const key = `${actor.name}.${ref}`;
    if (!replay.entries.has(key)) replay.entries.set(key, { symbol, actor, ref, flags: 0 });
  }
}

/** Adds `entries` and `port_bits` to what a step got. */
export function observe(replay: Replay, expected: Fields, got: Record<string, Value>): void {
  watchListed(replay, expected.entries);
  const entries = listed(changedEntries(replay), expected.entries, seenText);
  if (entries !== undefined) got.entries = entries;
  const ports = listed(changedPorts(replay), expected.port_bits, (bits, text) =>
    portBitsText(replay, bits, text),
  );
  if (ports !== undefined) got.port_bits = ports;
}

/** Stores a whole entry, flags last, and watches it from now on. */
export function setEntry(
  replay: Replay,
  actor: Actor,
  entry: { symbol: string; ref: number; flags: number; domid: number; frame: number },
): boolean {
  const { symbol, ref, flags, domid, frame } = entry;
  const address = entryAddress(actor, ref);
  if (changeWord(replay.machine, actor, address + 4, () => frame) === undefined) return false;
  const header = (domid * 65536 + flags) | 0;
  if (changeWord(replay.machine, actor, address, () => header) === undefined) return false;
  replay.entries.set(`${actor.name}.${ref}`, { symbol, actor, ref, flags });
  return true;
}
