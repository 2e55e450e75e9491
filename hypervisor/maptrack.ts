/**
 * Handles of a mapping domain: get, put. A handle is an index; flags 0 means free, and then `ref` is the link.
 *
 * Each vCPU has a free list with head and tail. One entry always stays on it as the tail's sentinel, so a list of
 * one is empty. Freed handles go to the tail: first in, first out, so a stale handle is not reused at once.
 * Behaviour: xen/common/grant_table.c, get_maptrack_handle(), put_maptrack_handle(), steal_maptrack_handle().
 */
import { DOMID_INVALID } from "../shared/abi/xen.ts";
import { at } from "../shared/assert.ts";
import { DOM } from "../shared/layout.ts";
import { MAPTRACK_PER_FRAME, NOT_PRESENT } from "../shared/limits.ts";
import type { DomId } from "../shared/units.ts";
import { allocationFails } from "./inject.ts";
import { addDomainField, domainField, setDomainField, type Xen } from "./xen.ts";

const rowOf = (xen: Xen, domid: number, handle: number): number =>
  domid * xen.model.limits.maptrackFrames * MAPTRACK_PER_FRAME + handle;

export const trackRef = (xen: Xen, domid: number, handle: number): number =>
  at(xen.words, xen.layout.trackRef + rowOf(xen, domid, handle));
/** GNTMAP halves and readonly of a live handle; 0 when it is free. */
export const trackFlags = (xen: Xen, domid: number, handle: number): number =>
  at(xen.words, xen.layout.trackFlags + rowOf(xen, domid, handle));
export const trackDomid = (xen: Xen, domid: number, handle: number): DomId =>
  at(xen.words, xen.layout.trackDomid + rowOf(xen, domid, handle)) as DomId;

/** Publishes a live handle: granter and ref first, the flags that make it live last. */
export function publishHandle(
  xen: Xen,
  domid: number,
  handle: number,
  granter: number,
  ref: number,
  flags: number,
): void {
  const row = rowOf(xen, domid, handle);
  xen.words[xen.layout.trackDomid + row] = granter;
  xen.words[xen.layout.trackRef + row] = ref;
  xen.words[xen.layout.trackFlags + row] = flags;
  addDomainField(xen, domid, DOM.MAPPINGS, 1);
}

/** Changes the halves of a live handle; 0 makes it dead, and the caller puts it. */
export function setTrackFlags(xen: Xen, domid: number, handle: number, flags: number): void {
  xen.words[xen.layout.trackFlags + rowOf(xen, domid, handle)] = flags;
  if (flags === 0) addDomainField(xen, domid, DOM.MAPPINGS, -1);
}

/**
 * A granter is gone. A live handle that still names it has no page reference any more: a PV mapper has dropped the entry by
 * itself. It names nobody from here on, so that no later domain of that id is taken for it.
 */
export function forgetGranter(xen: Xen, mapper: DomId, granter: number): void {
  const limit = domainField(xen, mapper, DOM.MAPTRACK_LIMIT);
  for (let handle = 0; handle < limit; handle++) {
    if (trackFlags(xen, mapper, handle) === 0) continue;
    if (trackDomid(xen, mapper, handle) !== granter) continue;
    xen.words[xen.layout.trackDomid + rowOf(xen, mapper, handle)] = DOMID_INVALID;
  }
}

/** No list yet: the columns are NOT_PRESENT from creation on. */
export function initMaptrack(xen: Xen, domid: DomId, vcpus: number): void {
  for (let vcpu = 0; vcpu < vcpus; vcpu++) {
    setDomainField(xen, domid, DOM.MAPTRACK_HEAD + vcpu, NOT_PRESENT);
    setDomainField(xen, domid, DOM.MAPTRACK_TAIL + vcpu, NOT_PRESENT);
  }
}

