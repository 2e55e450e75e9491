/**
 * What a guest would read from its device tree: a pure function of the machine model.
 * Behaviour: xen/arch/arm/domain_build.c, make_hypervisor_node(), make_memory_node(); handed-over devices
 * as xl's `iomem=` and `irqs=` and a partial device tree do it.
 */
import { item } from "./assert.ts";
import { PAGE_SIZE } from "./limits.ts";
import type {
  BootDevice,
  BootInfo,
  BootVirtio,
  DeviceModel,
  MachineModel,
  Range,
  VirtioModel,
} from "./machine.ts";

/** The memory map, devices and own id of domain `index` of the model, which has been given id `domid`. */
export function bootInfoOf(model: MachineModel, index: number, domid: number): BootInfo {
  const domain = item(model.domains, index);
  const ram: readonly Range[] = domain.directMapped
    ? domain.staticMemory
    : [{ base: domain.ramGfn * PAGE_SIZE, size: domain.memoryPages * PAGE_SIZE }];
  return {
    arch: model.arch,
    domid,
    name: domain.name,
    ram,
    grantTableGfn: domain.grantTableGfn,
    extendedRegions: domain.extendedRegions,
    devices: model.devices.filter((device) => device.owner === domain.name).map(bootDeviceOf),
    virtio: (domain.virtio ?? []).map((virtio) => bootVirtioOf(model, virtio)),
    kernel: domain.kernel,
  };
}

/** Domains that are created at boot are numbered in the order of the model. */
function bootVirtioOf(model: MachineModel, { name, backend, iommus }: VirtioModel): BootVirtio {
  if (iommus === undefined) return { name };
  const domid = model.domains.filter((one) => one.atBoot).findIndex((one) => one.name === backend);
  return { name, iommus: { compatible: iommus, cells: [domid] } };
}

/** The registers lie at the same guest address as at the machine's. */
const bootDeviceOf = (device: DeviceModel): BootDevice => ({
  name: device.name,
  kind: device.kind,
  registersGfn: device.registers / PAGE_SIZE,
  line: device.line,
  dmaRanges: device.dmaRanges,
  addressWidth: device.addressWidth,
  coherent: device.coherent,
});
