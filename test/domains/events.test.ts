/** Event channels of a guest kernel: both ABIs, binding, late ends of interrupts, resume. */
import { describe, expect, it } from "vitest";
import { findDomain } from "../../domains/drivers/transfer-front.ts";
import { lateEoiThread, XEN_EOI_FLAG_SPURIOUS, xenIrqLateeoi } from "../../domains/event-eoi.ts";
import { enterFifo } from "../../domains/event-fifo-setup.ts";
import { JIFFY_MS, takePort } from "../../domains/event-state.ts";
import { handleEvents } from "../../domains/event-upcall.ts";
import {
  allocPort,
  bindPort,
  bindVirqPort,
  closePort,
  evtchnGet,
  evtchnMakeRefcounted,
  evtchnPut,
  notifyPort,
  requestIrq,
  setPriority,
} from "../../domains/events.ts";
import {
  allocUnbound,
  bindVirq,
  eventChannelOp,
  evtchnStatus,
  freshArguments,
} from "../../domains/hypercalls.ts";
import { type Kernel, nowMs, report, spawnDaemon, wait, waitFor } from "../../domains/kernel.ts";
import type { Cpu } from "../../domains/memory.ts";
import { xenSuspend } from "../../domains/suspend.ts";
import { readStoreNumber, writeStoreNode } from "../../domains/xenbus.ts";
import {
  EVTCHNOP_reset,
  EVTCHNOP_unmask,
  EVTCHNSTAT_closed,
  RESET_SIZE,
  VIRQ_DEBUG,
} from "../../shared/abi/event-channel.ts";
import { DOMID_SELF, HYPERVISOR_event_channel_op } from "../../shared/abi/xen.ts";
import type { EventAbi, KernelOptions } from "../../shared/machine.ts";
import { EEXIST, EINVAL, ENOENT, ENOMEM } from "../../shared/status.ts";
import { type Program, RECORD_OP, recordArg, TRAP_HYPERCALL } from "../../shared/trap.ts";
import { testDom0, testDomain } from "../hypervisor/harness.ts";
import { guestModel, kernelOptions, runGuests } from "./guest.ts";
import { runWhole, transferModel } from "./transfer-machine.ts";

/** One kernel alone, with the ABI it is told to use. */
function alone(program: (kernel: Kernel) => Program, options: Partial<KernelOptions> = {}): void {
  const domain = testDomain("guest", { kernel: kernelOptions(options) });
  let ended = false;
  const run = runGuests(guestModel([testDom0({ runs: false }), domain]), {
    *guest(kernel) {
      spawnDaemon(kernel, "late ends", lateEoiThread(kernel));
      yield* program(kernel);
      ended = true;
    },
  });
  expect(run.findings).toEqual([]);
  expect(ended).toBe(true);
}

/** One kernel with thousands of ports, audited now and then. */
function withManyPorts(eventAbi: EventAbi, guest: (kernel: Kernel) => Program): void {
  const model = transferModel({
    domains: {
      dom0: { kind: "dom0", memory: "4MiB" },
      guest: { kind: "domU", memory: "2MiB", maxEvtchnPort: 4095, kernel: { eventAbi } },
    },
  });
  const { outcome } = runWhole(model, { dom0: nothing, guest }, { auditEvery: 500 });
  expect(outcome.findings).toEqual([]);
  expect(outcome.verdict).toBe("finished");
}

function* nothing(): Program {
  // Nothing to do.
}

/** Two ports of one domain that send to each other: what is sent on `from` arrives at `to`. */
function* loopback(kernel: Kernel, options = {}): Program<{ from: number; to: number }> {
  const to = yield* allocPort(kernel, DOMID_SELF, options);
  const from = yield* bindPort(kernel, DOMID_SELF, to);
  return { from, to };
}

/** Closes every port of the domain and leaves the FIFO ABI. */
function* resetPorts(kernel: Kernel): Program<number> {
  freshArguments(kernel, RESET_SIZE).setUint16(0, DOMID_SELF, true);
  return yield* eventChannelOp(kernel, EVTCHNOP_reset, RESET_SIZE);
}

