/**
 * The flush before a PV guest's page becomes something else: a page table, or another domain's.
 *
 * Rule: a guest may drop an entry without a flush, so a translation may outlive it. Whoever needs to know that there is
 * none answers -ERESTART, and is asked again after a flush. The flush counts from its beginning: a page whose last entry
 * goes meanwhile asks for another one. Nothing is held across it.
 * Behaviour: xen/arch/x86/mm.c, _get_page_type(), tlbflush_timestamp; xen/common/page_alloc.c, accumulate_tlbflush().
 */
import { at } from "../shared/assert.ts";
import { DOM, MACHINE } from "../shared/layout.ts";
import { TYPE_FLUSHES_MAX } from "../shared/limits.ts";
import { EBUSY, ERESTART } from "../shared/status.ts";
import { startFlush } from "./flush.ts";
import { type Caller, GAP_FLUSH, type Gap, setDomainField, type Xen } from "./xen.ts";

/** Carries `attempt` out, with as many flushes of the domain as it asks for. `slot` is the one whose handler asks. */
export function* withPvFlush(
  xen: Xen,
  { slot, domid }: Caller,
  attempt: () => number,
): Generator<Gap, number, void> {
  for (let tries = 0; tries < TYPE_FLUSHES_MAX; tries++) {
    const done = attempt();
    if (done !== -ERESTART) return done;
    const waiting = startFlush(xen, slot, domid);
    const begun = at(xen.words, MACHINE.FLUSHES);
    if (waiting > 0) yield GAP_FLUSH;
    setDomainField(xen, domid, DOM.TYPES_FLUSHED, begun);
  }
  return -EBUSY;
}
