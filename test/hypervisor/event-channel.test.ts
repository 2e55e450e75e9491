/** Event channels of the 2-level ABI: binding, sending, masking, closing, reset. */
import { describe, expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { closeAllPorts } from "../../hypervisor/event-close.ts";
import { step } from "../../hypervisor/main.ts";
import { domainField, lineField, setDomainField } from "../../hypervisor/xen.ts";
import {
  EVTCHNOP_bind_pirq,
  EVTCHNOP_close,
  EVTCHNOP_expand_array,
  EVTCHNOP_reset,
  EVTCHNOP_reset_cont,
  EVTCHNOP_send,
  EVTCHNOP_set_priority,
  EVTCHNOP_unmask,
  EVTCHNSTAT_closed,
  EVTCHNSTAT_interdomain,
  EVTCHNSTAT_unbound,
  EVTCHNSTAT_virq,
  VIRQ_CONSOLE,
  VIRQ_DEBUG,
  VIRQ_DOM_EXC,
  VIRQ_TIMER,
} from "../../shared/abi/event-channel.ts";
import { DOMID_SELF, HYPERVISOR_event_channel_op } from "../../shared/abi/xen.ts";
import { DOM, DYING_DYING, LINE } from "../../shared/layout.ts";
import {
  EBUSY,
  EEXIST,
  EFAULT,
  EINVAL,
  ENOENT,
  ENOMEM,
  ENOSPC,
  ENOSYS,
  EOPNOTSUPP,
  EPERM,
  ESRCH,
} from "../../shared/status.ts";
import { hypercallTrap, setRecord } from "../../shared/trap.ts";
import { DomId } from "../../shared/units.ts";
import {
  allocUnbound,
  bindInterdomain,
  bindIpi,
  bindVcpu,
  bindVirq,
  clearFlags,
  clearPending,
  eventBits,
  mask,
  portOp,
  portStatus,
} from "./event-calls.ts";
import { argumentAddress } from "./grants.ts";
import {
  type Actor,
  bootTestMachine,
  call,
  type TestMachine,
  testDom0,
  testDomain,
  testModel,
} from "./harness.ts";

interface Trio {
  readonly machine: TestMachine;
  readonly dom0: Actor;
  readonly one: Actor;
  readonly other: Actor;
}

function boot(xsm: "dummy" | "silo" = "dummy"): Trio {
  const domains = [testDom0(), testDomain("one", { vcpus: 2 }), testDomain("other")];
  const machine = bootTestMachine(testModel(domains, { xsm }));
  const [dom0, one, other] = machine.actors;
  if (dom0 === undefined || one === undefined || other === undefined) {
    throw new Error("three domains were booted");
  }
  return { machine, dom0, one, other };
}

interface Pair extends Trio {
  readonly onePort: number;
  readonly otherPort: number;
}

/** `one` and `other` connected, with nothing pending at either end. */
function connected(): Pair {
  const trio = boot();
  const { machine, one, other } = trio;
  const onePort = allocUnbound(machine, one, other.domid);
  const otherPort = bindInterdomain(machine, other, one.domid, onePort);
  clearPending(machine, other, otherPort);
  clearFlags(machine, other);
  return { ...trio, onePort, otherPort };
}

const events = ({ xen }: TestMachine, { domid }: Actor, vcpu = 0): number =>
  lineField(xen, domainField(xen, domid, DOM.SLOT + vcpu), LINE.EVENT);

describe("sending", () => {
  test("an event sets pending, selector and upcall flag of the peer and wakes its vCPU", () => {
    const { machine, one, other, onePort, otherPort } = connected();
    const before = events(machine, one);
    expect(portOp(machine, other, EVTCHNOP_send, otherPort)).toBe(0);
    expect(eventBits(machine, one, onePort)).toEqual({
      pending: true,
      masked: false,
      selector: 1,
      upcall: 1,
    });
    expect(events(machine, one)).toBe(before + 1);
    expect(eventBits(machine, other, otherPort).pending).toBe(false);
  });

  test("hypervisor case 106: an event for nobody is dropped, other kinds of port refuse", () => {
    const { machine, one, other } = boot();
    const port = allocUnbound(machine, one, other.domid);
    expect(portOp(machine, one, EVTCHNOP_send, port)).toBe(0);
    expect(eventBits(machine, one, port).pending).toBe(false);
    const virq = bindVirq(machine, one, VIRQ_TIMER);
    for (const wrong of [virq, virq + 1, 0, 4096, 0xffffffff]) {
      expect(portOp(machine, one, EVTCHNOP_send, wrong)).toBe(-EINVAL);
    }
    const ipi = bindIpi(machine, one, 0);
    expect(portOp(machine, one, EVTCHNOP_send, ipi)).toBe(0);
    expect(eventBits(machine, one, ipi).pending).toBe(true);
  });

  test("hypervisor case 107: the one who binds finds its port pending at once, the peer does not", () => {
    const { machine, one, other } = boot();
    const port = allocUnbound(machine, one, other.domid);
    const bound = bindInterdomain(machine, other, one.domid, port);
    expect(eventBits(machine, other, bound)).toMatchObject({ pending: true, upcall: 1 });
    expect(eventBits(machine, one, port)).toMatchObject({ pending: false, upcall: 0 });
    expect(portStatus(machine, one, port)).toEqual({
      ret: 0,
      status: EVTCHNSTAT_interdomain,
      vcpu: 0,
      dom: other.domid,
      port: bound,
    });
  });

  test("hypervisor case 109: a masked port only becomes pending, and the unmask call raises the upcall", () => {
    const { machine, one, other, onePort, otherPort } = connected();
    mask(machine, one, onePort);
    portOp(machine, other, EVTCHNOP_send, otherPort);
    expect(eventBits(machine, one, onePort)).toEqual({
      pending: true,
      masked: true,
      selector: 0,
      upcall: 0,
    });
    const before = events(machine, one);
    expect(portOp(machine, one, EVTCHNOP_unmask, onePort)).toBe(0);
    expect(eventBits(machine, one, onePort)).toMatchObject({
      masked: false,
      selector: 1,
      upcall: 1,
    });
    expect(events(machine, one)).toBe(before + 1);
    clearFlags(machine, one);
    expect(portOp(machine, one, EVTCHNOP_unmask, onePort)).toBe(0);
    expect(eventBits(machine, one, onePort)).toMatchObject({
      pending: true,
      selector: 0,
      upcall: 0,
    });
  });

  test("hypervisor case 110: events between two clears of the pending bit are one", () => {
    const { machine, one, other, onePort, otherPort } = connected();
    portOp(machine, other, EVTCHNOP_send, otherPort);
    clearFlags(machine, one);
    const before = events(machine, one);
    portOp(machine, other, EVTCHNOP_send, otherPort);
    expect(eventBits(machine, one, onePort)).toMatchObject({
      pending: true,
      selector: 0,
      upcall: 0,
    });
    expect(events(machine, one)).toBe(before);
    clearPending(machine, one, onePort);
    portOp(machine, other, EVTCHNOP_send, otherPort);
    expect(eventBits(machine, one, onePort)).toMatchObject({ selector: 1, upcall: 1 });
  });

  test("an event for the second vCPU wakes that vCPU and leaves the first one's flags alone", () => {
    const { machine, one, other, onePort, otherPort } = connected();
    expect(bindVcpu(machine, one, onePort, 1)).toBe(0);
    expect(bindVcpu(machine, one, onePort, 2)).toBe(-ENOENT);
    const before = [events(machine, one, 0), events(machine, one, 1)];
    portOp(machine, other, EVTCHNOP_send, otherPort);
    expect(eventBits(machine, one, onePort)).toMatchObject({
      pending: true,
      selector: 0,
      upcall: 0,
    });
    expect(events(machine, one, 0)).toBe(before[0]);
    expect(events(machine, one, 1)).toBe((before[1] ?? 0) + 1);
    expect(portStatus(machine, one, onePort).vcpu).toBe(1);
  });
});

describe("binding and closing", () => {
  test("hypervisor case 108: a closed end leaves the other to the domain that closed, and to no third one", () => {
    const { machine, dom0, one, other, onePort, otherPort } = connected();
    expect(portOp(machine, other, EVTCHNOP_close, otherPort)).toBe(0);
    expect(portStatus(machine, one, onePort)).toMatchObject({
      status: EVTCHNSTAT_unbound,
      dom: other.domid,
    });
    expect(portStatus(machine, other, otherPort).status).toBe(EVTCHNSTAT_closed);
    expect(bindInterdomain(machine, dom0, one.domid, onePort)).toBe(-EINVAL);
    expect(bindInterdomain(machine, other, one.domid, onePort)).toBe(otherPort);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("a closed port loses its pending bit and keeps its mask bit", () => {
    const { machine, one, other, onePort, otherPort } = connected();
    mask(machine, one, onePort);
    portOp(machine, other, EVTCHNOP_send, otherPort);
    expect(portOp(machine, one, EVTCHNOP_close, onePort)).toBe(0);
    expect(eventBits(machine, one, onePort)).toMatchObject({ pending: false, masked: true });
    expect(portOp(machine, one, EVTCHNOP_close, onePort)).toBe(-EINVAL);
  });

  test("hypervisor case 111: port 0 stays, and the lowest free port is handed out up to the limit", () => {
    const { machine, one, other } = boot();
    expect(portOp(machine, one, EVTCHNOP_close, 0)).toBe(-EINVAL);
    const first = allocUnbound(machine, one, other.domid);
    let last = first;
    for (let port = first + 1; port <= 127; port++) {
      last = allocUnbound(machine, one, other.domid);
      expect(last).toBe(port);
    }
    expect(last).toBe(127);
    expect(allocUnbound(machine, one, other.domid)).toBe(-ENOSPC);
    portOp(machine, one, EVTCHNOP_close, 77);
    expect(allocUnbound(machine, one, other.domid)).toBe(77);
  });

  test("hypervisor case 112: the remote of an unbound port need not exist, the owner must be oneself", () => {
    const { machine, dom0, one, other } = boot();
    expect(allocUnbound(machine, one, 4660)).toBeGreaterThan(0);
    expect(allocUnbound(machine, one, dom0.domid, other.domid)).toBe(-EPERM);
    expect(allocUnbound(machine, one, dom0.domid, 4660)).toBe(-ESRCH);
    expect(allocUnbound(machine, dom0, one.domid, other.domid)).toBeGreaterThan(0);
    setDomainField(machine.xen, other.domid, DOM.DYING, DYING_DYING);
    expect(allocUnbound(machine, dom0, one.domid, other.domid)).toBe(-EINVAL);
  });

  test("hypervisor case 113: VIRQs are bound once, global ones on vCPU 0, by any domain", () => {
    const { machine, dom0, one } = boot();
    expect(bindVirq(machine, one, 24)).toBe(-EINVAL);
    expect(bindVirq(machine, one, VIRQ_CONSOLE, 1)).toBe(-EINVAL);
    expect(bindVirq(machine, one, VIRQ_TIMER, 99)).toBe(-ENOENT);
    const timer = bindVirq(machine, one, VIRQ_TIMER);
    expect(bindVirq(machine, one, VIRQ_TIMER)).toBe(-EEXIST);
    expect(bindVirq(machine, one, VIRQ_TIMER, 1)).toBe(timer + 1);
    expect(bindVirq(machine, dom0, VIRQ_DOM_EXC)).toBeGreaterThan(0);
    expect(bindVirq(machine, one, VIRQ_DOM_EXC)).toBe(timer + 2);
    expect(portStatus(machine, one, timer)).toMatchObject({
      status: EVTCHNSTAT_virq,
      dom: VIRQ_TIMER,
    });
    expect(bindVcpu(machine, one, timer, 1)).toBe(-EINVAL);
    expect(bindVcpu(machine, one, timer + 2, 1)).toBe(0);
    expect(bindVirq(machine, one, VIRQ_DOM_EXC)).toBe(-EEXIST);
  });

  test("hypervisor case 114: without the FIFO ABI there are no priorities", () => {
    const { machine, one } = boot();
    expect(portOp(machine, one, EVTCHNOP_set_priority, 1)).toBe(-ENOSYS);
    expect(portOp(machine, one, EVTCHNOP_set_priority, 100)).toBe(-EINVAL);
  });

  test("hypervisor case 115: without the FIFO ABI there is no array to expand", () => {
    const { machine, one } = boot();
    expect(portOp(machine, one, EVTCHNOP_expand_array, one.ram)).toBe(-EOPNOTSUPP);
  });

  test("no interrupt number has anything to bind a port to", () => {
    const { machine, one } = boot();
    expect(portOp(machine, one, EVTCHNOP_bind_pirq, 33)).toBe(-ENOMEM);
    expect(portOp(machine, one, EVTCHNOP_bind_pirq, 65535)).toBe(-EINVAL);
  });

  test("under SILO two ordinary domains get no channel, and each gets one with dom0", () => {
    const { machine, dom0, one, other } = boot("silo");
    expect(allocUnbound(machine, one, other.domid)).toBe(-EPERM);
    expect(allocUnbound(machine, one, 4660)).toBe(-ESRCH);
    const port = allocUnbound(machine, one, dom0.domid);
    expect(port).toBeGreaterThan(0);
    expect(bindInterdomain(machine, dom0, one.domid, port)).toBeGreaterThan(0);
  });

  test("a status is for oneself and control domains, and a structure out of reach is -EFAULT", () => {
    const { machine, dom0, one, other, onePort } = connected();
    expect(portStatus(machine, other, onePort, one.domid).ret).toBe(-EPERM);
    expect(portStatus(machine, dom0, onePort, one.domid).status).toBe(EVTCHNSTAT_interdomain);
    expect(portStatus(machine, one, 100).ret).toBe(-EINVAL);
    expect(portStatus(machine, one, 1, 4660).ret).toBe(-ESRCH);
    const hole = 0x60000 * 4096;
    expect(call(machine, one, HYPERVISOR_event_channel_op, EVTCHNOP_send, hole)).toBe(-EFAULT);
    expect(call(machine, one, HYPERVISOR_event_channel_op, 15, hole)).toBe(-ENOSYS);
  });
});

describe("the end of many ports", () => {
  test("hypervisor case 116: a reset closes everything, and another domain must be paused for it", () => {
    const { machine, dom0, one, other, onePort, otherPort } = connected();
    expect(portOp(machine, other, EVTCHNOP_reset, one.domid)).toBe(-EPERM);
    expect(portOp(machine, dom0, EVTCHNOP_reset, one.domid)).toBe(-EINVAL);
    expect(portOp(machine, one, EVTCHNOP_reset_cont, DOMID_SELF)).toBe(-EBUSY);
    expect(portOp(machine, one, EVTCHNOP_reset, DOMID_SELF)).toBe(0);
    expect(portStatus(machine, one, onePort).status).toBe(EVTCHNSTAT_closed);
    expect(portStatus(machine, other, otherPort)).toMatchObject({
      status: EVTCHNSTAT_unbound,
      dom: one.domid,
    });
  });

  test("hypervisor case 116: while a reset is under way a second one answers -EBUSY", () => {
    const { machine, dom0, one, other } = boot();
    for (let port = 1; port < 100; port++) allocUnbound(machine, one, other.domid);
    setDomainField(machine.xen, one.domid, DOM.PAUSE, 1);
    const { record } = hypercallTrap();
    setRecord(record, HYPERVISOR_event_channel_op, [EVTCHNOP_reset, argumentAddress(dom0)]);
    portOp(machine, dom0, EVTCHNOP_close, one.domid);
    dom0.channel.push(record);
    step(machine.xen);
    expect(dom0.channel.idle).toBe(false);
    expect(portOp(machine, one, EVTCHNOP_reset, DOMID_SELF)).toBe(-EBUSY);
    while (step(machine.xen));
    expect(dom0.channel.result()).toBe(0);
    expect(portOp(machine, one, EVTCHNOP_reset, DOMID_SELF)).toBe(0);
  });

  test("teardown closes ports from the top in stages and leaves the peers unbound", () => {
    const { machine, one, other, onePort, otherPort } = connected();
    const domid = DomId(one.domid);
    const virq = bindVirq(machine, one, VIRQ_DEBUG);
    setDomainField(machine.xen, domid, DOM.DYING, DYING_DYING);
    let stages = 1;
    while (!closeAllPorts(machine.xen, domid, 16)) stages++;
    expect(stages).toBe(4);
    expect(portStatus(machine, other, otherPort).status).toBe(EVTCHNSTAT_unbound);
    expect(onePort + virq).toBeGreaterThan(0);
    expect(domainField(machine.xen, domid, DOM.VALID_EVTCHNS)).toBe(1);
  });
});
