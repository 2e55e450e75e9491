/**
 * The one-thread engine: boots a variant's machine in the explorer and steps it until every awaited program
 * has ended. Rule: it returns to the event loop now and then, so that Ctrl-C and the time limit are heard;
 * neither changes which steps are taken.
 * Ours.
 */

import { bootDevice } from "../devices/main.ts";
import { runDomain } from "../domains/main.ts";
import { isOver } from "../explore/actor.ts";
import { buildMachine } from "../explore/machine.ts";
import { randomScheduler } from "../explore/random.ts";
import { type Outcome, run as runSteps } from "../explore/run.ts";
import type { Death, ExploreOptions, Machine, Part } from "../explore/state.ts";
import { audit } from "../hypervisor/audit.ts";
import { openHost } from "../platform/host.ts";
import { at, item } from "../shared/assert.ts";
import { bootInfoOf } from "../shared/boot-info.ts";
import { DOM, domainOf, LINE, lineOf, SLOT_KIND_DEVICE, SLOT_KIND_VCPU } from "../shared/layout.ts";
import { Mmu } from "../shared/mmu.ts";
import { PROGRAM_KEY, type Report } from "../shared/scenario.ts";
import type { Host } from "../shared/trap.ts";
import {
  awaitedNames,
  type BootedMachine,
  type Ending,
  type EngineOptions,
  type Finished,
} from "./engine.ts";
import { diskFileOf } from "./parameters.ts";
import type { Prepared } from "./prepare.ts";
import { recordExplored } from "./record-run.ts";
import { shutdownEnding } from "./shutdown.ts";
import { traceTail } from "./trace-tail.ts";

/** Steps between two looks at the event loop: some ten milliseconds, a page's burst and its hash included. */
const STEPS_PER_TURN = 2_000;
/** Steps in which daemons and the hypervisor come to rest after the last awaited program. */
const REST_STEPS = 200_000;
/** Runs of one actor are about this long: uniform choices would only interleave more finely, and slower. */
const PERSISTENCE = 8;

/** Boots the machine; the first step is taken by `run`. */
export async function bootExplored(
  prepared: Prepared,
  options: EngineOptions,
): Promise<BootedMachine> {
  const host = openHost(diskFileOf(prepared.choice.parameters));
  const names = new Map<number, string>();
  const recording = options.recorder === undefined ? undefined : recordExplored(options.recorder);
  const { scheduler } = options;
  const over = {
    ...(recording === undefined ? {} : { chosen: recording.chosen }),
    ...(scheduler === undefined ? {} : { scheduler, points: true }),
  };
  const machine = exploredMachine(prepared, host, names, over);
  return {
    run: async () => {
      try {
        const ending = await stepToEnd(machine, prepared, names, options);
        recording?.finish(machine, ending.kind);
        return finishedOf(machine, names, ending);
      } finally {
        host.close();
      }
    },
    discard: async () => host.close(),
  };
}

/**
 * A machine whose slots run the variant's programs and devices; `names` learns who sat on which slot. Who moves when is
 * drawn from the seed, unless `over` names another scheduler.
 */
export function exploredMachine(
  prepared: Prepared,
  host: Host,
  names: Map<number, string>,
  over: Pick<Partial<ExploreOptions>, "scheduler" | "chosen" | "points"> = {},
): Machine {
  const { resolved, choice } = prepared;
  return buildMachine(resolved.model, {
    seed: choice.seed,
    scheduler: randomScheduler(PERSISTENCE),
    points: false,
    partOf: (machine, slot) => {
      const part = partOf(machine, slot, prepared, host, over.points === true);
      if (part !== undefined) names.set(slot, part.name);
      return part;
    },
    ...over,
  });
}

const lineWord = (machine: Machine, slot: number, field: number): number =>
  at(machine.words, lineOf(machine.layout, slot) + field);

/** What runs on a slot that has come to life: a kernel on vCPU 0 of a domain that runs, or a device. */
function partOf(
  machine: Machine,
  slot: number,
  prepared: Prepared,
  host: Host,
  points: boolean,
): Part | undefined {
  const number = lineWord(machine, slot, LINE.NUMBER);
  const kind = lineWord(machine, slot, LINE.KIND);
  if (kind === SLOT_KIND_DEVICE) return devicePart(machine, number, host, points);
  if (kind !== SLOT_KIND_VCPU || number !== 0) return undefined;
  const domid = lineWord(machine, slot, LINE.DOMAIN);
  const { words, layout, memory, model } = machine;
  const index = at(words, domainOf(layout, domid) + DOM.MODEL);
  const domain = item(model.domains, index);
  if (!domain.runs) return undefined;
  const { programs, given } = prepared.resolved;
  const program = programs[index];
  const boot = bootInfoOf(model, index, domid);
  const mmu = new Mmu(words, memory, layout, slot);
  const cpu = { mmu, words, layout, slot, points, boot };
  return {
    name: domain.name,
    program: runDomain(cpu, function* (kernel) {
      if (program !== undefined) yield* program(kernel, given);
    }),
    mustFinish: false,
    host,
  };
}

