/**
 * Many references at once: pages that name each other and the pages of a buffer, and the nodes that lead to the first.
 *
 * Rules: who owns the buffer makes the directory and publishes it under a node; the other side reads it page by page and
 * trusts only as many references as the node has said.
 * Behaviour: drivers/gpu/drm/xen-drm-front's and displ_be's page directory; shared/abi/displif.ts.
 */
import { BUFFER_DEVICE } from "../../shared/abi/buffer.ts";
import { DIRECTORY_NEXT, DIRECTORY_REFS, DIRECTORY_REFS_MAX } from "../../shared/abi/displif.ts";
import { item } from "../../shared/assert.ts";
import type { Program } from "../../shared/trap.ts";
import type { Pfn } from "../../shared/units.ts";
import { bugOn, KernelBug } from "../bug.ts";
import { grantForeignAccess } from "../grant-table.ts";
import type { Kernel } from "../kernel.ts";
import { loadWord, readBytes, writeBytes, zeroPage } from "../memory.ts";
import { allocPage, pageToPhys } from "../pages.ts";
import { mapRing, unmapRing } from "../ring-map.ts";
import {
  readStoreNode,
  readStoreNumber,
  unwatchStore,
  waitWatch,
  watchStore,
  writeStoreNode,
} from "../xenbus.ts";

/** Where the frontend of domain `front` keeps what it says of its buffer. */
export const frontNode = (front: number): string =>
  `/local/domain/${front}/device/${BUFFER_DEVICE}/0`;

/** Where a backend keeps what it says of the buffer of domain `front`. */
export const backNode = (backend: number, front: number): string =>
  `/local/domain/${backend}/backend/${BUFFER_DEVICE}/${front}/0`;

/** Waits until a node of the store exists, and reads it. */
export function* awaitNode(kernel: Kernel, path: string): Program<string> {
  const watch = yield* watchStore(kernel, path);
  if (typeof watch === "number") throw new KernelBug(`watching ${path} answered ${watch}`);
  for (;;) {
    yield* waitWatch(kernel, watch);
    const value = yield* readStoreNode(kernel, path);
    if (typeof value === "number") continue;
    yield* unwatchStore(kernel, watch);
    return value;
  }
}

/** A page that another domain may map. */
export interface Granted {
  readonly page: Pfn;
  readonly ref: number;
}

/** A zeroed page that `domid` may map for reading and writing; a fresh one by default. */
export function* grantPage(
  kernel: Kernel,
  domid: number,
  page = allocPage(kernel.memory.pages),
): Program<Granted> {
  if (page === undefined) throw new KernelBug("out of memory for a granted page");
  yield* zeroPage(kernel.cpu, pageToPhys(page));
  const ref = yield* grantForeignAccess(kernel, domid, page);
  bugOn(ref < 0, `granting a page answered ${ref}`);
  return { page, ref };
}

/** The pages of the directory, last one first: the first names the second, and so on. */
export function* makeDirectory(
  kernel: Kernel,
  backend: number,
  buffer: readonly Granted[],
): Program<readonly Granted[]> {
  const directory: Granted[] = [];
  const count = Math.ceil(buffer.length / DIRECTORY_REFS_MAX);
  for (let n = count - 1; n >= 0; n--) {
    const page = yield* grantPage(kernel, backend);
    const refs = buffer.slice(n * DIRECTORY_REFS_MAX, (n + 1) * DIRECTORY_REFS_MAX);
    const bytes = new Uint8Array(DIRECTORY_REFS + 4 * refs.length);
    const view = new DataView(bytes.buffer);
    view.setUint32(DIRECTORY_NEXT, directory.at(-1)?.ref ?? 0, true);
    for (const [i, { ref }] of refs.entries()) view.setUint32(DIRECTORY_REFS + 4 * i, ref, true);
    yield* writeBytes(kernel.cpu, pageToPhys(page.page), bytes, 0, bytes.length);
    directory.push(page);
  }
  return directory;
}

/** Says under `node` how many pages the buffer has and where its directory begins. */
export function* publishDirectory(
  kernel: Kernel,
  node: string,
  directory: readonly Granted[],
  pages: number,
): Program {
  yield* writeStoreNode(kernel, `${node}/pages`, pages);
  yield* writeStoreNode(kernel, `${node}/directory`, item(directory, directory.length - 1).ref);
}

/** References of the buffer, by way of its directory. */
export function* readDirectory(
  kernel: Kernel,
  domid: number,
  node: string,
): Program<readonly number[]> {
  let next = Number(yield* awaitNode(kernel, `${node}/directory`));
  const pages = yield* readStoreNumber(kernel, `${node}/pages`);
  const refs: number[] = [];
  while (next !== 0 && refs.length < pages) {
    const mapped = yield* mapRing(kernel, domid, next);
    if (typeof mapped === "number") throw new KernelBug(`a directory page is refused: ${mapped}`);
    const count = Math.min(pages - refs.length, DIRECTORY_REFS_MAX);
    const bytes = new Uint8Array(4 * count);
    yield* readBytes(kernel.cpu, mapped.gaddr + DIRECTORY_REFS, bytes, 0, bytes.length);
    next = (yield* loadWord(kernel.cpu, mapped.gaddr + DIRECTORY_NEXT)) >>> 0;
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < count; i++) refs.push(view.getUint32(4 * i, true));
    yield* unmapRing(kernel, mapped);
  }
  return refs;
}
