/**
 * A second opinion on the founding question: which address does the device get, who translates it, and where does it
 * land? From the facts of a transfer alone; it shares nothing with the code of P2M, IOMMU and DMA layer, so that the
 * machine can be held against it.
 *
 * Behaviour: decision rows 1, 2, 8, 10, 13, 14 and 17 of the thread's table; the four headlines of the README.
 */
import type { DmaRange, Range } from "./machine.ts";

export interface TransferFacts {
  /** gfn == mfn for the backend's own RAM, so its kernel uses swiotlb-xen. */
  readonly directMapped: boolean;
  /** Whether the device's accesses go through the IOMMU, which shares the backend's P2M. */
  readonly iommu: boolean;
  /** `page_to_phys`: the raw dev_bus_addr of the allocation is given to the device. */
  readonly source: "dma-layer" | "page_to_phys";
  /** dma-ranges of the device; empty: identity. */
  readonly windows: readonly DmaRange[];
  /** First gfn of the backend's buffer; its pages are consecutive. */
  readonly bufferGfn: number;
  /** Machine frame behind each page of the buffer: the frames that were granted. */
  readonly granted: readonly number[];
  /** RAM of the host, in bytes. */
  readonly hostRam: readonly Range[];
  /** Machine frame of the backend's own RAM at a gfn, or undefined where it has none. */
  ownRam(gfn: number): number | undefined;
}

export interface Prediction {
  readonly verdict: "right-frame" | "wrong-frame" | "fault" | "refused";
  /** DMA address of the first page; undefined when the kernel refuses the mapping. */
  readonly address: number | undefined;
  readonly by: "xen_phys_to_dma" | "phys_to_dma" | "page_to_phys";
  readonly translatedBy: "guest" | "iommu" | "nobody";
  /** The first target that is not the granted frame, else the first target; undefined: none was reached. */
  readonly frame: number | undefined;
}

const FRAME = 4096;

const inside = (ranges: readonly Range[], at: number): boolean =>
  ranges.some((range) => at >= range.base && at < range.base + range.size);

/** Physical to bus address through the windows; undefined: outside all of them. */
function toBus(windows: readonly DmaRange[], at: number): number | undefined {
  if (windows.length === 0) return at;
  const window = windows.find((w) => at >= w.cpu && at < w.cpu + w.size);
  return window && at - window.cpu + window.dma;
}

/** What arrives beyond the bus; undefined: no window takes the address. */
function fromBus(windows: readonly DmaRange[], at: number): number | undefined {
  if (windows.length === 0) return at;
  const window = windows.find((w) => at >= w.dma && at < w.dma + w.size);
  return window && at - window.dma + window.cpu;
}

/** Machine frame that device frame `dfn` reaches; undefined: the access faults. */
function target(facts: TransferFacts, dfn: number): number | undefined {
  if (!facts.iommu) return inside(facts.hostRam, dfn * FRAME) ? dfn : undefined;
  // A grant of the same frame at gfn == mfn: the hypervisor's identity entry, which replaces what was there.
  if (facts.directMapped && facts.granted.includes(dfn)) return dfn;
  return facts.granted[dfn - facts.bufferGfn] ?? facts.ownRam(dfn);
}

/** Address given to the device for page `page`; undefined: the kernel refuses the mapping. */
function addressOf(facts: TransferFacts, page: number): number | undefined {
  const gaddr = (facts.bufferGfn + page) * FRAME;
  if (facts.source === "page_to_phys") return gaddr;
  const granted = facts.granted[page] ?? 0;
  return toBus(facts.windows, facts.directMapped ? granted * FRAME : gaddr);
}

/** Predicts one transfer into every page of the buffer. Pure. */
export function predict(facts: TransferFacts): Prediction {
  const kernel = facts.directMapped ? "xen_phys_to_dma" : "phys_to_dma";
  const by = facts.source === "page_to_phys" ? "page_to_phys" : kernel;
  const guestTranslates = facts.directMapped && facts.source === "dma-layer";
  const translatedBy = facts.iommu ? "iommu" : guestTranslates ? "guest" : "nobody";
  const addresses = facts.granted.map((_, page) => addressOf(facts, page));
  const common = { address: addresses[0], by, translatedBy } as const;
  if (addresses.includes(undefined)) {
    return { ...common, address: undefined, verdict: "refused", frame: undefined };
  }
  let first: number | undefined;
  let wrong: number | undefined;
  for (const [page, address] of addresses.entries()) {
    const physical = fromBus(facts.windows, address ?? 0);
    const frame = physical === undefined ? undefined : target(facts, Math.floor(physical / FRAME));
    // A fault ends the transfer: nothing after it is reached.
    if (frame === undefined) {
      return {
        ...common,
        verdict: wrong === undefined ? "fault" : "wrong-frame",
        frame: wrong ?? first,
      };
    }
    first ??= frame;
    if (frame !== facts.granted[page]) wrong ??= frame;
  }
  const verdict = wrong === undefined ? "right-frame" : "wrong-frame";
  return { ...common, verdict, frame: wrong ?? first };
}
