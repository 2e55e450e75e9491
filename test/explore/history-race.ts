/**
 * A granter that offers a page read-only and withdraws it, and two who map it, read-only or for writing, copy from it and
 * let go: what they are told is kept as a history.
 */
import { mapOp, unmapOp } from "../../domains/grant-calls.ts";
import { gnttabMapRefs, gnttabUnmapRefs } from "../../domains/grant-map.ts";
import { gnttabAllocPages } from "../../domains/grant-pages.ts";
import { grantForeignAccess, tryEndForeignAccess } from "../../domains/grant-table.ts";
import { type Kernel, sleep } from "../../domains/kernel.ts";
import { allocPage, pageToPhys } from "../../domains/pages.ts";
import { judgeHistory } from "../../explore/history.ts";
import { GNTMAP_host_map, GNTMAP_readonly } from "../../shared/abi/grant.ts";
import { item } from "../../shared/assert.ts";
import { readHistory } from "../../shared/history.ts";
import { GNTST_okay } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { GrantRef } from "../../shared/units.ts";
import { EXTENDED, guestModel, runGuests } from "../domains/guest.ts";
import { testDom0, testDomain, testModel } from "../hypervisor/harness.ts";

const ROUNDS = 3;
const FRONT = 1;
const BACK = 2;

/** One run; what the judge of its history says. */
export function historyOfRace(seed: number) {
  let ref = -1;
  let over = false;
  function* front(kernel: Kernel): Program {
    const page = allocPage(kernel.memory.pages);
    if (page === undefined) throw new Error("no page");
    for (let round = 0; round < ROUNDS; round++) {
      ref = yield* grantForeignAccess(kernel, BACK, page, { readonly: true });
      yield* sleep(1);
      while ((yield* tryEndForeignAccess(kernel, GrantRef(ref))) === 0) yield* sleep(1);
    }
    over = true;
  }
  function* back(kernel: Kernel): Program {
    const pages = yield* gnttabAllocPages(kernel, 1);
    if (typeof pages === "number") throw new Error(`answered ${pages}`);
    const at = pageToPhys(item(pages, 0));
    for (let turn = 0; !over; turn++) {
      const flags = GNTMAP_host_map | (turn % 3 === 0 ? 0 : GNTMAP_readonly);
      const op = mapOp(at, flags, Math.max(ref, 8), FRONT);
      yield* gnttabMapRefs(kernel, [op], pages);
      if (op.status === GNTST_okay) yield* gnttabUnmapRefs(kernel, [unmapOp(at, op.handle)], pages);
      yield* sleep(1);
    }
  }
  const base = testModel([]);
  const model = guestModel(
    [
      testDom0({ runs: false }),
      testDomain("front", { maxGrantFrames: 2 }),
      testDomain("back", { extendedRegions: [EXTENDED], maxMaptrackFrames: 1 }),
    ],
    { limits: { ...base.limits, historyRecords: 4096 } },
  );
  const { machine } = runGuests(model, { front, back }, { seed });
  return judgeHistory(readHistory(machine.words, machine.layout).records);
}
