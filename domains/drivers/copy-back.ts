/**
 * The ways without zero copy on the frontend's pages: the disk fills RAM of the backend's own, and the bytes go on from
 * there, by the CPU through a mapping, by the hypervisor's copy, or not at all, where the frontend maps that RAM.
 *
 *   own RAM <- disk -> memcpy to mapped grants | GNTTABOP_copy | granted to the frontend -> RAM given back
 *
 * Rules: reports what bufferBack reports, as far as it applies, and `copied`, the bytes that a CPU has moved.
 * Behaviour: displ_be without zero copy; netback's rx path; be-alloc=1 of the display protocol.
 */
import { GNTMAP_host_map } from "../../shared/abi/grant.ts";
import { item } from "../../shared/assert.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { GNTST_okay } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { GrantRef, Pfn } from "../../shared/units.ts";
import { bugOn, KernelBug } from "../bug.ts";
import { dmaMap, dmaUnmap } from "../dma.ts";
import { dmaBufGet, dmaBufPut } from "../dma-buf.ts";
import { DMA_FROM_DEVICE } from "../dma-device.ts";
import { allocMap, mapGrantPages, putMap } from "../gntdev-map.ts";
import { copyOp, gnttabBatchCopy } from "../grant-copy.ts";
import { tryEndForeignAccess } from "../grant-table.ts";
import { type Kernel, report } from "../kernel.ts";
import { readBytes, writeBytes } from "../memory.ts";
import { allocPages, freePages, pageToPhys } from "../pages.ts";
import type { Process } from "../process.ts";
import { runProcess, sysOpen } from "../syscalls.ts";
import { writeStoreNode } from "../xenbus.ts";
import { dmabufImpRelease, dmabufImpToRefs, dmaHeapAlloc, GNTDEV } from "../xengnttab.ts";
import { measured, readAll } from "./buffer-back.ts";
import { openDisk } from "./disk.ts";
import {
  awaitNode,
  backNode,
  frontNode,
  makeDirectory,
  publishDirectory,
  readDirectory,
} from "./page-directory.ts";
import { findDomain } from "./transfer-front.ts";

/** How the bytes get from the backend's RAM to the frontend. */
export type CopyWay = "memcpy" | "grant-copy" | "backend-allocated";

function* takeRam(kernel: Kernel, count: number): Program<readonly Pfn[]> {
  const first = allocPages(kernel.memory.pages, count);
  if (first === undefined) throw new KernelBug(`no ${count} pages in a row`);
  return Array.from({ length: count }, (_, i) => Pfn(first + i));
}

/** The file into pages of this kernel, as a block driver asks for it. */
function* fillOwn(kernel: Kernel, pages: readonly Pfn[]): Program {
  const disk = yield* openDisk(kernel);
  if (typeof disk === "number") throw new KernelBug(`no disk in this domain (${disk})`);
  const request = { direction: DMA_FROM_DEVICE, merge: "block" } as const;
  const mapping = yield* dmaMap(kernel, disk.device, pages, request);
  if (typeof mapping === "number") throw new KernelBug("the kernel's own RAM cannot be mapped");
  yield* report("address", item(mapping.addresses, 0));
  yield* report("by", mapping.maker);
  yield* report("segments", mapping.segments.length);
  yield* report("disk", yield* readAll(kernel, disk, mapping.segments));
  yield* dmaUnmap(kernel, mapping);
}

/** Through a mapping of the frontend's pages. */
function* memcpy(
  kernel: Kernel,
  domid: number,
  refs: readonly number[],
  pages: readonly Pfn[],
): Program {
  const map = yield* allocMap(kernel, refs.length, 0);
  if (map === undefined) throw new KernelBug("no pages to map the frontend's onto");
  map.grants.push(...refs.map((ref) => ({ domid, ref })));
  map.flags = GNTMAP_host_map;
  const mapped = yield* mapGrantPages(kernel, map);
  bugOn(mapped !== 0, `the frontend's pages are refused: ${mapped}`);
  const bytes = new Uint8Array(PAGE_SIZE);
  for (const [i, page] of pages.entries()) {
    yield* readBytes(kernel.cpu, pageToPhys(page), bytes, 0, PAGE_SIZE);
    yield* writeBytes(kernel.cpu, pageToPhys(item(map.pages, i)), bytes, 0, PAGE_SIZE);
  }
  yield* putMap(kernel, map);
}

