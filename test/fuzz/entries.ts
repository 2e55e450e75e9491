/** Entries of grant tables as their guests write them: 8 bytes in version 1, 16 in version 2. */

import { grantFrame } from "../../hypervisor/active-entry.ts";
import { isV2 } from "../../hypervisor/grant-v2.ts";
import { domainField } from "../../hypervisor/xen.ts";
import {
  GTF_permit_access,
  GTF_readonly,
  GTF_sub_page,
  GTF_transitive,
} from "../../shared/abi/grant.ts";
import { DOM } from "../../shared/layout.ts";
import { GRANT_ENTRY_BYTES, GRANT_ENTRY_BYTES_V2, PAGE_SIZE } from "../../shared/limits.ts";
import type { DomId } from "../../shared/units.ts";
import type { Draw } from "./draw.ts";
import { anyDomid, anyGfn, anyRef, anyWord, hotFrame, presentDomid } from "./values.ts";
import type { World } from "./world.ts";

/** What a guest stores, in the fields of both versions; `second` is the cell of a window or of a way. */
export interface Entry {
  readonly header: number;
  readonly frame: number;
  readonly second: number;
}

/** Stores an entry, header last; false: the table does not reach so far. */
export function storeEntry(world: World, domid: DomId, ref: number, entry: Entry): boolean {
  const { xen } = world;
  const bytes = isV2(xen, domid) ? GRANT_ENTRY_BYTES_V2 : GRANT_ENTRY_BYTES;
  const perFrame = PAGE_SIZE / bytes;
  const n = Math.floor(ref / perFrame);
  if (n >= domainField(xen, domid, DOM.GRANT_FRAMES)) return false;
  const frame = grantFrame(xen, domid, n);
  const at = (ref % perFrame) * bytes;
  if (bytes === GRANT_ENTRY_BYTES_V2) {
    xen.memory.store(frame, at + 4, entry.second | 0);
    xen.memory.store(frame, at + 8, entry.frame | 0);
    xen.memory.store(frame, at + 12, Math.floor(entry.frame / 2 ** 32) & 0xff);
  } else {
    xen.memory.store(frame, at + 4, entry.frame | 0);
  }
  xen.memory.store(frame, at, entry.header | 0);
  return true;
}

/** An entry that a hostile guest may write: of any type, for anybody, about any page. */
export function anyEntry(world: World, domid: DomId, draw: Draw): Entry {
  const gfn = anyGfn(world.xen, domid, draw);
  const flags = draw.once(8) ? draw.u32() : draw.once(4) ? 0 : draw.once(3) ? 5 : 1;
  const header = (flags & 0xffff) | (anyDomid(world.xen, domid, draw) << 16);
  const second = draw.once(2) ? anyWord(draw) : presentDomid(world.xen, draw);
  return { header, frame: gfn, second };
}

/** An entry that lets `grantee` in: to a page of the granter's, to a part of one, or on to somebody else's entry. */
export function openEntry(world: World, granter: DomId, grantee: number, draw: Draw): Entry {
  const { xen } = world;
  const frame = hotFrame(xen, granter, draw);
  const readonly = draw.once(4) ? GTF_readonly : 0;
  const header = GTF_permit_access | readonly | (grantee << 16);
  if (!isV2(xen, granter)) return { header, frame, second: 0 };
  switch (draw.below(4)) {
    case 0: {
      const start = draw.below(3000);
      return { header: header | GTF_sub_page, frame, second: start | (draw.below(2000) << 16) };
    }
    case 1:
      return {
        header: GTF_transitive | readonly | (grantee << 16),
        frame: anyRef(draw),
        second: presentDomid(xen, draw),
      };
    default:
      return { header, frame, second: 0 };
  }
}
