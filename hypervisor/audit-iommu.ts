/**
 * Invariants of the IOMMU: what a device's own table says follows from the P2M and the grants, and nothing else.
 *
 * Rule: recounted from the census, never from the counters that the machine goes by.
 * Behaviour: hypervisor spec section 9 (2, 10, 11), stress spec section 4 (I-07, I-35, I-37).
 */
import { at } from "../shared/assert.ts";
import { mfnAt } from "../shared/layout.ts";
import { leafWord, PTE_WRITE } from "../shared/pte.ts";
import type { DomId } from "../shared/units.ts";
import type { Census } from "./audit-census.ts";
import { needIommuMapping } from "./iommu.ts";
import { hasOwnTable, iommuPageCount } from "./iommu-table.ts";
import { scanIommuTable } from "./p2m-scan.ts";
import { isDying, type Xen } from "./xen.ts";

/** What a device may find at a dfn: frame, and whether it may write. */
interface Way {
  readonly frame: number;
  readonly writable: boolean;
}

/** A device's own table says what the P2M says, and over it the identity entries of grants; page by page. */
export function ownTables(xen: Xen, census: Census): string[] {
  return census.domains
    .filter((domid) => hasOwnTable(xen, domid) && !isDying(xen, domid))
    .flatMap((domid) => {
      const should = waysOf(xen, census, domid);
      const findings: string[] = [];
      let pages = 0;
      scanIommuTable(
        xen,
        domid,
        (dfn, frame, type) => {
          const way = should.get(dfn);
          should.delete(dfn);
          if (way?.frame !== frame || way.writable !== isWritable(type)) {
            findings.push(
              `dfn ${dfn} of domain ${domid} leads to frame ${frame}, ${way === undefined ? "and to nothing" : `not to frame ${way.frame}`} by its grants and P2M`,
            );
          }
          return true;
        },
        () => pages++,
      );
      for (const [dfn, { frame }] of should) {
        findings.push(`dfn ${dfn} of domain ${domid} leads nowhere, not to frame ${frame}`);
      }
      const counted = iommuPageCount(xen, domid);
      if (counted !== pages) {
        findings.push(
          `domain ${domid} counts ${counted} IOMMU table pages, its table has ${pages}`,
        );
      }
      return findings;
    });
}

const isWritable = (type: number): boolean => (leafWord(0, type, 3) & PTE_WRITE) !== 0;

function waysOf(xen: Xen, census: Census, domid: DomId): Map<number, Way> {
  const ways = new Map<number, Way>();
  for (const leaf of census.leaves) {
    if (leaf.domid !== domid) continue;
    const writable = isWritable(leaf.type);
    for (let page = 0; page < 2 ** leaf.order; page++) {
      ways.set(leaf.gfn + page, { frame: leaf.frame + page, writable });
    }
  }
  if (!needIommuMapping(xen, domid)) return ways;
  const writers = new Int32Array(xen.layout.frames);
  const mine = census.handles.filter(
    ({ mapper, granter, frame }) => mapper === domid && granter !== domid && frame >= 0,
  );
  for (const { frame, readonly } of mine) {
    if (!readonly) writers[frame] = at(writers, frame) + 1;
  }
  for (const { frame } of mine) {
    ways.set(mfnAt(xen.layout, frame), { frame, writable: at(writers, frame) > 0 });
  }
  return ways;
}
