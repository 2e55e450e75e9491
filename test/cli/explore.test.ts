// explore, replay and stress as a person calls them: documents, exit codes, and the command that shows a failure again.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";

const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "gfn2mfn-explore-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function gfn2mfn(...args: readonly string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...args], {
    encoding: "utf8",
  });
  return { status, stdout, stderr };
}

describe("explore", () => {
  test("lists the focused stories", () => {
    const { status, stdout } = gfn2mfn("explore", "--json");
    expect(status).toBe(0);
    expect(JSON.parse(stdout).stories).toContainEqual({
      name: "revoke",
      about: expect.any(String),
    });
  });

  test("prints the catalogue of mutants in one document", () => {
    const { status, stdout } = gfn2mfn("explore", "--mutants", "M06,M05", "--seeds", "2", "--json");
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toEqual({
      mutants: [
        {
          id: "M06",
          found: true,
          seeds: 2,
          schedulesMedian: expect.any(Number),
          schedulesMax: expect.any(Number),
          budget: 400,
          check: "I-13",
          forcedSwitches: 0,
          shrinkMs: expect.any(Number),
          replayed: 2,
        },
      ],
      outOfReach: [{ id: "M05", why: expect.stringContaining("lanes") }],
    });
  });

  test("says when an enumeration has finished", () => {
    const { status, stdout } = gfn2mfn("explore", "copy-pinned", "--strategy", "dpor");
    expect(status).toBe(0);
    expect(stdout).toMatch(/nothing found; finished/);
    const limited = gfn2mfn("explore", "revoke", "--strategy", "dpor", "--schedules", "5");
    expect(limited.stdout).toMatch(/not finished/);
  });

  test("explores a whole scenario, with the machine's kernels", () => {
    const { status, stdout } = gfn2mfn("explore", "which-address", "--schedules", "2", "--json");
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ schedules: 2, failures: [] });
  });

  test.each([
    [["explore", "revoke", "--strategy", "dpr"], 'unknown strategy "dpr"; did you mean "dpor"?'],
    [
      ["explore", "revoke", "--strategy", "dpor", "--memory", "relaxed"],
      "--strategy dpor: in relaxed",
    ],
    [["explore", "revoke", "--memory", "weak"], "Allowed choices are sc, tso, relaxed"],
    [["explore", "revoke", "--faults", "F-11,"], 'unknown fault ""'],
    [["explore", "--faults"], "--faults: of which story?"],
    [["explore", "revoke", "--variant", "x"], "--variant: only a scenario has one"],
    [["explore", "--mutants", "M99"], 'unknown mutant "M99"'],
    [["explore", "revoke", "--set", "machine.memory=1MiB"], "--set: a story has no machine.memory"],
    [["stress", "revoke", "sned"], 'unknown story "sned"; did you mean "send"?'],
  ])("%j is refused in one line", (args, line) => {
    const { status, stderr } = gfn2mfn(...args);
    expect(status).toBe(2);
    expect(stderr.trim().split("\n").at(-1)).toContain(line);
  });
});

