/**
 * DMA addresses that are grants: a device that lives in another domain is given the top bit, a grant reference and an
 * offset, and may reach exactly what was granted. Successor of the search for an address that the other side can use.
 *
 *   63        62..12        11..0
 *   1   grant reference    offset      consecutive pages have consecutive references
 *
 * Rules: only a device with a mask of 64 bits. An end that finds its grant still in use breaks the device for ever: that
 * memory and those references are lost, and it maps nothing more. What a device only reads is granted read-only.
 * Behaviour: Linux drivers/xen/grant-dma-ops.c, grant-dma-iommu.c. A number holds no 64 bits, so an address with the top
 * bit is kept here as -1 - (the lower 63 bits); setDmaAddress writes what a descriptor holds.
 */
import { assert } from "../shared/assert.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import type { BootVirtio } from "../shared/machine.ts";
import { ENODEV, ESRCH } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { DmaAddress, type Gaddr, GrantRef, Pfn } from "../shared/units.ts";
import {
  DMA_MAPPING_ERROR,
  DMA_NONE,
  DMA_TO_DEVICE,
  type DmaDevice,
  type DmaDirection,
  dmaBitMask,
  type GrantDmaData,
} from "./dma-device.ts";
import type { DmaMemory } from "./dma-direct.ts";
import {
  allocGrantReferenceSeq,
  endForeignAccessRef,
  freeGrantReferenceSeq,
  grantForeignAccessRef,
} from "./grant-table.ts";
import { getU64, setU64 } from "./hypercalls.ts";
import type { Kernel } from "./kernel.ts";
import { zeroPage } from "./memory.ts";
import { allocPages, freePages, pageToPhys, physToPage } from "./pages.ts";

/** Compatible of a node that stands for "the other side is a domain"; its one cell is the domain's id. */
export const GRANT_DMA_COMPATIBLE = "xen,grant-dma";
const TOP_BIT = 0x8000_0000;

/** grant_to_dma. */
export const grantToDma = (ref: number, offset = 0): DmaAddress =>
  DmaAddress(-1 - (ref * PAGE_SIZE + offset));
/** Whether an address has its top bit set: it names a grant. */
export const isGrantDma = (dma: DmaAddress): boolean => dma < 0;
const lowerBits = (dma: DmaAddress): number => -1 - dma;
/** dma_to_grant. */
export const dmaToGrant = (dma: DmaAddress): number => Math.floor(lowerBits(dma) / PAGE_SIZE);
export const dmaToGrantOffset = (dma: DmaAddress): number => lowerBits(dma) % PAGE_SIZE;

/** Writes a DMA address as the eight bytes of a descriptor. */
export function setDmaAddress(view: DataView, at: number, dma: DmaAddress): void {
  setU64(view, at, isGrantDma(dma) ? lowerBits(dma) : dma);
  if (isGrantDma(dma)) view.setUint32(at + 4, (view.getUint32(at + 4, true) | TOP_BIT) >>> 0, true);
}

/** Reads one, as the other side does. */
export function getDmaAddress(view: DataView, at: number): DmaAddress {
  const high = view.getUint32(at + 4, true);
  if (high < TOP_BIT) return DmaAddress(getU64(view, at));
  return DmaAddress(-1 - ((high - TOP_BIT) * 2 ** 32 + view.getUint32(at, true)));
}

/**
 * The domain behind a virtio device, by its node: -ESRCH when the node points elsewhere or wrongly, -ENODEV when it
 * points nowhere and the kernel is not told to grant in any case (to dom0 then).
 */
export function grantDmaBackend(kernel: Kernel, { iommus }: BootVirtio): number {
  if (iommus === undefined) return kernel.boot.kernel.virtioForceGrant ? 0 : -ENODEV;
  const [domid] = iommus.cells;
  if (iommus.compatible !== GRANT_DMA_COMPATIBLE || iommus.cells.length !== 1) return -ESRCH;
  return domid ?? -ESRCH;
}

/**
 * xen_virtio_restricted_mem_acc: the virtio device as the DMA layer knows it, with these operations if a domain stands
 * behind it, and plain guest physical addresses otherwise.
 */
