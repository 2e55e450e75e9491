/**
 * Invariants of the IOMMU: what a device's own table says follows from the P2M and the grants, and nothing else; a context
 * is that of a domain which may have one; what an IOTLB still holds without right is on its way out.
 *
 * Rule: recounted from the census, never from the counters that the machine goes by. A machine that flushes lazily is
 * stale by right until the batch, one that never does is found out.
 * Behaviour: hypervisor spec section 9 (2, 10, 11), stress spec section 4 (I-07, I-35, I-37).
 */
import { at, item } from "../shared/assert.ts";
import { PGT_writable_page } from "../shared/frame-flags.ts";
import { isInvalidationQueued } from "../shared/invalidation-queue.ts";
import { CONTEXT, QUEUE } from "../shared/iommu-layout.ts";
import {
  CDF_iommu,
  DOM,
  DYING_DEAD,
  LINE,
  lineOf,
  mfnAt,
  SLOT_KIND_DEVICE,
  SLOT_LIVE,
  WALK_BARE,
  WALK_TABLE,
} from "../shared/layout.ts";
import { NOT_PRESENT } from "../shared/limits.ts";
import { load } from "../shared/mem.ts";
import { leafWord, PTE_WRITE } from "../shared/pte.ts";
import type { DomId } from "../shared/units.ts";
import type { Census } from "./audit-census.ts";
import { frameOwner, isXenHeap } from "./frame-table.ts";
import { needIommuMapping } from "./iommu.ts";
import { contextDomain, contextField, deviceSlot } from "./iommu-context.ts";
import { hasOwnTable, iommuPageCount } from "./iommu-table.ts";
import { scanIommuTable } from "./p2m-scan.ts";
import { isPv, typeCount, typeOf } from "./page-type.ts";
import { domainField, hasFlag, isDying, isPresent, lineField, type Xen } from "./xen.ts";

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
  // A PV domain has no P2M: its devices reach the pages of its own that are in use as writable.
  if (isPv(xen, domid)) {
    for (let frame = 0; frame < xen.layout.ramFrames; frame++) {
      if (frameOwner(xen, frame) !== domid || isXenHeap(xen, frame)) continue;
      if (typeOf(xen, frame) !== PGT_writable_page || typeCount(xen, frame) === 0) continue;
      ways.set(mfnAt(xen.layout, frame), { frame, writable: true });
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

/** A device is in the context of a living domain that may have one, and so is what that says of its owner. */
export function contexts(xen: Xen): string[] {
  const findings: string[] = [];
  let leaving = 0;
  for (let device = 0; device < xen.model.devices.length; device++) {
    const say = (what: string): void => void findings.push(`device ${device} ${what}`);
    if (contextField(xen, device, CONTEXT.LEAVING) !== NOT_PRESENT) leaving++;
    const owner = contextField(xen, device, CONTEXT.OWNER);
    if (owner !== NOT_PRESENT && !hasDevices(xen, owner)) {
      say(`is owned by domain ${owner}, which is gone`);
    }
    const deferred = contextField(xen, device, CONTEXT.DEFERRED) === 1;
    if (deferred && xen.iommu.iotlb.flush === "strict") say("owes a flush in the strict mode");
    const slot = deviceSlot(xen, device);
    const domid = contextDomain(xen, device);
    if (domid === NOT_PRESENT || lineField(xen, slot, LINE.STATE) !== SLOT_LIVE) continue;
    const mode = lineField(xen, slot, LINE.MODE);
    if (!hasDevices(xen, domid)) say(`is in the context of domain ${domid}, which is gone`);
    else if (item(xen.model.devices, device).behindIommu) {
      if (mode === WALK_BARE) say("is on a bare bus behind an IOMMU");
      if (!hasFlag(xen, domid, CDF_iommu)) {
        say(`is in the context of domain ${domid}, which has none`);
      }
    } else if (mode === WALK_TABLE) say("walks a table behind no IOMMU");
  }
  const counted = at(xen.words, xen.layout.invalidations + QUEUE.LEAVING);
  if (counted !== leaving) {
    findings.push(`${counted} devices are counted to be leaving a context, ${leaving} are`);
  }
  return findings;
}

/** Devices go before anything else when a domain dies, so a dead one has none. */
const hasDevices = (xen: Xen, domid: number): boolean =>
  isPresent(xen, domid) && domainField(xen, domid, DOM.DYING) !== DYING_DEAD;

/** Whether what a walker has cached may outlive its entry: its flush was put off by right, or is on its way. */
export function mayBeStale(xen: Xen, slot: number): boolean {
  if (lineField(xen, slot, LINE.KIND) !== SLOT_KIND_DEVICE) return false;
  const device = lineField(xen, slot, LINE.NUMBER);
  return isLate(xen, device) || isInvalidationQueued(xen.words, xen.layout, device);
}

/** Only the lazy mode is late by right. */
const isLate = (xen: Xen, device: number): boolean =>
  xen.iommu.iotlb.flush === "lazy" && contextField(xen, device, CONTEXT.DEFERRED) === 1;

/** Whether a device's open access may have begun through a translation that has gone: nobody waits in the lazy mode. */
export function isStaleAccess(xen: Xen, slot: number): boolean {
  if (lineField(xen, slot, LINE.KIND) !== SLOT_KIND_DEVICE) return false;
  if (xen.iommu.iotlb.flush !== "lazy") return false;
  const generation = load(xen.words, lineOf(xen.layout, slot) + LINE.GENERATION);
  return (
    lineField(xen, slot, LINE.INSIDE_GENERATION) !== generation ||
    isLate(xen, lineField(xen, slot, LINE.NUMBER))
  );
}
