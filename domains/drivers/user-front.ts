/**
 * The granter of the user-space stories: a process that grants pages with gntalloc to a backend process, and looks at
 * what it gets back when that one dies.
 *
 *   gntalloc: pages, mapped and filled -> evtchn: a port -> the backend works and dies -> byte? event? -> accesses ended
 *
 * Rules: page 0 stays mapped here until the backend's kernel has let go, since the byte that is cleared lies in it; the
 * other pages are given back as soon as the process is dead, and those still in use are counted. Ours.
 */
import { IOCTL_EVTCHN_BIND_UNBOUND_PORT } from "../../shared/abi/evtchn.ts";
import {
  ALLOC_GREF_COUNT,
  ALLOC_GREF_DOMID,
  ALLOC_GREF_FLAGS,
  ALLOC_GREF_IDS,
  DEALLOC_GREF_COUNT,
  DEALLOC_GREF_SIZE,
  GNTALLOC_FLAG_WRITABLE,
  IOCTL_GNTALLOC_ALLOC_GREF,
  IOCTL_GNTALLOC_DEALLOC_GREF,
} from "../../shared/abi/gntalloc.ts";
import { MAP_SHARED, O_NONBLOCK, O_RDWR, PROT_READ, PROT_WRITE } from "../../shared/abi/linux.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import type { Program } from "../../shared/trap.ts";
import { KernelBug } from "../bug.ts";
import { drainDeferred } from "../grant-table.ts";
import { differences, inventoryOf } from "../inventory.ts";
import { giveWay, type Kernel, report } from "../kernel.ts";
import type { Process } from "../process.ts";
import { structure } from "../structure.ts";
import {
  ioctlOn,
  runProcess,
  stage,
  sysMmap,
  sysMunmap,
  sysOpen,
  sysRead,
  userLoad,
  userStore,
} from "../syscalls.ts";
import { GNTDEV, mapGrants, unmapGrants } from "../xengnttab.ts";
import { findDomain } from "./transfer-front.ts";
import { hear, tell } from "./user-meet.ts";

/** Pages that are granted. */
export const USER_PAGES = 4;
/** Where in page 0 the byte lies that an unmap clears. */
export const NOTIFY_BYTE = 0x10;
/** The part of page 1 that the backend copies to page 2, through its own memory. */
export const COPY_OFFSET = 500;
export const COPY_BYTES = 3000;

/** Runs of the timer for references that were in use, a second each. */
const DEFERRED_RUNS = 5;

interface Granter {
  readonly process: Process;
  readonly backend: number;
  readonly gntalloc: number;
  readonly evtchn: number;
  /** Address of page 0, and of the others. */
  readonly first: number;
  readonly others: number;
}

/**
 * Reports `copied` (yes or no), `byte` and `event` (`at death`, `later` or `never`), `refused` (pages that could not be
 * taken back at the death), `left` (references that never could), `leaked` (what the process leaves in its kernel).
 */
export function* userFront(kernel: Kernel, options: { readonly backend: string }): Program {
  const backend = yield* findDomain(kernel, options.backend);
  const before = inventoryOf(kernel);
  const signal = yield* runProcess(kernel, "granter", (process) => grant(process, backend));
  if (signal !== 0) throw new KernelBug(`the granter was ended by signal ${signal}`);
  yield* report("left", yield* drainDeferred(kernel, DEFERRED_RUNS));
  yield* report("leaked", differences(before, inventoryOf(kernel)).join(" "));
  yield* tell(kernel, "done", 1);
}

function must(what: string, rc: number): number {
  if (rc < 0) throw new KernelBug(`${what} answered ${rc}`);
  return rc;
}

function* grant(process: Process, backend: number): Program {
  const { kernel } = process;
  const granter = yield* allocate(process, backend);
  const mapped = yield* mapImport(granter);
  yield* hear(kernel, backend, "died");
  const byteAtDeath = yield* byteIsCleared(granter);
  const eventAtDeath = yield* hasEvent(granter);
  yield* report("copied", (yield* copyArrived(granter)) ? "yes" : "no");
  yield* sysMunmap(process, granter.others, (USER_PAGES - 1) * PAGE_SIZE);
  yield* dealloc(granter);
  yield* report("refused", kernel.memory.grants.deferred.length);
  yield* mapped;
  yield* tell(kernel, "tried", 1);
  yield* hear(kernel, backend, "released");
  const later = (atDeath: boolean, now: boolean): string =>
    atDeath ? "at death" : now ? "later" : "never";
  yield* report("byte", later(byteAtDeath, yield* byteIsCleared(granter)));
  yield* report("event", later(eventAtDeath, yield* hasEvent(granter)));
}

