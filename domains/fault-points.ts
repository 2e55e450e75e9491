/**
 * Where the work of a kernel can fail, counted: every allocation and every hypercall of one kernel is a point, in the
 * order in which it passes them. One point, or all from one on, may be made to fail: a run without a fault counts them,
 * and then each is made to fail in turn (stress.md section 5, F-11 and F-12). `onlyTask` leaves other tasks out of it.
 *
 * Rules: an allocation that fails answers as without memory; a hypercall is refused by the hypervisor itself, which finds
 * the errno in the injection word of the slot's line. `objects` counts the kernel's descriptors that live: what an
 * operation leaves behind shows there.
 * Behaviour: Linux lib/fault-inject.c (failslab, fail_page_alloc, task-filter), without its probabilities.
 */

/** A descriptor, pages of RAM, or a hypercall. */
export type FaultSite = "kmalloc" | "pages" | "hypercall";

export interface FaultPoints {
  /** Points passed so far. */
  passed: number;
  /** Value of `passed` at which a point fails; -1: none does. */
  failAt: number;
  /** Whether every later point fails too. */
  persistent: boolean;
  /** Task that runs, and the only one whose points count (undefined: everybody's do). */
  running: string | undefined;
  onlyTask: string | undefined;
  /** Points that have failed so far, and what the last one was. */
  failed: number;
  failedSite: FaultSite | undefined;
  /** Kernel descriptors (kmalloc) that live. */
  objects: number;
}

export const createFaultPoints = (): FaultPoints => ({
  passed: 0,
  failAt: -1,
  persistent: false,
  running: undefined,
  onlyTask: undefined,
  failed: 0,
  failedSite: undefined,
  objects: 0,
});

/** Passes one point; true: it is to fail. */
export function failsHere(points: FaultPoints, site: FaultSite): boolean {
  if (points.onlyTask !== undefined && points.onlyTask !== points.running) return false;
  const number = points.passed++;
  if (points.failAt < 0 || number < points.failAt) return false;
  if (number > points.failAt && !points.persistent) return false;
  points.failed++;
  points.failedSite = site;
  return true;
}

/** A descriptor of the kernel; false: there is no memory for it. */
export function kmalloc(points: FaultPoints): boolean {
  if (failsHere(points, "kmalloc")) return false;
  points.objects++;
  return true;
}

/** Gives `count` descriptors back. */
export function kfree(points: FaultPoints, count = 1): void {
  points.objects -= count;
}
