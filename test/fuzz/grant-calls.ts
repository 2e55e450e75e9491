/** Grant table operations: typed structures for those with a known shape, words that look like fields for all others. */

import { activeFrame, grantEntries } from "../../hypervisor/active-entry.ts";
import { trackDomid, trackFlags, trackRef } from "../../hypervisor/maptrack.ts";
import { entryFrame, entryType, p2mLookup } from "../../hypervisor/p2m.ts";
import { profileOf } from "../../hypervisor/profile.ts";
import { domainField, isPresent } from "../../hypervisor/xen.ts";
import {
  CACHE_FLUSH_DEV_BUS_ADDR,
  CACHE_FLUSH_LENGTH,
  CACHE_FLUSH_OFFSET,
  CACHE_FLUSH_OP,
  CACHE_FLUSH_SIZE,
  COPY_DEST,
  COPY_FLAGS,
  COPY_LEN,
  COPY_PTR_DOMID,
  COPY_PTR_OFFSET,
  COPY_PTR_REF_OR_GMFN,
  COPY_SIZE,
  COPY_SOURCE,
  COPY_STATUS,
  GET_VERSION_SIZE,
  GNTMAP_device_map,
  GNTTAB_CACHE_SOURCE_GREF,
  GNTTABOP_cache_flush,
  GNTTABOP_copy,
  GNTTABOP_get_status_frames,
  GNTTABOP_get_version,
  GNTTABOP_map_grant_ref,
  GNTTABOP_query_size,
  GNTTABOP_set_version,
  GNTTABOP_setup_table,
  GNTTABOP_swap_grant_ref,
  GNTTABOP_transfer,
  GNTTABOP_unmap_and_replace,
  GNTTABOP_unmap_grant_ref,
  MAP_DOM,
  MAP_FLAGS,
  MAP_HOST_ADDR,
  MAP_REF,
  MAP_SIZE,
  MAP_STATUS,
  QUERY_SIZE_SIZE,
  QUERY_STATUS,
  SET_VERSION_SIZE,
  SET_VERSION_VERSION,
  SETUP_FRAME_LIST,
  SETUP_NR_FRAMES,
  SETUP_SIZE,
  SETUP_STATUS,
  STATUS_FRAMES_DOM,
  STATUS_FRAMES_FRAME_LIST,
  STATUS_FRAMES_NR_FRAMES,
  STATUS_FRAMES_SIZE,
  STATUS_FRAMES_STATUS,
  SWAP_REF_A,
  SWAP_REF_B,
  SWAP_SIZE,
  SWAP_STATUS,
  TRANSFER_SIZE,
  UNMAP_DEV_BUS_ADDR,
  UNMAP_HANDLE,
  UNMAP_HOST_ADDR,
  UNMAP_SIZE,
  UNMAP_STATUS,
} from "../../shared/abi/grant.ts";
import { DOMID_SELF, HYPERVISOR_grant_table_op } from "../../shared/abi/xen.ts";
import { DOM } from "../../shared/layout.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import { isGrant } from "../../shared/pte.ts";
import type { DomId } from "../../shared/units.ts";
import type { Call } from "./call.ts";
import type { Draw } from "./draw.ts";
import { MAP_AREA, SPECIAL_AREA } from "./machine.ts";
import { Structure } from "./structure.ts";
import {
  anyAddress,
  anyCount,
  anyDomid,
  anyGfn,
  anyRef,
  anyTarget,
  anyWord,
  hotFrame,
  isPv,
  ONES,
  ramOf,
} from "./values.ts";
import type { World } from "./world.ts";

/** Elements that are written; a batch that claims more reads what lies behind them. */
const LISTED_MAX = 80;

interface Shape {
  readonly size: number;
  /** Byte of the 16-bit status in an element, or -1. */
  readonly status: number;
  readonly fill: (world: World, domid: DomId, draw: Draw, at: Structure) => void;
}

