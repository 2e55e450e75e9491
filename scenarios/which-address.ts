/**
 * The founding experiment: which address does a backend give to a device, and who turns it into the machine frame?
 *
 * A frontend in `guest` grants its pages; a backend in `dom0` (gfn == mfn) or in `drv` (not) allocates a contiguous
 * buffer, maps the grants onto it, asks its kernel's DMA layer for an address, and the disk writes a real file there.
 * Every variant is held against predict(), which knows no code of the machine.
 *
 *   host RAM:  0 | Xen, dom0, heap |   0x4000_0000 | victim |   0x1_0000_0000 | victim |
 *   drv:                               0x4000_0000 | its RAM |  0x1_0180_0000 | extended region |
 *
 * The guest-physical RAM and the extended region of `drv` lie where the host has RAM of somebody else, as they do on
 * real boards (RAM from 0 to beyond 4 GiB; a DomU's RAM at 1 GiB): without an IOMMU a gfn given to a device is a
 * stranger's frame. An offset of 0xc000_0000 is the RPi4's.
 */
import { transferBack } from "../domains/drivers/transfer-back.ts";
import { transferFront } from "../domains/drivers/transfer-front.ts";
import type { Kernel } from "../domains/kernel.ts";
import { defineScenario, type Given, type VariantSpec } from "../shared/scenario.ts";
import { formatHex, formatSize } from "../shared/sizes.ts";
import { judgeTransfer, type TransferRow } from "../shared/transfer-verdict.ts";
import type { Program } from "../shared/trap.ts";

const RPI4_OFFSET = 0xc000_0000;
/** Pages of the backend's buffer: 1 MiB, mapped and unmapped as often as the file takes. */
const BUFFER_PAGES = 256;

type Backend = "dom0" | "driver";
type Source = "dma-layer" | "page_to_phys";

/** The names under which a backend's facts choose its domain. */
const DOMAIN = { dom0: "dom0", driver: "drv" } as const;

function* backend(kernel: Kernel, given: Given): Program {
  if (DOMAIN[given.facts.backend as Backend] !== kernel.boot.name) return;
  yield* transferBack(kernel, { source: given.facts.source as Source, frontends: 1 });
}

/** What one variant changes of the machine. */
function variant(
  backendKind: Backend,
  iommu: boolean,
  pages: "unpopulated" | "ballooned",
  busOffset: number,
  source: Source,
  set: Readonly<Record<string, unknown>> = {},
  note = "",
): VariantSpec {
  const domain = DOMAIN[backendKind];
  const offset = busOffset === 0 ? "flat" : "offset";
  const words = [backendKind, iommu ? "iommu" : "bare", pages, offset, source];
  // Without an IOMMU dom0's extended region is host RAM that it does not own; with one it is an address hole.
  const dom0Region = iommu ? 0x2_0180_0000 : 0x1_0180_0000;
  return {
    name: [...words, ...(note === "" ? [] : [note.replaceAll(" ", "-")])].join("/"),
    facts: { backend: backendKind, iommu, pages, busOffset, source, note },
    set: {
      "machine.iommu.mode": iommu ? "on" : "off",
      "devices.disk0.busOffset": busOffset,
      "domains.drv.atBoot": backendKind === "driver",
      "domains.dom0.extendedRegions": [{ base: dom0Region, size: "8MiB" }],
      [`domains.${domain}.devices`]: ["disk0"],
      [`domains.${domain}.backend`]: { pages: pages === "ballooned" ? "balloon" : "unpopulated" },
      ...set,
    },
  };
}

/** The four headlines, in the order in which the question unfolds. */
const HEADLINES: readonly (readonly [Backend, boolean])[] = [
  ["dom0", false],
  ["dom0", true],
  ["driver", true],
  ["driver", false],
];

const matrix: readonly VariantSpec[] = HEADLINES.flatMap(([backendKind, iommu]) =>
  (["unpopulated", "ballooned"] as const).flatMap((pages) =>
    [0, RPI4_OFFSET].flatMap((offset) =>
      (["dma-layer", "page_to_phys"] as const).map((source) =>
        variant(backendKind, iommu, pages, offset, source),
      ),
    ),
  ),
);

/** A board whose RAM lies elsewhere, so that the driver domain's frame numbers are nobody's. */
const notRam = variant(
  "driver",
  false,
  "unpopulated",
  0,
  "dma-layer",
  {
    "machine.banks": [{ base: 0x8_0000_0000, size: "96MiB" }],
    "domains.victim.staticMemory": [],
    "domains.victim.memory": "4MiB",
    "domains.dom0.extendedRegions": [],
  },
  "no RAM there",
);

