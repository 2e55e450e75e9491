/** What only a PV guest asks for: changes of its page tables. Arguments are virtual addresses, frames machine frames. */

import { guestFrame } from "../../hypervisor/guest-access.ts";
import { pvTablePages } from "../../hypervisor/pv-build.ts";
import { domainField } from "../../hypervisor/xen.ts";
import {
  MMU_UPDATE_PTR,
  MMU_UPDATE_SIZE,
  MMU_UPDATE_VAL,
  MMUEXT_OP_ARG1,
  MMUEXT_OP_ARG2,
  MMUEXT_OP_CMD,
  MMUEXT_OP_SIZE,
} from "../../shared/abi/mmu.ts";
import {
  DOMID_SELF,
  HYPERVISOR_mmu_update,
  HYPERVISOR_mmuext_op,
  HYPERVISOR_update_va_mapping,
} from "../../shared/abi/xen.ts";
import { DOM, mfnAt } from "../../shared/layout.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import type { DomId } from "../../shared/units.ts";
import type { Call } from "./call.ts";
import type { Draw } from "./draw.ts";
import { Structure } from "./structure.ts";
import { anyAddress, anyDomid, anyGfn, anyWord, PV_AREA } from "./values.ts";
import type { World } from "./world.ts";

const BATCH_MAX = 4;

export function pvCall(world: World, domid: DomId, draw: Draw): Call {
  switch (draw.below(3)) {
    case 0:
      return batch(world, domid, draw, HYPERVISOR_mmu_update, MMU_UPDATE_SIZE, fillUpdate);
    case 1:
      return batch(world, domid, draw, HYPERVISOR_mmuext_op, MMUEXT_OP_SIZE, fillExt);
    default: {
      const page = draw.once(3) ? anyGfn(world.xen, domid, draw) : PV_AREA + draw.below(8);
      const args = [page * PAGE_SIZE, anyEntry(world, domid, draw), draw.below(8)];
      return { op: HYPERVISOR_update_va_mapping, args, memory: [] };
    }
  }
}

type Fill = (world: World, domid: DomId, draw: Draw, at: Structure) => void;

/** A list, its length, no place for the number done, and whose pages it is about. */
function batch(world: World, domid: DomId, draw: Draw, op: number, size: number, fill: Fill): Call {
  const count = draw.once(3) ? 1 + draw.below(BATCH_MAX) : 1;
  const gaddr = anyAddress(world.xen, domid, draw, size);
  const bytes = new Uint8Array(size * count);
  for (let i = 0; i < count; i++) {
    const element = new Structure(size);
    fill(world, domid, draw, element);
    bytes.set(element.bytes, i * size);
  }
  const whose = draw.once(6) ? anyDomid(world.xen, domid, draw) : DOMID_SELF;
  const call = { op, args: [gaddr, count, 0, whose], memory: [{ gaddr, bytes }] };
  // Elements before the one that is refused are done.
  return count === 1 ? call : { ...call, partial: true };
}

/** Machine frame of one of the domain's page tables, or of any page. */
function anyTable(world: World, domid: DomId, draw: Draw): number {
  const { xen } = world;
  const pages = xen.model.domains[domainField(xen, domid, DOM.MODEL)]?.memoryPages ?? 1;
  const page = pages - 1 - draw.below(pvTablePages(pages));
  const frame = guestFrame(xen, domid, page * PAGE_SIZE, false);
  return frame === undefined || draw.once(6) ? anyGfn(xen, domid, draw) : mfnAt(xen.layout, frame);
}

/** An entry: a page or a table, with flags that make sense, most of the time; or nothing. */
function anyEntry(world: World, domid: DomId, draw: Draw): number {
  if (draw.once(4)) return 0;
  const mfn = draw.once(3) ? anyTable(world, domid, draw) : anyGfn(world.xen, domid, draw);
  const flags = draw.once(4) ? anyWord(draw) & 0xfff : draw.oneOf([1, 3, 5, 7]);
  return mfn * PAGE_SIZE + flags;
}

function fillUpdate(world: World, domid: DomId, draw: Draw, at: Structure): void {
  const slot = draw.once(3) ? draw.below(512) : draw.below(8);
  const command = draw.once(4) ? draw.below(4) : 0;
  at.u64(MMU_UPDATE_PTR, anyTable(world, domid, draw) * PAGE_SIZE + slot * 8 + command);
  at.u64(MMU_UPDATE_VAL, anyEntry(world, domid, draw));
}

function fillExt(world: World, domid: DomId, draw: Draw, at: Structure): void {
  at.u32(MMUEXT_OP_CMD, draw.once(8) ? anyWord(draw) : draw.below(18));
  at.u64(MMUEXT_OP_ARG1, anyTable(world, domid, draw));
  at.u64(MMUEXT_OP_ARG2, draw.once(2) ? anyTable(world, domid, draw) : anyWord(draw));
}
