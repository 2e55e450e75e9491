/**
 * The machine in ONE thread: the same hypervisor, channels and programs as on threads, one step at a time, in
 * the order that a scheduler chooses. No promise, no timer, no clock: the same seed gives the same trace.
 *
 *   step:  who can move? -> the scheduler chooses -> it moves until its next trap or gap -> audit
 *   idle:  nobody can move -> virtual time jumps to the first sleeper -> nobody sleeps -> the run is over
 *
 * Rules: plain ArrayBuffers, where nobody ever waits; a slot whose hypercall is unanswered or whose domain is
 * paused is no candidate; inside a handler other slots may step at an access to a guest-writable word, one
 * level deep (design 10.6). Building a machine is cheap when its limits are small.
 * Ours (design 3, 10.1 to 10.6).
 */

import {
  bootHypervisor,
  hasWork,
  nextDeadline,
  step as stepHypervisor,
} from "../hypervisor/main.ts";
import type { Xen } from "../hypervisor/xen.ts";
import { assert, at } from "../shared/assert.ts";
import {
  DOM,
  domainOf,
  LINE,
  layoutOf,
  lineOf,
  MACHINE,
  machineBytes,
  SLOT_DEAD,
  SLOT_KIND_VCPU,
  SLOT_LIVE,
  WALK_TABLE,
} from "../shared/layout.ts";
import { NOT_PRESENT, PAGE_SIZE, WORDS_PER_PAGE } from "../shared/limits.ts";
import type { MachineModel } from "../shared/machine.ts";
import { MachineMemory, wordsOf } from "../shared/mem.ts";
import { ACCESS_WRITE, walk } from "../shared/mmu.ts";
import { actorOf, canStep, endActor, freeSlot, isOver, stepActor } from "./actor.ts";
import { type MachineImage, restoreImage } from "./image.ts";
import { HYPERVISOR, type Scene } from "./scheduler.ts";
import {
  type Actor,
  type ExploreOptions,
  FNV_OFFSET,
  type Machine,
  mix,
  type Part,
  RunOver,
} from "./state.ts";

/** Steps that other slots may take at one point inside a handler: a bound, should the scheduler be partial. */
const POINT_STEPS_MAX = 64;

/** Points that a handler may meet between two gaps (L-7): nobody else is served meanwhile. */
const HANDLER_POINTS_MAX = 256;

/** Choices that are kept for replay; a longer run is repeated from its seed. */
const SCHEDULE_KEPT = 1_000_000;

/**
 * A machine whose boot domains exist and are unpaused, and where every slot that `partOf` knows has its program:
 * booted afresh from a model, or restored from an image, which takes a fraction of the time.
 */
export const buildMachine = (from: MachineModel | MachineImage, options: ExploreOptions): Machine =>
  machineOver("bootWords" in from ? restoreImage(from) : bootFresh(from), options);

/** The same over a hypervisor that has booted already, in the buffers that it has. */
export function machineOver(xen: Xen, options: ExploreOptions): Machine {
  const slots = xen.model.limits.slots;
  const machine: Machine = {
    model: xen.model,
    words: xen.words,
    memory: xen.memory,
    layout: xen.layout,
    xen,
    options,
    actors: new Array<Actor | undefined>(slots).fill(undefined),
    reports: [],
    deaths: [],
    schedule: [],
    findings: [],
    claimed: false,
    log: undefined,
    late: undefined,
    candidates: new Int32Array(2 * slots + 1),
    asked: new Int32Array(slots),
    clockMs: 0,
    steps: 0,
    limit: Number.POSITIVE_INFINITY,
    settling: false,
    lostWakeups: 0,
    handlerPoints: 0,
    turns: 0,
    traceHash: FNV_OFFSET | 0,
    traceCheck: 0,
    inHandler: false,
    inPoint: false,
    auditing: false,
  };
  options.scheduler.begin(options.seed, sceneOf(machine));
  if (options.points) xen.memory.onGuestWord = () => pointInHandler(machine);
  attendSlots(machine);
  return machine;
}

function bootFresh(model: MachineModel): Xen {
  const layout = layoutOf(model);
  const words = wordsOf(new ArrayBuffer(layout.words * 4));
  const memory = new MachineMemory(new ArrayBuffer(machineBytes(layout)));
  return bootHypervisor(words, memory, layout);
}

/** Puts a program on a slot whose last one is over; a device's or vCPU's, or the toolstack's own on slot 0. */
export function assign(machine: Machine, slot: number, part: Part): Actor {
  const before = machine.actors[slot];
  assert(before === undefined || isOver(before), "a slot runs one program at a time");
  const actor = actorOf(machine, slot, part);
  machine.actors[slot] = actor;
  return actor;
}

const line = (machine: Machine, slot: number, field: number): number =>
  at(machine.words, lineOf(machine.layout, slot) + field);

/** Whether a slot belongs to a domain that its controller has paused. */
function isPaused(machine: Machine, slot: number): boolean {
  if (line(machine, slot, LINE.KIND) !== SLOT_KIND_VCPU) return false;
  const domid = line(machine, slot, LINE.DOMAIN);
  return at(machine.words, domainOf(machine.layout, domid) + DOM.PAUSE) > 0;
}

/** Drops the programs of slots that died, and asks for those of slots that came to life. */
function attendSlots(machine: Machine): void {
  for (let slot = 1; slot < machine.actors.length; slot++) {
    const state = line(machine, slot, LINE.STATE);
    const actor = machine.actors[slot];
    if (state === SLOT_LIVE) {
      if (actor === undefined) askForPart(machine, slot);
      continue;
    }
    if (actor !== undefined && !isOver(actor)) endActor(machine, actor, "killed");
    machine.actors[slot] = undefined;
    machine.asked[slot] = 0;
    if (state === SLOT_DEAD && line(machine, slot, LINE.ENDED) === 0) freeSlot(machine, slot);
  }
}

