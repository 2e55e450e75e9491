// Every allocation and every hypercall of a grant buffer's life fails in turn; test/threads-faults.test.ts does the same
// on real workers.
import { describe, expect, test } from "vitest";
import { endForeignAccessRef, grantForeignAccess } from "../../domains/grant-table.ts";
import type { Kernel } from "../../domains/kernel.ts";
import type { KernelOptions } from "../../shared/machine.ts";
import type { Program } from "../../shared/trap.ts";
import { GrantRef } from "../../shared/units.ts";
import { testDom0, testDomain } from "../hypervisor/harness.ts";
import { fine, mapFaults, POOL_ANSWERS, RAM_ANSWERS } from "./fault-answers.ts";
import { enumerateFaults, firstRound, type Grants } from "./fault-enumeration.ts";
import { newPage } from "./grant-pair.ts";
import { EXTENDED, guestModel, kernelOptions, runGuests } from "./guest.ts";
import { until } from "./until.ts";

const FRONT = 1;
const BACK = 2;

/** Runs `program` in the backend with two grants of the frontend, which can be ended afterwards; the audit is clean. */
function withGrants<Result>(
  options: Partial<KernelOptions>,
  program: (kernel: Kernel, grants: Grants) => Program<Result>,
  seed?: number,
): Result {
  const refs: number[] = [];
  const results: Result[] = [];
  const model = guestModel([
    testDom0({ runs: false }),
    testDomain("front"),
    testDomain("back", { kernel: kernelOptions(options), extendedRegions: [EXTENDED] }),
  ]);
  const run = runGuests(
    model,
    {
      *front(kernel) {
        for (let i = 0; i < 2; i++) {
          refs.push(yield* grantForeignAccess(kernel, BACK, yield* newPage(kernel)));
        }
        yield* until(() => results.length > 0);
        for (const ref of refs) {
          expect(yield* endForeignAccessRef(kernel, GrantRef(ref))).toBe(1);
        }
      },
      *back(kernel) {
        yield* until(() => refs.length === 2);
        results.push(yield* program(kernel, { domid: FRONT, refs }));
      },
    },
    seed === undefined ? {} : { seed },
  );
  expect(run.findings).toEqual([]);
  const [result] = results;
  if (result === undefined) throw new Error("the backend does not come to its end");
  return result;
}

describe("every allocation and every hypercall of a grant buffer fails in turn", () => {
  test("with real RAM: -ENOMEM without memory, -EFAULT from Xen, statuses from a map, and nothing is left behind", () => {
    const options = { longBits: 32, unpopulatedAlloc: "off" } as const;
    expect(withGrants(options, enumerateFaults)).toEqual(RAM_ANSWERS);
  });

  test("with unpopulated pages: what fails before the pages are there is hidden by the fallback to RAM", () => {
    expect(withGrants({}, enumerateFaults)).toEqual(POOL_ANSWERS);
  });

  test("without the fallback the same failures are answered, and the section that could not be added is not there", () => {
    const all = withGrants({ fallback: false, longBits: 32 }, enumerateFaults);
    const refused = "kmalloc: alloc -12";
    expect(all.slice(0, 5)).toEqual([refused, refused, refused, refused, refused]);
    expect(all.slice(-8)).toEqual([
      refused,
      refused,
      ...mapFaults("unpopulated"),
      fine("unpopulated"),
      fine("unpopulated"),
    ]);
  });

  test("a clean-up that forgets the private marks is found by what it leaves behind", () => {
    expect(() =>
      withGrants({ longBits: 32, privateCleanup: "free-only" }, enumerateFaults),
    ).toThrow("descriptors is 1 and was 0");
  });

  test("in whatever order the two domains move", () => {
    const calm = withGrants({ unpopulatedAlloc: "rfc" }, enumerateFaults);
    for (const seed of [1, 2, 3, 4, 5]) {
      expect(withGrants({ unpopulatedAlloc: "rfc" }, enumerateFaults, seed)).toEqual(calm);
    }
  });

  test("allocations of the hypervisor in a machine that has done nothing before: handle page and table pages", () => {
    const seen: string[] = [];
    for (let n = 0; n < 10; n++) {
      seen.push(withGrants({}, (kernel, grants) => firstRound(kernel, grants, n)));
      if (seen.at(-1) === fine("unpopulated")) break;
    }
    expect(seen).toEqual([
      "hypervisor: unpopulated, map 0 [-13,0], unmap 0, free 0",
      "hypervisor: unpopulated, map 0 [-1,0], unmap 0, free 0",
      "hypervisor: unpopulated, map 0 [-1,0], unmap 0, free 0",
      fine("unpopulated"),
    ]);
  });
});
