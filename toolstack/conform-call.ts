/**
 * One hypercall step: lay the arguments out in guest memory as the recorder did, push the record through the actor's
 * channel, read the answer back, and compare field by field.
 *
 * Rules: structures lie in the actor's own RAM, in pages that no recording names; output fields are filled with
 * 0xA5 before the call, and one that is still full of it afterwards is "unwritten"; lists likewise.
 */

import { notBuilt } from "../hypervisor/dispatch.ts";
import { DOMID_SELF } from "../shared/abi/xen.ts";
import { type Actor, hypercall, readBytes, writeBytes } from "./conform-actor.ts";
import { clearArrayPage, followFifo } from "./conform-fifo.ts";
import type { Fields, Step, Value } from "./conform-format.ts";
import {
  CALLS,
  type Call,
  commandNumber,
  FEATURE_NAMES,
  type Field,
  type List,
  type Struct,
} from "./conform-layouts.ts";
import { numberValue, type Replay, wideValue } from "./conform-replay.ts";
import { flagsOf, flagText, numberOf, shown, type Wide, wideOf } from "./conform-values.ts";

/** Frames of the actor's RAM, counted from its first, where arguments and up to four lists lie. */
const ARGUMENT_FRAME = 0x40;
const LIST_FRAME = 0x60;
const LIST_FRAMES = 8;
/** An address at which no guest has anything. */
const UNMAPPED = 0x7800_0000;
const FILL = 0xa5;
/** Entries that a list for answers has room for. */
const LIST_ENTRIES_MAX = 1024;

/** A list as it lies in memory: its elements before the call. */
interface Placed {
  readonly list: List;
  readonly address: number;
  readonly bytes: Uint8Array;
  readonly count: number;
}

/** An element of the arguments: one structure with its lists. */
interface Laid {
  readonly address: number;
  readonly lists: readonly Placed[];
}

interface Prepared {
  readonly call: Call;
  readonly cmd: number;
  readonly struct: Struct | undefined;
  readonly elements: readonly Laid[];
  readonly pointer: number;
  readonly count: number;
}

const isFields = (value: Value | undefined): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Why a call step cannot be replayed; undefined when it can. */
export function callNotBuilt(step: Step): string | undefined {
  const name = `${String(step.fields.call)} ${String(step.fields.cmd)}`;
  const call = CALLS[String(step.fields.call)];
  if (call === undefined) return name;
  const number = commandNumber(call, step.fields.cmd);
  return number === undefined || notBuilt(call.op, number) ? name : undefined;
}

/** Carries the call out. Answers what the recording would hold: `ret` and, where it has one, `out`. */
export function replayCall(replay: Replay, actor: Actor, step: Step): Fields {
  clearArrayPage(replay, actor, step.fields);
  const prepared = prepare(replay, actor, step.fields);
  const { call, cmd, pointer, count } = prepared;
  const registers = { plain: [cmd, pointer], counted: [cmd, pointer, count], pointer: [pointer] };
  const ret = hypercall(replay.machine, actor, call.op, registers[call.registers]);
  const got: Record<string, Value> = { ret: compareRet(replay, step.fields.ret, ret) };
  if (step.fields.cmd === "reset" && ret === 0) forgetPorts(replay, actor, step.fields);
  if (ret === 0) followFifo(replay, actor, step.fields);
  const expected = step.fields.out;
  if (expected === undefined) return got;
  if (Array.isArray(expected)) {
    const list: readonly Value[] = expected;
    got.out = list.map((one, i) => readBack(replay, actor, prepared, i, one, step));
  } else {
    got.out = readBack(replay, actor, prepared, 0, expected, step);
  }
  return got;
}

function compareRet(replay: Replay, expected: Value | undefined, ret: number | undefined): Value {
  if (ret === undefined) return "never answered";
  if (typeof expected === "string" && numberValue(replay, expected) === ret) return expected;
  return ret;
}

function prepare(replay: Replay, actor: Actor, fields: Fields): Prepared {
  const call = CALLS[String(fields.call)];
  if (call === undefined) throw new Error(`unknown call ${String(fields.call)}`);
  const { cmd, args } = fields;
  const struct = typeof cmd === "string" ? call.commands[cmd] : undefined;
  const number = commandNumber(call, cmd) ?? 0;
  // The count is an unsigned int: a register's upper half is not looked at.
  const count = call.registers === "counted" ? wideValue(replay, fields.count)[0] : 1;
  const base = argumentAddress(replay, actor, fields);
  const common = { call, cmd: number, struct, count };
  const list = Array.isArray(args) ? (args as readonly Value[]) : [args as Value];
  const first = list[0];
  if (first === undefined || first === "unmapped pointer") {
    return { ...common, elements: [], pointer: UNMAPPED };
  }
  if (isFields(first) && first.zeroed_bytes !== undefined) {
    writeBytes(replay.machine, actor, base, new Uint8Array(Number(first.zeroed_bytes)));
    return { ...common, elements: [], pointer: base };
  }
  if (isFields(first) && first.pointer === "null") return { ...common, elements: [], pointer: 0 };
  if (struct === undefined && isFields(first) && Object.keys(first).length === 0) {
    return { ...common, elements: [], pointer: base };
  }
  if (struct === undefined) throw new Error(`arguments without a structure: ${String(cmd)}`);
  const elements = list.map((one, i) =>
    layOut(replay, actor, struct, flatten(isFields(one) ? one : {}), base + i * struct.size),
  );
  return { ...common, elements, pointer: base };
}

