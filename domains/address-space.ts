/**
 * The address space of a process: mappings are made, cut, copied by a fork and taken down, and the kernel copies to and
 * from user memory by them.
 *
 *   munmap: cut at both ends -> pages out of the address space -> close of each mapping -> its file is put
 *
 * Rules: a page in an address space is counted, but for VM_PFNMAP. Anonymous pages are there from the beginning, and a
 * fork copies them at once (docs/FIDELITY.md). A copy goes page by page and refuses as a whole: what was written
 * before the page that is missing stays written, as in Linux.
 * Behaviour: Linux mm/mmap.c, mm/memory.c, kernel/fork.c (dup_mmap).
 */
import { MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_WRITE } from "../shared/abi/linux.ts";
import { item } from "../shared/assert.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import { EBADF, EINVAL, ENODEV, ENOMEM } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import type { Pfn } from "../shared/units.ts";
import { bugUnless } from "./bug.ts";
import type { Kernel } from "./kernel.ts";
import { readBytes, writeBytes, zeroPage } from "./memory.ts";
import { allocPage, getPage, pageToPhys, putPage } from "./pages.ts";
import {
  fileOf,
  getFile,
  type OpenFile,
  type Process,
  putFile,
  VM_DONTCOPY,
  VM_PFNMAP,
  type Vma,
} from "./process.ts";
import { type Structure, structure } from "./structure.ts";

/** find_vma: the first mapping that ends above `address`, whether or not it contains it. */
export const findVma = (process: Process, address: number): Vma | undefined =>
  process.vmas.find((vma) => address < vma.end);

/** The mapping that contains `address`. */
export function vmaAt(process: Process, address: number): Vma | undefined {
  const vma = findVma(process, address);
  return vma !== undefined && vma.start <= address ? vma : undefined;
}

/** The page at `address` if the process may read (or write) it there. */
function userPage(process: Process, address: number, access: { write: boolean }): Pfn | undefined {
  const vma = vmaAt(process, address);
  if (vma === undefined || (access.write && !vma.write)) return undefined;
  return vma.pages[Math.floor((address - vma.start) / PAGE_SIZE)];
}

/** copy_from_user: a structure of user memory, or undefined: -EFAULT. */
export function* structFromUser(
  process: Process,
  address: number,
  size: number,
): Program<Structure | undefined> {
  const into = structure(size);
  for (let done = 0; done < size; ) {
    const page = userPage(process, address + done, { write: false });
    if (page === undefined) return undefined;
    const offset = (address + done) % PAGE_SIZE;
    const piece = Math.min(size - done, PAGE_SIZE - offset);
    yield* readBytes(process.kernel.cpu, pageToPhys(page) + offset, into.bytes, done, piece);
    done += piece;
  }
  return into;
}

/** copy_to_user: whether every byte was written. */
export function* copyToUser(
  process: Process,
  address: number,
  bytes: Uint8Array,
): Program<boolean> {
  for (let done = 0; done < bytes.length; ) {
    const page = userPage(process, address + done, { write: true });
    if (page === undefined) return false;
    const offset = (address + done) % PAGE_SIZE;
    const piece = Math.min(bytes.length - done, PAGE_SIZE - offset);
    yield* writeBytes(process.kernel.cpu, pageToPhys(page) + offset, bytes, done, piece);
    done += piece;
  }
  return true;
}

/** Writes a structure back to where it came from. */
export const structToUser = (
  process: Process,
  address: number,
  { bytes }: Structure,
): Program<boolean> => copyToUser(process, address, bytes);

/** pin_user_pages of one page: it has one more user, or undefined: -EFAULT. */
export function pinUserPage(
  process: Process,
  address: number,
  access: { write: boolean },
): Pfn | undefined {
  const vma = vmaAt(process, address);
  const page = userPage(process, address, access);
  if (page === undefined || ((vma?.flags ?? 0) & VM_PFNMAP) !== 0) return undefined;
  getPage(process.kernel.memory.pages, page);
  return page;
}
export const unpinUserPage = (process: Process, page: Pfn): void =>
  putPage(process.kernel.memory.pages, page);

/** What mmap is asked for. Lengths and offsets are bytes. */
export interface MmapRequest {
  readonly length: number;
  /** PROT_* */
  readonly prot: number;
  /** MAP_* */
  readonly flags: number;
  readonly fd?: number;
  readonly offset?: number;
}

/** mmap: the address, or -EINVAL, -EBADF, -ENODEV (no such operation), -ENOMEM, or what the driver says. */
export function* doMmap(process: Process, request: MmapRequest): Program<number> {
  const { flags, offset = 0 } = request;
  const length = Math.ceil(request.length / PAGE_SIZE) * PAGE_SIZE;
  const kinds = flags & (MAP_SHARED | MAP_PRIVATE);
  if (length === 0 || offset % PAGE_SIZE !== 0) return -EINVAL;
  if (kinds !== MAP_SHARED && kinds !== MAP_PRIVATE) return -EINVAL;
  const anonymous = (flags & MAP_ANONYMOUS) !== 0;
  const file = anonymous ? undefined : fileOf(process, request.fd ?? -1);
  if (!anonymous && file === undefined) return -EBADF;
  const vma: Vma = {
    start: process.mmapBase,
    end: process.mmapBase + length,
    write: (request.prot & PROT_WRITE) !== 0,
    shared: kinds === MAP_SHARED,
    flags: 0,
    pgoff: offset / PAGE_SIZE,
    file,
    ops: {},
    data: undefined,
    pages: Array.from({ length: length / PAGE_SIZE }, () => undefined),
  };
  const rc =
    file === undefined ? yield* populate(process.kernel, vma) : yield* mapFile(file, process, vma);
  if (rc < 0) return rc;
  // A page is left free between two mappings, so that neither runs into the other.
  process.mmapBase += length + PAGE_SIZE;
  process.vmas.push(vma);
  return vma.start;
}

