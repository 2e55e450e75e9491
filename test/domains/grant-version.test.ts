// Versions of the grant table in a guest kernel, its growth under faults, and suspend and resume.
import { describe, expect, test } from "vitest";
import { mapOp, unmapOp } from "../../domains/grant-calls.ts";
import { gnttabMapRefs, gnttabUnmapRefs } from "../../domains/grant-map.ts";
import { gnttabResume } from "../../domains/grant-setup.ts";
import {
  drainDeferred,
  endForeignAccess,
  endForeignAccessRef,
  grantForeignAccess,
  tryEndForeignAccess,
} from "../../domains/grant-table.ts";
import { freshArguments, memoryOp, setU64 } from "../../domains/hypercalls.ts";
import { hypercall, type Kernel, sleep, writeArguments } from "../../domains/kernel.ts";
import { loadWord } from "../../domains/memory.ts";
import { pageRefcount, pageToPhys, putPage } from "../../domains/pages.ts";
import { hypervisorSuspend, xenSuspend } from "../../domains/suspend.ts";
import {
  DOMCTL_CMD,
  DOMCTL_DOMAIN,
  DOMCTL_SIZE,
  XEN_DOMCTL_resumedomain,
} from "../../shared/abi/domctl.ts";
import { GNTMAP_host_map, GNTMAP_readonly } from "../../shared/abi/grant.ts";
import {
  REMOVE_FROM_PHYSMAP_DOMID,
  REMOVE_FROM_PHYSMAP_GPFN,
  REMOVE_FROM_PHYSMAP_SIZE,
  XENMEM_remove_from_physmap,
} from "../../shared/abi/memory.ts";
import { DOMID_SELF, HYPERVISOR_domctl } from "../../shared/abi/xen.ts";
import { item } from "../../shared/assert.ts";
import { DOM, domainOf } from "../../shared/layout.ts";
import { EBUSY, ENOMEM, ENOSPC, ENOSYS, GNTST_general_error } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { GrantRef, type Pfn } from "../../shared/units.ts";
import { testDom0, testDomain, testModel } from "../hypervisor/harness.ts";
import { alone, BACK, FRONT, newPage, type PairOptions, pagesFor, pair } from "./grant-pair.ts";
import { EXTENDED, guestModel, kernelOptions, runGuests } from "./guest.ts";
import { until } from "./until.ts";

const V2: PairOptions = { machine: { arch: "x86" }, kernel: { grantVersion: 2 } };
const VERSIONS = [
  ["version 1", {}],
  ["version 2 on x86", V2],
] as const;

const tableVersion = (kernel: Kernel): number =>
  kernel.cpu.words[domainOf(kernel.cpu.layout, kernel.boot.domid) + DOM.GRANT_VERSION] ?? -1;

/** Guest address of the header of an entry in the first frame. */
const headerOf = (kernel: Kernel, ref: number): number =>
  item(kernel.memory.grants.framePfns, 0) * 4096 +
  ref * (kernel.memory.grants.version === 1 ? 8 : 16);

describe("the version of a grant table", () => {
  test("guest case 98: version 2 is refused on ARM, and the kernel goes on with version 1", () => {
    alone(
      function* (kernel) {
        expect(kernel.memory.grants.version).toBe(1);
        expect(tableVersion(kernel)).toBe(1);
        expect(yield* grantForeignAccess(kernel, BACK, yield* newPage(kernel))).toBe(8);
      },
      { kernel: { grantVersion: 2 } },
    );
  });

  test("on x86 version 2 is had by whoever asks; left to itself a kernel of small frames asks for version 1", () => {
    for (const [grantVersion, version] of [
      ["auto", 1],
      [1, 1],
      [2, 2],
    ] as const) {
      alone(
        function* (kernel) {
          expect(kernel.memory.grants.version).toBe(version);
          expect(tableVersion(kernel)).toBe(version);
        },
        { machine: { arch: "x86" }, kernel: { grantVersion } },
      );
    }
  });

  test("guest case 23: a version 2 table has 248 references in its first frame, and grows by 256", () => {
    alone(function* (kernel) {
      const page = yield* newPage(kernel);
      for (let i = 0; i < 248; i++) {
        expect(yield* grantForeignAccess(kernel, BACK, page)).toBe(8 + i);
      }
      for (let i = 0; i < 256; i++) {
        expect(yield* grantForeignAccess(kernel, BACK, page)).toBe(256 + i);
      }
      expect(yield* grantForeignAccess(kernel, BACK, page)).toBe(-ENOSPC);
    }, V2);
  });
});

