import { describe, expect, test } from "vitest";
import { lookupForeign } from "../../domains/foreign-p2m.ts";
import { mapOp, unmapOp } from "../../domains/grant-calls.ts";
import {
  copyOp,
  gnttabBatchCopy,
  gnttabCountGrant,
  grantPiece,
  grantPieces,
} from "../../domains/grant-copy.ts";
import {
  gnttabMapRefs,
  gnttabUnmapRefs,
  gnttabUnmapRefsAsync,
  gnttabUnmapRefsSync,
} from "../../domains/grant-map.ts";
import { gnttabFreePages } from "../../domains/grant-pages.ts";
import {
  allocGrantReferenceSeq,
  allocGrantReferences,
  claimGrantReference,
  freeGrantReference,
  freeGrantReferences,
  grantForeignAccess,
  requestFreeCallback,
  tryEndForeignAccess,
} from "../../domains/grant-table.ts";
import { type Kernel, nowMs, spawn, waitTimeout, waitUntil } from "../../domains/kernel.ts";
import { loadWord } from "../../domains/memory.ts";
import {
  getPage,
  PG_foreign,
  pageForeign,
  pageToPhys,
  putPage,
  testFlag,
} from "../../domains/pages.ts";
import { GNTMAP_host_map, GNTMAP_readonly } from "../../shared/abi/grant.ts";
import { item } from "../../shared/assert.ts";
import {
  ENOSPC,
  GNTST_bad_gntref,
  GNTST_bad_handle,
  GNTST_general_error,
  GNTST_no_space,
  GNTST_okay,
} from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { Gaddr, GrantRef, Pfn } from "../../shared/units.ts";
import { alone, BACK, FRONT, newPage, pagesFor, pair } from "./grant-pair.ts";
import { until } from "./until.ts";

describe("references", () => {
  test("guest case 22: the first grant after boot has reference 8", () => {
    alone(function* (kernel) {
      expect(yield* grantForeignAccess(kernel, BACK, yield* newPage(kernel))).toBe(8);
    });
  });

  test("guest case 23: after 504 grants the table grows by a frame, and at its maximum the answer is ENOSPC", () => {
    alone(function* (kernel) {
      const page = yield* newPage(kernel);
      for (let i = 0; i < 504; i++) {
        expect(yield* grantForeignAccess(kernel, BACK, page)).toBe(8 + i);
      }
      for (let i = 0; i < 512; i++) {
        expect(yield* grantForeignAccess(kernel, BACK, page)).toBe(512 + i);
      }
      expect(yield* grantForeignAccess(kernel, BACK, page)).toBe(-ENOSPC);
    });
  });

  test("guest case 29: a claim on an empty private list is refused", () => {
    alone(function* (kernel) {
      const chain = { head: yield* allocGrantReferences(kernel, 2) };
      expect(claimGrantReference(kernel, chain)).toBe(8);
      expect(claimGrantReference(kernel, chain)).toBe(9);
      expect(claimGrantReference(kernel, chain)).toBe(-ENOSPC);
      freeGrantReferences(kernel, yield* allocGrantReferences(kernel, 3));
      expect(kernel.memory.grants.refs.freeCount).toBe(502);
    });
  });

  test("guest case 30: whoever waits for what is free already is told at once, others when it is", () => {
    alone(function* (kernel) {
      const told: string[] = [];
      requestFreeCallback(kernel, 504, () => told.push("at once"));
      const ref = yield* allocGrantReferences(kernel, 1);
      requestFreeCallback(kernel, 504, () => told.push("later"));
      expect(told).toEqual(["at once"]);
      freeGrantReference(kernel, GrantRef(ref));
      expect(told).toEqual(["at once", "later"]);
    });
  });

  test("consecutive references grow the table when no run is long enough", () => {
    alone(function* (kernel) {
      yield* allocGrantReferences(kernel, 500);
      expect(yield* allocGrantReferenceSeq(kernel, 6)).toBe(508);
      expect(yield* allocGrantReferenceSeq(kernel, 600)).toBe(-ENOSPC);
    });
  });
});

/** Grants three pages, tells their references, waits for `done`, and takes them back. */
function* granter(kernel: Kernel, told: number[], done: () => boolean): Program {
  for (let i = 0; i < 3; i++) {
    told.push(yield* grantForeignAccess(kernel, BACK, yield* newPage(kernel)));
  }
  yield* until(done);
  for (const ref of told) expect(yield* tryEndForeignAccess(kernel, GrantRef(ref))).toBe(1);
}

