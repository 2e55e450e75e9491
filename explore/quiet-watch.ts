/**
 * What is looked at beside the hypervisor's tables: what has become of a walker's cached translations when it became
 * another domain's, and whether somebody sleeps although an event has come for it.
 *
 * Rule: each finding is `I-nn: sentence`; nothing is changed. Ours; stress spec section 4 (I-27, I-38).
 */
import { wordFrame, wordOffset } from "../hypervisor/event-fifo-array.ts";
import { ECS_RESERVED, isValidPort, portState, portVcpu } from "../hypervisor/event-ports.ts";
import { domainField, isDying, lineField, slotDomain, type Xen } from "../hypervisor/xen.ts";
import { EVTCHN_FIFO_MASKED, EVTCHN_FIFO_PENDING } from "../shared/abi/event-channel.ts";
import { SHARED_INFO_EVTCHN_MASK, SHARED_INFO_EVTCHN_PENDING } from "../shared/abi/xen.ts";
import { DOM, LINE, SLOT_KIND_VCPU } from "../shared/layout.ts";
import { FrameIndex } from "../shared/units.ts";
import type { Machine } from "./state.ts";

/**
 * Watches the tag of every walker's cached translations, which is the domain that the walker belongs to: a walker that
 * comes to another domain with what it has cached in the former one is found at that step.
 */
export function tagWatch(xen: Xen): () => readonly string[] {
  const { slots } = xen.model.limits;
  const domains = new Int32Array(slots);
  const generations = new Int32Array(slots);
  for (let slot = 0; slot < slots; slot++) remember(slot);

  function remember(slot: number): void {
    domains[slot] = lineField(xen, slot, LINE.DOMAIN);
    generations[slot] = lineField(xen, slot, LINE.GENERATION);
  }

  return () => {
    let findings = NOTHING;
    for (let slot = 0; slot < slots; slot++) {
      const domid = lineField(xen, slot, LINE.DOMAIN);
      const former = domains[slot];
      if (domid === former) continue;
      const cached = lineField(xen, slot, LINE.INSIDE_GENERATION);
      const isFlushed = lineField(xen, slot, LINE.GENERATION) !== cached;
      remember(slot);
      if (isFlushed) continue;
      const text = `I-38: slot ${slot} is now domain ${domid}'s with what it has cached as domain ${former}'s`;
      findings = [...findings, text];
    }
    return findings;
  };
}

const NOTHING: readonly string[] = [];

/** vCPUs that sleep when nobody can move any more, and have a port that is pending and not masked. */
export function sleepersWithEvents(machine: Machine): readonly string[] {
  const { xen } = machine;
  return machine.actors.flatMap((actor) => {
    if (actor?.state !== "blocked" || !isRunningVcpu(xen, actor.slot)) return [];
    const domid = slotDomain(xen, actor.slot);
    const vcpu = lineField(xen, actor.slot, LINE.NUMBER);
    for (let port = 1; isValidPort(xen, domid, port); port++) {
      if (portState(xen, domid, port) <= ECS_RESERVED) continue;
      if (portVcpu(xen, domid, port) !== vcpu || !isDeliverable(xen, domid, port)) continue;
      return [`I-27: ${actor.part.name} sleeps, and its port ${port} is pending and not masked`];
    }
    return [];
  });
}

const isRunningVcpu = (xen: Xen, slot: number): boolean =>
  lineField(xen, slot, LINE.KIND) === SLOT_KIND_VCPU &&
  !isDying(xen, slotDomain(xen, slot)) &&
  domainField(xen, slotDomain(xen, slot), DOM.PAUSE) === 0;

/** Read as it is: nobody steps in here. */
function isDeliverable(xen: Xen, domid: number, port: number): boolean {
  if (domainField(xen, domid, DOM.FIFO) !== 0) {
    const frame = wordFrame(xen, domid, port);
    if (frame === undefined) return false;
    const word = xen.memory.load(frame, wordOffset(port));
    return (word & (EVTCHN_FIFO_PENDING | EVTCHN_FIFO_MASKED)) === EVTCHN_FIFO_PENDING;
  }
  const info = FrameIndex(domainField(xen, domid, DOM.SHARED_INFO));
  const cell = (port >> 5) * 4;
  const pending = xen.memory.load(info, SHARED_INFO_EVTCHN_PENDING + cell);
  const masked = xen.memory.load(info, SHARED_INFO_EVTCHN_MASK + cell);
  return (pending & ~masked & (1 << (port & 31))) !== 0;
}
