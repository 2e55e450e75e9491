/**
 * What faults do, as programs of a vCPU that the story does not use: of dom0, where the toolstack would act or where the machine
 * itself is at fault, or of the guest that misbehaves.
 *
 * Rules: a program answers whether it has had an effect, so that a fault that never comes to anything is seen; a choice
 * among values is drawn from the run's numbers; nothing new is begun once the machine settles. Ours; stress spec section 5.
 */
import { portOp } from "../domains/hypercalls.ts";
import { POINT, storeWord } from "../domains/memory.ts";
import { grantEntries, grantFrame } from "../hypervisor/active-entry.ts";
import { nextDeadline } from "../hypervisor/main.ts";
import { domainField, isPresent, setDomainField, type Xen } from "../hypervisor/xen.ts";
import {
  XEN_DOMCTL_destroydomain,
  XEN_DOMCTL_pausedomain,
  XEN_DOMCTL_set_paging_mempool_size,
  XEN_DOMCTL_unpausedomain,
} from "../shared/abi/domctl.ts";
import { EVTCHNOP_send } from "../shared/abi/event-channel.ts";
import { GTF_permit_access, GTF_readonly } from "../shared/abi/grant.ts";
import { item } from "../shared/assert.ts";
import { raiseEvent } from "../shared/channel.ts";
import { DOM, MACHINE } from "../shared/layout.ts";
import { NOT_PRESENT, PAGE_SIZE } from "../shared/limits.ts";
import { CONTROL_CREATE, CONTROL_DOMCTL, type Program } from "../shared/trap.ts";
import { Gfn } from "../shared/units.ts";
import {
  argumentPage,
  control,
  copy,
  domctl,
  type Guest,
  headerOf,
  map,
  openGrantTable,
  openSharedInfo,
  populate,
  release,
  resetPorts,
  setVersion,
  tryStore,
  unmap,
} from "./raw-guest.ts";
import type { Machine } from "./state.ts";
import { GRANT_GFN, HOLE, RAM } from "./stories/machines.ts";

/** A fault at work: what it answers says whether anything came of it. */
export type FaultProgram = (guest: Guest) => Program<boolean>;

/** Wake-ups of one nudge. */
const NUDGES = 3;
/** Rounds of sends in a storm, on each of so many ports. */
const STORM_ROUNDS = 16;
const STORM_PORTS = 2;
/** Allocations of which one fails, counted from where the fault strikes. */
const ALLOCATIONS = 4;

const draw = ({ machine }: Guest, below: number): number => machine.options.scheduler.number(below);

const slotsOf = ({ xen }: Machine, domid: number): readonly number[] =>
  Array.from({ length: domainField(xen, domid, DOM.VCPUS) }, (_, vcpu) =>
    domainField(xen, domid, DOM.SLOT + vcpu),
  );

/** F-01 to F-07, F-35. */
export const kill = (domid: number): FaultProgram =>
  function* (guest) {
    return (yield* domctl(guest, XEN_DOMCTL_destroydomain, domid)) === 0;
  };

export const pause = (domid: number): FaultProgram =>
  function* (guest) {
    if ((yield* domctl(guest, XEN_DOMCTL_pausedomain, domid)) < 0) return false;
    yield POINT;
    return (yield* domctl(guest, XEN_DOMCTL_unpausedomain, domid)) === 0;
  };

/** F-18, F-20: an event word is raised, and nothing has happened. */
export const nudge = (domid: number): FaultProgram =>
  function* ({ machine }) {
    for (let times = 0; times < NUDGES; times++) {
      for (const slot of slotsOf(machine, domid)) raiseEvent(machine.words, machine.layout, slot);
      yield POINT;
    }
    return true;
  };

/** F-16: the next wake-up of a vCPU of the domain that sleeps does not arrive. */
export const loseWakeup = (domid: number): FaultProgram =>
  function* ({ machine }) {
    for (const slot of slotsOf(machine, domid)) {
      const actor = machine.actors[slot];
      if (actor !== undefined) actor.losesWakeup = true;
    }
    return false;
  };

