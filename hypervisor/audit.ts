/**
 * The invariants of the whole machine, recounted from nothing. An empty list of findings: the machine is consistent.
 *
 * Rules: it may run between any two handlers, also while others stand at a gap, whose hold lists it counts; it writes
 * nothing. Each invariant is one function in audit-*.ts. A finding that begins with `KNOWN_FINDING` is a hole that the
 * recorded Xen has as well. Words that a guest may write are judged only for guests that behave.
 * Ours; the list is that of hypervisor spec section 9 and stress spec section 4.
 */

import { countBounds, heldByHandlers } from "./audit-bounds.ts";
import { type Census, takeCensus } from "./audit-census.ts";
import { eventPairs, fifoQueues, fifoState, pollers, validPorts } from "./audit-events.ts";
import {
  allocations,
  claims,
  domainReferences,
  frameCounts,
  frameOwners,
  pageLists,
  pools,
  singleGfns,
  xenHeap,
  xenHeapGfns,
} from "./audit-frames.ts";
import {
  grantees,
  granters,
  grantFrames,
  handleLists,
  identityEntries,
  pins,
  statusBits,
} from "./audit-grants.ts";
import { contexts, ownTables } from "./audit-iommu.ts";
import {
  foreignPtes,
  machineToPhys,
  pvTranslations,
  tablesReadOnly,
  typeCounts,
} from "./audit-page-types.ts";
import {
  deadDomains,
  directMap,
  openAccesses,
  p2mEntries,
  tablePages,
  translations,
  walkers,
} from "./audit-walkers.ts";
import type { Xen } from "./xen.ts";

type Invariant = (xen: Xen, census: Census) => string[];

/** Every invariant that is judged whatever the guests do, by name. */
export const INVARIANTS: Readonly<Record<string, Invariant>> = {
  allocations,
  countBounds,
  heldByHandlers,
  frameCounts,
  frameOwners,
  pageLists,
  pools,
  xenHeap,
  xenHeapGfns,
  singleGfns,
  domainReferences,
  claims,
  pins,
  grantees,
  granters,
  grantFrames,
  handleLists,
  identityEntries,
  ownTables,
  contexts,
  p2mEntries,
  directMap,
  translations,
  openAccesses,
  walkers,
  tablePages,
  deadDomains,
  typeCounts,
  tablesReadOnly,
  foreignPtes,
  machineToPhys,
  pvTranslations,
  eventPairs,
  validPorts,
  fifoState,
  pollers,
};

type GuestInvariant = (xen: Xen, census: Census, hostile: (domid: number) => boolean) => string[];

/** Invariants of words that guests write too, by name. */
export const GUEST_INVARIANTS: Readonly<Record<string, GuestInvariant>> = {
  statusBits,
  fifoQueues,
};

export interface AuditOptions {
  /** Domains whose guests may write anything: their grant flags and event words are not judged. Nobody, unless told. */
  readonly hostile?: (domid: number) => boolean;
}

const nobody = (): boolean => false;

/** Recounts everything. */
export function audit(xen: Xen, options: AuditOptions = {}): string[] {
  const census = takeCensus(xen);
  const found = Object.values(INVARIANTS).flatMap((invariant) => invariant(xen, census));
  const hostile = options.hostile ?? nobody;
  return [
    ...found,
    ...Object.values(GUEST_INVARIANTS).flatMap((invariant) => invariant(xen, census, hostile)),
  ];
}
