/**
 * What the program of a focused story has in its hands: one vCPU without a kernel, its grant table, and the hypercalls.
 *
 * Rules: loads and stores of `cpu` are points; marshalling the arguments of a hypercall is none, because nobody else in a
 * story looks at them. A program that finds something wrong says so with `wrong`, under the id of the invariant: the
 * run ends there as it does when the audit finds something.
 * Ours; as XTF's tests, which talk to the hypervisor directly.
 */

import { mapGrantRefs, mapOp, unmapGrantRefs, unmapOp } from "../domains/grant-calls.ts";
import { type CopyEnd, copyOp, gnttabBatchCopy } from "../domains/grant-copy.ts";
import { noteEnd, noteGrant } from "../domains/history.ts";
import {
  addToPhysmap,
  eventChannelOp,
  freshArguments,
  grantTableOp,
  memoryOp,
  setU64,
} from "../domains/hypercalls.ts";
import { type Caller, createCaller, hypercall, writeArguments } from "../domains/kernel.ts";
import {
  type Cpu,
  compareExchangeWord,
  GuestFault,
  loadWord,
  POINT,
  pointAt,
  storeWord,
} from "../domains/memory.ts";
import { DOMCTL_CMD, DOMCTL_DOMAIN, DOMCTL_SIZE } from "../shared/abi/domctl.ts";
import { EVTCHNOP_reset, RESET_DOM, RESET_SIZE } from "../shared/abi/event-channel.ts";
import {
  GNTMAP_host_map,
  GNTMAP_readonly,
  GNTTABOP_set_version,
  GTF_permit_access,
  GTF_reading,
  GTF_readonly,
  GTF_writing,
  SET_VERSION_SIZE,
  SET_VERSION_VERSION,
} from "../shared/abi/grant.ts";
import {
  ACQUIRE_DOMID,
  ACQUIRE_SIZE,
  ACQUIRE_TYPE,
  RESERVATION_SIZE,
  XENMAPSPACE_grant_table,
  XENMAPSPACE_shared_info,
  XENMEM_acquire_resource,
  XENMEM_decrease_reservation,
  XENMEM_populate_physmap,
} from "../shared/abi/memory.ts";
import { DOMID_SELF, HYPERVISOR_domctl } from "../shared/abi/xen.ts";
import { at } from "../shared/assert.ts";
import { bootInfoOf } from "../shared/boot-info.ts";
import { DOM, domainOf, LINE, lineOf } from "../shared/layout.ts";
import { GRANT_ENTRY_BYTES, PAGE_SIZE } from "../shared/limits.ts";
import { load } from "../shared/mem.ts";
import { ACCESS_OK, ACCESS_READ, Mmu } from "../shared/mmu.ts";
import { hypercallTrap, type Program, setRecord, TRAP_BLOCK } from "../shared/trap.ts";
import type { Machine } from "./state.ts";
import { GRANT_GFN, INFO_GFN, RAM } from "./stories/machines.ts";

/** Pages of RAM that hold the arguments of each vCPU's hypercalls, from here on. */
const ARGUMENTS = 32;
const ARGUMENT_PAGES_A_VCPU = 4;
/** Offset of a domctl's first argument. */
const DOMCTL_ARGUMENT = 16;

export interface Guest {
  readonly machine: Machine;
  readonly domid: number;
  readonly slot: number;
  /** Its accesses are points. */
  readonly cpu: Cpu;
  /** Its own are none. */
  readonly caller: Caller;
  /** Set where its claims say nothing: somebody in the story does what nobody should. */
  readonly unjudged?: boolean;
}

/**
 * vCPU `vcpu` of a domain that is there. `callers`, by slot, keeps what arguments are put together in from run to run: a
 * hypercall clears what it uses of it.
 */
export function rawGuest(
  machine: Machine,
  domid: number,
  vcpu: number,
  callers: (Caller | undefined)[],
): Guest {
  const { words, memory, layout, model } = machine;
  const slot = at(words, domainOf(layout, domid) + DOM.SLOT + vcpu);
  const index = at(words, domainOf(layout, domid) + DOM.MODEL);
  const known = callers[slot];
  const told = known?.cpu.boot;
  const isTold = told?.domid === domid && told.name === model.domains[index]?.name;
  const cpu: Cpu = {
    mmu: new Mmu(words, memory, layout, slot),
    words,
    layout,
    slot,
    points: true,
    boot: isTold ? told : bootInfoOf(model, index, domid),
  };
  const gaddr = argumentPage(machine, domid, vcpu) * PAGE_SIZE;
  const quiet: Cpu = { ...cpu, points: false };
  const caller = createCaller(quiet, gaddr, known?.arguments);
  callers[slot] = caller;
  return { machine, domid, slot, cpu, caller };
}

