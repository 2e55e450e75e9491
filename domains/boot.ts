/**
 * Boot of a guest kernel, one call a subsystem.
 *
 *   features -> pages -> shared info page -> grant frames -> events masked -> DMA -> ready for tasks
 *
 * Rules: the argument pages are the first of the RAM, the kernel's own image; the shared info page goes where
 * no RAM is, just below the region offered for the grant table; a page that the domain builder made for the
 * store is taken out of the page allocator before anyone can be given it.
 * Behaviour: Linux arch/arm/xen/enlighten.c, xen_guest_init(), xen_pm_init().
 */
import { XENMAPSPACE_shared_info } from "../shared/abi/memory.ts";
import { DOMID_SELF, HVM_PARAM_STORE_PFN } from "../shared/abi/xen.ts";
import { item } from "../shared/assert.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import type { BootInfo } from "../shared/machine.ts";
import type { Program } from "../shared/trap.ts";
import { Gaddr, Pfn } from "../shared/units.ts";
import { bugOn, KernelBug } from "./bug.ts";
import { initDma } from "./dma.ts";
import { initEvents } from "./event-fifo-setup.ts";
import { initGrantTable } from "./grant-setup.ts";
import { addToPhysmap, getFeatures, getHvmParam } from "./hypercalls.ts";
import {
  ARGUMENT_BYTES,
  ARGUMENT_PAGES,
  createCaller,
  createKernel,
  type Kernel,
} from "./kernel.ts";
import type { Cpu } from "./memory.ts";
import { createKernelMemory } from "./memory-init.ts";
import { pfnValid, physToPage, reservePages } from "./pages.ts";
import { xenAllocUnpopulatedPages } from "./unpopulated.ts";

/** Where the image of an x86 kernel lies. */
const LOAD_PHYSICAL_ADDR = 0x10_0000;

/** Brings a kernel up to the point where its first task can run. */
export function* bootKernel(cpu: Cpu): Program<Kernel> {
  const image = imageOf(cpu.boot);
  const caller = createCaller(cpu, image);
  const features = yield* getFeatures(caller);
  bugOn(features < 0, `XENVER_get_features answered ${features}`);
  const memory = createKernelMemory(cpu.boot, features, caller.faults);
  reservePages(memory.pages, physToPage(Gaddr(image)), ARGUMENT_PAGES);
  // Guest frame 0 is given to nobody: its address would be a null pointer.
  if (image === LOAD_PHYSICAL_ADDR) reservePages(memory.pages, Pfn(0), 1);
  const kernel = createKernel(caller, features, memory);
  yield* reserveStorePage(kernel);
  yield* mapSharedInfo(kernel);
  yield* initGrantTable(kernel);
  yield* initEvents(kernel);
  yield* initDma(kernel);
  return kernel;
}

/** Guest address of the kernel's own image: the bottom of its RAM; on a PC, whose RAM begins at 0, 1 MiB above. */
function imageOf({ arch, ram }: BootInfo): number {
  const base = ram[0]?.base ?? 0;
  const offset = arch === "x86" && base === 0 ? LOAD_PHYSICAL_ADDR : 0;
  bugOn((ram[0]?.size ?? 0) < offset + ARGUMENT_BYTES, "no RAM to boot from");
  return base + offset;
}

function* reserveStorePage(kernel: Kernel): Program {
  const store = yield* getHvmParam(kernel, DOMID_SELF, HVM_PARAM_STORE_PFN);
  if (store > 0 && pfnValid(kernel.memory.pages, store)) {
    reservePages(kernel.memory.pages, Pfn(store), 1);
  }
}

/** The frame below the grant table region or, where none is offered, a page of empty address space. */
function* sharedInfoGfn(kernel: Kernel): Program<number> {
  if (kernel.boot.grantTableGfn > 0) return kernel.boot.grantTableGfn - 1;
  const pages = yield* xenAllocUnpopulatedPages(kernel, 1);
  if (typeof pages === "number") throw new KernelBug(`no place for the shared info page: ${pages}`);
  return item(pages, 0);
}

/** Places the shared info page; from here on events reach the kernel. */
function* mapSharedInfo(kernel: Kernel): Program {
  const gfn = yield* sharedInfoGfn(kernel);
  const result = yield* addToPhysmap(kernel, XENMAPSPACE_shared_info, 0, gfn);
  bugOn(result !== 0, `mapping the shared info page answered ${result}`);
  kernel.events.sharedInfo = gfn * PAGE_SIZE;
}
