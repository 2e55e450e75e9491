import { describe, expect, test } from "vitest";
import { genPoolAvail } from "../../domains/gen-pool.ts";
import {
  closeGntdev,
  exportFromRefs,
  GNTDEV_DMA_FLAG_COHERENT,
  GNTDEV_DMA_FLAG_WC,
  type Gntdev,
  type GntdevVma,
  mapGrantRef,
  mmapGntdev,
  munmapGntdev,
  openGntdev,
  releaseExport,
  setUnmapNotify,
  UNMAP_NOTIFY_CLEAR_BYTE,
  UNMAP_NOTIFY_SEND_EVENT,
  unmapGrantRef,
} from "../../domains/gntdev.ts";
import { grantForeignAccess, tryEndForeignAccess } from "../../domains/grant-table.ts";
import type { Kernel } from "../../domains/kernel.ts";
import { loadWord, storeWord } from "../../domains/memory.ts";
import { allocPage, pageToPhys } from "../../domains/pages.ts";
import { item } from "../../shared/assert.ts";
import { EINVAL, ENOENT } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { GrantRef } from "../../shared/units.ts";
import { testDom0, testDomain } from "../hypervisor/harness.ts";
import { EXTENDED, guestModel, now, runGuests, stillKernel } from "./guest.ts";
import { until } from "./until.ts";

const FRONT = 1;
const BACK = 2;
const PAGE = 4096;

/** A frontend with three granted pages, whose words count up from 1000, and a backend with an open gntdev. */
function withGrants(back: (file: Gntdev, refs: readonly number[]) => Program): void {
  const refs: number[] = [];
  const pages: number[] = [];
  let done = false;
  function* front(kernel: Kernel): Program {
    for (let i = 0; i < 3; i++) {
      const page = allocPage(kernel.memory.pages);
      if (page === undefined) throw new Error("no page");
      pages.push(page);
      yield* storeWord(kernel.cpu, pageToPhys(page), 1000 + i);
      refs.push(yield* grantForeignAccess(kernel, BACK, page));
    }
    yield* until(() => done);
    for (const ref of refs) expect(yield* tryEndForeignAccess(kernel, GrantRef(ref))).toBe(1);
  }
  const model = guestModel([
    testDom0({ runs: false }),
    testDomain("front"),
    testDomain("back", { extendedRegions: [EXTENDED] }),
  ]);
  const run = runGuests(model, {
    front,
    *back(kernel) {
      yield* until(() => refs.length === 3);
      yield* back(openGntdev(kernel), refs);
      done = true;
    },
  });
  expect(run.findings).toEqual([]);
  expect(done).toBe(true);
}

const named = (refs: readonly number[]) => refs.map((ref) => ({ domid: FRONT, ref }));
const shared = (offset: number, pages: number, write = true) => ({
  offset,
  length: pages * PAGE,
  write,
  shared: true,
});

function* mmap(file: Gntdev, offset: number, pages: number): Program<GntdevVma> {
  const vma = yield* mmapGntdev(file, shared(offset, pages));
  if (typeof vma === "number") throw new Error(`mmap answered ${vma}`);
  return vma;
}

