/**
 * The frontend of the thread's questions: grants a buffer of any size, waits until a backend has filled it, and looks at
 * what has arrived.
 *
 *   pages and their directory granted -> store -> backend says it is done -> hash -> accesses ended
 *
 * Rules: only references leave this domain. A page that the backend still maps is not ended and is counted.
 * Behaviour: drivers/gpu/drm/xen/xen_drm_front.c with be_alloc = 0, without a display.
 */
import { GNTMAP_host_map } from "../../shared/abi/grant.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { type HostHashTrap, type Program, TRAP_HOST_HASH } from "../../shared/trap.ts";
import { GrantRef, Pfn } from "../../shared/units.ts";
import { KernelBug } from "../bug.ts";
import { allocMap, mapGrantPages, putMap } from "../gntdev-map.ts";
import { tryEndForeignAccess } from "../grant-table.ts";
import { type Kernel, report } from "../kernel.ts";
import { readBytes } from "../memory.ts";
import { allocPage, allocPages, pageToPhys } from "../pages.ts";
import { writeStoreNode } from "../xenbus.ts";
import {
  awaitNode,
  backNode,
  frontNode,
  type Granted,
  grantPage,
  makeDirectory,
  publishDirectory,
  readDirectory,
} from "./page-directory.ts";
import { findDomain } from "./transfer-front.ts";

export interface BufferFrontOptions {
  /** Name of the domain that serves. */
  readonly backend: string;
  readonly pages: number;
  /** Whether its own pages are consecutive. */
  readonly contiguous: boolean;
  /** Whose pages the buffer consists of (be-alloc). */
  readonly allocates: "front" | "back";
}

/** A digest of whole pages. */
export function* hashPages(kernel: Kernel, pages: readonly Pfn[]): Program<string> {
  const bytes = new Uint8Array(PAGE_SIZE);
  const trap: HostHashTrap = {
    kind: TRAP_HOST_HASH,
    bytes,
    length: PAGE_SIZE,
    finish: false,
    hex: "",
  };
  for (const page of pages) {
    yield* readBytes(kernel.cpu, pageToPhys(page), bytes, 0, PAGE_SIZE);
    yield trap;
  }
  const digest: HostHashTrap = { ...trap, length: 0, finish: true };
  yield digest;
  return digest.hex;
}

/**
 * Reports `sha256` of the buffer after the backend is done, and `stillMapped`: pages whose access could not be ended.
 */
export function* bufferFront(kernel: Kernel, options: BufferFrontOptions): Program {
  const backend = yield* findDomain(kernel, options.backend);
  if (options.allocates === "back") yield* lookAtTheirs(kernel, backend);
  else yield* shareOwn(kernel, backend, options);
}

function* shareOwn(kernel: Kernel, backend: number, options: BufferFrontOptions): Program {
  const buffer: Granted[] = [];
  const run = options.contiguous ? allocPages(kernel.memory.pages, options.pages) : undefined;
  for (let i = 0; i < options.pages; i++) {
    const page = run === undefined ? allocPage(kernel.memory.pages) : Pfn(run + i);
    buffer.push(yield* grantPage(kernel, backend, page));
  }
  const directory = yield* makeDirectory(kernel, backend, buffer);
  yield* publishDirectory(kernel, frontNode(kernel.boot.domid), directory, options.pages);
  yield* awaitNode(kernel, `${backNode(backend, kernel.boot.domid)}/done`);
  const pages = buffer.map(({ page }) => page);
  yield* report("sha256", yield* hashPages(kernel, pages));
  let stillMapped = 0;
  for (const { ref } of [...directory, ...buffer]) {
    if ((yield* tryEndForeignAccess(kernel, GrantRef(ref))) === 0) stillMapped++;
  }
  yield* report("stillMapped", stillMapped);
}

/** The backend's pages, on pages of this kernel that have nothing behind them. */
function* lookAtTheirs(kernel: Kernel, backend: number): Program {
  const node = backNode(backend, kernel.boot.domid);
  const refs = yield* readDirectory(kernel, backend, node);
  const map = yield* allocMap(kernel, refs.length, 0);
  if (map === undefined) throw new KernelBug("no pages to map the backend's onto");
  map.grants.push(...refs.map((ref) => ({ domid: backend, ref })));
  map.flags = GNTMAP_host_map;
  const mapped = yield* mapGrantPages(kernel, map);
  if (mapped !== 0) throw new KernelBug(`the backend's pages are refused: ${mapped}`);
  yield* awaitNode(kernel, `${node}/done`);
  yield* report("sha256", yield* hashPages(kernel, map.pages));
  yield* putMap(kernel, map);
  yield* writeStoreNode(kernel, `${frontNode(kernel.boot.domid)}/released`, 1);
}
