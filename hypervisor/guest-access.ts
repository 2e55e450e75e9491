/**
 * Copies between guest memory and the hypervisor's private argument buffer.
 *
 * Rules: an address is guest physical (arm64 guests run identity-mapped), or virtual in a PV guest; in the former only RAM-typed gfns whose frame the
 * domain owns can be reached, so an argument inside a grant or foreign mapping is a fault (recorded.md 19) while one
 * in the grant table or shared info page works. Each word of guest memory is read at most once per decision.
 * Behaviour: xen/arch/arm/guestcopy.c, copy_guest(), get_page_from_gva().
 */
import { DOM, LINE } from "../shared/layout.ts";
import { GFN_END, PAGE_SIZE } from "../shared/limits.ts";
import { ACCESS_WRITE, walkPv } from "../shared/mmu.ts";
import { isRam, p2m_ram_rw } from "../shared/pte.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import { frameOwner } from "./frame-table.ts";
import { entryFrame, entryType, P2M_NOTHING, p2mLookup } from "./p2m.ts";
import { isPv } from "./page-type.ts";
import { domainField, lineField, type Xen } from "./xen.ts";

/** Frame behind a guest address that the hypervisor may touch on the guest's behalf; undefined: a fault. */
export function guestFrame(
  xen: Xen,
  domid: DomId,
  gaddr: number,
  write: boolean,
): FrameIndex | undefined {
  const gfn = Math.floor(gaddr / PAGE_SIZE);
  if (!(gfn >= 0 && gfn < GFN_END)) return undefined;
  if (isPv(xen, domid)) return pvFrame(xen, domid, gfn, write);
  const entry = p2mLookup(xen, domid, gfn);
  if (entry === P2M_NOTHING) return undefined;
  const type = entryType(entry);
  if (write ? type !== p2m_ram_rw : !isRam(type)) return undefined;
  const frame = entryFrame(entry);
  return frameOwner(xen, frame) === domid ? frame : undefined;
}

/**
 * A PV guest's addresses are virtual, and what its tables map is its own to use: a page that another has granted it too.
 * The tables are those of its first vCPU (docs/FIDELITY.md, PV).
 */
function pvFrame(xen: Xen, domid: DomId, page: number, write: boolean): FrameIndex | undefined {
  const root = lineField(xen, domainField(xen, domid, DOM.SLOT), LINE.ROOT);
  const found = root < 0 ? -1 : walkPv(xen.layout, xen.words, xen.memory, root, page);
  if (found < 0 || (write && (found & ACCESS_WRITE) === 0)) return undefined;
  return FrameIndex(found >>> 3);
}

/** Copies `length` bytes at guest address `gaddr` into `into` from its start; false: a fault. */
export function copyFromGuest(
  xen: Xen,
  domid: DomId,
  gaddr: number,
  into: Uint8Array,
  length: number,
): boolean {
  for (let done = 0; done < length; ) {
    const offset = (gaddr + done) % PAGE_SIZE;
    const part = Math.min(length - done, PAGE_SIZE - offset);
    const frame = guestFrame(xen, domid, gaddr + done, false);
    if (frame === undefined) return false;
    xen.memory.onGuestWord?.();
    xen.memory.read(frame, offset, into, done, part);
    done += part;
  }
  return true;
}

/** Copies bytes `at`..`at + length` of `from` to guest address `gaddr`; false: a fault, possibly half-way. */
export function copyToGuest(
  xen: Xen,
  domid: DomId,
  gaddr: number,
  from: Uint8Array,
  at: number,
  length: number,
): boolean {
  for (let done = 0; done < length; ) {
    const offset = (gaddr + done) % PAGE_SIZE;
    const part = Math.min(length - done, PAGE_SIZE - offset);
    const frame = guestFrame(xen, domid, gaddr + done, true);
    if (frame === undefined) return false;
    xen.memory.onGuestWord?.();
    xen.memory.write(frame, offset, from, at + done, part);
    done += part;
  }
  return true;
}

/** Copies one argument structure into `xen.args`; false: a fault. */
export const copyArgs = (xen: Xen, domid: DomId, gaddr: number, length: number): boolean =>
  copyFromGuest(xen, domid, gaddr, xen.args.bytes, length);

/** Writes field `offset`, `length` bytes, of the structure in `xen.args` back to its guest address. */
export const copyFieldBack = (
  xen: Xen,
  domid: DomId,
  gaddr: number,
  offset: number,
  length: number,
): boolean => copyToGuest(xen, domid, gaddr + offset, xen.args.bytes, offset, length);

/** Reads one u64 of a guest list (a frame number); undefined: a fault. May be TOO_BIG. */
export function copyListEntry(
  xen: Xen,
  domid: DomId,
  list: number,
  index: number,
): number | undefined {
  if (!copyFromGuest(xen, domid, list + 8 * index, xen.listEntry.bytes, 8)) return undefined;
  return xen.listEntry.u64(0);
}

/** Writes one u64 of a guest list; undefined stands for all ones (INVALID_GFN). False: a fault. */
export function writeListEntry(
  xen: Xen,
  domid: DomId,
  list: number,
  index: number,
  value: number | undefined,
): boolean {
  if (value === undefined) xen.listEntry.setOnes64(0);
  else xen.listEntry.setU64(0, value);
  return copyToGuest(xen, domid, list + 8 * index, xen.listEntry.bytes, 0, 8);
}
