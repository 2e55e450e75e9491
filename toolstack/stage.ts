/**
 * A machine stopped at a stage of its variant, in the one-thread engine: what `xlat` looks at.
 * Ours.
 */
import { run as runSteps } from "../explore/run.ts";
import type { Machine } from "../explore/state.ts";
import { openHost } from "../platform/host.ts";
import { EmulatorBug } from "../shared/assert.ts";
import { traceCount } from "../shared/trace.ts";
import { exploredMachine } from "./engine-explore.ts";
import { SetupError } from "./exit-codes.ts";
import { diskFileOf } from "./parameters.ts";
import type { Prepared } from "./prepare.ts";

/** boot: kernels and the store run, no program does. dma: a device has moved its first burst. end: all is over. */
export const STAGES = ["boot", "dma", "end"] as const;
export type Stage = (typeof STAGES)[number];

/** Steps within which a stage, or the end, must be reached. */
export const STEPS_MAX = 20_000_000;

/** Boots the variant's machine and steps it to `stage`. A stage that is never reached is a SetupError. */
export function machineAt(prepared: Prepared, stage: Stage): Machine {
  const host = openHost(diskFileOf(prepared.choice.parameters));
  try {
    const machine = exploredMachine(
      stage === "boot" ? withoutPrograms(prepared) : prepared,
      host,
      new Map(),
    );
    const until = stage === "dma" ? { until: hasBurst } : {};
    const outcome = runSteps(machine, { maxSteps: STEPS_MAX, command: "", ...until });
    if (outcome.verdict === "bug") throw new EmulatorBug(outcome.findings.join("; "));
    if (stage === "dma" && !hasBurst(machine)) {
      throw new SetupError(`${prepared.resolved.variant}: no device ever moves a byte`);
    }
    return machine;
  } finally {
    host.close();
  }
}

function withoutPrograms(prepared: Prepared): Prepared {
  const programs = prepared.resolved.programs.map(() => undefined);
  return { ...prepared, resolved: { ...prepared.resolved, programs } };
}

/** Each device writes a trace record a burst. */
const hasBurst = (machine: Machine): boolean =>
  machine.model.devices.some((_, i) => traceCount(machine.words, machine.layout, 1 + i) > 0);
