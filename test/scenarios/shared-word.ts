/**
 * A scenario with a race in it: two domains count in one shared word by a load and a store, so that counts get lost. In one
 * order of things, with no delay, they take turns and the sum is right.
 */

import { findDomain } from "../../domains/drivers/transfer-front.ts";
import { hear, tell } from "../../domains/drivers/user-meet.ts";
import { mapOp } from "../../domains/grant-calls.ts";
import { gnttabMapRefs } from "../../domains/grant-map.ts";
import { gnttabAllocPages } from "../../domains/grant-pages.ts";
import { grantForeignAccess } from "../../domains/grant-table.ts";
import { giveWay, type Kernel, report } from "../../domains/kernel.ts";
import { loadWord, storeWord } from "../../domains/memory.ts";
import { allocPage, pageToPhys } from "../../domains/pages.ts";
import { GNTMAP_host_map } from "../../shared/abi/grant.ts";
import { assert, item } from "../../shared/assert.ts";
import { defineScenario } from "../../shared/scenario.ts";
import type { Program } from "../../shared/trap.ts";

const COUNTS = 1000;
/** Beside the word that is counted in: the other one may begin. */
const GO = 4;

function* count(kernel: Kernel, address: number): Program {
  for (let i = 0; i < COUNTS; i++) {
    const seen = yield* loadWord(kernel.cpu, address);
    yield* storeWord(kernel.cpu, address, seen + 1);
  }
}

function* front(kernel: Kernel): Program<void> {
  const back = yield* findDomain(kernel, "back");
  const page = allocPage(kernel.memory.pages);
  assert(page !== undefined, "there is a page");
  const address = pageToPhys(page);
  yield* storeWord(kernel.cpu, address, 0);
  yield* storeWord(kernel.cpu, address + GO, 0);
  const ref = yield* grantForeignAccess(kernel, back, page, { readonly: false });
  yield* tell(kernel, "ref", ref);
  yield* hear(kernel, back, "mapped");
  yield* storeWord(kernel.cpu, address + GO, 1);
  yield* count(kernel, address);
  yield* hear(kernel, back, "done");
  yield* report("sum", yield* loadWord(kernel.cpu, address));
}

function* back(kernel: Kernel): Program<void> {
  const granter = yield* findDomain(kernel, "front");
  const ref = Number(yield* hear(kernel, granter, "ref"));
  const pages = yield* gnttabAllocPages(kernel, 1);
  assert(typeof pages !== "number", "there is a page to map at");
  const address = pageToPhys(item(pages, 0));
  yield* gnttabMapRefs(kernel, [mapOp(address, GNTMAP_host_map, ref, granter)], pages);
  yield* tell(kernel, "mapped", 1);
  while ((yield* loadWord(kernel.cpu, address + GO)) === 0) yield* giveWay(kernel);
  yield* count(kernel, address);
  yield* tell(kernel, "done", 1);
}

export default defineScenario<Kernel>({
  name: "shared-word",
  about: "two domains count in one word without an atomic operation",
  machine: { preset: "virt", memory: "64MiB", traceRecords: 64 },
  domains: {
    dom0: { kind: "dom0", memory: "8MiB" },
    back: {
      kind: "domU",
      memory: "8MiB",
      extendedRegions: [{ base: 0x1_0000_0000, size: "8MiB" }],
      program: back,
    },
    front: { kind: "domU", memory: "8MiB", program: front },
  },
  variants: [{ name: "both" }],
  expect(state) {
    const sum = state.reported("front", "sum");
    return {
      row: { name: state.variant, sum },
      expectations: [{ claim: "no count is lost", holds: sum === 2 * COUNTS, got: String(sum) }],
    };
  },
});