/** Grants a page, lets the peer map it read-only, and runs `inUse` while it is mapped and `free` afterwards. */
function whileMapped(
  options: PairOptions,
  inUse: (kernel: Kernel, ref: number) => Program,
  free: (kernel: Kernel, ref: number) => Program,
  late?: (status: number) => void,
): void {
  const at = { ref: -1, mapped: false, looked: false, unmapped: false };
  pair(
    function* (kernel) {
      const page = yield* newPage(kernel);
      at.ref = yield* grantForeignAccess(kernel, BACK, page, { readonly: true });
      yield* until(() => at.mapped);
      yield* inUse(kernel, at.ref);
      at.looked = true;
      yield* until(() => at.unmapped);
      yield* free(kernel, at.ref);
    },
    function* (kernel) {
      yield* until(() => at.ref > 0);
      const pages = yield* pagesFor(kernel, 2);
      const gaddr = (i: number): number => pageToPhys(item(pages, i));
      const flags = GNTMAP_host_map | GNTMAP_readonly;
      const first = mapOp(gaddr(0), flags, at.ref, FRONT);
      yield* gnttabMapRefs(kernel, [first], pages);
      expect((yield* loadWord(kernel.cpu, gaddr(0))) >>> 16).toBe(4);
      at.mapped = true;
      yield* until(() => at.looked);
      const second = mapOp(gaddr(1), flags, at.ref, FRONT);
      yield* gnttabMapRefs(kernel, [second], [item(pages, 1)]);
      late?.(second.status);
      const live = [first, second].filter((op) => op.status === 0);
      const unmaps = live.map((op) => unmapOp(op.hostAddr, op.handle));
      yield* gnttabUnmapRefs(kernel, unmaps, pages);
      at.unmapped = true;
    },
    options,
  );
}

describe("an access that is ended while the peer maps the page", () => {
  test("guest case 26: version 1 leaves the entry open as it is, version 2 has closed it for newcomers", () => {
    for (const [, options] of VERSIONS) {
      const flags: number[] = [];
      whileMapped(
        options,
        function* (kernel, ref) {
          expect(yield* endForeignAccessRef(kernel, GrantRef(ref))).toBe(0);
          flags.push((yield* loadWord(kernel.cpu, headerOf(kernel, ref))) & 0xffff);
        },
        function* (kernel, ref) {
          expect(yield* tryEndForeignAccess(kernel, GrantRef(ref))).toBe(1);
          expect(yield* grantForeignAccess(kernel, BACK, yield* newPage(kernel))).toBe(ref);
        },
        // A reference that is pinned already is let in again by its active entry, whatever the shared entry says.
        (status) => expect(status).toBe(0),
      );
      expect(flags).toEqual([options === V2 ? 0 : 1 | 4 | 8]);
    }
  });

  test.each(VERSIONS)(
    "guest case 27: %s: a deferred end keeps the page, and frees the reference later",
    (_, options) => {
      whileMapped(
        options,
        function* (kernel, ref) {
          const { grants, pages } = kernel.memory;
          yield* endForeignAccess(kernel, GrantRef(ref));
          const page = item(grants.deferred, 0).page;
          expect(pageRefcount(pages, page)).toBe(2);
          putPage(pages, page);
        },
        function* (kernel, ref) {
          const { page } = item(kernel.memory.grants.deferred, 0);
          expect(yield* drainDeferred(kernel, 2)).toBe(0);
          expect(pageRefcount(kernel.memory.pages, page)).toBe(0);
          expect(yield* grantForeignAccess(kernel, BACK, yield* newPage(kernel))).toBe(ref);
        },
      );
    },
  );

  test("without memory for the deferred list the reference and its page are lost for ever", () => {
    whileMapped(
      {},
      function* (kernel, ref) {
        kernel.faults.failAt = kernel.faults.passed;
        yield* endForeignAccess(kernel, GrantRef(ref));
        expect(kernel.memory.grants.leakedCount).toBe(1);
        expect(kernel.memory.grants.deferred).toEqual([]);
      },
      function* (kernel, ref) {
        expect(yield* drainDeferred(kernel, 2)).toBe(0);
        expect(yield* grantForeignAccess(kernel, BACK, yield* newPage(kernel))).toBe(ref + 1);
      },
    );
  });

  test("a version 2 entry that was closed lets nobody in once it is free", () => {
    const statuses: number[] = [];
    const at = { ref: -1 };
    pair(
      function* (kernel) {
        const ref = yield* grantForeignAccess(kernel, BACK, yield* newPage(kernel));
        expect(yield* endForeignAccessRef(kernel, GrantRef(ref))).toBe(1);
        at.ref = ref;
      },
      function* (kernel) {
        yield* until(() => at.ref > 0);
        const pages = yield* pagesFor(kernel, 1);
        const op = mapOp(pageToPhys(item(pages, 0)), GNTMAP_host_map, at.ref, FRONT);
        yield* gnttabMapRefs(kernel, [op], pages);
        statuses.push(op.status);
      },
      V2,
    );
    expect(statuses).toEqual([GNTST_general_error]);
  });
});

