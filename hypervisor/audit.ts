/**
 * The invariants of the whole machine, recounted from nothing. An empty list of findings: the machine is consistent.
 *
 * Rules: it may run between any two handlers, also while others stand at a gap, whose hold lists it counts; it writes
 * nothing. Each invariant is one function in audit-*.ts. A finding that begins with `KNOWN_FINDING` is a hole that the
 * recorded Xen has as well. Words that a guest may write are judged only for guests that behave.
 * Ours; the list is that of hypervisor spec section 9 and stress spec section 4.
 */

import { DOM } from "../shared/layout.ts";
import { type Census, takeCensus } from "./audit-census.ts";
import {
  claims,
  domainReferences,
  frameCounts,
  frameOwners,
  pageLists,
  pools,
  xenHeap,
  xenHeapGfns,
} from "./audit-frames.ts";
import {
  grantees,
  granters,
  handleLists,
  identityEntries,
  pins,
  statusBits,
} from "./audit-grants.ts";
import {
  deadDomains,
  directMap,
  openAccesses,
  p2mEntries,
  tablePages,
  translations,
  walkers,
} from "./audit-walkers.ts";
import {
  ECS_FREE,
  ECS_INTERDOMAIN,
  isValidPort,
  portRemoteDomain,
  portRemotePort,
  portState,
} from "./event-ports.ts";
import { domainField, isDying, isPresent, type Xen } from "./xen.ts";

type Invariant = (xen: Xen, census: Census) => string[];

/** Every invariant that is judged whatever the guests do, by name. */
const INVARIANTS: Readonly<Record<string, Invariant>> = {
  frameCounts,
  frameOwners,
  pageLists,
  pools,
  xenHeap,
  xenHeapGfns,
  domainReferences,
  claims,
  pins,
  grantees,
  granters,
  handleLists,
  identityEntries,
  p2mEntries,
  directMap,
  translations,
  openAccesses,
  walkers,
  tablePages,
  deadDomains,
  eventPairs,
};

export interface AuditOptions {
  /** Domains whose guests may write anything: their grant flags are not judged. Nobody, unless told. */
  readonly hostile?: (domid: number) => boolean;
}

const nobody = (): boolean => false;

/** Recounts everything. */
export function audit(xen: Xen, options: AuditOptions = {}): string[] {
  const census = takeCensus(xen);
  const found = Object.values(INVARIANTS).flatMap((invariant) => invariant(xen, census));
  return [...found, ...statusBits(xen, census, options.hostile ?? nobody)];
}

/** An interdomain port's peer points back at it; a dying domain's ports vanish one by one from the top. */
function eventPairs(xen: Xen, census: Census): string[] {
  return census.domains.flatMap((domid) => {
    const findings: string[] = [];
    const valid = domainField(xen, domid, DOM.VALID_EVTCHNS);
    for (let port = 0; port < valid; port++) {
      if (portState(xen, domid, port) !== ECS_INTERDOMAIN) continue;
      const peer = portRemoteDomain(xen, domid, port);
      const back = portRemotePort(xen, domid, port);
      const paired =
        isPresent(xen, peer) &&
        isValidPort(xen, peer, back) &&
        portState(xen, peer, back) === ECS_INTERDOMAIN &&
        portRemoteDomain(xen, peer, back) === domid &&
        portRemotePort(xen, peer, back) === port;
      if (!paired)
        findings.push(
          `port ${port} of domain ${domid} and port ${back} of domain ${peer} are no pair`,
        );
    }
    if (valid > 0 && !isDying(xen, domid) && portState(xen, domid, 0) === ECS_FREE) {
      findings.push(`port 0 of domain ${domid} is free`);
    }
    return findings;
  });
}
