import { describe, expect, test } from "vitest";
import { type DmaMapping, dmaMap, dmaUnmap } from "../../domains/dma.ts";
import {
  DMA_FROM_DEVICE,
  DMA_MAPPING_ERROR,
  DMA_TO_DEVICE,
  dmaToPhys,
} from "../../domains/dma-device.ts";
import { allocMap, type GntdevMap, mapGrantPages, putMap } from "../../domains/gntdev-map.ts";
import { grantForeignAccess, tryEndForeignAccess } from "../../domains/grant-table.ts";
import type { Kernel } from "../../domains/kernel.ts";
import { loadWord, storeWord } from "../../domains/memory.ts";
import { allocPages, pageToPhys } from "../../domains/pages.ts";
import { GNTDEV_DMA_FLAG_WC } from "../../shared/abi/gntdev.ts";
import { GNTMAP_host_map } from "../../shared/abi/grant.ts";
import { item } from "../../shared/assert.ts";
import type { BootDevice, DmaRange } from "../../shared/machine.ts";
import type { Program } from "../../shared/trap.ts";
import { GrantRef, Pfn } from "../../shared/units.ts";
import { testDom0, testDomain } from "../hypervisor/harness.ts";
import { EXTENDED, guestModel, runGuests } from "./guest.ts";
import { until } from "./until.ts";

const COUNT = 4;
const PAGE = 4096;

const disk = (dmaRanges: readonly DmaRange[] = []): BootDevice => ({
  name: "disk",
  kind: "disk",
  registersGfn: 0x10,
  line: 0,
  dmaRanges,
  addressWidth: 64,
  coherent: true,
});

/** dom0's own RAM and nothing else is within reach: what is foreign must bounce. */
const OWN_RAM: readonly DmaRange[] = [{ dma: 0xc000_0000, cpu: 0x4020_0000, size: 0x10_0000 }];

/** A buffer of four granted pages, mapped as gntdev does it in dom0 or in a driver domain. */
function withBuffer(
  name: "dom0" | "driver",
  program: (kernel: Kernel, buffer: GntdevMap) => Program,
): void {
  const mapper = name === "dom0" ? 0 : 2;
  const refs: number[] = [];
  let done = false;
  function* front(kernel: Kernel): Program {
    const first = allocPages(kernel.memory.pages, COUNT) ?? Pfn(0);
    for (let i = 0; i < COUNT; i++) {
      yield* storeWord(kernel.cpu, pageToPhys(Pfn(first + i)), 500 + i);
      refs.push(yield* grantForeignAccess(kernel, mapper, Pfn(first + i)));
    }
    yield* until(() => done);
    for (const ref of refs) expect(yield* tryEndForeignAccess(kernel, GrantRef(ref))).toBe(1);
  }
  function* back(kernel: Kernel): Program {
    yield* until(() => refs.length === COUNT);
    const buffer = yield* allocMap(kernel, COUNT, GNTDEV_DMA_FLAG_WC);
    if (buffer === undefined) throw new Error("there are no pages");
    buffer.grants.push(...refs.map((ref) => ({ domid: 1, ref })));
    buffer.flags = GNTMAP_host_map;
    expect(yield* mapGrantPages(kernel, buffer)).toBe(0);
    yield* program(kernel, buffer);
    yield* putMap(kernel, buffer);
    done = true;
  }
  const own = { extendedRegions: [EXTENDED] };
  const domains = [testDom0({ ...own, runs: name === "dom0" }), testDomain("front")];
  if (name === "driver") domains.push(testDomain("driver", own));
  const run = runGuests(guestModel(domains), { front, [name]: back });
  expect(run.findings).toEqual([]);
  expect(done).toBe(true);
}

function* map(
  kernel: Kernel,
  device: BootDevice,
  pages: readonly Pfn[],
  direction: 0 | 1 | 2,
): Program<DmaMapping> {
  const mapping = yield* dmaMap(kernel, device, pages, { direction });
  if (typeof mapping === "number") throw new Error("the mapping is refused");
  return mapping;
}

