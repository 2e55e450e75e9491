/** DMA addresses that are grants: virtio with xen,grant-dma, and what stands in its place without the binding. */
import { describe, expect, test } from "vitest";
import {
  dmaMapEntries,
  dmaMapPage,
  dmaSetMask,
  dmaSupported,
  dmaUnmap,
  dmaUnmapPage,
} from "../../domains/dma.ts";
import {
  DMA_FROM_DEVICE,
  DMA_MAPPING_ERROR,
  DMA_NONE,
  DMA_TO_DEVICE,
  type DmaDevice,
  dmaBitMask,
} from "../../domains/dma-device.ts";
import { mapForeignFrame } from "../../domains/foreign-map.ts";
import { mapGrantRefs, mapOp, unmapGrantRefs, unmapOp } from "../../domains/grant-calls.ts";
import {
  dmaToGrant,
  dmaToGrantOffset,
  getDmaAddress,
  grantDmaBackend,
  grantToDma,
  isGrantDma,
  setDmaAddress,
  virtioDmaDevice,
  xenGrantDmaAlloc,
  xenGrantDmaFree,
} from "../../domains/grant-dma-ops.ts";
import type { Kernel } from "../../domains/kernel.ts";
import { loadWord, storeWord } from "../../domains/memory.ts";
import { allocPages, pageToPhys } from "../../domains/pages.ts";
import { xenAllocUnpopulatedPages, xenFreeUnpopulatedPages } from "../../domains/unpopulated.ts";
import { GNTMAP_host_map, GNTMAP_readonly } from "../../shared/abi/grant.ts";
import { item } from "../../shared/assert.ts";
import { bootInfoOf } from "../../shared/boot-info.ts";
import type { BootVirtio } from "../../shared/machine.ts";
import { resolve } from "../../shared/resolve.ts";
import { EIO, ENODEV, EPERM, ESRCH, GNTST_general_error, GNTST_okay } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import { DmaAddress, Gaddr, Pfn } from "../../shared/units.ts";
import { testDom0, testDomain } from "../hypervisor/harness.ts";
import { EXTENDED, guestModel, runGuests, stillKernel } from "./guest.ts";
import { until } from "./until.ts";

const PAGE = 4096;
const FRONT = 1;
const node = (compatible: string, ...cells: number[]): BootVirtio => ({
  name: "virtio0",
  iommus: { compatible, cells },
});

/** A frontend whose virtio device is served by domain `back`, which is not privileged unless `privileged`. */
function pair(
  front: (kernel: Kernel, device: DmaDevice) => Program,
  back: (kernel: Kernel) => Program,
  options: { readonly virtio?: BootVirtio; readonly privileged?: boolean } = {},
): void {
  let ended = 0;
  const virtio = options.virtio ?? node("xen,grant-dma", 2);
  const domains = [
    testDom0({ runs: false }),
    testDomain("front"),
    testDomain("back", { extendedRegions: [EXTENDED], privileged: options.privileged ?? false }),
  ];
  const run = runGuests(guestModel(domains), {
    *front(kernel) {
      yield* front(kernel, virtioDmaDevice(kernel, virtio));
      ended++;
    },
    *back(kernel) {
      yield* back(kernel);
      ended++;
    },
  });
  expect(run.findings).toEqual([]);
  expect(ended).toBe(2);
}

describe("an address that is a grant", () => {
  test("has its top bit set in the descriptor and comes back the same", () => {
    const view = new DataView(new ArrayBuffer(8));
    setDmaAddress(view, 0, grantToDma(0x200, 0x800));
    expect(view.getBigUint64(0, true)).toBe(0x8000000000200800n);
    const back = getDmaAddress(view, 0);
    expect([isGrantDma(back), dmaToGrant(back), dmaToGrantOffset(back)]).toEqual([
      true,
      0x200,
      0x800,
    ]);
    setDmaAddress(view, 0, DmaAddress(0x1_2345_6000));
    expect(getDmaAddress(view, 0)).toBe(0x1_2345_6000);
  });

  test("without the top bit it is a guest physical address of nobody's choice", () => {
    const view = new DataView(new ArrayBuffer(8));
    setDmaAddress(view, 0, grantToDma(9));
    view.setUint32(4, view.getUint32(4, true) & 0x7fff_ffff, true);
    expect(isGrantDma(getDmaAddress(view, 0))).toBe(false);
    expect(getDmaAddress(view, 0)).toBe(9 * PAGE);
  });
});