/** Grants and fills the pages, and tells references and port. */
function* allocate(process: Process, backend: number): Program<Granter> {
  const { kernel } = process;
  const gntalloc = must("opening gntalloc", yield* sysOpen(process, "/dev/xen/gntalloc"));
  const args = structure(ALLOC_GREF_IDS + USER_PAGES * 4);
  args.view.setUint16(ALLOC_GREF_DOMID, backend, true);
  args.view.setUint16(ALLOC_GREF_FLAGS, GNTALLOC_FLAG_WRITABLE, true);
  args.view.setUint32(ALLOC_GREF_COUNT, USER_PAGES, true);
  must("ALLOC_GREF", yield* ioctlOn(process, gntalloc, IOCTL_GNTALLOC_ALLOC_GREF, args));
  const refs = Array.from({ length: USER_PAGES }, (_, i) =>
    args.view.getUint32(ALLOC_GREF_IDS + i * 4, true),
  );
  const map = (pages: number, offset: number) =>
    sysMmap(process, {
      length: pages * PAGE_SIZE,
      prot: PROT_READ | PROT_WRITE,
      flags: MAP_SHARED,
      fd: gntalloc,
      offset,
    });
  const first = must("mapping page 0", yield* map(1, 0));
  const others = must("mapping the others", yield* map(USER_PAGES - 1, PAGE_SIZE));
  yield* userStore(process, first + NOTIFY_BYTE, Uint8Array.of(0xff));
  yield* userStore(process, others, PATTERN);
  const evtchn = yield* sysOpen(process, "/dev/xen/evtchn", O_RDWR | O_NONBLOCK);
  const bind = structure(4);
  bind.view.setUint32(0, backend, true);
  const port = yield* ioctlOn(process, evtchn, IOCTL_EVTCHN_BIND_UNBOUND_PORT, bind);
  yield* tell(kernel, "port", must("BIND_UNBOUND_PORT", port));
  yield* tell(kernel, "refs", refs.join(","));
  return { process, backend, gntalloc, evtchn, first, others };
}

const PATTERN = Uint8Array.from({ length: PAGE_SIZE }, (_, i) => (i * 31 + (i >> 7)) & 0xff);

/** Maps what the backend grants in return, if it does, and returns what lets it go. */
function* mapImport({ process, backend }: Granter): Program<Program> {
  const { kernel } = process;
  const ref = Number(yield* hear(kernel, backend, "import"));
  if (ref === 0) return nothing();
  const file = { process, fd: yield* sysOpen(process, GNTDEV) };
  const mapping = yield* mapGrants(file, [{ domid: backend, ref }]);
  if (typeof mapping === "number") throw new KernelBug(`mapping the import answered ${mapping}`);
  yield* tell(kernel, "import-mapped", 1);
  return (function* () {
    must("unmapping the import", yield* unmapGrants(file, mapping));
  })();
}

function* nothing(): Program {}

function* byteIsCleared({ process, first }: Granter): Program<boolean> {
  const [byte] = yield* userLoad(process, first + NOTIFY_BYTE, 1);
  return byte === 0;
}

/** Whether the port has fired and not been read; what is pending is taken in first. */
function* hasEvent({ process, evtchn }: Granter): Program<boolean> {
  yield* giveWay(process.kernel);
  yield* giveWay(process.kernel);
  const into = yield* stage(process, new Uint8Array(4));
  return (yield* sysRead(process, evtchn, into, 4)) === 4;
}

function* copyArrived({ process, others }: Granter): Program<boolean> {
  const arrived = yield* userLoad(process, others + PAGE_SIZE, COPY_BYTES);
  return arrived.every((byte, i) => byte === PATTERN[COPY_OFFSET + i]);
}

function* dealloc({ process, gntalloc }: Granter): Program {
  const args = structure(DEALLOC_GREF_SIZE);
  args.view.setUint32(DEALLOC_GREF_COUNT, USER_PAGES, true);
  must("DEALLOC_GREF", yield* ioctlOn(process, gntalloc, IOCTL_GNTALLOC_DEALLOC_GREF, args));
}
