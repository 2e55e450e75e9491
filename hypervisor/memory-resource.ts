/**
 * acquire_resource: a privileged domain maps pages that Xen holds for another one, here the frames of its grant table.
 *
 * Rules: frames are handled in chunks; the table grows to reach the last frame of each. The caller names the gfns and
 * gets foreign entries there, each with a reference: the frames, and so their domain, outlive its death. After the
 * first entry of a chunk every failure is -EIO, and what was entered stays.
 * Behaviour: xen/common/memory.c, acquire_resource(); xen/common/grant_table.c, gnttab_acquire_resource().
 */
import {
  ACQUIRE_DOMID,
  ACQUIRE_FRAME,
  ACQUIRE_FRAME_LIST,
  ACQUIRE_ID,
  ACQUIRE_NR_FRAMES,
  ACQUIRE_PAD,
  ACQUIRE_SIZE,
  ACQUIRE_TYPE,
  XENMEM_resource_grant_table,
  XENMEM_resource_grant_table_id_shared,
  XENMEM_resource_ioreq_server,
  XENMEM_resource_vmtrace_buf,
} from "../shared/abi/memory.ts";
import { DOM } from "../shared/layout.ts";
import { EXTENTS_MAX } from "../shared/limits.ts";
import { EFAULT, EINVAL, EIO, EOPNOTSUPP, EPERM, ESRCH } from "../shared/status.ts";
import type { DomId } from "../shared/units.ts";
import { grantFrame } from "./active-entry.ts";
import { startFlush } from "./flush.ts";
import { copyArgs, copyFieldBack, copyListEntry } from "./guest-access.ts";
import { releaseHolds } from "./hold-list.ts";
import { grantFrameFor, PLACED_FLUSH, placeResource } from "./physmap-place.ts";
import {
  type Caller,
  domainById,
  domainField,
  GAP_FLUSH,
  GAP_PREEMPT,
  type Gap,
  gapEvery,
  isPresent,
  mayManage,
  type Preemptible,
  type Xen,
} from "./xen.ts";

const FRAME_NUMBERS = 2 ** 32;
/** What the recorded Xen says about a type that it does not know: -EOPNOTSUPP as an unsigned count of frames. */
const UNKNOWN_TYPE = FRAME_NUMBERS - EOPNOTSUPP;

/** A request that has passed its checks; copied, because the scratch structure is not ours across gaps. */
interface Request {
  readonly owner: DomId;
  readonly generation: number;
  readonly first: number;
  readonly start: number;
  readonly count: number;
  readonly list: number;
}

export function acquireResource(
  xen: Xen,
  caller: Caller,
  start: number,
  arg: number,
): number | Preemptible {
  const { args } = xen;
  if (!copyArgs(xen, caller.domid, arg, ACQUIRE_SIZE)) return -EFAULT;
  if (args.u32(ACQUIRE_PAD) !== 0) return -EINVAL;
  const first = args.u64(ACQUIRE_FRAME);
  const count = args.u32(ACQUIRE_NR_FRAMES);
  if (first + count >= FRAME_NUMBERS) return -EINVAL;
  const owner = domainById(xen, args.u16(ACQUIRE_DOMID));
  if (owner === undefined) return -ESRCH;
  // Neither oneself nor, without the right, anybody else.
  if (owner === caller.domid || !mayManage(xen, caller, owner)) return -EPERM;
  const type = args.u16(ACQUIRE_TYPE);
  const frames = framesOf(xen, owner, type, args.u32(ACQUIRE_ID));
  if (frames === 0) return -EINVAL;
  const list = args.u64(ACQUIRE_FRAME_LIST);
  if (list === 0) {
    if (count !== 0 || start !== 0) return -EINVAL;
    args.setU32(ACQUIRE_NR_FRAMES, frames);
    return copyFieldBack(xen, caller.domid, arg, ACQUIRE_NR_FRAMES, 4) ? 0 : -EFAULT;
  }
  if (start >= count || count > EXTENTS_MAX) return -EINVAL;
  if (type !== XENMEM_resource_grant_table) return -EOPNOTSUPP;
  const generation = domainField(xen, owner, DOM.GENERATION);
  return acquire(xen, caller, { owner, generation, first, start, count, list });
}

/** Frames of a resource; 0: the domain has no such thing. Version 1 has no status frames, arm64 no device models. */
function framesOf(xen: Xen, owner: DomId, type: number, id: number): number {
  switch (type) {
    case XENMEM_resource_grant_table:
      return id === XENMEM_resource_grant_table_id_shared
        ? domainField(xen, owner, DOM.MAX_GRANT_FRAMES)
        : 0;
    case XENMEM_resource_ioreq_server:
    case XENMEM_resource_vmtrace_buf:
      return 0;
    default:
      return UNKNOWN_TYPE;
  }
}

function* acquire(xen: Xen, caller: Caller, request: Request): Preemptible {
  const { owner, count, first } = request;
  let chunk = 0;
  for (let done = request.start; done < count; done += chunk) {
    if (done > request.start) yield GAP_PREEMPT;
    const there = isPresent(xen, owner);
    if (!there || domainField(xen, owner, DOM.GENERATION) !== request.generation) return -ESRCH;
    chunk = Math.min(gapEvery(xen), count - done);
    // The table grows to the last frame of the chunk before any is entered.
    const last = grantFrameFor(xen, owner, first + done + chunk - 1);
    if (last < 0) return last;
    const error = yield* enterChunk(xen, caller, request, done, chunk);
    if (error !== 0) return error;
  }
  return 0;
}

/** Copies the gfns of one chunk, then enters its frames: 0, or the error that ended it. */
function* enterChunk(
  xen: Xen,
  caller: Caller,
  request: Request,
  done: number,
  chunk: number,
): Generator<Gap, number, void> {
  const gfns: number[] = [];
  for (let i = 0; i < chunk; i++) {
    const gfn = copyListEntry(xen, caller.domid, request.list, done + i);
    if (gfn === undefined) return -EFAULT;
    gfns.push(gfn);
  }
  let flush = false;
  let error = 0;
  for (const [i, gfn] of gfns.entries()) {
    const frame = grantFrame(xen, request.owner, request.first + done + i);
    const placed = placeResource(xen, caller, request.owner, frame, gfn);
    if (placed === PLACED_FLUSH) flush = true;
    if (placed >= 0) continue;
    error = i === 0 ? placed : -EIO;
    break;
  }
  if (flush && startFlush(xen, caller.slot, caller.domid) > 0) yield GAP_FLUSH;
  releaseHolds(xen, caller.slot);
  return error;
}
