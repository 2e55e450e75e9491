import { describe, expect, test } from "vitest";
import { bootInfoOf } from "../../shared/boot-info.ts";
import { layoutOf } from "../../shared/layout.ts";
import { modelHash } from "../../shared/model-hash.ts";
import { contains, endOf, overlaps, subtract } from "../../shared/ranges.ts";
import { type Choice, resolve, variantsOf } from "../../shared/resolve.ts";
import { defineScenario, type Scenario, ScenarioError } from "../../shared/scenario.ts";
import { applySettings, parseSetting } from "../../shared/settings.ts";

const MIB = 1024 ** 2;

const story = defineScenario<unknown>({
  name: "story",
  machine: { memory: "128MiB" },
  devices: { disk0: { kind: "disk" } },
  domains: {
    guest: { kind: "domU", memory: "16MiB" },
    drv: { kind: "driver", memory: "16MiB", devices: ["disk0"] },
    victim: { kind: "domU", runs: false, staticMemory: [{ base: "0x4600_0000", size: "4MiB" }] },
  },
  facts: { source: "dma-layer" },
  variants: [
    { name: "with IOMMU" },
    { name: "without IOMMU", set: { "machine.iommu.mode": "off" }, facts: { iommu: false } },
  ],
});

const choice = (over: Partial<Choice> = {}): Choice => ({
  settings: [],
  parameters: {},
  seed: 1,
  ...over,
});

const refusal = (scenario: Scenario<unknown>, over: Partial<Choice> = {}): string => {
  try {
    resolve(scenario, choice(over));
  } catch (error) {
    if (error instanceof ScenarioError) return error.message;
    throw error;
  }
  return "nothing is refused";
};

const withMachine = (machine: Scenario<unknown>["machine"]): Scenario<unknown> => ({
  ...story,
  machine: { ...story.machine, ...machine },
});

