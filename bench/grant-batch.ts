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
import { GRANT_ENTRIES_PER_FRAME, GRANT_ENTRY_BYTES, PAGE_SIZE } from "../shared/limits.ts";
import { ACCESS_READ, ACCESS_WRITE } from "../shared/mmu.ts";
import { openPage, placeGrantTable, type RawGuest, recordOf } from "./raw-guest.ts";

/** Elements of the largest batch. */
export const BATCH_MAX = 1024;
/** The first granted page of the granter's RAM, behind its argument page. */
const FIRST_PAGE = 8;

export const refOf = (i: number): number => GNTTAB_NR_RESERVED_ENTRIES + i;

/** The granter lets domain `domid` use `count` of its pages, by the references from the `first` on. */
export function grantPages(granter: RawGuest, domid: number, count: number, first = 0): void {
  const end = refOf(first + count);
  placeGrantTable(granter, Math.ceil(end / GRANT_ENTRIES_PER_FRAME));
  for (let ref = refOf(first); ref < end; ref++) {
    const frame = Math.floor(ref / GRANT_ENTRIES_PER_FRAME);
    const entry = (ref % GRANT_ENTRIES_PER_FRAME) * GRANT_ENTRY_BYTES;
    openPage(granter, granter.domain.grantTableGfn + frame, ACCESS_WRITE);
    granter.mmu.store(entry + GRANT_ENTRY_FRAME, granter.ram + FIRST_PAGE + ref - refOf(first));
    granter.mmu.store(entry + GRANT_ENTRY_HEADER, GTF_permit_access | (domid << 16));
    granter.mmu.close();
  }
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
  const unmapAt = mapAt + pagesOf(mapWords.byteLength) * PAGE_SIZE;
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

const pagesOf = (bytes: number): number => Math.ceil(bytes / PAGE_SIZE);

/** Writes bytes to guest memory from a page boundary on, an access a page. */
function write({ mapper }: GrantBatch, gaddr: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; done += PAGE_SIZE) {
    openPage(mapper, (gaddr + done) / PAGE_SIZE, ACCESS_WRITE);
    mapper.mmu.write(0, bytes, done, Math.min(PAGE_SIZE, bytes.length - done));
    mapper.mmu.close();
  }
}

function read({ mapper }: GrantBatch, gaddr: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; done += PAGE_SIZE) {
    openPage(mapper, (gaddr + done) / PAGE_SIZE, ACCESS_READ);
    mapper.mmu.read(0, bytes, done, Math.min(PAGE_SIZE, bytes.length - done));
    mapper.mmu.close();
  }
}

/** Writes the map structures to guest memory. */
export const publishMaps = (batch: GrantBatch): void => write(batch, batch.mapAt, batch.mapBytes);

/** Reads the map structures back, and writes the unmap structures with the handles found in them. */
export function publishUnmaps(batch: GrantBatch): void {
  const { count, mapBytes, mapWords, unmapBytes, unmapWords, mapAt, unmapAt } = batch;
  read(batch, mapAt, mapBytes);
  for (let i = 0; i < count; i++) {
    const handle = at(mapWords, (i * MAP_SIZE + MAP_HANDLE) / 4);
    unmapWords[(i * UNMAP_SIZE + UNMAP_HANDLE) / 4] = handle;
  }
  write(batch, unmapAt, unmapBytes);
}

/** Throws unless the newest batch was mapped and unmapped as a whole. */
export function checkBatch(batch: GrantBatch): void {
  const { count, mapWords, unmapBytes, unmapWords, unmapAt } = batch;
  read(batch, unmapAt, unmapBytes);
  for (let i = 0; i < count; i++) {
    // MAP_STATUS is the upper half of its word, UNMAP_STATUS the lower.
    const mapped = at(mapWords, (i * MAP_SIZE + MAP_STATUS - 2) / 4) >> 16;
    const unmapped = (at(unmapWords, (i * UNMAP_SIZE + UNMAP_STATUS) / 4) << 16) >> 16;
    if (mapped !== 0 || unmapped !== 0) {
      throw new Error(`element ${i}: map answered ${mapped}, unmap ${unmapped}`);
    }
  }
}
