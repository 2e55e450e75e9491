/**
 * Words of the IOMMU in the control buffer: what is kept of each device's context and of each domain's own table, and
 * the invalidation queue. Where the two tables lie is layout.ts's business.
 *
 * Writers: [XEN] the hypervisor only; [IOMMU] the hardware's side of the queue, invalidation-queue.ts.
 * Ours; struct pci_dev, struct domain_iommu and a queue of VT-d's form as words.
 */
import { SLOTS_MAX } from "./limits.ts";
import type { MachineModel } from "./machine.ts";

interface Tables {
  readonly model: MachineModel;
  readonly iommu: number;
  readonly invalidations: number;
}

/** A row a device. Its root, its mode and the domain of its context stand in its control line. */
export const CONTEXT = {
  OWNER: 0, // [XEN] domain that registers and interrupt were handed to, or NOT_PRESENT
  LEAVING: 1, // [XEN] domain whose table an open access may still use after a change of context, or NOT_PRESENT
  QUARANTINED: 2, // [XEN] 1: put into quarantine by request, so that it goes back there
  SCRATCH_ROOT: 3, // [XEN] frame index of the root that leads everywhere to its scratch page, or NOT_PRESENT
  SCRATCH_PAGE: 4, // [XEN] frame index
  FAULT_LEVEL: 5, // [XEN] faults that count against it: halved with time, 0 after a change of context
  FAULT_TICK: 6, // [XEN] millisecond of the last one
  DEFERRED: 7, // [XEN] 1: its IOTLB may hold translations that have been taken away
} as const;
export const CONTEXT_WORDS = 8;

/** A row a domain with a table of its own. */
export const IOMMU_DOMAIN = {
  ROOT: 0, // [XEN] frame index, or NOT_PRESENT: its devices walk the P2M
  PAGES: 1, // [XEN] table pages in use: first frame index, or NOT_PRESENT
  PAGE_COUNT: 2, // [XEN]
  FAILED: 3, // [XEN] 1: an update could not be made, and the domain is about to be crashed for it
} as const;
export const IOMMU_DOMAIN_WORDS = 4;

/** The queue's registers, then what each slot waits for, each device's sample, and the ring of descriptors. */
export const QUEUE = {
  HEAD: 0, // [IOMMU] descriptors ever finished
  TAIL: 1, // [XEN] descriptors ever written
  WAIT_STATUS: 2, // [IOMMU] number of the last wait descriptor that was finished
  WAITS: 3, // [XEN] wait descriptors ever written
  DEFERRED: 4, // [XEN] flushes that were put off since the last batch
  DEFERRED_UNTIL: 5, // [XEN] tick at which the batch is due, or NOT_PRESENT
  BATCHES: 6, // [XEN] batches ever flushed
  FAILURES: 7, // [XEN] domains that are about to be crashed
  LEAVING: 8, // [XEN] devices whose row says LEAVING
} as const;
const QUEUE_REGISTERS = 16;

/** Two descriptors for each slot's flush, and as many again for batches and changes of context. */
export const QUEUE_ENTRIES = 4 * SLOTS_MAX;
/** Descriptor: kind, device or NOT_PRESENT (all of a domain's, all there are), domain, number of a wait. */
export const DESCRIPTOR_WORDS = 4;
export const DESCRIPTOR_IOTLB = 1;
export const DESCRIPTOR_WAIT = 2;

/** Words of a fault record: slot, domid, dfn pair, 1 write, code, step. */
export const FAULT_WORDS = 8;

export const contextOf = (tables: Tables, device: number): number =>
  tables.iommu + device * CONTEXT_WORDS;
export const iommuDomainOf = ({ iommu, model }: Tables, domid: number): number =>
  iommu + model.devices.length * CONTEXT_WORDS + domid * IOMMU_DOMAIN_WORDS;
/** [XEN] Number of the wait descriptor that a slot's handler waits for, or 0. */
export const waitedFor = (tables: Tables, slot: number): number =>
  tables.invalidations + QUEUE_REGISTERS + slot;
/** [IOMMU] Access counter of a device's slot when its IOTLB was invalidated, or 0: nothing to drain. */
export const drainOf = (tables: Tables, slot: number): number =>
  tables.invalidations + QUEUE_REGISTERS + SLOTS_MAX + slot;
export const descriptorOf = (tables: Tables, n: number): number =>
  tables.invalidations + QUEUE_REGISTERS + 2 * SLOTS_MAX + (n % QUEUE_ENTRIES) * DESCRIPTOR_WORDS;

/** Words of the two tables. */
export const iommuWords = (model: MachineModel): number =>
  model.devices.length * CONTEXT_WORDS + model.limits.domains * IOMMU_DOMAIN_WORDS;
export const INVALIDATION_WORDS =
  QUEUE_REGISTERS + 2 * SLOTS_MAX + QUEUE_ENTRIES * DESCRIPTOR_WORDS;
