/**
 * What an insertion into the P2M does beside the entry itself. On arm64 the rules of x86 domains do nothing.
 *
 * Rules: special entries (grant, foreign, device) go by their own operations only, so inserting over one crashes the
 * domain; a page of the domain's own has one gfn, so entering it at another takes the former entry away.
 * Behaviour: xen/arch/x86/mm/p2m.c, p2m_add_page(); xen/common/domain.c, __domain_crash().
 */
import { VIRQ_DOM_EXC } from "../shared/abi/event-channel.ts";
import { SHUTDOWN_crash } from "../shared/abi/sched.ts";
import { DOM, PAUSED_FOR_SHUTDOWN } from "../shared/layout.ts";
import {
  isForeign,
  isGrant,
  isRam,
  p2m_mmio_direct_c,
  p2m_mmio_direct_dev,
} from "../shared/pte.ts";
import type { DomId } from "../shared/units.ts";
import { setCode } from "./domain-shutdown.ts";
import { killSlot } from "./domain-teardown.ts";
import { sendGlobalVirq } from "./event-channel.ts";
import { frameOwner } from "./frame-table.ts";
import { holdPage } from "./hold-list.ts";
import {
  entryFrame,
  entryType,
  forgetXenHeapGfn,
  needsFlush,
  type P2mEntry,
  p2mClear,
  p2mLookup,
} from "./p2m.ts";
import { scanP2m } from "./p2m-scan.ts";
import { profileOf } from "./profile.ts";
import { domainField, setDomainField, slotsOf, type Xen } from "./xen.ts";

/** Stops a domain that cannot go on; the toolstack hears of it and takes it away. `slot` is the one being served. */
export function crashDomain(xen: Xen, slot: number, domid: DomId): void {
  setCode(xen, domid, SHUTDOWN_crash);
  const paused = domainField(xen, domid, DOM.PAUSE) | PAUSED_FOR_SHUTDOWN;
  setDomainField(xen, domid, DOM.PAUSE, paused);
  for (const vcpu of slotsOf(xen, domid)) killSlot(xen, slot, vcpu);
  sendGlobalVirq(xen, VIRQ_DOM_EXC);
}

/** Whether nothing may be entered at `gfn`; the domain has crashed if so. */
export function insertionCrashes(xen: Xen, slot: number, domid: DomId, gfn: number): boolean {
  if (!profileOf(xen).specialEntriesStand) return false;
  const type = entryType(p2mLookup(xen, domid, gfn));
  const isDevice = type >= p2m_mmio_direct_dev && type <= p2m_mmio_direct_c;
  if (!isGrant(type) && !isForeign(type) && !isDevice) return false;
  crashDomain(xen, slot, domid);
  return true;
}

/** Takes a page of the domain's own away from where it stands as RAM, but for `gfn`. True: a flush is due. */
export function dropAlias(xen: Xen, domid: DomId, gfn: number, frame: number): boolean {
  if (!profileOf(xen).oneGfnAPage || frameOwner(xen, frame) !== domid) return false;
  let alias = -1;
  scanP2m(xen, domid, 0, (place, found, type, order) => {
    const within = frame - found;
    if (!isRam(type) || within < 0 || within >= 2 ** order || place + within === gfn) return true;
    alias = place + within;
    return false;
  });
  if (alias < 0) return false;
  const former = p2mClear(xen, domid, alias);
  // A page of Xen that its owner grants to itself moves to the grant, and may be placed anew.
  if (former > 0) forgetXenHeapGfn(xen, domid, former);
  return former > 0;
}

/**
 * Lets go of what a replaced or removed entry stood for: a foreign page's reference goes to the hold list, a xen
 * heap page that is no longer there forgets its gfn. A foreign entry that replaces one of the same frame has brought
 * a reference of its own, so the former's goes all the same. True: a flush is due.
 */
export function releaseFormer(
  xen: Xen,
  slot: number,
  domid: DomId,
  former: P2mEntry,
  now: number,
): boolean {
  const type = entryType(former);
  if (isForeign(type)) holdPage(xen, slot, entryFrame(former));
  else if (isRam(type) && entryFrame(former) !== now) forgetXenHeapGfn(xen, domid, former);
  return needsFlush(former);
}
