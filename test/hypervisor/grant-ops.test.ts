/** Grant operations on whole tables: set-up, queries, versions, swap, cache_flush, and what arm64 does not have. */
import { describe, expect, test } from "vitest";
import { activePin } from "../../hypervisor/active-entry.ts";
import { audit } from "../../hypervisor/audit.ts";
import { frameReferences } from "../../hypervisor/frame-table.ts";
import { cacheFlush } from "../../hypervisor/grant-cache-flush.ts";
import { entryFrame, p2mLookup } from "../../hypervisor/p2m.ts";
import { allocXenPage, freeXenPage } from "../../hypervisor/xen-heap.ts";
import {
  GNTMAP_host_map,
  GNTMAP_readonly,
  GNTTAB_CACHE_SOURCE_GREF,
  GNTTABOP_cache_flush,
  GNTTABOP_dump_table,
  GNTTABOP_get_status_frames,
  GNTTABOP_get_version,
  GNTTABOP_set_version,
  GNTTABOP_swap_grant_ref,
  GNTTABOP_transfer,
  GTF_permit_access,
  GTF_reading,
  GTF_readonly,
  GTF_writing,
} from "../../shared/abi/grant.ts";
import { DOMID_SELF } from "../../shared/abi/xen.ts";
import { MACHINE, mfnAt } from "../../shared/layout.ts";
import { NOT_PRESENT } from "../../shared/limits.ts";
import {
  EFAULT,
  EILSEQ,
  EINVAL,
  ENOSYS,
  EOPNOTSUPP,
  EPERM,
  ESRCH,
  GNTST_bad_domain,
  GNTST_bad_gntref,
  GNTST_eagain,
  GNTST_general_error,
  GNTST_okay,
  GNTST_permission_denied,
} from "../../shared/status.ts";
import { DomId, type FrameIndex } from "../../shared/units.ts";
import { slotOf } from "./domains.ts";
import {
  flushCache,
  getStatusFrames,
  getVersion,
  grantOp,
  layFlush,
  querySize,
  setupTable,
  setVersion,
  swap,
} from "./grant-op-calls.ts";
import { entryFlags, mapOne, setEntry, unmapOne } from "./grants.ts";
import {
  type Actor,
  bootTestMachine,
  type TestMachine,
  testDom0,
  testDomain,
  testModel,
} from "./harness.ts";

const HOLE = 0x60000;
const ONES = 0xffff_ffff_ffff_ffffn;

function boot(grantFrames = 4): {
  readonly machine: TestMachine;
  readonly dom0: Actor;
  readonly granter: Actor;
  readonly mapper: Actor;
} {
  const limits = { ...testModel([]).limits, grantFrames };
  const guest = (name: string) => testDomain(name, { maxGrantFrames: grantFrames });
  const model = testModel([testDom0(), guest("G"), guest("M")], { limits });
  const machine = bootTestMachine(model);
  const [dom0, granter, mapper] = machine.actors;
  if (dom0 === undefined || granter === undefined || mapper === undefined) {
    throw new Error("three domains boot");
  }
  return { machine, dom0, granter, mapper };
}

const frameAt = ({ xen }: TestMachine, { domid }: Actor, gfn: number): number =>
  entryFrame(p2mLookup(xen, DomId(domid), gfn));
/** Bus address of the page behind a guest frame. */
const busAddress = (machine: TestMachine, actor: Actor, gfn: number): number =>
  mfnAt(machine.xen.layout, frameAt(machine, actor, gfn)) * 4096;
/** Grants the first page of the granter by `ref` to the mapper, who maps it at HOLE. */
function mapped(machine: TestMachine, granter: Actor, mapper: Actor, ref: number, flags = 0) {
  setEntry(machine, granter, ref, GTF_permit_access, mapper.domid, granter.ram);
  const request = { gfn: HOLE, flags: GNTMAP_host_map | flags, ref, dom: granter.domid };
  return mapOne(machine, mapper, request);
}