describe("mapping", () => {
  test("a mapped page is foreign, shows the peer's words, and leaves nothing after the unmap", () => {
    const refs: number[] = [];
    let done = false;
    pair(
      (kernel) => granter(kernel, refs, () => done),
      function* (kernel) {
        yield* until(() => refs.length === 3);
        const pages = yield* pagesFor(kernel, 3);
        const ops = pages.map((page, i) =>
          mapOp(pageToPhys(page), GNTMAP_host_map, item(refs, i), FRONT),
        );
        expect(yield* gnttabMapRefs(kernel, ops, pages)).toBe(0);
        for (let i = 0; i < 3; i++) {
          const page = item(pages, i);
          expect(item(ops, i).status).toBe(GNTST_okay);
          expect(pageForeign(kernel.memory.pages, page)).toEqual({
            domid: FRONT,
            ref: item(refs, i),
          });
          const bfn = lookupForeign(kernel.memory.foreign, page);
          expect(bfn).toBe(item(ops, i).devBusAddr / 4096);
          expect((yield* loadWord(kernel.cpu, pageToPhys(page))) >>> 16).toBe(4);
        }
        const unmaps = ops.map((op) => unmapOp(op.hostAddr, op.handle));
        expect(yield* gnttabUnmapRefs(kernel, unmaps, pages)).toBe(0);
        expect(unmaps.map((op) => op.status)).toEqual([0, 0, 0]);
        expect(kernel.memory.foreign.entries).toEqual([]);
        expect(pages.some((page) => testFlag(kernel.memory.pages, page, PG_foreign))).toBe(false);
        gnttabFreePages(kernel, pages);
        done = true;
      },
    );
  });

  test("guest cases 33 and 37: one bad reference, one bad handle: the others are done all the same", () => {
    const refs: number[] = [];
    let done = false;
    pair(
      (kernel) => granter(kernel, refs, () => done),
      function* (kernel) {
        yield* until(() => refs.length === 3);
        const pages = yield* pagesFor(kernel, 3);
        const named = [item(refs, 0), 5000, item(refs, 2)];
        const ops = pages.map((page, i) =>
          mapOp(pageToPhys(page), GNTMAP_host_map, item(named, i), FRONT),
        );
        expect(yield* gnttabMapRefs(kernel, ops, pages)).toBe(0);
        expect(ops.map((op) => op.status)).toEqual([0, GNTST_bad_gntref, 0]);
        const foreign = pages.map((page) => testFlag(kernel.memory.pages, page, PG_foreign));
        expect(foreign).toEqual([true, false, true]);
        expect(kernel.memory.foreign.entries.length).toBe(2);
        const unmaps = ops.map((op) => unmapOp(op.hostAddr, op.status === 0 ? op.handle : 999));
        expect(yield* gnttabUnmapRefs(kernel, unmaps, pages)).toBe(0);
        expect(unmaps.map((op) => op.status)).toEqual([0, GNTST_bad_handle, 0]);
        expect(kernel.memory.foreign.entries).toEqual([]);
        done = true;
      },
    );
  });

  test("guest case 35: beyond the maptrack limit an operation is refused with what Xen says, and is not retried", () => {
    const refs: number[] = [];
    let done = false;
    pair(
      (kernel) => granter(kernel, refs, () => done),
      function* (kernel) {
        yield* until(() => refs.length === 3);
        const pages = yield* pagesFor(kernel, 300);
        const ops = pages.map((page, i) =>
          mapOp(pageToPhys(page), GNTMAP_host_map | GNTMAP_readonly, item(refs, i % 3), FRONT),
        );
        yield* gnttabMapRefs(kernel, ops, pages);
        const bad = ops.filter((op) => op.status !== GNTST_okay);
        expect(bad.length).toBeGreaterThan(0);
        expect(new Set(bad.map((op) => op.status))).toEqual(new Set([GNTST_no_space]));
        const good = ops.filter((op) => op.status === GNTST_okay);
        const unmaps = good.map((op) => unmapOp(op.hostAddr, op.handle));
        yield* gnttabUnmapRefs(kernel, unmaps, pages);
        done = true;
      },
    );
  });

  test("guest case 39: of a batch of copies one has a bad reference, the others arrive", () => {
    const refs: number[] = [];
    let done = false;
    pair(
      (kernel) => granter(kernel, refs, () => done),
      function* (kernel) {
        yield* until(() => refs.length === 3);
        const page = yield* newPage(kernel);
        const from = (ref: number) => ({ ref, domid: FRONT, offset: 0 });
        const ops = [item(refs, 0), 5000, item(refs, 2)].map((ref, i) =>
          copyOp(from(ref), { gfn: page, offset: 16 * i }, 4),
        );
        yield* gnttabBatchCopy(kernel, ops);
        expect(ops.map((op) => op.status)).toEqual([0, GNTST_bad_gntref, 0]);
        expect((yield* loadWord(kernel.cpu, pageToPhys(page))) >>> 16).toBe(4);
        expect((yield* loadWord(kernel.cpu, pageToPhys(page) + 32)) >>> 16).toBe(4);
        done = true;
      },
    );
  });

  test("guest case 40: a range beyond the end of its page is cut there", () => {
    expect(grantPiece(Pfn(5), 4000, 200)).toEqual({ page: 5, offset: 4000, length: 96 });
    expect(grantPieces(Gaddr(5 * 4096 + 4000), 200).map((piece) => piece.length)).toEqual([
      96, 104,
    ]);
    expect(gnttabCountGrant(4000, 200)).toBe(2);
  });

  test("guest case 36: a page with an entry already is unmapped again at once", () => {
    const refs: number[] = [];
    let done = false;
    pair(
      (kernel) => granter(kernel, refs, () => done),
      function* (kernel) {
        yield* until(() => refs.length === 3);
        const pages = (yield* pagesFor(kernel, 1)).concat();
        const at = pageToPhys(item(pages, 0));
        const first = [mapOp(at, GNTMAP_host_map, item(refs, 0), FRONT)];
        yield* gnttabMapRefs(kernel, first, pages);
        const second = [mapOp(at, GNTMAP_host_map, item(refs, 1), FRONT)];
        expect(yield* gnttabMapRefs(kernel, second, pages)).toBe(0);
        expect(item(second, 0).status).toBe(GNTST_general_error);
        expect(item(second, 0).handle).toBe(0xffffffff);
        yield* gnttabUnmapRefs(kernel, [unmapOp(at, item(first, 0).handle)], pages);
        done = true;
      },
    );
  });

  test("guest case 38: an unmap waits until nobody else holds the page", () => {
    const refs: number[] = [];
    let done = false;
    pair(
      (kernel) => granter(kernel, refs, () => done),
      function* (kernel) {
        yield* until(() => refs.length === 3);
        const pages = yield* pagesFor(kernel, 1);
        const page = item(pages, 0);
        const ops = [mapOp(pageToPhys(page), GNTMAP_host_map, item(refs, 0), FRONT)];
        yield* gnttabMapRefs(kernel, ops, pages);
        getPage(kernel.memory.pages, page);
        const started = nowMs(kernel);
        const unmaps = [unmapOp(pageToPhys(page), item(ops, 0).handle)];
        yield* gnttabUnmapRefsAsync(kernel, unmaps, pages, function* () {
          done = true;
        });
        expect(done).toBe(false);
        expect(testFlag(kernel.memory.pages, page, PG_foreign)).toBe(true);
        // It looks after 5, 15, 30 and 50 ms.
        yield* waitTimeout(kernel, () => done, 33);
        expect(done).toBe(false);
        putPage(kernel.memory.pages, page);
        yield* waitUntil(kernel, () => done);
        expect(nowMs(kernel) - started).toBe(50);
        expect(testFlag(kernel.memory.pages, page, PG_foreign)).toBe(false);
      },
    );
  });

  test("guest case 38: a synchronous unmap returns once the other user has let go, and other tasks run meanwhile", () => {
    const refs: number[] = [];
    let done = false;
    pair(
      (kernel) => granter(kernel, refs, () => done),
      function* (kernel) {
        yield* until(() => refs.length === 3);
        const pages = yield* pagesFor(kernel, 1);
        const page = item(pages, 0);
        const op = mapOp(pageToPhys(page), GNTMAP_host_map, item(refs, 0), FRONT);
        yield* gnttabMapRefs(kernel, [op], pages);
        getPage(kernel.memory.pages, page);
        const user = function* (): Program {
          yield* waitTimeout(kernel, () => false, 100);
          putPage(kernel.memory.pages, page);
        };
        spawn(kernel, "another user", user());
        const started = nowMs(kernel);
        const unmaps = [unmapOp(op.hostAddr, op.handle)];
        expect(yield* gnttabUnmapRefsSync(kernel, unmaps, pages)).toBe(0);
        // It looks after 5, 15, 30, 50, 75 and 105 ms.
        expect(nowMs(kernel) - started).toBe(105);
        expect(item(unmaps, 0).status).toBe(GNTST_okay);
        done = true;
      },
    );
  });
});
