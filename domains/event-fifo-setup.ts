/**
 * Entering the FIFO event ABI: a page for the control block, and pages of event words as ports need them.
 *
 * Rules: a page that the hypervisor has taken stays until the ABI is left, which happens only when all ports are gone.
 * Each new page has every port masked. A hypervisor that knows no FIFO leaves the kernel in the 2-level ABI.
 * Behaviour: Linux drivers/xen/events/events_fifo.c, xen_evtchn_fifo_init(), evtchn_fifo_setup().
 */
import {
  EVTCHN_FIFO_MASKED,
  EVTCHNOP_expand_array,
  EVTCHNOP_init_control,
  EXPAND_ARRAY_GFN,
  EXPAND_ARRAY_SIZE,
  INIT_CONTROL_GFN,
  INIT_CONTROL_OFFSET,
  INIT_CONTROL_SIZE,
  INIT_CONTROL_VCPU,
} from "../shared/abi/event-channel.ts";
import { EVTCHN_FIFO_WORDS_PER_PAGE, PAGE_SIZE } from "../shared/limits.ts";
import { ENOMEM } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import type { Pfn } from "../shared/units.ts";
import { KernelBug } from "./bug.ts";
import { maskAll2l } from "./events-2l.ts";
import { eventChannelOp, freshArguments, setU64 } from "./hypercalls.ts";
import type { Kernel } from "./kernel.ts";
import { writeBytes, zeroPage } from "./memory.ts";
import { allocPage, pageToPhys, putPage } from "./pages.ts";

/** xen_init_IRQ: the ABI that the kernel is told to use, if the hypervisor has it; every port masked. */
export function* initEvents(kernel: Kernel): Program {
  if (kernel.boot.kernel.eventAbi === "fifo") yield* enterFifo(kernel);
  // The shared bits are masked in both: nothing that was bound before this kernel is let through.
  yield* maskAll2l(kernel.cpu, kernel.events);
}

/** Registers a fresh control block for vCPU 0; the first one switches the domain over. */
export function* enterFifo(kernel: Kernel): Program {
  const page = allocPage(kernel.memory.pages);
  if (page === undefined) return;
  yield* zeroPage(kernel.cpu, pageToPhys(page));
  const view = freshArguments(kernel, INIT_CONTROL_SIZE);
  setU64(view, INIT_CONTROL_GFN, page);
  view.setUint32(INIT_CONTROL_OFFSET, 0, true);
  view.setUint32(INIT_CONTROL_VCPU, 0, true);
  const result = yield* eventChannelOp(kernel, EVTCHNOP_init_control, INIT_CONTROL_SIZE);
  if (result < 0) {
    putPage(kernel.memory.pages, page);
    return;
  }
  kernel.events.abi = "fifo";
  kernel.events.controlBlock = pageToPhys(page);
}

/** Adds pages of event words up to that of `port`: 0, or a negative errno. */
export function* setupFifoPort(kernel: Kernel, port: number): Program<number> {
  const { events, memory } = kernel;
  while (events.arrayPages.length * EVTCHN_FIFO_WORDS_PER_PAGE <= port) {
    const page = allocPage(memory.pages);
    const result = page === undefined ? -ENOMEM : yield* addArrayPage(kernel, page);
    if (result === 0) continue;
    if (events.arrayPages.length === 0) throw new KernelBug(`no event array: ${result}`);
    return result;
  }
  return 0;
}

function* addArrayPage(kernel: Kernel, page: Pfn): Program<number> {
  const words = new Uint8Array(PAGE_SIZE);
  // MASKED is in the highest byte of each little-endian word.
  for (let at = 3; at < PAGE_SIZE; at += 4) words[at] = EVTCHN_FIFO_MASKED >>> 24;
  yield* writeBytes(kernel.cpu, pageToPhys(page), words, 0, PAGE_SIZE);
  setU64(freshArguments(kernel, EXPAND_ARRAY_SIZE), EXPAND_ARRAY_GFN, page);
  const result = yield* eventChannelOp(kernel, EVTCHNOP_expand_array, EXPAND_ARRAY_SIZE);
  if (result < 0) putPage(kernel.memory.pages, page);
  else kernel.events.arrayPages.push(pageToPhys(page));
  return result;
}
