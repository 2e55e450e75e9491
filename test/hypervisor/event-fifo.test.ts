/** Event channels of the FIFO ABI: the switch, queues and their links, priorities, masks, and the way back. */
import { describe, expect, test } from "vitest";
import { audit } from "../../hypervisor/audit.ts";
import { frameOwner } from "../../hypervisor/frame-table.ts";
import { entryFrame, p2mLookup } from "../../hypervisor/p2m.ts";
import { XEN_DOMCTL_destroydomain } from "../../shared/abi/domctl.ts";
import {
  EVTCHN_FIFO_MASKED,
  EVTCHN_FIFO_PENDING,
  EVTCHNOP_close,
  EVTCHNOP_reset,
  EVTCHNOP_send,
  EVTCHNOP_set_priority,
  EVTCHNOP_unmask,
} from "../../shared/abi/event-channel.ts";
import { GNTMAP_host_map, GTF_permit_access } from "../../shared/abi/grant.ts";
import { XENMEM_decrease_reservation } from "../../shared/abi/memory.ts";
import { DOMID_SELF, HYPERVISOR_memory_op } from "../../shared/abi/xen.ts";
import { DOM, MACHINE } from "../../shared/layout.ts";
import { EACCES, EINVAL, ENOENT, ENOSPC, ENOSYS, EOPNOTSUPP } from "../../shared/status.ts";
import { DomId } from "../../shared/units.ts";
import { domctl, field } from "./domains.ts";
import {
  allocUnbound,
  bindIpi,
  bindVcpu,
  clearFlags,
  eventBits,
  portOp,
  portStatus,
} from "./event-calls.ts";
import {
  ARRAY,
  CONTROL,
  CONTROL_1,
  connected,
  consume,
  DEFAULT_QUEUE,
  expandArray,
  head,
  inFifo,
  initControl,
  ready,
  setWord,
  wordText,
} from "./fifo-calls.ts";
import { argumentAddress, mapOne, setEntry } from "./grants.ts";
import { call, writeGuest } from "./harness.ts";

const HOLE = 0x60000;

