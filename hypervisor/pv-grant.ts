/**
 * Grant mappings of PV guests: an entry of the mapper's own page tables, named by the address it translates or by its own
 * machine address. And, for every kind of mapper, the references that a mapping has on the page.
 *
 * Rules: the entry has the references of the host half, so whatever replaces the entry gives them back, and the handle
 * then only pins. A map replaces what stands there without a word. An unmap wants this frame, present, with this
 * permission; unmap_and_replace puts the entry of another address in its place, and has taken that away even if it fails.
 * Behaviour: xen/arch/x86/pv/grant_table.c, create_grant_pv_mapping(), replace_grant_pv_mapping(),
 * steal_linear_address(); xen/common/grant_table.c, map_grant_ref() (references).
 */
import {
  GNTMAP_application_map,
  GNTMAP_contains_pte,
  GNTMAP_device_map,
  GNTMAP_host_map,
  GNTMAP_readonly,
} from "../shared/abi/grant.ts";
import { PGT_writable_page } from "../shared/frame-flags.ts";
import { mfnAt } from "../shared/layout.ts";
import {
  _PAGE_ACCESSED,
  _PAGE_AVAIL,
  _PAGE_AVAIL0,
  _PAGE_DIRTY,
  _PAGE_PRESENT,
  _PAGE_RW,
  _PAGE_USER,
  adjustGuestPte,
  mfnOfX86,
  PTE_EMPTY,
  type PteX86,
  pteX86,
} from "../shared/pte-x86.ts";
import { GNTST_general_error, GNTST_okay } from "../shared/status.ts";
import type { DomId } from "../shared/units.ts";
import { getPage, putPage } from "./frame-table.ts";
import { getPageType, hasTypes, isPv, putPageType } from "./page-type.ts";
import {
  dropL1e,
  MOD_FLUSH,
  type PtePlace,
  pteAt,
  pteOfAddress,
  pteOfMachineAddress,
  writePte,
} from "./pv-tables.ts";
import type { Caller, Xen } from "./xen.ts";

const isWritable = (flags: number): boolean => (flags & GNTMAP_readonly) === 0;

/** Whether a host half has a type reference: writable, and not of a translated domain's page, unless it is its own. */
export const hostIsTyped = (xen: Xen, mapper: DomId, granter: DomId, flags: number): boolean =>
  hasTypes(xen) && isWritable(flags) && (mapper === granter || isPv(xen, granter));

/** Whether a device half has one. */
export const deviceIsTyped = (xen: Xen, flags: number): boolean =>
  hasTypes(xen) && isWritable(flags);

/**
 * Takes the references that a mapping needs beyond the one page reference its caller holds; false, with nothing taken,
 * when the page has a type that excludes writing.
 */
export function takeMappingReferences(
  xen: Xen,
  mapper: DomId,
  granter: DomId,
  frame: number,
  flags: number,
): boolean {
  if (!hasTypes(xen)) return true;
  const device = (flags & GNTMAP_device_map) !== 0;
  const host = (flags & GNTMAP_host_map) !== 0;
  const types =
    (device && deviceIsTyped(xen, flags) ? 1 : 0) +
    (host && hostIsTyped(xen, mapper, granter, flags) ? 1 : 0);
  for (let taken = 0; taken < types; taken++) {
    if (getPageType(xen, frame, PGT_writable_page) === 0) continue;
    for (; taken > 0; taken--) putPageType(xen, frame);
    return false;
  }
  if (!device || !host || getPage(xen, frame, granter)) return true;
  for (let taken = 0; taken < types; taken++) putPageType(xen, frame);
  return false;
}

/** Gives them back: the mapping is refused for another reason. */
export function dropMappingReferences(
  xen: Xen,
  mapper: DomId,
  granter: DomId,
  frame: number,
  flags: number,
): void {
  if (!hasTypes(xen)) return;
  const device = (flags & GNTMAP_device_map) !== 0;
  const host = (flags & GNTMAP_host_map) !== 0;
  if (device && deviceIsTyped(xen, flags)) putPageType(xen, frame);
  if (host && hostIsTyped(xen, mapper, granter, flags)) putPageType(xen, frame);
  if (device && host) putPage(xen, frame);
}

/** The entry for a mapping with these flags. */
function grantPte(xen: Xen, frame: number, flags: number): PteX86 {
  const user = (flags & GNTMAP_application_map) !== 0 ? _PAGE_USER : 0;
  const write = isWritable(flags) ? _PAGE_RW : 0;
  const available = ((flags >>> 16) * _PAGE_AVAIL0) & _PAGE_AVAIL;
  const bits = _PAGE_PRESENT | _PAGE_ACCESSED | _PAGE_DIRTY | user | write | available;
  return adjustGuestPte(pteX86(mfnAt(xen.layout, frame), bits));
}

/** Where a host half's entry stands; undefined: no level 1 table of the mapper's there. */
export const grantPlace = (
  xen: Xen,
  { slot, domid }: Caller,
  address: number,
  flags: number,
): PtePlace | undefined =>
  (flags & GNTMAP_contains_pte) !== 0
    ? pteOfMachineAddress(xen, domid, address)
    : pteOfAddress(xen, slot, domid, address);

/** Enters the mapping; true: something stood there, and a flush is due. */
export function enterGrantPte(
  xen: Xen,
  { slot, domid }: Caller,
  place: PtePlace,
  frame: number,
  flags: number,
): boolean {
  const former = pteAt(xen, place);
  writePte(xen, domid, place, grantPte(xen, frame, flags));
  const dropped = dropL1e(xen, slot, domid, former);
  return dropped === MOD_FLUSH || (former.low & _PAGE_PRESENT) !== 0;
}

/**
 * Takes a mapping's entry away, and puts that of `newAddress` there unless it is 0. `flags` are the handle's. The page's
 * references are now the caller's. Returns GNTST_okay or GNTST_general_error.
 */
export function replaceGrantPte(
  xen: Xen,
  caller: Caller,
  address: number,
  frame: number,
  newAddress: number,
  flags: number,
): number {
  const { slot, domid } = caller;
  let next = PTE_EMPTY;
  if (newAddress !== 0) {
    if ((flags & GNTMAP_contains_pte) !== 0) return GNTST_general_error;
    const from = pteOfAddress(xen, slot, domid, newAddress);
    if (from === undefined) return GNTST_general_error;
    next = pteAt(xen, from);
    writePte(xen, domid, from, PTE_EMPTY);
  }
  const place = grantPlace(xen, caller, address, flags);
  if (place !== undefined && isGrantPte(xen, place, frame, flags)) {
    writePte(xen, domid, place, next);
    return GNTST_okay;
  }
  dropL1e(xen, slot, domid, next);
  return GNTST_general_error;
}

/** Whether the entry maps this frame with this permission. */
function isGrantPte(xen: Xen, place: PtePlace, frame: number, flags: number): boolean {
  const pte = pteAt(xen, place);
  const wanted = _PAGE_PRESENT | (isWritable(flags) ? _PAGE_RW : 0);
  const same = mfnOfX86(pte) === mfnAt(xen.layout, frame);
  return same && (pte.low & (_PAGE_PRESENT | _PAGE_RW)) === wanted;
}
