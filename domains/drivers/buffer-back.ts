import { DISK_STATUS_OK, DISK_TRANSFER_MAX } from "../../shared/abi/disk.ts";
import { GNTDEV_DMA_FLAG_WC } from "../../shared/abi/gntdev.ts";
import { GNTMAP_host_map } from "../../shared/abi/grant.ts";
import { O_RDWR } from "../../shared/abi/linux.ts";
import { item } from "../../shared/assert.ts";
import { DISK_SEGMENTS_MAX, PAGE_SIZE } from "../../shared/limits.ts";
import { ENOMEM } from "../../shared/status.ts";
import type { Program } from "../../shared/trap.ts";
import type { Pfn } from "../../shared/units.ts";
import { KernelBug } from "../bug.ts";
import { withCosts } from "../costs.ts";
import { type DmaSegment, dmaSyncForCpu } from "../dma.ts";
import { dmaBufAttach, dmaBufDetach, dmaBufExport, dmaBufMapAttachment } from "../dma-buf.ts";
import { DMA_FROM_DEVICE, dmaDeviceOf } from "../dma-device.ts";
import { allocMap, type GntdevMap, mapGrantPages, putMap } from "../gntdev-map.ts";
import { type Kernel, report } from "../kernel.ts";
import { writeStoreNode } from "../xenbus.ts";
import { type Disk, openDisk, readDisk } from "./disk.ts";
import { backNode, frontNode, readDirectory } from "./page-directory.ts";
import { findDomain } from "./transfer-front.ts";

export interface BufferBackOptions {
  /** Name of the domain whose buffer it is. */
  readonly frontend: string;
  /** `dma`: gnttab_dma_alloc_pages, contiguous. `pages`: gnttab_alloc_pages, as ordinary mappings take them. */
  readonly takes: "dma" | "pages";
  /** Largest scatter entry of the importing device: a page, or as long as pages are consecutive. */
  readonly segments: "page" | "merged";
  /** The address that the disk is given: the DMA layer's, dev_bus_addr as it stands, or none: no transfer. */
  readonly address: "dma-layer" | "dev_bus_addr" | "none";
  readonly hold: boolean;
}

/** Runs `program`; what it costs is reported as withCosts does, and `<step>.outOfUse`, pages that the kernel is without. */
export function* measured<Result>(
  kernel: Kernel,
  step: string,
  program: Program<Result>,
): Program<Result> {
  const { pages } = kernel.memory;
  const free = pages.freeCount;
  const result = yield* withCosts(kernel, step, program);
  yield* report(`${step}.outOfUse`, free - pages.freeCount);
  return result;
}

const areContiguous = (pages: readonly Pfn[]): boolean =>
  pages.every((page, i) => i === 0 || page === item(pages, i - 1) + 1);

function* mapBuffer(
  kernel: Kernel,
  domid: number,
  refs: readonly number[],
  map: GntdevMap,
): Program<number> {
  map.grants.push(...refs.map((ref) => ({ domid, ref })));
  map.flags = GNTMAP_host_map;
  return yield* mapGrantPages(kernel, map);
}

/** Segments in commands that the disk takes; the status that ended it. */
export function* readAll(
  kernel: Kernel,
  disk: Disk,
  segments: readonly DmaSegment[],
): Program<number> {
  let offset = 0;
  const pieces = segments.flatMap(({ address, length }) => {
    const count = Math.ceil(length / DISK_TRANSFER_MAX);
    return Array.from({ length: count }, (_, i) => ({
      address: (address + i * DISK_TRANSFER_MAX) as DmaSegment["address"],
      length: Math.min(DISK_TRANSFER_MAX, length - i * DISK_TRANSFER_MAX),
    }));
  });
  for (let first = 0; first < pieces.length; ) {
    let count = 0;
    let bytes = 0;
    while (first + count < pieces.length && count < DISK_SEGMENTS_MAX) {
      const { length } = item(pieces, first + count);
      if (bytes + length > DISK_TRANSFER_MAX) break;
      bytes += length;
      count++;
    }
    const result = yield* readDisk(kernel, disk, offset, pieces.slice(first, first + count));
    if (result.status !== DISK_STATUS_OK) return result.status;
    first += count;
    offset += bytes;
  }
  return DISK_STATUS_OK;
}

