/**
 * A small machine for tests of the hypervisor: two or more domains without kernels, whose hypercalls are pushed as
 * records through the real channel and dispatch, with arguments in real guest memory.
 */
import { bootHypervisor, step } from "../../hypervisor/main.ts";
import type { Xen } from "../../hypervisor/xen.ts";
import { Channel } from "../../shared/channel.ts";
import { DOM, domainOf, layoutOf, machineBytes } from "../../shared/layout.ts";
import type { DomainModel, KernelOptions, MachineModel } from "../../shared/machine.ts";
import { MachineMemory, wordsOf } from "../../shared/mem.ts";
import { ACCESS_OK, ACCESS_READ, ACCESS_WRITE, Mmu } from "../../shared/mmu.ts";
import { KERNEL_DEFAULTS } from "../../shared/scenario.ts";
import { hypercallTrap, setRecord } from "../../shared/trap.ts";

const MIB = 1024 ** 2;

export const TEST_KERNEL: KernelOptions = {
  ...KERNEL_DEFAULTS,
  pagesPerSection: 64,
  swiotlbPages: 16,
  swiotlbForce: false,
  dmaOps: "detect",
  eventAbi: "fifo",
  virtioForceGrant: false,
};

/** A domain of 1 MiB whose RAM starts at guest frame 0x40000, with the RAM above it left empty. */
export const testDomain = (name: string, overrides: Partial<DomainModel> = {}): DomainModel => ({
  name,
  kind: "domU",
  atBoot: true,
  memoryPages: 256,
  directMapped: false,
  privileged: false,
  iommu: false,
  vcpus: 1,
  runs: true,
  maxGrantFrames: 4,
  maxMaptrackFrames: 2,
  maxEvtchnPort: 127,
  p2mPoolPages: 32,
  staticMemory: [],
  ramGfn: 0x40000,
  grantTableGfn: 0x38000,
  extendedRegions: [],
  kernel: TEST_KERNEL,
  ...overrides,
});

/** dom0: direct-mapped, privileged, 1 MiB at 0x40200000. */
export const testDom0 = (overrides: Partial<DomainModel> = {}): DomainModel =>
  testDomain("dom0", {
    kind: "dom0",
    directMapped: true,
    privileged: true,
    staticMemory: [{ base: 0x4020_0000, size: MIB }],
    ramGfn: 0x40200,
    ...overrides,
  });

export const testModel = (
  domains: readonly DomainModel[],
  overrides: Partial<MachineModel> = {},
): MachineModel => ({
  arch: "arm64",
  preset: "test",
  banks: [{ base: 0x4000_0000, size: 8 * MIB }],
  iommu: { mode: "off" },
  allocator: "contiguous",
  ipaBits: 40,
  hypervisor: "faithful",
  xsm: "dummy",
  devices: [],
  domains,
  limits: {
    domains: 8,
    slots: 16,
    grantFrames: 4,
    maptrackFrames: 2,
    ports: 128,
    xenHeapPages: 400,
    traceRecords: 64,
  },
  seed: 1,
  ...overrides,
});

/** One domain's vCPU 0 as a test drives it. */
export interface Actor {
  readonly domid: number;
  readonly mmu: Mmu;
  readonly channel: Channel;
  /** First frame of its RAM. */
  readonly ram: number;
}

export interface TestMachine {
  readonly xen: Xen;
  readonly actors: readonly Actor[];
}

export function bootTestMachine(model: MachineModel): TestMachine {
  const layout = layoutOf(model);
  const words = wordsOf(new ArrayBuffer(layout.words * 4));
  const memory = new MachineMemory(new ArrayBuffer(machineBytes(layout)));
  const xen = bootHypervisor(words, memory, layout);
  const actors = model.domains
    .filter((domain) => domain.atBoot)
    .map((domain, domid) => actorOf(xen, domid, domain));
  return { xen, actors };
}

/** The driver of a domain's vCPU 0. */
export function actorOf(xen: Xen, domid: number, domain: DomainModel): Actor {
  const slot = xen.words[domainOf(xen.layout, domid) + DOM.SLOT] ?? -1;
  return {
    domid,
    mmu: new Mmu(xen.words, xen.memory, xen.layout, slot),
    channel: new Channel(xen.words, xen.layout, slot),
    ram: domain.directMapped ? (domain.staticMemory[0]?.base ?? 0) / 4096 : domain.ramGfn,
  };
}

/** Pushes one hypercall and steps the hypervisor until it is answered. */
export function call(
  machine: TestMachine,
  actor: Actor,
  op: number,
  ...args: readonly number[]
): number {
  const { record } = hypercallTrap();
  setRecord(record, op, args);
  return pushAndRun(machine.xen, actor.channel, record);
}

/** Pushes one record of any slot and steps until it is answered. */
export function pushAndRun(xen: Xen, channel: Channel, record: Int32Array): number {
  channel.push(record);
  for (let steps = 0; !channel.idle; steps++) {
    if (!step(xen)) throw new Error("the hypervisor has nothing to do and owes an answer");
    if (steps > 100_000) throw new Error("the hypervisor does not come to an end");
  }
  return channel.result();
}

/** Writes bytes into guest memory through the actor's MMU. */
export function writeGuest(actor: Actor, gaddr: number, bytes: Uint8Array): void {
  access(actor, gaddr, bytes.length, ACCESS_WRITE, (offset, at, length) => {
    actor.mmu.write(offset, bytes, at, length);
  });
}

/** Reads bytes of guest memory through the actor's MMU. */
export function readGuest(actor: Actor, gaddr: number, length: number): Uint8Array {
  const into = new Uint8Array(length);
  access(actor, gaddr, length, ACCESS_READ, (offset, at, part) => {
    actor.mmu.read(offset, into, at, part);
  });
  return into;
}

function access(
  actor: Actor,
  gaddr: number,
  length: number,
  kind: number,
  move: (offset: number, at: number, length: number) => void,
): void {
  for (let done = 0; done < length; ) {
    const offset = (gaddr + done) % 4096;
    const part = Math.min(length - done, 4096 - offset);
    const fault = actor.mmu.open(Math.floor((gaddr + done) / 4096), kind);
    if (fault !== ACCESS_OK) throw new Error(`fault ${fault} at 0x${(gaddr + done).toString(16)}`);
    move(offset, done, part);
    actor.mmu.close();
    done += part;
  }
}

/** Outcome of opening a page: ACCESS_OK or a FAULT_*. */
export function probe(actor: Actor, gfn: number, kind: number): number {
  const fault = actor.mmu.open(gfn, kind);
  if (fault === ACCESS_OK) actor.mmu.close();
  return fault;
}

export function readWord(actor: Actor, gaddr: number): number {
  return new DataView(readGuest(actor, gaddr, 4).buffer).getUint32(0, true);
}

export function writeWord(actor: Actor, gaddr: number, value: number): void {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  writeGuest(actor, gaddr, bytes);
}
