/**
 * The backend of the user-space stories: a process that maps, copies and exports what it was granted, and dies in a
 * state that its caller names. Its kernel then holds what a device or a child still uses, and lets go when told.
 *
 *   references and port from the granter -> process: copy, reach the state, killed -> told -> let go -> told
 *
 * Rules: whatever the state, afterwards nothing is mapped, nothing is granted, and every page is back. Ours; the calls
 * are those of displ_be and libxengnttab.
 */
import { IOCTL_EVTCHN_BIND_INTERDOMAIN } from "../../shared/abi/evtchn.ts";
import {
  GNTDEV_DMA_FLAG_WC,
  UNMAP_NOTIFY_CLEAR_BYTE,
  UNMAP_NOTIFY_SEND_EVENT,
} from "../../shared/abi/gntdev.ts";
import { MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE } from "../../shared/abi/linux.ts";
import { item } from "../../shared/assert.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import type { Program } from "../../shared/trap.ts";
import { pinUserPage, unpinUserPage } from "../address-space.ts";
import { KernelBug } from "../bug.ts";
import {
  dmaBufAttach,
  dmaBufDetach,
  dmaBufGet,
  dmaBufMapAttachment,
  dmaBufPut,
} from "../dma-buf.ts";
import { DMA_BIDIRECTIONAL, type DmaDevice, dmaBitMask } from "../dma-device.ts";
import { drainDeferred } from "../grant-table.ts";
import { differences, inventoryOf } from "../inventory.ts";
import { type Kernel, report, spawn, waitTimeout, waitUntil } from "../kernel.ts";
import type { Process } from "../process.ts";
import { structure } from "../structure.ts";
import {
  ioctlOn,
  killProcess,
  runProcess,
  sysClose,
  sysFork,
  sysMmap,
  sysMunmap,
  sysOpen,
} from "../syscalls.ts";
import {
  dmabufExpFromRefs,
  dmabufExpWaitReleased,
  dmabufImpToRefs,
  dmaHeapAlloc,
  GNTDEV,
  grantCopy,
  mapGrantRef,
  mapGrants,
  setUnmapNotify,
  type UserFile,
  type UserMapping,
  unmapGrantRef,
  unmapGrants,
} from "../xengnttab.ts";
import { findDomain } from "./transfer-front.ts";
import { COPY_BYTES, COPY_OFFSET, NOTIFY_BYTE } from "./user-front.ts";
import { hear, tell } from "./user-meet.ts";

/** Longest wait for what was let go to be gone. */
const RELEASE_MS = 1000;
const DEFERRED_RUNS = 5;

/** What a state works on. */
interface Story {
  readonly kernel: Kernel;
  readonly process: Process;
  readonly gntdev: UserFile;
  readonly front: number;
  readonly refs: readonly number[];
  /** Local end of the granter's channel. */
  readonly port: number;
  /** What the kernel still has to do when the granter has tried to take its pages back. */
  readonly letGo: Program[];
}

/** Brings the process into a state; it is killed when the program returns. */
type State = (story: Story) => Program;

