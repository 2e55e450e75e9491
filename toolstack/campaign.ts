/**
 * A pool of threads that explores many variants at once: one task is one variant with one seed, on a machine of its
 * own. Rules: a task and its answer are plain data, so the machine stays on the thread that has stepped it and is
 * judged there; answers are asked for in the order of the variants, whichever came first; a task whose thread
 * dies answers with the name of its variant; Ctrl-C ends every thread, whatever it is at.
 * Ours.
 */
import { EmulatorBug } from "../shared/assert.ts";
import type { CampaignAnswer, CampaignTask } from "./campaign-task.ts";
import { EXIT_BUG, EXIT_INTERRUPTED } from "./exit-codes.ts";
import { openPool, type Pool } from "./pool.ts";
import type { Prepared } from "./prepare.ts";
import type { RunWatch, VariantResult } from "./run.ts";
import { errorOf } from "./thrown.ts";

export interface CampaignControl {
  /** Threads, at least one. */
  readonly jobs: number;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** Variants that the pool has been given; `follow` hears of them in order. */
export interface CampaignBatch {
  /** Settles as `runVariants` does: after an interruption or a bug of ours the rest is given up. */
  follow(watch: RunWatch): Promise<readonly VariantResult[]>;
}

export interface Campaign {
  /** Queues every variant; the pool begins at once. */
  start(variants: readonly Prepared[]): CampaignBatch;
  /** Ends every thread. */
  close(): Promise<void>;
}

export function openCampaign(control: CampaignControl): Campaign {
  const pool = openPool<CampaignTask, CampaignAnswer>(
    "./campaign-task.ts",
    "exploreVariant",
    control.jobs,
  );
  return {
    start: (variants) => startBatch(pool, variants, control),
    close: () => pool.close(),
  };
}

function startBatch(
  pool: Pool<CampaignTask, CampaignAnswer>,
  variants: readonly Prepared[],
  control: CampaignControl,
): CampaignBatch {
  const rest = new AbortController();
  const signal = AbortSignal.any([control.signal, rest.signal]);
  const answers = variants.map((prepared) =>
    pool
      .run(taskOf(prepared, control.timeoutMs), signal)
      .catch((error: unknown) => ({ result: endedEarly(prepared, error, signal.aborted) })),
  );
  return {
    follow: async (watch) => {
      const results: VariantResult[] = [];
      try {
        for (const [i, prepared] of variants.entries()) {
          watch.started(prepared, i, variants.length);
          const result = resultOf(await answers[i]);
          watch.ended(result);
          results.push(result);
          if (result.code === EXIT_INTERRUPTED || result.code === EXIT_BUG) break;
        }
      } finally {
        rest.abort();
      }
      return results;
    },
  };
}

function taskOf({ loaded, choice }: Prepared, timeoutMs: number): CampaignTask {
  const { id, module, file, composition } = loaded;
  const source = { id, module, file };
  return {
    source: composition === undefined ? source : { ...source, composition },
    choice,
    timeoutMs,
  };
}

/** A task that has no answer: the person stopped it, or its thread is gone. */
function endedEarly(prepared: Prepared, error: unknown, stopped: boolean): VariantResult {
  const { variant, seed } = prepared.choice;
  const reason = error instanceof Error ? error.message : String(error);
  return {
    variant,
    seed,
    code: stopped ? EXIT_INTERRUPTED : EXIT_BUG,
    problems: [stopped ? "interrupted" : `the thread that explored it died: ${reason}`],
    reports: [],
    durationMs: 0,
  };
}

function resultOf(answer: CampaignAnswer | undefined): VariantResult {
  if (answer === undefined) throw new EmulatorBug("a variant was never queued");
  if ("thrown" in answer) throw errorOf(answer.thrown);
  return answer.result;
}
