// Grant tables of version 2, in the x86 profile; and each claim about them seen to fail on a bug planted into a copy of
// the sources.
import { afterAll, describe, expect, it, test } from "vitest";
import { type Patch, type PlantedTree, plant } from "../explore/planted.ts";
import { CLAIMS as OF_ENTRIES } from "./grant-v2-claims.ts";
import { BUGS_OF_ENTRIES, BUGS_OF_STATUS_FRAMES } from "./grant-v2-planted.ts";
import { CLAIMS as OF_STATUS_FRAMES } from "./status-frame-claims.ts";

describe("version 2 of a grant table on x86", () => {
  it.each(Object.entries({ ...OF_ENTRIES, ...OF_STATUS_FRAMES }))("%s", (_name, claim) => claim());
});

type Claims = typeof import("./grant-v2-claims.ts");

const trees: PlantedTree[] = [];
afterAll(() => {
  for (const tree of trees) tree.remove();
});

/** Names of the claims that fail in a copy with the patch, up to their colon. */
async function failing(what: string, file: string, patch: Patch): Promise<readonly string[]> {
  const tree = plant(`v2-${what.replace(/\W+/g, "-")}`, [patch]);
  trees.push(tree);
  const { CLAIMS } = await tree.load<Claims>(`test/hypervisor/${file}`);
  return Object.entries(CLAIMS).flatMap(([name, claim]) => {
    try {
      claim();
      return [];
    } catch {
      return [name.replace(/:.*/, "")];
    }
  });
}

describe("a bug planted into a copy of the sources", () => {
  test.each(BUGS_OF_ENTRIES)("%s: that is noticed", async (what, claims, patch) => {
    expect(await failing(what, "grant-v2-claims.ts", patch)).toEqual(
      expect.arrayContaining([...claims]),
    );
  });

  test.each(BUGS_OF_STATUS_FRAMES)("%s: that is noticed", async (what, claims, patch) => {
    expect(await failing(what, "status-frame-claims.ts", patch)).toEqual(
      expect.arrayContaining([...claims]),
    );
  });
});
