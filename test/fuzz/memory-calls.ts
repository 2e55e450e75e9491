/** memory_op with typed structures, lists included. */

import { isPv } from "../../hypervisor/page-type.ts";
import { domainField } from "../../hypervisor/xen.ts";
import {
  ADD_TO_PHYSMAP_GPFN,
  ADD_TO_PHYSMAP_IDX,
  ADD_TO_PHYSMAP_LENGTH,
  ADD_TO_PHYSMAP_SIZE,
  ADD_TO_PHYSMAP_SPACE,
  EXCHANGE_NR_EXCHANGED,
  EXCHANGE_OUT,
  EXCHANGE_SIZE,
  MEMOP_EXTENT_SHIFT,
  REMOVE_FROM_PHYSMAP_GPFN,
  REMOVE_FROM_PHYSMAP_SIZE,
  RESERVATION_DOMID,
  RESERVATION_EXTENT_ORDER,
  RESERVATION_EXTENT_START,
  RESERVATION_MEM_FLAGS,
  RESERVATION_NR_EXTENTS,
  RESERVATION_SIZE,
  XENMAPSPACE_gmfn_foreign,
  XENMAPSPACE_gmfn_range,
  XENMEM_acquire_resource,
  XENMEM_add_to_physmap,
  XENMEM_add_to_physmap_batch,
  XENMEM_claim_pages,
  XENMEM_decrease_reservation,
  XENMEM_exchange,
  XENMEM_increase_reservation,
  XENMEM_populate_physmap,
  XENMEM_remove_from_physmap,
} from "../../shared/abi/memory.ts";
import { DOMID_SELF, HYPERVISOR_memory_op } from "../../shared/abi/xen.ts";
import { DOM } from "../../shared/layout.ts";
import { DomId } from "../../shared/units.ts";
import type { Call } from "./call.ts";
import type { Draw } from "./draw.ts";
import { fillWords } from "./grant-calls.ts";
import { Structure } from "./structure.ts";
import {
  anyAddress,
  anyCount,
  anyDomid,
  anyGfn,
  anyTarget,
  anyWord,
  presentDomid,
  ramOf,
} from "./values.ts";
import type { World } from "./world.ts";

type Memory = { readonly gaddr: number; readonly bytes: Uint8Array };

/** Entries of a list that are written. */
const LISTED_MAX = 80;
const UNKNOWN_SIZE = 64;
/** XENMEM_resource_grant_table. */
const RESOURCE_GRANT_TABLE = 1;

export function memoryCall(world: World, domid: DomId, draw: Draw): Call {
  const op = memoryCommand(draw);
  const start = draw.once(12) ? draw.below(5) + (draw.once(8) ? 2 ** 26 : 0) : 0;
  const cmd = op + start * 2 ** MEMOP_EXTENT_SHIFT;
  const [structure, lists] = structureOf(world, domid, draw, op);
  const gaddr = anyAddress(world.xen, domid, draw, structure.bytes.length);
  const call = {
    op: HYPERVISOR_memory_op,
    args: [cmd, gaddr],
    memory: [...lists, { gaddr, bytes: structure.bytes }],
  };
  const order = new DataView(structure.bytes.buffer).getUint32(
    Math.min(RESERVATION_EXTENT_ORDER, structure.bytes.length - 4),
    true,
  );
  switch (op) {
    case XENMEM_increase_reservation:
      // A PV guest keeps the page whose number could not be written to its list, as in Xen.
      if (isGivenToPv(world, domid, structure)) return { ...call, partial: true };
      return order === 0 ? { ...call, nothing: start } : { ...call, partial: true };
    case XENMEM_decrease_reservation:
      // Pages of an extent that fails half-way are gone, as in Xen.
      return order === 0 ? { ...call, nothing: start } : { ...call, partial: true };
    case XENMEM_populate_physmap:
    case XENMEM_add_to_physmap_batch:
    case XENMEM_acquire_resource:
      return { ...call, partial: true };
    case XENMEM_add_to_physmap: {
      // Pages of a range before the one that fails have moved.
      const space = new DataView(structure.bytes.buffer).getUint32(ADD_TO_PHYSMAP_SPACE, true);
      return space === XENMAPSPACE_gmfn_range ? { ...call, partial: true } : call;
    }
    default:
      return call;
  }
}

