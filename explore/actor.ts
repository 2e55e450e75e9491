/**
 * One actor of an explored run: the program on a slot, and what it waits for. A trap is carried out here as the
 * threaded runner carries it out on its own thread, only that nothing ever blocks: the actor says when it can go on.
 *
 * Rules: a record goes through the slot's real Channel; a program that throws stops its domain and never the
 * machine; a killed program is dropped where it stands, and its `finally` blocks do not run, as on a thread that
 * is terminated. Ours (design 3, 10.2, 10.5).
 */
import { at, EmulatorBug, unreachable } from "../shared/assert.ts";
import { Channel } from "../shared/channel.ts";
import { LINE, lineOf, SLOT_KIND_VCPU } from "../shared/layout.ts";
import { RECORD_WORDS } from "../shared/limits.ts";
import { load, store } from "../shared/mem.ts";
import { leaveForDead } from "../shared/mmu.ts";
import {
  CONTROL_VCPU_DIED,
  type HostHashTrap,
  type HostReadTrap,
  type HypercallTrap,
  RECORD_OP,
  recordArg,
  TRAP_BLOCK,
  TRAP_HOST_HASH,
  TRAP_HOST_READ,
  TRAP_HYPERCALL,
  TRAP_POINT,
  TRAP_REPORT,
  TRAP_SLEEP,
  type Trap,
} from "../shared/trap.ts";
import { type Actor, type Machine, mix, type Part } from "./state.ts";

export function actorOf(machine: Machine, slot: number, part: Part): Actor {
  return {
    slot,
    part,
    channel: new Channel(machine.words, machine.layout, slot),
    state: "ready",
    resume: 0,
    seen: 0,
    losesWakeup: false,
    wakeAtMs: 0,
    pendingAddress: 0,
    pendingAccess: 0,
    hash: undefined,
    called: NO_CALL,
    result: undefined,
    error: undefined,
  };
}

/** The record of an actor that has made no call yet; nobody writes it. */
const NO_CALL = new Int32Array(RECORD_WORDS);

/** Whether the program will never be resumed again. */
export const isOver = (actor: Actor): boolean =>
  actor.state === "done" || actor.state === "oops" || actor.state === "killed";

const eventWord = (machine: Machine, slot: number): number =>
  lineOf(machine.layout, slot) + LINE.EVENT;

/** Whether the actor could take a step: a hypercall that has no answer yet keeps its slot where it is. */
export function canStep(machine: Machine, actor: Actor): boolean {
  switch (actor.state) {
    case "ready":
      return true;
    case "calling":
      return actor.channel.idle;
    case "blocked":
      if (machine.clockMs >= actor.wakeAtMs) return true;
      if (load(machine.words, eventWord(machine, actor.slot)) === actor.seen) return false;
      return !actor.losesWakeup || !loseWakeup(machine, actor);
    case "sleeping":
      return machine.clockMs >= actor.wakeAtMs;
    default:
      return false;
  }
}

/** What has raised the event word is not heard of. */
function loseWakeup(machine: Machine, actor: Actor): boolean {
  actor.losesWakeup = false;
  actor.seen = load(machine.words, eventWord(machine, actor.slot));
  machine.lostWakeups++;
  return true;
}

/** Resumes the program until its next trap, or its end. */
export function stepActor(machine: Machine, actor: Actor): void {
  if (actor.state === "calling") actor.resume = actor.channel.result();
  if (actor.state === "blocked") {
    actor.resume = load(machine.words, eventWord(machine, actor.slot));
  }
  mix(machine, actor.slot);
  mix(machine, actor.resume);
  actor.state = "ready";
  const trap = resume(machine, actor);
  if (trap === undefined) return;
  actor.resume = 0;
  actor.pendingAccess = 0;
  mix(machine, trap.kind);
  serve(machine, actor, trap);
}

/** The next trap; undefined when the program is over. */
function resume(machine: Machine, actor: Actor): Trap | undefined {
  try {
    const next = actor.part.program.next(actor.resume);
    if (next.done !== true) return next.value;
    actor.result = next.value;
    actor.state = "done";
  } catch (error) {
    // The emulator's own faults are nobody's outcome: they end the run.
    if (error instanceof EmulatorBug) throw error;
    stopDomain(machine, actor, error);
  }
  return undefined;
}

