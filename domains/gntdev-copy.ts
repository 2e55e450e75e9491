/**
 * GRANT_COPY of gntdev: segments between granted pages and the process's memory, cut at its pages.
 *
 *   each segment: copied once -> checked -> status okay written -> pieces, each pinned -> batch full: hypercall, unpin
 *
 * Rules: a segment that is malformed, or memory that is not there, ends the request with an errno, and what was copied
 * before stays copied. A refusal of the hypervisor is the status of its segment, the first of several counts, and the
 * request succeeds.
 * Behaviour: Linux drivers/xen/gntdev.c, gntdev_ioctl_grant_copy().
 */
import {
  GRANT_COPY_COUNT,
  GRANT_COPY_SEGMENTS,
  GRANT_COPY_SIZE,
  SEGMENT_DEST,
  SEGMENT_FLAGS,
  SEGMENT_FOREIGN_DOMID,
  SEGMENT_FOREIGN_OFFSET,
  SEGMENT_FOREIGN_REF,
  SEGMENT_LEN,
  SEGMENT_SIZE,
  SEGMENT_SOURCE,
  SEGMENT_STATUS,
} from "../shared/abi/gntdev.ts";
import { GNTCOPY_dest_gref, GNTCOPY_source_gref } from "../shared/abi/grant.ts";
import { item } from "../shared/assert.ts";
import { GNTDEV_COPY_BATCH, PAGE_SIZE } from "../shared/limits.ts";
import { EFAULT, EINVAL, GNTST_okay } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import type { Pfn } from "../shared/units.ts";
import { pinUserPage, structFromUser, structToUser, unpinUserPage } from "./address-space.ts";
import { type CopyEnd, type CopyOp, copyOp, gnttabBatchCopy } from "./grant-copy.ts";
import { getU64 } from "./hypercalls.ts";
import type { Process } from "./process.ts";
import { structure } from "./structure.ts";

interface Batch {
  readonly process: Process;
  readonly ops: CopyOp[];
  /** Where each operation's segment wants its status. */
  readonly statusAt: number[];
  readonly pinned: Pfn[];
}

/** 0, whatever the statuses; -EFAULT, or -EINVAL: a segment without a grant, or one that leaves its granted page. */
export function* grantCopy(process: Process, argument: number): Program<number> {
  const from = yield* structFromUser(process, argument, GRANT_COPY_SIZE);
  if (from === undefined) return -EFAULT;
  const { view } = from;
  const count = view.getUint32(GRANT_COPY_COUNT, true);
  const segments = getU64(view, GRANT_COPY_SEGMENTS);
  const batch: Batch = { process, ops: [], statusAt: [], pinned: [] };
  for (let i = 0; i < count; i++) {
    const at = segments + i * SEGMENT_SIZE;
    const segment = yield* structFromUser(process, at, SEGMENT_SIZE);
    const rc = segment === undefined ? -EFAULT : yield* addSegment(batch, segment.view, at);
    if (rc < 0) {
      unpin(batch);
      return rc;
    }
  }
  return yield* flush(batch);
}

/** gntdev_grant_copy_seg: its pieces go into the batch, which is flushed whenever it is full. */
function* addSegment(batch: Batch, segment: DataView, at: number): Program<number> {
  const { process } = batch;
  const flags = segment.getUint16(SEGMENT_FLAGS, true);
  const length = segment.getUint16(SEGMENT_LEN, true);
  const fromGrant = (flags & GNTCOPY_source_gref) !== 0;
  const toGrant = (flags & GNTCOPY_dest_gref) !== 0;
  if (!fromGrant && !toGrant) return -EINVAL;
  if (fromGrant && leavesPage(segment, SEGMENT_SOURCE, length)) return -EINVAL;
  if (toGrant && leavesPage(segment, SEGMENT_DEST, length)) return -EINVAL;
  const statusAt = at + SEGMENT_STATUS;
  if (!(yield* writeStatus(process, statusAt, GNTST_okay))) return -EFAULT;
  for (let copied = 0; copied < length; ) {
    if (batch.ops.length === GNTDEV_COPY_BATCH) {
      const rc = yield* flush(batch);
      if (rc < 0) return rc;
    }
    let piece = length - copied;
    const ends: (CopyEnd | undefined)[] = [];
    for (const side of [SEGMENT_SOURCE, SEGMENT_DEST]) {
      if (side === SEGMENT_SOURCE ? fromGrant : toGrant) {
        ends.push(foreignEnd(segment, side, copied));
        continue;
      }
      const address = getU64(segment, side) + copied;
      piece = Math.min(piece, PAGE_SIZE - (address % PAGE_SIZE));
      ends.push(localEnd(batch, address, { write: side === SEGMENT_DEST }));
    }
    const [source, dest] = ends;
    if (source === undefined || dest === undefined) return -EFAULT;
    batch.ops.push(copyOp(source, dest, piece));
    batch.statusAt.push(statusAt);
    copied += piece;
  }
  return 0;
}

const leavesPage = (segment: DataView, side: number, length: number): boolean =>
  segment.getUint16(side + SEGMENT_FOREIGN_OFFSET, true) + length > PAGE_SIZE;

const foreignEnd = (segment: DataView, side: number, copied: number): CopyEnd => ({
  ref: segment.getUint32(side + SEGMENT_FOREIGN_REF, true),
  domid: segment.getUint16(side + SEGMENT_FOREIGN_DOMID, true),
  offset: segment.getUint16(side + SEGMENT_FOREIGN_OFFSET, true) + copied,
});

/** A piece of the process's memory, pinned until the batch is flushed; undefined: -EFAULT. */
function localEnd(batch: Batch, address: number, access: { write: boolean }): CopyEnd | undefined {
  const page = pinUserPage(batch.process, address, access);
  if (page === undefined) return undefined;
  batch.pinned.push(page);
  return { gfn: page, offset: address % PAGE_SIZE };
}

function unpin(batch: Batch): void {
  for (const page of batch.pinned.splice(0)) unpinUserPage(batch.process, page);
}

function* writeStatus(process: Process, at: number, status: number): Program<boolean> {
  const word = structure(2);
  word.view.setInt16(0, status, true);
  return yield* structToUser(process, at, word);
}

/** gntdev_copy: the hypercall, then the statuses: a segment keeps its first failure. 0 or -EFAULT. */
function* flush(batch: Batch): Program<number> {
  const { process } = batch;
  const ops = batch.ops.splice(0);
  const statusAt = batch.statusAt.splice(0);
  yield* gnttabBatchCopy(process.kernel, ops);
  unpin(batch);
  for (let i = 0; i < ops.length; i++) {
    const { status } = item(ops, i);
    if (status === GNTST_okay) continue;
    const at = item(statusAt, i);
    const before = yield* structFromUser(process, at, 2);
    if (before === undefined) return -EFAULT;
    if (before.view.getInt16(0, true) !== GNTST_okay) continue;
    if (!(yield* writeStatus(process, at, status))) return -EFAULT;
  }
  return 0;
}
