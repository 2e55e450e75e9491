/**
 * Boot, then forever: take a record, dispatch, reply.
 *
 * One lane: handlers are plain code and run to their end, except for those that let go at a gap; of these one per
 * slot may be pending while others are served, so a batch of ten thousand does not delay a single call.
 * Ours; the order of boot follows xen/arch/arm/setup.c, start_xen().
 */
import { assert, at } from "../shared/assert.ts";
import {
  DOM,
  type Layout,
  LINE,
  MACHINE,
  SLOT_DEAD,
  SLOT_FREE,
  SLOT_KIND_CONTROL,
  SLOT_LIVE,
  writeChunkTable,
} from "../shared/layout.ts";
import { NOT_PRESENT } from "../shared/limits.ts";
import {
  exchange,
  load,
  type MachineMemory,
  peek,
  store,
  type Words,
  wait,
} from "../shared/mem.ts";
import { ESRCH } from "../shared/status.ts";
import { hypervisorRing, TRACE_HYPERCALL, trace } from "../shared/trace.ts";
import {
  CONTROL_HOLD,
  CONTROL_STOP,
  RECORD_ARGS,
  RECORD_OP,
  unsignedPair,
} from "../shared/trap.ts";
import type { SpinPolicy } from "../shared/waiting.ts";
import { type Answer, dispatch } from "./dispatch.ts";
import { createDomain, reserveStaticMemory } from "./domain-build.ts";
import { reapDomains } from "./domain-death.ts";
import { isShutDown } from "./domain-shutdown.ts";
import { unpauseDomain } from "./domctl.ts";
import { flushDone } from "./flush.ts";
import { refusalOf } from "./inject.ts";
import { initDevices } from "./iommu-devices.ts";
import { hasFailed, resetIommuDomain, takeFailed } from "./iommu-table.ts";
import { deferredDeadline, flushDeferred, isDeferredDue } from "./iotlb.ts";
import { crashDomain } from "./p2m-insert.ts";
import { isPollOver, pollDeadline } from "./sched-op.ts";
import {
  CONTROL_DOMAIN,
  GAP_FLUSH,
  GAP_POLL,
  GAP_SUSPENDED,
  isDying,
  isPresent,
  lineField,
  type Preemptible,
  setDomainField,
  setLineField,
  slotDomain,
  type Xen,
  xenOf,
} from "./xen.ts";
import { initHeaps } from "./xen-heap.ts";

/** The toolstack's slot. */
export const CONTROL_SLOT = 0;

/** Brings an empty machine up: afterwards every domain of the model that exists at boot runs. */
export function bootHypervisor(words: Words, memory: MachineMemory, layout: Layout): Xen {
  const xen = xenOf(words, memory, layout);
  writeChunkTable(layout, words); // machine addresses
  initHeaps(xen); // frame table, free lists
  initDomainTable(xen); // all rows free
  initControl(xen); // the toolstack's slot
  reserveStaticMemory(xen); // off the heap
  initDevices(xen); // slots, nobody's yet
  bootDomains(xen); // dom0 first
  return xen;
}

function initDomainTable(xen: Xen): void {
  const { domains } = xen.model.limits;
  for (let domid = 0; domid < domains; domid++) {
    setDomainField(xen, domid, DOM.PAGE_LIST, NOT_PRESENT);
    setDomainField(xen, domid, DOM.XENPAGE_LIST, NOT_PRESENT);
    resetIommuDomain(xen, domid);
  }
  // The first id handed out is 0.
  xen.words[MACHINE.DOMID_ROVER] = -1;
}

function initControl(xen: Xen): void {
  setLineField(xen, CONTROL_SLOT, LINE.KIND, SLOT_KIND_CONTROL);
  setLineField(xen, CONTROL_SLOT, LINE.DOMAIN, CONTROL_DOMAIN);
  setLineField(xen, CONTROL_SLOT, LINE.STATE, SLOT_LIVE);
}

