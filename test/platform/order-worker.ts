// Message passing between two threads, as RING-MP of the memory model: a writer fills a record and publishes it
// through the channel's index; a reader that sees the index must see the record.
import { parentPort, workerData } from "node:worker_threads";
import { Channel } from "../../shared/channel.ts";
import type { Layout } from "../../shared/layout.ts";
import { RECORD_WORDS } from "../../shared/limits.ts";
import { wordsOf } from "../../shared/mem.ts";

export interface OrderStart {
  readonly role: "writer" | "reader";
  readonly control: SharedArrayBuffer;
  readonly layout: Layout;
  readonly slot: number;
  readonly count: number;
}

const { role, control, layout, slot, count }: OrderStart = workerData;
const channel = new Channel(wordsOf(control), layout, slot);
const record = new Int32Array(RECORD_WORDS);

/** Every word of record `i` depends on `i`. */
function writeAll(): number {
  for (let i = 1; i <= count; i++) {
    record.fill(i);
    while (!channel.hasRoom) Atomics.pause();
    channel.push(record);
  }
  return 0;
}

/** Counts records that are torn, stale or out of order. */
function readAll(): number {
  let wrong = 0;
  for (let i = 1; i <= count; ) {
    if (!channel.take(record)) {
      Atomics.pause();
      continue;
    }
    if (record.some((word) => word !== i)) wrong++;
    channel.reply(0);
    i++;
  }
  return wrong;
}

parentPort?.postMessage(role === "writer" ? writeAll() : readAll());
