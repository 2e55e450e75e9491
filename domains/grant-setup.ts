/**
 * The frames of the own grant table: which version, how many, where they lie, growth, and what a resume does.
 *
 * Rules: frames are placed by add_to_physmap, the highest first, so that Xen grows its table once. ARM does not
 * place a frame again that stands somewhere, not even there (recorded: -EBUSY), x86 does. Version 2 is asked for when the kernel option says so and used only if Xen says yes. A
 * translated guest finds its status frames by add_to_physmap too. The free list survives a suspend as it is.
 * Behaviour: Linux drivers/xen/grant-table.c, gnttab_init(), gnttab_map(), gnttab_expand(), gnttab_resume().
 */
import { XENMAPIDX_grant_table_status } from "../shared/abi/grant.ts";
import { XENMAPSPACE_grant_table } from "../shared/abi/memory.ts";
import { item } from "../shared/assert.ts";
import { GRANT_LINKS_PER_PAGE } from "../shared/limits.ts";
import { ENODEV, ENOMEM, ENOSPC, ENOSYS } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { Pfn } from "../shared/units.ts";
import { bugOn, bugUnless } from "./bug.ts";
import { kfree, kmalloc } from "./fault-points.ts";
import { queryMaxFrames, setGrantVersion } from "./grant-calls.ts";
import { entriesPerFrame, statusFramesFor } from "./grant-entry.ts";
import { createGrantRefs, growRefs } from "./grant-refs.ts";
import { addToPhysmap } from "./hypercalls.ts";
import type { Kernel } from "./kernel.ts";
import { xenAllocUnpopulatedPages } from "./unpopulated.ts";

/** Frames assumed when query_size fails. */
const LEGACY_MAX_FRAMES = 4;

/** gnttab_init with gnttab_setup_auto_xlat_frames: the table of this kernel, first frame mapped. */
export function* initGrantTable(kernel: Kernel): Program {
  const { grants } = kernel.memory;
  yield* requestVersion(kernel);
  grants.refs = createGrantRefs(entriesPerFrame(grants.version));
  grants.bootMaxFrames = (yield* queryMaxFrames(kernel)) ?? LEGACY_MAX_FRAMES;
  grants.maxFrames = grants.bootMaxFrames;
  yield* placeFrames(kernel);
  const rc = yield* mapFrames(kernel, 0, 0);
  bugOn(rc !== 0, `mapping the first grant frame answered ${rc} (Linux: ${-ENODEV})`);
  grants.frameCount = 1;
}

/** Guest frames for as many grant and status frames as there can be. */
function* placeFrames(kernel: Kernel): Program {
  const { grants } = kernel.memory;
  const base = kernel.boot.grantTableGfn;
  const own = base === 0 ? grants.maxFrames : 0;
  const status = grants.version === 2 ? statusFramesFor(grants.maxFrames) : 0;
  for (let i = 0; i < grants.maxFrames - own; i++) grants.framePfns.push(Pfn(base + i));
  if (own + status === 0) return;
  const pages = yield* xenAllocUnpopulatedPages(kernel, own + status);
  bugUnless(typeof pages !== "number", "there is no address space for the grant table");
  grants.framePfns.push(...pages.slice(0, own));
  grants.statusPfns.push(...pages.slice(own));
}

/** gnttab_request_version: 2 if it is wanted and Xen has it. A failure is not fatal. */
function* requestVersion(kernel: Kernel): Program {
  const { grants } = kernel.memory;
  const wanted = kernel.boot.kernel.grantVersion;
  // Left to itself the kernel wants 2 for frame numbers beyond 32 bits, which no machine here has.
  const got = yield* setGrantVersion(kernel, wanted === "auto" ? 1 : wanted);
  const version = wanted === 2 && got === 2 ? 2 : 1;
  bugOn(grants.frameCount > 0 && version !== grants.version, "the grant table changes its version");
  grants.version = version;
}

/** gnttab_map: frames `start` to `end`, then the status frames that belong to them. */
function* mapFrames(kernel: Kernel, start: number, end: number): Program<number> {
  const { framePfns, statusPfns, version } = kernel.memory.grants;
  for (let frame = end; frame >= start; frame--) {
    const gpfn = item(framePfns, frame);
    const rc = yield* addToPhysmap(kernel, XENMAPSPACE_grant_table, frame, gpfn);
    if (rc !== 0) return rc;
  }
  const status = version === 2 ? statusFramesFor(end + 1) : 0;
  for (let n = start === 0 ? 0 : statusFramesFor(start); n < status; n++) {
    const index = XENMAPIDX_grant_table_status + n;
    const rc = yield* addToPhysmap(kernel, XENMAPSPACE_grant_table, index, item(statusPfns, n));
    if (rc !== 0) return rc;
  }
  return 0;
}

/**
 * gnttab_expand: frames for `wanted` more references. -ENOSPC beyond the maximum, Xen's refusal, or -ENOMEM for the list's
 * own pages; then the frames are mapped and not used, and an ARM machine never lets them be mapped again.
 */
export function* expandGrantTable(kernel: Kernel, wanted: number): Program<number> {
  const { grants } = kernel.memory;
  const perFrame = entriesPerFrame(grants.version);
  const extra = Math.ceil(wanted / perFrame);
  if (grants.frameCount + extra > grants.maxFrames) return -ENOSPC;
  const rc = yield* mapFrames(kernel, grants.frameCount, grants.frameCount + extra - 1);
  if (rc < 0) return rc;
  const linkPages = (frames: number): number =>
    Math.ceil((frames * perFrame) / GRANT_LINKS_PER_PAGE);
  const pages = linkPages(grants.frameCount + extra) - linkPages(grants.frameCount);
  for (let n = 0; n < pages; n++) {
    if (kmalloc(kernel.faults)) continue;
    kfree(kernel.faults, n);
    return -ENOMEM;
  }
  growRefs(grants.refs, extra);
  grants.frameCount += extra;
  return 0;
}

/** gnttab_suspend: only a guest that is not translated unmaps its frames. */
export const gnttabSuspend = (): number => 0;

/**
 * gnttab_resume: version and frames are asked for and mapped again. -ENOSYS on a host that allows fewer frames than are
 * in use, or what Xen refuses a frame with.
 */
export function* gnttabResume(kernel: Kernel): Program<number> {
  const { grants } = kernel.memory;
  yield* requestVersion(kernel);
  const now = (yield* queryMaxFrames(kernel)) ?? LEGACY_MAX_FRAMES;
  grants.maxFrames = Math.min(now, grants.bootMaxFrames);
  if (grants.maxFrames < grants.frameCount) return -ENOSYS;
  return yield* mapFrames(kernel, 0, grants.frameCount - 1);
}