const SHAPES: Readonly<Record<number, Shape>> = {
  [GNTTABOP_map_grant_ref]: { size: MAP_SIZE, status: MAP_STATUS, fill: fillMap },
  [GNTTABOP_unmap_grant_ref]: { size: UNMAP_SIZE, status: UNMAP_STATUS, fill: fillUnmap },
  [GNTTABOP_unmap_and_replace]: { size: UNMAP_SIZE, status: UNMAP_STATUS, fill: fillUnmap },
  [GNTTABOP_copy]: { size: COPY_SIZE, status: COPY_STATUS, fill: fillCopy },
  [GNTTABOP_setup_table]: { size: SETUP_SIZE, status: SETUP_STATUS, fill: fillSetup },
  [GNTTABOP_query_size]: { size: QUERY_SIZE_SIZE, status: QUERY_STATUS, fill: fillWords },
  [GNTTABOP_set_version]: { size: SET_VERSION_SIZE, status: -1, fill: fillVersion },
  [GNTTABOP_get_status_frames]: {
    size: STATUS_FRAMES_SIZE,
    status: STATUS_FRAMES_STATUS,
    fill: fillStatusFrames,
  },
  [GNTTABOP_get_version]: { size: GET_VERSION_SIZE, status: -1, fill: fillWords },
  [GNTTABOP_swap_grant_ref]: { size: SWAP_SIZE, status: SWAP_STATUS, fill: fillSwap },
  [GNTTABOP_transfer]: { size: TRANSFER_SIZE, status: 16, fill: fillTransfer },
  [GNTTABOP_cache_flush]: { size: CACHE_FLUSH_SIZE, status: -1, fill: fillFlush },
};
const UNKNOWN: Shape = { size: 48, status: -1, fill: fillWords };

export function grantCall(world: World, domid: DomId, draw: Draw): Call {
  const cmd = grantCommand(world, draw);
  const shape = SHAPES[cmd] ?? UNKNOWN;
  const single = [GNTTABOP_setup_table, GNTTABOP_query_size, GNTTABOP_get_status_frames].includes(
    cmd,
  );
  const count = single && !draw.once(8) ? 1 : anyCount(draw);
  const written = Math.max(1, Math.min(LISTED_MAX, count));
  // A batch that claims to have no end gets all of the RAM to read through.
  const endless = count > LISTED_MAX && draw.once(2);
  const gaddr = endless
    ? ramOf(world.xen, domid).first * PAGE_SIZE
    : anyAddress(world.xen, domid, draw, shape.size);
  const bytes = new Uint8Array(shape.size * written);
  for (let i = 0; i < written; i++) {
    const element = new Structure(shape.size);
    shape.fill(world, domid, draw, element);
    bytes.set(element.bytes, i * shape.size);
  }
  return {
    op: HYPERVISOR_grant_table_op,
    args: [cmd, gaddr, count],
    memory: [{ gaddr, bytes }],
    statuses: { at: gaddr + shape.status, stride: shape.size, count, known: shape.status >= 0 },
    ...(losesItsPage(world, domid, cmd) ? { partial: true } : {}),
  };
}

/** A page that cannot be given is lost, and an entry that could not be put elsewhere has been taken away, as in Xen. */
const losesItsPage = ({ xen }: World, domid: DomId, cmd: number): boolean =>
  cmd === GNTTABOP_transfer || (cmd === GNTTABOP_unmap_and_replace && isPv(xen, domid));

function grantCommand(world: World, draw: Draw): number {
  switch (draw.below(32)) {
    case 29:
      return draw.below(64);
    case 30:
      return draw.below(16) + 4096 * (1 + draw.below(4));
    case 31:
      return anyWord(draw);
    case 26:
    case 27:
    case 28:
      return draw.below(16);
    case 25:
    case 24:
      return profileOf(world.xen).maxGrantVersion > 1 ? GNTTABOP_set_version : draw.below(16);
    default:
      return draw.oneOf([
        GNTTABOP_map_grant_ref,
        GNTTABOP_map_grant_ref,
        GNTTABOP_map_grant_ref,
        GNTTABOP_unmap_grant_ref,
        GNTTABOP_unmap_grant_ref,
        GNTTABOP_copy,
        GNTTABOP_copy,
        GNTTABOP_unmap_and_replace,
        GNTTABOP_setup_table,
        GNTTABOP_cache_flush,
        GNTTABOP_swap_grant_ref,
      ]);
  }
}

/** An entry that was written a moment ago, and who may use it. */
export interface Shared {
  readonly granter: DomId;
  readonly ref: number;
}

