/**
 * GNTTABOP_set_version: a table changes its form. grant-version.ts answers which one it has.
 *
 * Rules: the version in force is written back whatever the answer. A change wipes every entry but the reserved ones,
 * which are carried over; it is refused while any other entry is in use. Status frames leave the physmap and the table
 * in one go, are flushed and only then freed. The count of the call is not looked at (recorded.md 5).
 * Behaviour: xen/common/grant_table.c, gnttab_set_version(), gnttab_unpopulate_status_frames().
 */
import {
  GNTTAB_NR_RESERVED_ENTRIES,
  GRANT_ENTRY_FRAME,
  GTF_permit_access,
  GTF_reading,
  GTF_transitive,
  GTF_type_mask,
  GTF_writing,
} from "../shared/abi/grant.ts";
import { item } from "../shared/assert.ts";
import { DOM } from "../shared/layout.ts";
import { GRANT_ENTRY_BYTES, GRANT_ENTRY_BYTES_V2, NOT_PRESENT } from "../shared/limits.ts";
import { EAGAIN, EBUSY, EFAULT, EINVAL, ENOMEM, ENOSYS, ERANGE } from "../shared/status.ts";
import type { DomId } from "../shared/units.ts";
import { activeKind, activePin, grantEntries, grantFrame } from "./active-entry.ts";
import { startFlush } from "./flush.ts";
import {
  frameReferences,
  setXenHeapGfn,
  shareXenPageWithGuest,
  xenHeapGfn,
} from "./frame-table.ts";
import {
  entryCell,
  isV2,
  orStatus,
  statusFrame,
  statusFrames,
  statusFramesFor,
  statusOf,
  statusRow,
} from "./grant-v2.ts";
import { copyArgs, copyToGuest } from "./guest-access.ts";
import { holdXenPage, releaseHolds } from "./hold-list.ts";
import { p2mClear } from "./p2m.ts";
import { profileOf } from "./profile.ts";
import {
  type Caller,
  domainField,
  GAP_FLUSH,
  type Preemptible,
  setDomainField,
  type Xen,
} from "./xen.ts";
import { allocXenPage, freeXenPage } from "./xen-heap.ts";

const STATUS_BITS = GTF_reading | GTF_writing;

/** gnttab_set_version: version u32@0. */
export function* setVersion(xen: Xen, caller: Caller, uop: number): Preemptible {
  const { domid } = caller;
  if (!copyArgs(xen, domid, uop, 4)) return -EFAULT;
  const wanted = xen.args.u32(0);
  const limit = item(xen.model.domains, domainField(xen, domid, DOM.MODEL)).maxGrantVersion ?? 2;
  let answer = checkVersion(xen, domid, wanted, Math.min(limit, profileOf(xen).maxGrantVersion));
  if (answer > 0) {
    const hidden = wanted === 1 && hideStatusFrames(xen, domid);
    answer = changeVersion(xen, caller, wanted);
    // The table has no status frames any more, so nobody can place one again until they are freed.
    if (hidden && startFlush(xen, caller.slot, domid) > 0) yield GAP_FLUSH;
    releaseHolds(xen, caller.slot);
  }
  xen.args.setU32(0, domainField(xen, domid, DOM.GRANT_VERSION));
  return copyToGuest(xen, domid, uop, xen.args.bytes, 0, 4) ? answer : -EFAULT;
}

/** 1: the table may change; 0: it has that version; else a negative errno. */
function checkVersion(xen: Xen, domid: DomId, wanted: number, limit: number): number {
  if (wanted !== 1 && wanted !== 2) return -EINVAL;
  if (wanted > limit) return -ENOSYS;
  if (domainField(xen, domid, DOM.GRANT_VERSION) === wanted) return 0;
  const entries = grantEntries(xen, domid);
  for (let ref = GNTTAB_NR_RESERVED_ENTRIES; ref < entries; ref++) {
    if (activePin(xen, domid, ref) !== 0) return -EBUSY;
  }
  return wanted === 2 ? 1 : checkReserved(xen, domid);
}