function bootDomains(xen: Xen): void {
  xen.model.domains.forEach((domain, index) => {
    if (!domain.atBoot) return;
    const domid = createDomain(xen, index);
    assert(domid >= 0, `the machine has room for ${domain.name} (createdomain answered ${domid})`);
    unpauseDomain(xen, domid);
  });
}

/** Handles one record, or resumes one handler that is ready, up to its next gap or its reply. False: nothing to do. */
export function step(xen: Xen): boolean {
  if (isDeferredDue(xen)) {
    flushDeferred(xen);
    return true;
  }
  takeDoorbells(xen);
  const slot = nextReady(xen);
  if (slot === NOT_PRESENT) return false;
  xen.work.cursor = slot + 1 < xen.work.bits.length * 32 ? slot + 1 : 0;
  serve(xen, slot);
  if (hasFailed(xen)) crashFailed(xen);
  reapDomains(xen);
  return true;
}

/** Domains whose IOMMU table could not follow do not go on. */
function crashFailed(xen: Xen): void {
  for (const domid of takeFailed(xen)) {
    if (isPresent(xen, domid) && !isDying(xen, domid)) crashDomain(xen, NOT_PRESENT, domid);
  }
}

/** Whether `step` would do something. */
export function hasWork(xen: Xen): boolean {
  takeDoorbells(xen);
  return isDeferredDue(xen) || nextReady(xen) !== NOT_PRESENT;
}

/** Adds the slots that have rung to those that are to be looked at. An empty poll is one plain load a word. */
function takeDoorbells(xen: Xen): void {
  const { bits } = xen.work;
  for (let i = 0; i < bits.length; i++) {
    const bell = MACHINE.DOORBELL + i;
    if (peek(xen.words, bell) !== 0) bits[i] = at(bits, i) | exchange(xen.words, bell, 0);
  }
}

/** The next slot in turn that can be served, so that a busy one starves nobody; NOT_PRESENT: none. */
function nextReady(xen: Xen): number {
  const { bits, cursor: first } = xen.work;
  // The word of the cursor is looked at twice: its upper part first, its lower part last.
  for (let i = 0; i <= bits.length; i++) {
    const ahead = (first >> 5) + i;
    const word = ahead < bits.length ? ahead : ahead - bits.length;
    let left = at(bits, word);
    if (i === 0) left &= -1 << (first & 31);
    if (i === bits.length) left &= ~(-1 << (first & 31));
    while (left !== 0) {
      const bit = 31 - Math.clz32(left & -left);
      left &= left - 1;
      const slot = word * 32 + bit;
      if (isReady(xen, slot)) return slot;
      // A slot with a pending handler is looked at again at the next doorbell.
      if (xen.pending[slot] === undefined) bits[word] = at(bits, word) & ~(1 << bit);
    }
  }
  return NOT_PRESENT;
}

function isReady(xen: Xen, slot: number): boolean {
  if (xen.pending[slot] !== undefined) {
    if (xen.gaps[slot] === GAP_POLL) return isPollOver(xen, slot);
    if (xen.gaps[slot] === GAP_SUSPENDED) return !isShutDown(xen, slotDomain(xen, slot));
    return xen.gaps[slot] !== GAP_FLUSH || flushDone(xen, slot);
  }
  const channel = xen.channels[slot];
  if (channel === undefined) return false;
  return channel.pending && lineField(xen, slot, LINE.STATE) !== SLOT_FREE;
}

function serve(xen: Xen, slot: number): void {
  const handler = xen.pending[slot];
  if (handler !== undefined) {
    resume(xen, slot, handler);
    return;
  }
  const channel = xen.channels[slot];
  if (channel?.take(xen.record) !== true) return;
  if (lineField(xen, slot, LINE.STATE) === SLOT_DEAD) {
    // Its domain has died since: the caller learns of it instead of waiting for ever.
    channel.reply(-ESRCH);
    return;
  }
  xen.words[MACHINE.STEP] = (at(xen.words, MACHINE.STEP) + 1) | 0;
  setLineField(xen, slot, LINE.HYPERCALLS, lineField(xen, slot, LINE.HYPERCALLS) + 1);
  const op = at(xen.record, RECORD_OP);
  const refusal = refusalOf(xen, slot);
  const answer: Answer =
    refusal < 0 ? refusal : dispatch(xen, { slot, domid: slotDomain(xen, slot) });
  const { words, layout } = xen;
  const cmd = unsignedPair(xen.record, RECORD_ARGS);
  trace(
    words,
    layout,
    hypervisorRing(layout),
    TRACE_HYPERCALL,
    slot,
    op,
    cmd,
    typeof answer === "number" ? answer : 0,
  );
  if (typeof answer !== "number") {
    resume(xen, slot, answer);
    return;
  }
  channel.reply(answer);
  if (slot === CONTROL_SLOT) obey(words, op);
}

