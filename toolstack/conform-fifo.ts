/**
 * The FIFO event ABI in recordings: event words, control blocks, and the pages that an actor has registered for them.
 *
 * Rule: an event word is spelled by its bits and its link: `pending|linked|next=$p4`. It is read and written through
 * the actor's own memory, in the pages that it gave to expand_array.
 */
import { at } from "../shared/assert.ts";
import { LINE, lineOf } from "../shared/layout.ts";
import { type Actor, changeWord, readBytes, readWord, writeBytes } from "./conform-actor.ts";
import type { Fields, Value } from "./conform-format.ts";
import { numberValue, pageValue, type Replay } from "./conform-replay.ts";
import { flagsOf, flagText, PORT_BIT_NAMES } from "./conform-values.ts";

const WORDS_PER_PAGE = 1024;
const QUEUES = 16;
const READY = 0;
const HEADS = 8;
/** PENDING, MASKED, LINKED and BUSY are the top four bits, PENDING the highest; the link the low 17. */
const LINK_MASK = 0x1ffff;
const NAME_BITS = 4;

/** Keeps track of the pages: what the call that has answered 0 has changed. */
export function followFifo(replay: Replay, actor: Actor, fields: Fields): void {
  const args = fields.args as Fields;
  const { cmd } = fields;
  if (cmd === "init_control" && !replay.eventArrays.has(actor.domid)) {
    replay.eventArrays.set(actor.domid, []);
  }
  if (cmd === "expand_array") {
    replay.eventArrays.get(actor.domid)?.push(pageValue(replay, args.array_gfn));
  }
}

/** The recorder's guest clears a page of its RAM before it gives it away for event words. */
export function clearArrayPage(replay: Replay, actor: Actor, fields: Fields): void {
  const page = fields.cmd === "expand_array" ? (fields.args as Fields).array_gfn : undefined;
  if (typeof page !== "string" || !/^\$\w+\.f\d+$/.test(page)) return;
  writeBytes(replay.machine, actor, pageValue(replay, page) * 4096, new Uint8Array(4096));
}

/** Address of a port's event word; undefined: its page has not been added. */
function wordAddress(replay: Replay, actor: Actor, port: number): number | undefined {
  const gfn = replay.eventArrays.get(actor.domid)?.[Math.floor(port / WORDS_PER_PAGE)];
  return gfn === undefined ? undefined : gfn * 4096 + (port % WORDS_PER_PAGE) * 4;
}

/** Bits of PORT_BIT_NAMES, and the link above them. */
const packed = (word: number): number =>
  (((word >>> 31) & 1) | ((word >>> 29) & 2) | ((word >>> 27) & 4) | ((word >>> 25) & 8)) +
  (word & LINK_MASK) * 2 ** NAME_BITS;
const unpacked = (bits: number): number =>
  ((bits & 1) << 31) |
  ((bits & 2) << 29) |
  ((bits & 4) << 27) |
  ((bits & 8) << 25) |
  (bits >>> NAME_BITS);

/** Whether the actor has left the 2-level ABI. */
export const usesFifo = (replay: Replay, actor: Actor): boolean =>
  replay.eventArrays.has(actor.domid);

/** The event word of a port as `portBitsOf` has it; undefined when there is none yet. */
export function eventWordBits(replay: Replay, actor: Actor, port: number): number | undefined {
  const address = wordAddress(replay, actor, port);
  const word = address === undefined ? undefined : readWord(replay.machine, actor, address);
  return word === undefined ? undefined : packed(word);
}

/** The bits that a recording spells. */
export function portBitsOf(replay: Replay, text: string): number | undefined {
  const parts = text.split("|").filter((part) => part !== "");
  const links = parts.filter((part) => part.startsWith("next="));
  const names = parts.filter((part) => !part.startsWith("next="));
  const bits = flagsOf(names.join("|"), PORT_BIT_NAMES);
  if (bits === undefined) return undefined;
  const next = links[0]?.slice("next=".length);
  if (next === undefined) return bits;
  return bits + numberValue(replay, /^\d+$/.test(next) ? Number(next) : next) * 2 ** NAME_BITS;
}

