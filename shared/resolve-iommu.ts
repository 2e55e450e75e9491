/**
 * The IOMMU of a scenario's machine with every choice made, and the choices that do not go together refused.
 * Rule: what only matters when it is on may be spelled when it is off, so that variants can switch it.
 * Ours.
 */
import { iommuSettings, isIotlbSize } from "./iommu-settings.ts";
import { TLB_ENTRIES } from "./limits.ts";
import type { IommuModel, MachineModel } from "./machine.ts";
import type { Board } from "./presets.ts";
import { type IommuSpec, ScenarioError } from "./scenario.ts";

export function resolveIommu(
  spec: IommuSpec,
  arch: MachineModel["arch"],
  board: Board,
): Required<IommuModel> {
  const { mode, iotlb, ...rest } = spec;
  const settings = iommuSettings({
    arch,
    iommu: { ...rest, mode: mode ?? (board.iommu ? "on" : "off") },
  });
  if (arch === "arm64" && settings.quarantine === "off") {
    const reason = "off is for x86; on arm64 a device that is given back is nobody's";
    throw new ScenarioError("machine.iommu.quarantine", reason);
  }
  const entries = iotlb?.entries ?? settings.iotlb.entries;
  if (!isIotlbSize(entries)) {
    const path = "machine.iommu.iotlb.entries";
    throw new ScenarioError(path, `${entries} is not a power of two from 1 to ${TLB_ENTRIES}`);
  }
  return { ...settings, iotlb: { entries, flush: iotlb?.flush ?? settings.iotlb.flush } };
}
