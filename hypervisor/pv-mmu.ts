/**
 * The calls by which a PV guest changes its address space: update_va_mapping, mmu_update and mmuext_op.
 *
 * Rules: an argument structure is copied once, just before it is handled; the first one that is refused ends the call with
 * its errno, those before it stay done. A translated domain has none of these calls (-ENOSYS). What was taken out of use
 * is flushed before it is let go; apart from that a translation stays in TLBs until the guest asks for a flush.
 * Behaviour: xen/arch/x86/mm.c, do_update_va_mapping(), do_mmu_update(), do_mmuext_op(), new_guest_cr3().
 */
import {
  MMU_MACHPHYS_UPDATE,
  MMU_NORMAL_PT_UPDATE,
  MMU_PT_UPDATE_PRESERVE_AD,
  MMU_UPDATE_PTR,
  MMU_UPDATE_SIZE,
  MMU_UPDATE_VAL,
  MMUEXT_CLEAR_PAGE,
  MMUEXT_COPY_PAGE,
  MMUEXT_INVLPG_ALL,
  MMUEXT_INVLPG_LOCAL,
  MMUEXT_INVLPG_MULTI,
  MMUEXT_NEW_BASEPTR,
  MMUEXT_OP_ARG1,
  MMUEXT_OP_ARG2,
  MMUEXT_OP_CMD,
  MMUEXT_OP_SIZE,
  MMUEXT_PIN_L1_TABLE,
  MMUEXT_PIN_L4_TABLE,
  MMUEXT_TLB_FLUSH_ALL,
  MMUEXT_TLB_FLUSH_LOCAL,
  MMUEXT_TLB_FLUSH_MULTI,
  MMUEXT_UNPIN_TABLE,
  UVMF_FLUSHTYPE_MASK,
  UVMF_LOCAL,
  UVMF_NONE,
} from "../shared/abi/mmu.ts";
import { DOMID_SELF } from "../shared/abi/xen.ts";
import { at } from "../shared/assert.ts";
import { PGT_l1_page_table, PGT_l4_page_table, PGT_writable_page } from "../shared/frame-flags.ts";
import { HOLD_ROWS } from "../shared/hold-layout.ts";
import { indexOf, LINE } from "../shared/layout.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import type { PteX86 } from "../shared/pte-x86.ts";
import { EFAULT, EINVAL, ENOSYS, EPERM, ESRCH } from "../shared/status.ts";
import { RECORD_ARGS } from "../shared/trap.ts";
import { type DomId, FrameIndex } from "../shared/units.ts";
import { startFlush, startFlushOf } from "./flush.ts";
import { getPage, isRamFrame, isXenHeap, putPage, setXenHeapGfn } from "./frame-table.ts";
import { copyArgs, copyToGuest } from "./guest-access.ts";
import { holdTable, releaseHolds } from "./hold-list.ts";
import {
  getPageType,
  isPinned,
  isPv,
  isTableFrame,
  putPageAndType,
  putPageType,
  setPinned,
  typeOf,
} from "./page-type.ts";
import { withPvFlush } from "./pv-flush.ts";
import {
  MOD_DONE,
  MOD_FLUSH,
  modL1Entry,
  modTableEntry,
  pteOfAddress,
  writePte,
} from "./pv-tables.ts";
import {
  type Caller,
  domainById,
  GAP_FLUSH,
  GAP_PREEMPT,
  type Gap,
  isGapDue,
  isPrivileged,
  lineField,
  type Preemptible,
  setLineField,
  type Xen,
} from "./xen.ts";

/** Nothing that is done in one step: lets go while a flush is under way. */
type Stretch = Generator<Gap, number, void>;

/** update_va_mapping(va, val, flags): a page's entry, found by the address it translates. */
export function updateVaMapping(
  xen: Xen,
  caller: Caller,
  address: number,
  flags: number,
): number | Preemptible {
  if (!isPv(xen, caller.domid)) return -ENOSYS;
  const next: PteX86 = {
    low: at(xen.record, RECORD_ARGS + 2),
    high: at(xen.record, RECORD_ARGS + 3),
  };
  return updateAddress(xen, caller, address, next, flags);
}

function* updateAddress(
  xen: Xen,
  caller: Caller,
  address: number,
  next: PteX86,
  flags: number,
): Preemptible {
  const { slot, domid } = caller;
  const place = pteOfAddress(xen, slot, domid, address);
  if (place === undefined) return -EINVAL;
  const done = modL1Entry(xen, slot, domid, domid, place, next);
  if (done < 0) return done;
  if (done === MOD_FLUSH) yield* settle(xen, caller);
  const kind = flags & UVMF_FLUSHTYPE_MASK;
  if (kind !== UVMF_NONE) yield* flushVcpus(xen, caller, flags - kind !== UVMF_LOCAL);
  return 0;
}

