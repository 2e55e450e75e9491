/**
 * One guest kernel on vCPU 0: its tasks, what they wait for, and the way into the hypervisor.
 *
 *   task: wait(port) -> parked; others run; when all are parked the vCPU blocks on its event word
 *   loop: read the event word -> take pending events and lines -> run every ready task -> nothing ran: block
 *
 * Rules: tasks are cooperative: one runs until it waits, so nothing of another task happens between
 * marshalling arguments, the trap and reading the results back. The event word is read before pending
 * events are scanned, so that no wake-up is lost (W6). Hypercalls, points, host traps and sleep go straight
 * up and hold the whole vCPU. A fault of any task stops the kernel: it is thrown on to the runner.
 * Behaviour: Linux kernel/sched, as far as drivers see it; see the row "guest tasks" in docs/FIDELITY.md.
 */
import { assert } from "../shared/assert.ts";
import { LINE, lineOf, MACHINE } from "../shared/layout.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import type { BootInfo } from "../shared/machine.ts";
import { exchange, load, store } from "../shared/mem.ts";
import { ENOMEM } from "../shared/status.ts";
import {
  type BlockTrap,
  type HypercallTrap,
  hypercallTrap,
  type Program,
  setRecord,
  TRAP_BLOCK,
  TRAP_REPORT,
  TRAP_SLEEP,
} from "../shared/trap.ts";
import type { EvtchnPort } from "../shared/units.ts";
import { createEventState, type EventState, takePort } from "./event-state.ts";
import { handleEvents } from "./event-upcall.ts";
import { createFaultPoints, type FaultPoints, failsHere } from "./fault-points.ts";
import type { KernelMemory, Mutex } from "./kernel-memory.ts";
import { type Cpu, POINT, readBytes, writeBytes } from "./memory.ts";
import { createUserState, type UserState } from "./user-state.ts";
import type { StoreConnection } from "./xenstore-connection.ts";

/** Pages at the bottom of RAM that the kernel keeps for hypercall arguments: its own image's data section. */
export const ARGUMENT_PAGES = 4;
export const ARGUMENT_BYTES = ARGUMENT_PAGES * PAGE_SIZE;

/** One thread of the kernel. */
export interface Task {
  readonly name: string;
  readonly program: Program;
  /** A daemon does not keep the kernel running. */
  readonly daemon: 0 | 1;
  /** Whether it may go on; undefined: it does not wait. */
  ready: (() => boolean) | undefined;
  /** Millisecond at which it is asked again even if nothing has happened. */
  dueMs: number;
  over: boolean;
}

