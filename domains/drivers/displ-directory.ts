/**
 * The page directory of a display buffer that the backend allocates.
 *
 *   front: grants empty directory pages -> request -> back: grants its data pages, writes their references -> response
 *   -> front: reads the references and maps the data pages
 *
 * Rules: the directory's pages are the frontend's, so the backend trusts no link in them: it maps as many pages as the
 * buffer needs and refuses a chain of another length, which a loop is as well. The frontend knows its own pages and follows no link,
 * since the backend could have written there.
 * Behaviour: xen/include/public/io/displif.h, XENDISPL_OP_DBUF_CREATE with be-alloc.
 */
import {
  DBUF_CREATE_BPP,
  DBUF_CREATE_BUFFER_SZ,
  DBUF_CREATE_COOKIE,
  DBUF_CREATE_FLAGS,
  DBUF_CREATE_GREF_DIRECTORY,
  DBUF_CREATE_HEIGHT,
  DBUF_CREATE_WIDTH,
  DIRECTORY_NEXT,
  DIRECTORY_REFS,
  DIRECTORY_REFS_MAX,
  XENDISPL_DBUF_FLG_REQ_ALLOC,
  XENDISPL_OP_DBUF_CREATE,
  XENDISPL_PACKET_BYTES,
  XENDISPL_REQ_OPERATION,
} from "../../shared/abi/displif.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { EINVAL, GNTST_okay } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { bugOn } from "../bug.ts";
import type { Kernel } from "../kernel.ts";
import { loadWord, readBytes, storeWord, writeBytes } from "../memory.ts";
import { pageToPhys } from "../pages.ts";
import { mapRing, unmapRing } from "../ring-map.ts";
import { type Granted, grantPage } from "./page-directory.ts";

export interface DisplDirectory {
  /** Size of the buffer in bytes. */
  readonly bufferBytes: number;
  /** Its pages, the first one first. */
  readonly pages: readonly Granted[];
}

/** References that the directory of a buffer holds. */
export const dataPagesOf = (bufferBytes: number): number => Math.ceil(bufferBytes / PAGE_SIZE);

/** The frontend's side: zeroed directory pages, linked to each other, that `backend` may write. */
export function* allocDirectory(
  kernel: Kernel,
  backend: number,
  bufferBytes: number,
): Program<DisplDirectory> {
  const pages: Granted[] = [];
  const count = Math.ceil(dataPagesOf(bufferBytes) / DIRECTORY_REFS_MAX);
  for (let n = count - 1; n >= 0; n--) {
    const page = yield* grantPage(kernel, backend);
    yield* storeWord(kernel.cpu, pageToPhys(page.page) + DIRECTORY_NEXT, pages[0]?.ref ?? 0);
    pages.unshift(page);
  }
  return { bufferBytes, pages };
}

/** What the buffer is to show; bpp in bits. */
export interface DisplMode {
  /** Not 0; 32 of its 64 bits. */
  readonly cookie: number;
  readonly width: number;
  readonly height: number;
  readonly bpp: number;
}

/** The packet that asks the backend to allocate the buffer and to fill its directory. */
export function dbufCreateRequest(directory: DisplDirectory, mode: DisplMode): DataView {
  const bytes = new Uint8Array(XENDISPL_PACKET_BYTES);
  const packet = new DataView(bytes.buffer);
  packet.setUint8(XENDISPL_REQ_OPERATION, XENDISPL_OP_DBUF_CREATE);
  packet.setUint32(DBUF_CREATE_COOKIE, mode.cookie, true);
  packet.setUint32(DBUF_CREATE_WIDTH, mode.width, true);
  packet.setUint32(DBUF_CREATE_HEIGHT, mode.height, true);
  packet.setUint32(DBUF_CREATE_BPP, mode.bpp, true);
  packet.setUint32(DBUF_CREATE_BUFFER_SZ, directory.bufferBytes, true);
  packet.setUint32(DBUF_CREATE_FLAGS, XENDISPL_DBUF_FLG_REQ_ALLOC, true);
  packet.setUint32(DBUF_CREATE_GREF_DIRECTORY, directory.pages[0]?.ref ?? 0, true);
  return packet;
}

/** Writes one directory page; the link to the next one, or the errno of a page that cannot be mapped for writing. */
function* fillPage(
  kernel: Kernel,
  frontend: number,
  ref: number,
  refs: readonly number[],
): Program<{ readonly next: number } | number> {
  const mapped = yield* mapRing(kernel, frontend, ref);
  if (typeof mapped === "number") return mapped;
  const next = (yield* loadWord(kernel.cpu, mapped.gaddr + DIRECTORY_NEXT)) >>> 0;
  const bytes = new Uint8Array(4 * refs.length);
  const view = new DataView(bytes.buffer);
  for (const [i, value] of refs.entries()) view.setUint32(4 * i, value, true);
  yield* writeBytes(kernel.cpu, mapped.gaddr + DIRECTORY_REFS, bytes, 0, bytes.length);
  const status = yield* unmapRing(kernel, mapped);
  bugOn(status !== GNTST_okay, `unmapping a directory page answered ${status}`);
  return { next };
}

/**
 * The backend's side: writes `refs`, grants of its own, into the directory of `frontend` that begins at `firstRef`. 0, or
 * -EINVAL when the chain is too short or goes on (so does a loop), or the errno of a page that cannot be mapped.
 */
export function* fillDirectory(
  kernel: Kernel,
  frontend: number,
  firstRef: number,
  refs: readonly number[],
): Program<number> {
  let next = firstRef;
  for (let at = 0; at < refs.length; at += DIRECTORY_REFS_MAX) {
    if (next === 0) return -EINVAL;
    const page = refs.slice(at, at + DIRECTORY_REFS_MAX);
    const filled = yield* fillPage(kernel, frontend, next, page);
    if (typeof filled === "number") return filled;
    next = filled.next;
  }
  return next === 0 ? 0 : -EINVAL;
}

/** The frontend's side, after the response: references of the buffer's pages in the backend's grant table. */
export function* readDirectory(
  kernel: Kernel,
  directory: DisplDirectory,
): Program<readonly number[]> {
  const refs: number[] = [];
  let left = dataPagesOf(directory.bufferBytes);
  for (const { page } of directory.pages) {
    const count = Math.min(left, DIRECTORY_REFS_MAX);
    const bytes = new Uint8Array(4 * count);
    yield* readBytes(kernel.cpu, pageToPhys(page) + DIRECTORY_REFS, bytes, 0, bytes.length);
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < count; i++) refs.push(view.getUint32(4 * i, true));
    left -= count;
  }
  return refs;
}