function serve(machine: Machine, actor: Actor, trap: Trap): void {
  switch (trap.kind) {
    case TRAP_HYPERCALL:
      pushRecord(machine, actor, trap);
      return;
    case TRAP_POINT:
      actor.pendingAddress = trap.address ?? 0;
      actor.pendingAccess = trap.access ?? 0;
      return;
    case TRAP_BLOCK:
      actor.seen = trap.seen;
      actor.wakeAtMs = machine.clockMs + (trap.timeoutMs ?? Number.POSITIVE_INFINITY);
      actor.state = "blocked";
      return;
    case TRAP_SLEEP:
      actor.wakeAtMs = machine.clockMs + trap.timeMs;
      actor.state = "sleeping";
      return;
    case TRAP_REPORT:
      machine.reports.push({ slot: actor.slot, key: trap.key, value: trap.value });
      return;
    case TRAP_HOST_READ:
      actor.resume = readHost(actor, trap);
      return;
    case TRAP_HOST_HASH:
      hashHost(actor, trap);
      return;
    default:
      unreachable(trap);
  }
}

function pushRecord(machine: Machine, actor: Actor, trap: HypercallTrap): void {
  // The worker behind a slot is gone before control says so: what it was in the middle of ends here.
  if (actor.slot === 0 && trap.record[RECORD_OP] === CONTROL_VCPU_DIED) {
    const victim = machine.actors[recordArg(trap.record, 0)];
    if (victim !== undefined && !isOver(victim)) endActor(machine, victim, "killed");
  }
  for (let i = 0; i < trap.record.length; i++) mix(machine, at(trap.record, i));
  actor.called = trap.record;
  actor.channel.push(trap.record);
  actor.state = "calling";
}

function readHost(actor: Actor, trap: HostReadTrap): number {
  const host = actor.part.host;
  return host === undefined ? -1 : host.readAt(trap.offset, trap.into, trap.length);
}

function hashHost(actor: Actor, trap: HostHashTrap): void {
  const host = actor.part.host;
  if (host === undefined) return;
  actor.hash ??= host.sha256();
  if (trap.length > 0) actor.hash.update(trap.bytes.subarray(0, trap.length));
  if (!trap.finish) return;
  trap.hex = actor.hash.hex();
  actor.hash = undefined;
}

/** The program will not run again; an access that it stood in is over, so that no flush waits for it. */
export function endActor(machine: Machine, actor: Actor, state: "oops" | "killed"): void {
  actor.state = state;
  machine.late?.drop(actor.slot);
  leaveForDead(machine.words, machine.layout, actor.slot);
  freeSlot(machine, actor.slot);
  machine.deaths.push({ slot: actor.slot, name: actor.part.name, state, error: actor.error });
}

/** Says that no program stands on the slot any more: once its domain is gone, another one may have it. */
export function freeSlot(machine: Machine, slot: number): void {
  store(machine.words, lineOf(machine.layout, slot) + LINE.ENDED, 1);
}

/** An uncaught fault: every vCPU of the domain stops where it is, and everybody else goes on. */
function stopDomain(machine: Machine, actor: Actor, error: unknown): void {
  const domid = line(machine, actor.slot, LINE.DOMAIN);
  const isVcpu = line(machine, actor.slot, LINE.KIND) === SLOT_KIND_VCPU;
  actor.error = error;
  endActor(machine, actor, "oops");
  if (!isVcpu) return;
  for (const other of machine.actors) {
    if (other === undefined || isOver(other)) continue;
    if (line(machine, other.slot, LINE.KIND) !== SLOT_KIND_VCPU) continue;
    if (line(machine, other.slot, LINE.DOMAIN) === domid) endActor(machine, other, "oops");
  }
}

const line = (machine: Machine, slot: number, field: number): number =>
  at(machine.words, lineOf(machine.layout, slot) + field);