/** First page in which a vCPU puts together the arguments of its hypercalls. */
export const argumentPage = (machine: Machine, domid: number, vcpu: number): number =>
  ramOf(machine, domid) + ARGUMENTS + vcpu * ARGUMENT_PAGES_A_VCPU;

/** First gfn of a domain's RAM. */
function ramOf({ words, layout, model }: Machine, domid: number): number {
  return model.domains[at(words, domainOf(layout, domid) + DOM.MODEL)]?.ramGfn ?? RAM;
}

/** A record of the toolstack's slot: its answer. */
export function* control(op: number, ...args: readonly number[]): Program<number> {
  const trap = hypercallTrap();
  setRecord(trap.record, op, args);
  return yield trap;
}

/** A domctl of a control domain about another one: its answer. */
export function* domctl(
  guest: Guest,
  command: number,
  domid: number,
  argument = 0,
): Program<number> {
  const { caller } = guest;
  const view = freshArguments(caller, DOMCTL_SIZE);
  view.setUint32(DOMCTL_CMD, command, true);
  view.setUint16(DOMCTL_DOMAIN, domid, true);
  setU64(view, DOMCTL_ARGUMENT, argument);
  yield* writeArguments(caller, DOMCTL_SIZE);
  return yield* hypercall(caller, HYPERVISOR_domctl, caller.arguments.gaddr);
}

/** Ends the run: `id` is the invariant that does not hold. */
export function wrong(guest: Guest, id: string, text: string): void {
  if (guest.unjudged === true) return;
  guest.machine.findings.push(`${id}: ${text}`);
  guest.machine.claimed = true;
}

/** Maps the guest's own grant frame where the story looks for it. */
export function* openGrantTable(guest: Guest): Program {
  yield* addToPhysmap(guest.caller, XENMAPSPACE_grant_table, 0, GRANT_GFN);
}

/** Maps the guest's shared info page where the story looks for it. */
export function* openSharedInfo(guest: Guest): Program {
  yield* addToPhysmap(guest.caller, XENMAPSPACE_shared_info, 0, INFO_GFN);
}

/** EVTCHNOP_reset of the guest's own ports. */
export function* resetPorts(guest: Guest): Program<number> {
  freshArguments(guest.caller, RESET_SIZE).setUint16(RESET_DOM, DOMID_SELF, true);
  return yield* eventChannelOp(guest.caller, EVTCHNOP_reset, RESET_SIZE);
}

/** GNTTABOP_set_version of the guest's own table: 0 or a negative errno. */
export function* setVersion(guest: Guest, version: number): Program<number> {
  freshArguments(guest.caller, SET_VERSION_SIZE).setUint32(SET_VERSION_VERSION, version, true);
  return yield* grantTableOp(guest.caller, GNTTABOP_set_version, SET_VERSION_SIZE, 1);
}

/** Guest address of the header of entry `ref`; the frame word follows it. */
export const headerOf = (ref: number): number => GRANT_GFN * PAGE_SIZE + ref * GRANT_ENTRY_BYTES;

/** gnttab_grant_foreign_access_ref: the frame first, then domid and flags in one word. */
export function* grant(guest: Guest, ref: number, gfn: number, to: number, flags = 0): Program {
  yield* storeWord(guest.cpu, headerOf(ref) + 4, gfn);
  const published = noteGrant(guest.cpu, ref, to, isReadonly(flags));
  yield* storeWord(guest.cpu, headerOf(ref), GTF_permit_access | flags | (to << 16));
  published();
}

/** gnttab_end_foreign_access_ref, tried `tries` times: whether nobody has the page any more. */
export function* withdraw(guest: Guest, ref: number, tries = 1): Program<boolean> {
  for (let attempt = 0; attempt < tries; attempt++) {
    const tried = noteEnd(guest.cpu, ref);
    const ended = yield* close(guest, ref);
    tried(ended);
    if (ended) return true;
  }
  return false;
}

function* close({ cpu }: Guest, ref: number): Program<boolean> {
  const header = yield* loadWord(cpu, headerOf(ref));
  if ((header & (GTF_reading | GTF_writing)) !== 0) return false;
  return (yield* compareExchangeWord(cpu, headerOf(ref), header, 0)) === header;
}

export interface Mapped {
  readonly status: number;
  readonly handle: number;
}