function argumentAddress(replay: Replay, actor: Actor, fields: Fields): number {
  const at = fields.args_at;
  if (at !== undefined) return numberValue(replay, at);
  return (actor.places.ram + ARGUMENT_FRAME) * 4096;
}

/** `{ in: { extents } }` becomes `{ "in.extents" }`. */
function flatten(args: Fields): Fields {
  const flat: Record<string, Value> = {};
  for (const [name, value] of Object.entries(args)) {
    if (!isFields(value)) flat[name] = value;
    else for (const [inner, one] of Object.entries(value)) flat[`${name}.${inner}`] = one;
  }
  return flat;
}

/** Writes one structure and its lists into guest memory. */
function layOut(replay: Replay, actor: Actor, struct: Struct, args: Fields, address: number): Laid {
  const bytes = new Uint8Array(struct.size);
  for (const field of struct.fields) {
    if (field.dir === "out") bytes.fill(FILL, field.offset, field.offset + field.size);
    else if (args[field.name] !== undefined) {
      putWide(bytes, field.offset, field.size, inputValue(replay, field, args[field.name]));
    }
  }
  for (const [offset, value] of struct.header ?? []) putWide(bytes, offset, 4, wideOf(value));
  const lists: Placed[] = [];
  for (const [n, list] of struct.lists.entries()) {
    const placed = placeList(replay, actor, list, args, n);
    putWide(bytes, list.pointer, 8, wideOf(placed.address));
    lists.push(placed);
  }
  writeBytes(replay.machine, actor, address, bytes);
  return { address, lists };
}

function inputValue(replay: Replay, field: Field, value: Value | undefined): Wide {
  if (field.flags !== undefined && typeof value === "string") {
    const flags = flagsOf(value, field.flags);
    if (flags === undefined) throw new Error(`${field.name}: unknown name in ${value}`);
    return wideOf(flags);
  }
  return wideValue(replay, value);
}

function placeList(replay: Replay, actor: Actor, list: List, args: Fields, n: number): Placed {
  const value = args[list.name];
  const none = { list, bytes: new Uint8Array(0), count: 0 };
  // Pointers on x86 are virtual, and nothing is at 0 there; a translated guest's are physical here, and its RAM begins at 0.
  if (value === null) {
    const isPhysical = replay.machine.layout.model.arch === "x86" && actor.places.virtual !== true;
    return { ...none, address: isPhysical ? UNMAPPED : 0 };
  }
  if (typeof value === "number" || typeof value === "string") {
    return { ...none, address: numberValue(replay, value) };
  }
  const address = (actor.places.ram + LIST_FRAME + n * LIST_FRAMES) * 4096;
  const elements = Array.isArray(value) ? (value as readonly Value[]) : undefined;
  const alike = list.alike === undefined ? undefined : args[list.alike];
  const wanted = list.answerCount === undefined ? 0 : numberValue(replay, args[list.answerCount]);
  const answers = Array.isArray(alike) ? alike.length : Math.min(wanted, LIST_ENTRIES_MAX);
  const count = elements?.length ?? answers;
  const bytes = new Uint8Array(count * list.element).fill(FILL);
  for (const [i, element] of (elements ?? []).entries()) {
    putWide(bytes, i * list.element, list.element, wideValue(replay, element));
  }
  writeBytes(replay.machine, actor, address, bytes);
  return { list, address, bytes, count };
}

function putWide(bytes: Uint8Array, offset: number, size: number, value: Wide): void {
  for (let i = 0; i < size; i++) {
    const half = i < 4 ? value[0] : value[1];
    bytes[offset + i] = (half >>> (8 * (i & 3))) & 0xff;
  }
}

function getWide(bytes: Uint8Array, offset: number, size: number): Wide {
  let low = 0;
  let high = 0;
  for (let i = 0; i < size; i++) {
    const byte = bytes[offset + i] ?? 0;
    if (i < 4) low |= byte << (8 * i);
    else high |= byte << (8 * (i - 4));
  }
  return [low >>> 0, high >>> 0];
}

const isUnwritten = (bytes: Uint8Array, offset: number, size: number): boolean =>
  bytes.subarray(offset, offset + size).every((byte) => byte === FILL);