/** Whether an increase of reservation is for a PV guest. */
function isGivenToPv({ xen }: World, caller: DomId, { bytes }: Structure): boolean {
  const named = new DataView(bytes.buffer).getUint16(RESERVATION_DOMID, true);
  const target = named === DOMID_SELF ? caller : named;
  return target < xen.model.limits.domains && isPv(xen, target);
}

function memoryCommand(draw: Draw): number {
  switch (draw.below(16)) {
    case 13:
      return draw.below(64);
    case 14:
      return draw.below(32);
    case 15:
      return anyWord(draw);
    default:
      return draw.oneOf([
        XENMEM_decrease_reservation,
        XENMEM_populate_physmap,
        XENMEM_add_to_physmap,
        XENMEM_remove_from_physmap,
        XENMEM_populate_physmap,
        XENMEM_decrease_reservation,
        XENMEM_add_to_physmap,
        XENMEM_increase_reservation,
        XENMEM_exchange,
        XENMEM_add_to_physmap_batch,
        XENMEM_add_to_physmap_batch,
        XENMEM_acquire_resource,
        XENMEM_claim_pages,
      ]);
  }
}

function structureOf(
  world: World,
  domid: DomId,
  draw: Draw,
  op: number,
): readonly [Structure, readonly Memory[]] {
  const { xen } = world;
  switch (op) {
    case XENMEM_increase_reservation:
    case XENMEM_decrease_reservation:
    case XENMEM_populate_physmap: {
      const at = new Structure(RESERVATION_SIZE);
      return [at, [fillReservation(world, domid, draw, at, 0)]];
    }
    case XENMEM_exchange: {
      const at = new Structure(EXCHANGE_SIZE);
      const lists = [
        fillReservation(world, domid, draw, at, 0),
        fillReservation(world, domid, draw, at, EXCHANGE_OUT),
      ];
      at.u64(EXCHANGE_NR_EXCHANGED, draw.once(4) ? draw.below(4) : 0);
      return [at, lists];
    }
    case XENMEM_add_to_physmap: {
      const at = new Structure(ADD_TO_PHYSMAP_SIZE).u16(0, anyDomid(xen, domid, draw));
      at.u16(ADD_TO_PHYSMAP_LENGTH, draw.below(4)).u32(ADD_TO_PHYSMAP_SPACE, anySpace(draw));
      at.u64(ADD_TO_PHYSMAP_IDX, draw.once(4) ? anyGfn(xen, domid, draw) : anyIndex(draw));
      return [at.u64(ADD_TO_PHYSMAP_GPFN, anyTarget(xen, domid, draw)), []];
    }
    case XENMEM_remove_from_physmap: {
      const at = new Structure(REMOVE_FROM_PHYSMAP_SIZE).u16(0, anyDomid(xen, domid, draw));
      return [at.u64(REMOVE_FROM_PHYSMAP_GPFN, anyGfn(xen, domid, draw)), []];
    }
    case XENMEM_add_to_physmap_batch:
      return physmapBatch(world, domid, draw);
    case XENMEM_acquire_resource: {
      const list = listOf(world, domid, draw, 4);
      const sound = !draw.once(3);
      const at = new Structure(32).u16(2, sound ? RESOURCE_GRANT_TABLE : draw.below(4));
      at.u16(0, sound ? presentDomid(xen, draw) : anyDomid(xen, domid, draw));
      at.u32(4, sound ? 0 : draw.below(3)).u32(8, draw.once(6) ? anyWord(draw) : draw.below(4));
      at.u64(16, draw.below(3)).u64(24, draw.once(6) ? 0 : list.gaddr);
      return [at, [list]];
    }
    case XENMEM_claim_pages: {
      const target = presentDomid(xen, draw);
      const at = new Structure(RESERVATION_SIZE).u16(RESERVATION_DOMID, target);
      const has = domainField(xen, target, DOM.TOT_PAGES);
      return [
        at.u64(RESERVATION_NR_EXTENTS, draw.once(3) ? anyCount(draw) : has + draw.below(6)),
        [],
      ];
    }
    default: {
      const at = new Structure(UNKNOWN_SIZE);
      fillWords(world, domid, draw, at);
      return [at, []];
    }
  }
}