/** The grantee uses an entry of another: it maps it or copies through it. */
export function useOfShared(world: World, domid: DomId, shared: Shared, draw: Draw): Call {
  const cmd = draw.once(3) ? GNTTABOP_copy : GNTTABOP_map_grant_ref;
  const shape = SHAPES[cmd] ?? UNKNOWN;
  const gaddr = anyAddress(world.xen, domid, draw, shape.size);
  const element = new Structure(shape.size);
  shape.fill(world, domid, draw, element);
  if (cmd === GNTTABOP_map_grant_ref) {
    element
      .u32(MAP_FLAGS, draw.once(3) ? 6 : 2)
      .u32(MAP_REF, shared.ref)
      .u16(MAP_DOM, shared.granter);
  } else {
    const side = draw.oneOf([COPY_SOURCE, COPY_DEST]);
    element.u64(side + COPY_PTR_REF_OR_GMFN, shared.ref).u16(side + COPY_PTR_DOMID, shared.granter);
    element.u16(COPY_FLAGS, side === COPY_SOURCE ? 1 : 2).u16(COPY_LEN, draw.below(4096));
    const other = side === COPY_SOURCE ? COPY_DEST : COPY_SOURCE;
    element.u64(other + COPY_PTR_REF_OR_GMFN, anyGfn(world.xen, domid, draw));
    element.u16(other + COPY_PTR_DOMID, DOMID_SELF);
  }
  return {
    op: HYPERVISOR_grant_table_op,
    args: [cmd, gaddr, 1],
    memory: [{ gaddr, bytes: element.bytes }],
    statuses: { at: gaddr + shape.status, stride: shape.size, count: 1, known: true },
  };
}

/** host_map, writable or not; now and then any other combination. */
const mapFlags = (draw: Draw): number =>
  draw.once(10) ? (draw.once(3) ? anyWord(draw) : draw.below(64)) : draw.once(3) ? 6 : 2;

/** A PV guest may map for devices too. */
const deviceHalf = (draw: Draw): number => (draw.once(3) ? GNTMAP_device_map : 0);

function fillMap(world: World, domid: DomId, draw: Draw, at: Structure): void {
  const { xen } = world;
  const gfn = anyTarget(xen, domid, draw);
  at.u64(MAP_HOST_ADDR, gfn === ONES ? ONES : gfn * 4096 + (draw.once(8) ? draw.below(4096) : 0));
  at.u32(MAP_FLAGS, mapFlags(draw) | (isPv(xen, domid) ? deviceHalf(draw) : 0)).u32(
    MAP_REF,
    anyRef(draw),
  );
  at.u16(MAP_DOM, anyDomid(xen, domid, draw)).u32(20, 0xa5a5a5a5);
}

function fillUnmap(world: World, domid: DomId, draw: Draw, at: Structure): void {
  const handle = draw.once(12) ? anyWord(draw) : liveHandle(world, domid, draw);
  const gfn = draw.once(4) ? anyGfn(world.xen, domid, draw) : gfnOfHandle(world, domid, handle);
  const none = draw.once(8);
  at.u64(UNMAP_HOST_ADDR, none ? 0 : gfn === ONES ? ONES : gfn * 4096);
  at.u64(UNMAP_DEV_BUS_ADDR, draw.once(6) ? anyWord(draw) : 0);
  at.u32(UNMAP_HANDLE, handle);
}

/** A handle of the domain that is in use, if there is one. */
function liveHandle(world: World, domid: DomId, draw: Draw): number {
  const limit = domainField(world.xen, domid, DOM.MAPTRACK_LIMIT);
  const first = draw.below(16);
  for (let i = 0; i < limit; i++) {
    if (trackFlags(world.xen, domid, (first + i) % limit) !== 0) return (first + i) % limit;
  }
  return first;
}

/** Where in the usual places a handle's frame is mapped; the first of them when it is in none. */
function gfnOfHandle(world: World, domid: DomId, handle: number): number {
  const { xen } = world;
  if (handle >= domainField(xen, domid, DOM.MAPTRACK_LIMIT)) return MAP_AREA;
  const granter = trackDomid(xen, domid, handle);
  const ref = trackRef(xen, domid, handle);
  if (!isPresent(xen, granter) || ref < 0 || ref >= grantEntries(xen, granter)) return MAP_AREA;
  const frame = activeFrame(xen, granter, ref);
  for (const area of [MAP_AREA, ramOf(xen, domid).first, SPECIAL_AREA]) {
    for (let gfn = area; gfn < area + 8; gfn++) {
      const entry = p2mLookup(xen, domid, gfn);
      if (isGrant(entryType(entry)) && entryFrame(entry) === frame) return gfn;
    }
  }
  return MAP_AREA;
}

