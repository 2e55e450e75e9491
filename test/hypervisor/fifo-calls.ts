/** The FIFO event ABI as a test's guest drives it: its control block, its event words, and a guest that consumes them. */
import {
  EVTCHN_FIFO_LINK_MASK,
  EVTCHN_FIFO_LINKED,
  EVTCHN_FIFO_MASKED,
  EVTCHN_FIFO_PENDING,
  EVTCHNOP_expand_array,
  EVTCHNOP_init_control,
} from "../../shared/abi/event-channel.ts";
import { SCHEDOP_poll } from "../../shared/abi/sched.ts";
import { HYPERVISOR_event_channel_op, HYPERVISOR_sched_op } from "../../shared/abi/xen.ts";
import { hypercallTrap, setRecord } from "../../shared/trap.ts";
import { allocUnbound, bindInterdomain, clearFlags, clearPending } from "./event-calls.ts";
import { argumentAddress } from "./grants.ts";
import {
  type Actor,
  bootTestMachine,
  call,
  readWord,
  type TestMachine,
  testDom0,
  testDomain,
  testModel,
  writeGuest,
  writeWord,
} from "./harness.ts";

/** Pages of its RAM that a guest gives away: control block of vCPU 0, of vCPU 1, and the first array page. */
export const CONTROL = 10;
export const CONTROL_1 = 12;
export const ARRAY = 11;
export const DEFAULT_QUEUE = 7;

function eventOp(machine: TestMachine, actor: Actor, cmd: number, bytes: Uint8Array): number {
  const at = argumentAddress(actor);
  writeGuest(actor, at, bytes);
  return call(machine, actor, HYPERVISOR_event_channel_op, cmd, at);
}

export function initControl(
  machine: TestMachine,
  actor: Actor,
  gfn: number,
  { offset = 0, vcpu = 0 } = {},
): number {
  const bytes = new Uint8Array(24);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(gfn), true);
  view.setUint32(8, offset, true);
  view.setUint32(12, vcpu, true);
  return eventOp(machine, actor, EVTCHNOP_init_control, bytes);
}

export function expandArray(machine: TestMachine, actor: Actor, gfn: number): number {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(gfn), true);
  return eventOp(machine, actor, EVTCHNOP_expand_array, bytes);
}

export const controlAddress = (actor: Actor): number => (actor.ram + CONTROL) * 4096;
export const wordAddress = (actor: Actor, port: number): number =>
  (actor.ram + ARRAY) * 4096 + 4 * port;

/** The word of a port as text: `PML>next`. */
export function wordText(actor: Actor, port: number): string {
  const word = readWord(actor, wordAddress(actor, port));
  const bits: readonly (readonly [number, string])[] = [
    [EVTCHN_FIFO_PENDING, "P"],
    [EVTCHN_FIFO_MASKED, "M"],
    [EVTCHN_FIFO_LINKED, "L"],
  ];
  const text = bits.map(([bit, name]) => ((word & bit) !== 0 ? name : "")).join("");
  const next = word & EVTCHN_FIFO_LINK_MASK;
  return next === 0 ? text : `${text}>${next}`;
}

export const setWord = (actor: Actor, port: number, word: number): void =>
  writeWord(actor, wordAddress(actor, port), word >>> 0);
export const ready = (actor: Actor, page = CONTROL): number =>
  readWord(actor, (actor.ram + page) * 4096);
export const head = (actor: Actor, queue: number, page = CONTROL): number =>
  readWord(actor, (actor.ram + page) * 4096 + 8 + 4 * queue);

/** What a guest does with a queue: from the head on it unlinks each port and takes its event. */
export function consume(actor: Actor, queue: number): number[] {
  const taken: number[] = [];
  writeWord(actor, controlAddress(actor), ready(actor) & ~(1 << queue));
  for (let port = head(actor, queue); port !== 0 && taken.length < 1000; ) {
    const word = readWord(actor, wordAddress(actor, port));
    if ((word & EVTCHN_FIFO_PENDING) !== 0) taken.push(port);
    setWord(actor, port, word & EVTCHN_FIFO_MASKED);
    port = word & EVTCHN_FIFO_LINK_MASK;
  }
  return taken;
}

export interface Connected {
  readonly machine: TestMachine;
  readonly dom0: Actor;
  readonly one: Actor;
  readonly other: Actor;
  /** Ports of `one`, in the FIFO ABI, and those of `other` that send to them. */
  readonly ports: readonly number[];
  readonly senders: readonly number[];
}

/** `one`, with two vCPUs, has `count` channels to `other` and is still in the 2-level ABI. */
export function connected(count: number, ports = 127): Connected {
  const one_ = testDomain("one", { vcpus: 2, maxEvtchnPort: ports });
  const domains = [testDom0(), one_, testDomain("other", { maxEvtchnPort: ports })];
  const model = testModel(domains);
  const machine = bootTestMachine({ ...model, limits: { ...model.limits, ports: ports + 1 } });
  const [dom0, one, other] = machine.actors;
  if (dom0 === undefined || one === undefined || other === undefined) throw new Error("boot");
  const ends = Array.from({ length: count }, () => {
    const port = allocUnbound(machine, one, other.domid);
    const sender = bindInterdomain(machine, other, one.domid, port);
    clearPending(machine, other, sender);
    return { port, sender };
  });
  clearFlags(machine, other);
  return {
    machine,
    dom0,
    one,
    other,
    ports: ends.map(({ port }) => port),
    senders: ends.map(({ sender }) => sender),
  };
}

/** The same with `one` in the FIFO ABI: control block of vCPU 0 and one page of the array. */
export function inFifo(count: number, ports = 127): Connected {
  const state = connected(count, ports);
  const { machine, one } = state;
  if (initControl(machine, one, one.ram + CONTROL) !== 0) throw new Error("init_control");
  if (expandArray(machine, one, one.ram + ARRAY) !== 0) throw new Error("expand_array");
  return state;
}

/** Lays a SCHEDOP_poll out in the actor's memory and pushes it; nobody steps. */
export function pushPoll(
  actor: Actor,
  ports: readonly number[],
  { timeoutMs = 0, count = ports.length } = {},
): void {
  const at = argumentAddress(actor);
  const bytes = new Uint8Array(64);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(at + 24), true);
  view.setUint32(8, count, true);
  view.setBigUint64(16, BigInt(timeoutMs) * 1_000_000n, true);
  ports.forEach((port, i) => {
    view.setUint32(24 + 4 * i, port, true);
  });
  writeGuest(actor, at, bytes);
  const { record } = hypercallTrap();
  setRecord(record, HYPERVISOR_sched_op, [SCHEDOP_poll, at]);
  actor.channel.push(record);
}
