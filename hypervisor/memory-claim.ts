/**
 * claim_pages: free memory is set aside for a domain that is about to grow, without being allocated yet.
 *
 * Rules: one claim a domain; what the domain has already counts towards it; each page it is given later uses one up
 * (frame-table.ts, assignPages). Nobody else is given memory that is claimed. A dying domain has no claim.
 * Behaviour: xen/common/page_alloc.c, domain_set_outstanding_pages(), alloc_heap_pages(); xen/common/memory.c.
 */
import {
  RESERVATION_DOMID,
  RESERVATION_EXTENT_ORDER,
  RESERVATION_EXTENT_START,
  RESERVATION_MEM_FLAGS,
  RESERVATION_NR_EXTENTS,
  RESERVATION_SIZE,
} from "../shared/abi/memory.ts";
import { at } from "../shared/assert.ts";
import { DOM, MACHINE } from "../shared/layout.ts";
import { EFAULT, EINVAL, ENOMEM, EPERM } from "../shared/status.ts";
import type { DomId } from "../shared/units.ts";
import { copyArgs } from "./guest-access.ts";
import {
  type Caller,
  domainById,
  domainField,
  isDying,
  isPrivileged,
  setDomainField,
  type Xen,
} from "./xen.ts";

export function claimPages(xen: Xen, caller: Caller, start: number, arg: number): number {
  const { args } = xen;
  if (start !== 0) return -EINVAL;
  if (!copyArgs(xen, caller.domid, arg, RESERVATION_SIZE)) return -EFAULT;
  if (args.u64(RESERVATION_EXTENT_START) !== 0) return -EINVAL;
  if (args.u32(RESERVATION_EXTENT_ORDER) !== 0) return -EINVAL;
  if (args.u32(RESERVATION_MEM_FLAGS) !== 0) return -EINVAL;
  const domid = domainById(xen, args.u16(RESERVATION_DOMID));
  if (domid === undefined) return -EINVAL;
  if (!isPrivileged(xen, caller)) return -EPERM;
  return setClaim(xen, domid, args.u64(RESERVATION_NR_EXTENTS));
}

/** Sets the claim of a domain to `pages` in total, what it has included; 0 gives the claim up. */
export function setClaim(xen: Xen, domid: DomId, pages: number): number {
  const claimed = domainField(xen, domid, DOM.OUTSTANDING_PAGES);
  const all = at(xen.words, MACHINE.OUTSTANDING_CLAIMS);
  if (pages === 0) {
    setDomainField(xen, domid, DOM.OUTSTANDING_PAGES, 0);
    xen.words[MACHINE.OUTSTANDING_CLAIMS] = all - claimed;
    return 0;
  }
  if (isDying(xen, domid) || claimed !== 0) return -EINVAL;
  const total = domainField(xen, domid, DOM.TOT_PAGES);
  if (pages <= total || pages > domainField(xen, domid, DOM.MAX_PAGES)) return -EINVAL;
  const claim = pages - total;
  if (claim > at(xen.words, MACHINE.FREE_FRAMES) - all) return -ENOMEM;
  setDomainField(xen, domid, DOM.OUTSTANDING_PAGES, claim);
  xen.words[MACHINE.OUTSTANDING_CLAIMS] = all + claim;
  return 0;
}

/** Whether `pages` frames of the heap may go to a domain: claimed ones only to whoever has claimed as many. */
export const claimsAllow = (xen: Xen, domid: DomId, pages: number): boolean =>
  at(xen.words, MACHINE.OUTSTANDING_CLAIMS) + pages <= at(xen.words, MACHINE.FREE_FRAMES) ||
  domainField(xen, domid, DOM.OUTSTANDING_PAGES) >= pages;