const ABIS: readonly EventAbi[] = ["fifo", "2-level"];

describe.each(ABIS)("events of a kernel in the %s ABI", (eventAbi) => {
  const ROUNDS = 12;
  function* serve(kernel: Kernel): Program {
    const client = yield* findDomain(kernel, "guest");
    const port = yield* allocPort(kernel, client, { late: true, spuriousThreshold: 1 });
    yield* writeStoreNode(kernel, "ping", port);
    for (let i = 0; i < ROUNDS; i++) {
      yield* wait(kernel, port);
      yield* notifyPort(kernel, port);
      yield* xenIrqLateeoi(kernel, port);
    }
  }
  function* ask(kernel: Kernel): Program {
    let remote = -1;
    while (remote < 0) remote = yield* readStoreNumber(kernel, "/local/domain/0/ping");
    const port = yield* bindPort(kernel, 0, remote, { late: true });
    yield* wait(kernel, port);
    yield* xenIrqLateeoi(kernel, port);
    for (let i = 0; i < ROUNDS; i++) {
      yield* notifyPort(kernel, port);
      yield* wait(kernel, port);
      yield* xenIrqLateeoi(kernel, port);
    }
    yield* report("rounds", ROUNDS);
  }
  const kernel = { eventAbi } as const;
  const model = transferModel({
    domains: {
      dom0: { kind: "dom0", memory: "4MiB", kernel },
      guest: { kind: "domU", memory: "2MiB", kernel },
    },
  });

  it.each([1, 2, 3, 4, 5, 6])("are not lost under random schedule %i", (seed) => {
    const options = { seed, points: true, auditEvery: 500 };
    const { outcome, reports } = runWhole(model, { dom0: serve, guest: ask }, options);
    expect(outcome.findings).toEqual([]);
    expect(outcome.verdict).toBe("finished");
    expect(reports.get("guest.rounds")).toBe(ROUNDS);
  });

  it("would be lost if the end of an interrupt did not ask Xen to raise what came meanwhile", () => {
    /** The planted bug: EVTCHNOP_unmask never reaches the hypervisor. */
    function* without(program: Program, _cpu: Cpu): Program {
      for (let input = 0; ; ) {
        const step = program.next(input);
        if (step.done === true) return;
        const trap = step.value;
        const isUnmask =
          trap.kind === TRAP_HYPERCALL &&
          trap.record[RECORD_OP] === HYPERVISOR_event_channel_op &&
          recordArg(trap.record, 0) === EVTCHNOP_unmask;
        input = isUnmask ? 0 : yield trap;
      }
    }
    const options = { points: true, auditEvery: 500, wrap: without };
    const programs = { dom0: serve, guest: ask };
    const verdicts = [1, 2, 3].map(
      (seed) => runWhole(model, programs, { ...options, seed }).outcome.verdict,
    );
    expect(verdicts).toContain("stuck");
  });

  it("guest case 83: one that comes before the end of a late interrupt is delivered by that end", () => {
    alone(
      function* (kernel) {
        expect(kernel.events.abi).toBe(eventAbi);
        const { from, to } = yield* loopback(kernel, { late: true });
        yield* notifyPort(kernel, from);
        yield* wait(kernel, to);
        yield* notifyPort(kernel, from);
        expect(yield* waitFor(kernel, () => takePort(kernel.events, to), nowMs(kernel) + 50)).toBe(
          false,
        );
        yield* xenIrqLateeoi(kernel, to);
        yield* wait(kernel, to);
      },
      { eventAbi },
    );
  });

  it("a plain one may come again as soon as it is taken", () => {
    alone(
      function* (kernel) {
        const { from, to } = yield* loopback(kernel);
        for (let i = 0; i < 3; i++) {
          yield* notifyPort(kernel, from);
          yield* wait(kernel, to);
        }
      },
      { eventAbi },
    );
  });

  it("guest case 84: spurious ends cost 0, 1, 2, 4 and 8 jiffies, and one real event takes that back", () => {
    alone(
      function* (kernel) {
        const { from, to } = yield* loopback(kernel, { late: true, spuriousThreshold: 1 });
        const delays: number[] = [];
        function* once(flags: number): Program {
          yield* notifyPort(kernel, from);
          yield* wait(kernel, to);
          const began = nowMs(kernel);
          yield* xenIrqLateeoi(kernel, to, flags);
          yield* notifyPort(kernel, from);
          yield* wait(kernel, to);
          delays.push((nowMs(kernel) - began) / JIFFY_MS);
          // Ends this event too, without a verdict on its sender.
          const info = kernel.events.irqs[to];
          const count = info?.spuriousCount ?? 0;
          yield* xenIrqLateeoi(kernel, to);
          if (info !== undefined) info.spuriousCount = count;
        }
        for (let i = 0; i < 5; i++) yield* once(XEN_EOI_FLAG_SPURIOUS);
        expect(delays).toEqual([0, 1, 2, 4, 8]);
        yield* once(0);
        yield* once(XEN_EOI_FLAG_SPURIOUS);
        expect(delays.slice(5)).toEqual([0, 0]);
      },
      { eventAbi },
    );
  });

  it("after a resume virtual interrupts have new ports and all others are gone", () => {
    alone(
      function* (kernel) {
        const virq = yield* bindVirqPort(kernel, VIRQ_DEBUG);
        const info = kernel.events.irqs[virq];
        const { to } = yield* loopback(kernel);
        const free = kernel.memory.pages.freeCount;
        // What a suspend does to a domain's ports, and a soft reset too.
        expect((yield* xenSuspend(kernel, resetPorts(kernel))).cancelled).toBe(0);
        expect(kernel.events.abi).toBe(eventAbi);
        expect(kernel.memory.pages.freeCount).toBe(free);
        expect(info?.port).toBeGreaterThan(0);
        expect(kernel.events.irqs[info?.port ?? 0]).toBe(info);
        if (info?.port !== to) expect(kernel.events.irqs[to]).toBe(undefined);
        const again = yield* loopback(kernel);
        yield* notifyPort(kernel, again.from);
        yield* wait(kernel, again.to);
      },
      { eventAbi },
    );
  });
});

