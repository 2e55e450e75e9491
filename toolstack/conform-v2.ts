/**
 * Grant entries of version 2 as the recorder saw them: a table has one form at a time, and its status words are seen
 * where the recorder had mapped the status frame, which it did for recordings that speak of them.
 */
import { type Actor, changeWord, readWord } from "./conform-actor.ts";
import type { Fields, Value } from "./conform-format.ts";
import { numberValue, type Replay, wideValue } from "./conform-replay.ts";
import { ENTRY_FLAG_NAMES, flagsOf, flagText, type Wide } from "./conform-values.ts";

const STATUS_FRAME = 0x100;
/** Beside flags and status of an entry: its status was seen. */
const SEEN = 2 ** 32;

/** Frame number at which an actor has its status frame: well behind its grant frames. */
export const statusFrameOf = (actor: Actor): number => actor.places.grantFrame0 + STATUS_FRAME;

export const isV2 = (replay: Replay, actor: Actor): boolean =>
  replay.versions.get(actor.name)?.version === 2;

export const addressV2 = (actor: Actor, ref: number): number =>
  (actor.places.grantFrame0 + Math.floor(ref / 256)) * 4096 + (ref % 256) * 16;

/** Status word of an entry; undefined: not mapped. */
function statusOf(replay: Replay, actor: Actor, ref: number): number | undefined {
  if (replay.versions.get(actor.name)?.status !== true) return undefined;
  const address = statusFrameOf(actor) * 4096 + (ref >> 1) * 4;
  const word = readWord(replay.machine, actor, address);
  return word === undefined ? undefined : (word >>> ((ref % 2) * 16)) & 0xffff;
}

/** What is seen of an entry at once, as one number: flags, status, and whether the status was seen. */
export function seenOf(replay: Replay, actor: Actor, ref: number, flags: number): number {
  const status = statusOf(replay, actor, ref);
  return status === undefined ? flags : SEEN + status * 65536 + flags;
}

function spell(flags: number, text: Value | undefined): string {
  const same = typeof text === "string" && flagsOf(text, ENTRY_FLAG_NAMES) === flags;
  return same ? text : flagText(flags, ENTRY_FLAG_NAMES);
}

export function seenText(seen: number, expected: Value | undefined): Value {
  const flags = seen % 65536;
  if (seen < SEEN) return spell(flags, expected);
  const wanted = (typeof expected === "object" ? expected : {}) as Fields;
  const status = Math.floor(seen / 65536) % 65536;
  return { flags: spell(flags, wanted.flags), status: spell(status, wanted.status) };
}

const isWide = (wide: Wide, low: number, high: number): boolean =>
  wide[0] === low && wide[1] === high;

/** Fields of each shape: name, offset and bytes. */
const SHAPES = [
  ["domid", 2, 2],
  ["pad", 4, 4],
  ["page_off", 4, 2],
  ["length", 6, 2],
  ["trans_domid", 4, 2],
  ["gref", 8, 4],
  ["frame", 8, 8],
] as const;

/** Stores a version 2 entry, its header last. */
export function storeV2(replay: Replay, actor: Actor, fields: Fields, flags: number): boolean {
  const words = [flags, 0, 0, 0];
  for (const [name, offset, bytes] of SHAPES) {
    if (fields[name] === undefined) continue;
    const [low, high] = wideValue(replay, fields[name]);
    const cell = offset >> 2;
    words[cell] = ((words[cell] ?? 0) | (low << ((offset % 4) * 8))) >>> 0;
    if (bytes === 8) words[cell + 1] = high;
  }
  const address = addressV2(actor, numberValue(replay, fields.ref));
  for (const cell of [1, 2, 3, 0]) {
    const word = (words[cell] ?? 0) | 0;
    if (changeWord(replay.machine, actor, address + 4 * cell, () => word) === undefined)
      return false;
  }
  return true;
}

/** Reads a version 2 entry in the shape that the recording has it in. */
export function readV2(
  replay: Replay,
  actor: Actor,
  fields: Fields,
): Record<string, Value> | undefined {
  const ref = numberValue(replay, fields.ref);
  const address = addressV2(actor, ref);
  const words = [0, 4, 8, 12].map((offset) => readWord(replay.machine, actor, address + offset));
  if (words.includes(undefined)) return undefined;
  const got: Record<string, Value> = { flags: spell((words[0] ?? 0) & 0xffff, fields.flags) };
  for (const [name, offset, bytes] of SHAPES) {
    const wanted = fields[name];
    if (wanted === undefined) continue;
    const cell = (words[offset >> 2] ?? 0) >>> ((offset % 4) * 8);
    const low = bytes === 2 ? cell & 0xffff : cell >>> 0;
    const high = bytes === 8 ? (words[3] ?? 0) : 0;
    got[name] = isWide(wideValue(replay, wanted), low, high) ? wanted : high * 2 ** 32 + low;
  }
  const status = statusOf(replay, actor, ref);
  if (fields.status !== undefined) got.status = spell(status ?? -1, fields.status);
  return got;
}

/** Whether a recording speaks of the status of an actor's entries. */
export function speaksOfStatus(
  steps: readonly { readonly [key: string]: unknown }[],
  name: string,
): boolean {
  return steps.some((step) => {
    if (step.by === name && step.do === "read_entry" && step.status !== undefined) return true;
    const entries = Object.entries((step.entries ?? {}) as Fields);
    return entries.some(([at, seen]) => at.startsWith(`$${name}.`) && typeof seen === "object");
  });
}
