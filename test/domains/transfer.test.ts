/** The founding experiment's driver pair on whole machines: bytes of a file through disk, grant and ring. */
import { describe, expect, it } from "vitest";
import type { AddressSource } from "../../domains/drivers/transfer-back.ts";
import { transferBack } from "../../domains/drivers/transfer-back.ts";
import { transferFront } from "../../domains/drivers/transfer-front.ts";
import { run, runPart } from "../../explore/run.ts";
import type { Machine, Part } from "../../explore/state.ts";
import { audit } from "../../hypervisor/audit.ts";
import { XEN_DOMCTL_unpausedomain } from "../../shared/abi/domctl.ts";
import { DOM, domainOf, MACHINE } from "../../shared/layout.ts";
import type { MachineModel } from "../../shared/machine.ts";
import {
  CONTROL_CREATE,
  CONTROL_DOMCTL,
  CONTROL_VCPU_DIED,
  hypercallTrap,
  type Program,
  setRecord,
} from "../../shared/trap.ts";
import {
  FILE,
  FILE_BYTES,
  type Programs,
  reportsOf,
  runWhole,
  sha256,
  transferModel,
  wholeMachine,
} from "./transfer-machine.ts";

const BYTES = 20_000;
const DIGEST = sha256(FILE.subarray(0, BYTES));

const withDriver = (mode: "on" | "off"): MachineModel =>
  transferModel({
    machine: { memory: "16MiB", iommu: { mode } },
    domains: {
      dom0: { kind: "dom0", memory: "4MiB" },
      drv: { kind: "driver", memory: "2MiB", devices: ["disk"] },
      guest: { kind: "domU", memory: "2MiB" },
    },
  });

function* nothing(): Program {
  // dom0 serves the store and nothing else.
}

const pair = (backend: string, source: AddressSource = "dma-layer", frontends = 1): Programs => ({
  dom0: (kernel) => (backend === "dom0" ? transferBack(kernel, { source, frontends }) : nothing()),
  drv: (kernel) => transferBack(kernel, { source, frontends }),
  guest: (kernel) => transferFront(kernel, { backend, bytes: BYTES, pages: 4 }),
});

describe("a transfer", () => {
  it("moves a whole file into the granted pages, round by round, and stops at its end", () => {
    const { outcome, reports } = runWhole(transferModel(), {
      dom0: (kernel) => transferBack(kernel, { source: "dma-layer", frontends: 1 }),
      guest: (kernel) => transferFront(kernel, { backend: "dom0", bytes: 1_000_000, pages: 4 }),
    });
    expect(outcome.findings).toEqual([]);
    expect(outcome.verdict).toBe("finished");
    expect(reports.get("guest.status")).toBe(0);
    expect(reports.get("guest.bytes")).toBe(FILE_BYTES);
    expect(reports.get("guest.sha256")).toBe(sha256(FILE));
    expect(reports.get("dom0.moved")).toBe(FILE_BYTES);
    expect(reports.get("dom0.by")).toBe("xen_phys_to_dma");
  });

  it("reaches a driver domain's foreign pages through the IOMMU as one segment", () => {
    const { outcome, reports } = runWhole(withDriver("on"), pair("drv"));
    expect(outcome.findings).toEqual([]);
    expect(reports.get("guest.sha256")).toBe(DIGEST);
    expect(reports.get("drv.by")).toBe("phys_to_dma");
    expect(reports.get("drv.segments")).toBe(1);
  });

  it("misses the granted pages from a driver domain without an IOMMU, and nobody is told", () => {
    const { reports } = runWhole(withDriver("off"), pair("drv"));
    expect(reports.get("guest.status")).toBe(0);
    expect(reports.get("guest.bytes")).toBe(BYTES);
    expect(reports.get("guest.sha256")).toBe(sha256(new Uint8Array(BYTES)));
  });

  it("misses them from dom0 without an IOMMU when page_to_phys is taken for a DMA address", () => {
    const { reports } = runWhole(transferModel(), pair("dom0", "page_to_phys"));
    expect(reports.get("dom0.by")).toBe("page_to_phys");
    expect(reports.get("guest.sha256")).not.toBe(DIGEST);
  });

  it.each([1, 2, 3, 4])("arrives whole under random schedule %i with points on", (seed) => {
    const { outcome, reports } = runWhole(withDriver("on"), pair("drv"), { seed, points: true });
    expect(outcome.findings).toEqual([]);
    expect(outcome.verdict).toBe("finished");
    expect(reports.get("guest.sha256")).toBe(DIGEST);
  });
});

/** One record from the toolstack's slot, pushed and answered. */
function control(machine: Machine, op: number, ...args: readonly number[]): unknown {
  function* program(): Program<number> {
    const trap = hypercallTrap();
    setRecord(trap.record, op, args);
    return yield trap;
  }
  const part: Part = { name: "control", program: program(), mustFinish: true };
  return runPart(machine, 0, part);
}

describe("a frontend that dies in the middle of a transfer", () => {
  it.each([1, 2, 3, 4, 5, 6])(
    "gives its frames back, and another takes its place (schedule %i)",
    (seed) => {
      const model = transferModel();
      const machine = wholeMachine(model, pair("dom0", "dma-layer", 2), { seed, points: true });
      const disk = 1;
      // Somewhere after the disk has begun: another place for every schedule.
      let left = 150 * seed;
      run(machine, {
        command: "test",
        until: () => (machine.reports.length === 0 ? 0 : left--) < 0 || false,
      });
      expect(machine.actors[disk]?.part.name).toBe("disk");
      const slot = machine.words[domainOf(machine.layout, 1) + DOM.SLOT] ?? -1;
      expect(control(machine, CONTROL_VCPU_DIED, slot)).toBe(0);
      run(machine, { command: "test" });
      expect(audit(machine.xen)).toEqual([]);
      const free = machine.words[MACHINE.FREE_FRAMES] ?? 0;
      // 2 MiB of the guest are back; its row is free again.
      expect(machine.words[domainOf(machine.layout, 1) + DOM.STATE]).toBe(0);
      const domid = control(machine, CONTROL_CREATE, 1);
      expect(domid).toBeGreaterThan(1);
      expect(free - (machine.words[MACHINE.FREE_FRAMES] ?? 0)).toBeGreaterThanOrEqual(512);
      expect(control(machine, CONTROL_DOMCTL, XEN_DOMCTL_unpausedomain, Number(domid))).toBe(0);
      const outcome = run(machine, { command: "test" });
      expect(outcome.verdict).toBe("finished");
      expect(audit(machine.xen)).toEqual([]);
      expect(machine.deaths.filter((death) => death.state === "oops")).toEqual([]);
      expect(reportsOf(machine).get("guest.sha256")).toBe(DIGEST);
    },
  );
});