/** Of a frame of a table: a grant frame, or a status frame. */
const anyIndex = (draw: Draw): number => draw.below(4) + (draw.once(3) ? 0x8000_0000 : 0);

const anySpace = (draw: Draw): number => (draw.once(10) ? anyWord(draw) : draw.below(6));

/** struct xen_add_to_physmap_batch: domid, space, size, foreign domid, then indexes, frames and errors. */
function physmapBatch(
  world: World,
  domid: DomId,
  draw: Draw,
): readonly [Structure, readonly Memory[]] {
  const { xen } = world;
  const count = Math.abs(anyCount(draw));
  const frames = listOf(world, domid, draw, count);
  // Mostly pages that somebody has, for oneself.
  const sound = !draw.once(3);
  const other = sound ? DomId(presentDomid(xen, draw)) : domid;
  const indexes = sound
    ? ramList(world, domid, other, draw, count)
    : listOf(world, domid, draw, count);
  const at = new Structure(32).u16(0, sound ? DOMID_SELF : anyDomid(xen, domid, draw));
  at.u16(2, sound ? XENMAPSPACE_gmfn_foreign : anySpace(draw)).u16(4, count & 0xffff);
  at.u16(6, sound ? other : anyDomid(xen, domid, draw));
  at.u64(8, indexes.gaddr).u64(16, frames.gaddr);
  return [at.u64(24, anyAddress(xen, domid, draw, 8)), [indexes, frames]];
}

/** A list of guest frames that another domain has as RAM. */
function ramList(world: World, domid: DomId, other: DomId, draw: Draw, count: number): Memory {
  const entries = Math.max(1, Math.min(LISTED_MAX, count));
  const list = new Structure(entries * 8);
  const { first } = ramOf(world.xen, other);
  for (let i = 0; i < entries; i++) list.u64(i * 8, first + draw.below(8));
  return { gaddr: anyAddress(world.xen, domid, draw, 8), bytes: list.bytes };
}

function listOf(world: World, domid: DomId, draw: Draw, count: number): Memory {
  const entries = Math.max(1, Math.min(LISTED_MAX, count));
  const list = new Structure(entries * 8);
  for (let i = 0; i < entries; i++) list.u64(i * 8, anyTarget(world.xen, domid, draw));
  return { gaddr: anyAddress(world.xen, domid, draw, 8), bytes: list.bytes };
}

function fillReservation(
  world: World,
  domid: DomId,
  draw: Draw,
  at: Structure,
  offset: number,
): Memory {
  const count = Math.abs(anyCount(draw));
  const list = listOf(world, domid, draw, count);
  at.u64(offset + RESERVATION_EXTENT_START, list.gaddr);
  at.u64(offset + RESERVATION_NR_EXTENTS, count);
  at.u32(offset + RESERVATION_EXTENT_ORDER, anyOrder(draw));
  at.u32(offset + RESERVATION_MEM_FLAGS, draw.once(10) ? anyWord(draw) : 0);
  at.u16(offset + RESERVATION_DOMID, anyDomid(world.xen, domid, draw));
  return list;
}

const anyOrder = (draw: Draw): number =>
  draw.once(4) ? (draw.once(4) ? anyWord(draw) : draw.oneOf([1, 2, 3, 9, 9, 10, 18])) : 0;
