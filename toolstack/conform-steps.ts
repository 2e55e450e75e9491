/**
 * One step of a recording, carried out. Each function answers with the fields that the recorder wrote down for such
 * a step, so that the comparison is one of structures.
 */
import { XEN_DOMCTL_destroydomain } from "../shared/abi/domctl.ts";
import { CONTROL_DOMCTL } from "../shared/trap.ts";
import {
  type Access,
  type Actor,
  changeWord,
  execute,
  hypercall,
  isAlive,
  readBytes,
  readWord,
  writeBytes,
} from "./conform-actor.ts";
import { callNotBuilt, replayCall } from "./conform-call.ts";
import { deviceTreeNode } from "./conform-device-tree.ts";
import {
  readEventWord,
  readFifoControl,
  takeEventInterrupt,
  writeEventWord,
  writeFifoReady,
} from "./conform-fifo.ts";
import type { Fields, Step, Value } from "./conform-format.ts";
import { replayObserver } from "./conform-observer.ts";
import { mapPage } from "./conform-pv.ts";
import { canRepeat, repeatCalls, repeatMaps } from "./conform-repeat.ts";
import { actorNamed, numberValue, pageValue, type Replay } from "./conform-replay.ts";
import { followVersion, releaseFromDom0 } from "./conform-setup.ts";
import { readV2, seenOf, storeV2 } from "./conform-v2.ts";
import { ENTRY_FLAG_NAMES, flagsOf, flagText } from "./conform-values.ts";
import { entryAddress, observe, placeOf, portBit, setEntry } from "./conform-watch.ts";

type Got = Record<string, Value>;
type Action = (replay: Replay, actor: Actor, fields: Fields) => Got;

/** Exception classes of an abort from a lower level: data and instruction. */
const EC_DATA = 37;
const EC_INSTRUCTION = 33;
/** Exception of x86. */
const PAGE_FAULT = 14;
const VCPU_INFO_PENDING_SEL = 8;

function addressOf(replay: Replay, fields: Fields): number {
  const at = (fields.at ?? {}) as Fields;
  const offset = numberValue(replay, at.off ?? 0);
  if (at.frame !== undefined) return pageValue(replay, at.frame) * 4096 + offset;
  return numberValue(replay, at.addr ?? at.maddr) + offset;
}

function accessGot(access: Access, ec: number): Got {
  if (typeof access === "object") {
    return { fault: { vector: PAGE_FAULT, error_code: access.errorCode } };
  }
  if (access === "fault") return { fault: { ec, iss: 0 } };
  if (access === "hang") return { hang: true };
  return access === "gone" ? { gone: true } : {};
}

function numberAt(bytes: Uint8Array): number {
  let value = 0;
  for (let i = bytes.length - 1; i >= 0; i--) value = value * 256 + (bytes[i] ?? 0);
  return value;
}

const read: Action = (replay, actor, fields) => {
  const bytes = new Uint8Array(Number(fields.size));
  const access = readBytes(replay.machine, actor, addressOf(replay, fields), bytes);
  if (access !== "ok") return accessGot(access, EC_DATA);
  // What a page held before it was handed out is not part of the interface.
  if (fields.contents_undefined === true) return { got: fields.got ?? null };
  return { got: numberAt(bytes) };
};

const write: Action = (replay, actor, fields) => {
  let value = numberValue(replay, fields.value);
  const bytes = Uint8Array.from({ length: Number(fields.size) }, () => {
    const byte = value % 256;
    value = Math.floor(value / 256);
    return byte;
  });
  return accessGot(writeBytes(replay.machine, actor, addressOf(replay, fields), bytes), EC_DATA);
};

const fill: Action = (replay, actor, fields) => {
  const bytes = new Uint8Array(Number(fields.len)).fill(Number(fields.byte));
  return accessGot(writeBytes(replay.machine, actor, addressOf(replay, fields), bytes), EC_DATA);
};