function askForPart(machine: Machine, slot: number): void {
  if (machine.asked[slot] === 1 || isPaused(machine, slot)) return;
  machine.asked[slot] = 1;
  const part = machine.options.partOf?.(machine, slot);
  if (part !== undefined) assign(machine, slot, part);
}

/** Collects who could move into `candidates`, ascending; returns how many. */
function collect(machine: Machine, withHypervisor: boolean): number {
  let count = 0;
  if (withHypervisor) machine.candidates[count++] = HYPERVISOR;
  for (const actor of machine.actors) {
    if (actor === undefined || !canStep(machine, actor) || isPaused(machine, actor.slot)) continue;
    machine.candidates[count++] = actor.slot;
  }
  return machine.late === undefined ? count : machine.late.collect(machine.candidates, count);
}

/** One choice and what follows from it. False: nobody can move and nobody sleeps; or the audit has found something. */
export function step(machine: Machine): boolean {
  if (machine.findings.length > 0) return false;
  let count = collect(machine, hasWork(machine.xen));
  if (count === 0) {
    if (!advanceClock(machine)) return false;
    count = collect(machine, hasWork(machine.xen));
    if (count === 0) return false;
  }
  move(machine, choose(machine, count));
  return machine.findings.length === 0;
}

function choose(machine: Machine, count: number): number {
  const choice = machine.options.scheduler.choose(machine.candidates, count);
  if (machine.schedule.length < SCHEDULE_KEPT) machine.schedule.push(choice);
  machine.steps++;
  mix(machine, choice);
  machine.log?.step(choice, machine.candidates, count);
  machine.options.chosen?.(machine, choice);
  return choice;
}

function move(machine: Machine, choice: number): void {
  if (choice !== HYPERVISOR) {
    moveActor(machine, choice);
    return;
  }
  machine.turns++;
  machine.handlerPoints = 0;
  machine.inHandler = true;
  stepHypervisor(machine.xen);
  machine.inHandler = false;
  attendSlots(machine);
  if (machine.options.audit === undefined) return;
  machine.auditing = true;
  machine.findings.push(...machine.options.audit(machine.xen));
  machine.auditing = false;
}

function moveActor(machine: Machine, choice: number): void {
  if (choice >= machine.actors.length) {
    machine.late?.drain(choice);
    return;
  }
  const actor = machine.actors[choice];
  assert(actor !== undefined, "a scheduler chooses among the candidates");
  machine.late?.begin(actor);
  stepActor(machine, actor);
  machine.late?.end(actor);
}

/** Nobody can move: time goes on to the first sleeper, or to the end of the first poll. False: nobody sleeps. */
function advanceClock(machine: Machine): boolean {
  const deadline = nextDeadline(machine.xen);
  let first = deadline === NOT_PRESENT ? Number.POSITIVE_INFINITY : deadline;
  for (const actor of machine.actors) {
    if (actor === undefined || (actor.state !== "sleeping" && actor.state !== "blocked")) continue;
    if (!isPaused(machine, actor.slot)) first = Math.min(first, actor.wakeAtMs);
  }
  if (first === Number.POSITIVE_INFINITY) return false;
  machine.clockMs = Math.max(machine.clockMs, first);
  machine.words[MACHINE.TICK] = machine.clockMs | 0;
  return true;
}

/** The hook of design 10.6: the handler is about to touch a guest-writable word, and others may be faster. */
function pointInHandler(machine: Machine): void {
  if (!machine.inHandler || machine.inPoint) return;
  if (++machine.handlerPoints > HANDLER_POINTS_MAX) workTooLong(machine);
  machine.inPoint = true;
  for (let taken = 0; taken < POINT_STEPS_MAX; taken++) {
    const choice = choose(machine, collect(machine, true));
    if (choice === HYPERVISOR) break;
    move(machine, choice);
  }
  machine.inPoint = false;
}

/** L-7. A handler that never lets go is left at the end of the run. */
function workTooLong(machine: Machine): void {
  if (machine.handlerPoints === HANDLER_POINTS_MAX + 1) {
    const text = `a handler meets more than ${HANDLER_POINTS_MAX} points without letting go`;
    machine.findings.push(`L-7: ${text}`);
  }
  if (machine.steps >= machine.limit) throw new RunOver();
}

const sceneOf = (machine: Machine): Scene => ({
  pending: (task) => {
    if (task >= machine.actors.length) return machine.late?.pending(task) ?? 0;
    const actor = task === HYPERVISOR ? undefined : machine.actors[task];
    return actor === undefined ? 0 : pendingOf(machine, actor);
  },
});

/** The word that an actor at a point is about to touch, as `Scene.pending` names it. */
function pendingOf(machine: Machine, actor: Actor): number {
  if (actor.state !== "ready" || actor.pendingAccess === 0) return 0;
  const { words, layout, memory } = machine;
  if (line(machine, actor.slot, LINE.MODE) !== WALK_TABLE) return 0;
  const root = line(machine, actor.slot, LINE.ROOT);
  if (root === NOT_PRESENT) return 0;
  const page = Math.floor(actor.pendingAddress / PAGE_SIZE);
  const found = walk(layout, words, memory, root, page);
  if (found < 0) return 0;
  const word = (found >>> 3) * WORDS_PER_PAGE + ((actor.pendingAddress % PAGE_SIZE) >> 2);
  return word * 2 + ((actor.pendingAccess & ACCESS_WRITE) === 0 ? 0 : 1);
}
