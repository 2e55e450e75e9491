// Map and copy batches whose hypercall is refused, or whose elements are answered GNTST_eagain.
import { describe, expect, test } from "vitest";
import { lookupForeign } from "../../domains/foreign-p2m.ts";
import { mapOp, unmapOp } from "../../domains/grant-calls.ts";
import { copyOp, gnttabBatchCopy } from "../../domains/grant-copy.ts";
import { gnttabBatchMap, gnttabMapRefs, gnttabUnmapRefs } from "../../domains/grant-map.ts";
import { grantForeignAccess, tryEndForeignAccess } from "../../domains/grant-table.ts";
import { type Kernel, nowMs } from "../../domains/kernel.ts";
import { PG_foreign, pageToPhys, testFlag } from "../../domains/pages.ts";
import { GNTMAP_host_map } from "../../shared/abi/grant.ts";
import { item } from "../../shared/assert.ts";
import { LINE, lineOf } from "../../shared/layout.ts";
import { ENOMEM, GNTST_bad_gntref, GNTST_bad_page, GNTST_okay } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { GrantRef } from "../../shared/units.ts";
import { BACK, FRONT, newPage, pagesFor, pair } from "./grant-pair.ts";
import { until } from "./until.ts";

/** Runs `back` with the references of three pages of the other guest, which can be ended afterwards. */
function withRefs(back: (kernel: Kernel, refs: readonly number[]) => Program): void {
  const refs: number[] = [];
  let done = false;
  pair(
    function* (kernel) {
      for (let i = 0; i < 3; i++) {
        refs.push(yield* grantForeignAccess(kernel, BACK, yield* newPage(kernel)));
      }
      yield* until(() => done);
      for (const ref of refs) expect(yield* tryEndForeignAccess(kernel, GrantRef(ref))).toBe(1);
    },
    function* (kernel) {
      yield* until(() => refs.length === 3);
      yield* back(kernel, refs);
      done = true;
    },
  );
}

/** The next `elements` of this guest's map and copy batches are answered GNTST_eagain. */
function pageOut(kernel: Kernel, elements: number): void {
  const { words, layout, slot } = kernel.cpu;
  words[lineOf(layout, slot) + LINE.INJECT] = elements;
}

const now = nowMs;

describe("a batch of maps", () => {
  test("guest case 32: refused as a whole: nothing is marked, every status is what it was set to", () => {
    withRefs(function* (kernel, refs) {
      const pages = yield* pagesFor(kernel, 3);
      const ops = pages.map((page, i) =>
        mapOp(pageToPhys(page), GNTMAP_host_map, item(refs, i), FRONT),
      );
      kernel.faults.failAt = kernel.faults.passed;
      expect(yield* gnttabMapRefs(kernel, ops, pages)).toBe(-ENOMEM);
      expect(ops.map((op) => op.status)).toEqual([1, 1, 1]);
      expect(pages.some((page) => testFlag(kernel.memory.pages, page, PG_foreign))).toBe(false);
      expect(kernel.memory.foreign.entries).toEqual([]);
    });
  });

  test("guest case 33: one bad reference among three: the call succeeds, the other two are foreign and in the table", () => {
    withRefs(function* (kernel, refs) {
      const pages = yield* pagesFor(kernel, 3);
      const named = [item(refs, 0), 5000, item(refs, 2)];
      const ops = pages.map((page, i) =>
        mapOp(pageToPhys(page), GNTMAP_host_map, item(named, i), FRONT),
      );
      expect(yield* gnttabMapRefs(kernel, ops, pages)).toBe(0);
      const known = pages.map((page) => lookupForeign(kernel.memory.foreign, page) !== undefined);
      expect(known).toEqual([true, false, true]);
      const live = ops.filter((op) => op.status === GNTST_okay);
      const unmaps = live.map((op) => unmapOp(op.hostAddr, op.handle));
      expect(yield* gnttabUnmapRefs(kernel, unmaps, pages)).toBe(0);
    });
  });

  test("guest case 34: paged out for ever: 255 sleeps of 32.64 s in all, then GNTST_bad_page", () => {
    withRefs(function* (kernel, refs) {
      const pages = yield* pagesFor(kernel, 1);
      const op = mapOp(pageToPhys(item(pages, 0)), GNTMAP_host_map, item(refs, 0), FRONT);
      pageOut(kernel, 1000);
      const started = now(kernel);
      expect(yield* gnttabMapRefs(kernel, [op], pages)).toBe(0);
      expect(op.status).toBe(GNTST_bad_page);
      expect(now(kernel) - started).toBe(32_640);
      pageOut(kernel, 0);
      expect(testFlag(kernel.memory.pages, item(pages, 0), PG_foreign)).toBe(false);
    });
  });

  test("paged out for a while: the operation is tried again a millisecond later each time, and succeeds", () => {
    withRefs(function* (kernel, refs) {
      const pages = yield* pagesFor(kernel, 3);
      const ops = pages.map((page, i) =>
        mapOp(pageToPhys(page), GNTMAP_host_map, item(refs, i), FRONT),
      );
      // All three of the batch, then three tries of the first.
      pageOut(kernel, 6);
      const started = now(kernel);
      expect(yield* gnttabMapRefs(kernel, ops, pages)).toBe(0);
      expect(now(kernel) - started).toBe(1 + 2 + 3);
      expect(ops.map((op) => op.status)).toEqual([0, 0, 0]);
      expect(kernel.memory.foreign.entries.length).toBe(3);
      const unmaps = ops.map((op) => unmapOp(op.hostAddr, op.handle));
      expect(yield* gnttabUnmapRefs(kernel, unmaps, pages)).toBe(0);
    });
  });

  test("decision row 29: ring pages are neither marked foreign nor entered in the foreign table, also after a retry", () => {
    withRefs(function* (kernel, refs) {
      const pages = yield* pagesFor(kernel, 1);
      const page = item(pages, 0);
      const op = mapOp(pageToPhys(page), GNTMAP_host_map, item(refs, 0), FRONT);
      pageOut(kernel, 2);
      yield* gnttabBatchMap(kernel, [op]);
      expect(op.status).toBe(GNTST_okay);
      expect(testFlag(kernel.memory.pages, page, PG_foreign)).toBe(false);
      expect(lookupForeign(kernel.memory.foreign, page)).toBeUndefined();
      yield* gnttabUnmapRefs(kernel, [unmapOp(op.hostAddr, op.handle)], pages);
    });
  });
});

