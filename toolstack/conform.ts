/**
 * Replays recordings of a real Xen against this machine, in the one-thread engine, and counts the steps that agree.
 *
 *   const files = paths.map((path) => parseRecordings(path, readFileSync(path, "utf8")));
 *   const { families, disagreements } = conform(files, { env: "arm" });
 *
 * Rules: a fresh machine for each recording and environment; a step counts as supported only if it was carried out
 * through the channel and dispatch of a guest; the first unsupported step makes the rest of its recording
 * unsupported, since nothing after it starts from the recorded state.
 * Ours (design 8.1, 10.11).
 */
import {
  type Conformance,
  type Disagreement,
  type FamilyResult,
  type Fields,
  type RecordedScenario,
  type Recording,
  type RecordingFile,
  type Step,
  stepsOf,
  type Value,
} from "./conform-format.ts";
import { domidsOf } from "./conform-model.ts";
import type { Replay } from "./conform-replay.ts";
import { growTable, setUp } from "./conform-setup.ts";
import { expectedOf, replayStep, stepNotBuilt, whatOf } from "./conform-steps.ts";

export interface ConformOptions {
  /** Only environments whose name begins with this. */
  readonly env?: string;
}

/** Replays every recording of the files in each of its environments. */
export function conform(
  files: readonly RecordingFile[],
  options: ConformOptions = {},
): Conformance {
  const families = new Map<string, FamilyResult>();
  const disagreements: Disagreement[] = [];
  const missing = new Map<string, number>();
  for (const file of files) {
    for (const scenario of file.scenarios) {
      for (const recording of scenario.recordings) {
        for (const env of recording.env) {
          if (!env.startsWith(options.env ?? "")) continue;
          const family = familyOf(families, file.family, env);
          const played = playRecording(scenario, recording, env);
          family.scenarios++;
          family.steps += recording.steps.length;
          family.agree += played.agree;
          family.disagree += played.disagreements.length;
          family.unsupported += recording.steps.length - played.agree - played.disagreements.length;
          for (const one of played.disagreements) {
            disagreements.push({ family: file.family, env, scenario: scenario.name, ...one });
          }
          if (played.missing !== undefined) {
            missing.set(played.missing, (missing.get(played.missing) ?? 0) + 1);
          }
        }
      }
    }
  }
  return {
    families: [...families.values()],
    disagreements,
    missing: [...missing].map(([what, recordings]) => ({ what, recordings })),
  };
}

function familyOf(families: Map<string, FamilyResult>, name: string, env: string): FamilyResult {
  const key = `${name} ${env}`;
  const known = families.get(key);
  if (known !== undefined) return known;
  const family = { name, env, scenarios: 0, steps: 0, agree: 0, disagree: 0, unsupported: 0 };
  families.set(key, family);
  return family;
}

interface Played {
  agree: number;
  readonly disagreements: Omit<Disagreement, "family" | "env" | "scenario">[];
  /** Why the recording could not be played to its end. */
  missing: string | undefined;
}

function playRecording(scenario: RecordedScenario, recording: Recording, env: string): Played {
  const played: Played = { agree: 0, disagreements: [], missing: undefined };
  const domids = domidsOf(scenario, env);
  if (domids === undefined) {
    played.missing = `environment ${env}`;
    return played;
  }
  const steps = stepsOf(recording);
  let replay: Replay;
  try {
    replay = setUp(scenario, recording, env, domids);
  } catch (error) {
    // The machine never got to step 0: one disagreement, and nothing after it can be judged.
    const got = { error: reasonOf(error) };
    played.disagreements.push({ step: 0, what: "set-up", expected: {}, got });
    played.missing = "set-up";
    return played;
  }
  const started = new Set<string>();
  for (const step of steps) {
    played.missing = stepNotBuilt(step);
    if (played.missing !== undefined) break;
    if (step.by !== undefined && !started.has(step.by)) {
      started.add(step.by);
      growTable(replay, scenario, steps, step.by);
    }
    playStep(replay, step, played);
  }
  return played;
}

function playStep(replay: Replay, step: Step, played: Played): void {
  const expected = expectedOf(step);
  const got = carryOut(replay, step);
  if (isSame(expected, got)) played.agree++;
  else played.disagreements.push({ step: step.i, what: whatOf(step), expected, got });
}

/** A fault of the emulator is an answer like any other here: the recording goes on, and the step disagrees. */
function carryOut(replay: Replay, step: Step): Fields {
  try {
    return replayStep(replay, step);
  } catch (error) {
    return { error: reasonOf(error) };
  }
}

const reasonOf = (error: unknown): string =>
  error instanceof Error ? error.message : String(error);

/** Deep equality, without regard to the order of keys. */
function isSame(one: Value | undefined, other: Value | undefined): boolean {
  if (typeof one !== "object" || one === null) return one === other;
  if (typeof other !== "object" || other === null) return false;
  const mine = Object.entries(one);
  return (
    Array.isArray(one) === Array.isArray(other) &&
    mine.length === Object.keys(other).length &&
    mine.every(([key, value]) => isSame(value, (other as Fields)[key]))
  );
}
