/**
 * The census: what all tables together say about each frame, each pin and each domain, counted from nothing.
 *
 * Rule: it reads the tables and never the counters that the invariants compare it with. Linear in frames and entries in
 * use. At a gap of some handler its hold list counts as a holder.
 * Ours; the counting rules are those of hypervisor spec 4.9 and 7.2.
 */
import { GNTMAP_device_map, GNTMAP_host_map, GNTMAP_readonly } from "../shared/abi/grant.ts";
import { HOLD_TABLE_PAGE, HOLD_UNMAP } from "../shared/hold-layout.ts";
import { DOM } from "../shared/layout.ts";
import { isForeign } from "../shared/pte.ts";
import { DomId } from "../shared/units.ts";
import { activeFrame, grantEntries, pinIncrement } from "./active-entry.ts";
import { countPv, type PvLeaf } from "./audit-pv.ts";
import { fifoFrames } from "./event-fifo-array.ts";
import { isAllocated, isRamFrame } from "./frame-table.ts";
import { type Hold, holdsOf } from "./hold-list.ts";
import { trackDomid, trackFlags, trackRef } from "./maptrack.ts";
import { scanP2m } from "./p2m-scan.ts";
import { isPv } from "./page-type.ts";
import { domainField, isPresent, slotDomain, type Xen } from "./xen.ts";

/** One entry of a P2M in use. */
export interface Leaf {
  readonly domid: DomId;
  readonly gfn: number;
  readonly frame: number;
  readonly type: number;
  readonly order: number;
}

/** One live handle. */
export interface Handle {
  readonly mapper: DomId;
  readonly handle: number;
  readonly granter: DomId;
  readonly ref: number;
  /** Frame of the granter's active entry, or -1 when granter or reference do not exist. */
  readonly frame: number;
  readonly readonly: boolean;
  /** Which halves are mapped; a device half alone is a PV matter. */
  readonly host: boolean;
  readonly device: boolean;
}

export interface SlotHold extends Hold {
  readonly slot: number;
  readonly mapper: DomId;
}

export interface Census {
  readonly domains: readonly DomId[];
  readonly leaves: readonly Leaf[];
  readonly handles: readonly Handle[];
  readonly holds: readonly SlotHold[];
  /** Table pages below the root that a walk of each domain meets: table pages by domid. */
  readonly tables: ReadonlyMap<number, number>;
  /** References that each RAM frame should have. */
  readonly references: Int32Array;
  /** Type references that each RAM frame should have; empty in a machine without PV domains. */
  readonly types: Int32Array;
  /** Entries of PV guests' page tables that map pages. */
  readonly ptes: readonly PvLeaf[];
  /** Pin that each active entry should have, by `entryKey`. Absent: 0. */
  readonly pins: ReadonlyMap<number, number>;
}

/** More references than a grant table can have. */
export const REFS = 2 ** 20;
/** Names an active entry in `Census.pins`. */
export const entryKey = (granter: number, ref: number): number => granter * REFS + ref;

/** The part of a census that open accesses are judged by; the tables are walked only for who asks for their entries. */
export function takeHolders(xen: Xen): Pick<Census, "handles" | "holds" | "leaves"> {
  const domains = domainsOf(xen);
  return {
    handles: domains.flatMap((domid) => handlesOf(xen, domid)),
    holds: slotHolds(xen),
    get leaves() {
      return walkTables(xen, domains).leaves;
    },
  };
}

export function takeCensus(xen: Xen): Census {
  const domains = domainsOf(xen);
  const { leaves, tables } = walkTables(xen, domains);
  const handles = domains.flatMap((domid) => handlesOf(xen, domid));
  const holds = slotHolds(xen);
  const references = countReferences(xen, { domains, leaves, handles, holds });
  const { types, ptes } = countPv(xen, handles, holds, references);
  return {
    domains,
    leaves,
    handles,
    holds,
    tables,
    references,
    types,
    ptes,
    pins: countPins(handles, holds),
  };
}

const domainsOf = (xen: Xen): readonly DomId[] =>
  Array.from({ length: xen.model.limits.domains }, (_, id) => DomId(id)).filter((id) =>
    isPresent(xen, id),
  );

function walkTables(xen: Xen, domains: readonly DomId[]): Pick<Census, "leaves" | "tables"> {
  const leaves: Leaf[] = [];
  const tables = new Map<number, number>();
  for (const domid of domains) {
    scanP2m(
      xen,
      domid,
      0,
      (gfn, frame, type, order) => leaves.push({ domid, gfn, frame, type, order }) > 0,
      () => tables.set(domid, (tables.get(domid) ?? 0) + 1),
    );
  }
  return { leaves, tables };
}

const slotHolds = (xen: Xen): readonly SlotHold[] =>
  Array.from({ length: xen.model.limits.slots }, (_, slot) =>
    holdsOf(xen, slot).map((hold) => ({ ...hold, slot, mapper: slotDomain(xen, slot) })),
  ).flat();

function handlesOf(xen: Xen, mapper: DomId): readonly Handle[] {
  const found: Handle[] = [];
  const limit = domainField(xen, mapper, DOM.MAPTRACK_LIMIT);
  for (let handle = 0; handle < limit; handle++) {
    const flags = trackFlags(xen, mapper, handle);
    const host = (flags & GNTMAP_host_map) !== 0;
    const device = (flags & GNTMAP_device_map) !== 0;
    if (!host && !device) continue;
    const granter = trackDomid(xen, mapper, handle);
    const ref = trackRef(xen, mapper, handle);
    const exists = isPresent(xen, granter) && ref >= 0 && ref < grantEntries(xen, granter);
    const frame = exists ? activeFrame(xen, granter, ref) : -1;
    const readonly = (flags & GNTMAP_readonly) !== 0;
    found.push({ mapper, handle, granter, ref, frame, readonly, host, device });
  }
  return found;
}

/** Everything that refers to a frame. */
function countReferences(
  xen: Xen,
  { domains, leaves, handles, holds }: Pick<Census, "domains" | "leaves" | "handles" | "holds">,
): Int32Array {
  const references = new Int32Array(xen.layout.ramFrames);
  const count = (frame: number): void => {
    if (isRamFrame(xen, frame)) references[frame] = (references[frame] ?? 0) + 1;
  };
  for (let frame = 0; frame < xen.layout.ramFrames; frame++)
    if (isAllocated(xen, frame)) count(frame);
  for (const domid of domains) for (const frame of fifoFrames(xen, domid)) count(frame);
  for (const { mapper, frame, host, device } of handles) {
    // A PV guest's host half is an entry of its page tables, which is counted there.
    if (host && !isPv(xen, mapper)) count(frame);
    if (device) count(frame);
  }
  // A table page of Xen's has no references at all.
  for (const { frame, kind } of holds) if (kind !== HOLD_TABLE_PAGE) count(frame);
  for (const { frame, type } of leaves) if (isForeign(type)) count(frame);
  return references;
}

function countPins(
  handles: readonly Handle[],
  holds: readonly Hold[],
): ReadonlyMap<number, number> {
  const pins = new Map<number, number>();
  const count = (granter: number, ref: number, increment: number): void => {
    const key = entryKey(granter, ref);
    pins.set(key, ((pins.get(key) ?? 0) + increment) | 0);
  };
  for (const { granter, ref, readonly, host, device } of handles) {
    count(granter, ref, pinIncrement(readonly, host, device));
  }
  for (const { kind, granter, ref, readonly, device } of holds) {
    if (kind === HOLD_UNMAP) count(granter, ref, pinIncrement(readonly, !device, device));
  }
  return pins;
}
