/**
 * Invariants of translation: what a table, a TLB or an open access leads to is there, and the domain may have it.
 *
 * The one translation that a faithful machine leaves behind without a right to it is the grant entry that an unmap
 * with an empty gfn forgot (recorded.md 12). Each such unmap is counted in EMPTY_UNMAPS, so as many entries without a
 * handle are a known finding, and one more is a fault of this hypervisor. The same goes for RAM entries whose page was
 * given up through a grant of it to oneself (STRAY_RAM). The strict hypervisor has none.
 * Behaviour: hypervisor spec section 9 (2, 9, 11, 13, 18), stress spec section 4 (I-07 to I-12, I-22, I-35, I-37).
 */
import { at } from "../shared/assert.ts";
import { CONTEXT } from "../shared/iommu-layout.ts";
import {
  CDF_directmap,
  DOM,
  DYING_DEAD,
  LINE,
  lineOf,
  mfnAt,
  SLOT_KIND_DEVICE,
  SLOT_KIND_VCPU,
  SLOT_LIVE,
  WALK_BLOCKED,
  WALK_OFF,
  WALK_TABLE,
} from "../shared/layout.ts";
import { NOT_PRESENT, TLB_ENTRIES } from "../shared/limits.ts";
import { load, type Words } from "../shared/mem.ts";
import { ACCESS_WRITE, FAULT_TRANSLATION, walk } from "../shared/mmu.ts";
import { isForeign, isGrant, isRam, P2M_TYPE_NAMES, p2m_grant_map_rw } from "../shared/pte.ts";
import { DomId } from "../shared/units.ts";
import type { Census, Leaf } from "./audit-census.ts";
import { isStaleAccess, mayBeStale } from "./audit-iommu.ts";
import { isFifo } from "./event-fifo-array.ts";
import { frameOwner, isFree, isRamFrame, isReserved, isXenHeap } from "./frame-table.ts";
import { holdsOf } from "./hold-list.ts";
import { contextField } from "./iommu-context.ts";
import { contextRoot } from "./iommu-table.ts";
import {
  domainField,
  hasFlag,
  isDying,
  isPresent,
  lineField,
  slotDomain,
  type Xen,
} from "./xen.ts";

/** How a finding begins that the recorded Xen would have too. */
export const KNOWN_FINDING = "known finding: ";

const isIdle = (xen: Xen, frame: number): boolean => isFree(xen, frame) || isReserved(xen, frame);
const nameOf = ({ domid, gfn, type }: Leaf): string =>
  `gfn ${gfn} of domain ${domid} (${P2M_TYPE_NAMES[type] ?? type})`;

/** Every entry of a living domain names memory that the domain has a right to, of the kind the entry says. */
export function p2mEntries(xen: Xen, census: Census): string[] {
  const findings: string[] = [];
  const grants = new Map<number, string[]>();
  const ram = new Map<number, string[]>();
  const granted = grantedKeys(xen, census);
  for (const leaf of census.leaves) {
    // A dying domain's pages go before its entries, when nobody can walk them any more.
    if (isDying(xen, leaf.domid)) continue;
    if (isGrant(leaf.type)) {
      if (!granted.has(grantKey(xen, leaf.domid, leaf.frame, leaf.type !== p2m_grant_map_rw))) {
        grants.set(leaf.domid, [...(grants.get(leaf.domid) ?? []), grantText(xen, leaf)]);
      }
    } else if (isRam(leaf.type) && isRamFrame(xen, leaf.frame)) {
      const texts = judgeRam(xen, leaf);
      if (texts.length > 0) ram.set(leaf.domid, [...(ram.get(leaf.domid) ?? []), ...texts]);
    } else {
      judgeEntry(xen, leaf, findings);
    }
  }
  findings.push(...forgive(xen, grants, DOM.EMPTY_UNMAPS), ...forgive(xen, ram, DOM.STRAY_RAM));
  return findings;
}