/** What a machine does to which a domain has been moved: its grant frames stand nowhere yet. */
function* arrive(kernel: Kernel): Program<number> {
  for (const pfn of kernel.memory.grants.framePfns.slice(0, kernel.memory.grants.frameCount)) {
    const view = freshArguments(kernel, REMOVE_FROM_PHYSMAP_SIZE);
    view.setUint16(REMOVE_FROM_PHYSMAP_DOMID, DOMID_SELF, true);
    setU64(view, REMOVE_FROM_PHYSMAP_GPFN, pfn);
    const rc = yield* memoryOp(kernel, XENMEM_remove_from_physmap, REMOVE_FROM_PHYSMAP_SIZE);
    if (rc !== 0) return rc;
  }
  return 0;
}

describe("growth of the table", () => {
  const FOUR: PairOptions = { front: { maxGrantFrames: 4 } };
  /** A kernel of two full frames, whose next grant needs a third, and a second page of links with it. */
  function* fill(kernel: Kernel): Program<Pfn> {
    const page = yield* newPage(kernel);
    const perFrame = kernel.memory.grants.version === 1 ? 512 : 256;
    for (let i = 8; i < 1024; i++) yield* grantForeignAccess(kernel, BACK, page);
    expect(kernel.memory.grants.frameCount).toBe(1024 / perFrame);
    return page;
  }

  test("a refused frame answers ENOSPC to the grant; the next one gets its reference", () => {
    alone(function* (kernel) {
      const page = yield* fill(kernel);
      kernel.faults.failAt = kernel.faults.passed;
      expect(yield* grantForeignAccess(kernel, BACK, page)).toBe(-ENOSPC);
      expect(kernel.memory.grants.frameCount).toBe(2);
      expect(yield* grantForeignAccess(kernel, BACK, page)).toBe(1024);
      expect(kernel.memory.grants.frameCount).toBe(3);
    }, FOUR);
  });

  test("without memory for the list the frame is placed and not used; x86 lets it be placed again, ARM never does", () => {
    for (const arch of ["arm64", "x86"] as const) {
      alone(
        function* (kernel) {
          const page = yield* fill(kernel);
          const objects = kernel.faults.objects;
          kernel.faults.failAt = kernel.faults.passed + 1;
          expect(yield* grantForeignAccess(kernel, BACK, page)).toBe(-ENOSPC);
          expect(kernel.faults.failedSite).toBe("kmalloc");
          expect(kernel.faults.objects).toBe(objects);
          const next = yield* grantForeignAccess(kernel, BACK, page);
          expect(next).toBe(arch === "x86" ? 1024 : -ENOSPC);
        },
        { ...FOUR, machine: { arch } },
      );
    }
  });
});

