/** Tasks, events, interrupts and faults of a guest kernel, on whole machines. */
import { describe, expect, it } from "vitest";
import { findDomain } from "../../domains/drivers/transfer-front.ts";
import { allocPort, bindPort, notifyPort } from "../../domains/events.ts";
import { hypercall, type Kernel, report, spawn, wait, waitUntil } from "../../domains/kernel.ts";
import {
  type Cpu,
  GuestFault,
  loadWord,
  readBytes,
  storeWord,
  writeBytes,
} from "../../domains/memory.ts";
import { allocPages, pageToPhys } from "../../domains/pages.ts";
import { readStoreNumber, writeStoreNode } from "../../domains/xenbus.ts";
import { run } from "../../explore/run.ts";
import { LINE, lineOf } from "../../shared/layout.ts";
import { load } from "../../shared/mem.ts";
import { ENOSYS } from "../../shared/status.ts";
import { type Program, TRAP_BLOCK } from "../../shared/trap.ts";
import { runWhole, transferModel, wholeMachine } from "./transfer-machine.ts";

function* nothing(): Program {
  // Nothing to do.
}

const alone = (guest: (kernel: Kernel) => Program, options = {}) =>
  runWhole(transferModel(), { dom0: nothing, guest }, options);

describe("tasks of a kernel", () => {
  it("change hands only where they wait, and the kernel ends with the last of them", () => {
    const order: string[] = [];
    let open = false;
    function* guest(kernel: Kernel): Program {
      function* first(): Program {
        order.push("first waits");
        yield* waitUntil(kernel, () => open);
        order.push("first goes on");
      }
      function* second(): Program {
        yield* hypercall(kernel, 63);
        order.push("second opens");
        open = true;
        yield* hypercall(kernel, 63);
        order.push("second ends");
      }
      spawn(kernel, "first", first());
      spawn(kernel, "second", second());
    }
    const { outcome } = alone(guest);
    expect(outcome.verdict).toBe("finished");
    expect(order).toEqual(["first waits", "second opens", "second ends", "first goes on"]);
  });

  it("are told of an unknown hypercall by -ENOSYS", () => {
    const { reports } = alone(function* (kernel) {
      yield* report("result", yield* hypercall(kernel, 63, 1, 2));
    });
    expect(reports.get("guest.result")).toBe(-ENOSYS);
  });

  it("that wait for ever keep the kernel alive", () => {
    const machine = wholeMachine(transferModel(), {
      dom0: nothing,
      guest: (kernel) => waitUntil(kernel, () => false),
    });
    const outcome = run(machine, { command: "test" });
    expect(outcome.verdict).toBe("stuck");
    expect(outcome.findings).toEqual(["guest: waits for ever (blocked)"]);
  });
});

describe("events between two kernels", () => {
  const ROUNDS = 20;
  /** Each side sends when the other's event has come: a lost wake-up stops both. */
  function* serve(kernel: Kernel): Program {
    const client = yield* findDomain(kernel, "guest");
    const port = yield* allocPort(kernel, client);
    yield* writeStoreNode(kernel, "ping", port);
    for (let i = 0; i < ROUNDS; i++) {
      yield* wait(kernel, port);
      yield* notifyPort(kernel, port);
    }
  }
  function* ask(kernel: Kernel): Program {
    let remote = -1;
    while (remote < 0) remote = yield* readStoreNumber(kernel, "/local/domain/0/ping");
    const port = yield* bindPort(kernel, 0, remote);
    // Binding leaves an event pending, so that none is lost that came before.
    yield* wait(kernel, port);
    for (let i = 0; i < ROUNDS; i++) {
      yield* notifyPort(kernel, port);
      yield* wait(kernel, port);
    }
    yield* report("rounds", ROUNDS);
  }

  it.each([1, 2, 3, 4, 5, 6, 7, 8])("lose no wake-up under random schedule %i", (seed) => {
    const { outcome, reports } = runWhole(
      transferModel(),
      { dom0: serve, guest: ask },
      { seed, points: true, auditEvery: 500 },
    );
    expect(outcome.findings).toEqual([]);
    expect(outcome.verdict).toBe("finished");
    expect(reports.get("guest.rounds")).toBe(ROUNDS);
  });

  it("would lose one if the event word were read after the pending events are scanned", () => {
    /** The planted bug: blocks on the event word as it is at the last moment. */
    function* late(program: Program, cpu: Cpu): Program {
      for (let input = 0; ; ) {
        const step = program.next(input);
        if (step.done === true) return;
        const trap = step.value;
        const seen = load(cpu.words, lineOf(cpu.layout, cpu.slot) + LINE.EVENT);
        input = yield trap.kind === TRAP_BLOCK ? { ...trap, seen } : trap;
      }
    }
    const verdicts = Array.from(
      { length: 12 },
      (_, seed) =>
        runWhole(
          transferModel(),
          { dom0: serve, guest: ask },
          { seed, points: true, auditEvery: 500, wrap: late },
        ).outcome.verdict,
    );
    expect(verdicts).toContain("stuck");
  });
});

describe("memory of a kernel", () => {
  it("is read and written across page boundaries", () => {
    const { reports } = alone(function* (kernel) {
      const page = allocPages(kernel.memory.pages, 3);
      const from = pageToPhys(page ?? (0 as never)) + 4000;
      const bytes = Uint8Array.from({ length: 5000 }, (_, i) => i & 0xff);
      yield* writeBytes(kernel.cpu, from, bytes, 0, bytes.length);
      const back = new Uint8Array(5000);
      yield* readBytes(kernel.cpu, from, back, 0, back.length);
      yield* report("same", String(bytes.every((byte, i) => byte === back[i])));
    });
    expect(reports.get("guest.same")).toBe("true");
  });

  it("faults where nothing is mapped: an oops that names the address and stops that domain alone", () => {
    const machine = wholeMachine(transferModel(), {
      dom0: nothing,
      guest: (kernel) => storeWord(kernel.cpu, 0x7000_0000, 1),
    });
    const outcome = run(machine, { command: "test" });
    expect(outcome.verdict).toBe("finished");
    expect(machine.deaths).toHaveLength(1);
    const error = machine.deaths[0]?.error;
    expect(error).toBeInstanceOf(GuestFault);
    expect(String(error)).toBe("GuestFault: translation fault at a store to 0x70000000");
  });

  it("leaves no access open after a fault that a raw program catches", () => {
    const { reports } = alone(function* (kernel) {
      let caught = 0;
      try {
        yield* loadWord(kernel.cpu, 0x7000_0000);
      } catch (error) {
        if (error instanceof GuestFault) caught++;
      }
      const ram = kernel.boot.ram[0]?.base ?? 0;
      yield* loadWord(kernel.cpu, ram);
      yield* report("caught", caught);
    });
    expect(reports.get("guest.caught")).toBe(1);
  });
});