describe("who stands behind a virtio device", () => {
  test("guest case 74: a node that points elsewhere or wrongly, and none, leave plain addresses", () => {
    const kernel = stillKernel();
    expect(grantDmaBackend(kernel, node("xen,grant-dma", 3))).toBe(3);
    expect(grantDmaBackend(kernel, node("arm,smmu-v3", 3))).toBe(-ESRCH);
    expect(grantDmaBackend(kernel, node("xen,grant-dma", 3, 4))).toBe(-ESRCH);
    expect(grantDmaBackend(kernel, { name: "virtio0" })).toBe(-ENODEV);
    expect(virtioDmaDevice(kernel, node("arm,smmu-v3", 3)).ops).toBe("dma-direct");
    expect(virtioDmaDevice(kernel, { name: "virtio0" }).ops).toBe("dma-direct");
    expect(grantDmaBackend(stillKernel({ virtioForceGrant: true }), { name: "virtio0" })).toBe(0);
  });

  test("the machine description says it, and a device served by nobody there is refused", () => {
    const spec = (backend: string) =>
      ({
        name: "virtio",
        machine: { memory: "64MiB" },
        domains: {
          dom0: { kind: "dom0", memory: "8MiB" },
          drv: { kind: "driver", memory: "8MiB" },
          guest: {
            kind: "domU",
            memory: "8MiB",
            virtio: { disk0: { backend, iommus: "xen,grant-dma" }, disk1: { backend } },
          },
        },
      }) as const;
    const given = { settings: [], parameters: {}, seed: 1 };
    const { model } = resolve<Kernel>(spec("drv"), given);
    expect(bootInfoOf(model, 2, 2).virtio).toEqual([
      { name: "disk0", iommus: { compatible: "xen,grant-dma", cells: [1] } },
      { name: "disk1" },
    ]);
    expect(() => resolve<Kernel>(spec("nobody"), given)).toThrow("virtio.disk0.backend");
  });
});

