/**
 * Faults that somebody outside has asked for: two words, which are zero in every machine that nobody injects into.
 *
 *   LINE.INJECT of a slot     below 0: the slot's next record is answered with this errno and not handled
 *                             n above 0: the next n elements of its map and copy batches are answered GNTST_eagain
 *   MACHINE.FAIL_ALLOCATION   n above 0: the n-th allocation from there on finds nothing; -1: none does, and -2 says
 *                             that one has been asked for
 *
 * Rules: whoever drives the machine writes them (a strategy, a test, the kernel of the slot itself), the hypervisor takes
 * them. A fault is one that a real Xen may answer at the same place: without memory, or with the granter's page out.
 * Ours (stress.md section 5, F-11 to F-15).
 */
import { at } from "../shared/assert.ts";
import { LINE, MACHINE } from "../shared/layout.ts";
import { lineField, setLineField, type Xen } from "./xen.ts";

/** Errno with which the slot's next record is to be refused, or 0. Takes it. */
export function refusalOf(xen: Xen, slot: number): number {
  const errno = lineField(xen, slot, LINE.INJECT);
  if (errno >= 0) return 0;
  setLineField(xen, slot, LINE.INJECT, 0);
  return errno;
}

/** Whether the next element of the slot's batch is to be answered GNTST_eagain. */
export function isPagedOut(xen: Xen, slot: number): boolean {
  const left = lineField(xen, slot, LINE.INJECT);
  if (left <= 0) return false;
  setLineField(xen, slot, LINE.INJECT, left - 1);
  return true;
}

/** Counts one allocation; true: it finds nothing. */
export function allocationFails(xen: Xen): boolean {
  const left = at(xen.words, MACHINE.FAIL_ALLOCATION);
  if (left === 0) return false;
  if (left < 0) {
    xen.words[MACHINE.FAIL_ALLOCATION] = -2;
    return true;
  }
  xen.words[MACHINE.FAIL_ALLOCATION] = left - 1;
  return left === 1;
}