/** Every state in which the process can die, in the order of its life. */
export const DEATHS = {
  listed: function* ({ gntdev, front, refs, port }) {
    yield* mapGrantRef(gntdev, namesOf(front, refs));
    yield* notifyOf(gntdev, 0, port);
  },
  mapped: function* (story) {
    yield* mapAll(story);
  },
  cut: function* (story) {
    const { address } = yield* mapAll(story);
    yield* sysMunmap(story.process, address + PAGE_SIZE, PAGE_SIZE);
  },
  "request gone": function* (story) {
    const { offset, count } = yield* mapAll(story);
    must("UNMAP_GRANT_REF", yield* unmapGrantRef(story.gntdev, offset, count));
  },
  forked: function* (story) {
    yield* mapAll(story);
    const told = { over: false };
    const child = yield* sysFork(story.process, function* (forked) {
      yield* waitUntil(forked.kernel, () => told.over);
    });
    if (typeof child === "number") throw new KernelBug(`fork answered ${child}`);
    story.letGo.push(
      (function* () {
        told.over = true;
        yield* waitUntil(story.kernel, () => child.exitSignal !== undefined);
      })(),
    );
  },
  "page in use": function* (story) {
    const { kernel, process } = story;
    const { address } = yield* mapAll(story);
    const page = pinUserPage(process, address + PAGE_SIZE, { write: true });
    if (page === undefined) throw new KernelBug("a mapped page can be pinned");
    story.letGo.push(
      (function* () {
        unpinUserPage(process, page);
        yield* waitTimeout(kernel, () => foreignPages(kernel) === 0, RELEASE_MS);
      })(),
    );
  },
  exported: function* (story) {
    yield* exportAll(story);
  },
  "device closed": function* (story) {
    yield* exportAll(story);
    yield* sysClose(story.process, story.gntdev.fd);
  },
  "importer attached": function* (story) {
    yield* attachDisplay(story, yield* exportAll(story));
  },
  "waiting for release": function* (story) {
    const { kernel, process, gntdev } = story;
    const fd = yield* exportAll(story);
    yield* attachDisplay(story, fd);
    yield* sysClose(process, fd);
    spawn(kernel, "killer", killer(process));
    // The signal comes while it waits, and it waits on: this wait cannot be interrupted.
    yield* dmabufExpWaitReleased(gntdev, fd, 20);
  },
  imported: function* (story) {
    yield* importBuffer(story);
  },
  "import mapped": function* (story) {
    const [ref = 0] = yield* importBuffer(story);
    yield* tell(story.kernel, "import", ref);
    yield* hear(story.kernel, story.front, "import-mapped");
  },
  "orderly end": function* (story) {
    must("unmapping", yield* unmapGrants(story.gntdev, yield* mapAll(story)));
    const fd = yield* exportAll(story);
    yield* sysClose(story.process, fd);
    yield* sysClose(story.process, story.gntdev.fd);
  },
} satisfies Readonly<Record<string, State>>;

export type Death = keyof typeof DEATHS;

function* killer(process: Process): Program {
  killProcess(process);
}

const foreignPages = (kernel: Kernel): number => kernel.memory.foreign.entries.length;

/** The display that imports buffers: any device will do, since none of its DMA is made. */
const DISPLAY: DmaDevice = {
  name: "display",
  dmaRanges: [],
  mask: dmaBitMask(64),
  busLimit: 0,
  coherent: true,
};

function must(what: string, rc: number): number {
  if (rc < 0) throw new KernelBug(`${what} answered ${rc}`);
  return rc;
}

const namesOf = (domid: number, refs: readonly number[]) => refs.map((ref) => ({ domid, ref }));

function* notifyOf(gntdev: UserFile, offset: number, port: number): Program {
  const action = UNMAP_NOTIFY_CLEAR_BYTE | UNMAP_NOTIFY_SEND_EVENT;
  const notify = { offset: offset + NOTIFY_BYTE, action, port };
  must("SET_UNMAP_NOTIFY", yield* setUnmapNotify(gntdev, notify));
}

function* mapAll({ gntdev, front, refs, port }: Story): Program<UserMapping> {
  const mapping = yield* mapGrants(gntdev, namesOf(front, refs));
  if (typeof mapping === "number") throw new KernelBug(`mapping answered ${mapping}`);
  yield* notifyOf(gntdev, mapping.offset, port);
  return mapping;
}

function* exportAll({ gntdev, front, refs }: Story): Program<number> {
  const fd = yield* dmabufExpFromRefs(gntdev, GNTDEV_DMA_FLAG_WC, front, refs);
  return must("DMABUF_EXP_FROM_REFS", fd);
}