/** Flushes the TLBs of the caller, or of all vCPUs of its domain; an address of its own makes no difference. */
function* flushVcpus(xen: Xen, { slot, domid }: Caller, everywhere: boolean): Stretch {
  const waiting = everywhere ? startFlush(xen, slot, domid) : startFlushOf(xen, slot, slot);
  if (waiting > 0) yield GAP_FLUSH;
  return 0;
}

/** Flushes what has been taken out of use, then lets it go. */
function* settle(xen: Xen, { slot, domid }: Caller): Stretch {
  if (startFlush(xen, slot, domid) > 0) yield GAP_FLUSH;
  releaseHolds(xen, slot);
  return 0;
}

/** Whose pages a batch may map: the caller's own, or for a privileged one those of the domain it names. */
function pageOwner(xen: Xen, caller: Caller, foreign: number): DomId | number {
  if (foreign === DOMID_SELF) return caller.domid;
  const owner = foreign === caller.domid ? undefined : domainById(xen, foreign);
  if (owner === undefined) return -ESRCH;
  return isPrivileged(xen, caller) ? owner : -EPERM;
}

/** A batch: elements one by one until one is refused; `pdone` is told how many were done. */
function* batch(
  xen: Xen,
  caller: Caller,
  args: { readonly list: number; readonly count: number; readonly pdone: number },
  size: number,
  element: () => Stretch,
): Preemptible {
  let flush = false;
  let error = 0;
  let done = 0;
  for (; done < args.count && error === 0; done++) {
    if (done > 0 && isGapDue(xen, done)) yield GAP_PREEMPT;
    if (!copyArgs(xen, caller.domid, args.list + done * size, size)) error = -EFAULT;
    else {
      const outcome = yield* element();
      if (outcome < 0) error = outcome;
      if (outcome === MOD_FLUSH) flush = true;
    }
    if (error !== 0) break;
    if (lineField(xen, caller.slot, LINE.HELD) < HOLD_ROWS - 1) continue;
    yield* settle(xen, caller);
    flush = false;
  }
  if (flush) yield* settle(xen, caller);
  if (args.pdone !== 0) {
    xen.args.setU32(0, done);
    copyToGuest(xen, caller.domid, args.pdone, xen.args.bytes, 0, 4);
  }
  return error;
}

/** mmu_update(list, count, pdone, foreigndom). Tables of another domain cannot be changed. */
export function mmuUpdate(
  xen: Xen,
  caller: Caller,
  list: number,
  count: number,
  pdone: number,
  foreign: number,
): number | Preemptible {
  if (!isPv(xen, caller.domid)) return -ENOSYS;
  if (foreign >= 0x10000) return -ESRCH;
  const owner = pageOwner(xen, caller, foreign);
  if (owner < 0) return owner;
  const args = { list, count, pdone };
  return batch(xen, caller, args, MMU_UPDATE_SIZE, () => {
    const low = xen.args.i32(MMU_UPDATE_PTR);
    const cmd = low & 7;
    const ptr = xen.args.u64(MMU_UPDATE_PTR) - cmd;
    const next = { low: xen.args.i32(MMU_UPDATE_VAL), high: xen.args.i32(MMU_UPDATE_VAL + 4) };
    return updateOne(xen, caller, owner as DomId, cmd, ptr, next);
  });
}

function* updateOne(
  xen: Xen,
  caller: Caller,
  owner: DomId,
  cmd: number,
  ptr: number,
  next: PteX86,
): Stretch {
  const { slot, domid } = caller;
  const frame = indexOf(xen.layout, xen.words, Math.floor(ptr / PAGE_SIZE));
  if (cmd === MMU_MACHPHYS_UPDATE) return updateM2p(xen, owner, frame, next);
  if (cmd !== MMU_NORMAL_PT_UPDATE && cmd !== MMU_PT_UPDATE_PRESERVE_AD) return -ENOSYS;
  const place = { table: frame, slot: (ptr % PAGE_SIZE) >> 3 };
  return yield* withPvFlush(xen, caller, () => {
    // Looked at anew after each flush: others may have changed what the page is.
    if (!isRamFrame(xen, frame) || !getPage(xen, frame, domid)) return -EINVAL;
    const type = isTableFrame(xen, frame) ? typeOf(xen, frame) : PGT_writable_page;
    let done = -EINVAL;
    if (type === PGT_l1_page_table) done = modL1Entry(xen, slot, domid, owner, place, next);
    else if (type <= PGT_l4_page_table) {
      if (owner === domid) done = modTableEntry(xen, slot, domid, place, next, type);
    } else if (getPageType(xen, frame, PGT_writable_page) === 0) {
      writePte(xen, domid, place, next);
      putPageType(xen, frame);
      done = MOD_DONE;
    }
    putPage(xen, frame);
    return done;
  });
}

/** The guest's own numbering of a page, for whoever asks the M2P. Frames are told by their low 32 bits here. */
function updateM2p(xen: Xen, owner: DomId, frame: number, { low }: PteX86): number {
  if (!isPv(xen, owner)) return -EINVAL;
  if (!isRamFrame(xen, frame) || !getPage(xen, frame, owner)) return -EINVAL;
  // Pages of Xen's own have a record of another kind there.
  if (!isXenHeap(xen, frame)) setXenHeapGfn(xen, frame, low >>> 0);
  putPage(xen, frame);
  return 0;
}