/** As many entries of a domain as its column counts are known findings of the faithful machine. */
function forgive(
  xen: Xen,
  strays: ReadonlyMap<number, readonly string[]>,
  column: number,
): readonly string[] {
  return [...strays].flatMap(([domid, texts]) => {
    const forgiven = xen.model.hypervisor === "faithful" ? domainField(xen, domid, column) : 0;
    return texts.map((text, i) => (i < forgiven ? KNOWN_FINDING + text : text));
  });
}

/** RAM is in use, and the domain's own. */
function judgeRam(xen: Xen, leaf: Leaf): readonly string[] {
  const findings: string[] = [];
  for (let frame = leaf.frame; frame < leaf.frame + 2 ** leaf.order; frame++) {
    const owner = frameOwner(xen, frame);
    if (isIdle(xen, frame)) findings.push(`${nameOf(leaf)} leads to free frame ${frame}`);
    else if (owner !== leaf.domid) {
      const whose = owner === NOT_PRESENT ? "nobody" : `domain ${owner}`;
      findings.push(`${nameOf(leaf)} leads to frame ${frame} of ${whose}`);
    }
  }
  return findings;
}

/** Names what a live handle allows: a mapper, a frame, and whether only to read. */
const grantKey = (xen: Xen, mapper: number, frame: number, readonly: boolean): number =>
  (mapper * xen.layout.frames + frame) * 2 + (readonly ? 1 : 0);

function grantedKeys(xen: Xen, census: Census): ReadonlySet<number> {
  const keys = new Set<number>();
  for (const { mapper, frame, readonly } of census.handles) {
    keys.add(grantKey(xen, mapper, frame, true));
    if (!readonly) keys.add(grantKey(xen, mapper, frame, false));
  }
  return keys;
}

const grantText = (xen: Xen, leaf: Leaf): string => {
  const whose = isIdle(xen, leaf.frame) ? "free" : `of domain ${frameOwner(xen, leaf.frame)}`;
  return `${nameOf(leaf)} leads to frame ${leaf.frame}, ${whose}, without a grant`;
};

function judgeEntry(xen: Xen, leaf: Leaf, findings: string[]): void {
  if (!isRamFrame(xen, leaf.frame)) {
    const owner = contextField(xen, leaf.frame - xen.layout.ramFrames, CONTEXT.OWNER);
    const own = owner === leaf.domid;
    if (!own) findings.push(`${nameOf(leaf)} leads to a device that is not its domain's`);
    return;
  }
  const end = leaf.frame + 2 ** leaf.order;
  for (let frame = leaf.frame; frame < end; frame++) {
    if (isIdle(xen, frame)) findings.push(`${nameOf(leaf)} leads to free frame ${frame}`);
    else if (frameOwner(xen, frame) === NOT_PRESENT && isForeign(leaf.type)) {
      findings.push(`${nameOf(leaf)} leads to frame ${frame} of nobody`);
    }
  }
}

/** RAM of a direct-mapped domain lies at gfn == mfn. Xen's own pages lie where the domain wants them. */
export function directMap(xen: Xen, census: Census): string[] {
  return census.leaves
    .filter(
      ({ domid, gfn, frame, type }) =>
        isRam(type) &&
        hasFlag(xen, domid, CDF_directmap) &&
        isRamFrame(xen, frame) &&
        !isXenHeap(xen, frame) &&
        mfnAt(xen.layout, frame) !== gfn,
    )
    .map((leaf) => `${nameOf(leaf)} is direct-mapped RAM at frame ${leaf.frame}`);
}

/**
 * A row of the TLB that its walker would still use says what the table says, or leads to a page that a handler holds because
 * its flush is still to come.
 */
export function translations(xen: Xen): string[] {
  const findings: string[] = [];
  for (let slot = 0; slot < xen.model.limits.slots; slot++) {
    if (lineField(xen, slot, LINE.STATE) !== SLOT_LIVE) continue;
    if (lineField(xen, slot, LINE.MODE) !== WALK_TABLE || slotDomain(xen, slot) < 0) continue;
    const generation = load(xen.words, lineOf(xen.layout, slot) + LINE.GENERATION);
    if (lineField(xen, slot, LINE.INSIDE_GENERATION) !== generation) continue;
    if (!mayBeStale(xen, slot)) findings.push(...tlbOf(xen, slot));
  }
  return findings;
}

