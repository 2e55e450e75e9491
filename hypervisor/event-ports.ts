/**
 * The port table of each domain: one row of four columns a port. A port is named by its domain and number.
 *
 *   state         remoteDomain            remotePort
 *   free
 *   reserved      (port 0)
 *   unbound       who may bind it
 *   interdomain   the peer                the peer's port
 *   virq                                  VIRQ number
 *   ipi
 *
 * A fifth column packs what the FIFO ABI keeps of a port: its priority, the queue that it was last linked into, and
 * whether an event waits for its page of the event array.
 *
 * Rules: only the hypervisor writes here. A port is valid when its bucket is set up, whatever its state.
 * Behaviour: xen/common/event_channel.c, evtchn_allocate_port(), get_free_port(), evtchn_free().
 */
import {
  EVTCHN_FIFO_PRIORITY_DEFAULT,
  VIRQ_DEBUG,
  VIRQ_TIMER,
  VIRQ_XENOPROF,
  VIRQ_XENPMU,
} from "../shared/abi/event-channel.ts";
import { at } from "../shared/assert.ts";
import { DOM } from "../shared/layout.ts";
import { EVTCHN_2L_PORTS, EVTCHN_FIFO_PORTS, EVTCHNS_PER_BUCKET } from "../shared/limits.ts";
import { EINVAL, ENOSPC } from "../shared/status.ts";
import type { DomId } from "../shared/units.ts";
import { initFifoColumns, isFifo, isLinked } from "./event-fifo-array.ts";
import { domainField, isDying, setDomainField, type Xen } from "./xen.ts";

export const ECS_FREE = 0;
export const ECS_RESERVED = 1;
export const ECS_UNBOUND = 2;
export const ECS_INTERDOMAIN = 3;
export const ECS_PIRQ = 4;
export const ECS_VIRQ = 5;
export const ECS_IPI = 6;

/** Virq ports have no peer: the column of the remote port holds the VIRQ number. */
const NO_DOMAIN = -1;

const rowOf = (xen: Xen, domid: number, port: number): number =>
  domid * xen.model.limits.ports + port;

export const portState = (xen: Xen, domid: number, port: number): number =>
  at(xen.words, xen.layout.portState + rowOf(xen, domid, port));
/** vCPU that is notified. */
export const portVcpu = (xen: Xen, domid: number, port: number): number =>
  at(xen.words, xen.layout.portVcpu + rowOf(xen, domid, port));
/** Domain at the other end of an interdomain port, or the one that may bind an unbound port. */
export const portRemoteDomain = (xen: Xen, domid: number, port: number): number =>
  at(xen.words, xen.layout.portRemoteDomain + rowOf(xen, domid, port));
/** Port at the other end; the VIRQ number of a virq port. */
export const portRemotePort = (xen: Xen, domid: number, port: number): number =>
  at(xen.words, xen.layout.portRemotePort + rowOf(xen, domid, port));

export function setPortVcpu(xen: Xen, domid: number, port: number, vcpu: number): void {
  xen.words[xen.layout.portVcpu + rowOf(xen, domid, port)] = vcpu;
}

/** Gives a port its state and what the state refers to; the notified vCPU stays. */
export function bindPort(
  xen: Xen,
  domid: number,
  port: number,
  state: number,
  remoteDomain = NO_DOMAIN,
  remotePort = 0,
): void {
  const row = rowOf(xen, domid, port);
  xen.words[xen.layout.portRemoteDomain + row] = remoteDomain;
  xen.words[xen.layout.portRemotePort + row] = remotePort;
  xen.words[xen.layout.portState + row] = state;
}

const PRIORITY = 0xf;
const SAVED = 1 << 4;
const LAST_SHIFT = 8;

const fifoWord = (xen: Xen, domid: number, port: number): number =>
  at(xen.words, xen.layout.portFifo + rowOf(xen, domid, port));
function setFifoWord(xen: Xen, domid: number, port: number, word: number): void {
  xen.words[xen.layout.portFifo + rowOf(xen, domid, port)] = word;
}

/** Priority that the next link operation goes by: 0 is the highest. */
export const portPriority = (xen: Xen, domid: number, port: number): number =>
  fifoWord(xen, domid, port) & PRIORITY;
export function setPortPriority(xen: Xen, domid: number, port: number, priority: number): void {
  setFifoWord(xen, domid, port, (fifoWord(xen, domid, port) & ~PRIORITY) | priority);
}
/** Whether an event waits for the page of its event word. */
export const isEventSaved = (xen: Xen, domid: number, port: number): boolean =>
  (fifoWord(xen, domid, port) & SAVED) !== 0;