describe("the FIFO ABI", () => {
  it("adds pages of event words as ports need them, and events on the last page arrive", () => {
    withManyPorts("fifo", function* (kernel) {
      const { from, to } = yield* loopback(kernel);
      expect(kernel.events.arrayPages.length).toBe(1);
      for (let port = to; port < 1100; ) port = yield* allocUnbound(kernel, DOMID_SELF);
      const high = yield* loopback(kernel);
      expect(high.to).toBeGreaterThanOrEqual(1024);
      expect(kernel.events.arrayPages.length).toBe(2);
      yield* notifyPort(kernel, high.from);
      yield* notifyPort(kernel, from);
      yield* wait(kernel, high.to);
      yield* wait(kernel, to);
    });
  });

  it("hands out the most urgent queue first", () => {
    alone(function* (kernel) {
      const order: number[] = [];
      const ports: number[] = [];
      for (const priority of [15, 7, 0]) {
        const { from, to } = yield* loopback(kernel, { late: true });
        ports.push(to);
        expect(yield* setPriority(kernel, to, priority)).toBe(0);
        yield* notifyPort(kernel, from);
      }
      const seen = new Set<number>();
      const clock = (): number => {
        for (const port of ports) {
          if (kernel.events.irqs[port]?.arrived !== true || seen.has(port)) continue;
          seen.add(port);
          order.push(port);
        }
        return 0;
      };
      yield* handleEvents(kernel.cpu, kernel.events, clock);
      clock();
      expect(order).toEqual([...ports].reverse());
    });
  });

  it("is entered once: a second control block is refused, its page given back, and the kernel goes on", () => {
    alone(function* (kernel) {
      const { from, to } = yield* loopback(kernel);
      const free = kernel.memory.pages.freeCount;
      const block = kernel.events.controlBlock;
      yield* enterFifo(kernel);
      expect(kernel.memory.pages.freeCount).toBe(free);
      expect(kernel.events.controlBlock).toBe(block);
      yield* notifyPort(kernel, from);
      yield* wait(kernel, to);
    });
  });
});

