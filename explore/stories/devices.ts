/**
 * Stories of a device behind an IOMMU: it is in the middle of a burst when its translations, or its domain, go away. Ours; the shapes
 * are those of stress spec 11.2.
 */
import { freshArguments, memoryOp, setU64 } from "../../domains/hypercalls.ts";
import { POINT } from "../../domains/memory.ts";
import { XEN_DOMCTL_destroydomain } from "../../shared/abi/domctl.ts";
import {
  ADD_TO_PHYSMAP_DOMID,
  ADD_TO_PHYSMAP_GPFN,
  ADD_TO_PHYSMAP_IDX,
  ADD_TO_PHYSMAP_LENGTH,
  ADD_TO_PHYSMAP_SIZE,
  ADD_TO_PHYSMAP_SPACE,
  XENMAPSPACE_gmfn_range,
  XENMEM_add_to_physmap,
} from "../../shared/abi/memory.ts";
import { DOMID_SELF } from "../../shared/abi/xen.ts";
import type { DeviceModel } from "../../shared/machine.ts";
import { ACCESS_OK, ACCESS_WRITE, Mmu } from "../../shared/mmu.ts";
import { CONTROL_DOMCTL, type Program } from "../../shared/trap.ts";
import { control, type Guest, populate, release } from "../raw-guest.ts";
import type { Machine } from "../state.ts";
import type { Notes, Story } from "../story.ts";
import { A, B, HOLE, RAM, smallModel } from "./machines.ts";

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
function* bursts(machine: Machine, notes: Notes): Program {
  const { words, memory, layout } = machine;
  const mmu = new Mmu(words, memory, layout, DEVICE_SLOT);
  const bytes = new Uint8Array(16).fill(7);
  for (let burst = 0; burst < 3; burst++) {
    yield POINT;
    if (mmu.open(PAGE, ACCESS_WRITE) !== ACCESS_OK) continue;
    yield POINT;
    mmu.burst(0, bytes, 0, bytes.length);
    notes.written = (notes.written ?? 0) + 1;
    mmu.close();
  }
}

/** Moves two pages of A in one call: 0 or a negative errno. */
function* moveRange(guest: Guest, from: number, to: number): Program<number> {
  const view = freshArguments(guest.caller, ADD_TO_PHYSMAP_SIZE);
  view.setUint16(ADD_TO_PHYSMAP_DOMID, DOMID_SELF, true);
  view.setUint16(ADD_TO_PHYSMAP_LENGTH, 2, true);
  view.setUint32(ADD_TO_PHYSMAP_SPACE, XENMAPSPACE_gmfn_range, true);
  setU64(view, ADD_TO_PHYSMAP_IDX, from);
  setU64(view, ADD_TO_PHYSMAP_GPFN, to);
  return yield* memoryOp(guest.caller, XENMEM_add_to_physmap, ADD_TO_PHYSMAP_SIZE);
}

/** M27: a page that moves is held until a device that knows its old place has forgotten it. */
export const moveRangeStory: Story = {
  name: "move-range",
  about:
    "A moves two pages, and gives one up at its new place, while its device writes at the old one",
  model: () =>
    smallModel({
      machine: { arch: "x86", ipaBits: 44, devices: [disk], iommu: { mode: "on" } },
      domains: [{}, { iommu: true, vcpus: 2, p2mPoolPages: 16 }, {}],
      limits: { xenHeapPages: 180 },
    }),
  setUp: [
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        yield* release(guest, PAGE);
      },
    },
  ],
  tasks: [
    {
      name: "A.0",
      domain: A,
      program: function* (guest, notes) {
        notes.moved = yield* moveRange(guest, PAGE, HOLE);
      },
    },
    {
      name: "A.1",
      domain: A,
      vcpu: 1,
      program: function* (guest, notes) {
        notes.released = yield* release(guest, HOLE);
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest) {
        yield* populate(guest, PAGE);
      },
    },
  ],
  others: [{ name: "disk", slot: DEVICE_SLOT, program: bursts }],
  sometimes: {
    "the pages moved": (notes) => notes.moved === 0,
    "one was given up": (notes) => notes.released === 1,
    "the device wrote": (notes) => (notes.written ?? 0) > 0,
  },
};

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
