/**
 * Who waits for what, when nobody can move: an edge from each task that has not ended to whoever could let it go on.
 *
 *   calls X      at a flush: for the walkers that are inside an access; at a poll: for the ports; else for the hypervisor
 *   sleeps       for whoever could send to one of its domain's ports
 *
 * Rule: it looks and changes nothing. Ours; stress spec sections 4.1 and 9.
 */
import {
  ECS_INTERDOMAIN,
  isValidPort,
  portRemoteDomain,
  portState,
} from "../hypervisor/event-ports.ts";
import { GAP_FLUSH, GAP_POLL } from "../hypervisor/xen.ts";
import { at } from "../shared/assert.ts";
import { ACCESS_STEP, DOM, domainOf, LINE, lineOf, SLOT_KIND_VCPU } from "../shared/layout.ts";
import { isOver } from "./actor.ts";
import { callName } from "./call-names.ts";
import type { Actor, Machine } from "./state.ts";

const line = ({ words, layout }: Machine, slot: number, field: number): number =>
  at(words, lineOf(layout, slot) + field);

const domainName = ({ model, words, layout }: Machine, domid: number): string =>
  model.domains[at(words, domainOf(layout, domid) + DOM.MODEL)]?.name ?? `domain ${domid}`;

const isVcpu = (machine: Machine, slot: number): boolean =>
  slot < machine.model.limits.slots && line(machine, slot, LINE.KIND) === SLOT_KIND_VCPU;

/** One line for each task that has not ended: what it waits for, and for whom. */
export function waitGraph(machine: Machine): readonly string[] {
  machine.auditing = true;
  const lines = machine.actors.flatMap((actor) =>
    actor === undefined || isOver(actor)
      ? []
      : [`${actor.part.name} ${waitOf(machine, actor)}${pausedText(machine, actor)}`],
  );
  machine.auditing = false;
  return lines;
}

function pausedText(machine: Machine, { slot }: Actor): string {
  if (!isVcpu(machine, slot)) return "";
  const domid = line(machine, slot, LINE.DOMAIN);
  const count = at(machine.words, domainOf(machine.layout, domid) + DOM.PAUSE);
  return count > 0 ? ", and is paused" : "";
}

function waitOf(machine: Machine, actor: Actor): string {
  if (actor.state === "calling") return callOf(machine, actor);
  if (actor.state === "sleeping") return "waits for the clock";
  if (actor.state !== "blocked") return "could go on";
  const senders = isVcpu(machine, actor.slot)
    ? sendersOf(machine, line(machine, actor.slot, LINE.DOMAIN))
    : [];
  return senders.length === 0 ? "sleeps" : `sleeps, waiting for ${senders.join(" or ")}`;
}

/** Those who could send to a domain's ports. */
function sendersOf(machine: Machine, domid: number): readonly string[] {
  const { xen } = machine;
  const senders: string[] = [];
  for (let port = 1; isValidPort(xen, domid, port); port++) {
    if (portState(xen, domid, port) !== ECS_INTERDOMAIN) continue;
    senders.push(`${domainName(machine, portRemoteDomain(xen, domid, port))} (port ${port})`);
  }
  return senders;
}

function callOf(machine: Machine, { slot, called, channel }: Actor): string {
  const { xen } = machine;
  const call = `has called ${callName(called)}`;
  if (channel.idle) return `${call} and has its answer`;
  if (xen.pending[slot] === undefined) return `${call}, which the hypervisor does not take`;
  if (xen.gaps[slot] === GAP_POLL) return `${call}, which polls`;
  if (xen.gaps[slot] !== GAP_FLUSH) return `${call}, which goes on`;
  const inside = insiders(machine, slot);
  return `${call}, whose flush waits for ${inside.length === 0 ? "the IOMMU" : inside.join(" and ")}`;
}

/** Walkers that a handler's flush has sampled inside an access, and that are in it still. */
function insiders(machine: Machine, slot: number): readonly string[] {
  const { words, layout, model } = machine;
  const { slots } = model.limits;
  return Array.from({ length: slots }, (_, walker) => walker).flatMap((walker) => {
    const sample = at(words, layout.samples + slot * slots + walker);
    if ((sample & ACCESS_STEP) === 0) return [];
    return [machine.actors[walker]?.part.name ?? `slot ${walker}`];
  });
}