const readHex: Action = (replay, actor, fields) => {
  const bytes = new Uint8Array(Number(fields.len));
  const access = readBytes(replay.machine, actor, addressOf(replay, fields), bytes);
  if (access !== "ok") return accessGot(access, EC_DATA);
  return { got: [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("") };
};

const call: Action = (replay, actor, fields) => {
  const access = execute(replay.machine, actor, addressOf(replay, fields));
  return access === "ok" ? { ok: true } : accessGot(access, EC_INSTRUCTION);
};

const entryFlags = (value: Value | undefined): number => {
  const flags = flagsOf(String(value), ENTRY_FLAG_NAMES);
  if (flags === undefined) throw new Error(`unknown entry flags ${String(value)}`);
  return flags;
};

const setWholeEntry: Action = (replay, actor, fields) => {
  const ref = numberValue(replay, fields.ref);
  if (fields.version === 2) {
    const flags = entryFlags(fields.flags);
    if (!storeV2(replay, actor, fields, flags)) return { fault: { ec: EC_DATA, iss: 0 } };
    const symbol = typeof fields.ref === "string" ? fields.ref : `$${actor.name}.r${ref}`;
    const seen = seenOf(replay, actor, ref, flags);
    replay.entries.set(`${actor.name}.${ref}`, { symbol, actor, ref, flags: seen });
    return {};
  }
  const done = setEntry(replay, actor, {
    symbol: typeof fields.ref === "string" ? fields.ref : `$${actor.name}.r${ref}`,
    ref,
    flags: entryFlags(fields.flags),
    domid: numberValue(replay, fields.domid),
    frame: numberValue(replay, fields.frame),
  });
  return done ? {} : { fault: { ec: EC_DATA, iss: 0 } };
};

/** A 16-bit store of the flags: the domid in the other half stays as it is. */
const writeFlags: Action = (replay, actor, fields) => {
  const flags = entryFlags(fields.flags);
  const address = placeOf(replay, actor, numberValue(replay, fields.ref));
  const done = changeWord(replay.machine, actor, address, (word) => (word & ~0xffff) | flags);
  return done === undefined ? { fault: { ec: EC_DATA, iss: 0 } } : {};
};

const casFlags: Action = (replay, actor, fields) => {
  const expected = entryFlags(fields.expect);
  const next = entryFlags(fields.new);
  const address = entryAddress(actor, numberValue(replay, fields.ref));
  const word = changeWord(replay.machine, actor, address, (found) =>
    (found & 0xffff) === expected ? (found & ~0xffff) | next : undefined,
  );
  if (word === undefined) return { fault: { ec: EC_DATA, iss: 0 } };
  const prev = word & 0xffff;
  return { prev: flagWord(prev, fields.prev), swapped: prev === expected };
};

function flagWord(flags: number, expected: Value | undefined): string {
  const same = typeof expected === "string" && flagsOf(expected, ENTRY_FLAG_NAMES) === flags;
  return same ? expected : flagText(flags, ENTRY_FLAG_NAMES);
}

const readEntry: Action = (replay, actor, fields) => {
  if (fields.version === 2) {
    return readV2(replay, actor, fields) ?? { fault: { ec: EC_DATA, iss: 0 } };
  }
  const address = entryAddress(actor, numberValue(replay, fields.ref));
  const header = readWord(replay.machine, actor, address);
  const frame = readWord(replay.machine, actor, address + 4);
  if (header === undefined || frame === undefined) return { fault: { ec: EC_DATA, iss: 0 } };
  const sameAs = (expected: Value | undefined, value: number): Value =>
    expected === "other" || (expected !== undefined && numberValue(replay, expected) === value)
      ? (expected ?? value)
      : value;
  return {
    flags: flagWord(header & 0xffff, fields.flags),
    domid: sameAs(fields.domid, header >>> 16),
    frame: sameAs(fields.frame, frame),
  };
};

const evtchnBit: Action = (replay, actor, fields) => {
  const which = fields.bit === "masked" ? "masked" : "pending";
  const { address, bit } = portBit(actor, numberValue(replay, fields.port), which);
  const set = fields.value === 1;
  changeWord(replay.machine, actor, address, (word) => (set ? word | bit : word & ~bit));
  return {};
};

const readVcpuInfo: Action = (replay, actor) => {
  const base = actor.places.sharedInfo * 4096;
  const selector = new Uint8Array(8);
  readBytes(replay.machine, actor, base + VCPU_INFO_PENDING_SEL, selector);
  const pending = readWord(replay.machine, actor, base) ?? 0;
  return { upcall_pending: pending & 0xff, pending_sel: numberAt(selector) };
};

const clearVcpuInfo: Action = (replay, actor) => {
  const base = actor.places.sharedInfo * 4096;
  writeBytes(replay.machine, actor, base, new Uint8Array(1));
  writeBytes(replay.machine, actor, base + VCPU_INFO_PENDING_SEL, new Uint8Array(8));
  return {};
};

/** The toolstack's domctl, issued again until it is no longer preempted. */
const destroyDomain: Action = (replay, _actor, fields) => {
  const domid = numberValue(replay, fields.domain);
  const args = [XEN_DOMCTL_destroydomain, domid];
  const ret = hypercall(replay.machine, replay.control, CONTROL_DOMCTL, args);
  if (ret === undefined) return { ret: "never answered" };
  releaseFromDom0(replay, domid);
  // Recordings under a toolstack do not say what it was told.
  return fields.ret === undefined && ret === 0 ? {} : { ret };
};

/** Domains of the recordings are those of the model, in its order. */
const deviceTree: Action = (replay, actor, fields) => ({
  ...deviceTreeNode(replay.machine.xen.model, actor.domid, String(fields.node)),
});

/** update_va_mapping with an empty entry, and a flush of that page. */
const dropOwnMapping: Action = (replay, actor, fields) => {
  const address = pageValue(replay, fields.frame) * 4096;
  return { ret: mapPage(replay, actor, address, undefined) ?? "never answered" };
};

const ACTIONS: Readonly<Record<string, Action>> = {
  read,
  write,
  fill,
  read_bytes: readHex,
  execute: call,
  set_entry: setWholeEntry,
  write_flags: writeFlags,
  cas_flags: casFlags,
  read_entry: readEntry,
  evtchn_bit: evtchnBit,
  read_vcpu_info: readVcpuInfo,
  clear_vcpu_info: clearVcpuInfo,
  destroy_domain: destroyDomain,
  drop_own_mapping: dropOwnMapping,
  device_tree: deviceTree,
  read_fifo_control: readFifoControl,
  write_fifo_ready: writeFifoReady,
  read_event_word: readEventWord,
  write_event_word: writeEventWord,
  take_event_interrupt: takeEventInterrupt,
  loop_map_unmap: repeatMaps,
  repeat: repeatCalls,
};

/** After these the recorder looked at entries and ports, as after every hypercall. */
const OBSERVED = new Set([
  "write_flags",
  "cas_flags",
  "evtchn_bit",
  "destroy_domain",
  "loop_map_unmap",
  "write_fifo_ready",
  "write_event_word",
  "repeat",
]);

/** Why a step cannot be replayed; undefined when it can. */
export function stepNotBuilt(step: Step): string | undefined {
  if (step.fields.call !== undefined) return callNotBuilt(step);
  const action = String(step.fields.do);
  if (step.by === "observer") return undefined;
  if (ACTIONS[action] === undefined) return action;
  if (action === "repeat" && !canRepeat(String(step.fields.what))) {
    return String(step.fields.what);
  }
  const vcpu = step.fields.vcpu;
  // Only vCPU 0 has its information in the shared page of an arm64 guest.
  return vcpu !== undefined && vcpu !== 0 ? `${action} of vCPU ${String(vcpu)}` : undefined;
}

/** Carries a step out; what comes back has the fields that the recording has for it, and those it should not have. */
export function replayStep(replay: Replay, step: Step): Fields {
  const { fields } = step;
  if (step.by === "observer") return replayObserver(replay, fields) ?? { not_observed: true };
  if (fields.call !== undefined) {
    const actor = actorNamed(replay, step.by);
    const wasAlive = isAlive(replay.machine, actor);
    const got: Got = { ...replayCall(replay, actor, step) };
    if (wasAlive && !isAlive(replay.machine, actor)) takeAway(replay, actor, got);
    const following = fields.cmd === "set_version" && got.ret === 0;
    if (following) turn(replay, actor, got);
    observe(replay, fields, got);
    if (following) followVersion(replay, actor, versionIn(got));
    return got;
  }
  const name = String(fields.do);
  const action = ACTIONS[name];
  if (action === undefined) throw new Error(`unknown action ${name}`);
  const got = action(replay, stepActor(replay, step), fields);
  if (OBSERVED.has(name)) observe(replay, fields, got);
  return got;
}

const versionIn = (got: Got): number => {
  const [first] = (got.out ?? []) as readonly Fields[];
  return Number(first?.version ?? 1);
};

/** Right after a change of version the recorder has not mapped the status frame yet. */
function turn(replay: Replay, actor: Actor, got: Got): void {
  const version = versionIn(got);
  if ((replay.versions.get(actor.name)?.version ?? 1) === version) return;
  replay.versions.set(actor.name, { version, status: false });
}

/** A guest that has crashed in a call does not return from it, and the toolstack destroys it. */
function takeAway(replay: Replay, actor: Actor, got: Got): void {
  got.ret = null;
  got.domain_crashed = `$${actor.name}`;
  const args = [XEN_DOMCTL_destroydomain, actor.domid];
  hypercall(replay.machine, replay.control, CONTROL_DOMCTL, args);
}

function stepActor(replay: Replay, step: Step): Actor {
  if (step.by === undefined) return replay.control;
  return step.by === "bus" ? replay.bus : actorNamed(replay, step.by);
}

/** Fields of a step that say what is to be done; all others say what came of it. */
const REQUEST = new Set(
  "i by do call cmd count args args_at args_note at size value len byte version ref flags domid frame page_off length pad trans_domid gref expect new port bit vcpu domain of addr gfn_of mfn_of gfn what until dom contents_undefined note node".split(
    " ",
  ),
);
const ALSO_ANSWER: Readonly<Record<string, readonly string[]>> = {
  read_entry: ["flags", "domid", "frame", "page_off", "length", "pad", "trans_domid", "gref"],
};

/** What the recording says came of the step. */
export function expectedOf(step: Step): Fields {
  const also = ALSO_ANSWER[String(step.fields.do)] ?? [];
  const expected: Got = {};
  for (const [name, value] of Object.entries(step.fields)) {
    if (REQUEST.has(name) && !also.includes(name)) continue;
    expected[name] = value;
  }
  return expected;
}

/** What was done, in a word or two. */
export function whatOf(step: Step): string {
  const { call: name, cmd } = step.fields;
  return name === undefined ? String(step.fields.do) : `${String(name)} ${String(cmd)}`;
}
