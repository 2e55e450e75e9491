/** A machine of x86 by one override: the founding story on both engines, with another answer for dom0. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));

interface Row {
  readonly name: string;
  readonly verdict: string;
  readonly by: string;
  readonly expected: boolean;
}

function rows(...args: readonly string[]): readonly Row[] {
  const run = ["run", "which-address", "--set", "machine.arch=x86", "--bytes", "64KiB", "--json"];
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...run, ...args], {
    encoding: "utf8",
  });
  expect({ status, stderr }).toMatchObject({ status: 0 });
  return JSON.parse(stdout).variants;
}

const verdicts = (all: readonly Row[]): readonly (readonly [string, string, string])[] =>
  all.map(({ name, by, verdict }) => [name, by, verdict]);

test("every variant of the founding experiment is as predicted on x86, in the explorer", () => {
  const all = rows("--engine", "explore");
  expect(all).toHaveLength(34);
  expect(all.filter(({ expected }) => !expected)).toEqual([]);
}, 60_000);

test("a translated dom0 of x86 gives its gfn to the device on threads, and needs an IOMMU for it", () => {
  const variant = (name: string): readonly string[] => ["--variant", name];
  const all = rows(
    ...variant("dom0/bare/unpopulated/flat/dma-layer"),
    ...variant("dom0/iommu/unpopulated/flat/dma-layer"),
    ...variant("driver/iommu/ballooned/offset/dma-layer"),
  );
  expect(verdicts(all)).toEqual([
    ["dom0/bare/unpopulated/flat/dma-layer", "phys_to_dma", "wrong-frame"],
    ["dom0/iommu/unpopulated/flat/dma-layer", "phys_to_dma", "right-frame"],
    ["driver/iommu/ballooned/offset/dma-layer", "phys_to_dma", "right-frame"],
  ]);
}, 60_000);
