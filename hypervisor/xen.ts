/**
 * struct Xen: every piece of hypervisor state, in one place, and the small words to read it with.
 *
 * All state lies in the control buffer (design 10.3); what hangs on the heap here is scratch of one handler
 * between two gaps, and the position of pending handlers. The hypervisor worker is the only writer.
 * Behaviour: xen/include/xen/sched.h (struct domain), xen/common/domain.c (look-ups by id).
 */

import { DOMID_SELF } from "../shared/abi/xen.ts";
import { assert, at } from "../shared/assert.ts";
import { Channel } from "../shared/channel.ts";
import { iommuSettings } from "../shared/iommu-settings.ts";
import {
  CDF_privileged,
  DOM,
  DOMAIN_PRESENT,
  DYING_ALIVE,
  domainOf,
  type Layout,
  LINE,
  lineOf,
} from "../shared/layout.ts";
import { BATCH_GAP, GNTTAB_UNMAP_BATCH_SIZE, NOT_PRESENT, RECORD_WORDS } from "../shared/limits.ts";
import type { IommuModel, MachineModel } from "../shared/machine.ts";
import type { MachineMemory, Words } from "../shared/mem.ts";
import { DomId } from "../shared/units.ts";
import { ArgumentBuffer } from "./argument-buffer.ts";

/** Why a handler lets go: it may go on later, it waits for the samples of its flush to change, or its vCPU polls. */
export const GAP_PREEMPT = 0;
export const GAP_FLUSH = 1;
export const GAP_POLL = 2;
/** Its domain is suspended, and goes on when it is resumed. */
export const GAP_SUSPENDED = 3;
export type Gap = typeof GAP_PREEMPT | typeof GAP_FLUSH | typeof GAP_POLL | typeof GAP_SUSPENDED;

/** A handler that may let go in the middle. It returns the hypercall's return value. */
export type Preemptible = Generator<Gap, number, void>;

/** Who asks: the slot the record came from and the domain behind it (-1 for control, which may do anything). */
export interface Caller {
  readonly slot: number;
  readonly domid: DomId;
}

/** The toolstack's control slot has no domain. */
export const CONTROL_DOMAIN = DomId(-1);

export interface Xen {
  readonly words: Words;
  readonly memory: MachineMemory;
  readonly layout: Layout;
  readonly model: MachineModel;
  /** The machine's IOMMU, with every choice made. */
  readonly iommu: Required<IommuModel>;
  /** IOTLBs go by a queue, or later than TLBs do: a flush does not simply treat devices as it treats vCPUs. */
  readonly ownIotlbs: boolean;
  /** Some domain's devices may walk a table other than its P2M: separate tables, or PV guests, which have no P2M. */
  readonly ownTables: boolean;
  /** One a slot: the server's end. */
  readonly channels: readonly Channel[];
  /** Pending handler of each slot, between two of its gaps. */
  readonly pending: (Preemptible | undefined)[];
  /** What the pending handler of each slot waits for. */
  readonly gaps: Gap[];
  /** Scratch: the record being handled, and one argument structure. */
  readonly record: Int32Array;
  readonly args: ArgumentBuffer;
  readonly listEntry: ArgumentBuffer;
  /** Slots that have rung and are to be looked at, and the one that is next in turn: scheduling, not state. */
  readonly work: { readonly bits: Int32Array; cursor: number };
  /** Elements of a batch between two gaps, less one. 0 when somebody wants them to be after every element (F-30). */
  gapMask: number;
}

assert((BATCH_GAP & (BATCH_GAP - 1)) === 0, "gaps are a power of two apart");
assert(
  BATCH_GAP <= GNTTAB_UNMAP_BATCH_SIZE,
  "what is held between two gaps of an unmap has its rows",
);

/** Whether a batch that has done `done` elements is to let go. */
export const isGapDue = (xen: Xen, done: number): boolean => (done & xen.gapMask) === 0;
/** Elements of a batch between two gaps. */
export const gapEvery = (xen: Xen): number => xen.gapMask + 1;

export function xenOf(words: Words, memory: MachineMemory, layout: Layout): Xen {
  const slots = layout.model.limits.slots;
  const iommu = iommuSettings(layout.model);
  return {
    words,
    memory,
    layout,
    model: layout.model,
    iommu,
    ownIotlbs: iommu.invalidation === "queue" || iommu.iotlb.flush !== "strict",
    ownTables: iommu.tables === "separate" || layout.frameType !== NOT_PRESENT,
    channels: Array.from({ length: slots }, (_, slot) => new Channel(words, layout, slot)),
    pending: new Array<Preemptible | undefined>(slots).fill(undefined),
    gaps: new Array<Gap>(slots).fill(GAP_PREEMPT),
    record: new Int32Array(RECORD_WORDS),
    args: new ArgumentBuffer(),
    listEntry: new ArgumentBuffer(),
    work: { bits: new Int32Array(Math.ceil(slots / 32)), cursor: 0 },
    gapMask: BATCH_GAP - 1,
  };
}

