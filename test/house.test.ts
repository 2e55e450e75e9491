// The style of the house as tests: every rule holds for the checkout, and every rule has been seen to
// fail on a breach planted in memory.
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { asynchrony, bannedGlobals, bigIntegers, sharedMemory } from "./house/core.ts";
import {
  bannedWords,
  defaultExports,
  fileLengths,
  fileNames,
  functionLengths,
  mfnInDomains,
  typeEscapes,
} from "./house/form.ts";
import { barrels, cycles, deadFiles, floors } from "./house/graph.ts";
import { PLANTED } from "./house/planted.ts";
import { makeHouse, type Rule, readHouse } from "./house/source.ts";
import { moduleState } from "./house/state.ts";
import { documents, machinePaths } from "./house/text.ts";

const RULES: Readonly<Record<string, readonly [claim: string, rule: Rule]>> = {
  floors: ["a folder imports only what lies below it", floors],
  cycles: ["no file needs itself, not even for a type", cycles],
  deadFiles: ["an entry of the house leads to every file", deadFiles],
  barrels: ["no file only passes on what others export", barrels],
  fileNames: ["file names are kebab-case", fileNames],
  bannedWords: ["no name contains Manager, Service or Helper", bannedWords],
  mfnInDomains: ["no translated guest holds an Mfn", mfnInDomains],
  fileLengths: ["no file is longer than 400 lines", fileLengths],
  functionLengths: ["no function is longer than 60 lines", functionLengths],
  typeEscapes: ["nobody switches the compiler off", typeEscapes],
  defaultExports: ["only scenarios and configurations have a default export", defaultExports],
  bannedGlobals: ["the core knows no clock, no chance and no outside world", bannedGlobals],
  bigIntegers: ["the core computes addresses as numbers", bigIntegers],
  asynchrony: ["the core waits only by yielding", asynchrony],
  sharedMemory: ["shared words are touched only by the modules that own them", sharedMemory],
  moduleState: ["no module of the core holds state", moduleState],
  machinePaths: ["no file names a machine or a package registry", machinePaths],
  documents: ["every pointer to the documents leads somewhere", documents],
};

describe("the house", () => {
  const house = readHouse(fileURLToPath(new URL("..", import.meta.url)));

  it("is found", () => {
    expect(house.texts.has("package.json")).toBe(true);
    expect(house.sources.some(({ path }) => path === "test/house.test.ts")).toBe(true);
  });

  it.each(Object.values(RULES))("%s", (_claim, rule) => {
    const found = rule(house).map(({ path, line, what }) => `${path}:${line} ${what}`);
    expect(found).toEqual([]);
  });
});

describe("a rule that is broken is seen to be broken", () => {
  it.each(PLANTED)("$rule: $story", ({ rule, files, finds }) => {
    const [, check] = RULES[rule] ?? [];
    const found = check?.(makeHouse(files)).map(({ path, line }) => `${path}:${line}`);
    expect(found?.toSorted()).toEqual(finds.toSorted());
  });

  it("covers every rule", () => {
    const broken = new Set(PLANTED.filter(({ finds }) => finds.length > 0).map(({ rule }) => rule));
    expect(Object.keys(RULES).filter((rule) => !broken.has(rule))).toEqual([]);
  });
});