describe("a foreign buffer mapped for a device", () => {
  test("in a direct-mapped dom0 each address is the machine frame that the grant mapping named", () => {
    withBuffer("dom0", function* (kernel, buffer) {
      expect(kernel.memory.dma.ops).toBe("swiotlb-xen");
      const mapping = yield* map(kernel, disk(), buffer.pages, 0);
      const frames = kernel.memory.foreign.entries.map((entry) => entry.bfn * PAGE);
      expect(mapping.addresses).toEqual(frames);
      expect(mapping.addresses).not.toContain(pageToPhys(item(buffer.pages, 0)));
      expect(mapping.maker).toBe("xen_phys_to_dma");
      yield* dmaUnmap(kernel, mapping);
    });
  });

  test("in a driver domain it is one segment of guest frames, although the foreign table knows better", () => {
    withBuffer("driver", function* (kernel, buffer) {
      expect(kernel.memory.dma.ops).toBe("dma-direct");
      expect(kernel.memory.foreign.entries.length).toBe(COUNT);
      const mapping = yield* map(kernel, disk(), buffer.pages, 0);
      expect(mapping.segments).toEqual([{ address: EXTENDED.base, length: COUNT * PAGE }]);
      expect(mapping.maker).toBe("phys_to_dma");
      yield* dmaUnmap(kernel, mapping);
    });
  });

  test("decision row 7: out of the device's reach the pages bounce, and a read by the device sees a copy", () => {
    withBuffer("dom0", function* (kernel, buffer) {
      const mapping = yield* map(kernel, disk(OWN_RAM), buffer.pages, DMA_TO_DEVICE);
      expect(mapping.bounced).toBe(COUNT);
      expect(mapping.maker).toBe("swiotlb bounce");
      for (let i = 0; i < COUNT; i++) {
        const bounce = dmaToPhys(mapping.device, item(mapping.addresses, i));
        expect(yield* loadWord(kernel.cpu, bounce)).toBe(500 + i);
        yield* storeWord(kernel.cpu, bounce, 1);
      }
      yield* dmaUnmap(kernel, mapping);
      expect(yield* loadWord(kernel.cpu, pageToPhys(item(buffer.pages, 0)))).toBe(500);
      expect(kernel.memory.dma.swiotlb?.taken.every((slot) => slot === 0)).toBe(true);
    });
  });

  test("what a device has written to the bounce buffer is in the pages after the unmap, and not before", () => {
    withBuffer("dom0", function* (kernel, buffer) {
      const mapping = yield* map(kernel, disk(OWN_RAM), buffer.pages, DMA_FROM_DEVICE);
      const bounce = dmaToPhys(mapping.device, item(mapping.addresses, 2));
      yield* storeWord(kernel.cpu, bounce, 77);
      const page = pageToPhys(item(buffer.pages, 2));
      expect(yield* loadWord(kernel.cpu, page)).toBe(502);
      yield* dmaUnmap(kernel, mapping);
      expect(yield* loadWord(kernel.cpu, page)).toBe(77);
    });
  });

  test("a pool that is full, or itself out of reach, refuses the mapping and keeps no slot", () => {
    withBuffer("dom0", function* (kernel, buffer) {
      const twice = Array.from({ length: 5 }, () => buffer.pages).flat();
      expect(yield* dmaMap(kernel, disk(OWN_RAM), twice)).toBe(DMA_MAPPING_ERROR);
      const elsewhere = [{ dma: 0, cpu: 0x8_0000_0000, size: 0x1000_0000 }];
      expect(yield* dmaMap(kernel, disk(elsewhere), buffer.pages)).toBe(DMA_MAPPING_ERROR);
      expect(kernel.memory.dma.swiotlb?.taken.every((slot) => slot === 0)).toBe(true);
    });
  });
});