/** Reserved entries that version 1 has no room for. */
function checkReserved(xen: Xen, domid: DomId): number {
  for (let ref = 0; ref < GNTTAB_NR_RESERVED_ENTRIES; ref++) {
    if (activePin(xen, domid, ref) !== 0 && activeKind(xen, domid, ref) !== 0) return -EAGAIN;
    const type = entryCell(xen, domid, ref, 0) & GTF_type_mask;
    if (type === GTF_transitive) return -ERANGE;
    if (type === GTF_permit_access && entryCell(xen, domid, ref, 12) !== 0) return -ERANGE;
  }
  for (let n = 0; n < statusFrames(xen, domid); n++) {
    // One reference is the table's own; a further one is somebody who still uses the page.
    if (frameReferences(xen, statusFrame(xen, domid, n)) > 1) return -EBUSY;
  }
  return 1;
}

/** Takes the status frames out of the physmap; true: a flush is due. */
function hideStatusFrames(xen: Xen, domid: DomId): boolean {
  let flush = false;
  for (let n = 0; n < statusFrames(xen, domid); n++) {
    const frame = statusFrame(xen, domid, n);
    const gfn = xenHeapGfn(xen, frame);
    if (gfn === NOT_PRESENT) continue;
    if (p2mClear(xen, domid, gfn) > 0) flush = true;
    setXenHeapGfn(xen, frame, NOT_PRESENT);
  }
  return flush;
}

/** Allocates status frames from `had` up to `wanted`: all or nothing. 0 or -ENOMEM. */
export function addStatusFrames(xen: Xen, domid: DomId, had: number, wanted: number): number {
  const row = statusRow(xen, domid);
  for (let n = had; n < wanted; n++) {
    const frame = allocXenPage(xen);
    if (frame === NOT_PRESENT) {
      for (let undo = had; undo < n; undo++) freeXenPage(xen, statusFrame(xen, domid, undo));
      return -ENOMEM;
    }
    xen.words[row + n] = frame;
  }
  for (let n = had; n < wanted; n++) shareXenPageWithGuest(xen, statusFrame(xen, domid, n), domid);
  return 0;
}

/** What a reserved entry says, in a form that both versions have. */
interface Reserved {
  readonly header: number;
  readonly frame: number;
  readonly status: number;
}

function readReserved(xen: Xen, domid: DomId, ref: number): Reserved {
  if (isV2(xen, domid)) {
    const header = entryCell(xen, domid, ref, 0);
    return { header, frame: entryCell(xen, domid, ref, 8), status: statusOf(xen, domid, ref) };
  }
  const table = grantFrame(xen, domid, 0);
  const header = xen.memory.load(table, ref * GRANT_ENTRY_BYTES) >>> 0;
  const frame = xen.memory.load(table, ref * GRANT_ENTRY_BYTES + GRANT_ENTRY_FRAME);
  return { header: header & ~STATUS_BITS, frame, status: header & STATUS_BITS };
}

/** The change itself. Status frames that the table had are on the hold list, for the caller to free after a flush. */
function changeVersion(xen: Xen, { domid, slot }: Caller, wanted: number): number {
  const frames = domainField(xen, domid, DOM.GRANT_FRAMES);
  if (wanted === 2) {
    const added = addStatusFrames(xen, domid, 0, statusFramesFor(frames));
    if (added !== 0) return added;
  }
  const kept = Array.from({ length: GNTTAB_NR_RESERVED_ENTRIES }, (_, ref) =>
    readReserved(xen, domid, ref),
  );
  for (let n = 0; n < frames; n++) xen.memory.zero(grantFrame(xen, domid, n));
  if (wanted === 1) {
    for (let n = statusFrames(xen, domid) - 1; n >= 0; n--) {
      holdXenPage(xen, slot, statusFrame(xen, domid, n), domid);
    }
  }
  setDomainField(xen, domid, DOM.GRANT_VERSION, wanted);
  const table = grantFrame(xen, domid, 0);
  for (const [ref, { header, frame, status }] of kept.entries()) {
    if ((header & GTF_type_mask) !== GTF_permit_access) continue;
    if (wanted === 2) {
      orStatus(xen, domid, ref, status);
      xen.memory.store(table, ref * GRANT_ENTRY_BYTES_V2 + 8, frame);
      xen.memory.store(table, ref * GRANT_ENTRY_BYTES_V2, header | 0);
    } else {
      xen.memory.store(table, ref * GRANT_ENTRY_BYTES + GRANT_ENTRY_FRAME, frame);
      xen.memory.store(table, ref * GRANT_ENTRY_BYTES, header | status | 0);
    }
  }
  return 0;
}
