import { describe, expect, test } from "vitest";
import { segmentsOf } from "../../domains/dma.ts";
import {
  DMA_MAPPING_ERROR,
  type DmaDevice,
  dmaBitMask,
  dmaCapable,
  dmaDeviceOf,
  dmaToPhys,
  physToDma,
} from "../../domains/dma-device.ts";
import type { BootDevice } from "../../shared/machine.ts";
import { DmaAddress, Gaddr } from "../../shared/units.ts";

const bootDevice = (overrides: Partial<BootDevice> = {}): BootDevice => ({
  name: "disk",
  kind: "disk",
  registersGfn: 0x10,
  line: 0,
  dmaRanges: [],
  addressWidth: 64,
  coherent: true,
  ...overrides,
});
/** The window of the RPi4: bus 0xc000_0000 is physical 0, one GiB. */
const rpi4 = (): DmaDevice =>
  dmaDeviceOf(bootDevice({ dmaRanges: [{ dma: 0xc000_0000, cpu: 0, size: 0x4000_0000 }] }));

describe("bus offsets", () => {
  test("section 6.2's example: physical 0x12345000 is 0xd2345000 on the bus, 0x40000000 is an error", () => {
    expect(physToDma(rpi4(), Gaddr(0x1234_5000))).toBe(0xd234_5000);
    expect(physToDma(rpi4(), Gaddr(0x4000_0000))).toBe(DMA_MAPPING_ERROR);
    expect(dmaToPhys(rpi4(), DmaAddress(0xd234_5000))).toBe(0x1234_5000);
  });

  test("guest case 66: outside every window the address is all ones, which no device can drive", () => {
    const dma = physToDma(rpi4(), Gaddr(0x5000_0000));
    expect(dmaCapable(rpi4(), dma, 1)).toBe(false);
  });

  test("without windows the bus is identity", () => {
    expect(physToDma(dmaDeviceOf(bootDevice()), Gaddr(0x1_2345_6000))).toBe(0x1_2345_6000);
  });

  test("the first window that contains the address decides", () => {
    const device = dmaDeviceOf(
      bootDevice({
        dmaRanges: [
          { dma: 0x1000_0000, cpu: 0x2000_0000, size: 0x1000 },
          { dma: 0x8000_0000, cpu: 0x2000_0000, size: 0x10_0000 },
        ],
      }),
    );
    expect(physToDma(device, Gaddr(0x2000_0800))).toBe(0x1000_0800);
    expect(physToDma(device, Gaddr(0x2000_1000))).toBe(0x8000_1000);
  });

  test("a device drives a range only when its last byte is within its mask and its bus's limit", () => {
    const narrow = dmaDeviceOf(bootDevice({ addressWidth: 32 }));
    expect(dmaCapable(narrow, DmaAddress(0xffff_f000), 4096)).toBe(true);
    expect(dmaCapable(narrow, DmaAddress(0xffff_f000), 4097)).toBe(false);
    expect(dmaCapable(rpi4(), DmaAddress(0xffff_f000), 4096)).toBe(true);
    expect(dmaCapable(rpi4(), DmaAddress(0xffff_f000), 4097)).toBe(false);
  });

  test("a mask of 64 bits is no bound, one of 32 is", () => {
    expect(dmaBitMask(64)).toBe(Number.POSITIVE_INFINITY);
    expect(dmaBitMask(32)).toBe(0xffff_ffff);
  });
});

describe("segments", () => {
  test("runs that are consecutive on the bus are one segment each", () => {
    const addresses = [0x1000, 0x2000, 0x5000, 0x6000, 0x4000].map(DmaAddress);
    expect(segmentsOf(addresses, [4096, 4096, 4096, 100, 4096])).toEqual([
      { address: 0x1000, length: 8192 },
      { address: 0x5000, length: 4196 },
      { address: 0x4000, length: 4096 },
    ]);
  });
});
