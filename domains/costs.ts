/**
 * What a part of a program has cost its domain, told to the scenario.
 *
 * Rule: the counters are the hypervisor's (shared/costs.ts); reading them is no step of the program. Ours.
 */
import { costsBetween, countsOf } from "../shared/costs.ts";
import type { Program } from "../shared/trap.ts";
import { type Kernel, report } from "./kernel.ts";

/**
 * Runs `body` and reports `NAME.hypercalls`, `NAME.superpagesSplit`, `NAME.ramGivenUp` (frames) and `NAME.tablePages`
 * that it has cost. What other tasks of the kernel do meanwhile counts too.
 */
export function* withCosts<Result>(
  kernel: Kernel,
  name: string,
  body: Program<Result>,
): Program<Result> {
  const { words, layout } = kernel.cpu;
  const before = countsOf(words, layout, kernel.boot.domid);
  const result = yield* body;
  const costs = costsBetween(before, countsOf(words, layout, kernel.boot.domid));
  for (const [what, count] of Object.entries(costs)) yield* report(`${name}.${what}`, count);
  return result;
}
