/**
 * Identity entries: a direct-mapped domain with an IOMMU reaches a page granted to it at gfn == mfn as well, so that
 * a driver which programs a device with dev_bus_addr hits the right frame. The entries lie in the same P2M that the
 * CPU uses (tables are shared on ARM), and are counted per frame: read-only and writable mappings.
 *
 * Rule: one count per handle, not per half; a grant of the domain's own page has none.
 * Behaviour: xen/common/grant_table.c (maptrack_tree, gnttab_need_iommu_mapping()), arm_iommu_map_page().
 */
import { assert, at } from "../shared/assert.ts";
import { CDF_directmap, CDF_iommu, DOM, mfnAt } from "../shared/layout.ts";
import { NOT_PRESENT } from "../shared/limits.ts";
import { isAnyRam, p2m_iommu_map_ro, p2m_iommu_map_rw } from "../shared/pte.ts";
import type { DomId } from "../shared/units.ts";
import { entryType, P2M_NOTHING, type P2mOutcome, p2mClear, p2mLookup, p2mSet } from "./p2m.ts";
import { domainField, hasFlag, type Xen } from "./xen.ts";

/** ARM: direct-mapped and given an IOMMU. Other translated domains need nothing: their devices use the P2M as it is. */
export const needIommuMapping = (xen: Xen, domid: number): boolean =>
  hasFlag(xen, domid, CDF_directmap) && hasFlag(xen, domid, CDF_iommu);

const counterOf = (xen: Xen, domid: number, column: number, frame: number): number => {
  const row = domainField(xen, domid, DOM.IDENTITY);
  assert(row !== NOT_PRESENT, "a domain that needs identity entries has counters");
  return column + row * xen.layout.frames + frame;
};

/** Mappings of a foreign frame by a direct-mapped domain: [read-only, writable]. */
export const identityCounts = (
  xen: Xen,
  domid: number,
  frame: number,
): readonly [number, number] => [
  at(xen.words, counterOf(xen, domid, xen.layout.identityRead, frame)),
  at(xen.words, counterOf(xen, domid, xen.layout.identityWrite, frame)),
];

/** Counts one mapping in and enters or upgrades the identity entry. The caller has prepared the P2M path. */
export function identityMap(xen: Xen, domid: DomId, frame: number, readonly: boolean): P2mOutcome {
  const column = readonly ? xen.layout.identityRead : xen.layout.identityWrite;
  const counter = counterOf(xen, domid, column, frame);
  const count = at(xen.words, counter) + 1;
  xen.words[counter] = count;
  const [, writers] = identityCounts(xen, domid, frame);
  if (count !== 1 || (readonly && writers > 0)) return P2M_NOTHING;
  const type = readonly ? p2m_iommu_map_ro : p2m_iommu_map_rw;
  return p2mSet(xen, domid, mfnAt(xen.layout, frame), frame, type);
}

/**
 * Counts one mapping out; the last one removes the entry, the last writable one leaves a read-only entry. Refuses
 * with P2M_REFUSED, counters unchanged, when the gfn was meanwhile given RAM-like content.
 */
export function identityUnmap(
  xen: Xen,
  domid: DomId,
  frame: number,
  readonly: boolean,
): P2mOutcome {
  const column = readonly ? xen.layout.identityRead : xen.layout.identityWrite;
  const counter = counterOf(xen, domid, column, frame);
  const [readers, writers] = identityCounts(xen, domid, frame);
  assert(at(xen.words, counter) >= 1, "an identity count that goes down was up");
  const mfn = mfnAt(xen.layout, frame);
  let former: P2mOutcome = P2M_NOTHING;
  if (readers + writers === 1) {
    if (isAnyRam(entryType(p2mLookup(xen, domid, mfn)))) return IDENTITY_REFUSED;
    former = p2mClear(xen, domid, mfn);
  } else if (!readonly && writers === 1) {
    former = p2mSet(xen, domid, mfn, frame, p2m_iommu_map_ro);
  }
  if (former >= 0) xen.words[counter] = at(xen.words, counter) - 1;
  return former;
}

/** The removal compared the gfn with the entry it expected and found something else. */
export const IDENTITY_REFUSED: P2mOutcome = -1;

/** Teardown: counts one mapping out without touching the P2M, which goes as a whole later. */
export function identityForget(xen: Xen, domid: DomId, frame: number, readonly: boolean): void {
  const column = readonly ? xen.layout.identityRead : xen.layout.identityWrite;
  const counter = counterOf(xen, domid, column, frame);
  assert(at(xen.words, counter) >= 1, "an identity count that goes down was up");
  xen.words[counter] = at(xen.words, counter) - 1;
}
