/**
 * Invariants of grants: pins, grantees, status bits, table pages, handles, identity entries.
 * Rule: one function an invariant. Status bits lie where the guest may write, in the header of a version 1 entry and in
 * the status frames of a version 2 table: they are judged for guests that behave.
 * Behaviour: hypervisor spec section 9 (3, 4, 6, 7, 10), stress spec section 4 (I-13 to I-16).
 */
import {
  GRANT_ENTRY_HEADER,
  GTF_permit_access,
  GTF_reading,
  GTF_type_mask,
  GTF_writing,
} from "../shared/abi/grant.ts";
import { DOMID_INVALID } from "../shared/abi/xen.ts";
import { at } from "../shared/assert.ts";
import { DOM, mfnAt } from "../shared/layout.ts";
import {
  GRANT_ENTRIES_PER_FRAME,
  GRANT_ENTRY_BYTES,
  GRANT_STATUS_PER_FRAME,
  NOT_PRESENT,
} from "../shared/limits.ts";
import { isAnyRam, p2m_iommu_map_ro, p2m_iommu_map_rw } from "../shared/pte.ts";
import type { DomId } from "../shared/units.ts";
import {
  activeDomid,
  activeKind,
  activePin,
  GNTPIN_devw_mask,
  GNTPIN_hstw_mask,
  grantEntries,
  grantFrame,
} from "./active-entry.ts";
import { type Census, entryKey, REFS } from "./audit-census.ts";
import { frameOwner, isXenHeap } from "./frame-table.ts";
import { isV2, statusFrame, statusFrames, statusOf } from "./grant-v2.ts";
import { identityCounts, needIommuMapping } from "./iommu.ts";
import { hasOwnTable } from "./iommu-table.ts";
import { trackFlags, trackRef } from "./maptrack.ts";
import { entryFrame, entryType, P2M_NOTHING, p2mLookup } from "./p2m.ts";
import { domainField, isDying, isPresent, type Xen } from "./xen.ts";

/** Each pin is the number of live halves and held second passes that name its entry. */
export function pins(xen: Xen, census: Census): string[] {
  const findings: string[] = [];
  const judge = (domid: number, ref: number, has: number, should: number): void => {
    if (has === should) return;
    findings.push(
      `entry ${ref} of domain ${domid} is pinned 0x${has.toString(16)}, not 0x${should.toString(16)}`,
    );
  };
  // Rows that the table does not reach, or no longer in version 2, are nobody's: a pin there would never go.
  const rows = xen.model.limits.grantFrames * GRANT_ENTRIES_PER_FRAME;
  for (const domid of census.domains) {
    for (let ref = 0; ref < rows; ref++) {
      const has = activePin(xen, domid, ref);
      if (has !== 0) judge(domid, ref, has, census.pins.get(entryKey(domid, ref)) ?? 0);
    }
  }
  for (const [key, should] of census.pins) {
    const [domid, ref] = [Math.floor(key / REFS), key % REFS];
    if (isPresent(xen, domid) && ref < rows && activePin(xen, domid, ref) === 0) {
      judge(domid, ref, 0, should);
    }
  }
  return findings;
}

/** Every live handle names an entry that exists, is granted to the mapper, and grants a whole page. */
export function grantees(xen: Xen, census: Census): string[] {
  return census.handles.flatMap(({ mapper, handle, granter, ref, frame }) => {
    if (granter === DOMID_INVALID) return [];
    if (frame < 0)
      return [`handle ${handle} of domain ${mapper} names a grant that does not exist`];
    const grantee = activeDomid(xen, granter, ref);
    const names = `handle ${handle} of domain ${mapper} names entry ${ref} of domain ${granter}`;
    if (grantee !== mapper) return [`${names}, granted to ${grantee}`];
    // A part of a page and a way to another domain are pinned for the length of a copy only.
    return activeKind(xen, granter, ref) === 0 ? [] : [`${names}, which is for copies`];
  });
}

