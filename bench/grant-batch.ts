/**
 * Batches of grant mappings of a raw guest: the granter's entries, and the argument structures of map and unmap, put
 * together once and published to guest memory before each hypercall, as a driver does.
 */
import {
  GNTMAP_host_map,
  GNTTAB_NR_RESERVED_ENTRIES,
  GNTTABOP_map_grant_ref,
  GNTTABOP_unmap_grant_ref,
  GRANT_ENTRY_FRAME,
  GRANT_ENTRY_HEADER,
  GTF_permit_access,
  MAP_DOM,
  MAP_FLAGS,
  MAP_HANDLE,
  MAP_HOST_ADDR,
  MAP_REF,
  MAP_SIZE,
  MAP_STATUS,
  UNMAP_HANDLE,
  UNMAP_HOST_ADDR,
  UNMAP_SIZE,
  UNMAP_STATUS,
} from "../shared/abi/grant.ts";
import { HYPERVISOR_grant_table_op } from "../shared/abi/xen.ts";
import { at, item } from "../shared/assert.ts";
import { GRANT_ENTRY_BYTES, PAGE_SIZE } from "../shared/limits.ts";
import { ACCESS_READ, ACCESS_WRITE } from "../shared/mmu.ts";
import { openPage, placeGrantTable, type RawGuest, recordOf } from "./raw-guest.ts";

/** Elements of the largest batch: its map structures fill one page. */
export const BATCH_MAX = PAGE_SIZE / MAP_SIZE;
/** The first granted page of the granter's RAM, behind its argument page. */
const FIRST_PAGE = 8;

export const refOf = (i: number): number => GNTTAB_NR_RESERVED_ENTRIES + i;

/** The granter lets `mapper` use `count` of its pages. */
export function grantPages(granter: RawGuest, mapper: RawGuest, count = BATCH_MAX): void {
  placeGrantTable(granter);
  openPage(granter, granter.domain.grantTableGfn, ACCESS_WRITE);
  for (let i = 0; i < count; i++) {
    const entry = refOf(i) * GRANT_ENTRY_BYTES;
    granter.mmu.store(entry + GRANT_ENTRY_FRAME, granter.ram + FIRST_PAGE + i);
    granter.mmu.store(entry + GRANT_ENTRY_HEADER, GTF_permit_access | (mapper.domid << 16));
  }
  granter.mmu.close();
}

export interface GrantBatch {
  readonly mapper: RawGuest;
  readonly count: number;
  /** Guest frame at which element 0 is mapped. */
  readonly gfn: number;
  readonly mapBytes: Uint8Array;
  readonly mapWords: Int32Array;
  readonly unmapBytes: Uint8Array;
  readonly unmapWords: Int32Array;
  /** Guest addresses of the two arrays, and the records that name them. */
  readonly mapAt: number;
  readonly unmapAt: number;
  readonly mapCall: Int32Array;
  readonly unmapCall: Int32Array;
}

/** `count` elements, to be mapped into the hole that the mapper's boot information announces. */
export function grantBatch(mapper: RawGuest, granter: RawGuest, count: number): GrantBatch {
  const mapWords = new Int32Array((count * MAP_SIZE) / 4);
  const unmapWords = new Int32Array((count * UNMAP_SIZE) / 4);
  const gfn = item(mapper.domain.extendedRegions, 0).base / PAGE_SIZE;
  for (let i = 0; i < count; i++) {
    const map = (i * MAP_SIZE) / 4;
    mapWords[map + MAP_HOST_ADDR / 4] = ((gfn + i) * PAGE_SIZE) | 0;
    mapWords[map + MAP_FLAGS / 4] = GNTMAP_host_map;
    mapWords[map + MAP_REF / 4] = refOf(i);
    mapWords[map + MAP_DOM / 4] = granter.domid;
    unmapWords[(i * UNMAP_SIZE + UNMAP_HOST_ADDR) / 4] = ((gfn + i) * PAGE_SIZE) | 0;
  }
  const mapAt = mapper.ram * PAGE_SIZE;
  const unmapAt = mapAt + PAGE_SIZE;
  const call = (command: number, address: number): Int32Array =>
    recordOf(HYPERVISOR_grant_table_op, [command, address, count]);
  return {
    mapper,
    count,
    gfn,
    mapBytes: new Uint8Array(mapWords.buffer),
    mapWords,
    unmapBytes: new Uint8Array(unmapWords.buffer),
    unmapWords,
    mapAt,
    unmapAt,
    mapCall: call(GNTTABOP_map_grant_ref, mapAt),
    unmapCall: call(GNTTABOP_unmap_grant_ref, unmapAt),
  };
}

/** Writes the map structures to guest memory. */
export function publishMaps({ mapper, mapBytes, mapAt }: GrantBatch): void {
  openPage(mapper, mapAt / PAGE_SIZE, ACCESS_WRITE);
  mapper.mmu.write(0, mapBytes, 0, mapBytes.length);
  mapper.mmu.close();
}

/** Reads the map structures back, and writes the unmap structures with the handles found in them. */
export function publishUnmaps(batch: GrantBatch): void {
  const { mapper, count, mapBytes, mapWords, unmapBytes, unmapWords, mapAt, unmapAt } = batch;
  openPage(mapper, mapAt / PAGE_SIZE, ACCESS_READ);
  mapper.mmu.read(0, mapBytes, 0, mapBytes.length);
  mapper.mmu.close();
  for (let i = 0; i < count; i++) {
    const handle = at(mapWords, (i * MAP_SIZE + MAP_HANDLE) / 4);
    unmapWords[(i * UNMAP_SIZE + UNMAP_HANDLE) / 4] = handle;
  }
  openPage(mapper, unmapAt / PAGE_SIZE, ACCESS_WRITE);
  mapper.mmu.write(0, unmapBytes, 0, unmapBytes.length);
  mapper.mmu.close();
}

/** Throws unless the newest batch was mapped and unmapped as a whole. */
export function checkBatch(batch: GrantBatch): void {
  const { mapper, count, mapWords, unmapBytes, unmapWords, unmapAt } = batch;
  openPage(mapper, unmapAt / PAGE_SIZE, ACCESS_READ);
  mapper.mmu.read(0, unmapBytes, 0, unmapBytes.length);
  mapper.mmu.close();
  for (let i = 0; i < count; i++) {
    // MAP_STATUS is the upper half of its word, UNMAP_STATUS the lower.
    const mapped = at(mapWords, (i * MAP_SIZE + MAP_STATUS - 2) / 4) >> 16;
    const unmapped = (at(unmapWords, (i * UNMAP_SIZE + UNMAP_STATUS) / 4) << 16) >> 16;
    if (mapped !== 0 || unmapped !== 0) {
      throw new Error(`element ${i}: map answered ${mapped}, unmap ${unmapped}`);
    }
  }
}
