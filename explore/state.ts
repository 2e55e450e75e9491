/**
 * What an explored run consists of: the machine, its actors, and what is remembered of both. Rule: everything
 * that decides how a run goes on stands here, in the machine's buffers or in the scheduler. Ours.
 */

import type { Xen } from "../hypervisor/xen.ts";
import type { Channel } from "../shared/channel.ts";
import type { Layout } from "../shared/layout.ts";
import type { MachineModel } from "../shared/machine.ts";
import type { MachineMemory, Words } from "../shared/mem.ts";
import type { Host, Program } from "../shared/trap.ts";
import type { Scheduler } from "./scheduler.ts";

export type ActorState = "ready" | "calling" | "blocked" | "sleeping" | "done" | "oops" | "killed";

/** What is put on a slot. `mustFinish`: the run is stuck while this program waits for ever. */
export interface Part {
  readonly name: string;
  readonly program: Program<unknown>;
  readonly mustFinish: boolean;
  /** It may begin at any time, or not at all. */
  readonly isFault?: boolean;
  /** The files and hashes behind its host traps; a program without one gets -1 for every read. */
  readonly host?: Host;
}

export interface Actor {
  readonly slot: number;
  readonly part: Part;
  readonly channel: Channel;
  state: ActorState;
  /** What the program is resumed with. */
  resume: number;
  /** Event word that a blocked actor has seen. */
  seen: number;
  /** The next wake-up of a sleeper does not arrive (F-16). */
  losesWakeup: boolean;
  /** Virtual millisecond at which a sleeping actor goes on. */
  wakeAtMs: number;
  /** What an actor at a point is about to touch: a guest address, and ACCESS_*; 0: nothing that it has named. */
  pendingAddress: number;
  pendingAccess: number;
  /** Its last record. */
  called: Int32Array;
  hash: ReturnType<Host["sha256"]> | undefined;
  result: unknown;
  error: unknown;
}

/** What a program said with a report trap. */
export interface Report {
  readonly slot: number;
  readonly key: string;
  readonly value: string | number;
}

/** A program that ended without returning. */
export interface Death {
  readonly slot: number;
  readonly name: string;
  readonly state: "oops" | "killed";
  readonly error: unknown;
}

/**
 * Plain stores that are not in memory yet (stress spec 1.3). Their arrival is a task of its own: its number is that of the
 * vCPU's slot above those of all slots.
 */
export interface LateStores {
  /** Adds the tasks whose next store could arrive; returns how many candidates there are then. */
  collect(candidates: Int32Array, count: number): number;
  /** One store of such a task arrives. */
  drain(task: number): void;
  /** What its step touches, as `Scene.pending` names it. */
  pending(task: number): number;
  /** Before and after a step of an actor. */
  begin(actor: Actor): void;
  end(actor: Actor): void;
  /** The program on a slot will not run again. */
  drop(slot: number): void;
}

/** Is told of each choice before it is carried out. */
export interface StepLog {
  step(choice: number, candidates: Int32Array, count: number): void;
}

export interface ExploreOptions {
  readonly seed: number;
  readonly scheduler: Scheduler;
  /** Whether other slots may step inside handlers; programs decide themselves whether they yield points. */
  readonly points: boolean;
  /**
   * What runs on a slot that has come to life (a vCPU of an unpaused domain, or a device); undefined: nothing,
   * until somebody calls `assign`. Asked once each time a slot is taken.
   */
  readonly partOf?: (machine: Machine, slot: number) => Part | undefined;
  /** Told of every choice, in order, before it is carried out; `steps` counts it already. */
  readonly chosen?: (machine: Machine, choice: number) => void;
  /** Run after every step of the hypervisor; what it returns are violations, and end the run. */
  readonly audit?: (xen: Xen) => readonly string[];
}

export interface Machine {
  readonly model: MachineModel;
  readonly words: Words;
  readonly memory: MachineMemory;
  readonly layout: Layout;
  readonly xen: Xen;
  readonly options: ExploreOptions;
  /** By slot. */
  readonly actors: (Actor | undefined)[];
  readonly reports: Report[];
  readonly deaths: Death[];
  /** Who moved, in order: what the replay scheduler repeats. */
  readonly schedule: number[];
  /** Violations; the run ends at the first. */
  readonly findings: string[];
  /** Whether a finding is what a program of the story says. */
  claimed: boolean;
  /** Who is told of every step and every access, when somebody wants to know. */
  log: StepLog | undefined;
  /** Undefined: memory is sc, and a store is there at once. */
  late: LateStores | undefined;
  readonly candidates: Int32Array;
  /** By slot: 1 once `partOf` has been asked about the actor that has it. */
  readonly asked: Int32Array;
  clockMs: number;
  steps: number;
  /** Steps at which the run is over, whoever is in the middle of something. */
  limit: number;
  /** Wake-ups that have been lost on purpose. */
  lostWakeups: number;
  /** Whether no new trouble is made any more: faults that have not begun do not come, and hostile programs end. */
  settling: boolean;
  /** Points that the handler has met since it took its request or came back from a gap. */
  handlerPoints: number;
  /** Stretches that the hypervisor has worked: from an entry or a gap to the next gap or the answer. */
  turns: number;
  /** Rolling hash over every choice, record and resumed value. */
  traceHash: number;
  /** A second one, so that two runs that agree in both have taken the same way. */
  traceCheck: number;
  inHandler: boolean;
  inPoint: boolean;
  /** Whether accesses are the audit's, which are nobody's step. */
  auditing: boolean;
}

/** Leaves a handler that does not end, at the end of its run. */
export class RunOver extends Error {}

export const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;

const CHECK_PRIME = 0x85ebca6b;

/** Adds a word to the trace hash (FNV-1a, a word at a time). */
export function mix(machine: Machine, word: number): void {
  machine.traceHash = Math.imul(machine.traceHash ^ word, FNV_PRIME);
  machine.traceCheck =
    Math.imul(machine.traceCheck + word, CHECK_PRIME) ^ (machine.traceCheck >>> 15);
}
