/** `run --record` and `dump` as a person uses them: live, from recordings, and with everything that can be wrong. */
import { type SpawnSyncReturns, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { type DumpOptions, dump } from "../../cli/dump.ts";
import { type RunOptions, run } from "../../cli/run.ts";
import { SetupError, UsageError } from "../../toolstack/exit-codes.ts";

const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));

const STORY = `version: 1
name: one transfer
machine:
  memory: 64MiB
  iommu: { mode: on }
devices:
  disk0: { kind: disk }
domains:
  dom0: { kind: dom0, memory: 8MiB }
  drv: { kind: driver, memory: 4MiB, devices: [disk0], program: { use: transfer-back, with: { frontends: 1 } } }
  guest: { kind: domU, memory: 4MiB, program: { use: transfer-front, with: { backend: drv, pages: 4, bytes: 32KiB } } }
parameters:
  disk: { about: the file behind the disk, kind: file }
`;

let folder = "";

const call = (...args: readonly string[]): SpawnSyncReturns<string> =>
  spawnSync(process.execPath, [MAIN, ...args], { encoding: "utf8", cwd: folder });

/** A path in the test's folder, as a person who stands elsewhere would write it. */
const at = (name: string): string => join(folder, name);

function write(name: string, text: string): string {
  writeFileSync(at(name), text);
  return at(name);
}

const RUN = {
  engine: "explore",
  repeat: 1,
  timeout: 60_000,
  progress: false,
  color: "never",
} as const;
const DUMP = { engine: "explore", timeout: 60_000, color: "never", seed: 7 } as const;

/** What a command writes to stdout. */
async function said(command: () => Promise<number>): Promise<string> {
  let text = "";
  const out = vi.spyOn(process.stdout, "write").mockImplementation((chunk) => {
    text += String(chunk);
    return true;
  });
  const err = vi.spyOn(process.stderr, "write").mockImplementation(() => true);
  try {
    expect(await command()).toBe(0);
  } finally {
    out.mockRestore();
    err.mockRestore();
  }
  return text;
}

const record = (name: string, over: Partial<RunOptions> = {}): Promise<string> =>
  said(() => run([at("story.yaml")], { ...RUN, seed: 7, quiet: true, record: at(name), ...over }));
const dumped = (target: string, over: Partial<DumpOptions> = {}): Promise<string> =>
  said(() => dump(target, { ...DUMP, ...over }));

/** The error that a command ends with: its class decides the exit code, its message is the one line. */
async function refused(
  target: string,
  over: Partial<DumpOptions> = {},
): Promise<readonly [code: number, line: string]> {
  try {
    await dumped(target, over);
  } catch (error) {
    if (error instanceof UsageError) return [2, error.message];
    if (error instanceof SetupError) return [4, error.message];
    throw error;
  }
  return [0, "nothing is refused"];
}

