/**
 * The boards a machine description can start from: base addresses, offsets and devices as on the real ones,
 * bank sizes scaled down to MiB (a scenario names the total).
 *
 * Sources: arch/arm64/boot/dts/broadcom/bcm2711-rpi-4-b.dts, renesas/r8a77951-salvator-xs.dts,
 * xilinx/zynqmp-zcu102-rev1.0.dts of Linux 6.1; `virt` is the board of QEMU that Xen is tried out on.
 */
import type { DmaRange, MachineModel, Range } from "./machine.ts";

/** A place where a bus master sits on a board. */
export interface DevicePort {
  readonly name: string;
  readonly registers: number;
  readonly dmaRanges: readonly DmaRange[];
  readonly addressWidth: number;
  readonly behindIommu: boolean;
  readonly streamId: number;
  readonly coherent: boolean;
}

export interface Board {
  /** Only machines of this kind; absent: any. */
  readonly arch?: MachineModel["arch"];
  /** Base of each bank and its share of the machine's memory, in eighths. */
  readonly banks: readonly { readonly base: number; readonly eighths: number }[];
  /** Whether the board has an IOMMU, and so what `iommu.mode` is by default. */
  readonly iommu: boolean;
  /** Address space with neither RAM nor anything that may be announced as empty. */
  readonly reserved: readonly Range[];
  readonly ports: readonly DevicePort[];
}

const MIB = 1024 ** 2;
const GIB = 1024 ** 3;

interface PortOptions {
  readonly dmaRanges?: readonly DmaRange[];
  readonly addressWidth?: number;
  readonly streamId?: number;
}

/** A port behind the IOMMU when it has a stream id. */
const port = (name: string, registers: number, options: PortOptions = {}): DevicePort => ({
  name,
  registers,
  dmaRanges: options.dmaRanges ?? [],
  addressWidth: options.addressWidth ?? 64,
  behindIommu: options.streamId !== undefined,
  streamId: options.streamId ?? 0,
  coherent: true,
});

/** bcm2711: bus = phys + 0xc000_0000, the first GiB only (`soc` and `emmc2bus`). */
const RPI4_WINDOW: DmaRange = { dma: 0xc000_0000, cpu: 0, size: GIB };

export const BOARDS: Readonly<Record<string, Board>> = {
  // Every bus master behind the IOMMU; bus and physical addresses are the same.
  virt: {
    banks: [{ base: 0x4000_0000, eighths: 8 }],
    iommu: true,
    reserved: [{ base: 0, size: GIB }],
    ports: [0, 1, 2, 3].map((n) =>
      port(`virtio${n}`, 0x0a00_0000 + n * 0x1000, { streamId: 0x10 + n }),
    ),
  },
  // Firmware fills in one bank from 0; here a second one from 1 GiB stands for what a 2 GiB board has there.
  rpi4: {
    arch: "arm64",
    banks: [
      { base: 0, eighths: 4 },
      { base: 0x4000_0000, eighths: 4 },
    ],
    iommu: false,
    reserved: [{ base: 0xfc00_0000, size: 64 * MIB }],
    ports: [
      port("emmc2", 0xfe34_0000, { dmaRanges: [RPI4_WINDOW], addressWidth: 32 }),
      port("sdhost", 0xfe20_2000, { dmaRanges: [RPI4_WINDOW], addressWidth: 32 }),
      port("genet", 0xfd58_0000, { addressWidth: 40 }),
      port("pcie", 0xfd50_0000, {
        dmaRanges: [{ dma: 0, cpu: 0, size: 3 * GIB }],
        addressWidth: 32,
      }),
    ],
  },
  // The first 128 MiB belong to the secure world.
  rcar: {
    arch: "arm64",
    banks: [
      { base: 0x4800_0000, eighths: 2 },
      { base: 0x5_0000_0000, eighths: 2 },
      { base: 0x6_0000_0000, eighths: 2 },
      { base: 0x7_0000_0000, eighths: 2 },
    ],
    iommu: true,
    reserved: [
      { base: 0, size: GIB + 128 * MIB },
      { base: 0xe600_0000, size: 416 * MIB },
    ],
    ports: [
      port("sata", 0xee30_0000, { addressWidth: 40, streamId: 2 }),
      port("mmc0", 0xee10_0000, { addressWidth: 40, streamId: 0x20 }),
      port("mmc1", 0xee12_0000, { addressWidth: 40, streamId: 0x21 }),
      port("pcie", 0xfe00_0000, {
        dmaRanges: [{ dma: 0x4000_0000, cpu: 0x4000_0000, size: GIB }],
        addressWidth: 32,
      }),
    ],
  },
  // SMMU-500; disabled by default in the tree, enabled here as Xen's users do.
  zcu102: {
    arch: "arm64",
    banks: [
      { base: 0, eighths: 4 },
      { base: 0x8_0000_0000, eighths: 4 },
    ],
    iommu: true,
    reserved: [{ base: 0xf900_0000, size: 112 * MIB }],
    ports: [
      port("sata", 0xfd0c_0000, { addressWidth: 44, streamId: 0x4c0 }),
      port("sd0", 0xff16_0000, { addressWidth: 44, streamId: 0x870 }),
      port("sd1", 0xff17_0000, { addressWidth: 44, streamId: 0x871 }),
      port("nand", 0xff10_0000, { addressWidth: 44, streamId: 0x872 }),
    ],
  },
  // The PC of QEMU: RAM below the hole for devices and from 4 GiB up; VT-d knows a device by its requester id.
  q35: {
    arch: "x86",
    banks: [
      { base: 0, eighths: 4 },
      { base: 0x1_0000_0000, eighths: 4 },
    ],
    iommu: true,
    reserved: [{ base: 0x8000_0000, size: 2 * GIB }],
    ports: [
      port("ahci", 0xfebf_0000, { streamId: 0xfa }),
      port("nvme", 0xfebe_0000, { streamId: 0x100 }),
      port("virtio", 0xfebd_0000, { streamId: 0x18 }),
      port("ide", 0xfebc_0000, { addressWidth: 32, streamId: 0xf9 }),
    ],
  },
};

/** Where Xen puts a guest's RAM and its grant table region (xen/include/public/arch-arm.h). */
export const GUEST_RAM0_BASE = 0x4000_0000;
export const GUEST_RAM0_SIZE = 0xc000_0000;
export const GUEST_GNTTAB_BASE = 0x3800_0000;

/** A translated guest of x86: RAM from 0 up to the hole, in which the platform device's region lies (hvmloader). */
export const HVM_HOLE_BASE = 0xf000_0000;
export const HVM_GNTTAB_BASE = 0xf200_0000;
