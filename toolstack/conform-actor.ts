/**
 * What an actor of a recording does: raw programs on its slot, one a step. A guest reads and writes through its MMU
 * and issues hypercalls through its channel; the bus is a bare device slot.
 *
 * Rules: an access that faults or never completes is a value here, as the recorder saw it; memory of the machine is
 * reached in no other way, and a step whose actor is gone answers "gone". A permission fault at stage 2 returns to
 * the same instruction for ever (recorded.md 9): "hang".
 */
import { runPart } from "../explore/run.ts";
import type { Machine } from "../explore/state.ts";
import { at } from "../shared/assert.ts";
import { DOM, domainOf, LINE, lineOf, SLOT_LIVE } from "../shared/layout.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import {
  ACCESS_EXECUTE,
  ACCESS_OK,
  ACCESS_READ,
  ACCESS_WRITE,
  FAULT_PERMISSION,
  Mmu,
} from "../shared/mmu.ts";
import { hypercallTrap, type Program, setRecord } from "../shared/trap.ts";
import type { Places } from "./conform-model.ts";

export interface Actor {
  readonly name: string;
  readonly domid: number;
  readonly slot: number;
  readonly mmu: Mmu;
  readonly places: Places;
}

/** How an access ended; a PV guest's page fault with its error code. */
export type Access = "ok" | "fault" | "hang" | "gone" | { readonly errorCode: number };

/** Steps of the machine that one action may take: a hypercall over thousands of elements has many gaps. */
const ACTION_STEPS_MAX = 100_000;

export function actorOf(machine: Machine, name: string, domid: number, places: Places): Actor {
  const slot = at(machine.words, domainOf(machine.layout, domid) + DOM.SLOT);
  return actorOnSlot(machine, name, domid, slot, places);
}

export function actorOnSlot(
  machine: Machine,
  name: string,
  domid: number,
  slot: number,
  places: Places,
): Actor {
  const mmu = new Mmu(machine.words, machine.memory, machine.layout, slot);
  return { name, domid, slot, mmu, places };
}

/** Whether the actor can do anything: its domain exists and is not paused. The bus and the toolstack always can. */
export function isAlive(machine: Machine, actor: Actor): boolean {
  const { words, layout } = machine;
  if (at(words, lineOf(layout, actor.slot) + LINE.STATE) !== SLOT_LIVE) return false;
  if (actor.domid < 0) return true;
  if (at(words, lineOf(layout, actor.slot) + LINE.DOMAIN) !== actor.domid) return false;
  return at(words, domainOf(layout, actor.domid) + DOM.PAUSE) === 0;
}

/** Runs a program on the actor's slot to its end; undefined when it never ends. */
export function act<Result>(
  machine: Machine,
  actor: Actor,
  program: Program<Result>,
): Result | undefined {
  const part = { name: actor.name, program, mustFinish: true };
  return runPart(machine, actor.slot, part, ACTION_STEPS_MAX) as Result | undefined;
}

/** What a fault is for the actor: a PV guest hears of each one, with what it was about. */
function accessOf(actor: Actor, fault: number, kind: number): Access {
  const refused = fault === FAULT_PERMISSION;
  if (actor.places.virtual !== true) return refused ? "hang" : "fault";
  return { errorCode: (refused ? 1 : 0) | (kind === ACCESS_WRITE ? 2 : 0) };
}

/** In a translated domain of x86 nothing answers at an address without memory: reads give all ones, and writes vanish. */
const floats = (machine: Machine, actor: Actor): boolean =>
  machine.layout.model.arch === "x86" && actor.places.virtual !== true;

