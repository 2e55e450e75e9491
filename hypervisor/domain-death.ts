/**
 * How a domain dies: alive -> dying -> dead -> gone. Killing is preemptible; gone is when the last reference goes.
 *
 * Rules: between dying and gone everybody still finds the domain by its id, and it gains nothing. A dead domain with
 * pages that others still map is a zombie; the last of these pages takes it along. A domain whose killer dies half-way
 * is torn down to its end by the one who kills the killer.
 * Behaviour: xen/common/domain.c, domain_kill(), _domain_destroy(), complete_domain_destroy().
 */
import { VIRQ_DOM_EXC } from "../shared/abi/event-channel.ts";
import { at } from "../shared/assert.ts";
import { HISTORY_DIED, isRecorded, note } from "../shared/history.ts";
import {
  DOM,
  DYING_ALIVE,
  DYING_DEAD,
  DYING_DYING,
  LINE,
  MACHINE,
  SLOT_DEAD,
  SLOT_KIND_DEVICE,
  SLOT_KIND_VCPU,
  SLOT_LIVE,
  WALK_BLOCKED,
} from "../shared/layout.ts";
import { NOT_PRESENT } from "../shared/limits.ts";
import { EINVAL } from "../shared/status.ts";
import { hypervisorRing, TRACE_DOMAIN, trace } from "../shared/trace.ts";
import { DomId } from "../shared/units.ts";
import { freeDomain, type Stage, tearDown } from "./domain-teardown.ts";
import { sendGlobalVirq } from "./event-channel.ts";
import { startFlushOf } from "./flush.ts";
import { setClaim } from "./memory-claim.ts";
import {
  addDomainField,
  domainField,
  GAP_FLUSH,
  GAP_PREEMPT,
  isPresent,
  lineField,
  type Preemptible,
  setDomainField,
  setLineField,
  slotDomain,
  slotsOf,
  type Xen,
} from "./xen.ts";

/** Life-cycle stages in the trace. */
export const TRACE_DOMAIN_CREATED = 0;
const TRACE_DOMAIN_DYING = 1;
const TRACE_DOMAIN_DEAD = 2;
const TRACE_DOMAIN_GONE = 3;

/** Tells the hardware domain that some domain came, died or went; it asks which. */
export function announce(xen: Xen, domid: DomId, stage: number): void {
  trace(xen.words, xen.layout, hypervisorRing(xen.layout), TRACE_DOMAIN, domid, stage);
  sendGlobalVirq(xen, VIRQ_DOM_EXC);
}

/**
 * Kills a domain; `slot` is the one whose handler does it. Returns 0 once it is dead, also when it already was or when
 * another handler was faster.
 */
export function* killDomain(xen: Xen, slot: number, domid: DomId): Preemptible {
  const generation = domainField(xen, domid, DOM.GENERATION);
  if (domainField(xen, domid, DOM.DYING) === DYING_ALIVE) {
    setDomainField(xen, domid, DOM.DYING, DYING_DYING);
    setDomainField(xen, domid, DOM.KILLER, slot);
    trace(
      xen.words,
      xen.layout,
      hypervisorRing(xen.layout),
      TRACE_DOMAIN,
      domid,
      TRACE_DOMAIN_DYING,
    );
    if (isRecorded(xen.layout)) note(xen.words, xen.layout, { kind: HISTORY_DIED, domain: domid });
    setClaim(xen, domid, 0);
    const orphans = orphansOf(xen, slot, domid);
    yield* tearDown(xen, slot, domid);
    finish(xen, domid);
    for (const orphan of orphans) yield* finishOrphan(xen, slot, orphan);
    return 0;
  }
  while (
    domainField(xen, domid, DOM.DYING) === DYING_DYING &&
    domainField(xen, domid, DOM.GENERATION) === generation
  ) {
    yield GAP_PREEMPT;
  }
  return 0;
}

/** The creation reference goes; what is left keeps the zombie. */
function finish(xen: Xen, domid: DomId): void {
  setDomainField(xen, domid, DOM.DYING, DYING_DEAD);
  setDomainField(xen, domid, DOM.KILLER, NOT_PRESENT);
  addDomainField(xen, domid, DOM.REFS, -1);
  xen.words[MACHINE.DEAD_DOMAINS] = at(xen.words, MACHINE.DEAD_DOMAINS) + 1;
  announce(xen, domid, TRACE_DOMAIN_DEAD);
}

/** Domains that a vCPU of `domid` was tearing down: its handler goes, so `slot` takes them over. */
function orphansOf(xen: Xen, slot: number, domid: DomId): readonly DomId[] {
  const vcpus = slotsOf(xen, domid);
  const orphans: DomId[] = [];
  for (let other = 0; other < xen.model.limits.domains; other++) {
    if (other === domid || !isPresent(xen, other)) continue;
    if (domainField(xen, other, DOM.DYING) !== DYING_DYING) continue;
    const killer = domainField(xen, other, DOM.KILLER);
    if (killer === slot || !vcpus.includes(killer)) continue;
    setDomainField(xen, other, DOM.KILLER, slot);
    orphans.push(DomId(other));
  }
  return orphans;
}

function* finishOrphan(xen: Xen, slot: number, domid: DomId): Stage {
  yield* tearDown(xen, slot, domid);
  finish(xen, domid);
}

/**
 * The runner of slot `victim` has ended, and has evened its access counter. A vCPU takes its domain along; a device
 * goes alone. `slot` is the control slot. -EINVAL: no such slot.
 */
export function* vcpuDied(xen: Xen, slot: number, victim: number): Preemptible {
  if (!(victim > 0 && victim < xen.model.limits.slots)) return -EINVAL;
  const kind = lineField(xen, victim, LINE.KIND);
  if (lineField(xen, victim, LINE.STATE) !== SLOT_LIVE) return 0;
  if (kind === SLOT_KIND_DEVICE) {
    setLineField(xen, victim, LINE.STATE, SLOT_DEAD);
    setLineField(xen, victim, LINE.MODE, WALK_BLOCKED);
    if (startFlushOf(xen, slot, victim) > 0) yield GAP_FLUSH;
    return 0;
  }
  return kind === SLOT_KIND_VCPU ? yield* killDomain(xen, slot, slotDomain(xen, victim)) : -EINVAL;
}

/** Between two steps: dead domains that nothing refers to any more are gone; one may have kept another. */
export function reapDomains(xen: Xen): void {
  if (at(xen.words, MACHINE.DEAD_DOMAINS) === 0) return;
  for (let round = 0; round < xen.model.limits.domains; round++) if (!reapOnce(xen)) return;
}

function reapOnce(xen: Xen): boolean {
  let hasReaped = false;
  for (let domid = 0; domid < xen.model.limits.domains; domid++) {
    if (!isPresent(xen, domid)) continue;
    if (domainField(xen, domid, DOM.DYING) !== DYING_DEAD) continue;
    if (domainField(xen, domid, DOM.REFS) !== 0) continue;
    freeDomain(xen, DomId(domid));
    xen.words[MACHINE.DEAD_DOMAINS] = at(xen.words, MACHINE.DEAD_DOMAINS) - 1;
    announce(xen, DomId(domid), TRACE_DOMAIN_GONE);
    hasReaped = true;
  }
  return hasReaped;
}