describe("gntdev without a hypercall", () => {
  const file = () => openGntdev(stillKernel());
  const grants = (count: number) => Array.from({ length: count }, () => ({ domid: 1, ref: 8 }));
  const map = (one: Gntdev, count: number) => now(mapGrantRef(one, grants(count)));

  test("guest case 42: no grants, or more than 65536, are refused", () => {
    expect(map(file(), 0)).toBe(-EINVAL);
    expect(map(file(), 65537)).toBe(-EINVAL);
  });

  test("guest case 43: the first map has offset 0, the next one begins behind it", () => {
    const one = file();
    expect(map(one, 3)).toBe(0);
    expect(map(one, 1)).toBe(0x3000);
  });

  test("guest case 44: a gap of exactly the size is not reused, a larger one is", () => {
    const one = file();
    map(one, 3);
    map(one, 2);
    map(one, 2);
    now(unmapGrantRef(one, 0x3000, 2));
    expect(map(one, 2)).toBe(0x7000);
    expect(map(one, 1)).toBe(0x3000);
  });

  test("guest case 47: an unknown index is not there; a count of 0 matches by index alone", () => {
    const one = file();
    map(one, 3);
    expect(now(unmapGrantRef(one, 0x1000, 0))).toBe(-ENOENT);
    expect(now(unmapGrantRef(one, 0, 2))).toBe(-ENOENT);
    expect(now(unmapGrantRef(one, 0, 0))).toBe(0);
  });

  test("guest case 49: unknown action bits, no port, and a bad index are refused in this order", () => {
    const one = file();
    map(one, 1);
    expect(setUnmapNotify(one, { offset: 0, action: 4, port: 0 })).toBe(-EINVAL);
    const event = UNMAP_NOTIFY_SEND_EVENT;
    expect(setUnmapNotify(one, { offset: 0x9000, action: event, port: 0 })).toBe(-EINVAL);
    expect(setUnmapNotify(one, { offset: 0x9000, action: event, port: 5 })).toBe(-ENOENT);
    expect(setUnmapNotify(one, { offset: 0x10, action: event, port: 5 })).toBe(0);
  });

  test("guest case 52: both DMA flags at once are refused", () => {
    const both = GNTDEV_DMA_FLAG_WC | GNTDEV_DMA_FLAG_COHERENT;
    expect(now(exportFromRefs(file(), both, 1, [8]))).toBe(-EINVAL);
  });
});

