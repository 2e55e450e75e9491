/**
 * The channel alone, as a ring of 64-byte records between two workers: no hypervisor, no handler.
 *
 * The server waits as the hypervisor's loop does, so that it rests while other figures are taken.
 */
import {
  CLIENT_PROBES_EVERY,
  policyOf,
  SERVER_PROBES_EVERY,
} from "../../platform/worker-common.ts";
import { assert } from "../../shared/assert.ts";
import { Channel } from "../../shared/channel.ts";
import { MACHINE } from "../../shared/layout.ts";
import { RECORD_WORDS } from "../../shared/limits.ts";
import { load, store, wait } from "../../shared/mem.ts";
import { boardOf } from "../threaded-guest.ts";
import type { Job, Peer, Setup } from "../worker-api.ts";

const SLOT = 1;

export function ringClient(setup: Setup): Job {
  const { board, machine } = boardOf(setup);
  const { words, layout } = board;
  const { batch = 1 } = setup;
  const channel = new Channel(words, layout, SLOT);
  const policy = policyOf(machine.waiting, CLIENT_PROBES_EVERY);
  const record = new Int32Array(RECORD_WORDS);
  const wantReply = (): void => channel.wantReply();
  return {
    per: batch,
    run: (turns) => {
      for (let turn = 0; turn < turns; turn++) {
        for (let i = 0; i < batch; i++) channel.push(record);
        while (!channel.idle) {
          const seen = load(words, channel.replyWord);
          if (!channel.idle) policy.until(words, channel.replyWord, seen, wantReply);
        }
      }
    },
    end: () => assert(channel.result() === 1, "the server has answered"),
  };
}

export function ringServer(setup: Setup): Peer {
  const { board, machine } = boardOf(setup);
  const { words, layout } = board;
  const channel = new Channel(words, layout, SLOT);
  const policy = policyOf(machine.waiting, SERVER_PROBES_EVERY);
  const record = new Int32Array(RECORD_WORDS);
  const pending = (): boolean => channel.pending;
  const sleep = (): void => {
    store(words, MACHINE.ASLEEP, 1);
    if (!channel.pending) wait(words, MACHINE.ASLEEP, 1);
    store(words, MACHINE.ASLEEP, 0);
  };
  return {
    serve: () => {
      for (;;) {
        while (channel.take(record)) channel.reply(1);
        policy.untilReady(pending, sleep);
      }
    },
  };
}
