/**
 * Runs the variants of a scenario, one after the other, each on a machine of its own; the next one's machine
 * boots while the last one runs. Rules: results come in the order of the variants; after an interruption
 * or a bug of ours nothing more is started; whatever was booted is taken down.
 * Ours.
 */

import type { Scheduler } from "../explore/scheduler.ts";
import { openHost } from "../platform/host.ts";
import { WorkerDeath } from "../platform/node.ts";
import type { Row } from "../shared/scenario.ts";
import type {
  BootedMachine,
  Ending,
  Engine,
  EngineName,
  EngineOptions,
  Finished,
} from "./engine.ts";
import {
  EXIT_BUG,
  EXIT_DOMAIN,
  EXIT_EXPECTATION,
  EXIT_INTERRUPTED,
  EXIT_SUCCESS,
} from "./exit-codes.ts";
import { judge } from "./final-state.ts";
import { diskFileOf } from "./parameters.ts";
import type { Prepared } from "./prepare.ts";
import type { Recorder } from "./recording.ts";

export interface VariantResult {
  readonly variant: string;
  readonly seed: number;
  readonly code: number;
  /** Absent when the run did not come to its end. */
  readonly row?: Row;
  /** What went wrong, a line each; empty for a good run. */
  readonly problems: readonly string[];
  readonly reports: Finished["reports"];
  readonly durationMs: number;
}

export interface RunWatch {
  /** A variant's machine starts to run. */
  started(prepared: Prepared, index: number, count: number): void;
  progress(prepared: Prepared, text: string): void;
  ended(result: VariantResult): void;
}

export interface RunControl {
  readonly engine: EngineName;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  /** Where the run is written down; only one variant may run then. */
  readonly recorder?: Recorder;
  /** One-thread engine: who chooses instead of the seeded walk; every access is a point then. */
  readonly scheduler?: Scheduler;
  /** Delays the programs of a threaded machine at their points. */
  readonly delaySeed?: number;
}

/** Runs every prepared variant. A machine that cannot be built rejects; a worker that dies in its boot is a result. */
export async function runVariants(
  variants: readonly Prepared[],
  control: RunControl,
  watch: RunWatch,
): Promise<readonly VariantResult[]> {
  const boot = await engineOf(control.engine);
  const results: VariantResult[] = [];
  let next = bootAt(boot, variants, 0, control, watch);
  try {
    for (const [i, prepared] of variants.entries()) {
      const booted = await next.catch((error: unknown) => {
        // A boot that the person has stopped fails as anything would that is torn away.
        if (control.signal.aborted) return undefined;
        if (error instanceof WorkerDeath) return error;
        throw error;
      });
      if (booted === undefined) break;
      if (booted instanceof WorkerDeath) {
        const dead = deadOnArrival(prepared, booted);
        watch.ended(dead);
        results.push(dead);
        break;
      }
      next = bootAt(boot, variants, i + 1, control, watch);
      watch.started(prepared, i, variants.length);
      const result = await runBooted(booted, prepared);
      watch.ended(result);
      results.push(result);
      if (result.code === EXIT_INTERRUPTED || result.code === EXIT_BUG) break;
    }
  } finally {
    await (await next.catch(() => undefined))?.discard();
  }
  return results;
}

/** A worker that died before its machine ran: the same outcome as a death while it runs. */
function deadOnArrival(prepared: Prepared, death: WorkerDeath): VariantResult {
  return {
    variant: prepared.resolved.variant,
    seed: prepared.choice.seed,
    code: death.part === "hypervisor" ? EXIT_BUG : EXIT_DOMAIN,
    problems: [`${death.part} died while it booted: ${death.message}`],
    reports: [],
    durationMs: 0,
  };
}

async function engineOf(name: EngineName): Promise<Engine> {
  if (name === "explore") return (await import("./engine-explore.ts")).bootExplored;
  return (await import("./engine-threads.ts")).bootThreaded;
}

/** Boots variant `index`; undefined when there is none, or nobody wants it any more. */
function bootAt(
  boot: Engine,
  variants: readonly Prepared[],
  index: number,
  control: RunControl,
  watch: RunWatch,
): Promise<BootedMachine | undefined> {
  const prepared = variants[index];
  if (prepared === undefined || control.signal.aborted) return Promise.resolve(undefined);
  const options: EngineOptions = {
    timeoutMs: control.timeoutMs,
    signal: control.signal,
    progress: (text) => watch.progress(prepared, text),
    ...(control.recorder === undefined ? {} : { recorder: control.recorder }),
    ...(control.scheduler === undefined ? {} : { scheduler: control.scheduler }),
    ...(control.delaySeed === undefined ? {} : { delaySeed: control.delaySeed }),
  };
  const booting = boot(prepared, options);
  // Whoever awaits it hears of a failure; until then it is nobody's unhandled rejection.
  booting.catch(() => {});
  return booting;
}

/** Runs one booted machine to its end and judges it; the result holds nothing of the machine. */
export async function runBooted(booted: BootedMachine, prepared: Prepared): Promise<VariantResult> {
  const { variant } = prepared.resolved;
  const { seed } = prepared.choice;
  const started = performance.now();
  const finished = await booted.run();
  const durationMs = performance.now() - started;
  const common = { variant, seed, reports: finished.reports, durationMs };
  const { ending } = finished;
  if (ending.kind !== "finished") {
    return { ...common, code: codeOf(ending), problems: problemsOf(ending, finished) };
  }
  const host = openHost(diskFileOf(prepared.choice.parameters));
  try {
    const { row, expectations } = judge(prepared, finished, host);
    const failed = expectations.filter((expectation) => !expectation.holds);
    const problems = failed.map(({ claim, got }) =>
      got === undefined ? `does not hold: ${claim}` : `does not hold: ${claim}; got ${got}`,
    );
    return {
      ...common,
      row,
      problems,
      code: failed.length === 0 ? EXIT_SUCCESS : EXIT_EXPECTATION,
    };
  } finally {
    host.close();
  }
}

function codeOf(ending: Ending): number {
  switch (ending.kind) {
    case "finished":
      return EXIT_SUCCESS;
    case "crashed":
    case "hung":
      return EXIT_DOMAIN;
    case "bug":
      return EXIT_BUG;
    case "interrupted":
      return EXIT_INTERRUPTED;
  }
}

/** Longest value that a line about a hang repeats. */
const VALUE_SHOWN = 60;

const clipped = (text: string): string =>
  text.length <= VALUE_SHOWN ? text : `${text.slice(0, VALUE_SHOWN)}…`;

function problemsOf(ending: Ending, finished: Finished): readonly string[] {
  switch (ending.kind) {
    case "finished":
      return [];
    case "crashed":
      return [`${ending.part} died: ${ending.reason}`];
    case "hung": {
      const last = finished.reports.at(-1);
      const seen =
        last === undefined
          ? "nothing was reported"
          : `last report: ${last.domain} ${last.key}=${clipped(String(last.value))}`;
      return [`still waiting for: ${ending.awaited.join(", ")}; ${seen}`, ...ending.lines];
    }
    case "bug":
      return [
        `bug in gfn2mfn: ${ending.reason}`,
        "last records of the hypervisor:",
        ...ending.lines,
      ];
    case "interrupted":
      return ["interrupted"];
  }
}
