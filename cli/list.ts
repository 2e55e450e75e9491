/** `gfn2mfn list`: the scenarios that ship, one line each, those of one theme together. */

import { variantsOf } from "../shared/resolve.ts";
import { EXIT_SUCCESS } from "../toolstack/exit-codes.ts";
import { loadScenario, scenarioNames } from "../toolstack/load.ts";
import { alignTable } from "../toolstack/table.ts";

export async function list(options: { readonly json?: true }): Promise<number> {
  const rows = [];
  for (const id of scenarioNames()) {
    const { scenario } = await loadScenario(id);
    const variants = variantsOf(scenario).map((variant) => variant.name);
    const { name, about = "", theme = "", moral = "" } = scenario;
    rows.push({ id, name, about, theme, moral, variants });
  }
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ schema: "gfn2mfn/list@1", scenarios: rows })}\n`);
    return EXIT_SUCCESS;
  }
  const themes = Map.groupBy(rows, (row) => row.theme);
  const ordered = [...themes.values()].flat();
  const [header = "", ...lines] = alignTable(
    ["scenario", "variants", "about"],
    ordered.map((row) => [row.id, String(row.variants.length), row.about || row.name]),
    ["left", "right", "left"],
  );
  const out = [header];
  // What has no theme comes first, under no heading.
  for (const [theme, group] of [...themes].sort(([a], [b]) => a.localeCompare(b))) {
    const first = ordered.findIndex((row) => row.theme === theme);
    if (theme !== "") out.push("", theme);
    out.push(...lines.slice(first, first + group.length));
  }
  process.stdout.write(`${out.join("\n")}\n`);
  return EXIT_SUCCESS;
}