/** Moves bytes page by page until the first access that does not complete. */
function* transfer(
  actor: Actor,
  address: number,
  bytes: Uint8Array,
  kind: typeof ACCESS_READ | typeof ACCESS_WRITE,
  floats: boolean,
): Program<Access> {
  for (let done = 0; done < bytes.length; ) {
    const offset = (address + done) % PAGE_SIZE;
    const length = Math.min(PAGE_SIZE - offset, bytes.length - done);
    const fault = actor.mmu.open(Math.floor((address + done) / PAGE_SIZE), kind);
    if (fault !== ACCESS_OK && floats) {
      if (kind === ACCESS_READ) bytes.fill(0xff, done, done + length);
      done += length;
      continue;
    }
    if (fault !== ACCESS_OK) return accessOf(actor, fault, kind);
    if (kind === ACCESS_READ) actor.mmu.read(offset, bytes, done, length);
    else actor.mmu.write(offset, bytes, done, length);
    actor.mmu.close();
    done += length;
  }
  return "ok";
}

/** Fills `into` from the actor's memory. */
export function readBytes(
  machine: Machine,
  actor: Actor,
  address: number,
  into: Uint8Array,
): Access {
  if (!isAlive(machine, actor)) return "gone";
  return (
    act(machine, actor, transfer(actor, address, into, ACCESS_READ, floats(machine, actor))) ??
    "hang"
  );
}

/** Stores `from` into the actor's memory. */
export function writeBytes(
  machine: Machine,
  actor: Actor,
  address: number,
  from: Uint8Array,
): Access {
  if (!isAlive(machine, actor)) return "gone";
  return (
    act(machine, actor, transfer(actor, address, from, ACCESS_WRITE, floats(machine, actor))) ??
    "hang"
  );
}

/** Calls the instruction at an address. */
export function execute(machine: Machine, actor: Actor, address: number): Access {
  if (!isAlive(machine, actor)) return "gone";
  return act(machine, actor, fetch(actor, address)) ?? "hang";
}

function* fetch(actor: Actor, address: number): Program<Access> {
  const fault = actor.mmu.open(Math.floor(address / PAGE_SIZE), ACCESS_EXECUTE);
  if (fault !== ACCESS_OK) return accessOf(actor, fault, ACCESS_EXECUTE);
  actor.mmu.close();
  return "ok";
}

/** Changes one aligned word by compare-and-exchange; `next` answers undefined to leave it. Returns the word found. */
export function changeWord(
  machine: Machine,
  actor: Actor,
  address: number,
  next: (word: number) => number | undefined,
): number | undefined {
  if (!isAlive(machine, actor)) return undefined;
  return act(machine, actor, change(actor, address, next));
}

function* change(
  actor: Actor,
  address: number,
  next: (word: number) => number | undefined,
): Program<number | undefined> {
  const offset = address % PAGE_SIZE;
  const kind = ACCESS_READ | ACCESS_WRITE;
  if (actor.mmu.open(Math.floor(address / PAGE_SIZE), kind) !== ACCESS_OK) return undefined;
  // Nobody else moves while a program does not yield, so the first exchange succeeds.
  const word = actor.mmu.load(offset);
  const changed = next(word >>> 0);
  if (changed !== undefined) actor.mmu.compareExchange(offset, word, changed | 0);
  actor.mmu.close();
  return word >>> 0;
}

/** Reads one aligned word; undefined when the access does not complete. */
export function readWord(machine: Machine, actor: Actor, address: number): number | undefined {
  const bytes = new Uint8Array(4);
  if (readBytes(machine, actor, address, bytes) !== "ok") return undefined;
  return new DataView(bytes.buffer).getUint32(0, true);
}

/** One record through the actor's channel; undefined when it is never answered, or the actor is gone. */
export function hypercall(
  machine: Machine,
  actor: Actor,
  op: number,
  args: readonly number[],
): number | undefined {
  if (!isAlive(machine, actor)) return undefined;
  return act(machine, actor, call(op, args));
}

function* call(op: number, args: readonly number[]): Program<number> {
  const trap = hypercallTrap();
  setRecord(trap.record, op, args);
  return yield trap;
}
