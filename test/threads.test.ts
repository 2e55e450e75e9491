// The machine on real workers: it boots, runs, loses parts and is taken down.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, it } from "vitest";
import { bootThreads, type ThreadedMachine, type ThreadsOptions } from "../platform/threads.ts";
import type { Waiting } from "../platform/worker-api.ts";
import { DISK_STATUS_OK } from "../shared/abi/disk.ts";
import { DOM, DOMAIN_PRESENT, domainOf, MACHINE } from "../shared/layout.ts";
import { resolve } from "../shared/resolve.ts";
import { traceCount } from "../shared/trace.ts";
import { POOL_ANSWERS, RAM_ANSWERS } from "./domains/fault-answers.ts";
import { MACHINES, type MachineName, scenarioUrl } from "./platform/machines.ts";

const FILE = fileURLToPath(new URL("../package-lock.json", import.meta.url));
const MODULES = {
  hypervisor: new URL("../hypervisor/main.ts", import.meta.url).href,
  domain: new URL("../domains/main.ts", import.meta.url).href,
  device: new URL("../devices/main.ts", import.meta.url).href,
};
const CHOICE = { settings: [], parameters: {}, seed: 1 };

const running = new Set<ThreadedMachine>();

async function boot(
  name: MachineName,
  options: Partial<ThreadsOptions> = {},
): Promise<ThreadedMachine> {
  const resolved = resolve(MACHINES[name], CHOICE);
  const machine = await bootThreads({
    model: resolved.model,
    scenario: { url: scenarioUrl(name), choice: CHOICE },
    awaited: resolved.awaited,
    modules: MODULES,
    waiting: "blocking",
    diskPath: FILE,
    ...options,
  });
  running.add(machine);
  machine.start();
  return machine;
}

afterEach(async () => {
  for (const machine of running) await machine.stop();
  running.clear();
});

async function until(holds: () => boolean): Promise<void> {
  for (let waited = 0; !holds(); waited += 2) {
    if (waited > 10_000) throw new Error("nothing happens");
    await new Promise((wake) => setTimeout(wake, 2));
  }
}

const isPresent = ({ words, layout }: ThreadedMachine, domid: number) =>
  words[domainOf(layout, domid) + DOM.STATE] === DOMAIN_PRESENT;