/** reading is set exactly while there is a pin, writing while there is a writable one. */
export function statusBits(
  xen: Xen,
  census: Census,
  hostile: (domid: number) => boolean,
): string[] {
  const findings: string[] = [];
  for (const domid of census.domains) {
    if (hostile(domid)) continue;
    const entries = grantEntries(xen, domid);
    if (isV2(xen, domid)) {
      findings.push(...statusWords(xen, domid, entries));
      continue;
    }
    for (let ref = 0; ref < entries; ref++) {
      const header = headerOf(xen, domid, ref);
      const pin = activePin(xen, domid, ref);
      if (header === 0 && pin === 0) continue;
      // In entries of other types the same bits mean other things.
      if (pin === 0 && (header & GTF_type_mask) !== GTF_permit_access) continue;
      const writers = (pin & (GNTPIN_hstw_mask | GNTPIN_devw_mask)) !== 0;
      const reading = (header & GTF_reading) !== 0;
      const writing = (header & GTF_writing) !== 0;
      if (reading !== (pin !== 0) || writing !== writers) {
        findings.push(
          `entry ${ref} of domain ${domid}: flags 0x${(header & 0xffff).toString(16)} with pin 0x${pin.toString(16)}`,
        );
      }
    }
  }
  return findings;
}

/** As above for version 2, whose status words hold these two bits and nothing else, also behind the last entry. */
function statusWords(xen: Xen, domid: DomId, entries: number): string[] {
  const findings: string[] = [];
  const words = statusFrames(xen, domid) * GRANT_STATUS_PER_FRAME;
  for (let ref = 0; ref < words; ref++) {
    const pin = ref < entries ? activePin(xen, domid, ref) : 0;
    const writers = (pin & (GNTPIN_hstw_mask | GNTPIN_devw_mask)) !== 0;
    const should = (pin !== 0 ? GTF_reading : 0) | (writers ? GTF_writing : 0);
    const status = statusOf(xen, domid, ref);
    if (status === should) continue;
    findings.push(
      `entry ${ref} of domain ${domid}: status 0x${status.toString(16)} with pin 0x${pin.toString(16)}`,
    );
  }
  return findings;
}

/** Grant and status frames are pages of the Xen heap that their domain owns, each with one place in one table. */
export function grantFrames(xen: Xen, census: Census): string[] {
  const findings: string[] = [];
  const seen = new Set<number>();
  for (const domid of census.domains) {
    const granted = domainField(xen, domid, DOM.GRANT_FRAMES);
    const frames = [
      ...Array.from({ length: granted }, (_, n) => grantFrame(xen, domid, n)),
      ...Array.from({ length: statusFrames(xen, domid) }, (_, n) => statusFrame(xen, domid, n)),
    ];
    for (const frame of frames) {
      const owned = isXenHeap(xen, frame) && frameOwner(xen, frame) === domid;
      if (!owned)
        findings.push(`the grant table of domain ${domid} has frame ${frame}, not its own`);
      if (seen.has(frame)) findings.push(`frame ${frame} is in a grant table twice`);
      seen.add(frame);
    }
  }
  return findings;
}

/** Read as it is: the audit is no handler, so nobody may step in here. */
function headerOf(xen: Xen, domid: DomId, ref: number): number {
  const frame = grantFrame(xen, domid, Math.floor(ref / GRANT_ENTRIES_PER_FRAME));
  const offset = (ref % GRANT_ENTRIES_PER_FRAME) * GRANT_ENTRY_BYTES + GRANT_ENTRY_HEADER;
  return xen.memory.load(frame, offset);
}

/** Each handle is live or on exactly one free list; lists end at their tail; the count of live ones is right. */
export function handleLists(xen: Xen, census: Census): string[] {
  return census.domains
    .filter((domid) => !isDying(xen, domid))
    .flatMap((domid) => listsOf(xen, domid));
}