function tlbOf(xen: Xen, slot: number): string[] {
  const { words, layout, memory } = xen;
  const findings: string[] = [];
  const root = lineField(xen, slot, LINE.ROOT);
  const tags = layout.tlbTags + slot * TLB_ENTRIES;
  for (let row = 0; row < TLB_ENTRIES; row++) {
    // Nearly all rows are empty, and this is looked at after each step of an explored run.
    if (row % 4 === 0 && areEmpty(words, tags + row)) {
      row += 3;
      continue;
    }
    const tag = at(words, tags + row);
    if (tag === NOT_PRESENT) continue;
    const cached = at(words, layout.tlbValues + slot * TLB_ENTRIES + row);
    if (cached === 0) continue;
    const walked =
      root === NOT_PRESENT ? -FAULT_TRANSLATION : walk(layout, words, memory, root, tag);
    // A permission that was added since is not a danger; one that was taken away is.
    const stale =
      walked < 0 || walked >>> 3 !== cached >>> 3 || (cached & ~walked & ACCESS_WRITE) !== 0;
    if (stale && !isHeld(xen, cached >>> 3)) {
      findings.push(
        `slot ${slot} would still reach frame ${cached >>> 3} through gfn ${tag}, which is not there`,
      );
    }
  }
  return findings;
}

/** Whether four rows from one on have no tag: NOT_PRESENT is all ones. */
const areEmpty = (words: Words, from: number): boolean =>
  (at(words, from) & at(words, from + 1) & at(words, from + 2) & at(words, from + 3)) ===
  NOT_PRESENT;

/** Whether some pending handler holds a frame. */
function isHeld(xen: Xen, frame: number): boolean {
  for (let slot = 0; slot < xen.model.limits.slots; slot++) {
    if (holdsOf(xen, slot).some((hold) => hold.frame === frame)) return true;
  }
  return false;
}

type Holders = Pick<Census, "handles" | "holds" | "leaves">;

/** An open access touches memory that is in use, and that its domain could reach when the access began. */
export function openAccesses(xen: Xen, census: Holders): string[] {
  const findings: string[] = [];
  for (let slot = 0; slot < xen.model.limits.slots; slot++) {
    const frame = lineField(xen, slot, LINE.INSIDE) - 1;
    // Without an IOMMU nothing holds a device back: what it hits is what it hits.
    if (frame < 0 || isOnBareBus(xen, slot) || !isRamFrame(xen, frame)) continue;
    if (isStaleAccess(xen, slot)) continue;
    const domains = [slotDomain(xen, slot), leavingDomain(xen, slot)];
    if (!domains.some((domid) => mayTouch(xen, census, domid, frame))) {
      const whose = isIdle(xen, frame) ? "which is free" : `of domain ${frameOwner(xen, frame)}`;
      findings.push(`slot ${slot} is inside an access to frame ${frame}, ${whose}`);
    }
  }
  return findings;
}

/** A device that has just lost its bus may still be inside the access that it began on it. */
function isOnBareBus(xen: Xen, slot: number): boolean {
  if (lineField(xen, slot, LINE.KIND) !== SLOT_KIND_DEVICE) return false;
  return xen.model.devices[lineField(xen, slot, LINE.NUMBER)]?.behindIommu === false;
}

/** The domain whose context a device has left while it may still be inside an access of it. */
function leavingDomain(xen: Xen, slot: number): DomId {
  if (lineField(xen, slot, LINE.KIND) !== SLOT_KIND_DEVICE) return slotDomain(xen, slot);
  return DomId(contextField(xen, lineField(xen, slot, LINE.NUMBER), CONTEXT.LEAVING));
}

function mayTouch(xen: Xen, census: Holders, domid: DomId, frame: number): boolean {
  if (domid < 0) return frameOwner(xen, frame) === NOT_PRESENT && isXenHeap(xen, frame);
  if (!isIdle(xen, frame) && frameOwner(xen, frame) === domid) return true;
  if (census.handles.some((handle) => handle.mapper === domid && handle.frame === frame))
    return true;
  if (census.holds.some((hold) => hold.frame === frame)) return true;
  // What a living domain's table leads to has been judged there: a forgotten grant is not reported twice. Of a dying one
  // only foreign entries still hold their page, and those go after the walkers.
  const dying = isDying(xen, domid);
  return census.leaves.some(
    (leaf) => leaf.domid === domid && leaf.frame === frame && (!dying || isForeign(leaf.type)),
  );
}

