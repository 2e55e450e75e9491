/**
 * The IOMMU of a machine with every choice made. A model may leave choices out; the architecture makes them.
 *
 *   tables        shared: a context names the owner's P2M; separate: each domain has a second table, kept in step with it
 *   quarantine    where a device goes that is given back: off, to the hardware domain; basic, nowhere, so that it faults;
 *                 scratch-page, to one page of its own whatever the address
 *   invalidation  registers: the hypervisor invalidates by itself; queue: through descriptors, and waits for theirs
 *   flush         strict: no reference is dropped before the IOTLBs are clean; lazy: they are cleaned in batches, later;
 *                 never: not at all, which is a broken machine on purpose
 *
 * Behaviour: xen/drivers/passthrough (iommu.c, arm/smmu.c, vtd/qinval.c); `lazy` is the mode of that name of Linux.
 */
import { TLB_ENTRIES } from "./limits.ts";
import type { DomainModel, IommuModel, MachineModel } from "./machine.ts";

/** Entries of an IOTLB are a power of two. */
export const isIotlbSize = (entries: number): boolean =>
  entries >= 1 && entries <= TLB_ENTRIES && (entries & (entries - 1)) === 0;

/**
 * Whether a domain's grants are entered for its devices at gfn == mfn: the direct-mapped ones of ARM, and PV domains, which
 * always have a table of their own.
 */
export const hasIdentityEntries = (
  domain: Pick<DomainModel, "iommu" | "directMapped" | "guest">,
): boolean => domain.iommu && (domain.directMapped || domain.guest === "pv");

/** Fills in what the model leaves out: arm64 has one table for CPU and devices, x86 two and a queue. */
export function iommuSettings(model: Pick<MachineModel, "arch" | "iommu">): Required<IommuModel> {
  const { iommu, arch } = model;
  const isArm = arch === "arm64";
  return {
    mode: iommu.mode,
    tables: iommu.tables ?? (isArm ? "shared" : "separate"),
    quarantine: iommu.quarantine ?? "basic",
    invalidation: iommu.invalidation ?? (isArm ? "registers" : "queue"),
    iotlb: iommu.iotlb ?? { entries: TLB_ENTRIES, flush: "strict" },
  };
}
