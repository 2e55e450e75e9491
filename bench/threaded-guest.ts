/**
 * A raw guest of a machine whose hypervisor runs in another worker.
 */
import { bufferOf } from "../platform/page-ops.ts";
import { CLIENT_PROBES_EVERY, policyOf } from "../platform/worker-common.ts";
import { assert } from "../shared/assert.ts";
import { layoutOf } from "../shared/layout.ts";
import { MachineMemory, wordsOf } from "../shared/mem.ts";
import { type Board, type RawGuest, rawGuest } from "./raw-guest.ts";
import type { Setup, SharedMachine } from "./worker-api.ts";

export interface ThreadedGuest {
  readonly guest: RawGuest;
  readonly board: Board;
  readonly machine: SharedMachine;
}

export function boardOf(setup: Setup): { board: Board; machine: SharedMachine } {
  const { machine } = setup;
  assert(machine !== undefined, "the job has a machine");
  const layout = layoutOf(machine.model);
  const words = wordsOf(machine.control);
  const memory = new MachineMemory(bufferOf(machine.memory));
  return { board: { words, memory, layout }, machine };
}

/** The guest at `index` of the model, waiting as the machine's runners do. */
export function guestOn(setup: Setup, index: number): ThreadedGuest {
  const { board, machine } = boardOf(setup);
  const policy = policyOf(machine.waiting, CLIENT_PROBES_EVERY);
  const guest = rawGuest(board, index, ({ channel, words, wantReply }, seen) => {
    policy.until(words, channel.replyWord, seen, wantReply);
  });
  return { guest, board, machine };
}
