import { expect, test } from "vitest";
import { mapOp, unmapOp } from "../../domains/grant-calls.ts";
import { gnttabMapRefs, gnttabUnmapRefs } from "../../domains/grant-map.ts";
import { gnttabAllocPages } from "../../domains/grant-pages.ts";
import {
  freeGrantReference,
  grantForeignAccess,
  tryEndForeignAccess,
} from "../../domains/grant-table.ts";
import { type Kernel, sleep } from "../../domains/kernel.ts";
import { loadWord, storeWord } from "../../domains/memory.ts";
import { allocPage, pageToPhys } from "../../domains/pages.ts";
import { GNTMAP_host_map } from "../../shared/abi/grant.ts";
import { item } from "../../shared/assert.ts";
import { GNTST_okay } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { GrantRef } from "../../shared/units.ts";
import { testDom0, testDomain } from "../hypervisor/harness.ts";
import { EXTENDED, guestModel, runGuests } from "./guest.ts";
import { until } from "./until.ts";

const ROUNDS = 3;
const GRANT_TABLE = 0x38000 * 4096;

interface Seen {
  mapped: number;
  /** Loads through a mapping of what the granter wrote after it had ended the access. */
  stale: number;
}

interface Result extends Seen {
  /** What the audit found after some step. */
  readonly findings: readonly string[];
}

/** Ends the access when nobody uses it; or, as a planted bug, without looking. */
function* end(kernel: Kernel, ref: GrantRef, rude: boolean): Program {
  if (rude) {
    yield* storeWord(kernel.cpu, GRANT_TABLE + ref * 8, 0);
    freeGrantReference(kernel, ref);
    return;
  }
  while ((yield* tryEndForeignAccess(kernel, ref)) === 0) yield* sleep(1);
}

/** One run: the granter withdraws as soon as it can, the mapper maps as often as it can. */
function race(seed: number, rude: boolean): Result {
  const seen: Seen = { mapped: 0, stale: 0 };
  let ref = -1;
  let over = false;
  function* front(kernel: Kernel): Program {
    const page = allocPage(kernel.memory.pages);
    if (page === undefined) throw new Error("no page");
    for (let round = 0; round < ROUNDS; round++) {
      yield* storeWord(kernel.cpu, pageToPhys(page), 42);
      ref = yield* grantForeignAccess(kernel, 2, page);
      yield* sleep(1);
      yield* end(kernel, GrantRef(ref), rude);
      // Nobody but the granter can see the page from here on.
      yield* storeWord(kernel.cpu, pageToPhys(page), 0);
      yield* sleep(1);
    }
    over = true;
  }
  function* back(kernel: Kernel): Program {
    const pages = yield* gnttabAllocPages(kernel, 1);
    if (typeof pages === "number") throw new Error(`answered ${pages}`);
    const at = pageToPhys(item(pages, 0));
    yield* until(() => ref > 0 || over);
    while (!over) {
      const op = mapOp(at, GNTMAP_host_map, ref, 1);
      yield* gnttabMapRefs(kernel, [op], pages);
      if (op.status !== GNTST_okay) {
        yield* sleep(1);
        continue;
      }
      seen.mapped++;
      for (let i = 0; i < 3; i++) {
        if ((yield* loadWord(kernel.cpu, at)) !== 42) seen.stale++;
        yield* sleep(1);
      }
      const unmap = unmapOp(at, op.handle);
      yield* gnttabUnmapRefs(kernel, [unmap], pages);
      expect(unmap.status).toBe(GNTST_okay);
    }
  }
  const model = guestModel([
    testDom0({ runs: false }),
    testDomain("front"),
    testDomain("back", { extendedRegions: [EXTENDED] }),
  ]);
  const run = runGuests(model, { front, back }, { seed });
  return { ...seen, findings: run.findings };
}

test("a mapper that succeeds never sees what the granter writes after it has ended the access", () => {
  let mapped = 0;
  for (let seed = 0; seed < 6; seed++) {
    const seen = race(seed, false);
    mapped += seen.mapped;
    expect(seen.stale, `seed ${seed}`).toBe(0);
    expect(seen.findings, `seed ${seed}`).toEqual([]);
  }
  expect(mapped).toBeGreaterThan(0);
});

test("a granter that ends without looking is found out by the audit or by what the mapper sees", () => {
  let caught = 0;
  for (let seed = 0; seed < 6; seed++) {
    const seen = race(seed, true);
    caught += seen.stale + seen.findings.length;
  }
  expect(caught).toBeGreaterThan(0);
});