function popHead(xen: Xen, domid: number, vcpu: number): number {
  const head = domainField(xen, domid, DOM.MAPTRACK_HEAD + vcpu);
  if (head === domainField(xen, domid, DOM.MAPTRACK_TAIL + vcpu)) return NOT_PRESENT;
  setDomainField(xen, domid, DOM.MAPTRACK_HEAD + vcpu, trackRef(xen, domid, head));
  return head;
}

/** A new page: its first entry is returned, the other 255 go to the head of the vCPU's list. */
function grow(xen: Xen, domid: number, vcpu: number): number {
  const first = domainField(xen, domid, DOM.MAPTRACK_LIMIT);
  const frames = first / MAPTRACK_PER_FRAME;
  if (frames >= domainField(xen, domid, DOM.MAX_MAPTRACK_FRAMES)) return NOT_PRESENT;
  if (allocationFails(xen)) return NOT_PRESENT;
  const { words, layout } = xen;
  const last = first + MAPTRACK_PER_FRAME - 1;
  const oldHead = domainField(xen, domid, DOM.MAPTRACK_HEAD + vcpu);
  for (let handle = first; handle <= last; handle++) {
    const row = rowOf(xen, domid, handle);
    words[layout.trackFlags + row] = 0;
    words[layout.trackRef + row] = handle === last ? oldHead : handle + 1;
    words[layout.trackVcpu + row] = vcpu;
  }
  if (oldHead === NOT_PRESENT) setDomainField(xen, domid, DOM.MAPTRACK_TAIL + vcpu, last);
  setDomainField(xen, domid, DOM.MAPTRACK_HEAD + vcpu, first + 1);
  setDomainField(xen, domid, DOM.MAPTRACK_LIMIT, first + MAPTRACK_PER_FRAME);
  return first;
}

/** Takes a spare handle from another vCPU, lowest first; Xen starts at a random one. */
function steal(xen: Xen, domid: number, vcpu: number): number {
  const vcpus = domainField(xen, domid, DOM.VCPUS);
  for (let other = 0; other < vcpus; other++) {
    if (other === vcpu) continue;
    const handle = popHead(xen, domid, other);
    if (handle === NOT_PRESENT) continue;
    xen.words[xen.layout.trackVcpu + rowOf(xen, domid, handle)] = vcpu;
    return handle;
  }
  return NOT_PRESENT;
}

/** A free handle for a vCPU of the mapper, or NOT_PRESENT (GNTST_no_space). */
export function getHandle(xen: Xen, domid: DomId, vcpu: number): number {
  const own = popHead(xen, domid, vcpu);
  if (own !== NOT_PRESENT) return own;
  const fresh = grow(xen, domid, vcpu);
  if (fresh !== NOT_PRESENT) return fresh;
  const stolen = steal(xen, domid, vcpu);
  if (stolen === NOT_PRESENT) return NOT_PRESENT;
  if (domainField(xen, domid, DOM.MAPTRACK_TAIL + vcpu) !== NOT_PRESENT) return stolen;
  // A vCPU without a list first steals an extra entry as its sentinel.
  setDomainField(xen, domid, DOM.MAPTRACK_HEAD + vcpu, stolen);
  setDomainField(xen, domid, DOM.MAPTRACK_TAIL + vcpu, stolen);
  return steal(xen, domid, vcpu);
}

/** Appends a dead handle to the tail of its home vCPU's list. */
export function putHandle(xen: Xen, domid: DomId, handle: number): void {
  const { words, layout } = xen;
  const row = rowOf(xen, domid, handle);
  const vcpu = at(words, layout.trackVcpu + row);
  const tail = domainField(xen, domid, DOM.MAPTRACK_TAIL + vcpu);
  words[layout.trackRef + row] = NOT_PRESENT;
  if (tail === NOT_PRESENT) setDomainField(xen, domid, DOM.MAPTRACK_HEAD + vcpu, handle);
  else words[layout.trackRef + rowOf(xen, domid, tail)] = handle;
  setDomainField(xen, domid, DOM.MAPTRACK_TAIL + vcpu, handle);
}