describe("a machine on threads", () => {
  it.each(["blocking", "adaptive"] as Waiting[])(
    "boots, moves a page of a real file, and ends with a clean audit (%s)",
    async (waiting) => {
      const machine = await boot("hello", { waiting });
      await machine.finished();
      const sha256 = createHash("sha256")
        .update(readFileSync(FILE).subarray(0, 4096))
        .digest("hex");
      const reported = Object.fromEntries(
        machine.reports
          .filter(({ domain }) => domain === "dom0")
          .map(({ key, value }) => [key, value]),
      );
      expect(machine.deaths).toEqual([]);
      expect(reported).toMatchObject({ status: DISK_STATUS_OK, sha256, answer: "42" });
      expect(await machine.audit()).toBe(0);
    },
  );

  it("creates a domain while others run", async () => {
    const machine = await boot("hello");
    await machine.finished();
    const domid = await machine.create(2);
    expect(domid).toBeGreaterThan(1);
    await machine.finished();
    expect(machine.reports.some(({ domain, key }) => domain === "later" && key === "page")).toBe(
      true,
    );
    expect(await machine.audit()).toBe(0);
  });

  it("stands still between two records while it is held, and goes on afterwards", async () => {
    const machine = await boot("transfer", { diskPath: process.execPath });
    const step = (): number => machine.words[MACHINE.STEP] ?? -1;
    await until(() => step() > 40);
    const [before, after] = await machine.held(() => {
      const first = step();
      const deadline = performance.now() + 30;
      while (performance.now() < deadline);
      return [first, step()];
    });
    expect(after).toBe(before);
    await until(() => step() > (after ?? 0) + 10);
    expect(machine.deaths).toEqual([]);
    expect(await machine.audit()).toBe(0);
  });

  it.each(["busy", "asleep"] as MachineName[])(
    "survives the kill of a guest that is %s",
    async (name) => {
      const machine = await boot(name);
      await until(() => machine.reports.some(({ key }) => key === "begun"));
      const free = machine.words[MACHINE.FREE_FRAMES] ?? 0;
      expect(await machine.kill("guest")).toBe(0);
      await machine.finished();
      await until(() => !isPresent(machine, 1));
      expect(machine.words[MACHINE.FREE_FRAMES]).toBeGreaterThanOrEqual(free + 1024);
      expect(machine.deaths).toEqual([]);
      expect(await machine.audit()).toBe(0);
    },
  );

  it("survives the kill of a frontend in the middle of a transfer, and serves the next one", async () => {
    // The running executable is long enough for the kill to fall between its first byte and its last.
    const machine = await boot("transfer", { diskPath: process.execPath });
    const { words, layout } = machine;
    const disk = words[layout.deviceSlot] ?? -1;
    await until(() => traceCount(words, layout, disk) > 200);
    expect(await machine.kill("guest")).toBe(0);
    expect(await machine.audit()).toBe(0);
    // Its frames come back once the backend has let go.
    await until(() => !isPresent(machine, 1));
    const free = words[MACHINE.FREE_FRAMES] ?? 0;
    const bursts = traceCount(words, layout, disk);
    expect(await machine.audit()).toBe(0);
    expect(await machine.create(2)).toBeGreaterThan(1);
    const reported = () => machine.reports.filter(({ domain }) => domain === "next");
    await until(() => reported().some(({ key }) => key === "sha256"));
    expect(traceCount(words, layout, disk)).toBe(bursts + 64);
    const file = readFileSync(process.execPath).subarray(0, 256 * 1024);
    const sha256 = createHash("sha256").update(file).digest("hex");
    expect(reported()).toContainEqual({ domain: "next", key: "sha256", value: sha256 });
    expect(words[MACHINE.FREE_FRAMES]).toBe(free - 2048);
    expect(machine.deaths).toEqual([]);
    expect(await machine.audit()).toBe(0);
  });

  it.each([
    ["faultsRam", RAM_ANSWERS],
    ["faultsPool", POOL_ANSWERS],
  ] as const)(
    "fails every allocation and hypercall of a grant buffer in turn (%s)",
    async (name, answers) => {
      const machine = await boot(name);
      await machine.finished();
      expect(machine.deaths).toEqual([]);
      const reported = machine.reports.find(({ key }) => key === "answers")?.value;
      expect(String(reported).split("\n")).toEqual(answers);
      const ended = machine.reports.filter(({ key }) => key === "ended");
      expect(ended.map(({ value }) => value)).toEqual([1, 1]);
      expect(await machine.audit()).toBe(0);
    },
  );

  it("names the guest that stored to where nothing is, and destroys its domain", async () => {
    const machine = await boot("wild");
    await machine.finished();
    expect(machine.deaths).toEqual([
      {
        kind: "domain",
        name: "guest",
        reason: "GuestFault: translation fault at a store to 0x7000000000",
        isBug: false,
      },
    ]);
    await until(() => !isPresent(machine, 1));
    expect(await machine.audit()).toBe(0);
  });

  it("names the guest whose program threw", async () => {
    const machine = await boot("throwing");
    await machine.finished();
    expect(machine.deaths).toMatchObject([
      { kind: "domain", name: "guest", reason: "out of ideas" },
    ]);
  });

  it("refuses a worker that has resolved another machine", async () => {
    const choice = { ...CHOICE, seed: 2 };
    const scenario = { url: scenarioUrl("hello"), choice };
    await expect(boot("hello", { scenario })).rejects.toThrow("has resolved another machine");
  });

  it("names the module that a worker cannot load", async () => {
    const modules = { ...MODULES, device: `${MODULES.device}-absent` };
    await expect(boot("hello", { modules })).rejects.toThrow("main.ts-absent");
  });

  it("stops within two seconds wherever its guests are, and refuses control afterwards", async () => {
    const machine = await boot("busy");
    await until(() => machine.reports.some(({ key }) => key === "begun"));
    const started = performance.now();
    await machine.stop();
    expect(performance.now() - started).toBeLessThan(2000);
    await expect(machine.audit()).rejects.toThrow("the machine is stopped");
  });

  it("can be given up in the middle of its boot", async () => {
    const abort = new AbortController();
    const booting = boot("hello", { signal: abort.signal });
    setTimeout(() => abort.abort(new Error("interrupted")), 5);
    await expect(booting).rejects.toThrow("interrupted");
  });
});