/** By the hypervisor, without any mapping. */
function* grantCopy(
  kernel: Kernel,
  domid: number,
  refs: readonly number[],
  pages: readonly Pfn[],
): Program {
  const ops = refs.map((ref, i) =>
    copyOp({ gfn: item(pages, i), offset: 0 }, { ref, domid, offset: 0 }, PAGE_SIZE),
  );
  yield* gnttabBatchCopy(kernel, ops);
  const refused = ops.find((op) => op.status !== GNTST_okay);
  bugOn(refused !== undefined, `a copy answered ${refused?.status}`);
}

/** Done with the buffer of domain `domid`. */
const sayDone = (kernel: Kernel, domid: number): Program<number> =>
  writeStoreNode(kernel, `${backNode(kernel.boot.domid, domid)}/done`, 1);

/** The frontend's pages, filled by way of the backend's. */
export function* copyBack(kernel: Kernel, way: "memcpy" | "grant-copy"): Program {
  const domid = yield* findDomain(kernel, "guest");
  const refs = yield* readDirectory(kernel, domid, frontNode(domid));
  const pages = yield* measured(kernel, "alloc", takeRam(kernel, refs.length));
  yield* report("pages", "RAM");
  yield* fillOwn(kernel, pages);
  const copy = way === "memcpy" ? memcpy : grantCopy;
  yield* measured(kernel, "map", copy(kernel, domid, refs, pages));
  yield* report("copied", refs.length * PAGE_SIZE);
  freePages(kernel.memory.pages, item(pages, 0), pages.length);
  yield* sayDone(kernel, domid);
}

/** The backend's pages, a buffer of the display's heap, granted to the frontend, which maps them. */
export function* backendAllocated(kernel: Kernel, count: number): Program {
  const domid = yield* findDomain(kernel, "guest");
  const signal = yield* runProcess(kernel, "be-alloc", (process) =>
    shareHeap(process, domid, count),
  );
  bugOn(signal !== 0, `the backend was ended by signal ${signal}`);
}

function* shareHeap(process: Process, domid: number, count: number): Program {
  const { kernel } = process;
  const file = { process, fd: yield* sysOpen(process, GNTDEV) };
  const fd = yield* measured(kernel, "alloc", dmaHeapAlloc(process, count));
  const buf = fd < 0 ? fd : dmaBufGet(process, fd);
  if (typeof buf === "number") throw new KernelBug(`the heap has no buffer: ${buf}`);
  yield* report("pages", "RAM");
  const refs = yield* measured(kernel, "map", dmabufImpToRefs(file, fd, domid, count));
  if (typeof refs === "number") throw new KernelBug(`the buffer cannot be granted: ${refs}`);
  const granted = refs.map((ref, i) => ({ ref, page: item(buf.pages, i) }));
  const directory = yield* makeDirectory(kernel, domid, granted);
  yield* fillOwn(kernel, buf.pages);
  yield* publishDirectory(kernel, backNode(kernel.boot.domid, domid), directory, count);
  yield* sayDone(kernel, domid);
  yield* awaitNode(kernel, `${frontNode(domid)}/released`);
  for (const { ref } of directory) {
    bugOn(
      (yield* tryEndForeignAccess(kernel, GrantRef(ref))) === 0,
      "the directory is still mapped",
    );
  }
  yield* dmaBufPut(buf);
  const released = yield* measured(kernel, "free", dmabufImpRelease(file, fd));
  bugOn(released !== 0, `releasing the buffer answered ${released}`);
}
