/**
 * Identity entries: a direct-mapped or PV domain with an IOMMU reaches a page granted to it at gfn == mfn as well, so that
 * a driver which programs a device with dev_bus_addr hits the right frame. Where tables are shared the entries lie in the
 * same P2M that the CPU uses, else in the table of the devices. They are counted per frame: read-only and writable ones.
 *
 * Rule: one count per handle, not per half; a grant of the domain's own page has none.
 * Behaviour: xen/common/grant_table.c (maptrack_tree, gnttab_need_iommu_mapping()), arm_iommu_map_page().
 */
import { assert, at } from "../shared/assert.ts";
import { CDF_directmap, CDF_iommu, CDF_pv, mfnAt } from "../shared/layout.ts";
import { NOT_PRESENT } from "../shared/limits.ts";
import { isAnyRam, p2m_iommu_map_ro, p2m_iommu_map_rw } from "../shared/pte.ts";
import type { DomId } from "../shared/units.ts";
import {
  hasOwnTable,
  IOMMUF_readable,
  IOMMUF_writable,
  identityCounter,
  iommuFollow,
  iommuMap,
  iommuPrepare,
  iommuUnmap,
} from "./iommu-table.ts";
import {
  entryFrame,
  entryType,
  P2M_NOTHING,
  type P2mOutcome,
  p2mClear,
  p2mLookup,
  p2mPrepare,
  p2mSet,
} from "./p2m.ts";
import { hasFlag, type Xen } from "./xen.ts";

/** Direct-mapped or PV, and given an IOMMU. Other translated domains need nothing: their devices follow the P2M. */
export const needIommuMapping = (xen: Xen, domid: number): boolean =>
  hasFlag(xen, domid, CDF_iommu) && hasFlag(xen, domid, CDF_directmap | CDF_pv);

function counterOf(xen: Xen, domid: number, column: number, frame: number): number {
  const counter = identityCounter(xen, domid, column, frame);
  assert(counter !== NOT_PRESENT, "a domain that needs identity entries has counters");
  return counter;
}

/** Mappings of a foreign frame by a direct-mapped domain: [read-only, writable]. */
export const identityCounts = (
  xen: Xen,
  domid: number,
  frame: number,
): readonly [number, number] => [
  at(xen.words, counterOf(xen, domid, xen.layout.identityRead, frame)),
  at(xen.words, counterOf(xen, domid, xen.layout.identityWrite, frame)),
];

/** Makes sure that `identityMap` cannot fail. Returns 0 or a negative errno. */
export function identityPrepare(xen: Xen, domid: DomId, frame: number): number {
  const mfn = mfnAt(xen.layout, frame);
  if (hasOwnTable(xen, domid)) return iommuPrepare(xen, domid, mfn);
  return Math.min(p2mPrepare(xen, domid, mfn), 0);
}

function enter(xen: Xen, domid: DomId, frame: number, readonly: boolean): P2mOutcome {
  const mfn = mfnAt(xen.layout, frame);
  if (!hasOwnTable(xen, domid)) {
    return p2mSet(xen, domid, mfn, frame, readonly ? p2m_iommu_map_ro : p2m_iommu_map_rw);
  }
  return iommuMap(xen, domid, mfn, frame, IOMMUF_readable | (readonly ? 0 : IOMMUF_writable));
}

/** Counts one mapping in and enters or upgrades the identity entry. The caller has prepared for it. */
export function identityMap(xen: Xen, domid: DomId, frame: number, readonly: boolean): P2mOutcome {
  const column = readonly ? xen.layout.identityRead : xen.layout.identityWrite;
  const counter = counterOf(xen, domid, column, frame);
  const count = at(xen.words, counter) + 1;
  xen.words[counter] = count;
  const [, writers] = identityCounts(xen, domid, frame);
  if (count !== 1 || (readonly && writers > 0)) return P2M_NOTHING;
  return enter(xen, domid, frame, readonly);
}

/**
 * Counts one mapping out; the last one removes the entry, the last writable one leaves a read-only entry. Refuses with
 * IDENTITY_REFUSED, counters unchanged, when the gfn of a shared table was meanwhile given RAM-like content.
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
  if (readers + writers === 1) return leave(xen, domid, frame, counter);
  let former: P2mOutcome = P2M_NOTHING;
  if (!readonly && writers === 1) former = enter(xen, domid, frame, true);
  if (former >= 0) xen.words[counter] = at(xen.words, counter) - 1;
  return former;
}

/** The last mapping goes: its entry too, and in a table of the devices' own what the P2M says there comes back. */
function leave(xen: Xen, domid: DomId, frame: number, counter: number): P2mOutcome {
  const mfn = mfnAt(xen.layout, frame);
  const stands = hasFlag(xen, domid, CDF_pv) ? P2M_NOTHING : p2mLookup(xen, domid, mfn);
  if (!hasOwnTable(xen, domid)) {
    if (isAnyRam(entryType(stands))) return IDENTITY_REFUSED;
    const former = p2mClear(xen, domid, mfn);
    if (former >= 0) xen.words[counter] = at(xen.words, counter) - 1;
    return former;
  }
  xen.words[counter] = at(xen.words, counter) - 1;
  const former = iommuUnmap(xen, domid, mfn);
  if (stands !== P2M_NOTHING) {
    iommuFollow(xen, domid, mfn, entryFrame(stands), entryType(stands));
  }
  return former;
}

/** The removal compared the gfn with the entry it expected and found something else. */
export const IDENTITY_REFUSED: P2mOutcome = -1;

/** Teardown: counts one mapping out without touching a table, which goes as a whole later. */
export function identityForget(xen: Xen, domid: DomId, frame: number, readonly: boolean): void {
  const column = readonly ? xen.layout.identityRead : xen.layout.identityWrite;
  const counter = counterOf(xen, domid, column, frame);
  assert(at(xen.words, counter) >= 1, "an identity count that goes down was up");
  xen.words[counter] = at(xen.words, counter) - 1;
}