/** F-11. */
export function* failAllocation(guest: Guest): Program<boolean> {
  guest.machine.words[MACHINE.FAIL_ALLOCATION] = 1 + draw(guest, ALLOCATIONS);
  return false;
}

/** F-12. */
export function* failAllocations({ machine }: Guest): Program<boolean> {
  machine.words[MACHINE.FAIL_ALLOCATION] = -1;
  return false;
}

/** Whether an allocation has failed: the count has come to 0, or somebody has asked in vain. */
export const hasFailed = ({ words }: Machine): boolean =>
  words[MACHINE.FAIL_ALLOCATION] === 0 || words[MACHINE.FAIL_ALLOCATION] === -2;

/** Lives of other domains after which a dead one's number has come round, in the smallest machines. */
const LIVES_MAX = 8;

/** F-33, on the toolstack's slot: a domain is destroyed, and others are made out of `model` until one has its number. */
export function* reuse({ xen }: Machine, domid: number, model: number): Program<boolean> {
  yield* control(CONTROL_DOMCTL, XEN_DOMCTL_destroydomain, domid);
  for (let life = 0; life < LIVES_MAX && !isPresent(xen, domid); life++) {
    const made = yield* control(CONTROL_CREATE, model);
    if (made < 0) return false;
    if (made === domid) {
      yield* control(CONTROL_DOMCTL, XEN_DOMCTL_unpausedomain, domid);
      return true;
    }
    yield* control(CONTROL_DOMCTL, XEN_DOMCTL_destroydomain, made);
  }
  return false;
}

/** F-12 with a death: a teardown needs no memory. */
export const killWithoutMemory = (domid: number): FaultProgram =>
  function* (guest) {
    yield* failAllocations(guest);
    return yield* kill(domid)(guest);
  };

/** F-15: the domain's table pages that are not in use go. */
export const drainPool = (domid: number): FaultProgram =>
  function* (guest) {
    const before = domainField(guest.machine.xen, domid, DOM.P2M_POOL_FREE);
    yield* domctl(guest, XEN_DOMCTL_set_paging_mempool_size, domid, 0);
    return domainField(guest.machine.xen, domid, DOM.P2M_POOL_FREE) < before;
  };

/** A limit of the domain is `value` for a while. */
function* limited(xen: Xen, domid: number, field: number, value: number): Program<boolean> {
  const before = domainField(xen, domid, field);
  const generation = domainField(xen, domid, DOM.GENERATION);
  setDomainField(xen, domid, field, value);
  yield POINT;
  // The number may be another domain's by now.
  const isSame = domainField(xen, domid, DOM.GENERATION) === generation;
  if (isSame) setDomainField(xen, domid, field, before);
  return before !== value;
}

/** F-13: a mapper that has no handle yet gets none. */
export const noHandles = (domid: number): FaultProgram =>
  function* ({ machine: { xen } }) {
    const has = domainField(xen, domid, DOM.MAPTRACK_LIMIT) > 0;
    return (yield* limited(xen, domid, DOM.MAX_MAPTRACK_FRAMES, 0)) && !has;
  };

/** F-14. */
export const noPorts = (domid: number): FaultProgram =>
  function* ({ machine: { xen } }) {
    return yield* limited(xen, domid, DOM.MAX_EVTCHN_PORT, 0);
  };

/** F-30: from here on every batch lets go after each element. */
export function* letGoAlways({ machine: { xen } }: Guest): Program<boolean> {
  xen.gapMask = 0;
  return true;
}

/** F-34: the clock jumps behind every timer that runs. */
export function* jump({ machine }: Guest): Program<boolean> {
  let last = nextDeadline(machine.xen);
  for (const actor of machine.actors) {
    const sleeps = actor?.state === "sleeping" || actor?.state === "blocked";
    if (sleeps && Number.isFinite(actor.wakeAtMs)) last = Math.max(last, actor.wakeAtMs);
  }
  if (last === NOT_PRESENT) return false;
  machine.clockMs = Math.max(machine.clockMs, last) + 1;
  machine.words[MACHINE.TICK] = machine.clockMs | 0;
  return true;
}

