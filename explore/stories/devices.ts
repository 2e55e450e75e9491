/**
 * Stories of a device behind an IOMMU: it is in the middle of a burst when its translations, or its domain, go away. Ours; the shapes
 * are those of stress spec 11.2.
 */
import { POINT } from "../../domains/memory.ts";
import { XEN_DOMCTL_destroydomain } from "../../shared/abi/domctl.ts";
import type { DeviceModel } from "../../shared/machine.ts";
import { ACCESS_OK, ACCESS_WRITE, Mmu } from "../../shared/mmu.ts";
import { CONTROL_DOMCTL, type Program } from "../../shared/trap.ts";
import { control } from "../raw-guest.ts";
import type { Machine } from "../state.ts";
import type { Story } from "../story.ts";
import { A, RAM, smallModel } from "./machines.ts";

const PAGE = RAM + 10;
const DEVICE_SLOT = 1;

export const disk: DeviceModel = {
  name: "disk",
  kind: "disk",
  registers: 0x9000_0000,
  dmaRanges: [],
  addressWidth: 64,
  behindIommu: true,
  streamId: 1,
  coherent: true,
  line: 1,
  owner: "A",
};

/** Bursts into A's page, as long as it is let. */
function* bursts(machine: Machine): Program {
  const { words, memory, layout } = machine;
  const mmu = new Mmu(words, memory, layout, DEVICE_SLOT);
  const bytes = new Uint8Array(16).fill(7);
  for (let burst = 0; burst < 3; burst++) {
    yield POINT;
    if (mmu.open(PAGE, ACCESS_WRITE) !== ACCESS_OK) continue;
    yield POINT;
    mmu.burst(0, bytes, 0, bytes.length);
    mmu.close();
  }
}

/** M29: what a device has cached goes before what it leads to. */
export const killDeviceOwnerStory: Story = {
  name: "kill-device-owner",
  about: "A is destroyed while its device writes into one of its pages",
  model: () =>
    smallModel({
      machine: { devices: [disk], iommu: { mode: "on" } },
      domains: [{}, { iommu: true }],
    }),
  tasks: [],
  others: [
    { name: "disk", slot: DEVICE_SLOT, program: bursts },
    {
      name: "kill A",
      slot: 0,
      isFault: true,
      program: () => control(CONTROL_DOMCTL, XEN_DOMCTL_destroydomain, A),
    },
  ],
};
