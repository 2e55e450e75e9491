/**
 * Stories of guest kernels: their event loop, their tasks and the code of their drivers, on the smallest kernel there is.
 * Nothing is booted in a run: the set-up has placed the shared info page and connected the ports.
 * Ours; the shapes are those of stress spec 11.3 and 11.4.
 */
import { endLatePort, lateEoiThread, latePort, takeLatePort } from "../../domains/event-eoi.ts";
import { requestIrq } from "../../domains/events.ts";
import { allocUnbound, bindInterdomain, portOp } from "../../domains/hypercalls.ts";
import {
  createKernel,
  type Kernel,
  runKernel,
  spawn,
  spawnDaemon,
  wait,
  waitUntil,
} from "../../domains/kernel.ts";
import { andWord } from "../../domains/memory.ts";
import { createKernelMemory } from "../../domains/memory-init.ts";
import { EVTCHNOP_send } from "../../shared/abi/event-channel.ts";
import {
  SHARED_INFO_EVTCHN_PENDING,
  VCPU_INFO_PENDING_SEL,
  VCPU_INFO_UPCALL_PENDING,
} from "../../shared/abi/xen.ts";
import { PAGE_SIZE } from "../../shared/limits.ts";
import type { Program } from "../../shared/trap.ts";
import { type Guest, openSharedInfo, wrong } from "../raw-guest.ts";
import type { Notes, Story, StoryTask } from "../story.ts";
import { A, B, C, INFO_GFN, smallModel } from "./machines.ts";

/** A kernel without memory to speak of, whose events come. */
export function smallKernel({ caller, cpu }: Guest): Kernel {
  const memory = createKernelMemory(cpu.boot, 0, caller.faults);
  const kernel = createKernel({ ...caller, cpu }, 0, memory);
  kernel.events.sharedInfo = INFO_GFN * PAGE_SIZE;
  return kernel;
}

/** Forgets the events that bindings are. */
export function* takePending({ cpu }: Guest): Program {
  const words = [VCPU_INFO_UPCALL_PENDING, VCPU_INFO_PENDING_SEL, SHARED_INFO_EVTCHN_PENDING];
  for (const word of words) yield* andWord(cpu, INFO_GFN * PAGE_SIZE + word, 0);
}

/** The first port of every domain. */
const PORT = 1;
/** A's second one, to C. */
const QUIET = 2;
/** Events that B sends, unless A has had enough before. */
const STORM = 6;

const offerTo = (name: string, domain: number): StoryTask => ({
  name,
  domain,
  program: function* (guest) {
    yield* allocUnbound(guest.caller, A);
  },
});

const connectBoth: StoryTask = {
  name: "A",
  domain: A,
  program: function* (guest) {
    yield* openSharedInfo(guest);
    yield* bindInterdomain(guest.caller, B, PORT);
    yield* bindInterdomain(guest.caller, C, PORT);
    yield* takePending(guest);
  },
};

/** B's driver: every event is for nothing, and its end says so. */
function* serveStorm(kernel: Kernel): Program {
  const late = latePort(PORT);
  for (;;) {
    yield* waitUntil(kernel, () => takeLatePort(kernel, late));
    yield* endLatePort(kernel, late);
  }
}

/** C's driver: one event is all it waits for. */
function* serveQuiet(kernel: Kernel, notes: Notes): Program {
  yield* wait(kernel, QUIET);
  notes.served = 1;
}

function* runWatched(guest: Guest, kernel: Kernel): Program {
  const running = runKernel(kernel);
  const { events } = kernel;
  for (let input = 0; ; ) {
    const step = running.next(input);
    const ports = events.irqs.filter((info) => info !== undefined).length;
    if (events.loopEvents > ports) {
      const text = `an upcall of A has taken ${events.loopEvents} events of ${ports} ports`;
      wrong(guest, "L-7", text);
    }
    if (step.done === true) return;
    input = yield step.value;
  }
}

/** M48: an upcall takes one event a port, so that the handlers' turn comes. */
export const stormStory: Story = {
  name: "storm",
  about: "B sends events without end to A's kernel while C sends one",
  model: () => smallModel({ domains: [{}, {}, {}, {}] }),
  setUp: [offerTo("B", B), offerTo("C", C), connectBoth],
  tasks: [
    {
      name: "A",
      domain: A,
      program: function* (guest, notes) {
        const kernel = smallKernel(guest);
        yield* requestIrq(kernel, PORT, { late: true });
        yield* requestIrq(kernel, QUIET);
        spawnDaemon(kernel, "late ends of interrupts", lateEoiThread(kernel));
        spawnDaemon(kernel, "B", serveStorm(kernel));
        spawn(kernel, "C", serveQuiet(kernel, notes));
        yield* runWatched(guest, kernel);
      },
    },
    {
      name: "B",
      domain: B,
      program: function* (guest, notes) {
        for (let sent = 0; sent < STORM && notes.served !== 1; sent++) {
          yield* portOp(guest.caller, EVTCHNOP_send, PORT);
        }
        notes.stormed = notes.served === 1 ? 0 : 1;
      },
    },
    {
      name: "C",
      domain: C,
      program: function* (guest) {
        yield* portOp(guest.caller, EVTCHNOP_send, PORT);
      },
    },
  ],
  sometimes: {
    "B had sent everything before A heard C": ({ stormed }) => stormed === 1,
    "A heard C in the storm": ({ stormed }) => stormed === 0,
  },
};
