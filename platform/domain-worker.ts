/**
 * Worker entry of a domain's vCPU 0: resolves the scenario for itself, and runs the domain's own program as the
 * first task of its kernel. The main thread compares the hash of the model before it starts anyone.
 */
import { bootInfoOf } from "../shared/boot-info.ts";
import { layoutOf } from "../shared/layout.ts";
import { MachineMemory, wordsOf } from "../shared/mem.ts";
import { Mmu } from "../shared/mmu.ts";
import { modelHash } from "../shared/model-hash.ts";
import { type Resolved, resolve } from "../shared/resolve.ts";
import { type ScenarioExport, scenarioOf } from "../shared/scenario.ts";
import type { Program } from "../shared/trap.ts";
import { delaysOf } from "./delays.ts";
import { openHost } from "./host.ts";
import { bufferOf } from "./page-ops.ts";
import { Runner, SLOT_LOST } from "./runner.ts";
import type { DomainApi, DomainModule, DomainStart, End, Place } from "./worker-api.ts";
import { CLIENT_PROBES_EVERY, endOf, loadModule, policyOf, post, serve } from "./worker-common.ts";

/** A kernel is opaque here: the platform hands it from the kernel's module to the scenario's program. */
type Kernel = unknown;

let run: (place: Place) => End = () => ({ how: "fault", error: "the domain has not booted" });

async function boot(start: DomainStart): Promise<string> {
  const [module, scenario] = await Promise.all([
    loadModule<DomainModule<Kernel>>(start.module),
    loadModule<{ readonly default: ScenarioExport<Kernel> }>(start.scenario.url),
  ]);
  const composed = scenarioOf(scenario.default, start.scenario.composition);
  const resolved = resolve(composed, start.scenario.choice);
  run = (place) => endOf(() => runPlaced(start, module, resolved, place));
  return modelHash(resolved.model);
}

function runPlaced(
  start: DomainStart,
  module: DomainModule<Kernel>,
  resolved: Resolved<Kernel>,
  { domid, slot }: Place,
): End["how"] {
  const { model, programs, given } = resolved;
  const words = wordsOf(start.control);
  const memory = new MachineMemory(bufferOf(start.memory));
  const layout = layoutOf(model);
  const program = programs[start.index];
  const runner = new Runner({
    words,
    layout,
    slot,
    policy: policyOf(start.waiting, CLIENT_PROBES_EVERY),
    host: openHost(undefined),
    report: (key, value) => post({ kind: "report", key, value }),
    ...(start.delaySeed === undefined ? {} : { delay: delaysOf(start.delaySeed, slot) }),
  });
  const boot = bootInfoOf(model, start.index, domid);
  const cpu = {
    mmu: new Mmu(words, memory, layout, slot),
    words,
    layout,
    slot,
    points: start.delaySeed !== undefined,
    boot,
  };
  const own = function* (kernel: Kernel): Program {
    if (program !== undefined) yield* program(kernel, given);
  };
  return runner.run(module.runDomain(cpu, own)) === SLOT_LOST ? "lost" : "returned";
}

serve({ boot, run: (place: Place) => run(place) } satisfies Record<keyof DomainApi, unknown>);
