/**
 * A scenario's parameters: which file stands behind the disk, how many bytes of it, and whatever else a story
 * lets a run choose. Rule: everything is checked before anything starts.
 * Ours.
 */
import { accessSync, constants, statSync } from "node:fs";
import { unknownName } from "../shared/nearest.ts";
import { type ParameterSpec, ScenarioError, type Value, type Values } from "../shared/scenario.ts";
import type { Setting } from "../shared/settings.ts";
import { checkCount, formatSize, parseSize } from "../shared/sizes.ts";
import { SetupError } from "./exit-codes.ts";

type Specs = Readonly<Record<string, ParameterSpec>>;

/** The parameter that names the file behind the disk, and the one that bounds how much of it is read. */
const FILE_PARAMETER = "disk";
const BYTES_PARAMETER = "bytes";

/** What a run gave: text from an option, or a value from `--set parameters.NAME=`. */
export const givenParameters = (settings: readonly Setting[]): ReadonlyMap<string, unknown> =>
  new Map(
    settings
      .filter((setting) => setting.path.startsWith("parameters."))
      .map((setting) => [setting.path.slice("parameters.".length), setting.value]),
  );

/** Values of every parameter, defaults filled in, each within its bounds and every file readable. */
export function parameterValues(specs: Specs, given: ReadonlyMap<string, unknown>): Values {
  const names = Object.keys(specs);
  for (const name of given.keys()) {
    if (!names.includes(name)) {
      throw new ScenarioError(`parameters.${name}`, unknownName("parameter", name, names));
    }
  }
  const values: Record<string, Value> = {};
  for (const [name, spec] of Object.entries(specs)) {
    const value = given.has(name) ? given.get(name) : defaultOf(name, spec);
    values[name] = checkParameter(`parameters.${name}`, spec, value);
  }
  return clipBytes(values, given.has(BYTES_PARAMETER));
}

function defaultOf(name: string, spec: ParameterSpec): string | number {
  if (spec.default !== undefined) return spec.default;
  if (spec.kind === "file") return process.execPath;
  throw new ScenarioError(`parameters.${name}`, "has no default; the run must choose");
}

function checkParameter(path: string, spec: ParameterSpec, value: unknown): Value {
  if (typeof value !== "string" && typeof value !== "number") {
    throw new ScenarioError(path, `${String(value)} is not a ${spec.kind}`);
  }
  switch (spec.kind) {
    case "file":
      return checkFile(String(value));
    case "size":
      return checkBounds(path, spec, parseSize(path, value));
    case "count":
      return checkBounds(path, spec, Number(value));
    case "word":
      return checkWord(path, spec, String(value));
  }
}

function checkBounds(path: string, spec: ParameterSpec, value: number): number {
  const min = spec.min ?? 0;
  const max = spec.max ?? Number.MAX_SAFE_INTEGER;
  if (spec.kind === "count") checkCount(path, value, min, max);
  else if (value < min || value > max) {
    const bounds = `${formatSize(min)} to ${formatSize(max)}`;
    throw new ScenarioError(path, `${formatSize(value)} is outside ${bounds}`);
  }
  return value;
}

function checkWord(path: string, spec: ParameterSpec, value: string): string {
  if (spec.values !== undefined && !spec.values.includes(value)) {
    throw new ScenarioError(path, unknownName("value", value, spec.values));
  }
  return value;
}

/** What is at a path; undefined: nothing. A path that cannot be followed (a loop, a closed folder) is refused. */
function statsOf(path: string): ReturnType<typeof statSync> {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new SetupError(`disk file ${path}: cannot be looked at (${code})`);
  }
}

/** A regular file with something in it that may be read. */
function checkFile(path: string): string {
  const stats = statsOf(path);
  if (stats === undefined) throw new SetupError(`disk file ${path}: no such file`);
  if (stats.isDirectory()) throw new SetupError(`disk file ${path}: is a directory`);
  if (!stats.isFile()) throw new SetupError(`disk file ${path}: is not a regular file`);
  if (stats.size === 0) throw new SetupError(`disk file ${path}: is empty`);
  try {
    accessSync(path, constants.R_OK);
  } catch {
    throw new SetupError(`disk file ${path}: cannot be read`);
  }
  return path;
}

/** A default of more bytes than the file has means the whole file; a person who asks for more is told. */
function clipBytes(values: Record<string, Value>, asked: boolean): Values {
  const path = values[FILE_PARAMETER];
  const bytes = values[BYTES_PARAMETER];
  if (typeof path !== "string" || typeof bytes !== "number") return values;
  const size = statSync(path).size;
  if (bytes <= size) return values;
  if (!asked) return { ...values, [BYTES_PARAMETER]: size };
  throw new ScenarioError(
    `parameters.${BYTES_PARAMETER}`,
    `${bytes} is more than the ${size} bytes of ${path}`,
  );
}

/** The host file behind a machine's disks; undefined: an empty medium. */
export const diskFileOf = (parameters: Values): string | undefined => {
  const path = parameters[FILE_PARAMETER];
  return typeof path === "string" ? path : undefined;
};
