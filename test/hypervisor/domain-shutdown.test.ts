/** Shutting down, suspending and resuming; blocking; and domains that may act for another one. */
import { describe, expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { frameReferences } from "../../hypervisor/frame-table.ts";
import { hasWork, step } from "../../hypervisor/main.ts";
import { entryFrame, p2mLookup } from "../../hypervisor/p2m.ts";
import { isPresent } from "../../hypervisor/xen.ts";
import {
  SUSPEND_CANCELLED,
  XEN_DOMCTL_destroydomain,
  XEN_DOMCTL_getdomaininfo,
  XEN_DOMCTL_pausedomain,
  XEN_DOMCTL_resumedomain,
  XEN_DOMCTL_set_target,
  XEN_DOMCTL_subscribe,
  XEN_DOMCTL_unpausedomain,
} from "../../shared/abi/domctl.ts";
import { EVTCHNOP_send, VIRQ_DOM_EXC } from "../../shared/abi/event-channel.ts";
import { GNTMAP_host_map, GTF_permit_access } from "../../shared/abi/grant.ts";
import { XENMAPSPACE_gmfn_foreign } from "../../shared/abi/memory.ts";
import {
  SCHEDOP_block,
  SCHEDOP_remote_shutdown,
  SCHEDOP_shutdown,
  SCHEDOP_shutdown_code,
  SHUTDOWN_crash,
  SHUTDOWN_poweroff,
  SHUTDOWN_reboot,
  SHUTDOWN_suspend,
} from "../../shared/abi/sched.ts";
import { HYPERVISOR_domctl, HYPERVISOR_sched_op } from "../../shared/abi/xen.ts";
import { DOM, DYING_DYING, domainOf } from "../../shared/layout.ts";
import { EFAULT, EINVAL, EOPNOTSUPP, EPERM, ESRCH } from "../../shared/status.ts";
import { hypercallTrap, setRecord } from "../../shared/trap.ts";
import { DomId } from "../../shared/units.ts";
import { create, domctl, field, leaveDeadSlots, trio } from "./domains.ts";
import {
  allocUnbound,
  bindInterdomain,
  bindVirq,
  clearFlags,
  clearPending,
  eventBits,
  mask,
  portOp,
} from "./event-calls.ts";
import { connected } from "./fifo-calls.ts";
import { argumentAddress, entryFlags, mapOne, setEntry, unmapOne } from "./grants.ts";
import { type Actor, call, readGuest, type TestMachine, writeGuest, writeWord } from "./harness.ts";
import { addBatch, queryMemory } from "./memory-calls.ts";

/** A sched_op whose structure is made of 32-bit words. */
function sched(machine: TestMachine, by: Actor, cmd: number, ...words: readonly number[]): number {
  layWords(by, words);
  return call(machine, by, HYPERVISOR_sched_op, cmd, argumentAddress(by));
}

function layWords(by: Actor, words: readonly number[]): void {
  for (const [i, word] of words.entries()) writeWord(by, argumentAddress(by) + 4 * i, word);
}

/** Pushes a sched_op; nobody steps. */
function push(by: Actor, cmd: number, ...words: readonly number[]): void {
  layWords(by, words);
  const { record } = hypercallTrap();
  setRecord(record, HYPERVISOR_sched_op, [cmd, argumentAddress(by)]);
  by.channel.push(record);
}

function settle(machine: TestMachine, actor: Actor): number | undefined {
  while (step(machine.xen));
  return actor.channel.idle ? actor.channel.result() : undefined;
}

/** domctl by a guest: command, domain and one word of argument. */
function guestDomctl(
  machine: TestMachine,
  by: Actor,
  cmd: number,
  domid: number,
  word = 0,
): number {
  const bytes = new Uint8Array(128);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, cmd, true);
  view.setUint16(8, domid, true);
  view.setUint32(16, word, true);
  writeGuest(by, argumentAddress(by), bytes);
  return call(machine, by, HYPERVISOR_domctl, argumentAddress(by));
}

/** Flags that getdomaininfo shows the control domain. */
function flagsOf(machine: TestMachine, dom0: Actor, domid: number): number {
  expect(guestDomctl(machine, dom0, XEN_DOMCTL_getdomaininfo, domid)).toBe(0);
  const bytes = readGuest(dom0, argumentAddress(dom0) + 20, 4);
  return new DataView(bytes.buffer).getUint32(0, true);
}

