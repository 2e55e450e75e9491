/**
 * Invariants of event channels: pairs of ports, the FIFO ABI and its queues, vCPUs that poll.
 * Rules: as audit.ts. The words of an event array are its guest's too: the queues are judged only for guests that behave.
 */
import {
  EVTCHN_FIFO_BUSY,
  EVTCHN_FIFO_LINK_MASK,
  EVTCHN_FIFO_LINKED,
  FIFO_CONTROL_BLOCK_SIZE,
} from "../shared/abi/event-channel.ts";
import { at } from "../shared/assert.ts";
import { DOM, LINE, MACHINE } from "../shared/layout.ts";
import {
  EVTCHN_FIFO_ARRAY_PAGES,
  EVTCHN_FIFO_QUEUES,
  NOT_PRESENT,
  PAGE_SIZE,
  VCPUS_MAX,
} from "../shared/limits.ts";
import type { DomId } from "../shared/units.ts";
import type { Census } from "./audit-census.ts";
import {
  arrayPages,
  controlFrame,
  controlOffset,
  isFifo,
  queueTail,
  wordFrame,
  wordOffset,
} from "./event-fifo-array.ts";
import {
  ECS_FREE,
  ECS_INTERDOMAIN,
  isValidPort,
  portLastQueue,
  portRemoteDomain,
  portRemotePort,
  portState,
} from "./event-ports.ts";
import { POLL_NONE } from "./event-upcall.ts";
import { domainField, GAP_POLL, isDying, isPresent, lineField, type Xen } from "./xen.ts";

/** An interdomain port's peer points back at it; a dying domain's ports vanish one by one from the top. */
export function eventPairs(xen: Xen, census: Census): string[] {
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

/** A port beyond those whose storage has been set up is nobody's. */
export function validPorts(xen: Xen, census: Census): string[] {
  return census.domains.flatMap((domid) => {
    const findings: string[] = [];
    const valid = domainField(xen, domid, DOM.VALID_EVTCHNS);
    for (let port = valid; port < xen.model.limits.ports; port++) {
      if (portState(xen, domid, port) === ECS_FREE) continue;
      findings.push(`port ${port} of domain ${domid} is in use, and ${valid} ports are valid`);
    }
    return findings;
  });
}

/** What only the hypervisor writes of the FIFO ABI lies within its bounds. References are counted by the census. */
export function fifoState(xen: Xen, census: Census): string[] {
  return census.domains
    .filter((domid) => isFifo(xen, domid))
    .flatMap((domid) => [...fifoBlocks(xen, domid), ...fifoTails(xen, domid)]);
}

function fifoBlocks(xen: Xen, domid: DomId): string[] {
  const findings: string[] = [];
  if (arrayPages(xen, domid) > EVTCHN_FIFO_ARRAY_PAGES) {
    return [`the event array of domain ${domid} has ${arrayPages(xen, domid)} pages`];
  }
  for (let vcpu = 0; vcpu < VCPUS_MAX; vcpu++) {
    if (controlFrame(xen, domid, vcpu) === NOT_PRESENT) continue;
    const offset = controlOffset(xen, domid, vcpu);
    const isInside =
      offset >= 0 && offset % 8 === 0 && offset <= PAGE_SIZE - FIFO_CONTROL_BLOCK_SIZE;
    if (!isInside) {
      findings.push(`the control block of vCPU ${vcpu} of domain ${domid} is at offset ${offset}`);
    }
    if (vcpu >= domainField(xen, domid, DOM.VCPUS)) {
      findings.push(`domain ${domid} has a control block for vCPU ${vcpu}, which does not exist`);
    }
  }
  return findings;
}

/** The tail of a queue has an event word, and was last linked into that queue. */
function fifoTails(xen: Xen, domid: DomId): string[] {
  const findings: string[] = [];
  for (let queue = 0; queue < VCPUS_MAX * EVTCHN_FIFO_QUEUES; queue++) {
    const tail = queueTail(xen, domid, queue);
    if (tail === 0) continue;
    const inArray = wordFrame(xen, domid, tail) !== undefined && tail < xen.model.limits.ports;
    if (!inArray || portLastQueue(xen, domid, tail) !== queue) {
      findings.push(`port ${tail} of domain ${domid} is the tail of queue ${queue} and not in it`);
    }
  }
  return findings;
}

/** A guest that behaves: each linked port follows at most one other, links end at linked ports, nothing is busy. */
export function fifoQueues(
  xen: Xen,
  census: Census,
  hostile: (domid: number) => boolean,
): string[] {
  return census.domains
    .filter((domid) => isFifo(xen, domid) && !hostile(domid))
    .flatMap((domid) => fifoLinks(xen, domid));
}

function fifoLinks(xen: Xen, domid: DomId): string[] {
  const findings: string[] = [];
  const followed = new Set<number>();
  const word = (port: number): number => {
    const frame = wordFrame(xen, domid, port);
    return frame === undefined ? 0 : xen.memory.load(frame, wordOffset(port));
  };
  for (let port = 1; isValidPort(xen, domid, port); port++) {
    const value = word(port);
    if ((value & EVTCHN_FIFO_BUSY) !== 0) {
      findings.push(`the event word of port ${port} of domain ${domid} stayed busy`);
    }
    const next = value & EVTCHN_FIFO_LINK_MASK;
    if ((value & EVTCHN_FIFO_LINKED) === 0 || next === 0) continue;
    if ((word(next) & EVTCHN_FIFO_LINKED) === 0) {
      findings.push(`port ${port} of domain ${domid} links to port ${next}, which is not linked`);
    }
    if (followed.has(next)) findings.push(`two ports of domain ${domid} link to port ${next}`);
    followed.add(next);
  }
  return findings;
}

/** A slot polls exactly while its handler stands at the gap for it, and they are counted. */
export function pollers(xen: Xen): string[] {
  const findings: string[] = [];
  let count = 0;
  for (let slot = 0; slot < xen.model.limits.slots; slot++) {
    const polls = lineField(xen, slot, LINE.POLL) !== POLL_NONE;
    const waits = xen.pending[slot] !== undefined && xen.gaps[slot] === GAP_POLL;
    if (polls) count++;
    if (polls !== waits)
      findings.push(`slot ${slot} ${polls ? "polls" : "waits"} without a handler`);
  }
  const counted = at(xen.words, MACHINE.POLLERS);
  if (counted !== count) findings.push(`${counted} vCPUs are said to poll, ${count} do`);
  return findings;
}
