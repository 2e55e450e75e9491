/**
 * A whole machine from nothing on threads, against as many empty workers; and a transfer of the founding experiment
 * from its first program's start to its verdict.
 */
import { Worker } from "node:worker_threads";
import type { EngineOptions } from "../../toolstack/engine.ts";
import { bootThreaded } from "../../toolstack/engine-threads.ts";
import { loadScenario } from "../../toolstack/load.ts";
import { type Prepared, prepare } from "../../toolstack/prepare.ts";
import { awaitedProbe, compare, type Pace, type Probe } from "../measure.ts";
import { type Row, rowOf, short } from "../rows.ts";
import { startProbe } from "../workers.ts";
import type { Bench } from "../yardsticks.ts";

const VARIANT = "dom0/iommu/unpopulated/flat/dma-layer";
const BYTES = 64 * 1024 ** 2;
const PAGES = BYTES / 4096;
const NS_PER_MS = 1e6;
/** A boot takes a tenth of a second. */
const BOOTS_A_ROUND = 2;
const TIMEOUT_MS = 30_000;

const optionsOf = (): EngineOptions => ({
  timeoutMs: TIMEOUT_MS,
  signal: new AbortController().signal,
  progress: () => {},
});

async function preparedVariant(path: string): Promise<Prepared> {
  const settings = [
    { path: "parameters.disk", value: path },
    { path: "parameters.bytes", value: BYTES },
  ];
  const loaded = await loadScenario("which-address");
  const [prepared] = await prepare(loaded, { seed: 1, settings, variants: [VARIANT] });
  if (prepared === undefined) throw new Error(`there is no variant ${VARIANT}`);
  return prepared;
}

/** `count` workers at once that say that they are there. */
async function emptyWorkers(count: number): Promise<void> {
  const source = 'require("node:worker_threads").parentPort.postMessage(0)';
  const workers = Array.from({ length: count }, () => new Worker(source, { eval: true }));
  await Promise.all(
    workers.map(
      (worker) =>
        new Promise<void>((resolve, reject) => {
          worker.once("message", () => resolve());
          worker.once("error", reject);
        }),
    ),
  );
  await Promise.all(workers.map((worker) => worker.terminate()));
}

export async function bootRows(bench: Bench): Promise<readonly Row[]> {
  const prepared = await preparedVariant(bench.path);
  const { model } = prepared.resolved;
  const domains = model.domains.filter((domain) => domain.atBoot && domain.runs).length;
  const workers = 1 + model.devices.length + domains;
  const pace: Pace = { ...bench.pace, chunks: BOOTS_A_ROUND };
  const boots = awaitedProbe("boot", async () => {
    const machine = await bootThreaded(prepared, optionsOf());
    await machine.discard();
  });
  const empty = awaitedProbe("empty workers", () => emptyWorkers(workers));
  const spec = {
    name: `machine on threads, ${workers} workers: boot and end (23)`,
    unit: "ms",
    scale: NS_PER_MS,
    yardstick: "empty",
    target: { most: 1.15 },
  };
  return [rowOf(spec, await compare(boots, empty, pace)), await experimentRow(bench, prepared)];
}

/** The experiment's own path: grants mapped, DMA addresses made, bytes moved, hashed, unmapped. */
async function experimentRow(bench: Bench, prepared: Prepared): Promise<Row> {
  const plain = await startProbe("file-read", { path: bench.path });
  const runs: Probe = {
    ...awaitedProbe("experiment", async () => {}),
    round: transfersOf(prepared),
  };
  try {
    const pace: Pace = { ...bench.pace, rounds: Math.min(3, bench.pace.rounds) };
    const comparison = await compare(runs, plain, pace);
    const rate = (BYTES / 1024 ** 2 / (comparison.measured.p50 * PAGES)) * 1e9;
    return rowOf(
      {
        name: "founding experiment, 64 MiB end to end, a page",
        yardstick: "read",
        note: `${short(rate)} MiB/s, from the programs' start to the end of the machine`,
      },
      comparison,
    );
  } finally {
    await plain.close();
  }
}

/** A round is one run of the booted machine: one sample, nanoseconds a page. */
const transfersOf = (prepared: Prepared) => async (): Promise<Float64Array> => {
  const machine = await bootThreaded(prepared, optionsOf());
  const startedMs = performance.now();
  const { ending } = await machine.run();
  const elapsedMs = performance.now() - startedMs;
  if (ending.kind !== "finished") throw new Error(`the experiment has ${ending.kind}`);
  return Float64Array.of((elapsedMs * NS_PER_MS) / PAGES);
};
