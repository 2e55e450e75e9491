// The channel between two real threads: records arrive once, in order and whole, whoever sleeps when.
import { Worker } from "node:worker_threads";
import { describe, expect, it } from "vitest";
import { LINE, layoutOf, lineOf, SLOT_KIND_DEVICE, SLOT_LIVE } from "../../shared/layout.ts";
import { wordsOf } from "../../shared/mem.ts";
import { resolve } from "../../shared/resolve.ts";

const SLOT = 1;

function buffers() {
  const { model } = resolve(
    {
      name: "channel",
      machine: { memory: "16MiB" },
      domains: { dom0: { kind: "dom0", memory: "4MiB" } },
    },
    { settings: [], parameters: {}, seed: 1 },
  );
  const layout = layoutOf(model);
  const control = new SharedArrayBuffer(layout.words * 4);
  const words = wordsOf(control);
  words[lineOf(layout, SLOT) + LINE.KIND] = SLOT_KIND_DEVICE;
  words[lineOf(layout, SLOT) + LINE.STATE] = SLOT_LIVE;
  return { layout, control };
}

/** What a worker posts at its end. */
function answerOf(url: URL, workerData: object): Promise<unknown> {
  const worker = new Worker(url, { workerData });
  return new Promise((resolve, reject) => {
    worker.once("message", resolve);
    worker.once("error", reject);
    worker.once("exit", () => reject(new Error("the worker ended without an answer")));
  });
}

describe("a channel between two threads", () => {
  it.each(["adaptive", "blocking"])(
    "answers every call when both ends wait %s",
    async (waiting) => {
      const count = waiting === "adaptive" ? 20_000 : 3000;
      const url = new URL("./ping-worker.ts", import.meta.url);
      const start = { ...buffers(), slot: SLOT, waiting, count };
      const answers = await Promise.all([
        answerOf(url, { ...start, role: "client" }),
        answerOf(url, { ...start, role: "server" }),
      ]);
      expect(answers).toEqual([count, count]);
    },
  );

  it("publishes a record before the index that announces it (RING-MP)", async () => {
    const url = new URL("./order-worker.ts", import.meta.url);
    const start = { ...buffers(), slot: SLOT, count: 100_000 };
    const [, wrong] = await Promise.all([
      answerOf(url, { ...start, role: "writer" }),
      answerOf(url, { ...start, role: "reader" }),
    ]);
    expect(wrong).toBe(0);
  });
});
