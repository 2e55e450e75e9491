/**
 * A machine and its hypervisor in this thread, over shared memory as on threads: what is timed here is the work itself,
 * without anybody to wait for.
 */
import { bootHypervisor, step } from "../hypervisor/main.ts";
import type { Xen } from "../hypervisor/xen.ts";
import { bufferOf, pageOpsOf, reserveMemory } from "../platform/page-ops.ts";
import { assert } from "../shared/assert.ts";
import { layoutOf, machineBytes } from "../shared/layout.ts";
import { MachineMemory, wordsOf } from "../shared/mem.ts";
import { grantPages } from "./grant-batch.ts";
import { benchModel, GRANTER, MAPPER } from "./machine.ts";
import { type Board, type RawGuest, rawGuest } from "./raw-guest.ts";

/** Pages granted: the largest batch that is timed here. */
const GRANTED = 128;

export interface OneThread {
  readonly board: Board;
  readonly xen: Xen;
  readonly mapper: RawGuest;
  readonly granter: RawGuest;
  /** Machine memory as words, for the bare loop over its tables. */
  readonly cells: Int32Array;
}

/** Boots the benchmark's machine; the granter's pages are granted. */
export function bootOneThread(): OneThread {
  const layout = layoutOf(benchModel());
  const words = wordsOf(new SharedArrayBuffer(layout.words * Int32Array.BYTES_PER_ELEMENT));
  const handle = reserveMemory(machineBytes(layout));
  const memory = new MachineMemory(bufferOf(handle), pageOpsOf(handle));
  const xen = bootHypervisor(words, memory, layout);
  const board = { words, memory, layout };
  const answered = ({ channel }: RawGuest): void => {
    while (!channel.idle) assert(step(xen), "the hypervisor owes an answer");
  };
  const mapper = rawGuest(board, MAPPER, answered);
  const granter = rawGuest(board, GRANTER, answered);
  grantPages(granter, mapper.domid, GRANTED);
  return { board, xen, mapper, granter, cells: new Int32Array(bufferOf(handle)) };
}