const isPending = (machine: TestMachine, actor: Actor, port: number): boolean =>
  Boolean(eventBits(machine, actor, port).pending);

const isStopped = (machine: TestMachine, domid: number): boolean =>
  field(machine.xen, domid, DOM.PAUSE) !== 0;

describe("a domain that shuts down", () => {
  test("stands still with its code, frees nothing, and the hardware domain hears of it", () => {
    const { machine, dom0, granter } = trio();
    const port = bindVirq(machine, dom0, VIRQ_DOM_EXC, 0);
    clearPending(machine, dom0, port);
    expect(flagsOf(machine, dom0, granter.domid)).toBe(0xffff_0000);
    expect(sched(machine, granter, SCHEDOP_shutdown, SHUTDOWN_reboot)).toBe(0);
    expect(isStopped(machine, granter.domid)).toBe(true);
    expect(isPending(machine, dom0, port)).toBe(true);
    expect(flagsOf(machine, dom0, granter.domid)).toBe((SHUTDOWN_reboot << 16) | 4);
    expect(field(machine.xen, granter.domid, DOM.TOT_PAGES)).toBe(256);
    expect(audit(machine.xen)).toEqual([]);
    expect(domctl(machine, XEN_DOMCTL_destroydomain, granter.domid)).toBe(0);
    expect(isPresent(machine.xen, granter.domid)).toBe(false);
  });

  test("keeps the first code that was named for it", () => {
    const { machine, dom0, granter } = trio();
    expect(sched(machine, granter, SCHEDOP_shutdown_code, SHUTDOWN_crash)).toBe(0);
    expect(sched(machine, granter, SCHEDOP_shutdown_code, SHUTDOWN_reboot)).toBe(0);
    expect(flagsOf(machine, dom0, granter.domid)).toBe(SHUTDOWN_crash << 16);
    expect(isStopped(machine, granter.domid)).toBe(false);
    sched(machine, granter, SCHEDOP_shutdown, SHUTDOWN_poweroff);
    expect(flagsOf(machine, dom0, granter.domid)).toBe((SHUTDOWN_crash << 16) | 4);
  });

  test("is not set going by an unpause, and pauses of its controller stay counted", () => {
    const { machine, granter } = trio();
    sched(machine, granter, SCHEDOP_shutdown, SHUTDOWN_poweroff);
    expect(domctl(machine, XEN_DOMCTL_unpausedomain, granter.domid)).toBe(-EINVAL);
    expect(domctl(machine, XEN_DOMCTL_pausedomain, granter.domid)).toBe(0);
    expect(domctl(machine, XEN_DOMCTL_resumedomain, granter.domid)).toBe(0);
    expect(isStopped(machine, granter.domid)).toBe(true);
    expect(domctl(machine, XEN_DOMCTL_unpausedomain, granter.domid)).toBe(0);
    expect(isStopped(machine, granter.domid)).toBe(false);
  });

  test("by a structure out of reach, or by an unknown operation, does not", () => {
    const { machine, granter } = trio();
    for (const cmd of [SCHEDOP_shutdown, SCHEDOP_shutdown_code, SCHEDOP_remote_shutdown]) {
      expect(call(machine, granter, HYPERVISOR_sched_op, cmd, 0x7000_0000)).toBe(-EFAULT);
    }
    expect(isStopped(machine, granter.domid)).toBe(false);
  });

  test("by another: the control domain may, a plain domain may not, an unknown id is unknown", () => {
    const { machine, dom0, granter, mapper } = trio();
    const remote = (by: Actor, domid: number): number =>
      sched(machine, by, SCHEDOP_remote_shutdown, domid, SHUTDOWN_poweroff);
    expect(remote(mapper, granter.domid)).toBe(-EPERM);
    expect(remote(mapper, mapper.domid)).toBe(-EPERM);
    expect(remote(mapper, 999)).toBe(-ESRCH);
    expect(isStopped(machine, granter.domid)).toBe(false);
    expect(remote(dom0, granter.domid)).toBe(0);
    expect(isStopped(machine, granter.domid)).toBe(true);
  });
});