/** A driver of this kernel imports the buffer, and keeps it until it is told to let go. */
function* attachDisplay({ process, letGo }: Story, fd: number): Program {
  const buf = dmaBufGet(process, fd);
  if (typeof buf === "number") throw new KernelBug(`the buffer answered ${buf}`);
  const attachment = dmaBufAttach(buf, DISPLAY, PAGE_SIZE);
  const mapping = yield* dmaBufMapAttachment(attachment, DMA_BIDIRECTIONAL);
  if (typeof mapping === "number") throw new KernelBug(`mapping for a device answered ${mapping}`);
  letGo.push(
    (function* () {
      yield* dmaBufDetach(attachment);
      yield* dmaBufPut(buf);
    })(),
  );
}

function* importBuffer({ process, gntdev, front }: Story): Program<readonly number[]> {
  const fd = must("DMA_HEAP_IOCTL_ALLOC", yield* dmaHeapAlloc(process, 1));
  const refs = yield* dmabufImpToRefs(gntdev, fd, front, 1);
  if (typeof refs === "number") throw new KernelBug(`DMABUF_IMP_TO_REFS answered ${refs}`);
  return refs;
}

/** Page 1 to page 2 of the granter, through memory of the process that has a page boundary in the middle. */
function* copyAround({ process, gntdev, front, refs }: Story): Program {
  const length = 2 * PAGE_SIZE;
  const prot = PROT_READ | PROT_WRITE;
  const own = yield* sysMmap(process, { length, prot, flags: MAP_PRIVATE | MAP_ANONYMOUS });
  const middle = must("mmap", own) + PAGE_SIZE - COPY_BYTES / 2;
  const granted = (i: number, offset: number) => ({ domid: front, ref: item(refs, i), offset });
  const copies = [
    { source: granted(1, COPY_OFFSET), dest: middle, length: COPY_BYTES },
    { source: middle, dest: granted(2, 0), length: COPY_BYTES },
  ];
  for (const copy of copies) {
    const { rc, statuses } = yield* grantCopy(gntdev, [copy]);
    must("GRANT_COPY", rc);
    must("a segment", item(statuses, 0));
  }
}

/**
 * Reports `signal` (what ended the process), `stillMapped` (foreign pages right after its death) and `leaked` (names of
 * what it left behind in its kernel, in the end).
 */
export function* userBack(
  kernel: Kernel,
  options: { readonly granter: string; readonly death: Death },
): Program {
  const front = yield* findDomain(kernel, options.granter);
  const refs = (yield* hear(kernel, front, "refs")).split(",").map(Number);
  const remote = Number(yield* hear(kernel, front, "port"));
  const before = inventoryOf(kernel);
  const letGo: Program[] = [];
  if (options.death !== "import mapped") yield* tell(kernel, "import", 0);
  const signal = yield* runProcess(kernel, "backend", function* (process) {
    const gntdev = { process, fd: must("opening gntdev", yield* sysOpen(process, GNTDEV)) };
    const evtchn = must("opening evtchn", yield* sysOpen(process, "/dev/xen/evtchn"));
    const bind = structure(8);
    bind.view.setUint32(0, front, true);
    bind.view.setUint32(4, remote, true);
    const port = yield* ioctlOn(process, evtchn, IOCTL_EVTCHN_BIND_INTERDOMAIN, bind);
    const bound = must("BIND_INTERDOMAIN", port);
    const story: Story = { kernel, process, gntdev, front, refs, port: bound, letGo };
    yield* copyAround(story);
    yield* DEATHS[options.death](story);
    if (options.death === "orderly end") return;
    killProcess(process);
    yield* sysClose(process, gntdev.fd);
  });
  yield* report("signal", signal);
  yield* report("stillMapped", foreignPages(kernel));
  yield* tell(kernel, "died", 1);
  yield* hear(kernel, front, "tried");
  for (const program of letGo) yield* program;
  yield* drainDeferred(kernel, DEFERRED_RUNS);
  yield* tell(kernel, "released", 1);
  yield* hear(kernel, front, "done");
  yield* report("leaked", differences(before, inventoryOf(kernel)).join(" "));
}