/** What the toolstack wants of the whole hypervisor, once it has its answer. */
function obey(words: Words, op: number): void {
  if (op === CONTROL_STOP) store(words, MACHINE.STOP, 1);
  if (op !== CONTROL_HOLD) return;
  while (load(words, MACHINE.HOLD) === 1) wait(words, MACHINE.HOLD, 1);
}

function resume(xen: Xen, slot: number, handler: Preemptible): void {
  xen.pending[slot] = handler;
  const result = handler.next();
  // A handler may end its own slot (the last vCPU of a dying domain): then nobody waits for the answer.
  if (xen.pending[slot] !== handler) return;
  if (result.done === true) {
    xen.pending[slot] = undefined;
    xen.channels[slot]?.reply(result.value);
  } else {
    xen.gaps[slot] = result.value;
  }
}

/** Records between two looks at the clock of a hypervisor that does not sleep: some ten microseconds. */
const TICK_EVERY = 64;

/** The hypervisor's worker: serves until the machine is over. `tick` writes the clock now and then. */
export function runHypervisor(xen: Xen, policy: SpinPolicy, tick: () => void): void {
  const { words } = xen;
  const doorbells = xen.work.bits.length;
  const rung = (): boolean => {
    for (let i = 0; i < doorbells; i++) if (peek(words, MACHINE.DOORBELL + i) !== 0) return true;
    return isDue(xen) || load(words, MACHINE.STOP) !== 0;
  };
  const sleep = (): void => {
    store(words, MACHINE.ASLEEP, 1);
    if (!confirmed(words, doorbells)) wait(words, MACHINE.ASLEEP, 1, untilDue(xen));
    store(words, MACHINE.ASLEEP, 0);
    tick();
  };
  tick();
  let records = 0;
  while (load(words, MACHINE.STOP) === 0) {
    while (step(xen)) {
      if (load(words, MACHINE.STOP) !== 0) return;
      // Reading a clock takes as long as handling a small record does.
      records = (records + 1) % TICK_EVERY;
      if (records === 0) tick();
    }
    policy.untilReady(rung, sleep);
  }
}

/** Tick at which the hypervisor has something to do by itself: the first poll or batch; NOT_PRESENT: never. */
export function nextDeadline(xen: Xen): number {
  const poll = pollDeadline(xen);
  const batch = deferredDeadline(xen);
  return poll === NOT_PRESENT || batch === NOT_PRESENT
    ? Math.max(poll, batch)
    : Math.min(poll, batch);
}

/** Whether that time has come. */
function isDue(xen: Xen): boolean {
  const deadline = nextDeadline(xen);
  return deadline !== NOT_PRESENT && at(xen.words, MACHINE.TICK) >= deadline;
}

/** Milliseconds until then; undefined when there is no such time. */
function untilDue(xen: Xen): number | undefined {
  const deadline = nextDeadline(xen);
  if (deadline === NOT_PRESENT) return undefined;
  return Math.max(deadline - at(xen.words, MACHINE.TICK), 0);
}

/** The sleeper's re-check, atomically: its mark is set, so whoever rings after this will wake it. */
function confirmed(words: Words, doorbells: number): boolean {
  for (let i = 0; i < doorbells; i++) if (load(words, MACHINE.DOORBELL + i) !== 0) return true;
  return load(words, MACHINE.STOP) !== 0;
}
