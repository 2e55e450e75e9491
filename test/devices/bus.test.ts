// The bus of a device: what its windows and its address width make of a DMA address.
import { describe, expect, it } from "vitest";
import { burstLength, busAddress } from "../../devices/bus.ts";
import { NOT_PRESENT } from "../../shared/limits.ts";

const GIB = 2 ** 30;
/** The RPi4's bridge: the first GiB of RAM appears at 3 GiB on the bus. */
const RPI4 = { dmaRanges: [{ dma: 3 * GIB, cpu: 0, size: GIB }], addressWidth: 64 };

describe("the bus of a device", () => {
  it("is the identity when it has no windows", () => {
    const port = { dmaRanges: [], addressWidth: 64 };
    expect(busAddress(port, 0)).toBe(0);
    expect(busAddress(port, 0x4000_0000_1234)).toBe(0x4000_0000_1234);
  });

  it("undoes the offset of the window that holds the address", () => {
    expect(busAddress(RPI4, 3 * GIB)).toBe(0);
    expect(busAddress(RPI4, 3 * GIB + 0x1234)).toBe(0x1234);
    expect(busAddress(RPI4, 4 * GIB - 1)).toBe(GIB - 1);
  });

  it("aborts an address below, above and between its windows instead of wrapping", () => {
    expect(busAddress(RPI4, 3 * GIB - 1)).toBe(NOT_PRESENT);
    expect(busAddress(RPI4, 4 * GIB)).toBe(NOT_PRESENT);
    const two = {
      dmaRanges: [
        { dma: 0, cpu: GIB, size: 4096 },
        { dma: 8192, cpu: 2 * GIB, size: 4096 },
      ],
      addressWidth: 64,
    };
    expect(busAddress(two, 4095)).toBe(GIB + 4095);
    expect(busAddress(two, 4096)).toBe(NOT_PRESENT);
    expect(busAddress(two, 8192)).toBe(2 * GIB);
  });

  it("aborts what the device has no address lines for, before any window is asked", () => {
    const narrow = { dmaRanges: [{ dma: 0, cpu: 0, size: 8 * GIB }], addressWidth: 32 };
    expect(busAddress(narrow, 4 * GIB - 1)).toBe(4 * GIB - 1);
    expect(busAddress(narrow, 4 * GIB)).toBe(NOT_PRESENT);
  });

  it("aborts an address above 2^53, which no memory has", () => {
    const port = { dmaRanges: [], addressWidth: 64 };
    expect(busAddress(port, 2 ** 63)).toBe(NOT_PRESENT);
    expect(busAddress(port, Number.POSITIVE_INFINITY)).toBe(NOT_PRESENT);
  });

  it("splits a transfer at page boundaries", () => {
    expect(burstLength(0x1000, 10_000)).toBe(4096);
    expect(burstLength(0x1ffc, 10_000)).toBe(4);
    expect(burstLength(0x1800, 100)).toBe(100);
  });
});
