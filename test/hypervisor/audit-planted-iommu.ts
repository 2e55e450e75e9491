/** A machine with separate tables and a lent device, and one word at a time planted wrong in its IOMMU. */
import {
  IOMMUF_readable,
  IOMMUF_writable,
  iommuMap,
  iommuUnmap,
} from "../../hypervisor/iommu-table.ts";
import { p2mClear } from "../../hypervisor/p2m.ts";
import type { Xen } from "../../hypervisor/xen.ts";
import { XEN_DOMCTL_deassign_device } from "../../shared/abi/domctl.ts";
import { GNTMAP_host_map, GNTMAP_readonly } from "../../shared/abi/grant.ts";
import {
  CONTEXT,
  contextOf,
  IOMMU_DOMAIN,
  iommuDomainOf,
  QUEUE,
} from "../../shared/iommu-layout.ts";
import { DOM, domainOf, LINE, lineOf, mfnAt, WALK_BARE } from "../../shared/layout.ts";
import { ACCESS_OK, ACCESS_WRITE } from "../../shared/mmu.ts";
import { DomId } from "../../shared/units.ts";
import { domctl } from "./domains.ts";
import { mapOne } from "./grants.ts";
import { type Board, board, DRV_DISK, dma, frameOf, HOLE, REF } from "./iommu-machine.ts";

/** A grant of the granter's first page mapped by dom0 (writable) and by drv (read-only), both devices with it cached. */
export function inUseIommu(): Board {
  const from = board({ iommu: { tables: "separate", quarantine: "scratch-page" } });
  const { machine, granter, dom0, drv } = from;
  const op = { gfn: HOLE, dom: granter.domid };
  mapOne(machine, dom0, { ...op, flags: GNTMAP_host_map, ref: REF });
  mapOne(machine, drv, { ...op, flags: GNTMAP_host_map | GNTMAP_readonly, ref: REF + 1 });
  dma(from.dom0Disk, mfnAt(from.xen.layout, from.frame), ACCESS_WRITE);
  dma(from.drvDisk, drv.ram, ACCESS_WRITE);
  return from;
}

const DRV = DomId(2);
const set = (xen: Xen, index: number, value: number): void => {
  xen.words[index] = value;
};
const context = (xen: Xen, device: number, field: number, value: number): void =>
  set(xen, contextOf(xen.layout, device) + field, value);
const line = (xen: Xen, slot: number, field: number, value: number): void =>
  set(xen, lineOf(xen.layout, slot) + field, value);

export const PLANTED_IOMMU: readonly [
  what: string,
  finding: RegExp,
  plant: (state: Board) => void,
][] = [
  [
    "RAM that the devices' table does not show",
    /dfn 262145 of domain 2 leads nowhere, not to frame \d+/,
    ({ xen, drv }) => iommuUnmap(xen, DRV, drv.ram + 1),
  ],
  [
    "an entry that no grant and no RAM asks for",
    /dfn 8192 of domain 2 leads to frame \d+, and to nothing by its grants and P2M/,
    ({ xen, frame }) => iommuMap(xen, DRV, 0x2000, frame, IOMMUF_readable),
  ],
  [
    "a read-only grant that a device may write",
    /dfn 393216 of domain 2 leads to frame (\d+), not to frame \1/,
    ({ xen, frame }) => iommuMap(xen, DRV, HOLE, frame, IOMMUF_readable | IOMMUF_writable),
  ],
  [
    "an identity entry that is gone while it is counted",
    /dfn \d+ of domain 0 leads nowhere/,
    ({ xen, frame }) => iommuUnmap(xen, DomId(0), mfnAt(xen.layout, frame)),
  ],
  [
    "a table page that is not counted",
    /domain 2 counts \d+ IOMMU table pages, its table has/,
    ({ xen }) => {
      const count = iommuDomainOf(xen.layout, DRV) + IOMMU_DOMAIN.PAGE_COUNT;
      set(xen, count, (xen.words[count] ?? 0) + 1);
    },
  ],
  [
    "an entry taken from a table without a flush of the IOTLB",
    /slot 2 would still reach frame \d+ through gfn 262144/,
    ({ xen, drv }) => p2mClear(xen, DRV, drv.ram),
  ],
  [
    "a device in the context of a domain without an IOMMU",
    /device 1 is in the context of domain 1, which has none/,
    ({ xen }) => line(xen, DRV_DISK, LINE.DOMAIN, 1),
  ],
  [
    "a device whose context's domain is gone",
    /device 1 is in the context of domain 6, which is gone/,
    ({ xen }) => line(xen, DRV_DISK, LINE.DOMAIN, 6),
  ],
  [
    "a device whose owner is gone",
    /device 1 is owned by domain 6, which is gone/,
    ({ xen }) => context(xen, 1, CONTEXT.OWNER, 6),
  ],
  [
    "a protected device on a bare bus",
    /device 1 is on a bare bus behind an IOMMU/,
    ({ xen }) => line(xen, DRV_DISK, LINE.MODE, WALK_BARE),
  ],
  [
    "a device that walks the P2M where it has a table of its own",
    /slot 2 walks a table that is not that of domain 2/,
    ({ xen }) =>
      line(xen, DRV_DISK, LINE.ROOT, xen.words[domainOf(xen.layout, DRV) + DOM.P2M_ROOT] ?? -1),
  ],
  [
    "a device in quarantine that walks the table of its former domain",
    /the device of slot 2 is nobody's and not blocked/,
    ({ xen, machine }) => {
      const root = xen.words[lineOf(xen.layout, DRV_DISK) + LINE.ROOT] ?? -1;
      domctl(machine, XEN_DOMCTL_deassign_device, DRV, 1);
      line(xen, DRV_DISK, LINE.ROOT, root);
    },
  ],
  [
    "a device in quarantine at the scratch page of another",
    /the device of slot 2 is nobody's and not blocked/,
    ({ xen, machine }) => {
      domctl(machine, XEN_DOMCTL_deassign_device, DRV, 1);
      const scratch = contextOf(xen.layout, 0) + CONTEXT.SCRATCH_ROOT;
      line(xen, DRV_DISK, LINE.ROOT, xen.words[scratch] ?? -1);
    },
  ],
  [
    "a quarantine table that nobody counts",
    /the Xen heap has \d+ pages/,
    ({ xen }) => context(xen, 1, CONTEXT.SCRATCH_ROOT, -1),
  ],
  [
    "a flush that is owed where none may be",
    /device 1 owes a flush in the strict mode/,
    ({ xen }) => context(xen, 1, CONTEXT.DEFERRED, 1),
  ],
  [
    "a device that is counted to be leaving and is not",
    /1 devices are counted to be leaving a context, 0 are/,
    ({ xen }) => set(xen, xen.layout.invalidations + QUEUE.LEAVING, 1),
  ],
  [
    "an open access of a device to a stranger's frame",
    /slot 2 is inside an access to frame \d+, of domain 0/,
    (state) => {
      const { xen, dom0 } = state;
      if (state.drvDisk.open(state.drv.ram, ACCESS_WRITE) !== ACCESS_OK) throw new Error("open");
      line(xen, DRV_DISK, LINE.INSIDE, frameOf(xen, 0, dom0.ram) + 1);
    },
  ],
];