describe("suspend and resume", () => {
  test("guest case 89: a suspend that is cancelled resumes the grant table all the same, and no event channel", () => {
    for (const [, options] of VERSIONS) {
      let irqs = 0;
      alone(function* (kernel) {
        const page = yield* newPage(kernel);
        const ref = yield* grantForeignAccess(kernel, BACK, page);
        const before = yield* loadWord(kernel.cpu, headerOf(kernel, ref));
        const free = kernel.memory.grants.refs.freeCount;
        const passed = kernel.faults.passed;
        kernel.faults.failAt = passed;
        const outcome = yield* xenSuspend(kernel, hypervisorSuspend(kernel), function* () {
          irqs++;
        });
        // As recorded on ARM, a frame that stands somewhere is not placed again, not even there.
        expect(outcome).toEqual({ cancelled: -ENOMEM, grants: options === V2 ? 0 : -EBUSY });
        // Suspend, version, size, frame and, in version 2, its status frame.
        expect(kernel.faults.passed - passed).toBe(options === V2 ? 5 : 4);
        expect(yield* loadWord(kernel.cpu, headerOf(kernel, ref))).toBe(before);
        expect(kernel.memory.grants.refs.freeCount).toBe(free);
        expect(yield* endForeignAccessRef(kernel, GrantRef(ref))).toBe(1);
      }, options);
      expect(irqs).toBe(0);
    }
  });

  test("one that was not cancelled sets the interrupts up again after the grant table", () => {
    const order: string[] = [];
    alone(function* (kernel) {
      const outcome = yield* xenSuspend(kernel, arrive(kernel), function* () {
        order.push(`resumed with ${kernel.memory.grants.maxFrames} frames`);
        expect(yield* grantForeignAccess(kernel, BACK, yield* newPage(kernel))).toBe(8);
      });
      expect(outcome).toEqual({ cancelled: 0, grants: 0 });
    });
    expect(order).toEqual(["resumed with 2 frames"]);
  });

  test("a domain that dom0 resumes goes on where it suspended, and on x86 finds its frames again", () => {
    const order: string[] = [];
    const kernel = kernelOptions({ grantVersion: 2 });
    const front = testDomain("front", { kernel, extendedRegions: [EXTENDED] });
    const model = guestModel([testDom0(), front], { arch: "x86" });
    const run = runGuests(model, {
      *dom0(kernel) {
        yield* until(() => order.length === 1);
        yield* sleep(5);
        order.push("resumes");
        const view = freshArguments(kernel, DOMCTL_SIZE);
        view.setUint32(DOMCTL_CMD, XEN_DOMCTL_resumedomain, true);
        view.setUint16(DOMCTL_DOMAIN, 1, true);
        yield* writeArguments(kernel, DOMCTL_SIZE);
        expect(yield* hypercall(kernel, HYPERVISOR_domctl, kernel.arguments.gaddr)).toBe(0);
      },
      *front(kernel) {
        const ref = yield* grantForeignAccess(kernel, 0, yield* newPage(kernel));
        order.push("suspends");
        const outcome = yield* xenSuspend(kernel, hypervisorSuspend(kernel), function* () {
          order.push("sets up its interrupts");
        });
        expect(outcome).toEqual({ cancelled: 0, grants: 0 });
        expect(yield* endForeignAccessRef(kernel, GrantRef(ref))).toBe(1);
      },
    });
    expect(run.findings).toEqual([]);
    expect(order).toEqual(["suspends", "resumes", "sets up its interrupts"]);
  });

  test("guest case 90: a host that allows fewer frames than are in use is refused", () => {
    const limits = { ...testModel([]).limits, grantFrames: 8 };
    alone(
      function* (kernel) {
        const page = yield* newPage(kernel);
        for (let i = 8; i < 5 * 512; i++) yield* grantForeignAccess(kernel, BACK, page);
        expect(kernel.memory.grants.frameCount).toBe(5);
        // A host that does not say how many frames it allows is taken for an old one, which has 4.
        kernel.faults.failAt = kernel.faults.passed + 1;
        expect(yield* gnttabResume(kernel)).toBe(-ENOSYS);
        expect(yield* arrive(kernel)).toBe(0);
        expect(yield* gnttabResume(kernel)).toBe(0);
        expect(kernel.memory.grants.maxFrames).toBe(8);
      },
      { front: { maxGrantFrames: 8 }, machine: { limits } },
    );
  });

  test("a frame that Xen refuses on the way back is answered", () => {
    alone(function* (kernel) {
      kernel.faults.failAt = kernel.faults.passed + 2;
      expect(yield* gnttabResume(kernel)).toBe(-ENOMEM);
    });
  });
});
