/**
 * What a guest of the recordings reads in its device tree: the node of the hypervisor and the memory node.
 *
 * Everything that the machine decides comes from the model and from BootInfo; what is a property of the board or of
 * that build of Xen is a constant here. Extended regions follow Xen's rule: what no RAM uses, in pieces that are aligned
 * to 2 MiB and at least 64 MiB long. Without an IOMMU, Dom0's are machine RAM that it does not own (recorded.md 21).
 * Behaviour: xen/arch/arm/domain_build.c, make_hypervisor_node(), make_memory_node(), find_domU_holes(),
 * find_unallocated_memory().
 */
import { bootInfoOf } from "../shared/boot-info.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import type { DomainModel, MachineModel, Range } from "../shared/machine.ts";
import type { Fields } from "./conform-format.ts";

const MIB = 2 ** 20;
const REGION_ALIGN = 2 * MIB;
const REGION_MIN = 64 * MIB;

/** Banks of guest addresses that every DomU has room for. */
const GUEST_BANKS: readonly Range[] = [
  { base: 0x4000_0000, size: 0xc000_0000 },
  { base: 0x2_0000_0000, size: 0xfe_0000_0000 },
];
/** Room for the grant table: a fixed range of a DomU, the place of Xen's own text in Dom0. */
const GUEST_GRANT_REGION = 16 * MIB;
const XEN_TEXT = MIB / 4;
/** The event interrupt: a private one, its number, and level-triggered active-low with one target. */
const GUEST_INTERRUPT = "0x01 0x0f 0xf08";
const DOM0_INTERRUPT = "0x01 0x00 0xf08";

/** Parts of `banks` that `used` leaves free, as extended regions. */
function freeRegions(banks: readonly Range[], used: readonly Range[]): readonly Range[] {
  return banks.flatMap((bank) => {
    const end = bank.base + bank.size;
    const inside = used
      .filter((one) => one.base < end && one.base + one.size > bank.base)
      .sort((one, other) => one.base - other.base);
    const starts = [bank.base, ...inside.map((one) => one.base + one.size)];
    const ends = [...inside.map((one) => one.base), end];
    return starts.flatMap((start, i) => {
      const base = Math.ceil(start / REGION_ALIGN) * REGION_ALIGN;
      const size = Math.floor((ends[i] ?? end) / REGION_ALIGN) * REGION_ALIGN - base;
      return size >= REGION_MIN ? [{ base, size }] : [];
    });
  });
}

const hex = (value: number): string => `0x${value.toString(16).padStart(2, "0")}`;

/** 64-bit address and size as pairs of 32-bit cells. */
const cells = ({ base, size }: Range): string =>
  [base, size]
    .flatMap((value) => [Math.floor(value / 2 ** 32), value % 2 ** 32].map(hex))
    .join(" ");

function hypervisorNode(model: MachineModel, domain: DomainModel, ram: readonly Range[]): Fields {
  const isDom0 = domain.kind === "dom0";
  const regions = freeRegions(isDom0 ? model.banks : GUEST_BANKS, ram);
  return {
    compatible: ["xen,xen-4.17", "xen,xen"],
    interrupts: isDom0 ? DOM0_INTERRUPT : GUEST_INTERRUPT,
    grant_region: {
      start: domain.grantTableGfn * PAGE_SIZE,
      size: isDom0 ? XEN_TEXT : GUEST_GRANT_REGION,
    },
    extended_regions: regions.map(({ base, size }) => ({ start: base, size })),
  };
}

/** A node of the tree of domain `index` of the model; undefined: a node that is not modelled. */
export function deviceTreeNode(
  model: MachineModel,
  index: number,
  node: string,
): Fields | undefined {
  const domain = model.domains[index];
  if (domain === undefined) return undefined;
  const { ram } = bootInfoOf(model, index, index);
  if (node === "/hypervisor") return hypervisorNode(model, domain, ram);
  return node === "/memory" ? { reg: ram.map(cells) } : undefined;
}
