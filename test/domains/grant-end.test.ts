import { describe, expect, test } from "vitest";
import { mapOp, unmapOp } from "../../domains/grant-calls.ts";
import { gnttabMapRefs, gnttabUnmapRefs } from "../../domains/grant-map.ts";
import {
  deferredGrantThread,
  drainDeferred,
  endForeignAccess,
  endForeignAccessRef,
  grantForeignAccess,
  runDeferred,
} from "../../domains/grant-table.ts";
import { nowMs, sleep, spawnDaemon, waitUntil } from "../../domains/kernel.ts";
import { GuestFault, loadWord } from "../../domains/memory.ts";
import { pageRefcount, pageToPhys, putPage } from "../../domains/pages.ts";
import { GNTMAP_host_map, GNTMAP_readonly } from "../../shared/abi/grant.ts";
import { item } from "../../shared/assert.ts";
import { GNTST_okay } from "../../shared/status.ts";
import { GrantRef } from "../../shared/units.ts";
import { alone, BACK, FRONT, newPage, pagesFor, pair } from "./grant-pair.ts";
import { until } from "./until.ts";

describe("ending an access", () => {
  test("guest case 26: while the peer maps it read-only the entry stays as it is", () => {
    let ref = -1;
    let ended = false;
    let unmapped = false;
    let mapped = false;
    pair(
      function* (kernel) {
        ref = yield* grantForeignAccess(kernel, BACK, yield* newPage(kernel), { readonly: true });
        yield* until(() => mapped);
        expect(yield* endForeignAccessRef(kernel, GrantRef(ref))).toBe(0);
        const header = yield* loadWord(kernel.cpu, 0x38000 * 4096 + ref * 8);
        expect(header & 0xffff).toBe(1 | 4 | 8);
        ended = true;
        yield* until(() => unmapped);
        expect(yield* endForeignAccessRef(kernel, GrantRef(ref))).toBe(1);
        expect(yield* loadWord(kernel.cpu, 0x38000 * 4096 + ref * 8)).toBe(BACK << 16);
      },
      function* (kernel) {
        yield* until(() => ref > 0);
        const pages = yield* pagesFor(kernel, 1);
        const at = pageToPhys(item(pages, 0));
        const ops = [mapOp(at, GNTMAP_host_map | GNTMAP_readonly, ref, FRONT)];
        yield* gnttabMapRefs(kernel, ops, pages);
        mapped = true;
        yield* until(() => ended);
        yield* gnttabUnmapRefs(kernel, [unmapOp(at, item(ops, 0).handle)], pages);
        unmapped = true;
      },
    );
  });

  test("guest case 27 and trace T5: a deferred end keeps the page, and frees the reference after the peer's unmap", () => {
    let ref = -1;
    let mapped = false;
    let unmapped = false;
    let deferred = false;
    pair(
      function* (kernel) {
        const page = yield* newPage(kernel);
        ref = yield* grantForeignAccess(kernel, BACK, page);
        yield* until(() => mapped);
        yield* endForeignAccess(kernel, GrantRef(ref));
        expect(pageRefcount(kernel.memory.pages, page)).toBe(2);
        putPage(kernel.memory.pages, page);
        expect(yield* runDeferred(kernel)).toBe(0);
        expect(kernel.memory.grants.deferred[0]?.warnDelay).toBe(59);
        deferred = true;
        yield* until(() => unmapped);
        expect(yield* drainDeferred(kernel, 2)).toBe(0);
        expect(pageRefcount(kernel.memory.pages, page)).toBe(0);
        expect(yield* grantForeignAccess(kernel, BACK, yield* newPage(kernel))).toBe(ref);
      },
      function* (kernel) {
        yield* until(() => ref > 0);
        const pages = yield* pagesFor(kernel, 1);
        const at = pageToPhys(item(pages, 0));
        const ops = [mapOp(at, GNTMAP_host_map, ref, FRONT)];
        yield* gnttabMapRefs(kernel, ops, pages);
        mapped = true;
        yield* until(() => deferred);
        yield* gnttabUnmapRefs(kernel, [unmapOp(at, item(ops, 0).handle)], pages);
        unmapped = true;
      },
    );
  });

  test("trace T5: the timer of an idle kernel frees the reference at the first full second after the unmap", () => {
    let ref = -1;
    let mapped = false;
    let deferred = false;
    pair(
      function* (kernel) {
        const page = yield* newPage(kernel);
        ref = yield* grantForeignAccess(kernel, BACK, page);
        spawnDaemon(kernel, "deferred grants", deferredGrantThread(kernel));
        yield* until(() => mapped);
        yield* endForeignAccess(kernel, GrantRef(ref), page);
        const started = nowMs(kernel);
        deferred = true;
        yield* waitUntil(kernel, () => kernel.memory.grants.deferred.length === 0);
        expect(nowMs(kernel) - started).toBe(4000);
        expect(pageRefcount(kernel.memory.pages, page)).toBe(0);
        expect(yield* grantForeignAccess(kernel, BACK, yield* newPage(kernel))).toBe(ref);
      },
      function* (kernel) {
        yield* until(() => ref > 0);
        const pages = yield* pagesFor(kernel, 1);
        const at = pageToPhys(item(pages, 0));
        const ops = [mapOp(at, GNTMAP_host_map, ref, FRONT)];
        yield* gnttabMapRefs(kernel, ops, pages);
        mapped = true;
        yield* until(() => deferred);
        yield* sleep(3200);
        yield* gnttabUnmapRefs(kernel, [unmapOp(at, item(ops, 0).handle)], pages);
      },
    );
  });

  test("guest case 28: a successful end takes the caller's page reference with it", () => {
    alone(function* (kernel) {
      const page = yield* newPage(kernel);
      const ref = yield* grantForeignAccess(kernel, BACK, page);
      const free = kernel.memory.pages.freeCount;
      yield* endForeignAccess(kernel, GrantRef(ref), page);
      expect(kernel.memory.pages.freeCount).toBe(free + 1);
    });
  });

  test("a revoked reference can no longer be mapped, and the mapped page is gone after the unmap", () => {
    let ref = -1;
    let revoked = false;
    pair(
      function* (kernel) {
        ref = yield* grantForeignAccess(kernel, BACK, yield* newPage(kernel));
        expect(yield* endForeignAccessRef(kernel, GrantRef(ref))).toBe(1);
        revoked = true;
      },
      function* (kernel) {
        yield* until(() => revoked);
        const pages = yield* pagesFor(kernel, 1);
        const ops = [mapOp(pageToPhys(item(pages, 0)), GNTMAP_host_map, ref, FRONT)];
        yield* gnttabMapRefs(kernel, ops, pages);
        expect(item(ops, 0).status).not.toBe(GNTST_okay);
        let fault = false;
        try {
          yield* loadWord(kernel.cpu, pageToPhys(item(pages, 0)));
        } catch (error) {
          fault = error instanceof GuestFault;
        }
        expect(fault).toBe(true);
      },
    );
  });
});
