/**
 * Ports end: closed by their owner, all at once by a reset, or in stages when their domain dies.
 *
 * Rules: a closed interdomain port leaves its peer unbound, and only the domain that closed may bind that again; no
 * event tells the peer. The pending bit of a freed port is cleared, its mask bit is not. A reset, and a domain's death,
 * leave the FIFO ABI when all ports are closed.
 * Behaviour: xen/common/event_channel.c, evtchn_close(), evtchn_reset(), evtchn_destroy().
 */
import { EVTCHN_FIFO_PRIORITY_DEFAULT } from "../shared/abi/event-channel.ts";
import { DOM, PAUSED_FOR_SHUTDOWN } from "../shared/layout.ts";
import { EVTCHNS_PER_BUCKET } from "../shared/limits.ts";
import { EAGAIN, EBUSY, EINVAL } from "../shared/status.ts";
import type { DomId } from "../shared/units.ts";
import { clearPending } from "./event-delivery.ts";
import { leaveFifo } from "./event-fifo-array.ts";
import {
  bindPort,
  ECS_FREE,
  ECS_INTERDOMAIN,
  ECS_RESERVED,
  ECS_UNBOUND,
  isValidPort,
  portRemoteDomain,
  portRemotePort,
  portState,
  setPortPriority,
  setPortVcpu,
} from "./event-ports.ts";
import {
  type Caller,
  domainField,
  GAP_PREEMPT,
  isPresent,
  type Preemptible,
  setDomainField,
  type Xen,
} from "./xen.ts";

/** Closes one port. -EINVAL: no such port, or it is free or reserved. */
export function closePort(xen: Xen, domid: DomId, port: number): number {
  if (!isValidPort(xen, domid, port)) return -EINVAL;
  const state = portState(xen, domid, port);
  if (state === ECS_FREE || state === ECS_RESERVED) return -EINVAL;
  if (state === ECS_INTERDOMAIN) {
    const peer = portRemoteDomain(xen, domid, port);
    bindPort(xen, peer, portRemotePort(xen, domid, port), ECS_UNBOUND, domid);
  }
  clearPending(xen, domid, port);
  bindPort(xen, domid, port, ECS_FREE);
  setPortVcpu(xen, domid, port, 0);
  setPortPriority(xen, domid, port, EVTCHN_FIFO_PRIORITY_DEFAULT);
  return 0;
}

/**
 * EVTCHNOP_reset: closes every port of `domid`. Another domain must be paused by its controller (-EINVAL), and one
 * reset runs at a time (-EBUSY). -EAGAIN: ports have been bound meanwhile. `resuming` is the continuation, which a guest may utter but never owns.
 */
export function resetPorts(
  xen: Xen,
  caller: Caller,
  domid: DomId,
  resuming: boolean,
): number | Preemptible {
  const paused = (domainField(xen, domid, DOM.PAUSE) & ~PAUSED_FOR_SHUTDOWN) > 0;
  if (domid !== caller.domid && !paused) return -EINVAL;
  if (resuming || domainField(xen, domid, DOM.NEXT_EVTCHN) !== 0) return -EBUSY;
  return closeForReset(xen, domid);
}

function* closeForReset(xen: Xen, domid: DomId): Preemptible {
  const generation = domainField(xen, domid, DOM.GENERATION);
  for (let port = 1; isValidPort(xen, domid, port); port++) {
    closePort(xen, domid, port);
    if (port % EVTCHNS_PER_BUCKET !== 0) continue;
    setDomainField(xen, domid, DOM.NEXT_EVTCHN, port + 1);
    yield GAP_PREEMPT;
    // Meanwhile the domain may have gone, or died: then its ports are none of this caller's business.
    const same = isPresent(xen, domid) && domainField(xen, domid, DOM.GENERATION) === generation;
    if (!same) return 0;
  }
  setDomainField(xen, domid, DOM.NEXT_EVTCHN, 0);
  // A port that was bound while the reset had let go is not its own to close.
  if (hasOpenPort(xen, domid)) return -EAGAIN;
  leaveFifo(xen, domid);
  return 0;
}

function hasOpenPort(xen: Xen, domid: DomId): boolean {
  for (let port = 1; isValidPort(xen, domid, port); port++) {
    if (portState(xen, domid, port) !== ECS_FREE) return true;
  }
  return false;
}

/** Teardown: closes up to `limit` ports from the top; true when none is left. A dying domain gets no new ones. */
export function closeAllPorts(xen: Xen, domid: DomId, limit: number): boolean {
  for (let closed = 0; closed < limit; closed++) {
    const port = domainField(xen, domid, DOM.VALID_EVTCHNS) - 1;
    if (port <= 0) break;
    closePort(xen, domid, port);
    setDomainField(xen, domid, DOM.VALID_EVTCHNS, port);
  }
  if (domainField(xen, domid, DOM.VALID_EVTCHNS) > 1) return false;
  leaveFifo(xen, domid);
  return true;
}