/** Fills the buffer by the way that is asked for. */
function* fill(kernel: Kernel, map: GntdevMap, options: BufferBackOptions): Program {
  const sizeBytes = map.count * PAGE_SIZE;
  if (options.address === "dma-layer") {
    yield* fillPages(kernel, map.pages, options.segments === "page" ? PAGE_SIZE : sizeBytes);
    return;
  }
  const address = map.dma?.devBusAddr;
  if (address === undefined) throw new KernelBug("these pages have no dev_bus_addr");
  yield* report("address", address);
  yield* report("by", kernel.boot.kernel.devBusAddr);
  yield* report("segments", 1);
  const disk = yield* theDisk(kernel);
  yield* report("disk", yield* readAll(kernel, disk, [{ address, length: sizeBytes }]));
}

function* theDisk(kernel: Kernel): Program<Disk> {
  const disk = yield* openDisk(kernel);
  if (typeof disk === "number") throw new KernelBug(`no disk in this domain (${disk})`);
  return disk;
}

/** The display driver's import, with a disk for its display. `largest`: bytes of one scatter entry. */
export function* fillPages(kernel: Kernel, pages: readonly Pfn[], largest: number): Program {
  const disk = yield* theDisk(kernel);
  const sizeBytes = pages.length * PAGE_SIZE;
  function* release(): Program {
    // The pages are their owner's, who gives them back.
  }
  const source = { kernel, pages, sizeBytes, mmap: false, release };
  const attachment = dmaBufAttach(dmaBufExport(source, O_RDWR), dmaDeviceOf(disk.device), largest);
  const mapping = yield* dmaBufMapAttachment(attachment, DMA_FROM_DEVICE);
  if (typeof mapping === "number") {
    yield* report("refused", mapping);
    return;
  }
  yield* report("address", item(mapping.addresses, 0));
  yield* report("by", mapping.maker);
  yield* report("segments", mapping.segments.length);
  yield* report("bounced", mapping.bounced);
  // A bounced entry is copied when it is mapped, whatever the direction, and when it is synchronised.
  const share = mapping.bounced / mapping.addresses.length;
  yield* report("copied", 2 * share * sizeBytes);
  yield* report("disk", yield* readAll(kernel, disk, mapping.segments));
  yield* dmaSyncForCpu(kernel, mapping);
  yield* dmaBufDetach(attachment);
}

/**
 * Reports the costs of `alloc`, `map` and `free`, and `pages` (unpopulated, RAM or refused), `contiguous`, `first`,
 * `errno`, and of the transfer `address`, `by`, `segments`, `bounced`, `disk`, `refused`.
 */
export function* bufferBack(kernel: Kernel, options: BufferBackOptions): Program {
  const domid = yield* findDomain(kernel, options.frontend);
  const refs = yield* readDirectory(kernel, domid, frontNode(domid));
  const flags = options.takes === "dma" ? GNTDEV_DMA_FLAG_WC : 0;
  const map = yield* measured(kernel, "alloc", allocMap(kernel, refs.length, flags));
  if (map === undefined) {
    yield* report("pages", "refused");
    yield* report("errno", -ENOMEM);
  } else {
    yield* report("pages", originOf(kernel, map));
    yield* report("contiguous", areContiguous(map.pages) ? "yes" : "no");
    yield* report("first", item(map.pages, 0));
    const mapped = yield* measured(kernel, "map", mapBuffer(kernel, domid, refs, map));
    yield* report("errno", mapped);
    if (mapped === 0 && options.address !== "none") yield* fill(kernel, map, options);
    if (!options.hold) yield* measured(kernel, "free", putMap(kernel, map));
  }
  yield* writeStoreNode(kernel, `${backNode(kernel.boot.domid, domid)}/done`, 1);
}

/** Whether there was RAM behind the pages before. */
function originOf(kernel: Kernel, map: GntdevMap): string {
  const { sections } = kernel.memory.pages;
  const first = item(map.pages, 0);
  const section = sections.find(({ base, count }) => first >= base && first < base + count);
  return section?.device === true ? "unpopulated" : "RAM";
}
