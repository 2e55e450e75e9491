// One end of a channel on a thread of its own: a client that pushes records through the runner, or a server
// that answers each with its first argument plus one, until it is told to stop.
import { parentPort, workerData } from "node:worker_threads";
import { openHost } from "../../platform/host.ts";
import { Runner } from "../../platform/runner.ts";
import type { Waiting } from "../../platform/worker-api.ts";
import { policyOf } from "../../platform/worker-common.ts";
import { Channel } from "../../shared/channel.ts";
import { type Layout, MACHINE } from "../../shared/layout.ts";
import { RECORD_WORDS } from "../../shared/limits.ts";
import { exchange, load, store, wait, wordsOf } from "../../shared/mem.ts";
import { hypercallTrap, type Program, RECORD_OP, recordArg, setRecord } from "../../shared/trap.ts";

export interface PingStart {
  readonly role: "client" | "server";
  readonly control: SharedArrayBuffer;
  readonly layout: Layout;
  readonly slot: number;
  readonly waiting: Waiting;
  readonly count: number;
}

const STOP_OP = 99;

const { role, control, layout, slot, waiting, count }: PingStart = workerData;
const words = wordsOf(control);

function* pings(): Program<number> {
  const call = hypercallTrap();
  for (let i = 0; i < count; i++) {
    setRecord(call.record, 1, [i]);
    const answer = yield call;
    if (answer !== i + 1) return i;
  }
  setRecord(call.record, STOP_OP, []);
  yield call;
  return count;
}

function serveAll(): number {
  const channel = new Channel(words, layout, slot);
  const record = new Int32Array(RECORD_WORDS);
  const policy = policyOf(waiting, 29);
  for (let served = 0; ; ) {
    exchange(words, MACHINE.DOORBELL, 0);
    while (channel.take(record)) {
      channel.reply(recordArg(record, 0) + 1);
      if (record[RECORD_OP] === STOP_OP) return served;
      served++;
    }
    policy.untilReady(
      () => channel.pending,
      () => {
        store(words, MACHINE.ASLEEP, 1);
        if (load(words, MACHINE.DOORBELL) === 0) wait(words, MACHINE.ASLEEP, 1);
        store(words, MACHINE.ASLEEP, 0);
      },
    );
  }
}

function runClient(): unknown {
  const policy = policyOf(waiting, 37);
  const host = openHost(undefined);
  const runner = new Runner({ words, layout, slot, policy, host, report: () => {} });
  return runner.run(pings());
}

parentPort?.postMessage(role === "client" ? runClient() : serveAll());