describe("a failure", () => {
  const file = join(folder, "m01.json");
  const page = join(folder, "m01.html");

  test("is told, written and made again", () => {
    const found = gfn2mfn("explore", "--mutant", "M01", "--record", file, "--html", page);
    expect(found.status).toBe(5);
    expect(found.stdout).toMatch(/^FAIL I-/);
    expect(found.stdout).toContain(`again: npm run -s gfn2mfn -- replay ${file}`);
    expect(readFileSync(page, "utf8")).toMatch(/^<!doctype html>/);
    const again = gfn2mfn("replay", file);
    expect(again.status).toBe(5);
    expect(again.stdout).toContain("the failure of the recording");
    expect(again.stdout).not.toContain("diverged");
  });

  test("of weak memory is made again in the strongest memory that shows it", () => {
    const weak = join(folder, "m52.json");
    const found = gfn2mfn("explore", "--mutant", "M52", "--memory", "relaxed", "--record", weak);
    expect(found.status).toBe(5);
    expect(found.stdout).toMatch(/^FAIL I-39/);
    expect(found.stdout).toContain("may race: arguments of hypercalls");
    expect(JSON.parse(readFileSync(weak, "utf8")).config).toMatchObject({ memory: "tso" });
    const again = gfn2mfn("replay", weak);
    expect(again.stdout).toContain("the failure of the recording");
    expect(again.stdout).not.toContain("diverged");
  });

  test("has a command that shows it again without a file", () => {
    const found = gfn2mfn("explore", "--mutant", "M09", "--json");
    const { command, failure } = JSON.parse(found.stdout);
    const words: readonly string[] = command.split(" -- ")[1].replaceAll("'", "").split(" ");
    const again = JSON.parse(gfn2mfn(...words, "--json").stdout);
    expect(again.failure.traceHash).toBe(failure.traceHash);
  });

  test("of a fault is told however few schedules somebody has asked for", () => {
    const args = ["copy-refused", "--mutant", "M67", "--faults", "kill B", "--schedules", "1"];
    const { status, stdout } = gfn2mfn("explore", ...args);
    expect(status).toBe(5);
    expect(stdout).toMatch(/^FAIL I-15/);
  });

  test("of a file that is none is a set-up error", () => {
    const none = join(folder, "none.json");
    writeFileSync(none, "{}");
    const { status, stderr } = gfn2mfn("replay", none);
    expect(status).toBe(4);
    expect(stderr).toContain("is no recording of the format schedule/1");
  });
});

describe("stress", () => {
  test("goes on from its file", () => {
    const state = join(folder, "campaign.json");
    const args = ["stress", "copy-pinned", "--jobs", "1", "--state", state, "--json"];
    const first = JSON.parse(gfn2mfn(...args, "--schedules", "4000").stdout);
    const second = JSON.parse(gfn2mfn(...args, "--schedules", "8000").stdout);
    expect([first.schedules, second.schedules]).toEqual([4000, 8000]);
    expect(second).toMatchObject({ blind: null, failures: [] });
  });

  test.each([
    ["copy-pinned", "null"],
    ["thread-iommu", "null"],
    ["copy-pinned", undefined],
    ["thread-iommu", undefined],
  ])("of %s says before it begins that its file is none, or cannot be: %s", (name, content) => {
    const state = join(folder, content === undefined ? "no-folder/c.json" : "null.json");
    if (content !== undefined) writeFileSync(state, content);
    const { status, stderr } = gfn2mfn("stress", name, "--minutes", "9", "--state", state);
    expect(status).toBe(4);
    const lines = stderr.trim().split("\n");
    expect(lines).toEqual([expect.stringContaining(`${state}: `)]);
  });
  const race = fileURLToPath(new URL("../scenarios/shared-word.ts", import.meta.url));

  test("of a scenario goes on from its file, and of that scenario only", () => {
    const state = join(folder, "runs.json");
    const args = ["--jobs", "1", "--state", state, "--json"];
    const runs = (schedules: string): number =>
      JSON.parse(gfn2mfn("stress", "thread-iommu", ...args, "--schedules", schedules).stdout).runs;
    expect([runs("1"), runs("3")]).toEqual([1, 3]);
    const other = gfn2mfn("stress", race, ...args);
    expect(other.status).toBe(4);
    expect(other.stderr).toContain("is about thread-iommu");
  });

  test("shows a failure of real threads again in one thread, by a command", () => {
    const found = gfn2mfn("stress", race, "--schedules", "4", "--json");
    expect(found.status).toBe(5);
    const { failures } = JSON.parse(found.stdout);
    const [failure] = failures;
    expect(failure.problems).toEqual([expect.stringContaining("no count is lost")]);
    expect(failure.explored).toMatch(/^npm run -s gfn2mfn -- explore .* --schedules 1/);
    const words = failure.explored.split(" -- ")[1].replaceAll("'", "").split(" ");
    const again = gfn2mfn(...words);
    expect(again.status).toBe(5);
    expect(again.stdout).toContain("no count is lost");
  });
});