describe("binding", () => {
  it("guest case 85: a driver's own port is not lent, an unbound one does not exist, one beyond the last is invalid", () => {
    alone(function* (kernel) {
      const { to } = yield* loopback(kernel);
      expect(evtchnGet(kernel, to)).toBe(-EINVAL);
      expect(evtchnGet(kernel, 999)).toBe(-ENOENT);
      expect(evtchnGet(kernel, 131072)).toBe(-EINVAL);
    });
  });

  it("a counted port is closed by its last user", () => {
    alone(function* (kernel) {
      const { to } = yield* loopback(kernel);
      expect(evtchnMakeRefcounted(kernel, 999)).toBe(-ENOENT);
      expect(evtchnMakeRefcounted(kernel, to)).toBe(0);
      expect(evtchnGet(kernel, to)).toBe(0);
      yield* closePort(kernel, to);
      expect(kernel.events.irqs[to]?.port).toBe(to);
      yield* evtchnPut(kernel, to);
      expect(kernel.events.irqs[to]).toBe(undefined);
      const status = yield* evtchnStatus(kernel, to);
      expect(status).toMatchObject({ status: EVTCHNSTAT_closed });
    });
  });

  it("a virtual interrupt that is bound already is found by looking at every port", () => {
    alone(function* (kernel) {
      const port = yield* bindVirq(kernel, VIRQ_DEBUG);
      expect(yield* bindVirq(kernel, VIRQ_DEBUG)).toBe(-EEXIST);
      expect(yield* bindVirqPort(kernel, VIRQ_DEBUG)).toBe(port);
      expect(yield* bindVirqPort(kernel, VIRQ_DEBUG)).toBe(port);
    });
  });

  it("a port beyond the ABI is refused", () => {
    alone(
      function* (kernel) {
        expect(yield* requestIrq(kernel, 4096)).toBe(-ENOMEM);
        expect(yield* requestIrq(kernel, 0)).toBe(-ENOMEM);
      },
      { eventAbi: "2-level" },
    );
  });
});

describe("an upcall that runs for too long", () => {
  it("puts off the ends of the interrupts that follow by ten jiffies", () => {
    withManyPorts("2-level", function* (kernel) {
      const pairs = [];
      for (let i = 0; i < 300; i++) pairs.push(yield* loopback(kernel, { late: true }));
      for (const { from } of pairs) yield* notifyPort(kernel, from);
      let calls = 0;
      // Each look at the clock is a jiffy later. Both ports of a pair have an event: the 256th is the first to be checked.
      yield* handleEvents(kernel.cpu, kernel.events, () => JIFFY_MS * calls++);
      const eoiTimes = pairs.map(({ to }) => kernel.events.irqs[to]?.eoiTime ?? 0);
      expect(eoiTimes.slice(0, 126).every((time) => time === 0)).toBe(true);
      expect(eoiTimes.slice(130).every((time) => time > 250 + 10)).toBe(true);
      yield* lateThenNow(kernel, pairs[200]?.to ?? 0);
    });
  });

  /** Its end waits for the next upcall although it is no spurious one. */
  function* lateThenNow(kernel: Kernel, port: number): Program {
    const info = kernel.events.irqs[port];
    yield* xenIrqLateeoi(kernel, port);
    expect(info?.isActive).toBe(false);
    if (info === undefined) return;
    info.isActive = true;
    info.eoiTime = 1;
    info.irqEpoch = kernel.events.epoch;
    yield* xenIrqLateeoi(kernel, port);
    expect(kernel.events.lateEois).toEqual([info]);
  }
});
