/**
 * Foreign frames and resources of other domains in this kernel's address space: each is mapped on a page that has
 * nothing behind it, and taken away again.
 *
 * Rules: one hypercall a frame, as in Linux, so that each has an errno of its own. Taking away ignores what the
 * hypervisor says: a page that was never mapped is refused, and nothing is behind it either way.
 * Behaviour: Linux drivers/xen/xlate_mmu.c; XENMEM_acquire_resource as drivers/xen/privcmd.c calls it.
 */
import {
  ACQUIRE_DOMID,
  ACQUIRE_FRAME,
  ACQUIRE_FRAME_LIST,
  ACQUIRE_ID,
  ACQUIRE_NR_FRAMES,
  ACQUIRE_SIZE,
  ACQUIRE_TYPE,
  PHYSMAP_BATCH_COUNT,
  PHYSMAP_BATCH_DOMID,
  PHYSMAP_BATCH_ERRS,
  PHYSMAP_BATCH_EXTRA,
  PHYSMAP_BATCH_GPFNS,
  PHYSMAP_BATCH_IDXS,
  PHYSMAP_BATCH_SIZE,
  PHYSMAP_BATCH_SPACE,
  REMOVE_FROM_PHYSMAP_DOMID,
  REMOVE_FROM_PHYSMAP_GPFN,
  REMOVE_FROM_PHYSMAP_SIZE,
  XENMAPSPACE_gmfn_foreign,
  XENMEM_acquire_resource,
  XENMEM_add_to_physmap_batch,
  XENMEM_remove_from_physmap,
} from "../shared/abi/memory.ts";
import { DOMID_SELF } from "../shared/abi/xen.ts";
import { item } from "../shared/assert.ts";
import type { Program } from "../shared/trap.ts";
import type { Pfn } from "../shared/units.ts";
import { freshArguments, memoryOp, setU64 } from "./hypercalls.ts";
import { ARGUMENT_BYTES, type Caller } from "./kernel.ts";

/** Maps frame `gfn` of `domid` at `page`: 0, or the errno of the call or of the frame. */
export function* mapForeignFrame(
  caller: Caller,
  domid: number,
  gfn: number,
  page: Pfn,
): Program<number> {
  const size = PHYSMAP_BATCH_SIZE + 8 + 8 + 4;
  const view = freshArguments(caller, size);
  const { gaddr } = caller.arguments;
  view.setUint16(PHYSMAP_BATCH_DOMID, DOMID_SELF, true);
  view.setUint16(PHYSMAP_BATCH_SPACE, XENMAPSPACE_gmfn_foreign, true);
  view.setUint16(PHYSMAP_BATCH_COUNT, 1, true);
  view.setUint16(PHYSMAP_BATCH_EXTRA, domid, true);
  setU64(view, PHYSMAP_BATCH_IDXS, gaddr + PHYSMAP_BATCH_SIZE);
  setU64(view, PHYSMAP_BATCH_GPFNS, gaddr + PHYSMAP_BATCH_SIZE + 8);
  setU64(view, PHYSMAP_BATCH_ERRS, gaddr + PHYSMAP_BATCH_SIZE + 16);
  setU64(view, PHYSMAP_BATCH_SIZE, gfn);
  setU64(view, PHYSMAP_BATCH_SIZE + 8, page);
  const rc = yield* memoryOp(caller, XENMEM_add_to_physmap_batch, size);
  return rc < 0 ? rc : view.getInt32(PHYSMAP_BATCH_SIZE + 16, true);
}

/** xen_xlate_unmap_gfn_range. */
export function* unmapForeignFrames(caller: Caller, pages: readonly Pfn[]): Program {
  for (const page of pages) {
    const view = freshArguments(caller, REMOVE_FROM_PHYSMAP_SIZE);
    view.setUint16(REMOVE_FROM_PHYSMAP_DOMID, DOMID_SELF, true);
    setU64(view, REMOVE_FROM_PHYSMAP_GPFN, page);
    yield* memoryOp(caller, XENMEM_remove_from_physmap, REMOVE_FROM_PHYSMAP_SIZE);
  }
}

/** A resource of a domain: its kind and number, and the first frame of it. */
export interface Resource {
  readonly domid: number;
  readonly type: number;
  readonly id: number;
  readonly frame: number;
}

/** Frames that a resource has, or a negative errno. */
export function* resourceFrames(caller: Caller, resource: Resource): Program<number> {
  const view = resourceArguments(caller, resource, 0);
  const rc = yield* memoryOp(caller, XENMEM_acquire_resource, ACQUIRE_SIZE);
  return rc < 0 ? rc : view.getUint32(ACQUIRE_NR_FRAMES, true);
}

/** Maps frames of a resource at `pages`: 0 or a negative errno. More than the argument area names go in several calls. */
export function* mapResource(
  caller: Caller,
  resource: Resource,
  pages: readonly Pfn[],
): Program<number> {
  const most = Math.floor((ARGUMENT_BYTES - ACQUIRE_SIZE) / 8);
  for (let from = 0; from < pages.length; from += most) {
    const count = Math.min(most, pages.length - from);
    const part = { ...resource, frame: resource.frame + from };
    const view = resourceArguments(caller, part, count);
    for (let i = 0; i < count; i++) setU64(view, ACQUIRE_SIZE + i * 8, item(pages, from + i));
    const rc = yield* memoryOp(caller, XENMEM_acquire_resource, ACQUIRE_SIZE + count * 8);
    if (rc < 0) return rc;
  }
  return 0;
}

function resourceArguments(caller: Caller, resource: Resource, count: number): DataView {
  const view = freshArguments(caller, ACQUIRE_SIZE + count * 8);
  view.setUint16(ACQUIRE_DOMID, resource.domid, true);
  view.setUint16(ACQUIRE_TYPE, resource.type, true);
  view.setUint32(ACQUIRE_ID, resource.id, true);
  view.setUint32(ACQUIRE_NR_FRAMES, count, true);
  setU64(view, ACQUIRE_FRAME, resource.frame);
  if (count > 0) setU64(view, ACQUIRE_FRAME_LIST, caller.arguments.gaddr + ACQUIRE_SIZE);
  return view;
}