export function virtioDmaDevice(kernel: Kernel, virtio: BootVirtio): DmaDevice {
  const plain: DmaDevice = {
    name: virtio.name,
    dmaRanges: [],
    mask: dmaBitMask(64),
    busLimit: 0,
    coherent: true,
    ops: "dma-direct",
  };
  const backendDomid = grantDmaBackend(kernel, virtio);
  if (backendDomid < 0) return plain;
  kernel.memory.dma.grantDma.set(virtio.name, { backendDomid, broken: false });
  return { ...plain, ops: "grant-dma" };
}

const dataOf = (kernel: Kernel, device: DmaDevice): GrantDmaData | undefined => {
  const data = kernel.memory.dma.grantDma.get(device.name);
  return data?.broken === true ? undefined : data;
};

/** Grants `count` pages from `page` under consecutive references: the first of them, or undefined. */
function* grantPages(
  kernel: Kernel,
  data: GrantDmaData,
  page: Pfn,
  count: number,
  access: { readonly readonly: boolean },
): Program<number | undefined> {
  const first = yield* allocGrantReferenceSeq(kernel, count);
  if (first < 0) return undefined;
  for (let i = 0; i < count; i++) {
    const ref = GrantRef(first + i);
    yield* grantForeignAccessRef(kernel, ref, data.backendDomid, Pfn(page + i), access);
  }
  return first;
}

/** Ends `count` grants from `first`, in order. False, and the device is broken: one of them is still in use. */
function* endGrants(
  kernel: Kernel,
  data: GrantDmaData,
  first: number,
  count: number,
): Program<boolean> {
  for (let i = 0; i < count; i++) {
    if ((yield* endForeignAccessRef(kernel, GrantRef(first + i))) === 1) continue;
    data.broken = true;
    return false;
  }
  freeGrantReferenceSeq(kernel, GrantRef(first), count);
  return true;
}

/** xen_grant_dma_alloc: zeroed pages that the device may read and write. Undefined: broken, or there is no room. */
export function* xenGrantDmaAlloc(
  kernel: Kernel,
  device: DmaDevice,
  count: number,
): Program<DmaMemory | undefined> {
  const data = dataOf(kernel, device);
  const page = data === undefined ? undefined : allocPages(kernel.memory.pages, count);
  if (data === undefined || page === undefined) return undefined;
  for (let i = 0; i < count; i++) yield* zeroPage(kernel.cpu, pageToPhys(page) + i * PAGE_SIZE);
  const first = yield* grantPages(kernel, data, page, count, { readonly: false });
  if (first === undefined) {
    freePages(kernel.memory.pages, page, count);
    return undefined;
  }
  return { page, count, handle: grantToDma(first) };
}

/** xen_grant_dma_free: pages and references go back, or are lost when one is still in use. */
export function* xenGrantDmaFree(kernel: Kernel, device: DmaDevice, memory: DmaMemory): Program {
  const data = dataOf(kernel, device);
  if (data === undefined) return;
  const ended = yield* endGrants(kernel, data, dmaToGrant(memory.handle), memory.count);
  if (ended) freePages(kernel.memory.pages, memory.page, memory.count);
}

const pagesOf = (offset: number, size: number): number => Math.ceil((offset + size) / PAGE_SIZE);

/** xen_grant_dma_map_page: `size` bytes at `phys`, which may go beyond its page. */
export function* xenGrantDmaMapPage(
  kernel: Kernel,
  device: DmaDevice,
  phys: Gaddr,
  size: number,
  direction: DmaDirection,
): Program<DmaAddress> {
  const data = dataOf(kernel, device);
  if (direction === DMA_NONE || data === undefined) return DMA_MAPPING_ERROR;
  const offset = phys % PAGE_SIZE;
  const access = { readonly: direction === DMA_TO_DEVICE };
  const count = pagesOf(offset, size);
  const first = yield* grantPages(kernel, data, physToPage(phys), count, access);
  return first === undefined ? DMA_MAPPING_ERROR : grantToDma(first, offset);
}

/** xen_grant_dma_unmap_page. */
export function* xenGrantDmaUnmapPage(
  kernel: Kernel,
  device: DmaDevice,
  dma: DmaAddress,
  size: number,
): Program {
  const data = dataOf(kernel, device);
  if (data === undefined) return;
  assert(isGrantDma(dma), "what was mapped here has the top bit");
  yield* endGrants(kernel, data, dmaToGrant(dma), pagesOf(dmaToGrantOffset(dma), size));
}