describe("a resolved machine", () => {
  test("has dom0 first, also when the scenario does not name it", () => {
    const { model } = resolve(story, choice());
    expect(model.domains.map(({ name }) => name)).toEqual(["dom0", "guest", "drv", "victim"]);
  });

  test("is the same model, by its hash, wherever it is resolved", () => {
    const one = resolve(story, choice()).model;
    const other = resolve(structuredClone(story), choice()).model;
    expect(modelHash(one)).toBe(modelHash(other));
    expect(modelHash({ ...one, seed: 2 })).not.toBe(modelHash(one));
  });

  test("lays out into control words without a broken assertion on every preset", () => {
    for (const preset of ["virt", "rpi4", "rcar", "zcu102"]) {
      const scenario = { ...story, machine: { preset, memory: "256MiB" }, domains: {} };
      expect(layoutOf(resolve(scenario, choice()).model).words).toBeGreaterThan(0);
    }
  });

  test("of x86 has no direct-mapped domain, guest RAM from 0, and Xen's memory at the top of the first bank", () => {
    const { domains } = story;
    const { victim, ...others } = domains;
    expect(victim).toBeDefined();
    const { model } = resolve({ ...story, machine: { arch: "x86" }, domains: others }, choice());
    expect(model.preset).toBe("q35");
    expect(model.domains.map(({ directMapped }) => directMapped)).not.toContain(true);
    expect(model.domains.map(({ ramGfn }) => ramGfn)).toEqual([0, 0, 0]);
    expect(bootInfoOf(model, 1, 1).arch).toBe("x86");
    const { xenHeapFirst = 0, xenHeapPages } = model.limits;
    expect((xenHeapFirst + xenHeapPages) * 4096).toBe(model.banks[0]?.size);
    expect(layoutOf(model).words).toBeGreaterThan(0);
  });

  test("puts dom0's RAM at machine addresses of the first bank, behind the Xen heap", () => {
    const { model } = resolve(story, choice());
    const dom0 = model.domains[0];
    const [ram] = dom0?.staticMemory ?? [];
    const heapEnd = 0x4000_0000 + model.limits.xenHeapPages * 4096;
    expect(dom0?.directMapped).toBe(true);
    expect(ram).toEqual({ base: heapEnd, size: 32 * MIB });
    expect(bootInfoOf(model, 0, 0).ram).toEqual([ram]);
  });

  test("announces host RAM that dom0 does not own when there is no IOMMU", () => {
    const { model } = resolve(story, choice({ variant: "without IOMMU" }));
    const dom0 = model.domains[0];
    const regions = dom0?.extendedRegions ?? [];
    expect(regions.length).toBeGreaterThan(0);
    for (const region of regions) {
      expect(model.banks.some((bank) => contains(bank, region))).toBe(true);
      expect(dom0?.staticMemory.some((own) => overlaps(own, region))).toBe(false);
    }
  });

  test("announces holes of the address map to dom0 when there is an IOMMU", () => {
    const { model } = resolve(story, choice({ variant: "with IOMMU" }));
    const regions = model.domains[0]?.extendedRegions ?? [];
    expect(regions.length).toBeGreaterThan(0);
    expect(subtract(regions, model.banks)).toEqual(regions);
  });

  test("announces the rest of its own address space to a driver domain, wherever host RAM is", () => {
    const { model } = resolve(story, choice());
    const drv = bootInfoOf(model, 2, 2);
    expect(drv.ram).toEqual([{ base: 0x4000_0000, size: 16 * MIB }]);
    expect(drv.extendedRegions[0]?.base).toBe(0x4100_0000);
    expect(drv.devices.map(({ name }) => name)).toEqual(["disk0"]);
  });

  test("announces no extended region to a kernel whose backend balloons", () => {
    const domains = {
      ...story.domains,
      drv: { kind: "driver", backend: { pages: "balloon" } },
    } as const;
    const { model } = resolve({ ...story, domains, devices: {} }, choice());
    expect(model.domains[2]?.extendedRegions).toEqual([]);
  });

  test("gives a device with a bus offset one window that covers all banks and guest addresses", () => {
    const devices = { disk0: { kind: "disk", busOffset: "0xc000_0000" } } as const;
    const { model } = resolve({ ...story, devices }, choice());
    const [window] = model.devices[0]?.dmaRanges ?? [];
    expect(window).toMatchObject({ dma: 0xc000_0000, cpu: 0 });
    const tops = [...model.banks, ...model.domains.flatMap((d) => d.extendedRegions)].map(endOf);
    expect(window?.size).toBeGreaterThanOrEqual(Math.max(...tops));
    expect(2 ** (model.devices[0]?.addressWidth ?? 0)).toBeGreaterThanOrEqual(
      (window?.dma ?? 0) + (window?.size ?? 0),
    );
  });

  test("gives a driver domain's device an IOMMU context only when the machine has an IOMMU", () => {
    const on = resolve(story, choice({ variant: "with IOMMU" })).model;
    const off = resolve(story, choice({ variant: "without IOMMU" })).model;
    expect([on.devices[0]?.behindIommu, on.domains[2]?.iommu]).toEqual([true, true]);
    expect([off.devices[0]?.behindIommu, off.domains[2]?.iommu]).toEqual([false, false]);
  });

  test("has every choice of its IOMMU made, and leaves those that the scenario made alone", () => {
    const { iommu } = resolve(story, choice()).model;
    const common = { mode: "on", quarantine: "basic", invalidation: "registers" };
    const iotlb = { entries: 256, flush: "strict" };
    expect(iommu).toEqual({ ...common, tables: "shared", iotlb });
    const path = "machine.iommu.iotlb.flush";
    const settings = [{ path, value: "lazy" }];
    const own = withMachine({ iommu: { tables: "separate", iotlb: { entries: 64 } } });
    expect(resolve(own, choice({ settings })).model.iommu).toEqual({
      ...common,
      tables: "separate",
      iotlb: { entries: 64, flush: "lazy" },
    });
  });

  test("lays a variant's facts over the scenario's, and the run's settings over both", () => {
    const settings = [parseSetting("facts.source=page_to_phys")];
    const { facts } = resolve(story, choice({ variant: "without IOMMU", settings }));
    expect(facts).toEqual({ source: "page_to_phys", iommu: false });
  });

  test("keeps the rpi4's literal window: the first GiB at bus address 0xc000_0000", () => {
    const { model } = resolve({ ...story, machine: { preset: "rpi4" }, domains: {} }, choice());
    expect(model.devices[0]?.dmaRanges).toEqual([{ dma: 0xc000_0000, cpu: 0, size: 2 ** 30 }]);
    expect(model.iommu.mode).toBe("off");
  });
});