describe("versions", () => {
  test("hypervisor case 60: version 2 is not offered, 3 is none, and the one in force is told", () => {
    const { machine, granter, mapper } = boot();
    mapped(machine, granter, mapper, 8);
    expect(setVersion(machine, granter, 2)).toEqual({ ret: -ENOSYS, version: 1 });
    expect(setVersion(machine, granter, 3)).toEqual({ ret: -EINVAL, version: 1 });
    expect(setVersion(machine, granter, 0)).toEqual({ ret: -EINVAL, version: 1 });
    expect(setVersion(machine, granter, 1)).toEqual({ ret: 0, version: 1 });
    expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access | GTF_reading | GTF_writing);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("hypervisor case 68: refusals of get_version are the return value, and query_size grows nothing", () => {
    const { machine, dom0, granter, mapper } = boot();
    expect(getVersion(machine, granter, DOMID_SELF)).toEqual({ ret: 0, version: 1 });
    expect(getVersion(machine, granter, granter.domid)).toEqual({ ret: 0, version: 1 });
    expect(getVersion(machine, granter, 0x1234)).toEqual({ ret: -ESRCH, version: 0 });
    expect(getVersion(machine, granter, mapper.domid)).toEqual({ ret: -EPERM, version: 0 });
    expect(getVersion(machine, dom0, mapper.domid)).toEqual({ ret: 0, version: 1 });
    expect(querySize(machine, granter)).toEqual([1, 4]);
    expect(querySize(machine, granter)).toEqual([1, 4]);
  });

  test("hypervisor case 69: a version 1 table has no status frames, and asking for none is okay", () => {
    const { machine, dom0, granter, mapper } = boot();
    expect(getStatusFrames(machine, granter, 1).status).toBe(GNTST_general_error);
    expect(getStatusFrames(machine, granter, 0).status).toBe(GNTST_okay);
    expect(getStatusFrames(machine, granter, 0, mapper.domid).status).toBe(GNTST_permission_denied);
    expect(getStatusFrames(machine, dom0, 0, mapper.domid).status).toBe(GNTST_okay);
    expect(getStatusFrames(machine, granter, 0, 0x1234).status).toBe(GNTST_bad_domain);
    expect(getStatusFrames(machine, granter, 1, DOMID_SELF, 2).ret).toBe(-EINVAL);
    expect(querySize(machine, granter)).toEqual([1, 4]);
  });
});

describe("setting a table up", () => {
  test("hypervisor case 65: one frame beyond the limit is a status, two tables at once an error", () => {
    const { machine, granter } = boot();
    expect(setupTable(machine, granter, 5)).toMatchObject({ ret: 0, status: GNTST_general_error });
    expect(setupTable(machine, granter, 0)).toMatchObject({ ret: 0, status: GNTST_okay });
    expect(setupTable(machine, granter, 1, DOMID_SELF, 2).ret).toBe(-EINVAL);
    expect(querySize(machine, granter)).toEqual([1, 4]);
  });

  test("hypervisor case 66: nobody sets up another domain's table, nor that of nobody", () => {
    const { machine, granter, mapper } = boot();
    expect(setupTable(machine, granter, 1, mapper.domid).status).toBe(GNTST_permission_denied);
    expect(setupTable(machine, granter, 1, 0x1234).status).toBe(GNTST_bad_domain);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("hypervisor case 67: frames that are nowhere in the address space are listed as all ones", () => {
    const { machine, granter } = boot();
    const { status, list } = setupTable(machine, granter, 3);
    expect(status).toBe(GNTST_okay);
    expect(list.slice(0, 4)).toEqual([ONES, ONES, ONES, 0x5a5a_5a5a_5a5a_5a5an]);
  });

  test("hypervisor case 70: growth that fails half-way leaves the table as it was", () => {
    const { machine, granter, mapper } = boot();
    const { xen } = machine;
    mapped(machine, granter, mapper, 8);
    const taken: FrameIndex[] = [];
    for (let page = allocXenPage(xen); page !== NOT_PRESENT; page = allocXenPage(xen)) {
      taken.push(page);
    }
    const last = taken.pop();
    if (last === undefined) throw new Error("the Xen heap has pages");
    freeXenPage(xen, last);
    expect(setupTable(machine, granter, 4).status).toBe(GNTST_general_error);
    expect(querySize(machine, granter)).toEqual([1, 4]);
    expect(activePin(xen, granter.domid, 8)).toBe(1);
    expect(allocXenPage(xen)).not.toBe(NOT_PRESENT);
    freeXenPage(xen, last);
    for (const page of taken) freeXenPage(xen, page);
    expect(setupTable(machine, granter, 4).status).toBe(GNTST_okay);
    expect(audit(xen)).toEqual([]);
  });
});

describe("swap_grant_ref", () => {
  test("hypervisor case 71: range comes first, then the same reference twice, then use", () => {
    const { machine, granter, mapper } = boot();
    const { handle } = mapped(machine, granter, mapper, 8);
    setEntry(machine, granter, 9, GTF_permit_access | GTF_readonly, 0, granter.ram + 1);
    const pairs = [
      [8, 8],
      [512, 8],
      [8, 512],
      [8, 9],
      [9, 8],
    ] as const;
    expect(swap(machine, granter, ...pairs)).toEqual({
      ret: 0,
      statuses: [0, GNTST_bad_gntref, GNTST_bad_gntref, GNTST_eagain, GNTST_eagain],
    });
    expect(entryFlags(machine, granter, 9)).toBe(GTF_permit_access | GTF_readonly);
    unmapOne(machine, mapper, { handle, address: HOLE * 4096 });
    expect(swap(machine, granter, [8, 9]).statuses).toEqual([GNTST_okay]);
    expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access | GTF_readonly);
    expect(entryFlags(machine, granter, 9)).toBe(GTF_permit_access);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("an entry moves whole: whoever knows its new reference gets its page", () => {
    const { machine, granter, mapper } = boot();
    setEntry(machine, granter, 8, GTF_permit_access, mapper.domid, granter.ram + 5);
    swap(machine, granter, [8, 9]);
    const at = { gfn: HOLE, flags: GNTMAP_host_map, dom: granter.domid };
    expect(mapOne(machine, mapper, { ...at, ref: 8 }).status).toBe(GNTST_general_error);
    expect(mapOne(machine, mapper, { ...at, ref: 9 }).status).toBe(GNTST_okay);
    expect(frameAt(machine, mapper, HOLE)).toBe(frameAt(machine, granter, granter.ram + 5));
    expect(audit(machine.xen)).toEqual([]);
  });

  test("a batch longer than one stretch is swapped to its end", () => {
    const { machine, granter } = boot();
    setEntry(machine, granter, 8, GTF_permit_access, 0, granter.ram);
    const pairs = Array.from({ length: 70 }, (_, i) => [8 + i, 9 + i] as const);
    const { ret, statuses } = swap(machine, granter, ...pairs);
    expect(ret).toBe(0);
    expect(new Set(statuses)).toEqual(new Set([GNTST_okay]));
    expect(entryFlags(machine, granter, 78)).toBe(GTF_permit_access);
  });
});

describe("cache_flush", () => {
  test("hypervisor case 72: refused ranges and operations, and whose page it may be", () => {
    const { machine, granter, mapper } = boot();
    const own = busAddress(machine, granter, granter.ram);
    const flush = (request: object): number =>
      flushCache(machine, granter, { address: own, ...request });
    expect(flush({})).toBe(0);
    expect(flush({ op: GNTTAB_CACHE_SOURCE_GREF + 1 })).toBe(-EINVAL);
    expect(flush({ op: 4 })).toBe(-EINVAL);
    expect(flush({ offset: 4095, length: 2 })).toBe(-EINVAL);
    expect(flush({ offset: 4096, length: 0 })).toBe(-EINVAL);
    expect(flush({ length: 4097 })).toBe(-EINVAL);
    expect(flush({ address: 0, length: 0 })).toBe(0);
    expect(flush({ address: 0, op: 0 })).toBe(0);
    expect(flush({ address: 0 })).toBe(-EINVAL);
    expect(flush({ address: busAddress(machine, mapper, mapper.ram) })).toBe(-EINVAL);
    expect(frameReferences(machine.xen, frameAt(machine, granter, granter.ram))).toBe(1);
    expect(frameReferences(machine.xen, frameAt(machine, mapper, mapper.ram))).toBe(1);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("a mapping lets its holder flush the granter's page, by machine address, until it goes", () => {
    const { machine, dom0, granter, mapper } = boot();
    const address = busAddress(machine, granter, granter.ram);
    const { handle } = mapped(machine, granter, mapper, 8, GNTMAP_readonly);
    expect(flushCache(machine, mapper, { address })).toBe(0);
    // One domain's mapping opens the page to nobody else, not even to a control domain.
    expect(flushCache(machine, dom0, { address })).toBe(-EINVAL);
    expect(flushCache(machine, mapper, { address: address + 4096 })).toBe(-EINVAL);
    expect(flushCache(machine, mapper, { address: HOLE * 4096 })).toBe(-EINVAL);
    unmapOne(machine, mapper, { handle, address: HOLE * 4096 });
    expect(flushCache(machine, mapper, { address })).toBe(-EINVAL);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("the scan of a large table lets go every 4096 entries and goes on from there", () => {
    const { machine, granter, mapper } = boot(17);
    setupTable(machine, granter, 17);
    mapped(machine, granter, mapper, 8192);
    const address = busAddress(machine, granter, granter.ram);
    const uop = layFlush(mapper, { address });
    const caller = { slot: slotOf(machine.xen, mapper.domid), domid: DomId(mapper.domid) };
    const scan = cacheFlush(machine.xen, caller, uop, 1, 0);
    expect([scan.next().done, scan.next().done]).toEqual([false, false]);
    expect(frameReferences(machine.xen, frameAt(machine, granter, granter.ram))).toBe(2);
    expect(scan.next()).toEqual({ done: true, value: 0 });
    expect(flushCache(machine, mapper, { address })).toBe(0);
  });

  test("the place in the scan is the guest's to choose: it can only miss its own grant", () => {
    const { machine, granter, mapper } = boot(17);
    setupTable(machine, granter, 17);
    mapped(machine, granter, mapper, 8);
    const address = busAddress(machine, granter, granter.ram);
    expect(flushCache(machine, mapper, { address }, 4096)).toBe(-EINVAL);
    expect(flushCache(machine, mapper, { address }, 0x8000_0000)).toBe(-EINVAL);
    expect(flushCache(machine, mapper, { address, length: 0 }, 4096)).toBe(-EILSEQ);
    expect(flushCache(machine, mapper, { address, op: 0 }, 4096)).toBe(-EILSEQ);
    expect(
      grantOp(machine, mapper, GNTTABOP_cache_flush + 4096, layFlush(mapper, { address }), 0),
    ).toBe(0);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("a structure that the guest empties while the scan is cut is an illegal sequence", () => {
    const { machine, granter, mapper } = boot(17);
    setupTable(machine, granter, 17);
    const address = busAddress(machine, granter, granter.ram);
    const uop = layFlush(mapper, { address });
    const caller = { slot: slotOf(machine.xen, mapper.domid), domid: DomId(mapper.domid) };
    const scan = cacheFlush(machine.xen, caller, uop, 1, 0);
    expect(scan.next().done).toBe(false);
    layFlush(mapper, { address, length: 0 });
    expect(scan.next()).toEqual({ done: true, value: -EILSEQ });
    expect(audit(machine.xen)).toEqual([]);
  });
});

describe("operations that arm64 does not have", () => {
  test("hypervisor case 82: transfer is refused as a call, whatever its arguments are", () => {
    const { machine, granter } = boot();
    expect(grantOp(machine, granter, GNTTABOP_transfer)).toBe(-EOPNOTSUPP);
    expect(grantOp(machine, granter, GNTTABOP_transfer, HOLE * 4096, 0)).toBe(-EOPNOTSUPP);
    expect(grantOp(machine, granter, GNTTABOP_dump_table)).toBe(-ENOSYS);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("bits above a command are continuation data, legal for cache_flush only", () => {
    const { machine, granter } = boot();
    for (const cmd of [0, 2, 3, 4, 11, 13, 0xfff]) {
      expect(grantOp(machine, granter, cmd + 4096)).toBe(-EINVAL);
      expect(grantOp(machine, granter, cmd + 0x8000_0000)).toBe(-EINVAL);
    }
  });

  test("an argument that cannot be read is -EFAULT for each operation, and nothing has changed", () => {
    const { machine, granter } = boot();
    const frees = machine.xen.words[MACHINE.FREE_FRAMES];
    for (const cmd of [
      GNTTABOP_set_version,
      GNTTABOP_get_version,
      GNTTABOP_get_status_frames,
      GNTTABOP_swap_grant_ref,
      GNTTABOP_cache_flush,
    ]) {
      expect(grantOp(machine, granter, cmd, HOLE * 4096)).toBe(-EFAULT);
    }
    expect(machine.xen.words[MACHINE.FREE_FRAMES]).toBe(frees);
    expect(audit(machine.xen)).toEqual([]);
  });
});