function listsOf(xen: Xen, domid: DomId): string[] {
  const findings: string[] = [];
  const limit = domainField(xen, domid, DOM.MAPTRACK_LIMIT);
  const listed = new Uint8Array(limit);
  const vcpus = domainField(xen, domid, DOM.VCPUS);
  for (let vcpu = 0; vcpu < vcpus; vcpu++) {
    const tail = domainField(xen, domid, DOM.MAPTRACK_TAIL + vcpu);
    let handle = domainField(xen, domid, DOM.MAPTRACK_HEAD + vcpu);
    if (handle === NOT_PRESENT) continue;
    for (let length = 0; length <= limit; length++) {
      if (handle < 0 || handle >= limit || listed[handle] === 1) {
        findings.push(`free list ${vcpu} of domain ${domid} runs into handle ${handle}`);
        break;
      }
      listed[handle] = 1;
      if (handle === tail) break;
      handle = trackRef(xen, domid, handle);
    }
  }
  let live = 0;
  for (let handle = 0; handle < limit; handle++) {
    const isLive = trackFlags(xen, domid, handle) !== 0;
    if (isLive) live++;
    if (isLive === (listed[handle] === 1)) {
      findings.push(
        `handle ${handle} of domain ${domid} is ${isLive ? "live and free" : "neither live nor free"}`,
      );
    }
  }
  const counted = domainField(xen, domid, DOM.MAPPINGS);
  if (counted !== live)
    findings.push(`domain ${domid} counts ${counted} live handles, ${live} exist`);
  return findings;
}

/** Identity counters are the live handles of foreign frames, and the entry at gfn == mfn says the same. */
export function identityEntries(xen: Xen, census: Census): string[] {
  return census.domains
    .filter((domid) => needIommuMapping(xen, domid) && !isDying(xen, domid))
    .flatMap((domid) => identityOf(xen, census, domid));
}

function identityOf(xen: Xen, census: Census, domid: DomId): string[] {
  const findings: string[] = [];
  const readers = new Int32Array(xen.layout.frames);
  const writers = new Int32Array(xen.layout.frames);
  for (const { mapper, granter, frame, readonly } of census.handles) {
    if (mapper !== domid || granter === domid || frame < 0) continue;
    const column = readonly ? readers : writers;
    column[frame] = at(column, frame) + 1;
  }
  for (let frame = 0; frame < xen.layout.ramFrames; frame++) {
    const [rd, wr] = identityCounts(xen, domid, frame);
    const should = [at(readers, frame), at(writers, frame)] as const;
    if (rd !== should[0] || wr !== should[1]) {
      findings.push(
        `domain ${domid} counts (${rd}, ${wr}) mappings of frame ${frame}, not (${should.join(", ")})`,
      );
    }
    // The devices' own table is recounted as a whole, by its own invariant.
    if (rd + wr > 0 && !hasOwnTable(xen, domid)) {
      findings.push(...identityEntry(xen, domid, frame, wr > 0));
    }
  }
  for (const leaf of census.leaves) {
    if (leaf.domid !== domid) continue;
    if (leaf.type !== p2m_iommu_map_rw && leaf.type !== p2m_iommu_map_ro) continue;
    const [rd, wr] = identityCounts(xen, domid, leaf.frame);
    const right = mfnAt(xen.layout, leaf.frame) === leaf.gfn && rd + wr > 0;
    if (!right)
      findings.push(
        `domain ${domid} has an identity entry at gfn ${leaf.gfn} that nothing asks for`,
      );
  }
  return findings;
}

/** The guest may have put something of its own there since: that is its right, and not a finding. */
function identityEntry(xen: Xen, domid: DomId, frame: number, writable: boolean): string[] {
  const mfn = mfnAt(xen.layout, frame);
  const entry = p2mLookup(xen, domid, mfn);
  if (entry !== P2M_NOTHING && isAnyRam(entryType(entry))) return [];
  const should = writable ? p2m_iommu_map_rw : p2m_iommu_map_ro;
  const right = entry !== P2M_NOTHING && entryType(entry) === should && entryFrame(entry) === frame;
  return right ? [] : [`domain ${domid} has no right identity entry for frame ${frame}`];
}

/** Whoever is named as a granter is still there: its domain outlives every mapping of its pages. */
export const granters = (xen: Xen, census: Census): string[] =>
  census.handles
    // A PV mapper's handle without an entry names nobody once the granter is gone.
    .filter(({ granter }) => !isPresent(xen, granter) && granter !== DOMID_INVALID)
    .map(
      ({ mapper, handle, granter }) =>
        `handle ${handle} of domain ${mapper} outlives its granter ${granter}`,
    );
