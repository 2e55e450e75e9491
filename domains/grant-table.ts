/**
 * The granter's side of the grant table: references, granting, and ending an access, at once or later.
 *
 * Rules: a reference that is still in use goes to the deferred list together with a page reference, and is tried again
 * by `runDeferred`; without memory for its place in the list both are lost. Entries are grant-entry.ts's business, frames
 * grant-setup.ts's.
 * Behaviour: Linux drivers/xen/grant-table.c.
 */
import { GTF_permit_access, GTF_readonly } from "../shared/abi/grant.ts";
import { assert } from "../shared/assert.ts";
import { DEFERRED_PER_RUN, DEFERRED_PERIOD_MS, DEFERRED_WARN_DELAY } from "../shared/limits.ts";
import { ENOSPC } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { type Gfn, GrantRef, Pfn } from "../shared/units.ts";
import { kfree, kmalloc } from "./fault-points.ts";
import { closeEntry, readFrame, updateEntry } from "./grant-entry.ts";
import {
  chainRef,
  GNTTAB_LIST_END,
  nextRef,
  putRef,
  putRefChain,
  tailRunLength,
  takeRefs,
  takeSortedRun,
  takeTailRun,
} from "./grant-refs.ts";
import { expandGrantTable } from "./grant-setup.ts";
import { noteEnd } from "./history.ts";
import { type Kernel, sleep, waitTimeout, waitUntil } from "./kernel.ts";
import { getPage, pfnValid, putPage } from "./pages.ts";

/** gnttab_expand, and whoever waits for references is told. */
function* expand(kernel: Kernel, wanted: number): Program<number> {
  const rc = yield* expandGrantTable(kernel, wanted);
  if (rc === 0) runFreeCallbacks(kernel);
  return rc;
}

/** get_free_entries: `count` chained references, or a negative errno. */
function* getFreeEntries(kernel: Kernel, count: number): Program<number> {
  const { refs } = kernel.memory.grants;
  if (refs.freeCount < count) {
    const rc = yield* expand(kernel, count - refs.freeCount);
    if (rc < 0) return rc;
  }
  return takeRefs(refs, count);
}

function putFree(kernel: Kernel, ref: GrantRef): void {
  putRef(kernel.memory.grants.refs, ref);
  runFreeCallbacks(kernel);
}

/** check_free_callbacks: whoever waits for no more than is free is told once. */
function runFreeCallbacks(kernel: Kernel): void {
  const { grants } = kernel.memory;
  const waiting = grants.callbacks;
  grants.callbacks = waiting.filter((one) => one.count > grants.refs.freeCount);
  for (const one of waiting) if (!grants.callbacks.includes(one)) one.run();
}

/** gnttab_request_free_callback: runs `run` once `count` references are free, which may be at once. */
export function requestFreeCallback(kernel: Kernel, count: number, run: () => void): void {
  const { callbacks } = kernel.memory.grants;
  if (callbacks.some((one) => one.run === run)) return;
  callbacks.push({ count, run });
  runFreeCallbacks(kernel);
}
export function cancelFreeCallback(kernel: Kernel, run: () => void): void {
  const { grants } = kernel.memory;
  grants.callbacks = grants.callbacks.filter((one) => one.run !== run);
}

/** gnttab_alloc_grant_references: head of a private chain of `count` (1 to 65535), or -ENOSPC. */
export function* allocGrantReferences(kernel: Kernel, count: number): Program<number> {
  assert(count >= 1 && count <= 0xffff, "a count of references fits 16 bits and is not zero");
  const head = yield* getFreeEntries(kernel, count);
  return head < 0 ? -ENOSPC : head;
}

/** Head of a private chain of references, advanced by claims. */
export interface RefChain {
  head: number;
}

/** gnttab_claim_grant_reference: the first of a private chain, or -ENOSPC when it is empty. */
export function claimGrantReference(kernel: Kernel, chain: RefChain): number {
  if (chain.head === GNTTAB_LIST_END) return -ENOSPC;
  const ref = chain.head;
  chain.head = nextRef(kernel.memory.grants.refs, ref);
  return ref;
}
/** gnttab_release_grant_reference: back to the private chain. */
export function releaseGrantReference(kernel: Kernel, chain: RefChain, ref: GrantRef): void {
  chainRef(kernel.memory.grants.refs, ref, chain.head);
  chain.head = ref;
}
/** gnttab_free_grant_references: the rest of a private chain. */
export function freeGrantReferences(kernel: Kernel, head: number): void {
  putRefChain(kernel.memory.grants.refs, head);
  runFreeCallbacks(kernel);
}