export function saveEvent(xen: Xen, domid: number, port: number): void {
  setFifoWord(xen, domid, port, fifoWord(xen, domid, port) | SAVED);
}
/** Number of the queue in its domain that the port was last linked into: priority, and vCPU above it. */
export const portLastQueue = (xen: Xen, domid: number, port: number): number =>
  fifoWord(xen, domid, port) >>> LAST_SHIFT;
export function setPortLastQueue(xen: Xen, domid: number, port: number, queue: number): void {
  const rest = fifoWord(xen, domid, port) & (PRIORITY | SAVED);
  setFifoWord(xen, domid, port, rest | (queue << LAST_SHIFT));
}

/** Whether a port number has storage; says nothing about its state. */
export const isValidPort = (xen: Xen, domid: number, port: number): boolean =>
  port < domainField(xen, domid, DOM.VALID_EVTCHNS);

/** A new domain's ports: one bucket, port 0 reserved for ever. */
export function initEventChannels(xen: Xen, domid: DomId): void {
  const { words, layout } = xen;
  const { ports } = xen.model.limits;
  for (const column of [layout.portState, layout.portVcpu, layout.portRemotePort]) {
    words.fill(0, column + rowOf(xen, domid, 0), column + rowOf(xen, domid, ports));
  }
  const remotes = layout.portRemoteDomain;
  words.fill(NO_DOMAIN, remotes + rowOf(xen, domid, 0), remotes + rowOf(xen, domid, ports));
  setDomainField(xen, domid, DOM.VALID_EVTCHNS, Math.min(EVTCHNS_PER_BUCKET, ports));
  setDomainField(xen, domid, DOM.NEXT_EVTCHN, 0);
  const fifo = layout.portFifo;
  const unused = EVTCHN_FIFO_PRIORITY_DEFAULT;
  words.fill(unused, fifo + rowOf(xen, domid, 0), fifo + rowOf(xen, domid, ports));
  initFifoColumns(xen, domid);
  bindPort(xen, domid, 0, ECS_RESERVED);
}

/** Ports that a domain may use: the bound of its creation and that of the ABI, which is evaluated at use. */
const portLimit = (xen: Xen, domid: number): number =>
  Math.min(
    domainField(xen, domid, DOM.MAX_EVTCHN_PORT) + 1,
    isFifo(xen, domid) ? EVTCHN_FIFO_PORTS : EVTCHN_2L_PORTS,
    xen.model.limits.ports,
  );

/**
 * Lowest free port, not yet bound to anything, or -EINVAL (dying) or -ENOSPC. A port whose event word is still in a
 * queue of its guest is not free.
 */
export function getFreePort(xen: Xen, domid: DomId): number {
  if (isDying(xen, domid)) return -EINVAL;
  const limit = portLimit(xen, domid);
  const valid = domainField(xen, domid, DOM.VALID_EVTCHNS);
  for (let port = 0; port < limit; port++) {
    if (port < valid) {
      if (portState(xen, domid, port) === ECS_FREE && !isLinked(xen, domid, port)) return port;
      continue;
    }
    const grown = Math.min(valid + EVTCHNS_PER_BUCKET, xen.model.limits.ports);
    setDomainField(xen, domid, DOM.VALID_EVTCHNS, grown);
    return port;
  }
  return -ENOSPC;
}

/** The port of `domid` that a VIRQ is bound to on a vCPU; 0: none. */
export function virqPort(xen: Xen, domid: number, virq: number, vcpu: number): number {
  const valid = domainField(xen, domid, DOM.VALID_EVTCHNS);
  for (let port = 1; port < valid; port++) {
    if (portState(xen, domid, port) !== ECS_VIRQ) continue;
    if (portRemotePort(xen, domid, port) === virq && boundVcpu(xen, domid, port, virq) === vcpu) {
      return port;
    }
  }
  return 0;
}

/** bind_vcpu moves the notification of a global VIRQ only: it stays bound on vCPU 0. */
const boundVcpu = (xen: Xen, domid: number, port: number, virq: number): number =>
  isGlobalVirq(virq) ? 0 : portVcpu(xen, domid, port);

const PER_VCPU_VIRQS: readonly number[] = [VIRQ_TIMER, VIRQ_DEBUG, VIRQ_XENOPROF, VIRQ_XENPMU];

/** TIMER, DEBUG, XENOPROF and XENPMU are per vCPU; all others, unassigned numbers too, are bound on vCPU 0. */
export const isGlobalVirq = (virq: number): boolean => !PER_VCPU_VIRQS.includes(virq);
