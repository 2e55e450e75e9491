/**
 * What the program of a story has in its hands besides raw-guest.ts when its domain is paravirtualised: page tables that it
 * changes by hypercall, and pages that it names by their machine frames.
 *
 * Rule: the machine frame of a page is looked up in the guest's tables, as its kernel would remember it; nothing here is a point.
 * Ours.
 */
import { freshArguments, grantTableOp, setU64 } from "../domains/hypercalls.ts";
import { hypercall, writeArguments } from "../domains/kernel.ts";
import { grantFrame } from "../hypervisor/active-entry.ts";
import {
  GNTTABOP_transfer,
  GRANT_ENTRY_FRAME,
  TRANSFER_DOMID,
  TRANSFER_MFN,
  TRANSFER_REF,
  TRANSFER_SIZE,
  TRANSFER_STATUS,
} from "../shared/abi/grant.ts";
import {
  MMUEXT_OP_ARG1,
  MMUEXT_OP_CMD,
  MMUEXT_OP_SIZE,
  UVMF_ALL,
  UVMF_NONE,
  UVMF_TLB_FLUSH,
} from "../shared/abi/mmu.ts";
import {
  DOMID_SELF,
  HYPERVISOR_mmuext_op,
  HYPERVISOR_update_va_mapping,
} from "../shared/abi/xen.ts";
import { assert, at } from "../shared/assert.ts";
import { LINE, lineOf, mfnAt } from "../shared/layout.ts";
import { GRANT_ENTRY_BYTES, PAGE_SIZE } from "../shared/limits.ts";
import { walkPv } from "../shared/mmu.ts";
import { _PAGE_PRESENT, _PAGE_RW } from "../shared/pte-x86.ts";
import type { Program } from "../shared/trap.ts";
import type { Guest } from "./raw-guest.ts";

/** Machine frame behind a virtual page that the guest has an entry for. */
export function mfnOf({ machine, slot }: Guest, page: number): number {
  const { words, memory, layout } = machine;
  const found = walkPv(layout, words, memory, at(words, lineOf(layout, slot) + LINE.ROOT), page);
  assert(found >= 0, "a story looks up pages that its guest has mapped");
  return mfnAt(layout, found >>> 3);
}

/** Writes an entry of version 1 of the guest's grant table, as its kernel would: the frame first. */
export function writeEntry(
  guest: Guest,
  ref: number,
  mfn: number,
  to: number,
  flags: number,
): void {
  const { memory, xen } = guest.machine;
  const entry = ref * GRANT_ENTRY_BYTES;
  memory.store(grantFrame(xen, guest.domid, 0), entry + GRANT_ENTRY_FRAME, mfn);
  memory.store(grantFrame(xen, guest.domid, 0), entry, flags | (to << 16));
}

/** Enters a machine frame at a virtual page, to be written or only read; -1 takes the entry away, without a flush. */
export const updateVa = (
  { caller }: Guest,
  page: number,
  mfn: number,
  writable: boolean,
): Program<number> =>
  hypercall(
    caller,
    HYPERVISOR_update_va_mapping,
    page * PAGE_SIZE,
    mfn < 0 ? 0 : mfn * PAGE_SIZE + _PAGE_PRESENT + (writable ? _PAGE_RW : 0),
    mfn < 0 ? UVMF_NONE : UVMF_TLB_FLUSH | UVMF_ALL,
  );

/** Machine frame of a virtual page that the guest has no entry for any more. */
export function* loosen(guest: Guest, page: number): Program<number> {
  const mfn = mfnOf(guest, page);
  yield* updateVa(guest, page, -1, false);
  return mfn;
}

/** One mmuext_op on a machine frame: 0 or a negative errno. */
export function* mmuext({ caller }: Guest, command: number, mfn: number): Program<number> {
  const view = freshArguments(caller, MMUEXT_OP_SIZE);
  view.setUint32(MMUEXT_OP_CMD, command, true);
  setU64(view, MMUEXT_OP_ARG1, mfn);
  yield* writeArguments(caller, MMUEXT_OP_SIZE);
  return yield* hypercall(caller, HYPERVISOR_mmuext_op, caller.arguments.gaddr, 1, 0, DOMID_SELF);
}

/** Gives a page to entry `ref` of another domain; returns the status. */
export function* transfer(
  { caller }: Guest,
  mfn: number,
  to: number,
  ref: number,
): Program<number> {
  const view = freshArguments(caller, TRANSFER_SIZE);
  setU64(view, TRANSFER_MFN, mfn);
  view.setUint16(TRANSFER_DOMID, to, true);
  view.setUint32(TRANSFER_REF, ref, true);
  yield* grantTableOp(caller, GNTTABOP_transfer, TRANSFER_SIZE, 1);
  return view.getInt16(TRANSFER_STATUS, true);
}
