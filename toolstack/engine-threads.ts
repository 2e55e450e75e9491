/**
 * The threaded engine: a variant's machine with a worker each for hypervisor, domains and devices.
 * Rule: whatever happens, no worker is left when `run` settles.
 * Ours.
 */
import { audit } from "../hypervisor/audit.ts";
import { xenOf } from "../hypervisor/xen.ts";
import { bootThreads, type Death, type ThreadedMachine } from "../platform/threads.ts";
import { at } from "../shared/assert.ts";
import { LINE, lineOf, MACHINE, SLOT_KIND_VCPU, SLOT_LIVE } from "../shared/layout.ts";
import { PROGRAM_KEY } from "../shared/scenario.ts";
import {
  awaitedNames,
  type BootedMachine,
  type Ending,
  type EngineOptions,
  type Finished,
} from "./engine.ts";
import { diskFileOf } from "./parameters.ts";
import type { Prepared } from "./prepare.ts";
import { recordThreaded, type ThreadedRecorder } from "./record-run.ts";
import { shutdownEnding } from "./shutdown.ts";
import { traceTail } from "./trace-tail.ts";

const MODULES = {
  hypervisor: new URL("../hypervisor/main.ts", import.meta.url).href,
  domain: new URL("../domains/main.ts", import.meta.url).href,
  device: new URL("../devices/main.ts", import.meta.url).href,
};

/** How often the main thread looks at what has been reported, at the clock and at Ctrl-C. */
const LOOK_EVERY_MS = 10;
/** Longest wait for the audit of a machine whose programs have ended. */
const AUDIT_WAIT_MS = 10_000;

/** The variant's machine, booted; the caller starts and stops it. */
export function threadedMachine(
  prepared: Prepared,
  signal: AbortSignal,
  delaySeed?: number,
): Promise<ThreadedMachine> {
  const { resolved, loaded, choice } = prepared;
  const disk = diskFileOf(choice.parameters);
  const composition = loaded.composition === undefined ? {} : { composition: loaded.composition };
  return bootThreads({
    model: resolved.model,
    scenario: { url: loaded.module, ...composition, choice },
    modules: MODULES,
    awaited: resolved.awaited,
    ...(disk === undefined ? {} : { diskPath: disk }),
    ...(delaySeed === undefined ? {} : { delaySeed }),
    signal,
  });
}

/** Boots the machine; `run` starts its programs and waits for their end. */
export async function bootThreaded(
  prepared: Prepared,
  options: EngineOptions,
): Promise<BootedMachine> {
  const machine = await threadedMachine(prepared, options.signal, options.delaySeed);
  const { words, layout } = machine;
  const { recorder } = options;
  const recording = recorder === undefined ? undefined : recordThreaded(recorder, words, layout);
  return {
    run: async () => {
      let ending: Ending = { kind: "interrupted" };
      try {
        machine.start();
        ending = await waitForEnd(machine, prepared, options, recording);
        return await finishedOf(machine, ending);
      } catch (error) {
        // The signal stops the machine under whoever asks it something.
        if (!options.signal.aborted) throw error;
        ending = { kind: "interrupted" };
        return await finishedOf(machine, ending);
      } finally {
        await machine.stop();
        recording?.finish(machine, ending.kind);
      }
    },
    discard: () => machine.stop(),
  };
}

async function waitForEnd(
  machine: ThreadedMachine,
  prepared: Prepared,
  options: EngineOptions,
  recording: ThreadedRecorder | undefined,
): Promise<Ending> {
  const deadline = performance.now() + options.timeoutMs;
  let isOver = false;
  void machine.finished().then(() => {
    isOver = true;
  });
  for (;;) {
    const [death] = machine.deaths;
    if (options.signal.aborted) return { kind: "interrupted" };
    if (death !== undefined) return endingOf(machine, death);
    if (isOver) return { kind: "finished" };
    const shut = shutdownEnding(machine, stillAwaited(machine, prepared));
    if (shut !== undefined) return shut;
    if (performance.now() > deadline) {
      return { kind: "hung", awaited: stillAwaited(machine, prepared), lines: slotLines(machine) };
    }
    recording?.drain();
    options.progress(`${at(machine.words, MACHINE.STEP)} records`);
    await sleep(LOOK_EVERY_MS, machine);
  }
}

/** Sleeps, but not longer than until every program is over or a part has died. */
async function sleep(timeMs: number, machine: ThreadedMachine): Promise<void> {
  const timer = Promise.withResolvers<void>();
  const handle = setTimeout(timer.resolve, timeMs);
  await Promise.race([timer.promise, machine.finished()]);
  clearTimeout(handle);
}

function stillAwaited(machine: ThreadedMachine, prepared: Prepared): readonly string[] {
  const ended = machine.reports.filter((report) => report.key === PROGRAM_KEY);
  return awaitedNames(prepared).filter((name) => !ended.some((report) => report.domain === name));
}

function endingOf(machine: ThreadedMachine, death: Death): Ending {
  if (!death.isBug)
    return { kind: "crashed", part: `${death.kind} ${death.name}`, reason: death.reason };
  const reason = `${death.name}: ${death.reason}`;
  return { kind: "bug", reason, lines: traceTail(machine.words, machine.layout) };
}

/** Where each live vCPU stands, for a run that hangs. */
function slotLines(machine: ThreadedMachine): readonly string[] {
  const { words, layout, model } = machine;
  const lines: string[] = [];
  for (let slot = 1; slot < model.limits.slots; slot++) {
    const line = lineOf(layout, slot);
    if (at(words, line + LINE.STATE) !== SLOT_LIVE) continue;
    const isVcpu = at(words, line + LINE.KIND) === SLOT_KIND_VCPU;
    const who = isVcpu
      ? `domain ${at(words, line + LINE.DOMAIN)} vCPU ${at(words, line + LINE.NUMBER)}`
      : (model.devices[slot - 1]?.name ?? "device");
    lines.push(
      `slot ${slot} (${who}): ${at(words, line + LINE.HYPERCALLS)} records handled, ` +
        `${at(words, line + LINE.EVENT)} events raised`,
    );
  }
  return lines;
}

async function finishedOf(machine: ThreadedMachine, ending: Ending): Promise<Finished> {
  const { words, memory, layout } = machine;
  const found = ending.kind === "finished" ? await auditCount(machine) : 0;
  await machine.stop();
  // The hypervisor counts; the sentences are made here, from the bytes it has left behind.
  const findings = found === 0 ? [] : audit(xenOf(words, memory, layout));
  const unnamed = found > 0 && findings.length === 0 ? [`${found} findings`] : findings;
  const reports = machine.reports.filter((report) => report.key !== PROGRAM_KEY);
  return { ending, reports, words, memory, layout, audit: unnamed };
}

async function auditCount(machine: ThreadedMachine): Promise<number> {
  const late = Promise.withResolvers<number>();
  const timer = setTimeout(
    () => late.reject(new Error("the hypervisor does not answer the audit")),
    AUDIT_WAIT_MS,
  );
  try {
    return await Promise.race([machine.audit(), late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
