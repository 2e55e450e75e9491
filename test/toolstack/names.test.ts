import { describe, expect, test } from "vitest";
import { editDistance, nearest, unknownName } from "../../shared/nearest.ts";
import { ScenarioError } from "../../shared/scenario.ts";
import { formatSize, parseAddress, parsePages, parseSize } from "../../shared/sizes.ts";
import { readYaml } from "../../toolstack/yaml-file.ts";

describe("the nearest known name", () => {
  test("counts a swap of neighbours as one mistake", () => {
    expect(editDistance("memroy", "memory")).toBe(1);
    expect(editDistance("", "abc")).toBe(3);
  });
  test("prefers what begins alike, and suggests nothing far away", () => {
    expect(nearest("MB", ["B", "KiB", "MiB", "GiB"])).toBe("MiB");
    expect(nearest("of", ["on", "off"])).toBe("off");
    expect(nearest("banana", ["memory", "iommu"])).toBeUndefined();
  });
  test("is replaced by the whole list when nothing resembles the word", () => {
    expect(unknownName("mode", "banana", ["on", "off"])).toBe(
      'unknown mode "banana"; known: on, off',
    );
  });
  test("is one example of a long list, which begins alike where one does", () => {
    const known = Array.from({ length: 9 }, (_, i) => `number-${i}/of/a/long/list`);
    expect(unknownName("row", "number-3", known)).toBe(
      'unknown row "number-3"; there are 9, such as "number-3/of/a/long/list"',
    );
    expect(unknownName("row", "x", known)).toContain('such as "number-0/of/a/long/list"');
  });
});

describe("sizes and addresses", () => {
  test("have binary units and underscores", () => {
    expect(parseSize("p", "1.5MiB")).toBe(1_572_864);
    expect(parsePages("p", "32MiB")).toBe(8192);
    expect(parseAddress("p", "0x4000_0000")).toBe(2 ** 30);
    expect(formatSize(16 * 1024 ** 2)).toBe("16 MiB");
  });
  test("are refused with the name of their field", () => {
    const refused = [
      () => parseSize("machine.memory", "-1MiB"),
      () => parseSize("machine.memory", "0"),
      () => parsePages("machine.memory", "5KiB"),
      () => parseAddress("machine.memory", "0x1_0000_0000_0000"),
      () => parseAddress("machine.memory", "4 GiB"),
    ];
    for (const read of refused) {
      expect(read).toThrow(ScenarioError);
      expect(read).toThrow(/^machine\.memory: /);
    }
  });
});

test("a YAML file knows where each key and value stands, and the nearest place of what is missing", async () => {
  const file = await readYaml("x.yaml", "a:\n  b: [1, { c: 2 }]\n");
  expect(file.data).toEqual({ a: { b: [1, { c: 2 }] } });
  expect(file.position(["a", "b"], true)).toEqual({ line: 2, column: 3 });
  expect(file.position(["a", "b", 1, "c"], false)).toEqual({ line: 2, column: 15 });
  expect(file.position(["a", "b", 1, "d"], false)).toEqual({ line: 2, column: 10 });
});