describe("a suspended domain", () => {
  test.each([
    ["resumed", 0, 0],
    ["whose suspension was given up", SUSPEND_CANCELLED, 1],
  ])("%s: its call comes back only then", (_, how, answer) => {
    const { machine, dom0, granter } = trio();
    push(granter, SCHEDOP_shutdown, SHUTDOWN_suspend);
    expect(settle(machine, granter)).toBeUndefined();
    expect(hasWork(machine.xen)).toBe(false);
    expect(flagsOf(machine, dom0, granter.domid)).toBe((SHUTDOWN_suspend << 16) | 4);
    expect(audit(machine.xen)).toEqual([]);
    expect(domctl(machine, XEN_DOMCTL_resumedomain, granter.domid, how)).toBe(0);
    expect(settle(machine, granter)).toBe(answer);
    expect(flagsOf(machine, dom0, granter.domid)).toBe(0xffff_0000);
    // And once more: nothing of the first time is left.
    push(granter, SCHEDOP_shutdown, SHUTDOWN_suspend);
    expect(settle(machine, granter)).toBeUndefined();
  });

  test("is announced on the port that was named for it, and not as an exception", () => {
    const { machine, dom0, granter } = trio();
    const virq = bindVirq(machine, dom0, VIRQ_DOM_EXC, 0);
    const port = allocUnbound(machine, granter, dom0.domid);
    const end = bindInterdomain(machine, dom0, granter.domid, port);
    for (const one of [virq, end]) clearPending(machine, dom0, one);
    expect(domctl(machine, XEN_DOMCTL_subscribe, granter.domid, 99999)).toBe(-EINVAL);
    expect(guestDomctl(machine, dom0, XEN_DOMCTL_subscribe, granter.domid, port)).toBe(0);
    push(granter, SCHEDOP_shutdown, SHUTDOWN_suspend);
    settle(machine, granter);
    expect([virq, end].map((one) => isPending(machine, dom0, one))).toEqual([false, true]);
  });

  test("can be destroyed, and nobody resumes itself", () => {
    const { machine, dom0, granter } = trio();
    push(granter, SCHEDOP_shutdown, SHUTDOWN_suspend);
    settle(machine, granter);
    expect(guestDomctl(machine, dom0, XEN_DOMCTL_resumedomain, dom0.domid)).toBe(-EINVAL);
    expect(domctl(machine, XEN_DOMCTL_destroydomain, granter.domid)).toBe(0);
    expect(isPresent(machine.xen, granter.domid)).toBe(false);
    expect(audit(machine.xen)).toEqual([]);
  });
});

test("SCHEDOP_block waits for an upcall: an event of a masked port does not end it, one that stood before does", () => {
  const { machine, one, other, ports, senders } = connected(2);
  const [first = 0, second = 0] = ports;
  clearFlags(machine, one);
  mask(machine, one, first);
  push(one, SCHEDOP_block);
  expect(settle(machine, one)).toBeUndefined();
  portOp(machine, other, EVTCHNOP_send, senders[0] ?? 0);
  expect(settle(machine, one)).toBeUndefined();
  expect(audit(machine.xen)).toEqual([]);
  portOp(machine, other, EVTCHNOP_send, senders[1] ?? 0);
  expect(settle(machine, one)).toBe(0);
  expect(isPending(machine, one, second)).toBe(true);
  push(one, SCHEDOP_block);
  expect(settle(machine, one)).toBe(0);
});