/** Maps entry `ref` of `granter` at `gfn`. */
export function* map(
  guest: Guest,
  granter: number,
  ref: number,
  gfn: number,
  readonly: 0 | 1 = 0,
): Program<Mapped> {
  const flags = GNTMAP_host_map | (readonly === 1 ? GNTMAP_readonly : 0);
  const op = mapOp(gfn * PAGE_SIZE, flags, ref, granter);
  yield* mapGrantRefs(guest.caller, [op]);
  if (op.status > 0) wrong(guest, "I-31", `a map answered ${op.status}, which is no status`);
  return { status: op.status, handle: op.handle };
}

/** Unmaps; returns the status. */
export function* unmap(guest: Guest, gfn: number, handle: number): Program<number> {
  const op = unmapOp(gfn * PAGE_SIZE, handle);
  yield* unmapGrantRefs(guest.caller, [op]);
  return op.status;
}

/** Copies `length` bytes between grants and own pages; returns the status. */
export function* copy(
  guest: Guest,
  source: CopyEnd,
  dest: CopyEnd,
  length: number,
): Program<number> {
  const op = copyOp(source, dest, length);
  yield* gnttabBatchCopy(guest.caller, [op]);
  return op.status;
}

/** `count` extents of a reservation call, from `gfn` on: extents completed. */
function* reservation(
  guest: Guest,
  command: number,
  gfn: number,
  order: number,
  domid = DOMID_SELF,
  count = 1,
): Program<number> {
  const size = RESERVATION_SIZE + 8 * count;
  const view = freshArguments(guest.caller, size);
  setU64(view, 0, guest.caller.arguments.gaddr + RESERVATION_SIZE);
  setU64(view, 8, count);
  view.setUint32(16, order, true);
  view.setUint16(24, domid, true);
  for (let i = 0; i < count; i++) setU64(view, RESERVATION_SIZE + 8 * i, gfn + i * 2 ** order);
  return yield* memoryOp(guest.caller, command, size);
}

/** A control domain asks for pages in another one's name: extents completed. */
export const populateFor = (
  guest: Guest,
  domid: number,
  gfn: number,
  count: number,
): Program<number> => reservation(guest, XENMEM_populate_physmap, gfn, 0, domid, count);

/** XENMEM_acquire_resource of another domain, asking how many frames there are: 0 or a negative errno. */
export function* acquireResource(guest: Guest, domid: number, type: number): Program<number> {
  const view = freshArguments(guest.caller, ACQUIRE_SIZE);
  view.setUint16(ACQUIRE_DOMID, domid, true);
  view.setUint16(ACQUIRE_TYPE, type, true);
  return yield* memoryOp(guest.caller, XENMEM_acquire_resource, ACQUIRE_SIZE);
}

/** Gives the page at `gfn` back to the hypervisor: 1, or 0 when it is refused. */
export const release = (guest: Guest, gfn: number, order = 0): Program<number> =>
  reservation(guest, XENMEM_decrease_reservation, gfn, order);

/** Asks for a page at `gfn`: 1, or 0 when it is refused. */
export const populate = (guest: Guest, gfn: number, order = 0): Program<number> =>
  reservation(guest, XENMEM_populate_physmap, gfn, order);

/** Loads a word; undefined: nothing is mapped there, or not for reading. Nothing is thrown, as that would take longest. */
export function* tryLoad({ cpu }: Guest, gaddr: number): Program<number | undefined> {
  yield pointAt(gaddr, ACCESS_READ, "access", false);
  if (cpu.mmu.open(Math.floor(gaddr / PAGE_SIZE), ACCESS_READ) !== ACCESS_OK) return undefined;
  yield pointAt(gaddr, ACCESS_READ, "inside", true);
  const value = cpu.mmu.load(gaddr % PAGE_SIZE);
  cpu.mmu.close();
  return value;
}

/** Stores a word: whether anything is mapped there that may be written. */
export function* tryStore(guest: Guest, gaddr: number, value: number): Program<boolean> {
  try {
    yield* storeWord(guest.cpu, gaddr, value);
    return true;
  } catch (error) {
    if (error instanceof GuestFault) return false;
    throw error;
  }
}

/** Lets others go first until `ready` holds; gives up after `tries`. */
export function* until(ready: () => boolean, tries = 200): Program<boolean> {
  for (let attempt = 0; attempt < tries; attempt++) {
    if (ready()) return true;
    yield POINT;
  }
  return false;
}

/** The event word of the vCPU, which moves with whatever may have happened to it. */
export const eventWord = ({ cpu, slot }: Guest): number =>
  load(cpu.words, lineOf(cpu.layout, slot) + LINE.EVENT);

/** Sleeps until the event word of the vCPU differs from `seen`. */
export function* sleepOn(seen: number): Program<number> {
  return yield { kind: TRAP_BLOCK, seen };
}

/** Whether a header says that nobody may write through the grant. */
export const isReadonly = (header: number): boolean => (header & GTF_readonly) !== 0;