const EXPLORED = "explored.g2m.jsonl";
const PACKED = "explored.g2m.jsonl.gz";
const THREADED = "threaded.g2m.jsonl.gz";
let lines: readonly string[] = [];
let steps = 0;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "gfn2mfn-dump-"));
  write("story.yaml", STORY);
  await record(EXPLORED);
  lines = readFileSync(at(EXPLORED), "utf8").trimEnd().split("\n");
  steps = JSON.parse(lines.at(-1) ?? "[]")[0];
}, 60_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("a recording", () => {
  test("begins with its header, has every choice in order, and ends with the hash of the run", () => {
    const header = JSON.parse(lines[0] ?? "");
    expect(header).toMatchObject({ format: "gfn2mfn/recording", version: 1, seed: 7 });
    expect(header).toMatchObject({ engine: "explore", scenario: { id: at("story.yaml") } });
    const events = lines.slice(1).map((line) => JSON.parse(line));
    const choices = events.filter(([, , type]) => type === "choice").map(([step]) => step);
    expect(choices).toEqual(Array.from({ length: steps }, (_, i) => i + 1));
    expect(events.map(([, , type]) => type)).toContain("grant.map");
    expect(events.at(-1)).toEqual([steps, -1, "end", expect.any(Number), "finished"]);
  });

  test("that is packed holds the same lines, as far as it goes when it is cut off", async () => {
    await record(PACKED);
    const bytes = readFileSync(at(PACKED));
    const text = gunzipSync(bytes).toString("utf8");
    expect(text).toBe(readFileSync(at(EXPLORED), "utf8"));
    writeFileSync(at("cut.jsonl.gz"), bytes.subarray(0, bytes.length / 2));
    expect(await dumped(at("cut.jsonl.gz"), { what: "ports" })).toMatch(/^d0 dom0$/m);
  });

  test("is of one run, and says so", () => {
    const all = call("run", "which-address", "--record", "all.jsonl");
    expect([all.status, all.stdout, all.stderr]).toEqual([
      2,
      "",
      "gfn2mfn: --record: these are 34 runs; name one variant by --variant\n",
    ]);
    const nowhere = call("run", "story.yaml", "--record", "nowhere/x.jsonl", "-q");
    expect([nowhere.status, nowhere.stderr]).toEqual([
      4,
      "gfn2mfn: nowhere/x.jsonl: cannot be written (ENOENT)\n",
    ]);
  });
});

describe("dump", () => {
  const half = (): number => Math.floor(steps / 2);
  const parsed = async (target: string, over: Partial<DumpOptions> = {}) =>
    JSON.parse(await dumped(target, { ...over, json: true }));

  test("shows at each step of a recording what the live run shows there", async () => {
    for (const moment of [{ at: half() }, {}]) {
      const live = await parsed(at("story.yaml"), moment);
      expect(live).toMatchObject({ schema: "gfn2mfn/dump@1" });
      expect(await parsed(at(EXPLORED), moment)).toEqual(live);
    }
  });

  test("shows other tables at another step, and --diff which", async () => {
    const early = await parsed(at(EXPLORED), { at: 0, what: "ports,maptrack" });
    const late = await parsed(at(EXPLORED), { at: half(), what: "ports,maptrack" });
    expect(early.domains).not.toEqual(late.domains);
    const text = await dumped(at(EXPLORED), { at: half(), diff: 0, what: "ports", dom: ["guest"] });
    expect(text).toMatch(/^d2 guest$/m);
    expect(text).toMatch(/^ +\+ .*interdomain/m);
    expect(text).not.toMatch(/^d1/m);
  });

  test("takes a domain by name or id, and only the tables that are named", async () => {
    const what = "p2m,grants";
    const byName = await parsed(at(EXPLORED), { dom: ["drv"], what });
    expect(await parsed(at(EXPLORED), { dom: ["1"], what })).toEqual(byName);
    expect(byName.domains.map(({ name }: { name: string }) => name)).toEqual(["drv"]);
    expect(Object.keys(byName.domains[0].sections)).toEqual(["p2m", "grants"]);
  });

  test("of a threaded run is of its end when it was recorded, and of any record when it is live", async () => {
    await record(THREADED, { engine: "threads" });
    const recorded = await parsed(at(THREADED));
    expect(recorded.source.engine).toBe("threads");
    const [drv] = recorded.domains.filter(({ name }: { name: string }) => name === "drv");
    expect(drv.sections.p2m.length).toBeGreaterThan(0);
    expect(drv.sections.ports.length).toBeGreaterThan(1);
    expect(drv.head.mappings).toBe(0);
    expect(await refused(at(THREADED), { at: 3 })).toEqual([
      2,
      `${at(THREADED)} was recorded on threads: it has the state of its end only, which is record ${recorded.records}`,
    ]);
    const live = await parsed(at("story.yaml"), { engine: "threads", at: 40 });
    expect(live.records).toBeGreaterThanOrEqual(40);
    expect(live.domains.map(({ name }: { name: string }) => name)).toEqual([
      "dom0",
      "drv",
      "guest",
    ]);
  }, 60_000);
});

