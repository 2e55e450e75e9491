/**
 * A virtio driver whose device is another domain: what it puts into a descriptor is what its DMA layer says, a grant or a
 * guest physical address.
 *
 *   queue page -> its address and an event channel in the store -> descriptor -> available -> notify -> used -> unmap
 *
 * Rules: only what is mapped for the device is within its reach, if addresses are grants; everything, if they are not and
 * the other side is privileged.
 * Behaviour: drivers/virtio/virtio_ring.c with one request; store nodes stand for the registers of virtio-mmio.
 */
import {
  VIRTIO_DEVICE,
  VIRTQ_AVAIL,
  VIRTQ_DESC,
  VIRTQ_DESC_ADDR,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_DESC_FLAGS,
  VIRTQ_DESC_LEN,
  VIRTQ_DESC_SIZE,
  VIRTQ_RING_ENTRIES,
  VIRTQ_RING_INDEX,
  VIRTQ_USED,
  VIRTQ_USED_ENTRY_SIZE,
} from "../../shared/abi/virtio.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import type { Program } from "../../shared/trap.ts";
import { type DmaAddress, Pfn } from "../../shared/units.ts";
import { bugOn, KernelBug } from "../bug.ts";
import { dmaAllocCoherent, dmaFreeCoherent, dmaMapPage, dmaUnmapPage } from "../dma.ts";
import { DMA_FROM_DEVICE, DMA_MAPPING_ERROR } from "../dma-device.ts";
import { takePort } from "../event-state.ts";
import { allocPort, closePort, notifyPort } from "../events.ts";
import { setDmaAddress, virtioDmaDevice } from "../grant-dma-ops.ts";
import { type Kernel, report, waitTimeout } from "../kernel.ts";
import { loadWord, readBytes, storeWord, writeBytes, zeroPage } from "../memory.ts";
import { allocPages, pageToPhys } from "../pages.ts";
import { structure } from "../structure.ts";
import { writeStoreNode } from "../xenbus.ts";
import { hashPages } from "./buffer-front.ts";
import { findDomain } from "./transfer-front.ts";

/** A device that has not answered by then is given up. */
const ANSWER_TIMEOUT_MS = 3000;

/** A DMA address as sixteen digits, as a pair of registers would hold it. */
export function registerText(address: DmaAddress): string {
  const { view } = structure(8);
  setDmaAddress(view, 0, address);
  const digits = (at: number): string => view.getUint32(at, true).toString(16).padStart(8, "0");
  return `0x${digits(4)}${digits(0)}`;
}

export interface VirtioFrontOptions {
  /** Name of the domain behind the device. */
  readonly backend: string;
  readonly pages: number;
}

/** Reports `given` (address of the buffer as the descriptor holds it), `sha256` of what arrived, and `used` bytes. */
export function* virtioFront(kernel: Kernel, options: VirtioFrontOptions): Program {
  const { cpu, memory, boot } = kernel;
  const [virtio] = boot.virtio;
  if (virtio === undefined) throw new KernelBug("this domain has no virtio device");
  const device = virtioDmaDevice(kernel, virtio);
  const backend = yield* findDomain(kernel, options.backend);
  const queue = yield* dmaAllocCoherent(kernel, device, 1);
  const first = allocPages(memory.pages, options.pages);
  if (queue === undefined || first === undefined) throw new KernelBug("out of memory");
  const size = options.pages * PAGE_SIZE;
  const pages = Array.from({ length: options.pages }, (_, i) => Pfn(first + i));
  for (const page of pages) yield* zeroPage(cpu, pageToPhys(page));
  const address = yield* dmaMapPage(kernel, device, pageToPhys(first), size, DMA_FROM_DEVICE);
  bugOn(address === DMA_MAPPING_ERROR, "the buffer cannot be mapped");
  yield* report("given", registerText(address));
  const ring = pageToPhys(queue.page);
  yield* writeDescriptor(kernel, ring, address, size);
  const port = yield* allocPort(kernel, backend);
  const node = `/local/domain/${boot.domid}/device/${VIRTIO_DEVICE}/0`;
  yield* writeStoreNode(kernel, `${node}/event-channel`, port);
  yield* writeStoreNode(kernel, `${node}/queue`, registerText(queue.handle));
  yield* notifyPort(kernel, port);
  // The other side may be unable to reach even the queue, and then nobody answers.
  while ((yield* loadWord(cpu, ring + VIRTQ_USED + VIRTQ_RING_INDEX)) >>> 16 === 0) {
    if (!(yield* waitTimeout(kernel, () => takePort(kernel.events, port), ANSWER_TIMEOUT_MS)))
      break;
  }
  const entry = new Uint8Array(VIRTQ_USED_ENTRY_SIZE);
  yield* readBytes(cpu, ring + VIRTQ_USED + VIRTQ_RING_ENTRIES, entry, 0, entry.length);
  yield* report("used", new DataView(entry.buffer).getUint32(4, true));
  yield* report("sha256", yield* hashPages(kernel, pages));
  yield* dmaUnmapPage(kernel, device, address, size, DMA_FROM_DEVICE);
  yield* closePort(kernel, port);
  yield* dmaFreeCoherent(kernel, device, queue);
}

/** The one descriptor of the request, made available by the ring's word, last. */
function* writeDescriptor(
  kernel: Kernel,
  ring: number,
  address: DmaAddress,
  size: number,
): Program {
  const { bytes, view } = structure(VIRTQ_DESC_SIZE);
  setDmaAddress(view, VIRTQ_DESC_ADDR, address);
  view.setUint32(VIRTQ_DESC_LEN, size, true);
  view.setUint16(VIRTQ_DESC_FLAGS, VIRTQ_DESC_F_WRITE, true);
  yield* writeBytes(kernel.cpu, ring + VIRTQ_DESC, bytes, 0, bytes.length);
  // Head 0 is the ring's first entry already: the page was zeroed.
  yield* storeWord(kernel.cpu, ring + VIRTQ_AVAIL + VIRTQ_RING_INDEX, 1 << 16);
}