/** mmuext_op(list, count, pdone, foreigndom): the caller's own pages only. */
export function mmuextOp(
  xen: Xen,
  caller: Caller,
  list: number,
  count: number,
  pdone: number,
  foreign: number,
): number | Preemptible {
  if (!isPv(xen, caller.domid)) return -ENOSYS;
  const owner = pageOwner(xen, caller, foreign);
  if (owner < 0) return owner;
  if (owner !== caller.domid) return isPv(xen, owner) ? -EPERM : -EINVAL;
  const args = { list, count, pdone };
  return batch(xen, caller, args, MMUEXT_OP_SIZE, () => {
    const cmd = xen.args.u32(MMUEXT_OP_CMD);
    return extended(xen, caller, cmd, xen.args.u64(MMUEXT_OP_ARG1), xen.args.u64(MMUEXT_OP_ARG2));
  });
}

function* extended(xen: Xen, caller: Caller, cmd: number, one: number, other: number): Stretch {
  const frame = indexOf(xen.layout, xen.words, one);
  switch (cmd) {
    case MMUEXT_NEW_BASEPTR:
      return yield* withPvFlush(xen, caller, () => newBase(xen, caller, frame));
    case MMUEXT_UNPIN_TABLE:
      return unpin(xen, caller, frame);
    case MMUEXT_TLB_FLUSH_LOCAL:
    case MMUEXT_INVLPG_LOCAL:
      return yield* flushVcpus(xen, caller, false);
    case MMUEXT_TLB_FLUSH_MULTI:
    case MMUEXT_INVLPG_MULTI:
    case MMUEXT_TLB_FLUSH_ALL:
    case MMUEXT_INVLPG_ALL:
      return yield* flushVcpus(xen, caller, true);
    case MMUEXT_CLEAR_PAGE:
    case MMUEXT_COPY_PAGE:
      return fillPage(xen, caller, frame, cmd === MMUEXT_COPY_PAGE ? other : undefined);
    default:
      if (cmd < MMUEXT_PIN_L1_TABLE || cmd > MMUEXT_PIN_L4_TABLE) return -ENOSYS;
      return yield* withPvFlush(xen, caller, () => pin(xen, caller, frame, cmd + 1));
  }
}

/** Takes page and type reference for a table that the guest means to keep. */
function pin(xen: Xen, caller: Caller, frame: number, type: number): number {
  if (!isRamFrame(xen, frame) || !getPage(xen, frame, caller.domid)) return -EINVAL;
  const error = getPageType(xen, frame, type);
  if (error !== 0) {
    putPage(xen, frame);
    return error;
  }
  if (!isPinned(xen, frame)) {
    setPinned(xen, frame, true);
    return MOD_DONE;
  }
  putPageAndType(xen, frame);
  return -EINVAL;
}

function unpin(xen: Xen, { slot, domid }: Caller, frame: number): number {
  if (!isRamFrame(xen, frame) || !getPage(xen, frame, domid)) return -EINVAL;
  putPage(xen, frame);
  if (!isPinned(xen, frame)) return -EINVAL;
  setPinned(xen, frame, false);
  holdTable(xen, slot, frame);
  return MOD_FLUSH;
}

/** The vCPU goes on in another address space; the former root is let go after the flush. */
function newBase(xen: Xen, { slot, domid }: Caller, frame: number): number {
  const former = lineField(xen, slot, LINE.ROOT);
  if (former === frame) return MOD_FLUSH;
  if (!isRamFrame(xen, frame) || !getPage(xen, frame, domid)) return -EINVAL;
  const error = getPageType(xen, frame, PGT_l4_page_table);
  if (error !== 0) {
    putPage(xen, frame);
    return error;
  }
  setLineField(xen, slot, LINE.ROOT, frame);
  holdTable(xen, slot, former);
  return MOD_FLUSH;
}

/** Zeroes a page, or copies another one into it, without a mapping. */
function fillPage(xen: Xen, { domid }: Caller, frame: number, from: number | undefined): number {
  const source = from === undefined ? frame : indexOf(xen.layout, xen.words, from);
  if (!isRamFrame(xen, source) || !getPage(xen, source, domid)) return -EINVAL;
  putPage(xen, source);
  if (!isRamFrame(xen, frame) || !getPage(xen, frame, domid)) return -EINVAL;
  const typed = getPageType(xen, frame, PGT_writable_page) === 0;
  if (typed) {
    if (from === undefined) xen.memory.zero(FrameIndex(frame));
    else xen.memory.copy(FrameIndex(frame), 0, FrameIndex(source), 0, PAGE_SIZE);
    putPageType(xen, frame);
  }
  putPage(xen, frame);
  return typed ? MOD_DONE : -EINVAL;
}
