/**
 * What the recorder's PV guests did to their own address space: the pages that Xen shares with them, and the slots for
 * mappings, each with a page of the guest's own in it.
 *
 * Rule: through update_va_mapping and setup_table only, as such a guest does.
 */

import { UVMF_INVLPG, UVMF_NONE } from "../shared/abi/mmu.ts";
import { HYPERVISOR_update_va_mapping } from "../shared/abi/xen.ts";
import { at } from "../shared/assert.ts";
import { DOM, domainOf, mfnAt } from "../shared/layout.ts";
import { _PAGE_PRESENT, _PAGE_RW } from "../shared/pte-x86.ts";
import { type Actor, hypercall } from "./conform-actor.ts";
import type { Replay } from "./conform-replay.ts";

/** Slots with a page each, and the page of the RAM that is in the first one. */
const SLOTS = 128;
const SLOT_PAGE = 0x1000;

/** Enters a machine frame at a virtual address, writable, or nothing; the answer of the call. */
export function mapPage(
  { machine }: Replay,
  actor: Actor,
  address: number,
  mfn: number | undefined,
): number | undefined {
  const entry = mfn === undefined ? 0 : mfn * 4096 + _PAGE_PRESENT + _PAGE_RW;
  const flush = mfn === undefined ? UVMF_INVLPG : UVMF_NONE;
  return hypercall(machine, actor, HYPERVISOR_update_va_mapping, [address, entry, flush]);
}

function mustMap(replay: Replay, actor: Actor, page: number, mfn: number | undefined): void {
  const ret = mapPage(replay, actor, page * 4096, mfn);
  if (ret !== 0) throw new Error(`${actor.name}: update_va_mapping answers ${String(ret)}`);
}

/** Frame of the column, as a PV guest names it. */
const frameIn = ({ machine }: Replay, word: number): number =>
  mfnAt(machine.layout, at(machine.words, word));

/** Shared info and slots. Nothing is at address 0, so that a null pointer is one. `pages`: machine frames of the RAM. */
export function preparePvActor(
  replay: Replay,
  actor: Actor,
  pages: (page: number) => number,
): void {
  const { layout } = replay.machine;
  const info = frameIn(replay, domainOf(layout, actor.domid) + DOM.SHARED_INFO);
  mustMap(replay, actor, actor.places.sharedInfo, info);
  for (let slot = 0; slot < SLOTS; slot++) {
    mustMap(replay, actor, actor.places.v0 + slot, pages(SLOT_PAGE + slot));
  }
  mustMap(replay, actor, 0, undefined);
}

/** Maps a frame of the actor's own grant table, which is there. */
export function mapGrantFrame(replay: Replay, actor: Actor, n: number): void {
  const { layout } = replay.machine;
  const column = layout.grantFrame + actor.domid * layout.model.limits.grantFrames;
  mustMap(replay, actor, actor.places.grantFrame0 + n, frameIn(replay, column + n));
}

/** Maps a status frame of it. */
export function mapStatusFrame(replay: Replay, actor: Actor, page: number, word: number): void {
  mustMap(replay, actor, page, frameIn(replay, word));
}
