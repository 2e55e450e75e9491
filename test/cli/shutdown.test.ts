/** A run in which a domain shuts down: over for the run when it says so, its end when it crashes. Both engines. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { EngineName } from "../../toolstack/engine.ts";
import { loadScenario } from "../../toolstack/load.ts";
import { prepare } from "../../toolstack/prepare.ts";
import { runVariants, type VariantResult } from "../../toolstack/run.ts";

const HYPERCALLS = pathToFileURL(join(import.meta.dirname, "../../domains/hypercalls.ts")).href;

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "gfn2mfn-shutdown-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs a guest that shuts its domain down with `code`, beside another that reports and ends. */
async function runWith(engine: EngineName, code: number): Promise<VariantResult | undefined> {
  const path = join(folder, `code-${code}-${engine}.ts`);
  writeFileSync(
    path,
    `import { callWithArguments, freshArguments } from ${JSON.stringify(HYPERCALLS)};
    function* down(kernel) {
      freshArguments(kernel, 4).setUint32(0, ${code}, true);
      yield* callWithArguments(kernel, 29, 2, 4);
      yield { kind: 4, key: "back", value: 1 };
    }
    function* other() { yield { kind: 3, timeMs: 5 }; yield { kind: 4, key: "done", value: 1 }; }
    export default { name: "down", machine: { memory: "64MiB" }, domains: {
      guest: { kind: "domU", memory: "4MiB", program: down },
      other: { kind: "domU", memory: "4MiB", program: other } } };`,
  );
  const wish = { seed: 1, settings: [], variants: [] };
  const control = { engine, timeoutMs: 20_000, signal: new AbortController().signal };
  const watch = { started: () => {}, progress: () => {}, ended: () => {} };
  const [result] = await runVariants(await prepare(await loadScenario(path), wish), control, watch);
  return result;
}

describe.each(["explore", "threads"] as const)("on %s", (engine) => {
  test("a domain that powers off is over, and the others run to their end", async () => {
    const result = await runWith(engine, 0);
    expect(result).toMatchObject({ code: 0, problems: [] });
    expect(result?.reports).toEqual([{ domain: "other", key: "done", value: 1 }]);
  }, 60_000);

  test("a domain that crashes ends the run, and is named", async () => {
    const result = await runWith(engine, 3);
    expect(result).toMatchObject({
      code: 6,
      problems: ["domain guest died: crashed: shutdown code 3"],
    });
  }, 60_000);
});
