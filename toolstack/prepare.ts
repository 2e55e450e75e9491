/**
 * Everything about a run that is decided before it starts: the scenario's shape, its parameters, and the
 * machine of every variant. What this lets through can be booted.
 * Ours.
 */
import type { Kernel } from "../domains/kernel.ts";
import { unknownName } from "../shared/nearest.ts";
import { type Resolved, resolve, specOf, variantsOf } from "../shared/resolve.ts";
import { ScenarioError, type Values } from "../shared/scenario.ts";
import type { Setting } from "../shared/settings.ts";
import { LoadError, UsageError } from "./exit-codes.ts";
import type { LoadedScenario } from "./load.ts";
import { givenParameters, parameterValues } from "./parameters.ts";

export interface Wish {
  readonly seed: number;
  readonly settings: readonly Setting[];
  /** Names of the variants to run; empty: all. */
  readonly variants: readonly string[];
}

/** One machine to boot: what every worker resolves again for itself. */
export interface Prepared {
  readonly loaded: LoadedScenario;
  readonly resolved: Resolved<Kernel>;
  readonly choice: {
    readonly variant: string;
    readonly settings: readonly Setting[];
    readonly parameters: Values;
    readonly seed: number;
  };
}

/** Resolves every wished variant. A LoadError says `file:line:col key: message` where the place is known. */
export async function prepare(loaded: LoadedScenario, wish: Wish): Promise<readonly Prepared[]> {
  const known = variantsOf(loaded.scenario).map((variant) => variant.name);
  checkUnique(loaded, known);
  for (const name of wish.variants) {
    if (!known.includes(name)) throw new UsageError(unknownName("variant", name, known));
  }
  const wished =
    wish.variants.length === 0 ? known : known.filter((n) => wish.variants.includes(n));
  try {
    const parameters = parameterValues(
      loaded.scenario.parameters ?? {},
      givenParameters(wish.settings),
    );
    const prepared: Prepared[] = [];
    for (const variant of wished) {
      const choice = { variant, settings: wish.settings, parameters, seed: wish.seed };
      await checkShape(loaded, choice);
      prepared.push({ loaded, choice, resolved: resolve(loaded.scenario, choice) });
    }
    return prepared;
  } catch (error) {
    if (error instanceof ScenarioError) throw placed(loaded, error, wish);
    throw error;
  }
}

function checkUnique(loaded: LoadedScenario, names: readonly string[]): void {
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw new LoadError(`${loaded.file} variants: two are named "${twice}"`);
}

/** The shape is judged after variant and settings have been applied: they may name fields as well. */
async function checkShape(loaded: LoadedScenario, choice: Prepared["choice"]): Promise<void> {
  const { shapeFindings, typescriptScenario } = await import("./schema.ts");
  const [finding] = shapeFindings(typescriptScenario, specOf(loaded.scenario, choice));
  if (finding === undefined) return;
  throw new ScenarioError(finding.path.map(String).join("."), finding.message);
}

const isWithin = (path: string, outer: string): boolean =>
  path === outer || path.startsWith(`${outer}.`);

/** Where the person wrote it: on the command line, or in the file. */
function placed(loaded: LoadedScenario, error: ScenarioError, wish: Wish): LoadError {
  const setting = wish.settings.findLast(
    ({ path }) => isWithin(error.path, path) || isWithin(path, error.path),
  );
  if (setting?.flag !== undefined) return new LoadError(`${setting.flag}: ${error.reason}`);
  if (setting !== undefined) return new LoadError(`--set ${error.message}`);
  const at = loaded.position(error.path.split("."), false);
  const place = at === undefined ? loaded.file : `${loaded.file}:${at.line}:${at.column}`;
  return new LoadError(`${place} ${error.message}`);
}