/** F-19. */
export function* storm(guest: Guest): Program<boolean> {
  let sent = false;
  for (let round = 0; round < STORM_ROUNDS && !guest.machine.settling; round++) {
    for (let port = 1; port <= STORM_PORTS; port++) {
      if ((yield* portOp(guest.caller, EVTCHNOP_send, port)) === 0) sent = true;
    }
    if (!sent) return false;
  }
  return sent;
}

/** F-24: the first entry that grants anything becomes another one. */
export function* rewriteEntry(guest: Guest): Program<boolean> {
  const { machine, domid } = guest;
  const { xen } = machine;
  const frame = grantFrame(xen, domid, 0);
  const entries = Math.min(grantEntries(xen, domid), PAGE_SIZE / 8);
  let ref = 0;
  while (ref < entries && xen.memory.peek(frame, ref * 8) === 0) ref++;
  if (ref === entries) return false;
  const header = xen.memory.peek(frame, ref * 8);
  const gfn = xen.memory.peek(frame, ref * 8 + 4);
  const wish = item(
    [
      { at: 0, word: 0 },
      { at: 0, word: header ^ GTF_readonly },
      { at: 0, word: GTF_permit_access | ((((header >>> 16) + 1) & 0xffff) << 16) },
      { at: 4, word: gfn + 1 },
      { at: 4, word: -1 },
    ],
    draw(guest, 5),
  );
  return yield* tryStore(guest, headerOf(ref) + wish.at, wish.word);
}

/** F-28: the page in which vCPU 0 puts its arguments together goes, or a word in it changes. */
export function* spoilArguments(guest: Guest): Program<boolean> {
  const page = argumentPage(guest.machine, guest.domid, 0);
  const place = draw(guest, 5);
  if (place === 4) return (yield* release(guest, page)) === 1;
  yield* storeWord(guest.cpu, page * PAGE_SIZE + 8 * place, -1);
  return true;
}

/** F-29: numbers that nobody has given out. */
export function* nonsense(guest: Guest): Program<boolean> {
  switch (draw(guest, 6)) {
    case 0:
      return (yield* unmap(guest, HOLE, 0x7fffffff)) < 0;
    case 1:
      return (yield* map(guest, 0x7fef, -1, HOLE)).status < 0;
    case 2:
      return (yield* portOp(guest.caller, EVTCHNOP_send, -1)) < 0;
    case 3:
      return (yield* populate(guest, 2 ** 40, 9)) === 0;
    case 4:
      return (yield* release(guest, 2 ** 40, 40)) === 0;
    default: {
      const end = { gfn: Gfn(RAM), offset: 4095 };
      return (yield* copy(guest, end, end, 0xffff)) < 0;
    }
  }
}

/** F-32. */
export function* reset(guest: Guest): Program<boolean> {
  return (yield* resetPorts(guest)) === 0;
}

/** F-32, x86. */
export function* switchVersion(guest: Guest): Program<boolean> {
  const version = domainField(guest.machine.xen, guest.domid, DOM.GRANT_VERSION);
  return (yield* setVersion(guest, 3 - version)) >= 0;
}

/** F-32: a page goes, comes back elsewhere, or is another one. */
export function* movePages(guest: Guest): Program<boolean> {
  switch (draw(guest, 4)) {
    case 0:
      return (yield* release(guest, RAM + 10)) === 1;
    case 1:
      return (yield* release(guest, RAM + 12)) === 1 && (yield* populate(guest, HOLE + 8)) === 1;
    case 2:
      return (yield* release(guest, GRANT_GFN)) === 1;
    default: {
      yield* openSharedInfo(guest);
      yield* openGrantTable(guest);
      return true;
    }
  }
}
