/**
 * Hot-adding address space with nothing behind it: whole sections of the extended regions become ZONE_DEVICE pages.
 *
 *   descriptor -> lowest aligned hole -> second descriptor, claimed in iomem_resource -> pgmap -> struct pages
 *
 * Rules: each step that fails undoes the ones before it, in reverse; what was added stays for good. The step that makes
 * struct pages sleeps. Sections are PAGES_PER_SECTION pages.
 * Behaviour: Linux drivers/xen/unpopulated-alloc.c, fill_list(); the thread's RFC 1/2 for the fault `wrong-variable`.
 */
import { PAGE_SIZE } from "../shared/limits.ts";
import { EBUSY, EINVAL, ENOMEM, ENXIO } from "../shared/status.ts";
import type { Program } from "../shared/trap.ts";
import { bugOn } from "./bug.ts";
import { kfree, kmalloc } from "./fault-points.ts";
import { type Kernel, mightSleep } from "./kernel.ts";
import type { TargetResource } from "./kernel-memory.ts";
import { addDevicePages } from "./pages.ts";

/** Descriptors that one fill leaves behind: both resources and the pgmap. */
export const OBJECTS_PER_FILL = 3;

/** Sections that were added: bytes, and pages. */
export interface AddedSections {
  readonly base: number;
  readonly pages: number;
}

/** Lowest aligned hole of `size` bytes in the resource, or undefined. Takes it. */
export function allocateResource(
  target: TargetResource,
  size: number,
  align: number,
): number | undefined {
  for (const region of target.regions) {
    let base = Math.ceil(region.base / align) * align;
    while (base + size <= region.base + region.size) {
      const start = base;
      const hit = target.taken.find(
        (one) => start < one.base + one.size && one.base < start + size,
      );
      if (hit === undefined) {
        target.taken.push({ base, size });
        return base;
      }
      base = Math.ceil((hit.base + hit.size) / align) * align;
    }
  }
  return undefined;
}

/** Gives a hole back. */
export function releaseResource(target: TargetResource, base: number): void {
  const place = target.taken.findIndex((one) => one.base === base);
  target.taken.splice(place, 1);
}

/**
 * Hot-adds sections for `count` pages. Refuses with -ENOMEM (a descriptor), -EBUSY (no aligned hole), -ENXIO (the kernel
 * has pages there), -EINVAL (no pages wanted).
 */
export function* addSections(
  kernel: Kernel,
  target: TargetResource,
  count: number,
): Program<AddedSections | number> {
  const { faults, memory } = kernel;
  const section = memory.unpopulated.pagesPerSection;
  const pages = Math.ceil(count / section) * section;
  if (pages <= 0) return -EINVAL;
  if (!kmalloc(faults)) return -ENOMEM;
  const base = allocateResource(target, pages * PAGE_SIZE, section * PAGE_SIZE);
  if (base === undefined) {
    kfree(faults);
    return -EBUSY;
  }
  const rc = yield* claimAndMap(kernel, base, pages);
  if (rc < 0) {
    releaseResource(target, base);
    kfree(faults);
    return rc;
  }
  return { base, pages };
}

/** The steps after the hole is found. */
function* claimAndMap(kernel: Kernel, base: number, pages: number): Program<number> {
  const { faults, memory } = kernel;
  if (!kmalloc(faults)) {
    // The RFC asks the first descriptor whether the second was allocated, and copies into it.
    const checked = !kernel.boot.kernel.patchFaults.includes("wrong-variable");
    bugOn(!checked, "NULL pointer dereference: *tmp_res = *res");
    return -ENOMEM;
  }
  if (!kmalloc(faults)) {
    kfree(faults);
    return -ENOMEM;
  }
  yield* mightSleep(kernel);
  if (addDevicePages(memory.pages, base / PAGE_SIZE, pages)) return 0;
  kfree(faults, 2);
  return -ENXIO;
}

/** memunmap_pages and all that came before it: sections that nobody has been given a page of. */
export function removeSections(
  kernel: Kernel,
  target: TargetResource,
  { base }: AddedSections,
): void {
  const { sections } = kernel.memory.pages;
  const place = sections.findIndex((one) => one.base === base / PAGE_SIZE);
  sections.splice(place, 1);
  releaseResource(target, base);
  kfree(kernel.faults, OBJECTS_PER_FILL);
}
