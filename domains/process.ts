/**
 * A user process as drivers see it: a table of open files and an address space. The shapes, and the life of a file.
 *
 *   fd -> struct file -> its operations;  vaddr -> VMA -> page;  a VMA holds its file, a dma-buf may hold another
 *
 * Rules: a file is released when the last descriptor, mapping and kernel user of it has gone, whoever that is. A fork
 * shares files and counts them. What a driver hangs on a mapping it finds again by the mapping's operations.
 * Behaviour: Linux include/linux/fs.h, mm_types.h; fs/file.c.
 */
import { PROCESS_FILES_MAX } from "../shared/limits.ts";
import { EBADF, EMFILE } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import type { Pfn } from "../shared/units.ts";
import { bugOn } from "./bug.ts";
import type { Kernel } from "./kernel.ts";

/** What a file can do. A negative result is an errno. Addresses are the process's own. */
export interface FileOps {
  readonly ioctl?: (
    file: OpenFile,
    process: Process,
    request: number,
    argument: number,
  ) => Program<number>;
  /** Fills in pages and operations of a mapping that is not in the address space yet. */
  readonly mmap?: (file: OpenFile, process: Process, vma: Vma) => Program<number>;
  readonly read?: (
    file: OpenFile,
    process: Process,
    into: number,
    length: number,
  ) => Program<number>;
  readonly write?: (
    file: OpenFile,
    process: Process,
    from: number,
    length: number,
  ) => Program<number>;
  /** POLL*: what would not block. */
  readonly poll?: (file: OpenFile) => number;
  /** The last user has gone. */
  readonly release: (file: OpenFile) => Program;
}

/** struct file. */
export interface OpenFile {
  readonly ops: FileOps;
  /** What the driver keeps with it; known by `ops`. */
  readonly data: unknown;
  /** O_* it was opened with. */
  readonly flags: number;
  count: number;
}

/** VM_DONTCOPY: a fork leaves the mapping out. */
export const VM_DONTCOPY = 1;
/** VM_PFNMAP: its pages are not counted, and nobody may pin them. */
export const VM_PFNMAP = 2;

/** What a driver does when a mapping of it changes. */
export interface VmaOps {
  /** One more mapping of the same thing, by a fork or a split. */
  readonly open?: (vma: Vma) => void;
  /** The mapping goes; its pages are out of the address space. */
  readonly close?: (vma: Vma) => Program;
  /** A negative errno refuses to cut the mapping in two. */
  readonly maySplit?: (vma: Vma) => number;
}

/** struct vm_area_struct: `start` to `end` are byte addresses, multiples of a page. */
export interface Vma {
  start: number;
  end: number;
  readonly write: boolean;
  readonly shared: boolean;
  /** VM_* */
  flags: number;
  /** Offset in the file, in pages. */
  pgoff: number;
  readonly file: OpenFile | undefined;
  ops: VmaOps;
  /** What the driver keeps with it; known by `ops`. */
  data: unknown;
  /** One an address page; undefined: touching it is SIGBUS. */
  pages: (Pfn | undefined)[];
}

/** A process. One task runs it; a fork is another process with a task of its own. */
export interface Process {
  readonly kernel: Kernel;
  readonly name: string;
  /** Index: descriptor. */
  readonly files: (OpenFile | undefined)[];
  /** Ascending. */
  readonly vmas: Vma[];
  /** Where the next mapping goes. */
  mmapBase: number;
  /** The process's own buffer for the arguments of its calls, 0 before the first. */
  scratch: number;
  scratchBytes: number;
  /** A fatal signal is pending: the next call, or one that waits interruptibly, ends the process. */
  killed: boolean;
  /** Signal that ended it, 0 for an end of its own; undefined while it lives. */
  exitSignal: number | undefined;
}

/** Where mappings begin; a number that no physical address here reaches. */
const MMAP_BASE = 0x7f00_0000_0000;

export const createProcess = (kernel: Kernel, name: string): Process => ({
  kernel,
  name,
  files: [],
  vmas: [],
  mmapBase: MMAP_BASE,
  scratch: 0,
  scratchBytes: 0,
  killed: false,
  exitSignal: undefined,
});

export const createFile = (ops: FileOps, data: unknown, flags: number): OpenFile => ({
  ops,
  data,
  flags,
  count: 1,
});

/** Puts a file on the lowest free descriptor, which takes over its reference: the number, or -EMFILE. */
export function installFile(process: Process, file: OpenFile): number {
  const hole = process.files.indexOf(undefined);
  const fd = hole < 0 ? process.files.length : hole;
  if (fd >= PROCESS_FILES_MAX) return -EMFILE;
  process.files[fd] = file;
  return fd;
}

/** The file behind a descriptor, or undefined: -EBADF. */
export const fileOf = (process: Process, fd: number): OpenFile | undefined => process.files[fd];

/** get_file. */
export function getFile(file: OpenFile): OpenFile {
  bugOn(file.count <= 0, "a file that was released is used again");
  file.count++;
  return file;
}

/** fput: the last one releases the file. */
export function* putFile(file: OpenFile): Program {
  file.count--;
  bugOn(file.count < 0, "a released file is put");
  if (file.count === 0) yield* file.ops.release(file);
}

/** close: 0 or -EBADF. The number is free at once, whoever still uses the file. */
export function* closeFd(process: Process, fd: number): Program<number> {
  const file = fileOf(process, fd);
  if (file === undefined) return -EBADF;
  process.files[fd] = undefined;
  yield* putFile(file);
  return 0;
}
