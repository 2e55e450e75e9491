/** Advisories about event channels that can be told on this machine, each with its story. */
import { expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { sendGlobalVirq } from "../../hypervisor/event-channel.ts";
import { step } from "../../hypervisor/main.ts";
import { setDomainField } from "../../hypervisor/xen.ts";
import {
  EVTCHNOP_close,
  EVTCHNOP_reset,
  EVTCHNOP_send,
  EVTCHNSTAT_closed,
  VIRQ_CONSOLE,
  VIRQ_DOM_EXC,
} from "../../shared/abi/event-channel.ts";
import { DOMID_SELF, HYPERVISOR_event_channel_op } from "../../shared/abi/xen.ts";
import { DOM } from "../../shared/layout.ts";
import { EBUSY, EINVAL, ENOSPC, EOPNOTSUPP } from "../../shared/status.ts";
import { hypercallTrap, setRecord } from "../../shared/trap.ts";
import { field } from "./domains.ts";
import {
  allocUnbound,
  bindIpi,
  bindVirq,
  clearPending,
  eventBits,
  portOp,
  portStatus,
} from "./event-calls.ts";
import {
  ARRAY,
  CONTROL,
  CONTROL_1,
  connected,
  expandArray,
  head,
  inFifo,
  initControl,
  pushPoll,
  wordText,
} from "./fifo-calls.ts";
import { argumentAddress } from "./grants.ts";
import type { Actor, TestMachine } from "./harness.ts";

/** dom0 asks for a reset of `target`, which is paused, and the hypervisor goes up to the first gap. */
function startReset(machine: TestMachine, dom0: Actor, target: Actor): void {
  setDomainField(machine.xen, target.domid, DOM.PAUSE, 1);
  // A close of a port that does not exist leaves the structure in place.
  portOp(machine, dom0, EVTCHNOP_close, target.domid);
  const { record } = hypercallTrap();
  setRecord(record, HYPERVISOR_event_channel_op, [EVTCHNOP_reset, argumentAddress(dom0)]);
  dom0.channel.push(record);
  step(machine.xen);
}

/* The FIFO code looked through a vCPU's control block without asking whether it had one: a guest bound a port to a vCPU
 * that had never registered any, and Xen crashed. Such an event is dropped. */
test("XSA-107: an event for a vCPU without a control block is dropped", () => {
  const { machine, one } = inFifo(0);
  const ipi = bindIpi(machine, one, 1);
  expect(portOp(machine, one, EVTCHNOP_send, ipi)).toBe(0);
  expect(wordText(one, ipi)).toBe("");
  expect(initControl(machine, one, one.ram + CONTROL_1, { vcpu: 1 })).toBe(0);
  expect(head(one, 7, CONTROL_1)).toBe(0);
  portOp(machine, one, EVTCHNOP_send, ipi);
  expect(head(one, 7, CONTROL_1)).toBe(ipi);
});

/* Polling looked a port up that had no storage: any number below the limit of the ABI was taken for valid, and the
 * bucket behind it was a null pointer. A port is valid when its bucket exists. */
test("XSA-221: a poll of a port without storage is refused", () => {
  const { machine, one } = inFifo(1);
  for (const port of [100, 4095, 131071]) {
    pushPoll(one, [port]);
    while (step(machine.xen));
    expect(one.channel.result()).toBe(-EINVAL);
  }
});

/* Whether a port was valid followed from the ABI of the moment. A guest went to FIFO, opened ports above 4095 and reset
 * itself to 2-level: these ports were invalid then while others still held them. Validity only grows. */
test("XSA-338: a port above the 2-level limit stays valid when its domain goes back", () => {
  const { machine, one, other } = inFifo(0, 4200);
  const { xen } = machine;
  setDomainField(xen, one.domid, DOM.VALID_EVTCHNS, 4160);
  expandArray(machine, one, one.ram + 20);
  for (let page = 0; page < 3; page++) expandArray(machine, one, one.ram + 21 + page);
  expect(expandArray(machine, one, one.ram + 24)).toBe(0);
  expect(portOp(machine, one, EVTCHNOP_reset, DOMID_SELF)).toBe(0);
  expect(portStatus(machine, one, 4100)).toMatchObject({ ret: 0, status: EVTCHNSTAT_closed });
  expect(portOp(machine, one, EVTCHNOP_send, 4100)).toBe(-EINVAL);
  expect(allocUnbound(machine, one, other.domid)).toBe(1);
  expect(audit(xen)).toEqual([]);
});

/* A 32-bit guest was allowed as many 2-level ports as a 64-bit one, and events set bits beyond its bitmaps. The limit
 * follows from the ABI at the time of use: the bitmaps' 4096 bits, whatever the domain's own limit says. */
test("XSA-342: ports end with the bitmaps in the 2-level ABI and go on in the FIFO ABI", () => {
  const { machine, one, other } = connected(0, 4200);
  const { xen } = machine;
  for (let port = 1; port <= 4095; port++) allocUnbound(machine, one, other.domid);
  expect(allocUnbound(machine, one, other.domid)).toBe(-ENOSPC);
  initControl(machine, one, one.ram + CONTROL);
  expect(allocUnbound(machine, one, other.domid)).toBe(4096);
  expect(audit(xen)).toEqual([]);
});

/* Senders used the operations of an ABI without a lock while a reset replaced them and freed what they worked on. The
 * sender's event goes where the port is at that moment, or nowhere. */
test("XSA-343: an event sent while a reset is under way finds the port as it is", () => {
  const { machine, dom0, one, other, ports, senders } = inFifo(100);
  startReset(machine, dom0, one);
  expect(dom0.channel.idle).toBe(false);
  const [closed = 0, open = 0] = [senders[0], senders[99]];
  expect(portOp(machine, other, EVTCHNOP_send, closed)).toBe(0);
  expect(wordText(one, ports[0] ?? 0)).toBe("");
  expect(portOp(machine, other, EVTCHNOP_send, open)).toBe(0);
  while (step(machine.xen));
  expect(dom0.channel.result()).toBe(0);
  expect(portOp(machine, other, EVTCHNOP_send, open)).toBe(0);
  expect(eventBits(machine, one, ports[99] ?? 0).pending).toBe(false);
  expect(audit(machine.xen)).toEqual([]);
});

/* Closing a hundred thousand ports in one go held a processor for seconds. A reset lets go every 64 ports, others are
 * served meanwhile, and a second reset is told to wait. */
test("XSA-344: a reset of many ports lets others in, and no second reset", () => {
  const { machine, dom0, one, other } = connected(0, 1023);
  for (let port = 1; port <= 1000; port++) allocUnbound(machine, one, other.domid);
  startReset(machine, dom0, one);
  let served = 0;
  while (!dom0.channel.idle && served < 10) {
    expect(portOp(machine, one, EVTCHNOP_reset, DOMID_SELF)).toBe(-EBUSY);
    served++;
  }
  expect(served).toBeGreaterThan(3);
  while (step(machine.xen));
  expect(dom0.channel.result()).toBe(0);
});

/* bind_virq of a global VIRQ made its domain the handler, and undid that on a failure even when it had not been done: a
 * plain guest without a free port took the interrupt from its owner. */
test("XSA-496: a bind that fails for want of a port leaves the owner of the VIRQ alone", () => {
  const { machine, dom0, one, other } = connected(0);
  const owner = bindVirq(machine, dom0, VIRQ_DOM_EXC);
  while (allocUnbound(machine, one, other.domid) > 0);
  expect(bindVirq(machine, one, VIRQ_DOM_EXC)).toBe(-ENOSPC);
  expect(bindVirq(machine, one, VIRQ_CONSOLE)).toBe(-ENOSPC);
  clearPending(machine, dom0, owner);
  sendGlobalVirq(machine.xen, VIRQ_DOM_EXC);
  expect(eventBits(machine, dom0, owner).pending).toBe(true);
});

/* expand_array asked whether the domain was in the FIFO ABI before it took the lock under which a reset leaves it. The
 * array was freed in between, and the page was added to freed memory. */
test("XSA-505: a page added while a reset is under way is given back with the others", () => {
  const { machine, dom0, one } = inFifo(100);
  const { xen } = machine;
  startReset(machine, dom0, one);
  expect(expandArray(machine, one, one.ram + ARRAY + 3)).toBe(0);
  expect(audit(xen)).toEqual([]);
  while (step(xen));
  expect(field(xen, one.domid, DOM.FIFO)).toBe(0);
  expect(expandArray(machine, one, one.ram + ARRAY)).toBe(-EOPNOTSUPP);
  expect(audit(xen)).toEqual([]);
});
