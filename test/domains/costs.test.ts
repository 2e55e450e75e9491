// What 8 MiB of buffer cost a driver domain: unpopulated contiguous pages against RAM that is ballooned out.
import { describe, expect, test } from "vitest";
import { withCosts } from "../../domains/costs.ts";
import { mapOp, unmapOp } from "../../domains/grant-calls.ts";
import { gnttabMapRefs, gnttabUnmapRefs } from "../../domains/grant-map.ts";
import {
  type DmaPages,
  GNTDEV_DEVICE,
  gnttabDmaAllocPages,
  gnttabDmaFreePages,
} from "../../domains/grant-pages.ts";
import { grantForeignAccess } from "../../domains/grant-table.ts";
import type { Kernel } from "../../domains/kernel.ts";
import { allocPages, pageToPhys } from "../../domains/pages.ts";
import { GNTMAP_host_map } from "../../shared/abi/grant.ts";
import { item } from "../../shared/assert.ts";
import type { UnpopulatedAlloc } from "../../shared/machine.ts";
import { resolve } from "../../shared/resolve.ts";
import type { Scenario } from "../../shared/scenario.ts";
import type { Program } from "../../shared/trap.ts";
import { Pfn } from "../../shared/units.ts";
import { runGuests } from "./guest.ts";
import { until } from "./until.ts";

const PAGES = 2048;
const SUPERPAGE = 512;

const machineWith = (unpopulatedAlloc: UnpopulatedAlloc): Scenario<Kernel> => ({
  name: "costs",
  machine: { memory: "128MiB", allocator: "contiguous" },
  domains: {
    dom0: { kind: "dom0", memory: "8MiB" },
    front: { kind: "domU", memory: "16MiB" },
    drv: { kind: "driver", memory: "32MiB", kernel: { unpopulatedAlloc } },
  },
});

function* alloc(kernel: Kernel): Program<DmaPages> {
  const args = yield* gnttabDmaAllocPages(kernel, GNTDEV_DEVICE, PAGES);
  if (typeof args === "number") throw new Error(`answered ${args}`);
  return args;
}

/** Maps and unmaps all of the frontend's pages. */
function* mapAndUnmap(kernel: Kernel, args: DmaPages, refs: readonly number[]): Program {
  const ops = args.pages.map((page, i) =>
    mapOp(pageToPhys(page), GNTMAP_host_map, item(refs, i), 1),
  );
  expect(yield* gnttabMapRefs(kernel, ops, args.pages)).toBe(0);
  expect(ops.every((op) => op.status === 0)).toBe(true);
  const unmaps = ops.map((op) => unmapOp(op.hostAddr, op.handle));
  expect(yield* gnttabUnmapRefs(kernel, unmaps, args.pages)).toBe(0);
}

/** What allocation, mapping and free are reported to cost, by `PHASE.COUNTER`. */
function costs(unpopulatedAlloc: UnpopulatedAlloc): Readonly<Record<string, number>> {
  const { model } = resolve(machineWith(unpopulatedAlloc), {
    settings: [],
    parameters: {},
    seed: 1,
  });
  const refs: number[] = [];
  let done = false;
  const { machine, findings } = runGuests(
    model,
    {
      *front(kernel) {
        const first = allocPages(kernel.memory.pages, PAGES);
        if (first === undefined) throw new Error("no memory");
        for (let i = 0; i < PAGES; i++) {
          refs.push(yield* grantForeignAccess(kernel, 2, Pfn(first + i)));
        }
        yield* until(() => done);
      },
      *drv(kernel) {
        yield* until(() => refs.length === PAGES);
        const args = yield* withCosts(kernel, "alloc", alloc(kernel));
        yield* withCosts(kernel, "map", mapAndUnmap(kernel, args, refs));
        expect(yield* withCosts(kernel, "free", gnttabDmaFreePages(kernel, args))).toBe(0);
        done = true;
      },
    },
    { audit: "end" },
  );
  expect(findings).toEqual([]);
  return Object.fromEntries(machine.reports.map(({ key, value }) => [key, Number(value)]));
}

describe("8 MiB of buffer", () => {
  test("unpopulated pages give up no RAM, split no superpage and make no hypercall; real RAM does all three", () => {
    const unpopulated = costs("pool");
    const ballooned = costs("off");
    expect(unpopulated).toMatchObject({
      "alloc.ramGivenUp": 0,
      "alloc.superpagesSplit": 0,
      "alloc.hypercalls": 0,
      "map.superpagesSplit": 0,
      "free.hypercalls": 0,
    });
    expect(ballooned["alloc.ramGivenUp"]).toBe(PAGES);
    expect(ballooned["free.ramGivenUp"]).toBe(-PAGES);
    // The buffer does not begin on a superpage's boundary: it touches one more than it would fill.
    expect(ballooned["alloc.superpagesSplit"]).toBe(PAGES / SUPERPAGE + 1);
    // Superpages that were broken up stay so.
    expect(ballooned["free.superpagesSplit"]).toBe(0);
    expect(ballooned["alloc.hypercalls"]).toBe(2);
    expect(ballooned["free.hypercalls"]).toBe(2);
    // Mapping costs the same calls; the tables it needs are those of the split superpages, or new ones.
    expect(ballooned["map.hypercalls"]).toBe(unpopulated["map.hypercalls"]);
    expect(ballooned["map.tablePages"]).toBe(0);
    expect(unpopulated["map.tablePages"]).toBeGreaterThanOrEqual(PAGES / SUPERPAGE);
  });
});