/** The output fields that the recording names, as this machine left them. */
function readBack(
  replay: Replay,
  actor: Actor,
  prepared: Prepared,
  index: number,
  expected: Value,
  step: Step,
): Value {
  const { struct } = prepared;
  const laid = prepared.elements[index];
  if (!isFields(expected)) return null;
  if (struct === undefined || laid === undefined) return {};
  const bytes = new Uint8Array(struct.size);
  readBytes(replay.machine, actor, laid.address, bytes);
  const got: Record<string, Value> = {};
  for (const [name, value] of Object.entries(expected)) {
    const raw = name === "handle_raw" || name === "port_raw";
    const field = struct.fields.findLast((one) =>
      raw ? one.name === "handle" || one.name.endsWith("port") : one.name === name,
    );
    got[name] =
      field === undefined && name === "names"
        ? flagText(getWide(bytes, 4, 4)[0], FEATURE_NAMES).split("|")
        : field === undefined
          ? readList(replay, actor, laid, name, value)
          : compareField(
              replay,
              field,
              bytes,
              raw ? value : learn(replay, field, bytes, value, step),
            );
  }
  return got;
}

/** The first appearance of a handle or port symbol tells what it stands for. */
function learn(
  replay: Replay,
  field: Field,
  bytes: Uint8Array,
  expected: Value,
  step: Step,
): Value {
  if (typeof expected !== "string" || isUnwritten(bytes, field.offset, field.size)) return expected;
  const raw = numberOf(getWide(bytes, field.offset, field.size));
  const symbol = expected.slice(1);
  if (/^\$h\d+$/.test(expected) && !replay.handles.has(symbol)) {
    replay.handles.set(symbol, raw);
    replay.busAddresses.set(symbol, getWide(bytes, 24, 8));
  }
  if (/^\$p\d+$/.test(expected) && !replay.ports.has(symbol)) {
    replay.ports.set(symbol, raw);
    watchPort(replay, symbol, raw, step);
  }
  return expected;
}

/** A reset closes every port of a domain, and the recorder no longer looks at them. */
function forgetPorts(replay: Replay, caller: Actor, fields: Fields): void {
  const { args } = fields;
  const domid = isFields(args) ? numberValue(replay, args.dom) : -1;
  const target = domid === DOMID_SELF ? caller.domid : domid;
  for (const port of replay.portBits.values()) {
    if (port.actor.domid === target) port.watched = false;
  }
  replay.eventArrays.delete(target);
}

function watchPort(replay: Replay, symbol: string, port: number, step: Step): void {
  const owner = replay.symbols[symbol]?.of ?? step.by;
  const actor = owner === undefined ? undefined : replay.actors.get(owner);
  const { cmd, args } = step.fields;
  // The bits of a port bound to the timer depend on time: recordings leave them out.
  if (cmd === "bind_virq" && isFields(args) && args.virq === 0) return;
  if (actor === undefined) return;
  const key = `${actor.name}.${port}`;
  const known = replay.portBits.get(key);
  // A port that is handed out again is compared with what was last seen of it.
  replay.portBits.set(key, { symbol: `$${symbol}`, actor, port, bits: known?.bits, watched: true });
}

/** What a field holds, spelled as the recording spells it when both are the same. */
function compareField(replay: Replay, field: Field, bytes: Uint8Array, expected: Value): Value {
  if (isUnwritten(bytes, field.offset, field.size)) return "unwritten";
  const raw = getWide(bytes, field.offset, field.size);
  if (field.names !== undefined) return field.names[raw[0]] ?? raw[0];
  if (field.bit !== undefined) return (raw[0] & field.bit) !== 0 ? 1 : 0;
  if (expected === "opaque") return raw[0] === 0 && raw[1] === 0 ? 0 : "opaque";
  const value = field.signed === true ? (raw[0] << 16) >> 16 : shown(raw);
  if (typeof expected !== "string" || expected === "unwritten") return value;
  const wanted = wideValue(replay, expected);
  return wanted[0] === raw[0] && wanted[1] === raw[1] ? expected : value;
}

/** Outputs that are about a list: how much of it was written, or its elements. */
function readList(replay: Replay, actor: Actor, laid: Laid, name: string, expected: Value): Value {
  const placed = laid.lists.find(
    ({ list }) => list.rewritten === name || list.name === name || list.answerCount === "nr_frames",
  );
  if (placed === undefined) return "not observed";
  const { list, bytes, address, count } = placed;
  const after = new Uint8Array(bytes.length);
  if (bytes.length > 0) readBytes(replay.machine, actor, address, after);
  const elements = Array.from({ length: count }, (_, i) => i * list.element);
  const changed = elements.filter((at) =>
    after.subarray(at, at + list.element).some((byte, i) => byte !== bytes[at + i]),
  );
  const wides = changed.map((at) => getWide(after, at, list.element));
  if (name === list.rewritten || name === "frames_written") return changed.length;
  if (name === "frames_distinct") return new Set(wides.map(String)).size;
  const wanted = Array.isArray(expected) ? (expected as readonly Value[]) : [];
  if (name === "list") return wides.map((one, i) => elementText(replay, one, wanted[i]));
  return elements.map((at) =>
    isUnwritten(after, at, list.element) ? "unwritten" : getWide(after, at, 4)[0] | 0,
  );
}

function elementText(replay: Replay, value: Wide, expected: Value | undefined): Value {
  if (value[0] === 0xffffffff && value[1] === 0xffffffff) return "all ones";
  if (typeof expected === "string" && expected.startsWith("$")) {
    if (numberValue(replay, expected) === numberOf(value)) return expected;
  }
  return shown(value);
}