describe("what is wrong is said in one line, with the exit code of whose fault it is", () => {
  const story = (): string => at("story.yaml");
  const cases: readonly (readonly [string, Partial<DumpOptions>, string])[] = [
    ["a table", { what: "p2m,grant" }, '--what: unknown table "grant"; did you mean "grants"?'],
    ["a domain", { dom: ["drw"] }, '--dom: unknown domain "drw"; did you mean "drv"?'],
    ["an id", { dom: ["99"] }, '--dom: unknown domain "99"'],
    ["a domain that is not there", { dom: ["5"] }, "--dom: 5 does not exist by then"],
    ["equal steps", { at: 3, diff: 3 }, "--diff: step 3 is the step of --at"],
    [
      "a difference on threads",
      { engine: "threads", diff: 3 },
      "--diff: a run on threads is looked at once; use --engine explore",
    ],
  ];
  test.each(cases)("%s", async (_, options, text) => {
    expect(await refused(story(), options)).toEqual([2, expect.stringContaining(text)]);
  });

  test("on the command line", () => {
    const { status, stdout, stderr } = call("dump", "none.jsonl");
    expect([status, stdout, stderr]).toEqual([4, "", "gfn2mfn: none.jsonl: no such file\n"]);
    const wrong = call("dump", "story.yaml", "--at", "soon");
    expect([wrong.status, wrong.stderr.split("\n")]).toEqual([2, [expect.any(String), ""]]);
  });

  test("a step beyond the end, live and recorded", async () => {
    const text = `step 99999999 is beyond the end of the run, which is step ${steps}`;
    expect(await refused(at(EXPLORED), { at: 99999999 })).toEqual([2, text]);
    expect(await refused(story(), { at: 99999999 })).toEqual([2, text]);
  });

  const broken = (name: string, change: (all: string[]) => void): string => {
    const copy = [...lines];
    change(copy);
    return write(name, copy.join("\n"));
  };
  const header =
    (edit: (one: Record<string, unknown>) => void) =>
    (all: string[]): void => {
      const own = JSON.parse(all[0] ?? "");
      edit(own);
      all[0] = JSON.stringify(own);
    };

  test("a recording of another version, another scenario, another format", async () => {
    const newer = broken(
      "newer.jsonl",
      header((one) => {
        one.version = 2;
      }),
    );
    expect(await refused(newer)).toEqual([
      4,
      `${newer}: is a recording of version 2; this gfn2mfn reads version 1`,
    ]);
    const other = broken(
      "other.jsonl",
      header((one) => {
        one.seed = 8;
      }),
    );
    expect(await refused(other)).toEqual([
      4,
      `${other}: was recorded with another ${story()} than there is now`,
    ]);
    const empty = write("empty.jsonl", "");
    expect(await refused(empty)).toEqual([4, `${empty}: is no recording of a run`]);
    const noGzip = write("bad.jsonl.gz", "no gzip");
    expect(await refused(noGzip)).toEqual([4, `${noGzip}: cannot be unpacked`]);
  });

  test("a line that is no event is named; a last line that was cut off is left out", async () => {
    const half = broken("half.jsonl", (all) => {
      all[5] = "[1,";
    });
    expect(await refused(half)).toEqual([4, `${half}:6: is not an event`]);
    const cut = broken("cut.jsonl", (all) => {
      all.splice(40, all.length, "[17,");
    });
    expect(await dumped(cut, { what: "ports" })).toMatch(/^d0 dom0$/m);
  });

  test("a replay that goes another way is refused, not shown", async () => {
    const swapped = broken("swapped.jsonl", (all) => {
      const place = all.findIndex((line, i) => i > 200 && line.includes('"choice"'));
      const [step, , , slot] = JSON.parse(all[place] ?? "");
      all[place] = JSON.stringify([step, 0, "choice", slot === 3 ? 4 : 3]);
    });
    const [code, line] = await refused(swapped);
    expect(code).toBe(4);
    expect(line.slice(swapped.length)).toMatch(/^: the replay parts from it by step \d+/);
  });
});
