import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";

const MAIN = fileURLToPath(new URL("../../cli/main.ts", import.meta.url));

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "gfn2mfn-jobs-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const call = (...args: readonly string[]) =>
  spawnSync(process.execPath, [MAIN, "run", ...args, "--engine", "explore", "--no-progress"], {
    encoding: "utf8",
    cwd: folder,
  });

/** A scenario of three variants; `body` is the guest's program, `expect` judges, `mode` names the variant. */
function story(name: string, body: string, expectation = "[]"): string {
  const path = join(folder, name);
  writeFileSync(
    path,
    `const variant = (mode) => ({ name: mode, facts: { mode } });
    const domains = { guest: { kind: "domU", memory: "8MiB", *program() { ${body} } } };
    export default { name: "three", machine: { memory: "128MiB" }, domains,
      variants: ["one", "two", "three"].map(variant),
      expect: (state) => ({ row: { name: state.variant, seen: state.reported("guest", "n") ?? null },
        expectations: ${expectation} }) };`,
  );
  return path;
}

/** What a person and a script see, but for the lines that tell a thread's own place. */
const seen = ({ status, stdout, stderr }: ReturnType<typeof call>) => ({ status, stdout, stderr });

/** A sleep, and a report. */
const REPORTS = 'yield { kind: 3, timeMs: 5 }; yield { kind: 4, key: "n", value: 42 };';

test("two jobs give the document of one, byte for byte, with every seed and variant in order", () => {
  const args = [story("fine.ts", REPORTS), "--repeat", "2", "--seed", "7", "--json"];
  const one = call(...args, "--jobs", "1");
  expect(one.status).toBe(0);
  const { runs } = JSON.parse(one.stdout);
  expect(runs.map((run: { seed: number }) => run.seed)).toEqual([7, 8]);
  expect(runs[1].variants.map((row: { name: string }) => row.name)).toEqual([
    "one",
    "two",
    "three",
  ]);
  expect(runs[1].variants[2].seen).toBe(42);
  expect(seen(call(...args, "--jobs", "2"))).toEqual(seen(one));
});

test("which-address shows the same rows with one job and with two", () => {
  const variants = ["dma-layer", "page_to_phys"].flatMap((source) => [
    "--variant",
    `dom0/bare/unpopulated/flat/${source}`,
  ]);
  const args = ["which-address", ...variants, "--bytes", "16KiB", "--json", "--seed", "7"];
  const one = call(...args, "--jobs", "1");
  expect(one.status).toBe(0);
  expect(seen(call(...args, "--jobs", "2"))).toEqual(seen(one));
});

test("an expectation that fails in one variant comes back with exit code 5 and its command", () => {
  const wrong = '[{ claim: "it is not two", holds: state.variant !== "two", got: "two" }]';
  const args = [story("wrong.ts", REPORTS, wrong)];
  const one = call(...args, "--jobs", "1");
  expect(one.status).toBe(5);
  expect(one.stderr).toMatch(/again: .* --seed 1 --variant two\n/);
  expect(seen(call(...args, "--jobs", "2"))).toEqual(seen(one));
});

test("a program that throws comes back with exit code 6 and its command", () => {
  const args = [story("throws.ts", 'throw new RangeError("planted");')];
  const one = call(...args, "--jobs", "1");
  expect(one.status).toBe(6);
  expect(one.stderr).toContain("planted");
  expect(one.stderr).toMatch(/again: .* --seed 1 --variant three\n/);
  expect(seen(call(...args, "--jobs", "2"))).toEqual(seen(one));
});

test("a program that is not over in time comes back with exit code 6", () => {
  const path = story("hangs.ts", "for (;;) yield { kind: 3, timeMs: 20 };");
  for (const jobs of ["1", "2"]) {
    const { status, stderr } = call(path, "--timeout", "200ms", "--jobs", jobs);
    expect(status).toBe(6);
    expect(stderr.match(/still waiting for: guest/g)).toHaveLength(3);
  }
});

test("a bug of ours comes back with exit code 1 and its trace, and ends the run there", () => {
  // A task may block through its kernel alone.
  const args = [story("bug.ts", "yield { kind: 2, seen: 0 };")];
  const one = call(...args, "--jobs", "1");
  expect(one.status).toBe(1);
  expect(one.stderr).toContain("last records of the hypervisor:");
  expect(one.stderr).not.toContain("--variant two");
  expect(seen(call(...args, "--jobs", "2"))).toEqual(seen(one));
});

test("a scenario that throws while it judges ends the command with the same code", () => {
  const bad = '(() => { throw new TypeError("planted judge"); })()';
  const args = [story("judge.ts", REPORTS, bad)];
  const [one, two] = [call(...args, "--jobs", "1"), call(...args, "--jobs", "2")];
  expect(one.status).toBe(1);
  expect(one.stderr).toContain("TypeError: planted judge");
  expect(two.status).toBe(1);
  expect(two.stderr).toContain("TypeError: planted judge");
});

test("a thread that dies names the variant that it was exploring", () => {
  const path = story("exits.ts", "process.exit(3);");
  const { status, stderr } = call(path, "--jobs", "2");
  expect(status).toBe(1);
  expect(stderr).toMatch(/✗ .*exits\.ts, one: the thread that explored it died: /);
});

test("a number of jobs is refused where nothing runs side by side", () => {
  const refused = spawnSync(process.execPath, [MAIN, "run", "which-address", "--jobs", "2"], {
    encoding: "utf8",
  });
  expect([refused.status, refused.stderr]).toEqual([
    2,
    "gfn2mfn: --jobs: only --engine explore runs variants side by side\n",
  ]);
});

test("Ctrl-C ends every job, one that never lets go of its thread too, with exit code 130", async () => {
  const path = story("busy.ts", "for (;;) {}");
  const options = [path, "--engine", "explore", "--jobs", "2", "-v"];
  const child = spawn(process.execPath, [MAIN, "run", ...options], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  await new Promise((resolve) => child.stderr.once("data", resolve));
  await new Promise((resolve) => setTimeout(resolve, 500));
  const pressed = performance.now();
  child.kill("SIGINT");
  expect(await new Promise((resolve) => child.once("exit", resolve))).toBe(130);
  expect(performance.now() - pressed).toBeLessThan(5000);
});