describe("a domain with privilege over a target", () => {
  const aim = (machine: TestMachine, domid: number, target: number): number =>
    domctl(machine, XEN_DOMCTL_set_target, domid, target);

  test("maps its target's pages and asks about it; a plain domain does neither, and others stay closed to it", () => {
    const { machine, dom0, granter, mapper } = trio();
    const foreign = (owner: Actor, gfn: number): number | undefined =>
      addBatch(machine, mapper, {
        space: XENMAPSPACE_gmfn_foreign,
        extra: owner.domid,
        idxs: [owner.ram],
        gfns: [gfn],
      }).errs[0];
    const asks = (): number =>
      guestDomctl(machine, mapper, XEN_DOMCTL_getdomaininfo, granter.domid);
    const pages = (owner: Actor): number => queryMemory(machine, mapper, 3, owner.domid);
    expect([foreign(granter, 0x60000), asks(), pages(granter)]).toEqual([-EPERM, -EPERM, -EPERM]);
    expect(aim(machine, mapper.domid, granter.domid)).toBe(0);
    expect([foreign(granter, 0x60000), asks(), pages(granter)]).toEqual([0, 0, 256]);
    expect(foreign(dom0, 0x60001)).toBe(-EPERM);
    expect(guestDomctl(machine, mapper, XEN_DOMCTL_pausedomain, granter.domid)).toBe(-EPERM);
    expect(sched(machine, mapper, SCHEDOP_remote_shutdown, granter.domid, 0)).toBe(0);
    expect(isStopped(machine, granter.domid)).toBe(true);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("has one target for good, never itself, never the hardware domain", () => {
    const { machine, granter, mapper } = trio();
    expect(aim(machine, mapper.domid, 999)).toBe(-ESRCH);
    expect(aim(machine, mapper.domid, mapper.domid)).toBe(-EINVAL);
    expect(aim(machine, mapper.domid, 0)).toBe(-EOPNOTSUPP);
    expect(aim(machine, mapper.domid, granter.domid)).toBe(0);
    expect(aim(machine, mapper.domid, granter.domid)).toBe(-EINVAL);
  });

  test("keeps its target from going, and lets it go when it goes itself", () => {
    const { machine, granter, mapper } = trio();
    aim(machine, mapper.domid, granter.domid);
    expect(domctl(machine, XEN_DOMCTL_destroydomain, granter.domid)).toBe(0);
    expect(isPresent(machine.xen, granter.domid)).toBe(true);
    expect(audit(machine.xen)).toEqual([]);
    expect(domctl(machine, XEN_DOMCTL_destroydomain, mapper.domid)).toBe(0);
    expect([granter, mapper].map(({ domid }) => isPresent(machine.xen, domid))).toEqual([
      false,
      false,
    ]);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("a reference that nobody holds is found by the audit", () => {
    const { machine, granter, mapper } = trio();
    aim(machine, mapper.domid, granter.domid);
    machine.xen.words[domainOf(machine.xen.layout, mapper.domid) + DOM.TARGET] = 0;
    expect(audit(machine.xen)).toEqual([`domain ${granter.domid} counts 4 references, 3 exist`]);
  });
});

test("hypervisor case 33: a mapper that has begun to die maps nothing, and nothing is left of the attempt", () => {
  const { machine, granter, mapper } = trio();
  setEntry(machine, granter, 8, GTF_permit_access, mapper.domid, granter.ram);
  const frame = entryFrame(p2mLookup(machine.xen, DomId(granter.domid), granter.ram));
  const before = machine.xen.words.slice();
  const row = domainOf(machine.xen.layout, mapper.domid) + DOM.DYING;
  // The killer of another processor has set this much by the time the map takes the P2M lock.
  machine.xen.words[row] = DYING_DYING;
  const op = { gfn: 0x60000, flags: GNTMAP_host_map, ref: 8, dom: granter.domid };
  expect(mapOne(machine, mapper, op).status).toBe(-1);
  expect(frameReferences(machine.xen, frame)).toBe(1);
  expect(entryFlags(machine, granter, 8)).toBe(GTF_permit_access);
  expect(field(machine.xen, mapper.domid, DOM.MAPPINGS)).toBe(0);
  const { actPin, trackFlags } = machine.xen.layout;
  for (const table of [actPin, trackFlags]) {
    expect(machine.xen.words.slice(table, table + 4096)).toEqual(before.slice(table, table + 4096));
  }
  machine.xen.words[row] = 0;
  expect(audit(machine.xen)).toEqual([]);
  const mapped = mapOne(machine, mapper, op);
  expect(mapped.status).toBe(0);
  expect(unmapOne(machine, mapper, { handle: mapped.handle, address: 0x60000 * 4096 })).toBe(0);
});

test("ids are handed out upwards, past those that are taken, and wrap behind the highest", () => {
  const { machine, granter } = trio();
  const highest = machine.xen.model.limits.domains - 1;
  const made: number[] = [];
  for (
    let id = create(machine, 3);
    id !== 1 && made.length < 2 * highest;
    id = create(machine, 3)
  ) {
    made.push(id);
    expect(domctl(machine, XEN_DOMCTL_destroydomain, id)).toBe(0);
    if (id === highest) expect(domctl(machine, XEN_DOMCTL_destroydomain, granter.domid)).toBe(0);
    leaveDeadSlots(machine.xen);
  }
  // 2 is the mapper's all the time, and 0 the hardware domain's for ever.
  expect(made).toEqual(Array.from({ length: highest - 2 }, (_, i) => 3 + i));
  expect(isPresent(machine.xen, 1)).toBe(true);
});
