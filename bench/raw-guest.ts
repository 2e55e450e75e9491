/**
 * A guest without a kernel: one vCPU's MMU and the client's end of its channel, driven by straight-line code. What a
 * hypercall costs is measured here, at the channel's client stub.
 */
import {
  ADD_TO_PHYSMAP_DOMID,
  ADD_TO_PHYSMAP_GPFN,
  ADD_TO_PHYSMAP_IDX,
  ADD_TO_PHYSMAP_SIZE,
  ADD_TO_PHYSMAP_SPACE,
  XENMAPSPACE_grant_table,
  XENMEM_add_to_physmap,
} from "../shared/abi/memory.ts";
import { DOMID_SELF, HYPERVISOR_memory_op } from "../shared/abi/xen.ts";
import { at, item } from "../shared/assert.ts";
import { Channel } from "../shared/channel.ts";
import { DOM, domainOf, type Layout } from "../shared/layout.ts";
import { PAGE_SIZE, RECORD_WORDS } from "../shared/limits.ts";
import type { DomainModel } from "../shared/machine.ts";
import { load, type MachineMemory, type Words } from "../shared/mem.ts";
import { ACCESS_OK, ACCESS_WRITE, Mmu } from "../shared/mmu.ts";
import { EBUSY } from "../shared/status.ts";
import { setRecord } from "../shared/trap.ts";

/** A machine as a raw guest sees it. */
export interface Board {
  readonly words: Words;
  readonly memory: MachineMemory;
  readonly layout: Layout;
}

export interface RawGuest {
  readonly domid: number;
  readonly slot: number;
  readonly domain: DomainModel;
  readonly mmu: Mmu;
  readonly channel: Channel;
  /** First frame of its RAM; its arguments lie there. */
  readonly ram: number;
  /** Returns when the reply word, which held `seen`, has changed. */
  readonly answered: (guest: RawGuest, seen: number) => void;
  readonly words: Words;
  /** Asks to be woken: one closure for all calls. */
  readonly wantReply: () => void;
}

/** Drives vCPU 0 of the domain at `index` of the model, which was created at boot under that id. */
export function rawGuest(board: Board, index: number, answered: RawGuest["answered"]): RawGuest {
  const { words, memory, layout } = board;
  const domain = item(layout.model.domains, index);
  const slot = at(words, domainOf(layout, index) + DOM.SLOT);
  const ram = (domain.staticMemory[0]?.base ?? domain.ramGfn * PAGE_SIZE) / PAGE_SIZE;
  const channel = new Channel(words, layout, slot);
  return {
    domid: index,
    slot,
    domain,
    mmu: new Mmu(words, memory, layout, slot),
    channel,
    ram,
    answered,
    words,
    wantReply: () => channel.wantReply(),
  };
}

/** Pushes one record and returns its answer. */
export function pushRecord(guest: RawGuest, record: Int32Array): number {
  const { channel, words } = guest;
  const seen = load(words, channel.replyWord);
  channel.push(record);
  guest.answered(guest, seen);
  return channel.result();
}

export function recordOf(op: number, args: readonly number[]): Int32Array {
  const record = new Int32Array(RECORD_WORDS);
  setRecord(record, op, args);
  return record;
}

/** Opens a page of the guest; what a raw program may not touch ends the benchmark. */
export function openPage(guest: RawGuest, gfn: number, kind: number): void {
  const fault = guest.mmu.open(gfn, kind);
  if (fault !== ACCESS_OK) throw new Error(`gfn 0x${gfn.toString(16)}: fault ${fault}`);
}

/** Places the first frames of the guest's grant table at the gfns that its boot information offers. */
export function placeGrantTable(guest: RawGuest, frames: number): void {
  for (let frame = 0; frame < frames; frame++) placeFrame(guest, frame);
}

function placeFrame(guest: RawGuest, frame: number): void {
  const bytes = new Uint8Array(ADD_TO_PHYSMAP_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint16(ADD_TO_PHYSMAP_DOMID, DOMID_SELF, true);
  view.setUint32(ADD_TO_PHYSMAP_SPACE, XENMAPSPACE_grant_table, true);
  view.setUint32(ADD_TO_PHYSMAP_IDX, frame, true);
  view.setUint32(ADD_TO_PHYSMAP_GPFN, guest.domain.grantTableGfn + frame, true);
  openPage(guest, guest.ram, ACCESS_WRITE);
  guest.mmu.write(0, bytes, 0, bytes.length);
  guest.mmu.close();
  const call = recordOf(HYPERVISOR_memory_op, [XENMEM_add_to_physmap, guest.ram * PAGE_SIZE]);
  const result = pushRecord(guest, call);
  // An earlier job on this machine may have placed it: a frame is placed once.
  if (result !== 0 && result !== -EBUSY)
    throw new Error(`placing the grant table answered ${result}`);
}