function fillCopy(world: World, domid: DomId, draw: Draw, at: Structure): void {
  const { xen } = world;
  const flags = draw.once(12) ? draw.u32() : draw.below(4);
  for (const [side, bit] of [
    [COPY_SOURCE, 1],
    [COPY_DEST, 2],
  ] as const) {
    const isRef = (flags & bit) !== 0;
    const dom = isRef || draw.once(6) ? anyDomid(xen, domid, draw) : 0x7ff0;
    at.u64(side + COPY_PTR_REF_OR_GMFN, isRef ? anyRef(draw) : anyGfn(xen, domid, draw));
    at.u16(side + COPY_PTR_DOMID, dom);
    at.u16(side + COPY_PTR_OFFSET, draw.once(4) ? anyWord(draw) : draw.below(2048));
  }
  at.u16(COPY_LEN, draw.once(4) ? anyWord(draw) : draw.below(2048)).u16(COPY_FLAGS, flags);
}

function fillSetup(world: World, domid: DomId, draw: Draw, at: Structure): void {
  at.u16(0, anyDomid(world.xen, domid, draw));
  at.u32(SETUP_NR_FRAMES, draw.once(6) ? anyWord(draw) : draw.below(4));
  at.u64(SETUP_FRAME_LIST, anyAddress(world.xen, domid, draw, 16));
}

/** The page goes to an entry of another domain that accepts it. */
function fillTransfer({ xen }: World, domid: DomId, draw: Draw, at: Structure): void {
  at.u64(0, draw.once(4) ? anyGfn(xen, domid, draw) : hotFrame(xen, domid, draw));
  at.u16(8, anyDomid(xen, domid, draw)).u32(12, anyRef(draw));
}

function fillVersion(_world: World, _domid: DomId, draw: Draw, at: Structure): void {
  const known = draw.once(3) ? 1 : 2;
  at.u32(SET_VERSION_VERSION, draw.once(8) ? anyWord(draw) : known);
}

function fillStatusFrames(world: World, domid: DomId, draw: Draw, at: Structure): void {
  at.u32(STATUS_FRAMES_NR_FRAMES, draw.once(6) ? anyWord(draw) : draw.below(3));
  at.u16(STATUS_FRAMES_DOM, anyDomid(world.xen, domid, draw));
  at.u64(STATUS_FRAMES_FRAME_LIST, anyAddress(world.xen, domid, draw, 16));
}

function fillSwap(_world: World, _domid: DomId, draw: Draw, at: Structure): void {
  at.u32(SWAP_REF_A, anyRef(draw)).u32(SWAP_REF_B, anyRef(draw));
}

function fillFlush(world: World, domid: DomId, draw: Draw, at: Structure): void {
  const byRef = draw.once(2);
  const frame = anyGfn(world.xen, domid, draw);
  at.u64(CACHE_FLUSH_DEV_BUS_ADDR, byRef || frame === ONES ? anyRef(draw) : frame * 4096);
  at.u16(CACHE_FLUSH_OFFSET, draw.once(4) ? anyWord(draw) : draw.below(2048));
  at.u16(CACHE_FLUSH_LENGTH, draw.once(4) ? anyWord(draw) : draw.below(2048));
  at.u32(CACHE_FLUSH_OP, draw.below(5) + (byRef ? GNTTAB_CACHE_SOURCE_GREF : 0));
}

/** Words of a structure whose shape is not known here: each looks like some field. */
export function fillWords(world: World, domid: DomId, draw: Draw, at: Structure): void {
  const { xen } = world;
  for (let offset = 0; offset < at.bytes.length; offset += 8) {
    switch (draw.below(6)) {
      case 0:
        at.u32(offset, draw.below(64)).u32(offset + 4, anyWord(draw));
        break;
      case 1:
        at.u16(offset, anyDomid(xen, domid, draw)).u16(offset + 2, anyDomid(xen, domid, draw));
        at.u32(offset + 4, draw.below(64));
        break;
      case 2:
        at.u64(offset, anyGfn(xen, domid, draw));
        break;
      case 3:
        at.u64(offset, anyAddress(xen, domid, draw, 8));
        break;
      case 4:
        at.u16(offset, anyDomid(xen, domid, draw)).u16(offset + 2, draw.below(4));
        at.u32(offset + 4, anyRef(draw));
        break;
      default:
        at.u32(offset, anyWord(draw)).u32(offset + 4, draw.below(2));
    }
  }
}