describe("unmaps and copies", () => {
  test("guest case 37: one bad handle: its status says so, and every page loses its mark and its entry all the same", () => {
    withRefs(function* (kernel, refs) {
      const pages = yield* pagesFor(kernel, 2);
      const ops = pages.map((page, i) =>
        mapOp(pageToPhys(page), GNTMAP_host_map, item(refs, i), FRONT),
      );
      yield* gnttabMapRefs(kernel, ops, pages);
      const unmaps = ops.map((op, i) => unmapOp(op.hostAddr, i === 0 ? 200 : op.handle));
      expect(yield* gnttabUnmapRefs(kernel, unmaps, pages)).toBe(0);
      expect(unmaps.map((op) => op.status)).toEqual([-4, 0]);
      expect(kernel.memory.foreign.entries).toEqual([]);
      expect(pages.some((page) => testFlag(kernel.memory.pages, page, PG_foreign))).toBe(false);
      const first = item(ops, 0);
      yield* gnttabUnmapRefs(kernel, [unmapOp(first.hostAddr, first.handle)], pages);
    });
  });

  test("an unmap that is refused as a whole clears nothing", () => {
    withRefs(function* (kernel, refs) {
      const pages = yield* pagesFor(kernel, 1);
      const op = mapOp(pageToPhys(item(pages, 0)), GNTMAP_host_map, item(refs, 0), FRONT);
      yield* gnttabMapRefs(kernel, [op], pages);
      const unmaps = [unmapOp(op.hostAddr, op.handle)];
      kernel.faults.failAt = kernel.faults.passed;
      expect(yield* gnttabUnmapRefs(kernel, unmaps, pages)).toBe(-ENOMEM);
      expect(testFlag(kernel.memory.pages, item(pages, 0), PG_foreign)).toBe(true);
      expect(kernel.memory.foreign.entries.length).toBe(1);
      expect(yield* gnttabUnmapRefs(kernel, unmaps, pages)).toBe(0);
    });
  });

  test("guest case 39: a copy with a bad reference is not tried again, one that is paged out is", () => {
    withRefs(function* (kernel, refs) {
      const page = yield* newPage(kernel);
      const from = (ref: number) => ({ ref, domid: FRONT, offset: 0 });
      const ops = [item(refs, 0), 5000].map((ref) =>
        copyOp(from(ref), { gfn: page, offset: 0 }, 4),
      );
      pageOut(kernel, 1);
      const started = now(kernel);
      yield* gnttabBatchCopy(kernel, ops);
      expect(ops.map((op) => op.status)).toEqual([GNTST_okay, GNTST_bad_gntref]);
      expect(now(kernel)).toBe(started);
      pageOut(kernel, 3);
      yield* gnttabBatchCopy(kernel, ops.slice(0, 1));
      expect(item(ops, 0).status).toBe(GNTST_okay);
      expect(now(kernel) - started).toBe(1 + 2);
    });
  });
});