describe("gntdev", () => {
  test("mmap maps the grants, and the last user unmaps them", () => {
    withGrants(function* (file, refs) {
      const { kernel } = file;
      const offset = yield* mapGrantRef(file, named(refs));
      const vma = yield* mmap(file, offset, 3);
      expect(vma.map.liveGrants).toBe(3);
      for (let i = 0; i < 3; i++) {
        expect(yield* loadWord(kernel.cpu, pageToPhys(item(vma.pages, i)))).toBe(1000 + i);
      }
      expect(yield* unmapGrantRef(file, offset, 3)).toBe(0);
      expect(vma.map.liveGrants).toBe(3);
      yield* munmapGntdev(file, vma);
      expect(vma.map.liveGrants).toBe(0);
      expect(vma.map.users).toBe(0);
      const pool = kernel.memory.unpopulated.pool;
      expect(pool && genPoolAvail(pool)).toBe(64 * PAGE);
      expect(kernel.memory.foreign.entries).toEqual([]);
    });
  });

  test("guest case 45: wrong length, wrong offset, a second mmap and a private writable one are refused", () => {
    withGrants(function* (file, refs) {
      yield* mapGrantRef(file, named(refs));
      expect(yield* mmapGntdev(file, shared(0, 2))).toBe(-EINVAL);
      expect(yield* mmapGntdev(file, shared(PAGE, 3))).toBe(-EINVAL);
      expect(yield* mmapGntdev(file, { ...shared(0, 3), shared: false })).toBe(-EINVAL);
      const vma = yield* mmapGntdev(file, { ...shared(0, 3, false), shared: false });
      expect(yield* mmapGntdev(file, shared(0, 3))).toBe(-EINVAL);
      if (typeof vma === "number") throw new Error("the read-only private mapping is allowed");
      yield* munmapGntdev(file, vma);
      yield* closeGntdev(file);
    });
  });

  test("guest case 46: with one bad reference mmap fails, fails again, and the unmap request still succeeds", () => {
    withGrants(function* (file, refs) {
      const offset = yield* mapGrantRef(file, named([item(refs, 0), 5000, item(refs, 2)]));
      const map = item(file.maps, 0);
      expect(yield* mmapGntdev(file, shared(offset, 3))).toBe(-EINVAL);
      expect(map.liveGrants).toBe(2);
      expect(yield* mmapGntdev(file, shared(offset, 3))).toBe(-EINVAL);
      expect(yield* unmapGrantRef(file, offset, 3)).toBe(0);
      expect(map.liveGrants).toBe(0);
    });
  });

  test("guest case 48: a read-only map takes no byte to clear", () => {
    withGrants(function* (file, refs) {
      yield* mapGrantRef(file, named(refs));
      const clear = { offset: 0x10, action: UNMAP_NOTIFY_CLEAR_BYTE, port: 0 };
      expect(setUnmapNotify(file, clear)).toBe(0);
      expect(setUnmapNotify(file, { ...clear, action: 0 })).toBe(0);
      const vma = yield* mmapGntdev(file, shared(0, 3, false));
      expect(setUnmapNotify(file, clear)).toBe(-EINVAL);
      if (typeof vma !== "number") yield* munmapGntdev(file, vma);
      yield* closeGntdev(file);
    });
  });

  test("trace T7: the byte is cleared before the peer can take its page back", () => {
    withGrants(function* (file, refs) {
      yield* mapGrantRef(file, named(refs.slice(0, 1)));
      const vma = yield* mmap(file, 0, 1);
      const page = item(vma.pages, 0);
      yield* storeWord(file.kernel.cpu, pageToPhys(page) + 0x10, -1);
      setUnmapNotify(file, { offset: 0x11, action: UNMAP_NOTIFY_CLEAR_BYTE, port: 0 });
      yield* munmapGntdev(file, vma);
      yield* closeGntdev(file);
      yield* mapGrantRef(file, named(refs.slice(0, 1)));
      const again = yield* mmap(file, 0, 1);
      const at = pageToPhys(item(again.pages, 0)) + 0x10;
      expect((yield* loadWord(file.kernel.cpu, at)) >>> 0).toBe(0xffff00ff);
      yield* munmapGntdev(file, again);
      yield* closeGntdev(file);
    });
  });

  test("trace T1: an exported buffer is contiguous in guest frames and mapped at once", () => {
    withGrants(function* (file, refs) {
      const map = yield* exportFromRefs(file, GNTDEV_DMA_FLAG_WC, FRONT, refs);
      if (typeof map === "number") throw new Error(`export answered ${map}`);
      expect(map.pages.map((page) => page - item(map.pages, 0))).toEqual([0, 1, 2]);
      expect(map.dma?.devBusAddr).toBe(EXTENDED.base);
      expect(yield* loadWord(file.kernel.cpu, EXTENDED.base + 2 * PAGE)).toBe(1002);
      yield* releaseExport(file, map);
      expect(file.maps).toEqual([]);
      const pool = file.kernel.memory.unpopulated.pool;
      expect(pool && genPoolAvail(pool)).toBe(64 * PAGE);
    });
  });

  test("guest case 52: an export with a bad reference leaves nothing mapped", () => {
    withGrants(function* (file, refs) {
      const bad = [item(refs, 0), 5000];
      expect(yield* exportFromRefs(file, GNTDEV_DMA_FLAG_WC, FRONT, bad)).toBe(-EINVAL);
      expect(file.maps).toEqual([]);
      expect(file.kernel.memory.foreign.entries).toEqual([]);
    });
  });

  test("guest case 99: a reference revoked before mmap makes it fail", () => {
    withGrants(function* (file) {
      yield* mapGrantRef(file, named([400]));
      expect(yield* mmapGntdev(file, shared(0, 1))).toBe(-EINVAL);
      yield* closeGntdev(file);
    });
  });

  test("closing the file puts every map; one that is still mmapped lives on", () => {
    withGrants(function* (file, refs) {
      yield* mapGrantRef(file, named(refs));
      const vma = yield* mmap(file, 0, 3);
      yield* closeGntdev(file);
      expect(vma.map.liveGrants).toBe(3);
      yield* munmapGntdev(file, vma);
      expect(vma.map.liveGrants).toBe(0);
    });
  });
});
