/**
 * The end of a late interrupt, at once or after a penalty, and what is left of event channels after a resume.
 *
 *   event -> port masked, handler runs -> xenIrqLateeoi -> let through
 *                                      `-> spurious again and again: 1, 2, 4 ... jiffies later, at most a second
 *
 * Rules: an event that comes meanwhile stays pending and is delivered by the end of the interrupt; one that was no
 * spurious one takes the penalty back. Ends that are put off wait in order of their time for a task that serves them.
 * Behaviour: Linux drivers/xen/events/events_base.c, xen_irq_lateeoi_locked(), xen_irq_resume().
 */
import { item } from "../shared/assert.ts";
import type { Program } from "../shared/trap.ts";
import { Gaddr } from "../shared/units.ts";
import { KernelBug } from "./bug.ts";
import { enterFifo, setupFifoPort } from "./event-fifo-setup.ts";
import {
  EVT_MASK_REASON_EOI_PENDING,
  EVT_MASK_REASON_EXPLICIT,
  HZ,
  type IrqInfo,
  JIFFY_MS,
  takePort,
} from "./event-state.ts";
import { forget, letThrough } from "./events.ts";
import { maskAll2l } from "./events-2l.ts";
import { bindVirq } from "./hypercalls.ts";
import { type Kernel, nowMs, waitFor, waitUntil } from "./kernel.ts";
import { physToPage, putPage } from "./pages.ts";

/** The handler was woken for nothing. */
export const XEN_EOI_FLAG_SPURIOUS = 1;

const jiffies = (kernel: Kernel): number => Math.floor(nowMs(kernel) / JIFFY_MS);

/** Jiffies that this end of an interrupt costs: an event for nothing counts against its sender. */
function penalty(info: IrqInfo, flags: number): number {
  if ((flags & XEN_EOI_FLAG_SPURIOUS) === 0) {
    info.spuriousCount = 0;
    return 0;
  }
  // Beyond four seconds' worth of doubling the count says nothing new.
  if (2 ** info.spuriousCount < HZ * 4) info.spuriousCount++;
  const beyond = info.spuriousCount - info.spuriousThreshold;
  return beyond > 0 ? Math.min(2 ** (beyond - 1), HZ) : 0;
}

/** xen_irq_lateeoi: the handler of a late port is done. `flags`: XEN_EOI_FLAG_SPURIOUS or 0. */
export function* xenIrqLateeoi(kernel: Kernel, port: number, flags = 0): Program {
  const { events } = kernel;
  const info = events.irqs[port];
  // A handler may end what has been taken from it meanwhile, or end it twice.
  if (info === undefined || !info.late || !info.isActive || events.lateEois.includes(info)) return;
  const delay = penalty(info, flags);
  if (delay > 0) info.eoiTime = jiffies(kernel) + delay;
  if (info.eoiTime > 0 && (info.irqEpoch === events.epoch || delay > 0)) {
    const before = events.lateEois.findIndex((one) => one.eoiTime > info.eoiTime);
    events.lateEois.splice(before < 0 ? events.lateEois.length : before, 0, info);
    return;
  }
  yield* endOfInterrupt(kernel, info);
}

/** A late port as the driver of a ring keeps it: whether an end is owed, and whether there was work for it. */
export interface LatePort {
  readonly port: number;
  owed: boolean;
  worked: boolean;
}

export const latePort = (port: number): LatePort => ({ port, owed: false, worked: false });

/** Takes an event of the port, if one has arrived: its end is owed then. */
export function takeLatePort(kernel: Kernel, late: LatePort): boolean {
  const taken = takePort(kernel.events, late.port);
  late.owed ||= taken;
  return taken;
}

/** The driver has found its ring empty: ends the event that it has taken, as spurious if there was no work. */
export function* endLatePort(kernel: Kernel, late: LatePort): Program {
  if (!late.owed) return;
  yield* xenIrqLateeoi(kernel, late.port, late.worked ? 0 : XEN_EOI_FLAG_SPURIOUS);
  late.owed = false;
  late.worked = false;
}

function* endOfInterrupt(kernel: Kernel, info: IrqInfo): Program {
  info.eoiTime = 0;
  info.isActive = false;
  yield* letThrough(kernel, info, EVT_MASK_REASON_EOI_PENDING);
}

/** The work item that makes the ends which were put off, each in its time. */
export function* lateEoiThread(kernel: Kernel): Program {
  const { lateEois } = kernel.events;
  for (;;) {
    yield* waitUntil(kernel, () => lateEois.length > 0);
    const info = item(lateEois, 0);
    const isDue = (): boolean => lateEois[0] !== info || jiffies(kernel) >= info.eoiTime;
    yield* waitFor(kernel, isDue, info.eoiTime * JIFFY_MS);
    if (lateEois[0] !== info) continue;
    lateEois.shift();
    yield* endOfInterrupt(kernel, info);
  }
}

/**
 * xen_irq_resume: after a suspend no port is left. The control block is registered again, pages of event words are
 * added as ports need them; virtual interrupts are bound again, and every other port is its driver's to make anew.
 */
export function* xenIrqResume(kernel: Kernel): Program {
  const { events } = kernel;
  const bound = events.irqs.filter((info) => info !== undefined);
  for (const info of bound) forget(kernel, info);
  leaveOldPages(kernel);
  events.abi = "2-level";
  if (kernel.boot.kernel.eventAbi === "fifo") yield* enterFifo(kernel);
  yield* maskAll2l(kernel.cpu, events);
  for (const info of bound) {
    if (info.virq >= 0) yield* rebindVirq(kernel, info);
  }
}

/** The hypervisor has let go of the pages of the former ABI. */
function leaveOldPages(kernel: Kernel): void {
  const { events, memory } = kernel;
  const old = events.arrayPages.splice(0);
  if (events.controlBlock !== 0) old.push(events.controlBlock);
  for (const page of old) putPage(memory.pages, physToPage(Gaddr(page)));
  events.controlBlock = 0;
  events.heads.fill(0);
}

/** restore_cpu_virqs: the same interrupt on a new port. */
function* rebindVirq(kernel: Kernel, info: IrqInfo): Program {
  const port = yield* bindVirq(kernel, info.virq);
  if (port < 0) throw new KernelBug(`binding VIRQ ${info.virq} again answered ${port}`);
  const setup = kernel.events.abi === "fifo" ? yield* setupFifoPort(kernel, port) : 0;
  if (setup < 0) throw new KernelBug(`no event word for port ${port}: ${setup}`);
  info.port = port;
  info.maskReason = EVT_MASK_REASON_EXPLICIT;
  info.isActive = false;
  info.eoiTime = 0;
  kernel.events.irqs[port] = info;
  yield* letThrough(kernel, info, EVT_MASK_REASON_EXPLICIT);
}