function* mapFile(file: OpenFile, process: Process, vma: Vma): Program<number> {
  const { mmap } = file.ops;
  if (mmap === undefined) return -ENODEV;
  getFile(file);
  const rc = yield* mmap(file, process, vma);
  if (rc < 0) yield* putFile(file);
  return rc;
}

/** Zeroed RAM behind an anonymous mapping: 0, or -ENOMEM with nothing kept. */
function* populate(kernel: Kernel, vma: Vma): Program<number> {
  for (let i = 0; i < vma.pages.length; i++) {
    const page = allocPage(kernel.memory.pages);
    if (page === undefined) {
      dropPages(kernel, vma);
      return -ENOMEM;
    }
    yield* zeroPage(kernel.cpu, pageToPhys(page));
    vma.pages[i] = page;
  }
  return 0;
}

/** vm_insert_page for each page of a mapping: they are counted. */
export function insertPages(kernel: Kernel, vma: Vma, pages: readonly Pfn[]): void {
  for (const page of pages) getPage(kernel.memory.pages, page);
  vma.pages = [...pages];
}

/** zap: the pages leave the address space, and whoever was the last user of one frees it. */
function dropPages(kernel: Kernel, vma: Vma): void {
  const counted = (vma.flags & VM_PFNMAP) === 0;
  for (let i = 0; i < vma.pages.length; i++) {
    const page = vma.pages[i];
    if (page !== undefined && counted) putPage(kernel.memory.pages, page);
    vma.pages[i] = undefined;
  }
}

/** __split_vma: cuts a mapping at `address`, inside it. 0, or the driver's refusal. */
function splitVma(process: Process, vma: Vma, address: number): number {
  const rc = vma.ops.maySplit?.(vma) ?? 0;
  if (rc < 0) return rc;
  const pages = (address - vma.start) / PAGE_SIZE;
  const upper: Vma = {
    ...vma,
    start: address,
    pgoff: vma.pgoff + pages,
    pages: vma.pages.splice(pages),
  };
  vma.end = address;
  if (upper.file !== undefined) getFile(upper.file);
  upper.ops.open?.(upper);
  process.vmas.splice(process.vmas.indexOf(vma) + 1, 0, upper);
  return 0;
}

/** munmap: 0, also when nothing is there; -EINVAL for a bad range, or a driver that refuses to be cut. */
export function* doMunmap(process: Process, start: number, length: number): Program<number> {
  if (start % PAGE_SIZE !== 0 || length <= 0) return -EINVAL;
  const end = start + Math.ceil(length / PAGE_SIZE) * PAGE_SIZE;
  for (const address of [start, end]) {
    const vma = vmaAt(process, address);
    if (vma === undefined || vma.start === address) continue;
    const rc = splitVma(process, vma, address);
    if (rc < 0) return rc;
  }
  yield* removeVmas(
    process,
    process.vmas.filter((vma) => vma.start >= start && vma.end <= end),
  );
  return 0;
}

function* removeVmas(process: Process, vmas: readonly Vma[]): Program {
  for (const vma of vmas) {
    process.vmas.splice(process.vmas.indexOf(vma), 1);
    // The pages of a PFN mapping stay known to its driver, which takes them down itself.
    if ((vma.flags & VM_PFNMAP) === 0) dropPages(process.kernel, vma);
  }
  for (const vma of vmas) {
    if (vma.ops.close !== undefined) yield* vma.ops.close(vma);
    if (vma.file !== undefined) yield* putFile(vma.file);
  }
}

/** exit_mmap: everything is unmapped, then every mapping closed. */
export const exitMmap = (process: Process): Program => removeVmas(process, [...process.vmas]);

/** dup_mmap: the child has every mapping but those of VM_DONTCOPY. 0 or -ENOMEM. */
export function* dupMmap(parent: Process, child: Process): Program<number> {
  const { kernel } = parent;
  child.mmapBase = parent.mmapBase;
  for (const vma of parent.vmas) {
    if ((vma.flags & VM_DONTCOPY) !== 0) continue;
    const copy: Vma = { ...vma, pages: vma.pages.map(() => undefined) };
    if (vma.file === undefined && !vma.shared) {
      const rc = yield* populate(kernel, copy);
      if (rc < 0) return rc;
      yield* copyPages(kernel, vma, copy);
    } else {
      for (const page of vma.pages) if (page !== undefined) getPage(kernel.memory.pages, page);
      copy.pages = [...vma.pages];
    }
    if (copy.file !== undefined) getFile(copy.file);
    copy.ops.open?.(copy);
    child.vmas.push(copy);
  }
  return 0;
}

function* copyPages(kernel: Kernel, from: Vma, to: Vma): Program {
  const bytes = new Uint8Array(PAGE_SIZE);
  for (let i = 0; i < from.pages.length; i++) {
    const source = item(from.pages, i);
    const dest = item(to.pages, i);
    bugUnless(source !== undefined && dest !== undefined, "an anonymous page is always there");
    yield* readBytes(kernel.cpu, pageToPhys(source), bytes, 0, PAGE_SIZE);
    yield* writeBytes(kernel.cpu, pageToPhys(dest), bytes, 0, PAGE_SIZE);
  }
}