/** Forgets what hangs on the heap: the buffers have been put back to a moment at which nothing was pending. */
export function putBackXen(xen: Xen): void {
  for (const channel of xen.channels) channel.lookAgain();
  xen.pending.fill(undefined);
  xen.gaps.fill(GAP_PREEMPT);
  xen.work.bits.fill(0);
  xen.work.cursor = 0;
  xen.gapMask = BATCH_GAP - 1;
}

/** Reads a column of the domain table. */
export const domainField = (xen: Xen, domid: number, field: number): number =>
  at(xen.words, domainOf(xen.layout, domid) + field);

export function setDomainField(xen: Xen, domid: number, field: number, value: number): void {
  xen.words[domainOf(xen.layout, domid) + field] = value;
}

export function addDomainField(xen: Xen, domid: number, field: number, by: number): number {
  const index = domainOf(xen.layout, domid) + field;
  const next = at(xen.words, index) + by;
  xen.words[index] = next;
  return next;
}

/** A column that is a pair of words: a gfn may have 36 bits. */
export function domainPair(xen: Xen, domid: number, field: number): number {
  const index = domainOf(xen.layout, domid) + field;
  return at(xen.words, index + 1) * 4294967296 + (at(xen.words, index) >>> 0);
}

export function setDomainPair(xen: Xen, domid: number, field: number, value: number): void {
  const index = domainOf(xen.layout, domid) + field;
  xen.words[index] = value | 0;
  xen.words[index + 1] = Math.floor(value / 4294967296);
}

export const hasFlag = (xen: Xen, domid: number, flag: number): boolean =>
  (domainField(xen, domid, DOM.FLAGS) & flag) !== 0;

/** Whether `domid` names a domain that is still in the list, dying or dead ones included. */
export const isPresent = (xen: Xen, domid: number): boolean =>
  domid >= 0 &&
  domid < xen.model.limits.domains &&
  domainField(xen, domid, DOM.STATE) === DOMAIN_PRESENT;

export const isDying = (xen: Xen, domid: number): boolean =>
  domainField(xen, domid, DOM.DYING) !== DYING_ALIVE;

/** Look-up by any id: DOMID_SELF is the caller. Undefined: no such domain. */
export function domainByAnyId(xen: Xen, caller: Caller, domid: number): DomId | undefined {
  if (domid === DOMID_SELF) return caller.domid === CONTROL_DOMAIN ? undefined : caller.domid;
  return isPresent(xen, domid) ? DomId(domid) : undefined;
}

/** Look-up by id: DOMID_SELF is just an id that does not exist. */
export const domainById = (xen: Xen, domid: number): DomId | undefined =>
  isPresent(xen, domid) ? DomId(domid) : undefined;

/** XSM default policy, class TARGET: the caller itself, whoever acts for the domain, or a control domain. */
export const mayTarget = (xen: Xen, caller: Caller, domid: DomId): boolean =>
  caller.domid === domid || mayManage(xen, caller, domid);

/** XSM default policy, class DM_PRIV: whoever acts for the domain (set_target), or a control domain. */
export const mayManage = (xen: Xen, caller: Caller, domid: DomId): boolean =>
  isPrivileged(xen, caller) || domainField(xen, caller.domid, DOM.TARGET) === 1 + domid;

/** Whether the caller is the toolstack's control or a control domain. */
export const isPrivileged = (xen: Xen, caller: Caller): boolean =>
  caller.domid === CONTROL_DOMAIN || hasFlag(xen, caller.domid, CDF_privileged);

/** Reads a word of a slot's control line that only the hypervisor writes. */
export const lineField = (xen: Xen, slot: number, field: number): number =>
  at(xen.words, lineOf(xen.layout, slot) + field);

export function setLineField(xen: Xen, slot: number, field: number, value: number): void {
  xen.words[lineOf(xen.layout, slot) + field] = value;
}

/** Slots of a domain's vCPUs. Those of a dead domain may have been given to another one since. */
export function slotsOf(xen: Xen, domid: number): readonly number[] {
  const vcpus = domainField(xen, domid, DOM.VCPUS);
  const slots = Array.from({ length: vcpus }, (_, n) => domainField(xen, domid, DOM.SLOT + n));
  return slots.filter((slot) => slot !== NOT_PRESENT && slotDomain(xen, slot) === domid);
}

/** The domain behind a slot. */
export const slotDomain = (xen: Xen, slot: number): DomId =>
  DomId(lineField(xen, slot, LINE.DOMAIN));
