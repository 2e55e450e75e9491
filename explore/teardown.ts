/**
 * L-6: a domain that was killed is gone as soon as no live domain holds anything of it. Before that is judged, live guests give
 * back what they hold of the dead: mappings of grants, and foreign pages.
 *
 * Rule: a run without a dead domain pays one look at each row of the domain table. A guest whose program has not ended, or that
 * has page tables of its own (x86 PV), keeps what it holds, and is a holder then. Ours; stress spec section 4.1.
 */
import { unmapForeignFrames } from "../domains/foreign-map.ts";
import type { Caller } from "../domains/kernel.ts";
import { type Census, takeCensus } from "../hypervisor/audit-census.ts";
import { frameOwner, isRamFrame } from "../hypervisor/frame-table.ts";
import { isPv } from "../hypervisor/page-type.ts";
import { domainField, isPresent, type Xen } from "../hypervisor/xen.ts";
import { DOM, DYING_ALIVE } from "../shared/layout.ts";
import { isForeign, isGrant } from "../shared/pte.ts";
import type { Program } from "../shared/trap.ts";
import { Pfn } from "../shared/units.ts";
import { isOver } from "./actor.ts";
import { assign } from "./machine.ts";
import { type Guest, rawGuest, unmap } from "./raw-guest.ts";
import { type Outcome, run } from "./run.ts";
import type { Machine } from "./state.ts";

/** Steps in which everything must have been given back. */
const GIVE_BACK_STEPS = 5_000;

const isAlive = (xen: Xen, domid: number): boolean =>
  isPresent(xen, domid) && domainField(xen, domid, DOM.DYING) === DYING_ALIVE;

/** Domains that were killed and are not gone. */
export function dyingDomains(xen: Xen): readonly number[] {
  const dying: number[] = [];
  for (let domid = 0; domid < xen.model.limits.domains; domid++) {
    if (isPresent(xen, domid) && !isAlive(xen, domid)) dying.push(domid);
  }
  return dying;
}

/** Killed domains that are not gone although no live domain holds anything of them. */
export function stuckTeardown(xen: Xen): readonly string[] {
  const dying = dyingDomains(xen);
  if (dying.length === 0) return [];
  const census = takeCensus(xen);
  return dying
    .filter((domid) => !isHeld(xen, census, domid))
    .map((domid) => `L-6: domain ${domid} was killed and is not gone, and nobody holds it`);
}

function isHeld(xen: Xen, { handles, leaves, holds, ptes }: Census, domid: number): boolean {
  const isOf = (frame: number): boolean =>
    isRamFrame(xen, frame) && frameOwner(xen, frame) === domid;
  return (
    handles.some(({ mapper, granter }) => granter === domid && isAlive(xen, mapper)) ||
    leaves.some((leaf) => isForeign(leaf.type) && isAlive(xen, leaf.domid) && isOf(leaf.frame)) ||
    // A handler that is at work for somebody lets go by itself.
    holds.some(({ frame }) => isOf(frame)) ||
    ptes.some((pte) => isAlive(xen, pte.domid) && isOf(pte.frame))
  );
}

/** Lets every live guest whose program has ended give back what it holds of dead domains; how that went. */
export function giveBack(machine: Machine, callers: (Caller | undefined)[]): Outcome {
  const { xen, model } = machine;
  const census = takeCensus(xen);
  machine.settling = true;
  machine.auditing = false;
  machine.log = undefined;
  for (let slot = 1; slot < model.limits.slots; slot++) {
    const actor = machine.actors[slot];
    if (actor === undefined || !isOver(actor)) continue;
    const domid = census.domains.find((id) => domainField(xen, id, DOM.SLOT) === slot);
    if (domid === undefined || !isAlive(xen, domid) || isPv(xen, domid)) continue;
    const guest = rawGuest(machine, domid, 0, callers);
    assign(machine, slot, {
      name: actor.part.name,
      program: returnAll(guest, census),
      mustFinish: false,
    });
  }
  const outcome = run(machine, { command: "", maxSteps: GIVE_BACK_STEPS });
  machine.auditing = true;
  return outcome;
}

function* returnAll(guest: Guest, { handles, leaves }: Census): Program {
  const { xen } = guest.machine;
  const grants = leaves.filter(({ domid, type }) => domid === guest.domid && isGrant(type));
  for (const { mapper, granter, handle, frame } of handles) {
    if (mapper !== guest.domid || isAlive(xen, granter)) continue;
    const place = grants.findIndex((leaf) => leaf.frame === frame);
    const [leaf] = place < 0 ? [] : grants.splice(place, 1);
    if (leaf !== undefined) yield* unmap(guest, leaf.gfn, handle);
  }
  const foreign = leaves.filter(
    ({ domid, type, frame }) =>
      domid === guest.domid && isForeign(type) && !isAlive(xen, frameOwner(xen, frame)),
  );
  yield* unmapForeignFrames(
    guest.caller,
    foreign.map(({ gfn }) => Pfn(gfn)),
  );
}
