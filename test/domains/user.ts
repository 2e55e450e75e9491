/**
 * User processes for tests: a frontend with granted pages, and a backend whose program runs as a process with gntdev
 * open. When both are over nothing may be left: every page and reference of the backend is where it was.
 */
import { expect } from "vitest";
import { type DmaBuf, dmaBufGet } from "../../domains/dma-buf.ts";
import { gntdevOf } from "../../domains/gntdev.ts";
import type { Gntdev } from "../../domains/gntdev-state.ts";
import { grantForeignAccess, tryEndForeignAccess } from "../../domains/grant-table.ts";
import { inventoryOf } from "../../domains/inventory.ts";
import { giveWay, type Kernel, sleep } from "../../domains/kernel.ts";
import { storeWord } from "../../domains/memory.ts";
import { allocPage, pageToPhys } from "../../domains/pages.ts";
import { fileOf, type Process } from "../../domains/process.ts";
import { runProcess, stage, sysOpen, userLoad, userStore } from "../../domains/syscalls.ts";
import { GNTDEV, type UserFile } from "../../domains/xengnttab.ts";
import type { DomainModel, MachineModel } from "../../shared/machine.ts";
import type { Program } from "../../shared/trap.ts";
import { GrantRef, type Pfn } from "../../shared/units.ts";
import { testDom0, testDomain } from "../hypervisor/harness.ts";
import { EXTENDED, guestModel, runGuests } from "./guest.ts";

export const FRONT = 1;
export const BACK = 2;
export const PAGE = 4096;
/** An address where no mapping of any process is. */
export const NOWHERE = 0x1000;

/** What the frontend of a test is: the pages it granted, and its kernel. */
export interface Front {
  readonly kernel: Kernel;
  readonly pages: readonly Pfn[];
  readonly refs: readonly number[];
  readonly jobs: Program[];
}

export type UserTest = (file: UserFile, front: Front) => Program;

export interface UserOptions {
  /** Pages that the frontend grants; their first words count up from 1000. */
  readonly pages?: number;
  readonly back?: Partial<DomainModel>;
  readonly machine?: Partial<MachineModel>;
  /** Accesses are points and the order is drawn at random. */
  readonly seed?: number;
}

/** Runs a backend's program as a process with gntdev open; nothing may be left of it, here or at the frontend. */
export function withGrants(program: UserTest, options: UserOptions = {}): void {
  const count = options.pages ?? 3;
  const shared: { front: Front | undefined; done: boolean } = { front: undefined, done: false };
  function* front(kernel: Kernel): Program {
    const pages: Pfn[] = [];
    const refs: number[] = [];
    for (let i = 0; i < count; i++) {
      const page = allocPage(kernel.memory.pages);
      if (page === undefined) throw new Error("no page");
      pages.push(page);
      yield* storeWord(kernel.cpu, pageToPhys(page), 1000 + i);
      refs.push(yield* grantForeignAccess(kernel, BACK, page));
    }
    const jobs: Program[] = [];
    shared.front = { kernel, pages, refs, jobs };
    while (!shared.done) {
      yield* rest(kernel);
      while (jobs[0] !== undefined) {
        yield* jobs[0];
        jobs.shift();
      }
    }
    for (const ref of refs) expect(yield* tryEndForeignAccess(kernel, GrantRef(ref))).toBe(1);
  }
  function* back(kernel: Kernel): Program {
    while (shared.front === undefined) yield* rest(kernel);
    const { front } = shared;
    const before = inventoryOf(kernel);
    yield* runProcess(kernel, "back", function* (process) {
      yield* program({ process, fd: yield* sysOpen(process, GNTDEV) }, front);
    });
    expect(inventoryOf(kernel)).toEqual(before);
    shared.done = true;
  }
  const model = guestModel(
    [
      testDom0({ runs: false }),
      testDomain("front"),
      testDomain("back", { extendedRegions: [EXTENDED], ...options.back }),
    ],
    options.machine,
  );
  const { seed } = options;
  const run = runGuests(model, { front, back }, seed === undefined ? {} : { seed });
  expect(run.findings).toEqual([]);
  expect(shared.done).toBe(true);
}

/** Has the frontend's kernel run `job`, and waits for its end. */
export function* inFront(process: Process, front: Front, job: Program): Program {
  front.jobs.push(job);
  while (front.jobs.length > 0) yield* rest(process.kernel);
}

/** A millisecond in which events and the kernel's other tasks come in. */
export function* rest(kernel: Kernel): Program {
  yield* sleep(1);
  // One turn takes the events in, and one lets whoever waits for them run.
  yield* giveWay(kernel);
  yield* giveWay(kernel);
}

export const named = (refs: readonly number[]) => refs.map((ref) => ({ domid: FRONT, ref }));

/** The kernel's side of an open gntdev file. */
export function gntdevBehind({ process, fd }: UserFile): Gntdev {
  const file = fileOf(process, fd);
  if (file === undefined) throw new Error(`nothing is open at ${fd}`);
  return gntdevOf(file);
}

/** A word of the process's memory. */
export function* loadUserWord(process: Process, address: number): Program<number> {
  const bytes = yield* userLoad(process, address, 4);
  return new DataView(bytes.buffer).getUint32(0, true);
}
export function* storeUserWord(process: Process, address: number, word: number): Program {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, word, true);
  yield* userStore(process, address, bytes);
}

/** The structure `words` in the process's own buffer: its address. */
export function* staged(process: Process, ...words: number[]): Program<number> {
  const view = new DataView(new ArrayBuffer(words.length * 4));
  for (const [i, word] of words.entries()) view.setUint32(i * 4, word, true);
  return yield* stage(process, new Uint8Array(view.buffer));
}

/** The buffer behind a descriptor, with one more user. */
export function bufferAt(process: Process, fd: number): DmaBuf {
  const buf = dmaBufGet(process, fd);
  if (typeof buf === "number") throw new Error(`no buffer: ${buf}`);
  return buf;
}