/** The RPi4's window as it is: the first GiB only, and no frame of a DomU lies in it. */
const literalWindow = variant(
  "driver",
  false,
  "unpopulated",
  RPI4_OFFSET,
  "dma-layer",
  {
    "devices.disk0": {
      kind: "disk",
      dmaRanges: [{ dma: RPI4_OFFSET, cpu: 0, size: "1GiB" }],
    },
    "domains.drv.ramBase": 0x4000_0000,
  },
  "1 GiB window",
);

const rowOf = (row: unknown): TransferRow => row as TransferRow;

/** By backend, whether it is direct-mapped, and IOMMU. */
const HEADINGS: Readonly<Record<string, string>> = {
  "dom0/direct/false":
    "dom0, gfn == mfn, no IOMMU: the guest kernel turns the gfn into the machine frame",
  "dom0/direct/true":
    "dom0, gfn == mfn, IOMMU: the mfn again, through the identity entry of the grant",
  "dom0/scattered/true": "dom0, gfn != mfn, IOMMU: the gfn, and the IOMMU finds the granted frame",
  "dom0/scattered/false": "dom0, gfn != mfn, no IOMMU: nobody translates; an IOMMU is required",
  "driver/scattered/true":
    "driver domain, gfn != mfn, IOMMU: the gfn, and the IOMMU finds the granted frame",
  "driver/scattered/false":
    "driver domain, gfn != mfn, no IOMMU: nobody translates; an IOMMU is required",
};

const headingOf = ({ backend, directMapped, iommu }: TransferRow): string =>
  HEADINGS[`${backend}/${directMapped ? "direct" : "scattered"}/${iommu}`] ?? "";

function verdictText({ verdict, owner, note }: TransferRow): string {
  const text = verdict === "wrong-frame" ? `wrong frame: ${owner}` : verdict.replace("-", " ");
  return note === "" ? text : `${text} (${note})`;
}

export default defineScenario<Kernel>({
  name: "which-address",
  about: "which address does a backend give to a device, and who turns it into the machine frame?",
  machine: {
    preset: "virt",
    banks: [
      { base: 0, size: "96MiB" },
      { base: 0x4000_0000, size: "64MiB" },
      { base: 0x1_0000_0000, size: "64MiB" },
    ],
    allocator: "scattered",
    traceRecords: 8192,
  },
  devices: { disk0: { kind: "disk" } },
  domains: {
    dom0: { kind: "dom0", memory: "16MiB", program: backend },
    drv: {
      kind: "driver",
      memory: "32MiB",
      // Far enough into the bank that a misdirected address lands in RAM that the kernel does not use.
      extendedRegions: [{ base: 0x1_0180_0000, size: "8MiB" }],
      program: backend,
    },
    guest: {
      kind: "domU",
      memory: "16MiB",
      *program(kernel, given) {
        yield* transferFront(kernel, {
          backend: DOMAIN[given.facts.backend as Backend],
          bytes: given.parameters.bytes as number,
          pages: BUFFER_PAGES,
        });
      },
    },
    victim: {
      kind: "domU",
      memory: "128MiB",
      runs: false,
      staticMemory: [
        { base: 0x4000_0000, size: "64MiB" },
        { base: 0x1_0000_0000, size: "64MiB" },
      ],
    },
  },
  parameters: {
    disk: { about: "file behind the disk", kind: "file" },
    bytes: { about: "bytes of it to transfer", kind: "size", default: "16MiB", min: 1 },
  },
  variants: [...matrix, notRam, literalWindow],
  expect: judgeTransfer,
  table: {
    heading: (row) => headingOf(rowOf(row)),
    columns: [
      { title: "buffer pages", text: (row) => rowOf(row).pages },
      { title: "bus offset", align: "right", text: (row) => formatHex(rowOf(row).busOffset) },
      {
        title: "address",
        align: "right",
        text: (row) => hexOrDash(rowOf(row).address),
      },
      { title: "made by", text: (row) => rowOf(row).by ?? "–" },
      { title: "translated by", text: (row) => rowOf(row).translatedBy },
      { title: "frame", align: "right", text: (row) => hexOrDash(rowOf(row).frame) },
      { title: "owner", text: (row) => rowOf(row).owner },
      { title: "segments", align: "right", text: (row) => String(rowOf(row).segments) },
      { title: "faults", align: "right", text: (row) => String(rowOf(row).faults) },
      { title: "moved", align: "right", text: (row) => formatSize(rowOf(row).bytes) },
      { title: "sha256", text: (row) => shaText(rowOf(row)) },
      { title: "verdict", text: (row) => verdictText(rowOf(row)) },
      {
        title: "as expected",
        text: (row) => (rowOf(row).expected ? "yes" : "NO"),
        mark: (row) => (rowOf(row).expected ? "good" : "bad"),
      },
    ],
  },
});

const hexOrDash = (value: number | null): string => (value === null ? "–" : formatHex(value));

const shaText = (row: TransferRow): string =>
  row.sha256 === row.fileSha256 ? `= file (${row.sha256.slice(0, 8)})` : "differs";