/** Where structures of a hypercall are put together: private bytes, and the guest pages they are written to. */
export interface ArgumentArea {
  readonly gaddr: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

/** What it takes to make a hypercall: a raw program on another vCPU of the domain has no more than this. */
export interface Caller {
  readonly cpu: Cpu;
  readonly arguments: ArgumentArea;
  readonly call: HypercallTrap;
  readonly faults: FaultPoints;
}

export interface Kernel extends Caller {
  readonly boot: BootInfo;
  readonly tasks: Task[];
  readonly events: EventState;
  readonly memory: KernelMemory;
  /** State of the drivers of user-space devices. */
  readonly user: UserState;
  /** Connection to the store, once connectStore has found one. */
  store: StoreConnection | undefined;
  /** XENVER_get_features, submap 0. */
  readonly features: number;
  /** Pending interrupt lines that no task has taken yet. */
  lines: number;
  /** The task that runs, or undefined between tasks. */
  current: Task | undefined;
  /** Latest time that a timer of this kernel has seen: the machine's clock may stand while nobody calls Xen. */
  clockMs: number;
  readonly block: BlockTrap;
}

/**
 * A caller whose arguments lie in ARGUMENT_PAGES pages of RAM at guest address `gaddr`. `former`: those of a caller that is
 * gone, whose room may be used again.
 */
export const createCaller = (cpu: Cpu, gaddr: number, former?: ArgumentArea): Caller => ({
  cpu,
  arguments: former === undefined ? argumentArea(gaddr) : { ...former, gaddr },
  call: hypercallTrap(),
  faults: createFaultPoints(),
});

function argumentArea(gaddr: number): ArgumentArea {
  const bytes = new Uint8Array(ARGUMENT_BYTES);
  return { gaddr, bytes, view: new DataView(bytes.buffer) };
}

/** No timer. */
const NEVER = Number.POSITIVE_INFINITY;

/** The kernel's time in milliseconds: the machine's clock, or what its own timers know better. */
export const nowMs = (kernel: Kernel): number =>
  Math.max(load(kernel.cpu.words, MACHINE.TICK), kernel.clockMs);

/** A kernel without tasks. */
export const createKernel = (caller: Caller, features: number, memory: KernelMemory): Kernel => ({
  ...caller,
  boot: caller.cpu.boot,
  tasks: [],
  events: createEventState(),
  memory,
  user: createUserState(),
  store: undefined,
  features,
  lines: 0,
  current: undefined,
  clockMs: 0,
  block: { kind: TRAP_BLOCK, seen: 0 },
});

/** Adds a task; it runs when the kernel next looks for one. */
export function spawn(kernel: Kernel, name: string, program: Program): Task {
  const task: Task = { name, program, daemon: 0, ready: undefined, dueMs: NEVER, over: false };
  kernel.tasks.push(task);
  return task;
}

/** Adds a task that serves the others: the kernel ends without waiting for it. */
export function spawnDaemon(kernel: Kernel, name: string, program: Program): Task {
  const task: Task = { name, program, daemon: 1, ready: undefined, dueMs: NEVER, over: false };
  kernel.tasks.push(task);
  return task;
}

/** Runs one task until it waits or ends; every other trap goes up. */
function* runTask(kernel: Kernel, task: Task): Program {
  kernel.current = task;
  kernel.faults.running = task.name;
  task.ready = undefined;
  task.dueMs = NEVER;
  let input = 0;
  for (;;) {
    const step = task.program.next(input);
    if (step.done === true) {
      task.over = true;
      break;
    }
    if (step.value.kind === TRAP_BLOCK) {
      assert(task.ready !== undefined, "a task blocks through waitUntil");
      break;
    }
    input = yield step.value;
  }
  kernel.current = undefined;
}

/** Interrupt lines that devices have raised since the last look. */
function takeLines(kernel: Kernel): void {
  const { words, layout, slot } = kernel.cpu;
  kernel.lines |= exchange(words, lineOf(layout, slot) + LINE.INTERRUPTS, 0);
}

/** Blocks the vCPU until its event word changes, or until the first task is due. */
function* idle(kernel: Kernel, seen: number): Program {
  const due = kernel.tasks.reduce((first, task) => Math.min(first, task.dueMs), NEVER);
  const timeoutMs = due === NEVER ? NEVER : Math.max(1, due - nowMs(kernel));
  const wakeMs = nowMs(kernel) + timeoutMs;
  kernel.block.seen = seen;
  kernel.block.timeoutMs = timeoutMs;
  const word = yield kernel.block;
  if (word === seen && timeoutMs !== NEVER) kernel.clockMs = Math.max(kernel.clockMs, wakeMs);
}

/** Runs the tasks, round robin, until every task that is no daemon is over. */
export function* runKernel(kernel: Kernel): Program {
  const { words, layout, slot } = kernel.cpu;
  const event = lineOf(layout, slot) + LINE.EVENT;
  const clock = (): number => nowMs(kernel);
  while (kernel.tasks.some((task) => task.daemon === 0)) {
    const seen = load(words, event);
    takeLines(kernel);
    yield* handleEvents(kernel.cpu, kernel.events, clock);
    let ran = 0;
    for (const task of [...kernel.tasks]) {
      if (task.ready !== undefined && !task.ready()) continue;
      ran++;
      yield* runTask(kernel, task);
      if (task.over) kernel.tasks.splice(kernel.tasks.indexOf(task), 1);
    }
    if (ran > 0) continue;
    // An event may come between the look and the sleep.
    if (kernel.cpu.points) yield POINT;
    yield* idle(kernel, seen);
  }
}

/**
 * Parks the calling task until `ready` holds. It is asked again after every event and every task's turn, and
 * exactly once with the answer true: it may take what it waited for.
 */
export function* waitUntil(kernel: Kernel, ready: () => boolean): Program {
  if (ready()) return;
  const task = kernel.current;
  assert(task !== undefined, "only a task waits");
  task.ready = ready;
  yield kernel.block;
}

/** As waitUntil, but not beyond `dueMs` of the kernel's time. Returns what `ready` has said last. */
export function* waitFor(kernel: Kernel, ready: () => boolean, dueMs: number): Program<boolean> {
  let found = ready();
  if (found || nowMs(kernel) >= dueMs) return found;
  const task = kernel.current;
  assert(task !== undefined, "only a task waits");
  task.dueMs = dueMs;
  task.ready = () => {
    found = ready();
    return found || nowMs(kernel) >= dueMs;
  };
  yield kernel.block;
  return found;
}

/** Parks the task until `ready` holds, `timeoutMs` at most; whether it held. */
export function* waitTimeout(
  kernel: Kernel,
  ready: () => boolean,
  timeoutMs: number,
): Program<boolean> {
  return yield* waitFor(kernel, ready, nowMs(kernel) + timeoutMs);
}

/** Lets every other ready task run once. */
export function* giveWay(kernel: Kernel): Program {
  const task = kernel.current;
  assert(task !== undefined, "only a task gives way");
  task.ready = () => true;
  yield kernel.block;
}

/**
 * A place where the calling task may lose the CPU: an allocation that sleeps. The others run once; before the kernel has
 * tasks there is nobody to run.
 */
export function* mightSleep(kernel: Kernel): Program {
  if (kernel.current !== undefined) yield* giveWay(kernel);
}

/** Runs `body` with the mutex held, waiting for it first. */
export function* withMutex<Result>(
  kernel: Kernel,
  mutex: Mutex,
  body: Program<Result>,
): Program<Result> {
  yield* waitUntil(kernel, () => !mutex.locked);
  mutex.locked = true;
  try {
    return yield* body;
  } finally {
    mutex.locked = false;
  }
}

/** Parks the task until an event has arrived on `port`, and takes it. Events are edges: many may be one. */
export function* wait(kernel: Kernel, port: EvtchnPort | number): Program {
  yield* waitUntil(kernel, () => takePort(kernel.events, port));
}

/** Parks the task until an interrupt line (0 to 31) is raised, and takes it. */
export function* waitLine(kernel: Kernel, line: number): Program {
  yield* waitUntil(kernel, () => {
    const raised = ((kernel.lines >>> line) & 1) === 1;
    if (raised) kernel.lines &= ~(1 << line);
    return raised;
  });
}

/** One hypercall with its real arguments; returns what the hypervisor returned, a negative errno included. */
export function* hypercall(
  caller: Caller,
  op: number,
  ...args: readonly number[]
): Program<number> {
  setRecord(caller.call.record, op, args);
  if (failsHere(caller.faults, "hypercall")) refuseNextRecord(caller.cpu);
  return yield caller.call;
}

/** Has the hypervisor refuse the next record of this vCPU, as it would without memory. */
function refuseNextRecord({ words, layout, slot }: Cpu): void {
  store(words, lineOf(layout, slot) + LINE.INJECT, -ENOMEM);
}

/** Publishes the first `length` bytes of the argument area to the guest pages behind it. */
export function* writeArguments(caller: Caller, length: number): Program {
  assert(length <= ARGUMENT_BYTES, "the arguments fit their area");
  yield* writeBytes(caller.cpu, caller.arguments.gaddr, caller.arguments.bytes, 0, length);
}

/** Reads the first `length` bytes back, as the hypervisor has left them. */
export function* readArguments(caller: Caller, length: number): Program {
  yield* readBytes(caller.cpu, caller.arguments.gaddr, caller.arguments.bytes, 0, length);
}

/** Tells the scenario something. */
export function* report(key: string, value: string | number): Program {
  yield { kind: TRAP_REPORT, key, value };
}

/** Stops the whole vCPU for a while: its tasks share one clock and have no timer of their own. */
export function* sleep(timeMs: number): Program {
  yield { kind: TRAP_SLEEP, timeMs };
}
