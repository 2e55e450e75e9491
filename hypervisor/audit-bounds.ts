/**
 * Invariants of what is counted and held: no count leaves its field, and a handler that has answered holds nothing.
 *
 * There is one lane and there are no locks. What a lock would be elsewhere is what a handler keeps across its gaps: its
 * hold list, and the sequence of a table that it rewrites. Each has one holder, the slot; both are back before the answer.
 * Rules: as audit.ts. Behaviour: stress spec section 4 (I-06, I-34).
 */
import { at } from "../shared/assert.ts";
import { PGC_count_mask, PGT_count_mask } from "../shared/frame-flags.ts";
import { DOM, DYING_DEAD, LINE, MACHINE, SLOT_DEAD } from "../shared/layout.ts";
import type { Census } from "./audit-census.ts";
import { frameReferences } from "./frame-table.ts";
import { hasTypes, typeCount } from "./page-type.ts";
import { domainField, isPresent, lineField, slotDomain, type Xen } from "./xen.ts";

/** Columns of a domain that count something. */
const COUNTS = [
  ["references", DOM.REFS],
  ["pages", DOM.TOT_PAGES],
  ["pages of the Xen heap", DOM.XENHEAP_PAGES],
  ["claimed pages", DOM.OUTSTANDING_PAGES],
  ["table pages", DOM.P2M_PAGE_COUNT],
  ["free table pages", DOM.P2M_POOL_FREE],
  ["grant frames", DOM.GRANT_FRAMES],
  ["live handles", DOM.MAPPINGS],
  ["ports", DOM.VALID_EVTCHNS],
] as const;

/** No count is below zero; one of a frame that went below shows as a number near the end of its field. */
export function countBounds(xen: Xen, census: Census): string[] {
  const findings: string[] = [];
  for (const domid of census.domains) {
    for (const [what, column] of COUNTS) {
      const has = domainField(xen, domid, column);
      if (has < 0) findings.push(`domain ${domid} counts ${has} ${what}`);
    }
  }
  for (const word of [MACHINE.FREE_FRAMES, MACHINE.XEN_HEAP_FREE, MACHINE.OUTSTANDING_CLAIMS]) {
    if (at(xen.words, word) < 0)
      findings.push(`machine word ${word} counts ${at(xen.words, word)}`);
  }
  const typed = hasTypes(xen);
  for (let frame = 0; frame < xen.layout.ramFrames; frame++) {
    const references = frameReferences(xen, frame);
    if (references > PGC_count_mask / 2) {
      findings.push(`frame ${frame} counts ${references} references, more than can be`);
    }
    if (typed && typeCount(xen, frame) > PGT_count_mask / 2) {
      findings.push(`frame ${frame} counts ${typeCount(xen, frame)} type references`);
    }
  }
  return findings;
}

/** What is held has a handler that will give it back: that of its slot, or whoever tears its domain down. */
export function heldByHandlers(xen: Xen, census: Census): string[] {
  const findings: string[] = [];
  for (let slot = 0; slot < xen.model.limits.slots; slot++) {
    const held = lineField(xen, slot, LINE.HELD);
    if (held === 0 || xen.pending[slot] !== undefined || isTornDown(xen, slot)) continue;
    findings.push(`slot ${slot} has its answer and still holds ${held} rows`);
  }
  for (const domid of census.domains) {
    if (domainField(xen, domid, DOM.P2M_SEQUENCE) % 2 !== 0) {
      findings.push(`the table of domain ${domid} is left in the middle of a rewriting`);
    }
  }
  return findings;
}

/**
 * The handler of a vCPU that has been killed is gone at once, what it held only after the flush of the teardown; where its domain
 * has crashed, that is when the toolstack destroys it.
 */
function isTornDown(xen: Xen, slot: number): boolean {
  const domid = slotDomain(xen, slot);
  return (
    lineField(xen, slot, LINE.STATE) === SLOT_DEAD &&
    isPresent(xen, domid) &&
    domainField(xen, domid, DOM.DYING) !== DYING_DEAD
  );
}
