/**
 * What a user program can do: the system calls that drivers see, its own loads and stores, and its death.
 *
 *   killed -> the next call (or a wait that may be interrupted) ends the program -> address space down -> files closed
 *
 * Rules: a program touches memory by its virtual addresses only, and the kernel by system calls only. A call of a
 * killed process does not begin; one that has begun is finished, so that no driver is left half-way. An access that
 * no mapping allows kills the process, never the kernel.
 * Behaviour: Linux kernel/exit.c (do_exit: memory first, then files in ascending order), kernel/fork.c.
 */
import {
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  O_RDWR,
  POLLERR,
  PROT_READ,
  PROT_WRITE,
} from "../shared/abi/linux.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import { EBADF, EFAULT, EINTR, EINVAL, ENOENT, ENOTTY } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import {
  copyToUser,
  doMmap,
  doMunmap,
  dupMmap,
  exitMmap,
  type MmapRequest,
  structFromUser,
  vmaAt,
} from "./address-space.ts";
import { type Kernel, spawn, waitUntil } from "./kernel.ts";
import {
  closeFd,
  createProcess,
  fileOf,
  getFile,
  installFile,
  type OpenFile,
  type Process,
  putFile,
} from "./process.ts";
import type { Structure } from "./structure.ts";
import { DEVICE_FILES } from "./user-devices.ts";

export const SIGBUS = 7;
export const SIGKILL = 9;
export const SIGSEGV = 11;

/** The program of a process is over because of a signal. Thrown by its calls, caught by whoever runs it. */
export class ProcessKilled extends Error {
  override readonly name = "ProcessKilled";
  readonly signal: number;

  constructor(process: Process, signal: number) {
    super(`process ${process.name} ends by signal ${signal}`);
    this.signal = signal;
  }
}

export type ProcessProgram = (process: Process) => Program;

/** Runs a program as a process of its own, to its end; returns the signal that ended it, or 0. */
export function* runProcess(
  kernel: Kernel,
  name: string,
  program: ProcessProgram,
): Program<number> {
  return yield* runToExit(createProcess(kernel, name), program);
}

function* runToExit(process: Process, program: ProcessProgram): Program<number> {
  let signal = 0;
  try {
    yield* program(process);
  } catch (error) {
    if (!(error instanceof ProcessKilled)) throw error;
    signal = error.signal;
  }
  yield* exitProcess(process, signal);
  return signal;
}

/** do_exit: the address space first, then every file in order of its descriptor. */
function* exitProcess(process: Process, signal: number): Program {
  process.killed = true;
  yield* exitMmap(process);
  for (let fd = 0; fd < process.files.length; fd++) yield* closeFd(process, fd);
  process.exitSignal = signal;
}

/** A fatal signal from outside. */
export function killProcess(process: Process): void {
  process.killed = true;
}

function checkAlive(process: Process): void {
  if (process.killed) throw new ProcessKilled(process, SIGKILL);
}

/** open: a descriptor, -ENOENT (no such device file), or what the driver says. */
export function* sysOpen(process: Process, path: string, flags: number = O_RDWR): Program<number> {
  checkAlive(process);
  const open = DEVICE_FILES[path];
  if (open === undefined) return -ENOENT;
  return installFile(process, open(process.kernel, flags));
}

/** ioctl with an address in the process's memory; -ENOTTY where the file knows no such request. */
export function* sysIoctl(
  process: Process,
  fd: number,
  request: number,
  argument: number,
): Program<number> {
  checkAlive(process);
  const file = fileOf(process, fd);
  if (file === undefined) return -EBADF;
  if (file.ops.ioctl === undefined) return -ENOTTY;
  return yield* inUse(file, file.ops.ioctl(file, process, request, argument));
}

/** fdget and fdput: a call keeps its file, whoever closes the descriptor meanwhile. */
function* inUse(file: OpenFile, call: Program<number>): Program<number> {
  getFile(file);
  const rc = yield* call;
  yield* putFile(file);
  return rc;
}

export function* sysMmap(process: Process, request: MmapRequest): Program<number> {
  checkAlive(process);
  return yield* doMmap(process, request);
}

export function* sysMunmap(process: Process, start: number, length: number): Program<number> {
  checkAlive(process);
  return yield* doMunmap(process, start, length);
}

/** close: 0 or -EBADF. */
export function* sysClose(process: Process, fd: number): Program<number> {
  checkAlive(process);
  return yield* closeFd(process, fd);
}

/** read: bytes, 0, or a negative errno. */
export function* sysRead(
  process: Process,
  fd: number,
  into: number,
  length: number,
): Program<number> {
  checkAlive(process);
  const file = fileOf(process, fd);
  if (file === undefined) return -EBADF;
  if (file.ops.read === undefined) return -EINVAL;
  return yield* inUse(file, file.ops.read(file, process, into, length));
}

