/** `gfn2mfn check`: everything that `run` checks before it starts, and nothing else. */
import { modelHash } from "../shared/model-hash.ts";
import {
  EXIT_SETUP,
  EXIT_SUCCESS,
  EXIT_USAGE,
  SetupError,
  UsageError,
  worstOf,
} from "../toolstack/exit-codes.ts";
import { loadScenario } from "../toolstack/load.ts";
import { prepare } from "../toolstack/prepare.ts";
import { type MachineOptions, wishOf } from "./machine-options.ts";

export interface CheckOptions extends MachineOptions {
  readonly print?: true;
}

/** Checks every scenario named, also after one that is wrong; the worst outcome counts. */
export async function check(ids: readonly string[], options: CheckOptions): Promise<number> {
  const codes: number[] = [];
  const printed: unknown[] = [];
  for (const id of ids) {
    try {
      const variants = await prepare(await loadScenario(id), wishOf(options));
      for (const { resolved } of variants) {
        const { model, variant, facts, parameters } = resolved;
        printed.push({ scenario: id, variant, hash: modelHash(model), facts, parameters, model });
      }
      process.stderr.write(
        `${id}: ${variants.length} ${variants.length === 1 ? "variant" : "variants"}, ok\n`,
      );
      codes.push(EXIT_SUCCESS);
    } catch (error) {
      if (error instanceof UsageError) codes.push(EXIT_USAGE);
      else if (error instanceof SetupError) codes.push(EXIT_SETUP);
      else throw error;
      process.stderr.write(`gfn2mfn: ${error.message}\n`);
    }
  }
  if (options.print === true && printed.length > 0) {
    process.stdout.write(`${JSON.stringify(printed, undefined, 2)}\n`);
  }
  return codes.includes(EXIT_USAGE) ? EXIT_USAGE : worstOf(codes);
}