/** Bits spelled as the recording does where both mean the same. */
export function portBitsText(replay: Replay, bits: number, expected: Value | undefined): string {
  if (typeof expected === "string" && portBitsOf(replay, expected) === bits) return expected;
  const link = bits >>> NAME_BITS;
  const names = flagText(bits & (2 ** NAME_BITS - 1), PORT_BIT_NAMES);
  return [names, link === 0 ? "" : `next=${link}`].filter((part) => part !== "").join("|");
}

type Got = Record<string, Value>;

export function readEventWord(replay: Replay, actor: Actor, fields: Fields): Got {
  const bits = eventWordBits(replay, actor, numberValue(replay, fields.port));
  return { got: bits === undefined ? null : portBitsText(replay, bits, fields.got) };
}

export function writeEventWord(replay: Replay, actor: Actor, fields: Fields): Got {
  const address = wordAddress(replay, actor, numberValue(replay, fields.port));
  const bits = portBitsOf(replay, String(fields.value));
  if (address === undefined || bits === undefined) return { written: false };
  changeWord(replay.machine, actor, address, () => unpacked(bits));
  return {};
}

function blockAddress(replay: Replay, fields: Fields): number {
  const at = fields.at as Fields;
  return numberValue(replay, at.frame) * 4096 + numberValue(replay, at.off ?? 0);
}

/** Ready bits that are set, and the heads that are not 0. */
export function readFifoControl(replay: Replay, actor: Actor, fields: Fields): Got {
  const bytes = new Uint8Array(HEADS + QUEUES * 4);
  readBytes(replay.machine, actor, blockAddress(replay, fields), bytes);
  const view = new DataView(bytes.buffer);
  const queues = Array.from({ length: QUEUES }, (_, queue) => queue);
  const ready = view.getUint32(READY, true);
  const wanted = (fields.heads ?? {}) as Fields;
  const heads: Got = {};
  for (const queue of queues) {
    const port = view.getUint32(HEADS + 4 * queue, true);
    if (port === 0) continue;
    const name = wanted[String(queue)];
    heads[String(queue)] = name !== undefined && numberValue(replay, name) === port ? name : port;
  }
  return { ready: queues.filter((queue) => ((ready >>> queue) & 1) === 1), heads };
}

export function writeFifoReady(replay: Replay, actor: Actor, fields: Fields): Got {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, numberValue(replay, fields.value), true);
  writeBytes(replay.machine, actor, blockAddress(replay, fields) + READY, bytes);
  return {};
}

/** Number of the event channel's private interrupt on arm64, and what is acknowledged when none is asserted. */
const EVENT_PPI = 31;
const SPURIOUS = 1023;

/**
 * The guest acknowledges its event interrupt and completes it. It was asserted if the hypervisor has raised it since the
 * last time, and after completion it is not asserted again, whatever upcall_pending says (recorded.md 20). The fields
 * of such a step are told apart by their names.
 */
export function takeEventInterrupt(replay: Replay, actor: Actor, fields: Fields): Got {
  const { machine, acknowledged } = replay;
  const raised = at(machine.words, lineOf(machine.layout, actor.slot) + LINE.EVENT);
  const isAsserted = raised !== (acknowledged.get(actor.slot) ?? 0);
  acknowledged.set(actor.slot, raised);
  const got: Got = {};
  for (const [name, value] of Object.entries(fields)) {
    if (name === "i" || name === "by" || name === "do" || name === "vcpu") continue;
    if (/after|still|again/.test(name)) got[name] = alike(value, false);
    else if (/ack|iar|irq|intid|number/.test(name)) got[name] = isAsserted ? EVENT_PPI : SPURIOUS;
    else got[name] = alike(value, isAsserted);
  }
  return got;
}

const alike = (expected: Value, is: boolean): Value =>
  typeof expected === "boolean" ? is : is ? 1 : 0;