/** gnttab_alloc_grant_reference_seq: first of `count` consecutive references, or -ENOSPC. */
export function* allocGrantReferenceSeq(kernel: Kernel, count: number): Program<number> {
  const { refs } = kernel.memory.grants;
  if (count === 1) return yield* allocGrantReferences(kernel, 1);
  if (refs.freeCount < count) {
    const rc = yield* expand(kernel, count - refs.freeCount);
    if (rc < 0) return -ENOSPC;
  }
  if (tailRunLength(refs) < count) {
    const taken = takeSortedRun(refs, count);
    if (taken !== undefined) return taken;
    const rc = yield* expand(kernel, count - tailRunLength(refs));
    if (rc < 0) return -ENOSPC;
  }
  return takeTailRun(refs, count);
}
/** gnttab_free_grant_reference_seq: last to first. */
export function freeGrantReferenceSeq(kernel: Kernel, first: GrantRef, count: number): void {
  for (let i = count - 1; i >= 0; i--) putFree(kernel, GrantRef(first + i));
}

/** gnttab_free_grant_reference: a reserved reference is ignored. */
export const freeGrantReference = putFree;

/** gnttab_grant_foreign_access_ref: lets `domid` map `gfn` by a reference the caller holds. */
export function* grantForeignAccessRef(
  kernel: Kernel,
  ref: GrantRef,
  domid: number,
  gfn: Gfn | Pfn,
  access: { readonly readonly: boolean },
): Program {
  const flags = GTF_permit_access | (access.readonly ? GTF_readonly : 0);
  yield* updateEntry(kernel, ref, domid, gfn, flags);
}

/** gnttab_grant_foreign_access: a reference by which `domid` may map `gfn`, or -ENOSPC. */
export function* grantForeignAccess(
  kernel: Kernel,
  domid: number,
  gfn: Gfn | Pfn,
  access: { readonly readonly: boolean } = { readonly: false },
): Program<number> {
  const ref = yield* getFreeEntries(kernel, 1);
  if (ref < 0) return -ENOSPC;
  yield* grantForeignAccessRef(kernel, GrantRef(ref), domid, gfn, access);
  return ref;
}

/** gnttab_end_foreign_access_ref: 1 when nobody has it and nobody can get it any more, 0 while it is in use. */
export function* endForeignAccessRef(kernel: Kernel, ref: GrantRef): Program<number> {
  const tried = noteEnd(kernel.cpu, ref);
  const ended = yield* closeEntry(kernel, ref);
  tried(ended === 1);
  return ended;
}

/** gnttab_try_end_foreign_access: as above, and the reference is free on success. */
export function* tryEndForeignAccess(kernel: Kernel, ref: GrantRef): Program<number> {
  const ended = yield* endForeignAccessRef(kernel, ref);
  if (ended === 1) putFree(kernel, ref);
  return ended;
}

/**
 * gnttab_end_foreign_access: ends the access, now or when the peer lets go. `page`, if given, loses the caller's
 * reference with it; without one, the page of the entry is kept alive until then.
 */
export function* endForeignAccess(kernel: Kernel, ref: GrantRef, page?: Pfn): Program {
  const { grants, pages } = kernel.memory;
  if ((yield* tryEndForeignAccess(kernel, ref)) === 1) {
    if (page !== undefined) putPage(pages, page);
    return;
  }
  if (!kmalloc(kernel.faults)) {
    // Nobody will try again: the reference and its page are lost for ever.
    grants.leakedCount++;
    return;
  }
  let kept = page;
  if (kept === undefined) {
    kept = Pfn(yield* readFrame(kernel, ref));
    if (pfnValid(pages, kept)) getPage(pages, kept);
  }
  grants.deferred.push({ ref, page: kept, warnDelay: DEFERRED_WARN_DELAY });
  grants.deferredCount++;
}

/**
 * One run of the deferred timer: up to 10 entries from the head, stopping at the first that this run has already
 * seen. Returns the references freed.
 */
export function* runDeferred(kernel: Kernel): Program<number> {
  const { grants, pages } = kernel.memory;
  let freed = 0;
  let firstFailed: number | undefined;
  for (let i = 0; i < DEFERRED_PER_RUN; i++) {
    const entry = grants.deferred[0];
    if (entry === undefined || entry.ref === firstFailed) break;
    grants.deferred.shift();
    if ((yield* endForeignAccessRef(kernel, GrantRef(entry.ref))) === 1) {
      putFree(kernel, GrantRef(entry.ref));
      if (pfnValid(pages, entry.page)) putPage(pages, entry.page);
      grants.deferredCount--;
      kfree(kernel.faults);
      freed++;
      continue;
    }
    entry.warnDelay--;
    firstFailed ??= entry.ref;
    grants.deferred.push(entry);
  }
  return freed;
}

/** The deferred timer as a daemon: once a second while anything is deferred. */
export function* deferredGrantThread(kernel: Kernel): Program {
  const { grants } = kernel.memory;
  for (;;) {
    yield* waitUntil(kernel, () => grants.deferred.length > 0);
    yield* waitTimeout(kernel, () => false, DEFERRED_PERIOD_MS);
    yield* runDeferred(kernel);
  }
}

/** Sleeps and runs the timer until nothing is deferred, at most `runs` times. Returns what is left. */
export function* drainDeferred(kernel: Kernel, runs: number): Program<number> {
  const { grants } = kernel.memory;
  for (let i = 0; i < runs && grants.deferred.length > 0; i++) {
    yield* sleep(DEFERRED_PERIOD_MS);
    yield* runDeferred(kernel);
  }
  return grants.deferred.length;
}