/** A live slot belongs to a domain that is there, walks its table, and is the slot that the domain names. */
export function walkers(xen: Xen): string[] {
  const findings: string[] = [];
  for (let slot = 0; slot < xen.model.limits.slots; slot++) {
    if (lineField(xen, slot, LINE.STATE) !== SLOT_LIVE) continue;
    const kind = lineField(xen, slot, LINE.KIND);
    const domid = slotDomain(xen, slot);
    if (kind === SLOT_KIND_DEVICE && domid === NOT_PRESENT) {
      if (!isQuarantined(xen, slot)) {
        findings.push(`the device of slot ${slot} is nobody's and not blocked`);
      }
    } else if (kind === SLOT_KIND_DEVICE || kind === SLOT_KIND_VCPU) {
      findings.push(...walkerOf(xen, slot, domid, kind));
    }
  }
  return findings;
}

/** Nowhere, off its bus, or at its scratch page and nowhere else. */
function isQuarantined(xen: Xen, slot: number): boolean {
  const mode = lineField(xen, slot, LINE.MODE);
  if (mode !== WALK_TABLE) return mode === WALK_BLOCKED || mode === WALK_OFF;
  const root = contextField(xen, lineField(xen, slot, LINE.NUMBER), CONTEXT.SCRATCH_ROOT);
  return root !== NOT_PRESENT && lineField(xen, slot, LINE.ROOT) === root;
}

function walkerOf(xen: Xen, slot: number, domid: DomId, kind: number): string[] {
  if (!isPresent(xen, domid))
    return [`slot ${slot} belongs to domain ${domid}, which does not exist`];
  const findings: string[] = [];
  const walks = lineField(xen, slot, LINE.MODE) === WALK_TABLE;
  const root =
    kind === SLOT_KIND_DEVICE ? contextRoot(xen, domid) : domainField(xen, domid, DOM.P2M_ROOT);
  if (walks && lineField(xen, slot, LINE.ROOT) !== root) {
    findings.push(`slot ${slot} walks a table that is not that of domain ${domid}`);
  }
  const number = lineField(xen, slot, LINE.NUMBER);
  if (kind === SLOT_KIND_VCPU && domainField(xen, domid, DOM.SLOT + number) !== slot) {
    findings.push(`slot ${slot} is vCPU ${number} of domain ${domid}, which names another slot`);
  }
  return findings;
}

/** A domain's table pages are those that a walk of its table meets. */
export function tablePages(xen: Xen, census: Census): string[] {
  return census.domains
    .filter((domid) => !isDying(xen, domid))
    .flatMap((domid) => {
      const counted = domainField(xen, domid, DOM.P2M_PAGE_COUNT);
      const met = census.tables.get(domid) ?? 0;
      return counted === met
        ? []
        : [`domain ${domid} counts ${counted} table pages, its table has ${met}`];
    });
}

/** Of a dead domain nothing is left but what others refer to. */
export function deadDomains(xen: Xen, census: Census): string[] {
  return census.domains
    .filter((domid) => domainField(xen, domid, DOM.DYING) === DYING_DEAD)
    .flatMap((domid) => {
      const findings: string[] = [];
      const say = (what: string): void =>
        void findings.push(`domain ${domid} is dead and has ${what}`);
      if (census.leaves.some((leaf) => leaf.domid === domid)) say("P2M entries");
      if (census.handles.some((handle) => handle.mapper === domid)) say("live handles");
      if (domainField(xen, domid, DOM.VALID_EVTCHNS) > 1) say("event channels");
      if (isFifo(xen, domid)) say("a FIFO event array");
      if (domainField(xen, domid, DOM.P2M_PAGE_COUNT) > 0) say("table pages");
      return findings;
    });
}
