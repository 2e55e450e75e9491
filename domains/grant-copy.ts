/**
 * Grant copies: the hypervisor moves bytes between a granted page and an own one, or between two granted pages.
 *
 * Rules: one operation stays within one page on each side; every operation has a status of its own and none is
 * retried but for GNTST_eagain. A longer range is cut at page boundaries first.
 * Behaviour: Linux drivers/xen/grant-table.c, gnttab_batch_copy(), gnttab_foreach_grant_in_range().
 */
import {
  COPY_DEST,
  COPY_FLAGS,
  COPY_LEN,
  COPY_PTR_DOMID,
  COPY_PTR_OFFSET,
  COPY_PTR_REF_OR_GMFN,
  COPY_SIZE,
  COPY_SOURCE,
  COPY_STATUS,
  GNTCOPY_dest_gref,
  GNTCOPY_source_gref,
  GNTTABOP_copy,
} from "../shared/abi/grant.ts";
import { DOMID_SELF } from "../shared/abi/xen.ts";
import { item } from "../shared/assert.ts";
import { GNTTAB_EAGAIN_RETRIES, PAGE_SIZE } from "../shared/limits.ts";
import { GNTST_bad_page, GNTST_eagain, GNTST_okay } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { Gaddr, type Gfn, type Pfn } from "../shared/units.ts";
import { bugOn } from "./bug.ts";
import { freshArguments, grantTableOp, setU64 } from "./hypercalls.ts";
import { ARGUMENT_BYTES, type Caller, sleep } from "./kernel.ts";
import { pageToPhys, physToPage } from "./pages.ts";

/** One side of a copy: a granted page of another domain, or a page of this one. */
export type CopyEnd =
  | { readonly ref: number; readonly domid: number; readonly offset: number }
  | { readonly gfn: Gfn | Pfn; readonly offset: number };

/** struct gnttab_copy. */
export interface CopyOp {
  readonly source: CopyEnd;
  readonly dest: CopyEnd;
  readonly length: number;
  status: number;
}

export const copyOp = (source: CopyEnd, dest: CopyEnd, length: number): CopyOp => ({
  source,
  dest,
  length,
  status: GNTST_okay,
});

function setEnd(view: DataView, at: number, end: CopyEnd): void {
  const granted = "ref" in end;
  setU64(view, at + COPY_PTR_REF_OR_GMFN, granted ? end.ref : end.gfn);
  view.setUint16(at + COPY_PTR_DOMID, granted ? end.domid : DOMID_SELF, true);
  view.setUint16(at + COPY_PTR_OFFSET, end.offset, true);
}

/** GNTTABOP_copy on operations `from` to `from + count - 1`, at most one argument area of them. */
function* copySome(
  caller: Caller,
  ops: readonly CopyOp[],
  from: number,
  count: number,
): Program<number> {
  const view = freshArguments(caller, count * COPY_SIZE);
  for (let i = 0; i < count; i++) {
    const { source, dest, length } = item(ops, from + i);
    const base = i * COPY_SIZE;
    setEnd(view, base + COPY_SOURCE, source);
    setEnd(view, base + COPY_DEST, dest);
    view.setUint16(base + COPY_LEN, length, true);
    const flags =
      ("ref" in source ? GNTCOPY_source_gref : 0) | ("ref" in dest ? GNTCOPY_dest_gref : 0);
    view.setUint16(base + COPY_FLAGS, flags, true);
  }
  const rc = yield* grantTableOp(caller, GNTTABOP_copy, count * COPY_SIZE, count);
  for (let i = 0; i < count; i++) {
    item(ops, from + i).status = view.getInt16(i * COPY_SIZE + COPY_STATUS, true);
  }
  return rc;
}

/** gnttab_batch_copy: does every operation; statuses are in them, never GNTST_eagain. */
export function* gnttabBatchCopy(caller: Caller, ops: readonly CopyOp[]): Program {
  const most = Math.floor(ARGUMENT_BYTES / COPY_SIZE);
  for (let from = 0; from < ops.length; from += most) {
    const rc = yield* copySome(caller, ops, from, Math.min(most, ops.length - from));
    bugOn(rc !== 0, `a batch of copies answered ${rc}`);
  }
  for (const op of ops) if (op.status === GNTST_eagain) yield* retryEagain(caller, op);
}

function* retryEagain(caller: Caller, op: CopyOp): Program {
  for (let retry = 1; retry <= GNTTAB_EAGAIN_RETRIES; retry++) {
    const rc = yield* copySome(caller, [op], 0, 1);
    bugOn(rc !== 0, `a single copy answered ${rc}`);
    if (op.status !== GNTST_eagain) return;
    yield* sleep(retry);
  }
  op.status = GNTST_bad_page;
}

/** A piece of a range that one grant can carry. */
export interface GrantPiece {
  readonly page: Pfn;
  readonly offset: number;
  readonly length: number;
}

/** gnttab_foreach_grant_in_range: the piece of one page; a length beyond its end is cut. */
export const grantPiece = (page: Pfn, offset: number, length: number): GrantPiece => ({
  page,
  offset,
  length: Math.min(length, PAGE_SIZE - offset),
});

/** The pieces of a range of guest physical memory, in order. */
export function grantPieces(start: Gaddr, length: number): readonly GrantPiece[] {
  const pieces: GrantPiece[] = [];
  for (let done = 0; done < length; ) {
    const page = physToPage(Gaddr(start + done));
    const piece = grantPiece(page, start + done - pageToPhys(page), length - done);
    pieces.push(piece);
    done += piece.length;
  }
  return pieces;
}

/** gnttab_count_grant: pages that a range touches. */
export const gnttabCountGrant = (start: number, length: number): number =>
  Math.ceil(((start % PAGE_SIZE) + length) / PAGE_SIZE);
