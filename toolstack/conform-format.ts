/**
 * The recordings of a real Xen: their file format, and what a replay of them says.
 *
 * Rule: a step is kept as it stands in the file; whoever carries it out reads the fields that belong to it. What
 * is checked here is only the frame around the steps. Format: xen-recorded-vectors/1.
 */
import { z } from "zod";

/** A value of a step: a number, a symbol or a hexadecimal number as a string, or a structure of them. */
export type Value =
  | number
  | string
  | boolean
  | null
  | readonly Value[]
  | { readonly [key: string]: Value };
export type Fields = { readonly [key: string]: Value };

const symbol = z.looseObject({
  kind: z.string(),
  of: z.string().optional(),
  raw: z.number().optional(),
});
const recording = z.looseObject({
  env: z.array(z.string()),
  symbols: z.record(z.string(), symbol),
  steps: z.array(z.looseObject({ i: z.number() })),
});
const actor = z.looseObject({
  vcpus: z.number(),
  grant_frames_mapped: z.number(),
});
const scenario = z.looseObject({
  name: z.string(),
  domains: z.record(z.string(), actor),
  toolstack_limits: z.record(z.string(), z.number()).optional(),
  xsm: z.string().optional(),
  recordings: z.array(recording),
});
const file = z.looseObject({
  format: z.literal("xen-recorded-vectors/1"),
  family: z.string(),
  scenarios: z.array(scenario),
});

export type RecordingFile = z.infer<typeof file>;
export type RecordedScenario = z.infer<typeof scenario>;
export type Recording = z.infer<typeof recording>;

/** One step as the replayer sees it. */
export interface Step {
  readonly i: number;
  /** An actor, "bus", "observer", or nobody for what the toolstack does. */
  readonly by: string | undefined;
  readonly fields: Fields;
}

/** Reads one recording file; the error names the file and the field in one line. */
export function parseRecordings(name: string, text: string): RecordingFile {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new Error(`${name}: not a JSON file`);
  }
  const parsed = file.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const field = issue === undefined || issue.path.length === 0 ? "" : `${issue.path.join(".")}: `;
  throw new Error(`${name}: ${field}${issue?.message ?? "not a recording"}`);
}

/** The steps of a recording. */
export function stepsOf(recorded: Recording): readonly Step[] {
  return recorded.steps.map((fields) => ({
    i: fields.i,
    by: typeof fields.by === "string" ? fields.by : undefined,
    fields: fields as Fields,
  }));
}

/** Steps of one family in one environment. A step is unsupported when it, or one before it, is not built. */
export interface FamilyResult {
  readonly name: string;
  readonly env: string;
  scenarios: number;
  steps: number;
  agree: number;
  disagree: number;
  unsupported: number;
}

export interface Disagreement {
  readonly family: string;
  readonly env: string;
  readonly scenario: string;
  readonly step: number;
  /** What was done: the call and its command, or the action. */
  readonly what: string;
  readonly expected: Fields;
  readonly got: Fields;
}

export interface Conformance {
  readonly families: readonly FamilyResult[];
  readonly disagreements: readonly Disagreement[];
  /** First reason for which a recording could not go on, and how many recordings it ended. */
  readonly missing: readonly { readonly what: string; readonly recordings: number }[];
}
