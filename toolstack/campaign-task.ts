/**
 * What a thread of the pool does with one task: resolves the variant again, explores its machine, judges it and
 * answers with plain data. Rule: whatever is thrown is answered too, so that the pool's own rejection
 * always means that the thread is gone.
 * Ours.
 */
import { resolve } from "../shared/resolve.ts";
import { bootExplored } from "./engine-explore.ts";
import { loadAgain, type ScenarioSource } from "./load.ts";
import type { Prepared } from "./prepare.ts";
import { runBooted, type VariantResult } from "./run.ts";
import { type Thrown, thrownOf } from "./thrown.ts";

/** What a thread needs to explore one variant. */
export interface CampaignTask {
  readonly source: ScenarioSource;
  readonly choice: Prepared["choice"];
  readonly timeoutMs: number;
}

export type CampaignAnswer = { readonly result: VariantResult } | { readonly thrown: Thrown };

/** The pool ends a thread that is no longer wanted, so no signal arrives here. */
export async function exploreVariant(task: CampaignTask): Promise<CampaignAnswer> {
  try {
    const { choice, timeoutMs } = task;
    const loaded = await loadAgain(task.source);
    const prepared = { loaded, choice, resolved: resolve(loaded.scenario, choice) };
    const options = { timeoutMs, signal: new AbortController().signal, progress: () => {} };
    const booted = await bootExplored(prepared, options);
    return { result: await runBooted(booted, prepared) };
  } catch (error) {
    return { thrown: thrownOf(error) };
  }
}
