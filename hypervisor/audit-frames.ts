/**
 * Invariants of the frame table: counts, owners, lists and pools.
 * Rule: one function an invariant; each returns its findings, in words that name domain and frame.
 * Behaviour: hypervisor spec section 9 (1, 8, 12, 13), stress spec section 4 (I-01 to I-06, I-20, I-21, I-42).
 */
import { at } from "../shared/assert.ts";
import { PGC_count_mask, PGC_state_free, PGC_static, PGC_xen_heap } from "../shared/frame-flags.ts";
import { HOLD_TABLE_PAGE, HOLD_XEN_PAGE } from "../shared/hold-layout.ts";
import { DOM, DYING_DEAD, MACHINE } from "../shared/layout.ts";
import { NOT_PRESENT } from "../shared/limits.ts";
import { rootPages } from "../shared/mmu.ts";
import { isRam } from "../shared/pte.ts";
import type { Census } from "./audit-census.ts";
import {
  frameOwner,
  frameReferences,
  isAllocated,
  isFree,
  isReserved,
  isXenHeap,
  nextFrame,
  xenHeapGfn,
} from "./frame-table.ts";
import { statusFrames } from "./grant-v2.ts";
import { scratchPages } from "./iommu-context.ts";
import { hasOwnTable, iommuPageCount } from "./iommu-table.ts";
import { profileOf } from "./profile.ts";
import { domainField, isDying, isPresent, type Xen } from "./xen.ts";
import { xenHeapFirst } from "./xen-heap.ts";

/** A frame's count is its allocation reference, its mappings, and what pending handlers hold. */
export function frameCounts(xen: Xen, census: Census): string[] {
  const findings: string[] = [];
  for (let frame = 0; frame < xen.layout.ramFrames; frame++) {
    const has = frameReferences(xen, frame);
    const should = at(census.references, frame);
    if (has !== should) findings.push(`frame ${frame} counts ${has} references, ${should} exist`);
  }
  return findings;
}

/** The allocation reference is a reference: a frame that has it counts at least one. */
export function allocations(xen: Xen): string[] {
  const findings: string[] = [];
  for (let frame = 0; frame < xen.layout.ramFrames; frame++) {
    if (!isAllocated(xen, frame) || frameReferences(xen, frame) > 0) continue;
    findings.push(`frame ${frame} has its allocation reference and counts none`);
  }
  return findings;
}

/** A free or reserved frame has no owner and no flag but its own; a frame in use has an owner. */
export function frameOwners(xen: Xen): string[] {
  const findings: string[] = [];
  for (let frame = 0; frame < xen.layout.ramFrames; frame++) {
    const owner = frameOwner(xen, frame);
    const word = at(xen.words, xen.layout.frameCount + frame);
    const idle = isFree(xen, frame) || isReserved(xen, frame);
    if (idle && owner !== NOT_PRESENT) {
      findings.push(`frame ${frame} is free and owned by domain ${owner}`);
    }
    if (isFree(xen, frame) && word !== PGC_state_free) {
      findings.push(`frame ${frame} is free and in use: 0x${(word >>> 0).toString(16)}`);
    }
    if (!idle && (word & PGC_count_mask) > 0 && !isPresent(xen, owner)) {
      findings.push(`frame ${frame} has references and no owner`);
    }
  }
  return findings;
}

/** A domain's lists hold exactly the frames it owns, and their lengths are its totals. */
export function pageLists(xen: Xen, census: Census): string[] {
  const findings: string[] = [];
  const listed = new Uint8Array(xen.layout.frames);
  for (const domid of census.domains) {
    const lists = [
      ["page list", DOM.PAGE_LIST, DOM.TOT_PAGES, 0],
      ["xen heap list", DOM.XENPAGE_LIST, DOM.XENHEAP_PAGES, PGC_xen_heap],
    ] as const;
    for (const [name, head, total, heap] of lists) {
      let length = 0;
      let frame = domainField(xen, domid, head);
      while (frame !== NOT_PRESENT && length <= xen.layout.frames) {
        const word = at(xen.words, xen.layout.frameCount + frame);
        const belongs = frameOwner(xen, frame) === domid && (word & PGC_xen_heap) === heap;
        if (!belongs)
          findings.push(`frame ${frame} is in the ${name} of domain ${domid}, not its own`);
        listed[frame] = 1;
        length++;
        frame = nextFrame(xen, frame);
      }
      const has = domainField(xen, domid, total);
      if (has !== length) {
        findings.push(`domain ${domid} counts ${has} pages, its ${name} has ${length}`);
      }
    }
  }
  return [...findings, ...unlisted(xen, listed)];
}