function devicePart(machine: Machine, index: number, host: Host, points: boolean): Part {
  const { words, memory, layout, model } = machine;
  return {
    name: item(model.devices, index).name,
    program: bootDevice({ words, memory, layout, index, points }, host.sizeBytes),
    mustFinish: false,
    host,
  };
}

async function stepToEnd(
  machine: Machine,
  prepared: Prepared,
  names: ReadonlyMap<number, string>,
  options: EngineOptions,
): Promise<Ending> {
  const awaited = awaitedNames(prepared);
  const deadline = performance.now() + options.timeoutMs;
  const left = leftIn(machine, awaited, names);
  const settled = (): boolean => left().size === 0;
  const until = (): boolean => settled() || machine.deaths.some(isOops);
  for (;;) {
    // First of all: a variant may be over within one turn, and a whole run of such variants must hear Ctrl-C too.
    await new Promise((resume) => setImmediate(resume));
    if (options.signal.aborted) return { kind: "interrupted" };
    const outcome = runSteps(machine, { maxSteps: STEPS_PER_TURN, command: "", until });
    if (outcome.verdict === "bug") return bugOf(machine, outcome);
    const death = machine.deaths.find(isOops);
    if (death !== undefined) {
      return {
        kind: "crashed",
        part: partName(machine, death.name),
        reason: reasonOf(death.error),
      };
    }
    const shut = shutdownEnding(machine, [...left()]);
    if (shut?.kind === "crashed") return shut;
    if (settled() || shut?.kind === "finished") {
      // The others come to rest, so that the audit sees no handler between two of its gaps.
      const rest = runSteps(machine, { maxSteps: REST_STEPS, command: "" });
      return rest.verdict === "bug" ? bugOf(machine, rest) : { kind: "finished" };
    }
    if (outcome.verdict !== "exhausted") return hungOf(machine, awaited, names);
    if (performance.now() > deadline) return hungOf(machine, awaited, names);
    options.progress(`${machine.steps} steps`);
  }
}

const bugOf = (machine: Machine, outcome: Outcome): Ending => ({
  kind: "bug",
  reason: outcome.findings.join("; "),
  lines: traceTail(machine.words, machine.layout),
});

const partName = ({ model }: Machine, name: string): string =>
  `${model.devices.some((device) => device.name === name) ? "device" : "domain"} ${name}`;

const isOops = (death: Death): boolean => death.state === "oops";

/** Names of the awaited programs that have not reported their end; looks only at reports it has not seen yet. */
function leftIn(
  machine: Machine,
  awaited: readonly string[],
  names: ReadonlyMap<number, string>,
): () => ReadonlySet<string> {
  const left = new Set(awaited);
  let seen = 0;
  return () => {
    for (; seen < machine.reports.length; seen++) {
      const report = item(machine.reports, seen);
      if (report.key === PROGRAM_KEY) left.delete(names.get(report.slot) ?? "");
    }
    return left;
  };
}

function hungOf(
  machine: Machine,
  awaited: readonly string[],
  names: ReadonlyMap<number, string>,
): Ending {
  const ended = machine.reports
    .filter((report) => report.key === PROGRAM_KEY)
    .map((report) => names.get(report.slot));
  const lines = machine.actors.flatMap((actor) =>
    actor === undefined || isOver(actor) ? [] : [`${actor.part.name}: ${actor.state}`],
  );
  return { kind: "hung", awaited: awaited.filter((name) => !ended.includes(name)), lines };
}

export const reasonOf = (error: unknown): string =>
  error instanceof Error ? `${error.name}: ${error.message}` : String(error);

function finishedOf(
  machine: Machine,
  names: ReadonlyMap<number, string>,
  ending: Ending,
): Finished {
  const { words, memory, layout, reports } = machine;
  const named: Report[] = reports
    .filter((report) => report.key !== PROGRAM_KEY)
    .map(({ slot, key, value }) => ({ domain: names.get(slot) ?? `slot ${slot}`, key, value }));
  // Only a machine that came to rest can be recounted: a handler may be between two of its gaps.
  const findings = ending.kind === "finished" ? audit(machine.xen) : [];
  return { ending, reports: named, words, memory, layout, audit: findings };
}