describe("a refusal names the field and the nearest known name", () => {
  const cases: readonly (readonly [string, () => string, string])[] = [
    [
      "preset",
      () => refusal(withMachine({ preset: "rpi" })),
      'machine.preset: unknown preset "rpi"; did you mean "rpi4"?',
    ],
    [
      "a board of the other architecture",
      () => refusal(withMachine({ arch: "x86", preset: "rpi4" })),
      "machine.preset: rpi4 is no x86 board; there are: virt, q35",
    ],
    [
      "a size of stage 2 on x86",
      () => refusal(withMachine({ arch: "x86", ipaBits: 40 })),
      "machine.ipaBits: is a choice of arm64; x86 tables have four levels",
    ],
    [
      "a direct-mapped domain of x86",
      () =>
        refusal({
          ...story,
          machine: { arch: "x86" },
          domains: { a: { kind: "domU", mapping: "direct" } },
        }),
      "domains.a.mapping: no translated domain of x86 is direct-mapped",
    ],
    [
      "a pv guest on arm64",
      () => refusal({ ...story, domains: { a: { kind: "domU", guest: "pv", runs: false } } }),
      "domains.a.guest: arm64 has one kind of guest",
    ],
    [
      "a pv guest that is to run a kernel",
      () =>
        refusal({
          ...story,
          machine: { arch: "x86" },
          domains: { a: { kind: "domU", guest: "pv" } },
        }),
      "domains.a.guest: there is no kernel for a pv guest: a domU, runs: false",
    ],
    [
      "version 2 of grant tables on arm64",
      () => refusal({ ...story, domains: { a: { kind: "domU", maxGrantVersion: 2 } } }),
      "domains.a.maxGrantVersion: arm64 has version 1 only",
    ],
    [
      "unit",
      () => refusal(withMachine({ memory: "128MB" })),
      'machine.memory: unknown unit "MB"; did you mean "MiB"?',
    ],
    [
      "variant",
      () => refusal(story, { variant: "with IOMU" }),
      'variants: unknown variant "with IOMU"; did you mean "with IOMMU"?',
    ],
    [
      "domain of an override",
      () => refusal(story, { settings: [{ path: "domains.drvv.memory", value: 1 }] }),
      'domains.drvv.memory: unknown domain "drvv"; did you mean "drv"?',
    ],
    [
      "table of an override",
      () => refusal(story, { settings: [{ path: "machin.memory", value: 1 }] }),
      'machin.memory: unknown field "machin"; did you mean "machine"?',
    ],
    [
      "device of a domain",
      () => refusal({ ...story, devices: { disk1: { kind: "disk" } } }),
      'domains.drv.devices.0: unknown device "disk0"; did you mean "disk1"?',
    ],
    [
      "too little memory",
      () => refusal(withMachine({ memory: "64MiB" })),
      "machine.memory: the domains want 68 MiB and Xen",
    ],
    [
      "unaligned bank",
      () => refusal({ ...story, machine: { banks: [{ base: 4096, size: "64MiB" }] } }),
      "machine.banks.0: 0x1000 is not a multiple of 2 MiB",
    ],
    [
      "static memory outside RAM",
      () => refusal(withMachine({ memory: "80MiB" })),
      "domains.victim.staticMemory: 0x46000000..0x46400000 is not RAM of this machine",
    ],
    [
      "entries of an IOTLB",
      () => refusal(withMachine({ iommu: { iotlb: { entries: 48 } } })),
      "machine.iommu.iotlb.entries: 48 is not a power of two from 1 to 256",
    ],
    [
      "a count",
      () => refusal({ ...story, domains: { a: { kind: "domU", maxGrantFrames: 65 } } }),
      "domains.a.maxGrantFrames: 65 is not a whole number from 1 to 64",
    ],
  ];
  for (const [name, run, message] of cases) {
    test(name, () => expect(run()).toContain(message));
  }
});

test("an override leaves the scenario as it was", () => {
  const before = JSON.stringify(story);
  const after = applySettings(story, [parseSetting("machine.iommu.mode=off")]);
  expect(after.machine?.iommu?.mode).toBe("off");
  expect(JSON.stringify(story)).toBe(before);
});

test("a scenario without a matrix has one variant", () => {
  expect(variantsOf({ name: "x", domains: {} })).toEqual([{ name: "default" }]);
});