/** write: bytes, 0, or a negative errno. */
export function* sysWrite(
  process: Process,
  fd: number,
  from: number,
  length: number,
): Program<number> {
  checkAlive(process);
  const file = fileOf(process, fd);
  if (file === undefined) return -EBADF;
  if (file.ops.write === undefined) return -EINVAL;
  return yield* inUse(file, file.ops.write(file, process, from, length));
}

/** poll of one file: what would not block now, or -EBADF. `events`: waits until one of these, or an error, is there. */
export function* sysPoll(process: Process, fd: number, events = 0): Program<number> {
  checkAlive(process);
  const file = fileOf(process, fd);
  if (file === undefined) return -EBADF;
  const { poll } = file.ops;
  if (poll === undefined) return events;
  if (events !== 0) {
    yield* waitUntil(
      process.kernel,
      () => process.killed || (poll(file) & (events | POLLERR)) !== 0,
    );
  }
  checkAlive(process);
  return poll(file);
}

/** fork: the child runs `program` in a task of its own. The child, or a negative errno (-ENOMEM). */
export function* sysFork(process: Process, program: ProcessProgram): Program<Process | number> {
  checkAlive(process);
  const child = createProcess(process.kernel, `${process.name}'`);
  for (const [fd, file] of process.files.entries()) {
    child.files[fd] = file && getFile(file);
  }
  child.scratch = process.scratch;
  child.scratchBytes = process.scratchBytes;
  const rc = yield* dupMmap(process, child);
  if (rc < 0) {
    yield* exitProcess(child, SIGKILL);
    return rc;
  }
  spawn(process.kernel, child.name, ended(runToExit(child, program)));
  return child;
}

/** waitpid: the signal that ended a child, 0 for an end of its own; -EINTR when the waiting process is killed. */
export function* sysWaitpid(process: Process, child: Process): Program<number> {
  checkAlive(process);
  yield* waitUntil(process.kernel, () => process.killed || child.exitSignal !== undefined);
  return child.exitSignal ?? -EINTR;
}

function* ended(program: Program<number>): Program {
  yield* program;
}

/** Loads bytes as the program itself does; where nothing is, it dies. */
export function* userLoad(process: Process, address: number, length: number): Program<Uint8Array> {
  checkAlive(process);
  const from = yield* structFromUser(process, address, length);
  if (from === undefined) throw new ProcessKilled(process, faultSignal(process, address, length));
  return from.bytes;
}

/** Stores bytes as the program itself does. */
export function* userStore(process: Process, address: number, bytes: Uint8Array): Program {
  checkAlive(process);
  if (yield* copyToUser(process, address, bytes)) return;
  throw new ProcessKilled(process, faultSignal(process, address, bytes.length));
}

/** SIGBUS where a mapping has no page, SIGSEGV where no mapping allows the access. */
function faultSignal(process: Process, address: number, length: number): number {
  for (let at = address; at < address + length; at += PAGE_SIZE - (at % PAGE_SIZE)) {
    const vma = vmaAt(process, at);
    if (vma === undefined) return SIGSEGV;
    if (vma.pages[Math.floor((at - vma.start) / PAGE_SIZE)] === undefined) return SIGBUS;
  }
  return SIGSEGV;
}

/**
 * Writes arguments into the program's own buffer, which every call reuses and which grows with the largest: its
 * address, or a negative errno when there is no memory for it.
 */
export function* stage(process: Process, bytes: Uint8Array): Program<number> {
  checkAlive(process);
  if (process.scratchBytes < bytes.length) {
    if (process.scratch !== 0) yield* doMunmap(process, process.scratch, process.scratchBytes);
    const length = Math.ceil(bytes.length / PAGE_SIZE) * PAGE_SIZE;
    const prot = PROT_READ | PROT_WRITE;
    const at = yield* doMmap(process, { length, prot, flags: MAP_PRIVATE | MAP_ANONYMOUS });
    if (at < 0) return at;
    process.scratch = at;
    process.scratchBytes = length;
  }
  return (yield* copyToUser(process, process.scratch, bytes)) ? process.scratch : -EFAULT;
}

/** An ioctl on a structure that is put together in the program's buffer, and read back from there. */
export function* ioctlOn(
  process: Process,
  fd: number,
  request: number,
  { bytes }: Structure,
): Program<number> {
  const at = yield* stage(process, bytes);
  if (at < 0) return at;
  const rc = yield* sysIoctl(process, fd, request, at);
  bytes.set(yield* userLoad(process, at, bytes.length));
  return rc;
}
