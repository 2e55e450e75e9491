/** `gfn2mfn list`: the scenarios that ship, one line each. */

import { variantsOf } from "../shared/resolve.ts";
import { EXIT_SUCCESS } from "../toolstack/exit-codes.ts";
import { loadScenario, scenarioNames } from "../toolstack/load.ts";
import { alignTable } from "../toolstack/table.ts";

export async function list(options: { readonly json?: true }): Promise<number> {
  const rows = [];
  for (const id of scenarioNames()) {
    const { scenario } = await loadScenario(id);
    const variants = variantsOf(scenario).map((variant) => variant.name);
    rows.push({ id, name: scenario.name, about: scenario.about ?? "", variants });
  }
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ schema: "gfn2mfn/list@1", scenarios: rows })}\n`);
    return EXIT_SUCCESS;
  }
  const lines = alignTable(
    ["scenario", "variants", "about"],
    rows.map((row) => [row.id, String(row.variants.length), row.about || row.name]),
    ["left", "right", "left"],
  );
  process.stdout.write(`${lines.join("\n")}\n`);
  return EXIT_SUCCESS;
}
