/**
 * Machines that can be looked at step by step: one that runs afresh, and one that repeats a recording. Rules: a machine
 * only goes forwards; a replay that goes another way than the recording is refused, as it would show another machine.
 * A threaded run has no schedule to repeat: its recording holds the state at its end.
 * Ours (design 2: rewind is replay to an earlier step).
 */
import { gunzipSync } from "node:zlib";
import { replayScheduler } from "../explore/replay.ts";
import { run as runSteps } from "../explore/run.ts";
import type { Machine } from "../explore/state.ts";
import { openHost } from "../platform/host.ts";
import { layoutOf, machineBytes } from "../shared/layout.ts";
import { PAGE_SIZE } from "../shared/limits.ts";
import { MachineMemory } from "../shared/mem.ts";
import { FrameIndex } from "../shared/units.ts";
import { exploredMachine } from "./engine-explore.ts";
import { SetupError, UsageError } from "./exit-codes.ts";
import { loadScenario } from "./load.ts";
import { diskFileOf } from "./parameters.ts";
import { type Prepared, prepare } from "./prepare.ts";
import { CHOICE, END, MARK, type Recording, STATE, scenarioHash } from "./recording.ts";
import { STEPS_MAX } from "./stage.ts";
import type { View } from "./view.ts";

/** A machine that stands after some step. */
export interface Stepper {
  readonly machine: Machine;
  /** Goes on to the state after step `step`, counted from the boot; undefined: to the end of the run. */
  to(step: number | undefined): void;
  close(): void;
}

/** Steps the machine to `step`, which must come; returns what stopped it before, if anything did. */
function advance(machine: Machine, step: number | undefined): string | undefined {
  const left = step === undefined ? STEPS_MAX : step - machine.steps;
  if (left < 0) throw new UsageError(`step ${step} lies before step ${machine.steps}`);
  const outcome = runSteps(machine, { maxSteps: left, command: "" });
  return outcome.verdict === "bug" ? outcome.findings.join("; ") : undefined;
}

const beyond = (step: number, end: number): UsageError =>
  new UsageError(`step ${step} is beyond the end of the run, which is step ${end}`);

/** A machine that runs afresh, in the order of its seed. */
export function openLive(prepared: Prepared): Stepper {
  const host = openHost(diskFileOf(prepared.choice.parameters));
  const machine = exploredMachine(prepared, host, new Map());
  return {
    machine,
    to: (step) => {
      // A bug of ours ends the run as well, and the machine stands where it happened.
      advance(machine, step);
      if (step !== undefined && machine.steps < step) throw beyond(step, machine.steps);
    },
    close: () => host.close(),
  };
}

/** The scenario of a recording as it is here and now; refused when it is another one. */
export async function preparedOf(recording: Recording): Promise<Prepared> {
  const { file, header } = recording;
  const { scenario, seed, settings, variant, parameters } = header;
  const loaded = await loadScenario(scenario.id);
  const given = Object.entries(parameters).map(([name, value]) => ({
    path: `parameters.${name}`,
    value,
  }));
  const wish = { seed, settings: [...settings, ...given], variants: [variant] };
  const [prepared] = await prepare(loaded, wish);
  if (prepared === undefined || scenarioHash(prepared) !== scenario.hash) {
    throw new SetupError(`${file}: was recorded with another ${scenario.id} than there is now`);
  }
  return prepared;
}

interface Script {
  readonly choices: readonly number[];
  /** Hash of the run after some steps. */
  readonly marks: ReadonlyMap<number, number>;
}

function scriptOf(recording: Recording): Script {
  const choices: number[] = [];
  const marks = new Map<number, number>();
  for (const [step, , type, value] of recording.events()) {
    if (type === CHOICE) {
      if (step !== choices.length + 1) {
        throw new SetupError(`${recording.file}: step ${choices.length + 1} is missing`);
      }
      choices.push(Number(value));
    }
    if (type === MARK || type === END) marks.set(step, Number(value));
  }
  return { choices, marks };
}

/** The recorded run again. */
export function openReplay(recording: Recording, prepared: Prepared): Stepper {
  const { choices, marks } = scriptOf(recording);
  const host = openHost(diskFileOf(prepared.choice.parameters));
  let parted = 0;
  const machine = exploredMachine(prepared, host, new Map(), {
    scheduler: replayScheduler(choices),
    chosen: (now) => {
      const mark = now.steps === choices.length ? undefined : marks.get(now.steps);
      if (mark !== undefined && mark !== now.traceHash) parted ||= now.steps;
    },
  });
  return {
    machine,
    to: (step) => {
      if (step !== undefined && step > choices.length) throw beyond(step, choices.length);
      const stopped = advance(machine, step ?? choices.length);
      const isEnd = machine.steps === choices.length;
      const last = isEnd ? marks.get(choices.length) : undefined;
      if (last !== undefined && last !== machine.traceHash) parted ||= machine.steps;
      // A recorded run may have ended in a bug of ours; then its replay must, at the same step.
      if (stopped !== undefined && !isEnd) parted ||= machine.steps;
      if (machine.steps < (step ?? choices.length)) parted ||= machine.steps + 1;
      if (parted === 0) return;
      const why = stopped === undefined ? "" : ` (${stopped})`;
      throw new SetupError(`${recording.file}: the replay parts from it by step ${parted}${why}`);
    },
    close: () => host.close(),
  };
}

/** The state that a recording of a threaded run ends with, and the number of its last record. */
export function recordedState(
  recording: Recording,
  prepared: Prepared,
): { readonly view: View; readonly record: number } {
  for (const [record, , type, ...packed] of recording.events()) {
    if (type !== STATE) continue;
    const view = unpackedState(prepared, packed.map(String));
    if (view === undefined) throw new SetupError(`${recording.file}: its state is broken`);
    return { view, record };
  }
  throw new SetupError(
    `${recording.file}: is cut off, and without its end there is no state in it`,
  );
}

function unpackedState(prepared: Prepared, packed: readonly string[]): View | undefined {
  const layout = layoutOf(prepared.resolved.model);
  const [words, frames, pages] = packed.map(unpack);
  if (words?.length !== layout.words * 4 || frames === undefined || pages === undefined) {
    return undefined;
  }
  const memory = new MachineMemory(new ArrayBuffer(machineBytes(layout)));
  const indexes = new Int32Array(frames.slice().buffer);
  if (pages.length !== indexes.length * PAGE_SIZE) return undefined;
  for (const [i, frame] of indexes.entries()) {
    if (!(frame >= 0 && frame < layout.frames)) return undefined;
    memory.write(FrameIndex(frame), 0, pages, i * PAGE_SIZE, PAGE_SIZE);
  }
  return { layout, memory, words: new Int32Array(words.slice().buffer) };
}

function unpack(text: string): Uint8Array | undefined {
  try {
    return new Uint8Array(gunzipSync(Buffer.from(text, "base64")));
  } catch {
    return undefined;
  }
}
