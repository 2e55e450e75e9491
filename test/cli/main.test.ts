import { type SpawnSyncReturns, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));

const STORY = `version: 1
name: one transfer
machine:
  memory: 128MiB
  iommu: { mode: on }
devices:
  disk0: { kind: disk }
domains:
  drv: { kind: driver, devices: [disk0], program: { use: transfer-back, with: { frontends: 1 } } }
  guest: { kind: domU, program: { use: transfer-front, with: { backend: drv, pages: 4, bytes: 32KiB } } }
parameters:
  disk: { about: the file behind the disk, kind: file }
expect:
  - report: { domain: guest, key: bytes, equals: 32768 }
`;

let folder = "";
let story = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "gfn2mfn-cli-"));
  story = write("story.yaml", STORY);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function write(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

const call = (...args: readonly string[]): SpawnSyncReturns<string> =>
  spawnSync(process.execPath, [MAIN, ...args], { encoding: "utf8", cwd: folder });

/** Exit code and the one line on stderr; stdout must be empty. */
function refusal(...args: readonly string[]): readonly [number | null, string] {
  const { status, stdout, stderr } = call(...args);
  expect(stdout).toBe("");
  expect(stderr.trimEnd().split("\n")).toHaveLength(1);
  return [status, stderr.trimEnd()];
}

describe("a wrong word ends with one line, its nearest neighbour and exit code 2 or 4", () => {
  test("an unknown scenario", () => {
    expect(refusal("run", "which-adress")).toEqual([
      2,
      'gfn2mfn: unknown scenario "which-adress"; did you mean "which-address"?',
    ]);
  });
  test("an unknown command", () => {
    expect(refusal("chek")).toEqual([2, "gfn2mfn: unknown command 'chek' (Did you mean check?)"]);
  });
  test("an unknown flag", () => {
    expect(refusal("run", story, "--engin", "explore")[0]).toBe(2);
  });
  test("a seed that is no number", () => {
    expect(refusal("run", story, "--seed", "seven")[0]).toBe(2);
  });
  test("a repetition that would run out of seeds", () => {
    const refused = refusal("run", story, "--seed", "4294967295", "--repeat", "2");
    expect(refused).toEqual([2, "gfn2mfn: --repeat: the last seed would be above 4294967295"]);
  });
  test("an unknown variant", () => {
    expect(refusal("run", story, "--variant", "defualt")).toEqual([
      2,
      'gfn2mfn: unknown variant "defualt"; did you mean "default"?',
    ]);
  });
  test("an unknown field of an override", () => {
    expect(refusal("run", story, "--set", "machine.iomu.mode=off")).toEqual([
      4,
      'gfn2mfn: --set machine.iomu: unknown key "iomu"; did you mean "iommu"?',
    ]);
  });
  test("an unknown unit of an override", () => {
    expect(refusal("run", story, "--set", "machine.memory=128MB")).toEqual([
      4,
      'gfn2mfn: --set machine.memory: unknown unit "MB"; did you mean "MiB"?',
    ]);
  });
  test("a key of a YAML file, with its line and column", () => {
    const bad = write("bad.yaml", STORY.replace("memory: 128MiB", "memroy: 128MiB"));
    expect(refusal("check", bad)).toEqual([
      4,
      'gfn2mfn: bad.yaml:4:3 machine.memroy: unknown key "memroy"; did you mean "memory"?',
    ]);
  });
  test("a program of a YAML file", () => {
    const bad = write("program.yaml", STORY.replace("use: transfer-back", "use: transfer-bakc"));
    expect(refusal("check", bad)[1]).toContain(
      'unknown program "transfer-bakc"; did you mean "transfer-back"?',
    );
  });
  test("a YAML file that is none", () => {
    const bad = write("syntax.yaml", "version: 1\nname: [\n");
    expect(refusal("check", bad)[0]).toBe(4);
    expect(refusal("check", bad)[1]).toMatch(/^gfn2mfn: syntax\.yaml:\d+:\d+ /);
  });
});

describe("a disk file that cannot be one starts nothing", () => {
  test("a file that is missing", () => {
    expect(refusal("run", story, "--disk", "nowhere")).toEqual([
      4,
      "gfn2mfn: disk file nowhere: no such file",
    ]);
  });
  test("a directory", () => {
    expect(refusal("run", story, "--disk", ".")).toEqual([
      4,
      "gfn2mfn: disk file .: is a directory",
    ]);
  });
  test("a link to itself", () => {
    const link = join(folder, "loop");
    symlinkSync(link, link);
    expect(refusal("run", story, "--disk", link)).toEqual([
      4,
      `gfn2mfn: disk file ${link}: cannot be looked at (ELOOP)`,
    ]);
  });
  test("an empty file", () => {
    const empty = write("empty", "");
    expect(refusal("run", story, "--disk", empty)).toEqual([
      4,
      `gfn2mfn: disk file ${empty}: is empty`,
    ]);
  });
});

test("list names every scenario and its variants", () => {
  const { status, stdout } = call("list", "--json");
  expect(status).toBe(0);
  const { scenarios } = JSON.parse(stdout);
  expect(scenarios.map((one: { id: string }) => one.id)).toContain("which-address");
});

test("check --print shows the resolved machine of each variant", () => {
  const { status, stdout } = call("check", story, "--print");
  expect(status).toBe(0);
  const [only] = JSON.parse(stdout);
  expect(only).toMatchObject({ variant: "default", model: { iommu: { mode: "on" } } });
});

test("a dry run starts nothing and says what would run", () => {
  const { status, stdout, stderr } = call("run", story, "-N");
  expect([status, stdout]).toEqual([0, "default\n"]);
  expect(stderr).toContain("would run");
});

test("a file may choose every part of the IOMMU, and the same bytes arrive", () => {
  const own =
    "{ mode: on, tables: separate, quarantine: scratch-page, invalidation: queue, iotlb: { entries: 64, flush: lazy } }";
  const file = write("iommu.yaml", STORY.replace("{ mode: on }", own));
  expect(call("run", file, "--engine", "explore", "--seed", "7").status).toBe(0);
  const set = ["--set", "machine.iommu.tables=shared", "--set", "machine.iommu.iotlb.entries=65"];
  expect(refusal("run", file, ...set)).toEqual([
    4,
    "gfn2mfn: --set machine.iommu.iotlb.entries: 65 is not a power of two from 1 to 256",
  ]);
});

test("an explored run gives the same JSON document twice, and nothing else on stdout", () => {
  const args = ["run", story, "--engine", "explore", "--seed", "7", "--json"];
  const [one, other] = [call(...args), call(...args)];
  expect(one.status).toBe(0);
  expect(JSON.parse(one.stdout)).toMatchObject({ schema: "gfn2mfn/result@1", ok: true });
  expect(other.stdout).toBe(one.stdout);
  expect(one.stderr).toContain("seed 7, engine explore, no overrides");
});

test("an expectation that fails ends with exit code 5 and the command that shows it again", () => {
  const wrong = write("wrong.yaml", STORY.replace("equals: 32768", "equals: 32769"));
  const { status, stderr } = call("run", wrong, "--engine", "explore");
  expect(status).toBe(5);
  expect(stderr).toContain("does not hold: guest reports bytes = 32769; got 32768");
  expect(stderr).toMatch(
    /again: npm run -s gfn2mfn -- run \S+ --engine explore --seed 1 --variant default/,
  );
});

test("a program that waits for ever is named, with exit code 6", () => {
  const text = STORY.replace("frontends: 1", "frontends: 2").split("expect:")[0] ?? "";
  const { status, stderr } = call("run", write("hang.yaml", text), "--engine", "explore");
  expect(status).toBe(6);
  expect(stderr).toContain("still waiting for: drv");
});

test("a run on threads moves the bytes that the file has", () => {
  const file = write("bytes", "x".repeat(40_000));
  const { status, stdout } = call("run", story, "--disk", file, "--json", "--no-progress");
  expect(status).toBe(0);
  const { variants } = JSON.parse(stdout);
  expect(variants[0].reports.guest.bytes).toBe(32768);
  expect(readFileSync(file).length).toBe(40_000);
});

test("xlat shows every table entry on the way of a CPU access and of a device's", () => {
  const { status, stdout } = call("xlat", story, "drv", "0x40010", "--json");
  expect(status).toBe(0);
  const chain = JSON.parse(stdout);
  expect(chain.cpu.steps.map((step: { level: number }) => step.level)).toEqual([1, 2, 3]);
  expect(chain.cpuFrame).toMatchObject({ mfn: chain.cpu.mfn, owner: "drv" });
  const [disk] = chain.devices;
  expect(disk).toMatchObject({ device: "disk0", by: "dma-direct", translatedBy: "iommu" });
  expect(disk.walk.mfn).toBe(chain.cpu.mfn);
});

test("xlat without a gfn shows what is mapped, grants too once a device moves bytes", () => {
  const { stdout } = call("xlat", story, "drv", "--at", "dma", "--json");
  const types = JSON.parse(stdout).ranges.map((range: { type: string }) => range.type);
  expect(types).toContain("grant_map_rw");
});

test("an override of the machine changes what is predicted, and what the row says", () => {
  const variant = "dom0/bare/ballooned/flat/page_to_phys";
  const options = ["--engine", "explore", "--bytes", "1", "--variant", variant, "--json"];
  const rowOf = (...more: readonly string[]) =>
    JSON.parse(call("run", "which-address", ...options, ...more).stdout).variants[0];
  expect(rowOf()).toMatchObject({ iommu: false, verdict: "wrong-frame", expected: true });
  expect(rowOf("--iommu", "on")).toMatchObject({
    iommu: true,
    translatedBy: "iommu",
    verdict: "right-frame",
    expected: true,
  });
});

/** A scenario module whose only guest runs `body`. */
const moduleOf = (name: string, body: string): string =>
  write(
    name,
    `export default { name: "one guest", machine: { memory: "128MiB" }, domains: {
      guest: { kind: "domU", memory: "8MiB", *program() { ${body} } } } };`,
  );

for (const engine of ["threads", "explore"]) {
  test(`a guest that dies on ${engine} ends the run with exit code 6 and its name`, () => {
    const path = moduleOf("death.ts", 'throw new RangeError("planted");');
    const { status, stderr } = call("run", path, "--engine", engine, "--no-progress");
    expect(status).toBe(6);
    expect(stderr).toContain("domain guest died: ");
    expect(stderr).toContain("planted");
  });

  test(`Ctrl-C stops a run on ${engine} within about a second, with exit code 130`, async () => {
    // A sleep trap, for ever.
    const path = moduleOf("sleeper.ts", "for (;;) yield { kind: 3, timeMs: 20 };");
    const child = spawn(process.execPath, [MAIN, "run", path, "--engine", engine, "-v"], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    await new Promise((resolve) => child.stderr.once("data", resolve));
    await new Promise((resolve) => setTimeout(resolve, 500));
    const pressed = performance.now();
    child.kill("SIGINT");
    const code = await new Promise((resolve) => child.once("exit", resolve));
    expect(code).toBe(130);
    expect(performance.now() - pressed).toBeLessThan(5000);
  });
}

test("Ctrl-C stops an explored run of many short variants, with exit code 130", async () => {
  const options = ["which-address", "--engine", "explore", "--bytes", "4MiB", "-v"];
  const child = spawn(process.execPath, [MAIN, "run", ...options], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  await new Promise((resolve) => child.stderr.once("data", resolve));
  await new Promise((resolve) => setTimeout(resolve, 500));
  child.kill("SIGINT");
  expect(await new Promise((resolve) => child.once("exit", resolve))).toBe(130);
});

test("a worker that dies while it boots ends the run with exit code 6 and its name", () => {
  const story = `import { isMainThread } from "node:worker_threads";
    if (!isMainThread) process.exit(3);
    export default { name: "one guest", machine: { memory: "128MiB" }, domains: {
      guest: { kind: "domU", memory: "8MiB", *program() {} } } };`;
  const { status, stderr } = call("run", write("boot-death.ts", story), "--no-progress");
  expect(status).toBe(6);
  expect(stderr).toMatch(/domain (dom0|guest) died while it booted/);
});