function unlisted(xen: Xen, listed: Uint8Array): string[] {
  const findings: string[] = [];
  for (let frame = 0; frame < xen.layout.ramFrames; frame++) {
    const inUse = frameReferences(xen, frame) > 0 && frameOwner(xen, frame) !== NOT_PRESENT;
    if (inUse && listed[frame] === 0) findings.push(`frame ${frame} is owned and in nobody's list`);
  }
  return findings;
}

/** Free, owned, reserved and Xen's frames together are all there are, and the free list is the free frames. */
export function pools(xen: Xen, census: Census): string[] {
  const { words, layout } = xen;
  const findings: string[] = [];
  let listed = 0;
  for (
    let f = at(words, MACHINE.FREE_HEAD);
    f !== NOT_PRESENT && listed <= layout.frames;
    listed++
  ) {
    if (!isFree(xen, f)) findings.push(`frame ${f} is on the free list and not free`);
    f = nextFrame(xen, f);
  }
  const counted = at(words, MACHINE.FREE_FRAMES);
  if (listed !== counted)
    findings.push(`the heap counts ${counted} free frames, its list has ${listed}`);
  const owned = census.domains.reduce(
    (sum, domid) => sum + domainField(xen, domid, DOM.TOT_PAGES),
    0,
  );
  let heap = 0;
  let reserved = 0;
  for (let frame = 0; frame < layout.ramFrames; frame++) {
    if (isXenHeap(xen, frame)) heap++;
    else if (at(words, layout.frameCount + frame) === PGC_static) reserved++;
  }
  const sum = listed + owned + heap + reserved;
  if (sum !== layout.ramFrames) {
    findings.push(
      `${layout.ramFrames} frames, but ${listed} free + ${owned} owned + ${heap} + ${reserved}`,
    );
  }
  return findings;
}

/** Every page of the Xen heap is free, or a table, pool, grant or shared info page of some domain, or in quarantine. */
export function xenHeap(xen: Xen, census: Census): string[] {
  const roots = rootPages(xen.layout);
  const used = census.domains.reduce((sum, domid) => {
    const field = (column: number): number => domainField(xen, domid, column);
    const root = field(DOM.P2M_ROOT) === NOT_PRESENT ? 0 : roots;
    const second = hasOwnTable(xen, domid) ? roots + iommuPageCount(xen, domid) : 0;
    const info = field(DOM.SHARED_INFO) === NOT_PRESENT ? 0 : 1;
    const tables = field(DOM.P2M_PAGE_COUNT) + field(DOM.P2M_POOL_FREE);
    const grants = field(DOM.GRANT_FRAMES) + statusFrames(xen, domid);
    return sum + root + second + info + tables + grants;
  }, scratchPages(xen));
  const held = census.holds.filter(
    ({ kind }) => kind === HOLD_XEN_PAGE || kind === HOLD_TABLE_PAGE,
  ).length;
  const free = at(xen.words, MACHINE.XEN_HEAP_FREE);
  const all = xen.model.limits.xenHeapPages;
  return used + held + free === all
    ? []
    : [`the Xen heap has ${all} pages: ${free} free, ${used} in use`];
}

