/** Values that an adversary tries: what is there, its neighbours, what others have, and what cannot be. */
import { guestFrame } from "../../hypervisor/guest-access.ts";
import { entryType, P2M_NOTHING, p2mLookup } from "../../hypervisor/p2m.ts";
import { profileOf } from "../../hypervisor/profile.ts";
import { pvTablePages } from "../../hypervisor/pv-build.ts";
import { domainField, isPresent, type Xen } from "../../hypervisor/xen.ts";
import {
  DOMID_IDLE,
  DOMID_INVALID,
  DOMID_IO,
  DOMID_SELF,
  DOMID_XEN,
} from "../../shared/abi/xen.ts";
import { CDF_directmap, CDF_pv, DOM, mfnAt } from "../../shared/layout.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { isRam } from "../../shared/pte.ts";
import type { DomId } from "../../shared/units.ts";
import type { Draw } from "./draw.ts";
import { MAP_AREA, REGISTERS, SPECIAL_AREA } from "./machine.ts";

/** A field of all ones. */
export const ONES = -1;
/** Pages of RAM that most commands are about, so that they meet. */
const HOT_PAGES = 6;
/** References that most commands are about. */
const HOT_REFS = 10;
/** Pages at the end of RAM that hold arguments. */
const ARGUMENT_PAGES = 4;

/** First guest frame of a domain's RAM, and its pages. */
export function ramOf(xen: Xen, domid: number): { readonly first: number; readonly pages: number } {
  const model = xen.model.domains[domainField(xen, domid, DOM.MODEL)];
  if (model === undefined) return { first: 0, pages: 1 };
  const direct = (domainField(xen, domid, DOM.FLAGS) & CDF_directmap) !== 0;
  const first = direct ? (model.staticMemory[0]?.base ?? 0) / PAGE_SIZE : model.ramGfn;
  // The last pages of a PV domain are its page tables at first, which it may only read.
  const tables = isPv(xen, domid) ? pvTablePages(model.memoryPages) : 0;
  return { first, pages: model.memoryPages - tables };
}

export const isPv = (xen: Xen, domid: number): boolean =>
  domid >= 0 && (domainField(xen, domid, DOM.FLAGS) & CDF_pv) !== 0;

/** First virtual page of a PV domain where nothing is at boot, with a table for it. */
export const PV_AREA = 512;

/** Machine frame of a page that a PV domain's first pages lead to; 0 when there is none. */
function ownFrame(xen: Xen, domid: DomId, page: number): number {
  const frame = guestFrame(xen, domid, page * PAGE_SIZE, false);
  return frame === undefined ? 0 : mfnAt(xen.layout, frame);
}

/** What a domain grants its page by: a gfn, or a machine frame of a PV domain. */
export function hotFrame(xen: Xen, domid: DomId, draw: Draw): number {
  const page = ramOf(xen, domid).first + draw.below(HOT_PAGES + 2);
  return isPv(xen, domid) ? ownFrame(xen, domid, page) : page;
}

export function anyWord(draw: Draw): number {
  switch (draw.below(8)) {
    case 0:
      return 0;
    case 1:
      return draw.below(4);
    case 2:
      return draw.below(64);
    case 3:
      return draw.oneOf([0xffff_ffff, 0x7fff_ffff, 0x8000_0000, 0xffff, 0x10000]);
    case 4:
      return 2 ** draw.below(32);
    default:
      return draw.u32();
  }
}

export function anyDomid(xen: Xen, self: number, draw: Draw): number {
  switch (draw.below(12)) {
    case 0:
    case 1:
      return DOMID_SELF;
    case 2:
      return self < 0 ? 0 : self;
    case 3:
      return draw.oneOf([DOMID_IO, DOMID_XEN, DOMID_INVALID, DOMID_IDLE, 0xffff]);
    case 4:
      return draw.u32() & 0xffff;
    case 5:
      return draw.below(xen.model.limits.domains + 1);
    default:
      return presentDomid(xen, draw);
  }
}

/** A domain that is there, dying ones included; 0 when there is none. */
export function presentDomid(xen: Xen, draw: Draw): number {
  const first = draw.below(xen.model.limits.domains);
  for (let i = 0; i < xen.model.limits.domains; i++) {
    const domid = (first + i) % xen.model.limits.domains;
    if (isPresent(xen, domid)) return domid;
  }
  return 0;
}

