/** SCHEDOP_poll: what answers at once, what waits, what ends the wait, and a poller that dies. */
import { expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { hasWork, step } from "../../hypervisor/main.ts";
import { XEN_DOMCTL_destroydomain } from "../../shared/abi/domctl.ts";
import { EVTCHNOP_send } from "../../shared/abi/event-channel.ts";
import { HYPERVISOR_sched_op } from "../../shared/abi/xen.ts";
import { MACHINE } from "../../shared/layout.ts";
import { EFAULT, EINVAL } from "../../shared/status.ts";
import { domctl } from "./domains.ts";
import { bindIpi, mask, portOp } from "./event-calls.ts";
import { connected, inFifo, pushPoll } from "./fifo-calls.ts";
import { type Actor, call, type TestMachine } from "./harness.ts";

/** Steps while there is something to do; the answer, or undefined while the vCPU waits. */
function settle({ xen }: TestMachine, actor: Actor): number | undefined {
  while (step(xen));
  return actor.channel.idle ? actor.channel.result() : undefined;
}

test("a poll of a pending port, or with its time in the past, answers at once", () => {
  const { machine, one, other, ports, senders } = connected(1);
  machine.xen.words[MACHINE.TICK] = 5;
  pushPoll(one, ports, { timeoutMs: 5 });
  expect(settle(machine, one)).toBe(0);
  pushPoll(one, [], { timeoutMs: 1 });
  expect(settle(machine, one)).toBe(0);
  portOp(machine, other, EVTCHNOP_send, senders[0] ?? 0);
  pushPoll(one, ports);
  expect(settle(machine, one)).toBe(0);
});

test("a poll of no port, a free port, too many ports or a list out of reach is refused", () => {
  const { machine, one } = connected(1);
  for (const port of [0, 40, 999, 0xffffffff]) {
    pushPoll(one, [port]);
    expect(settle(machine, one)).toBe(-EINVAL);
  }
  pushPoll(one, [1, 1], { count: 129 });
  expect(settle(machine, one)).toBe(-EINVAL);
  expect(call(machine, one, HYPERVISOR_sched_op, 3, 0x60000 * 4096)).toBe(-EFAULT);
  expect(audit(machine.xen)).toEqual([]);
});

test.each([
  ["2-level", connected],
  ["FIFO", inFifo],
])(
  "in the %s ABI a poll waits for its port, and an event of a masked port ends it",
  (_abi, boot) => {
    const { machine, one, other, ports, senders } = boot(2);
    mask(machine, one, ports[0] ?? 0);
    pushPoll(one, [ports[0] ?? 0]);
    expect(settle(machine, one)).toBeUndefined();
    expect(hasWork(machine.xen)).toBe(false);
    expect(audit(machine.xen)).toEqual([]);
    portOp(machine, other, EVTCHNOP_send, senders[0] ?? 0);
    expect(settle(machine, one)).toBe(0);
    expect(audit(machine.xen)).toEqual([]);
  },
);

test("a masked event of a port that is not polled leaves a poller of one port waiting", () => {
  const { machine, one, other, ports, senders } = connected(2);
  mask(machine, one, ports[1] ?? 0);
  pushPoll(one, [ports[0] ?? 0]);
  settle(machine, one);
  portOp(machine, other, EVTCHNOP_send, senders[1] ?? 0);
  expect(settle(machine, one)).toBeUndefined();
});

test("any upcall ends a poll, whatever port it is for", () => {
  const { machine, one, other, ports, senders } = connected(2);
  pushPoll(one, [ports[0] ?? 0]);
  settle(machine, one);
  portOp(machine, other, EVTCHNOP_send, senders[1] ?? 0);
  expect(settle(machine, one)).toBe(0);
});

test("a poll ends with its time", () => {
  const { machine, one, ports } = connected(1);
  pushPoll(one, ports, { timeoutMs: 30 });
  expect(settle(machine, one)).toBeUndefined();
  machine.xen.words[MACHINE.TICK] = 29;
  expect(settle(machine, one)).toBeUndefined();
  machine.xen.words[MACHINE.TICK] = 30;
  expect(settle(machine, one)).toBe(0);
  expect(machine.xen.words[MACHINE.POLLERS]).toBe(0);
});

test("a poller that is killed polls no more, and its peers' events find nobody", () => {
  const { machine, one, other, ports, senders } = connected(1);
  pushPoll(one, ports);
  settle(machine, one);
  expect(machine.xen.words[MACHINE.POLLERS]).toBe(1);
  expect(domctl(machine, XEN_DOMCTL_destroydomain, one.domid)).toBe(0);
  expect(machine.xen.words[MACHINE.POLLERS]).toBe(0);
  expect(portOp(machine, other, EVTCHNOP_send, senders[0] ?? 0)).toBe(0);
  expect(audit(machine.xen)).toEqual([]);
});

test("a vCPU that polls holds nobody else up", () => {
  const { machine, one, other, ports } = connected(1);
  pushPoll(one, ports);
  settle(machine, one);
  expect(bindIpi(machine, other, 0)).toBeGreaterThan(0);
});