/** A domain's references are its creation and its pages; dead without any, it is gone. */
export function domainReferences(xen: Xen, census: Census): string[] {
  return census.domains.flatMap((domid) => {
    const field = (column: number): number => domainField(xen, domid, column);
    const alive = field(DOM.DYING) === DYING_DEAD ? 0 : 1;
    // Each domain that acts for this one holds a reference on it.
    const agents = census.domains.filter(
      (other) => domainField(xen, other, DOM.TARGET) === 1 + domid,
    );
    const pages = (field(DOM.TOT_PAGES) > 0 ? 1 : 0) + (field(DOM.XENHEAP_PAGES) > 0 ? 1 : 0);
    const should = alive + pages + agents.length;
    const has = field(DOM.REFS);
    const findings: string[] = [];
    if (has !== should) findings.push(`domain ${domid} counts ${has} references, ${should} exist`);
    if (should === 0) findings.push(`domain ${domid} is dead and unreferenced, but not gone`);
    return findings;
  });
}

/** Where a page has one gfn, no page of a domain's RAM stands at two of its own. */
export function singleGfns(xen: Xen, census: Census): string[] {
  if (!profileOf(xen).oneGfnAPage) return [];
  const findings: string[] = [];
  const seen = new Int32Array(xen.layout.ramFrames).fill(NOT_PRESENT);
  for (const { domid, gfn, frame, type, order } of census.leaves) {
    if (!isRam(type)) continue;
    for (let i = 0; i < 2 ** order; i++) {
      const first = seen[frame + i];
      if (first === undefined || frameOwner(xen, frame + i) !== domid) continue;
      if (first !== NOT_PRESENT) {
        findings.push(
          `frame ${frame + i} stands at gfns ${first} and ${gfn + i} of domain ${domid}`,
        );
      }
      seen[frame + i] = gfn + i;
    }
  }
  return findings;
}

/** A xen heap page is mapped at most once in its owner's table, at the gfn its record names. */
export function xenHeapGfns(xen: Xen, census: Census): string[] {
  const findings: string[] = [];
  const mapped = new Map<number, number>();
  for (const { domid, gfn, frame, type } of census.leaves) {
    // A domain may map its own page once more by a grant: only the RAM entry has a record.
    if (!isRam(type) || !isXenHeapOf(xen, frame, domid)) continue;
    const recorded = xenHeapGfn(xen, frame);
    if (recorded !== gfn) {
      findings.push(
        `xen heap frame ${frame} is mapped at gfn ${gfn} of domain ${domid}, recorded ${recorded}`,
      );
    }
    mapped.set(frame, (mapped.get(frame) ?? 0) + 1);
  }
  const first = xenHeapFirst(xen);
  for (let frame = first; frame < first + xen.model.limits.xenHeapPages; frame++) {
    const times = mapped.get(frame) ?? 0;
    // The record of a dying domain's page outlives its table, which is torn down as a whole.
    const recorded = xenHeapGfn(xen, frame) !== NOT_PRESENT;
    const should = recorded && !isDying(xen, frameOwner(xen, frame)) ? 1 : 0;
    if (times > 1) findings.push(`xen heap frame ${frame} is mapped ${times} times`);
    if (times < should) findings.push(`xen heap frame ${frame} is recorded at a gfn that is empty`);
  }
  return findings;
}

const isXenHeapOf = (xen: Xen, frame: number, domid: number): boolean =>
  frame >= 0 &&
  frame < xen.layout.ramFrames &&
  isXenHeap(xen, frame) &&
  frameOwner(xen, frame) === domid;

/** What domains have claimed adds up to what the heap keeps back, and no dying domain has a claim. */
export function claims(xen: Xen, census: Census): string[] {
  const findings: string[] = [];
  let sum = 0;
  for (const domid of census.domains) {
    const claimed = domainField(xen, domid, DOM.OUTSTANDING_PAGES);
    if (claimed > 0 && isDying(xen, domid)) findings.push(`domain ${domid} is dying with a claim`);
    sum += claimed;
  }
  const kept = at(xen.words, MACHINE.OUTSTANDING_CLAIMS);
  if (sum !== kept) findings.push(`the heap keeps ${kept} pages back, domains claim ${sum}`);
  return findings;
}