describe("entering", () => {
  test("hypervisor case 115: a control block lies inside a page on 8 bytes, once a vCPU", () => {
    const { machine, one } = connected(1);
    const gfn = one.ram + CONTROL;
    expect(expandArray(machine, one, one.ram + ARRAY)).toBe(-EOPNOTSUPP);
    expect(initControl(machine, one, gfn, { offset: 4032 })).toBe(-EINVAL);
    expect(initControl(machine, one, gfn, { offset: 4 })).toBe(-EINVAL);
    expect(initControl(machine, one, gfn, { vcpu: 2 })).toBe(-ENOENT);
    expect(initControl(machine, one, HOLE)).toBe(-EINVAL);
    // None of these has switched the domain over.
    expect(expandArray(machine, one, one.ram + ARRAY)).toBe(-EOPNOTSUPP);
    expect(initControl(machine, one, gfn, { offset: 4024, vcpu: 1 })).toBe(0);
    expect(initControl(machine, one, gfn, { offset: 8 })).toBe(0);
    expect(initControl(machine, one, gfn, { offset: 80 })).toBe(-EINVAL);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("a page that another domain has granted holds neither control block nor event words", () => {
    const { machine, one, other } = connected(1);
    setEntry(machine, other, 8, GTF_permit_access, one.domid, other.ram);
    mapOne(machine, one, { gfn: HOLE, flags: GNTMAP_host_map, ref: 8, dom: other.domid });
    expect(initControl(machine, one, HOLE)).toBe(-EINVAL);
    expect(initControl(machine, one, one.ram + CONTROL)).toBe(0);
    expect(expandArray(machine, one, HOLE)).toBe(-EINVAL);
  });

  test("hypervisor case 117: an event raised before its page is there is delivered with the page", () => {
    const { machine, one, other, ports, senders } = connected(2);
    const [early = 0, late = 0] = ports;
    // One before the switch, in the 2-level bits; one after it.
    portOp(machine, other, EVTCHNOP_send, senders[0] ?? 0);
    clearFlags(machine, one);
    expect(initControl(machine, one, one.ram + CONTROL)).toBe(0);
    portOp(machine, other, EVTCHNOP_send, senders[1] ?? 0);
    expect(eventBits(machine, one, late)).toMatchObject({ pending: false, upcall: 0 });
    expect(expandArray(machine, one, one.ram + ARRAY)).toBe(0);
    expect(eventBits(machine, one, late).upcall).toBe(1);
    expect(consume(one, DEFAULT_QUEUE)).toEqual([early, late]);
  });

  test("the event array has 128 pages at most", () => {
    const { machine, one } = connected(0);
    initControl(machine, one, one.ram + CONTROL);
    for (let page = 0; page < 128; page++) {
      expect(expandArray(machine, one, one.ram + 16 + page)).toBe(0);
    }
    expect(expandArray(machine, one, one.ram + 150)).toBe(-ENOSPC);
    expect(audit(machine.xen)).toEqual([]);
  });
});

describe("queues", () => {
  test("three events are linked in the order of their sending, and only the first writes the head", () => {
    const { machine, one, other, ports, senders } = inFifo(3);
    const [a = 0, b = 0, c = 0] = ports;
    for (const sender of [senders[1], senders[0], senders[2]]) {
      portOp(machine, other, EVTCHNOP_send, sender ?? 0);
    }
    expect([ready(one), head(one, DEFAULT_QUEUE)]).toEqual([1 << DEFAULT_QUEUE, b]);
    expect([b, a, c].map((port) => wordText(one, port))).toEqual([`PL>${a}`, `PL>${c}`, "PL"]);
    expect(audit(machine.xen)).toEqual([]);
    expect(consume(one, DEFAULT_QUEUE)).toEqual([b, a, c]);
    expect([a, b, c].map((port) => wordText(one, port))).toEqual(["", "", ""]);
  });

  test("an event that is pending already is not linked again", () => {
    const { machine, one, other, ports, senders } = inFifo(1);
    const [port = 0] = ports;
    portOp(machine, other, EVTCHNOP_send, senders[0] ?? 0);
    clearFlags(machine, one);
    portOp(machine, other, EVTCHNOP_send, senders[0] ?? 0);
    expect(wordText(one, port)).toBe("PL");
    expect(eventBits(machine, one, port).upcall).toBe(0);
  });

  test("an event behind a tail that its guest has not reached raises no upcall", () => {
    const { machine, one, other, ports, senders } = inFifo(2);
    portOp(machine, other, EVTCHNOP_send, senders[0] ?? 0);
    clearFlags(machine, one);
    portOp(machine, other, EVTCHNOP_send, senders[1] ?? 0);
    expect(eventBits(machine, one, ports[1] ?? 0).upcall).toBe(0);
  });

  test("hypervisor case 114: a priority is set on a bound port, 15 is the lowest", () => {
    const { machine, one, ports } = inFifo(1);
    const set = (port: number, priority: number): number =>
      portOp(machine, one, EVTCHNOP_set_priority, port, priority);
    expect(set(ports[0] ?? 0, 15)).toBe(0);
    expect(set(ports[0] ?? 0, 16)).toBe(-EINVAL);
    expect(set(40, 16)).toBe(-EACCES);
    expect(set(0, 0)).toBe(-EACCES);
    expect(set(100, 0)).toBe(-EINVAL);
  });

  test("a new priority counts from the next time that the port is linked", () => {
    const { machine, one, other, ports, senders } = inFifo(2);
    const [a = 0, b = 0] = ports;
    for (const sender of senders) portOp(machine, other, EVTCHNOP_send, sender);
    expect(portOp(machine, one, EVTCHNOP_set_priority, b, 2)).toBe(0);
    portOp(machine, other, EVTCHNOP_send, senders[1] ?? 0);
    expect(head(one, 2)).toBe(0);
    expect(consume(one, DEFAULT_QUEUE)).toEqual([a, b]);
    portOp(machine, other, EVTCHNOP_send, senders[1] ?? 0);
    expect([ready(one), head(one, 2)]).toEqual([1 << 2, b]);
    // b was the tail of its former queue: nothing may be linked behind it there.
    portOp(machine, other, EVTCHNOP_send, senders[0] ?? 0);
    expect([wordText(one, b), head(one, DEFAULT_QUEUE)]).toEqual(["PL", a]);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("an event goes to the queue of the vCPU that the port notifies", () => {
    const { machine, one, other, ports, senders } = inFifo(1);
    initControl(machine, one, one.ram + CONTROL_1, { vcpu: 1 });
    expect(bindVcpu(machine, one, ports[0] ?? 0, 1)).toBe(0);
    portOp(machine, other, EVTCHNOP_send, senders[0] ?? 0);
    expect(head(one, DEFAULT_QUEUE, CONTROL_1)).toBe(ports[0]);
    expect(ready(one)).toBe(0);
  });
});

describe("masks", () => {
  test("a masked event is pending in no queue until the unmask call", () => {
    const { machine, one, other, ports, senders } = inFifo(1);
    const [port = 0] = ports;
    setWord(one, port, EVTCHN_FIFO_MASKED);
    portOp(machine, other, EVTCHNOP_send, senders[0] ?? 0);
    expect([wordText(one, port), ready(one)]).toEqual(["PM", 0]);
    expect(portOp(machine, one, EVTCHNOP_unmask, port)).toBe(0);
    expect([wordText(one, port), ready(one)]).toEqual(["PL", 1 << DEFAULT_QUEUE]);
  });

  test("the unmask call links a pending port that its guest has taken out of the queue", () => {
    const { machine, one, ports } = inFifo(1);
    const [port = 0] = ports;
    setWord(one, port, EVTCHN_FIFO_PENDING);
    expect(portOp(machine, one, EVTCHNOP_unmask, port)).toBe(0);
    expect(wordText(one, port)).toBe("PL");
  });

  test("a guest that rewrites its tail at every step loses its event, and the call comes to an end", () => {
    const { machine, one, other, ports, senders } = inFifo(2);
    const [a = 0, b = 0] = ports;
    portOp(machine, other, EVTCHNOP_send, senders[0] ?? 0);
    const { memory } = machine.xen;
    const frame = entryFrame(p2mLookup(machine.xen, DomId(one.domid), one.ram + ARRAY));
    let touched = 0;
    memory.onGuestWord = () => {
      touched++;
      memory.store(frame, 4 * a, memory.load(frame, 4 * a) ^ EVTCHN_FIFO_PENDING);
    };
    expect(portOp(machine, other, EVTCHNOP_send, senders[1] ?? 0)).toBe(0);
    memory.onGuestWord = undefined;
    expect(touched).toBeLessThan(40);
    expect(wordText(one, b)).toBe("PL");
    expect(wordText(one, a)).not.toContain(">");
    expect(audit(machine.xen)).toEqual([]);
  });
});

describe("leaving", () => {
  test("a closed port keeps its number while its guest has it in a queue", () => {
    const { machine, one, other, ports, senders } = inFifo(1);
    const [port = 0] = ports;
    portOp(machine, other, EVTCHNOP_send, senders[0] ?? 0);
    portOp(machine, one, EVTCHNOP_close, port);
    expect(wordText(one, port)).toBe("L");
    expect(allocUnbound(machine, one, other.domid)).toBe(port + 1);
    expect(consume(one, DEFAULT_QUEUE)).toEqual([]);
    expect(allocUnbound(machine, one, other.domid)).toBe(port);
  });

  test("a reset gives the pages back and leaves the domain in the 2-level ABI", () => {
    const { machine, one, other, ports, senders } = inFifo(1);
    portOp(machine, other, EVTCHNOP_send, senders[0] ?? 0);
    expect(portOp(machine, one, EVTCHNOP_reset, DOMID_SELF)).toBe(0);
    expect(expandArray(machine, one, one.ram + ARRAY)).toBe(-EOPNOTSUPP);
    expect(portStatus(machine, one, ports[0] ?? 0).status).toBe(0);
    const port = allocUnbound(machine, one, other.domid);
    expect(portOp(machine, one, EVTCHNOP_set_priority, port)).toBe(-ENOSYS);
    expect(initControl(machine, one, one.ram + CONTROL)).toBe(0);
    expect(audit(machine.xen)).toEqual([]);
  });

  test("a page of event words that is ballooned out stays the domain's until the ABI is left", () => {
    const { machine, one, other, ports, senders } = inFifo(1);
    const { xen } = machine;
    const frame = entryFrame(p2mLookup(xen, DomId(one.domid), one.ram + ARRAY));
    const bytes = new Uint8Array(40);
    const view = new DataView(bytes.buffer);
    const at = argumentAddress(one);
    view.setBigUint64(0, BigInt(at + 32), true);
    view.setBigUint64(8, 1n, true);
    view.setUint16(24, DOMID_SELF, true);
    view.setBigUint64(32, BigInt(one.ram + ARRAY), true);
    writeGuest(one, at, bytes);
    expect(call(machine, one, HYPERVISOR_memory_op, XENMEM_decrease_reservation, at)).toBe(1);
    expect(portOp(machine, other, EVTCHNOP_send, senders[0] ?? 0)).toBe(0);
    expect(xen.memory.load(frame, 4 * (ports[0] ?? 0)) & EVTCHN_FIFO_PENDING).not.toBe(0);
    expect(frameOwner(xen, frame)).toBe(one.domid);
    expect(audit(xen)).toEqual([]);
    portOp(machine, one, EVTCHNOP_reset, DOMID_SELF);
    expect(frameOwner(xen, frame)).toBe(-1);
    expect(audit(xen)).toEqual([]);
  });

  test("a domain that dies in the FIFO ABI leaves no page behind", () => {
    const { machine, one } = inFifo(2);
    const { xen } = machine;
    bindIpi(machine, one, 1);
    const before = xen.words[MACHINE.FREE_FRAMES] ?? 0;
    expect(domctl(machine, XEN_DOMCTL_destroydomain, one.domid)).toBe(0);
    expect(field(xen, one.domid, DOM.STATE)).toBe(0);
    expect((xen.words[MACHINE.FREE_FRAMES] ?? 0) - before).toBe(256);
    expect(audit(xen)).toEqual([]);
  });
});