export function anyGfn(xen: Xen, domid: DomId, draw: Draw): number {
  const { first, pages } = ramOf(xen, domid);
  if (isPv(xen, domid) && draw.once(2)) {
    const page = draw.once(2) ? draw.below(pages) : draw.below(HOT_PAGES);
    return draw.once(2) ? PV_AREA + (page % HOT_PAGES) : ownFrame(xen, domid, page);
  }
  switch (draw.below(24)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
    case 5:
    case 6:
      return first + draw.below(HOT_PAGES);
    case 7:
    case 8:
      return first + draw.below(pages + 1);
    case 9:
    case 10:
    case 11:
    case 12:
    case 13:
      return MAP_AREA + draw.below(HOT_PAGES);
    case 14:
    case 15:
      return SPECIAL_AREA + draw.below(4);
    case 16:
      return ramOf(xen, draw.below(3)).first + draw.below(HOT_PAGES);
    case 17:
      return 0x40000 + draw.below(xen.layout.ramFrames + 1);
    case 18:
      return draw.oneOf(REGISTERS) / PAGE_SIZE;
    default:
      return farGfn(draw);
  }
}

/**
 * A gfn to enter something at. Where that crashes the domain, because a special entry stands there, another one is
 * mostly taken: or everybody would be gone after a few commands.
 */
export function anyTarget(xen: Xen, domid: DomId, draw: Draw): number {
  const gfn = anyGfn(xen, domid, draw);
  if (!profileOf(xen).specialEntriesStand || draw.once(12)) return gfn;
  const stands = (place: number): boolean => {
    const entry = p2mLookup(xen, domid, place);
    return entry !== P2M_NOTHING && !isRam(entryType(entry));
  };
  if (!(gfn >= 0 && gfn < 2 ** 28) || !stands(gfn)) return gfn;
  const first = draw.below(4 * HOT_PAGES);
  for (let i = 0; i < 4 * HOT_PAGES; i++) {
    const place = MAP_AREA + ((first + i) % (4 * HOT_PAGES));
    if (!stands(place)) return place;
  }
  return gfn;
}

function farGfn(draw: Draw): number {
  switch (draw.below(7)) {
    case 0:
      return draw.u32();
    case 1:
      return ONES;
    case 2:
      return 2 ** 28 - 1 + draw.below(3);
    case 3:
      return 2 ** 36 - 2 + draw.below(4);
    case 4:
      return 2 ** (31 + draw.below(33)) - draw.below(2);
    case 5:
      return 2 ** 52 + draw.below(4096);
    default:
      return draw.below(4) * 512 + 0x50000;
  }
}

export function anyRef(draw: Draw): number {
  switch (draw.below(12)) {
    case 0:
      return draw.oneOf([0, 1, 7, 511, 512, 513, 1023, 1024, 0x7fff_ffff, 0xffff_ffff]);
    case 1:
      return draw.u32();
    default:
      return 8 + draw.below(HOT_REFS);
  }
}

/** A guest address for an argument of `size` bytes. */
export function anyAddress(xen: Xen, domid: DomId, draw: Draw, size: number): number {
  const { first, pages } = ramOf(xen, domid);
  const page = (first + pages - 1 - draw.below(Math.min(ARGUMENT_PAGES, pages))) * PAGE_SIZE;
  switch (draw.below(24)) {
    case 0:
      return anyGfn(xen, domid, draw) * PAGE_SIZE + 8 * draw.below(512);
    case 1:
      // Across the end of a page, which may be that of the RAM.
      return page + PAGE_SIZE - 4 * (1 + draw.below(Math.max(1, size / 4)));
    case 2:
      return draw.oneOf([0, 2 ** 40, 2 ** 47, 2 ** 53, 2 ** 63, ONES]) + draw.below(2) * 8;
    case 3:
      return page + draw.below(PAGE_SIZE);
    default:
      return page + 8 * draw.below(256);
  }
}

/** Elements of a batch: hardly ever more than memory holds. */
export function anyCount(draw: Draw): number {
  switch (draw.below(16)) {
    case 0:
      return 0;
    case 1:
      return draw.oneOf([-1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 2 ** 32 + 1, 2 ** 53]);
    case 2:
      return 30 + draw.below(40);
    case 3:
    case 4:
    case 5:
      return 2 + draw.below(6);
    default:
      return 1;
  }
}