describe("mapping for a device in another domain", () => {
  test("decision row 24: pages in a row have references in a row, and the other side maps just these", () => {
    const told: { address?: DmaAddress; done?: boolean } = {};
    pair(
      function* (kernel, device) {
        expect(device.ops).toBe("grant-dma");
        const first = allocPages(kernel.memory.pages, 3) ?? Pfn(0);
        for (let i = 0; i < 3; i++)
          yield* storeWord(kernel.cpu, pageToPhys(Pfn(first + i)), 70 + i);
        const entry = { phys: Gaddr(pageToPhys(first) + 0x800), length: 9000 };
        const free = kernel.memory.grants.refs.freeCount;
        const mapping = yield* dmaMapEntries(kernel, device, [entry], DMA_TO_DEVICE);
        if (typeof mapping === "number") throw new Error("refused");
        expect(mapping.maker).toBe("grant_to_dma");
        expect(kernel.memory.grants.refs.freeCount).toBe(free - 3);
        told.address = item(mapping.addresses, 0);
        yield* until(() => told.done === true);
        yield* dmaUnmap(kernel, mapping);
        expect(kernel.memory.grants.refs.freeCount).toBe(free);
      },
      function* (kernel) {
        yield* until(() => told.address !== undefined);
        const address = told.address ?? DmaAddress(0);
        expect(dmaToGrantOffset(address)).toBe(0x800);
        const ref = dmaToGrant(address);
        const pages = yield* xenAllocUnpopulatedPages(kernel, 3);
        if (typeof pages === "number") throw new Error("no pages");
        const writable = mapOp(pageToPhys(item(pages, 0)), GNTMAP_host_map, ref, FRONT);
        yield* mapGrantRefs(kernel, [writable]);
        expect(writable.status).toBe(GNTST_general_error);
        const flags = GNTMAP_host_map | GNTMAP_readonly;
        const ops = pages.map((page, i) => mapOp(pageToPhys(page), flags, ref + i, FRONT));
        expect(yield* mapGrantRefs(kernel, ops)).toBe(0);
        for (const [i, op] of ops.entries()) {
          expect(op.status).toBe(GNTST_okay);
          expect(yield* loadWord(kernel.cpu, pageToPhys(item(pages, i)))).toBe(70 + i);
        }
        yield* unmapGrantRefs(
          kernel,
          ops.map((op, i) => unmapOp(pageToPhys(item(pages, i)), op.handle)),
        );
        xenFreeUnpopulatedPages(kernel, pages);
        told.done = true;
      },
    );
  });

  test.each([true, false])(
    "decision row 25: a plain address needs a privileged backend, and whether it is one: %s",
    (privileged) => {
      const told: { address?: DmaAddress; done?: boolean } = {};
      pair(
        function* (kernel, device) {
          const page = allocPages(kernel.memory.pages, 1) ?? Pfn(0);
          yield* storeWord(kernel.cpu, pageToPhys(page), 77);
          const dma = yield* dmaMapPage(kernel, device, pageToPhys(page), PAGE, DMA_FROM_DEVICE);
          expect(dma).toBe(pageToPhys(page));
          told.address = dma;
          yield* until(() => told.done === true);
        },
        function* (kernel) {
          yield* until(() => told.address !== undefined);
          const pages = yield* xenAllocUnpopulatedPages(kernel, 1);
          if (typeof pages === "number") throw new Error("no pages");
          const page = item(pages, 0);
          const gfn = Math.floor((told.address ?? 0) / PAGE);
          const rc = yield* mapForeignFrame(kernel, FRONT, gfn, page);
          expect(rc).toBe(privileged ? 0 : -EPERM);
          if (privileged) expect(yield* loadWord(kernel.cpu, pageToPhys(page))).toBe(77);
          told.done = true;
        },
        { virtio: { name: "virtio0" }, privileged },
      );
    },
  );

  test("guest case 73: no direction, a mask below 64 bits, and after it is broken nothing", () => {
    const told: { ref?: number; mapped?: boolean } = {};
    pair(
      function* (kernel, device) {
        const phys = pageToPhys(allocPages(kernel.memory.pages, 3) ?? Pfn(0));
        expect(yield* dmaMapPage(kernel, device, phys, PAGE, DMA_NONE)).toBe(DMA_MAPPING_ERROR);
        expect(dmaSupported(kernel, device, dmaBitMask(48))).toBe(false);
        expect(dmaSetMask(kernel, device, dmaBitMask(48))).toBe(-EIO);
        const memory = yield* xenGrantDmaAlloc(kernel, device, 1);
        const free = kernel.memory.grants.refs.freeCount;
        const dma = yield* dmaMapPage(kernel, device, phys, 3 * PAGE, DMA_FROM_DEVICE);
        told.ref = dmaToGrant(dma);
        yield* until(() => told.mapped === true);
        // The second of three is still mapped: the first has been ended, and none of them comes back.
        yield* dmaUnmapPage(kernel, device, dma, 3 * PAGE, DMA_FROM_DEVICE);
        expect(kernel.memory.grants.refs.freeCount).toBe(free - 3);
        expect(yield* dmaMapPage(kernel, device, phys, PAGE, DMA_FROM_DEVICE)).toBe(
          DMA_MAPPING_ERROR,
        );
        expect(yield* xenGrantDmaAlloc(kernel, device, 1)).toBe(undefined);
        const pages = kernel.memory.pages.freeCount;
        if (memory !== undefined) yield* xenGrantDmaFree(kernel, device, memory);
        expect(kernel.memory.pages.freeCount).toBe(pages);
      },
      function* (kernel) {
        yield* until(() => told.ref !== undefined);
        const pages = yield* xenAllocUnpopulatedPages(kernel, 1);
        if (typeof pages === "number") throw new Error("no pages");
        const op = mapOp(pageToPhys(item(pages, 0)), GNTMAP_host_map, (told.ref ?? 0) + 1, FRONT);
        yield* mapGrantRefs(kernel, [op]);
        expect(op.status).toBe(GNTST_okay);
        told.mapped = true;
      },
    );
  });

  test("coherent memory is granted for both, and goes back when the other side has let go", () => {
    pair(
      function* (kernel, device) {
        const before = [kernel.memory.pages.freeCount, kernel.memory.grants.refs.freeCount];
        const memory = yield* xenGrantDmaAlloc(kernel, device, 4);
        if (memory === undefined) throw new Error("no memory");
        expect(isGrantDma(memory.handle)).toBe(true);
        yield* xenGrantDmaFree(kernel, device, memory);
        expect([kernel.memory.pages.freeCount, kernel.memory.grants.refs.freeCount]).toEqual(
          before,
        );
      },
      function* () {
        // Nothing is asked of it.
      },
    );
  });
});
